//! `cargo xtask load cameras`: any number of RTSP cameras on one port, for whichever server.

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _},
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
    time::Duration,
};

use anyhow::Result;
use clap::Parser;
use tests_bench::{cameras::Generator, cameras::Progress};
use tests_kit::labelled::Shape;

/// Cameras that send 1 Mbit/s each by RTSP, in the same TCP connection or by UDP as the client asks:
/// rtsp://ADDRESS/cam0, cam1, … Four packets of 1,100 bytes 27.5 times a second, the cameras spread evenly over
/// the time. What they send has the form of H.264, but is no picture.
#[derive(Parser)]
#[command(name = "load cameras")]
struct Options {
    /// How many.
    #[arg(long, default_value_t = 64)]
    cameras: u32,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8554")]
    listen: SocketAddr,
    /// Bytes of each packet's payload.
    #[arg(long, default_value_t = Shape::default().payload)]
    payload: usize,
    /// Packets per second of each camera.
    #[arg(long, default_value_t = Shape::default().rate)]
    rate: f64,
    /// Packets that leave together, as those of a frame.
    #[arg(long, default_value_t = Shape::default().burst)]
    burst: u32,
    /// Answers each line on standard input with a line of JSON, and ends with its input. `pause` and `go` stop the
    /// cameras and let them go on, `due` asks what each had to send; any other line asks for the sums.
    #[arg(long)]
    driven: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let shape = Shape { payload: options.payload, rate: options.rate, burst: options.burst };
    let generator = Generator::bind(options.listen, options.cameras, shape)?;
    let progress = generator.progress();
    if !options.driven {
        println!("rtsp://{}/cam0 to cam{}; Ctrl-C ends it", options.listen, options.cameras.saturating_sub(1));
    }
    thread::spawn(move || if options.driven { answer(&progress) } else { show(&progress, options.cameras) });
    generator.run(&AtomicBool::new(false))
}

fn answer(progress: &Progress) {
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match line.as_str() {
            "pause" => progress.paused.store(true, Relaxed),
            "go" => progress.paused.store(false, Relaxed),
            "due" => {
                let due: Vec<u64> = progress.due.iter().map(|due| due.load(Relaxed)).collect();
                println!(r#"{{"due":{due:?}}}"#);
                continue;
            }
            _ => {}
        }
        let Progress { playing, packets, left_out, late_us, .. } = progress;
        let (playing, packets, left_out) = (playing.load(Relaxed), packets.load(Relaxed), left_out.load(Relaxed));
        let late = late_us.swap(0, Relaxed);
        println!(r#"{{"playing":{playing},"packets":{packets},"left_out":{left_out},"late_us":{late}}}"#);
    }
    std::process::exit(0);
}

/// A bar on a terminal, a line every ten seconds elsewhere.
fn show(progress: &Progress, cameras: u32) {
    const WIDTH: u64 = 30;
    let terminal = std::io::stdout().is_terminal();
    let interval = Duration::from_secs(if terminal { 1 } else { 10 });
    let mut before = 0;
    loop {
        thread::sleep(interval);
        let (playing, packets) = (progress.playing.load(Relaxed), progress.packets.load(Relaxed));
        let rate = (packets - before) as f64 / interval.as_secs_f64();
        before = packets;
        let full = (playing * WIDTH / u64::from(cameras.max(1))).min(WIDTH) as usize;
        let bar = "#".repeat(full) + &".".repeat(WIDTH as usize - full);
        let late = Duration::from_micros(progress.late_us.swap(0, Relaxed));
        let left_out = progress.left_out.load(Relaxed);
        print!(
            "{}[{bar}] {playing} of {cameras} play, {rate:.0} packets/s, late {late:.1?}, packets left out {left_out}",
            if terminal { "\r" } else { "" }
        );
        print!("{}", if terminal { "\x1b[K" } else { "\n" });
        let _ = std::io::stdout().flush();
    }
}
