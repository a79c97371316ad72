//! `cargo xtask soak cameras`: minutes of what users do all day.

use std::{
    io::{IsTerminal as _, Write as _},
    time::Duration,
};

use anyhow::Result;
use clap::Parser;
use tests_bench::cameras::soak::{LATENCY, LOSS, judge, soak};

/// RTSP cameras at 1 Mbit/s over TCP, each with a WHEP viewer that opens every packet; fails unless less than
/// 0.1 % is lost and 99 of 100 packets come within 100 ms.
#[derive(Parser)]
#[command(name = "soak cameras")]
struct Options {
    #[arg(long, default_value_t = 64)]
    cameras: u32,
    #[arg(long, default_value_t = 180)]
    seconds: u64,
}

fn main() -> Result<()> {
    let Options { cameras, seconds } = Options::parse();
    eprintln!("{cameras} cameras, a viewer each, {seconds} s");
    // On a terminal one line that counts, elsewhere a line for every half minute.
    let terminal = std::io::stderr().is_terminal();
    let mut said = 0;
    let measured = soak(cameras, Duration::from_secs(seconds), &mut |passed| {
        let now = passed.as_secs();
        if terminal {
            eprint!("\r{now:>4} of {seconds} s");
            let _ = std::io::stderr().flush();
        } else if now >= said + 30 {
            said = now;
            eprintln!("{now:>4} of {seconds} s");
        }
    })?;
    eprintln!("{}{seconds} s", if terminal { "\r" } else { "" });
    let lost = measured.lost.unwrap_or(measured.expected);
    println!("packets     {} expected, {lost} lost (less than {:.1} %)", measured.expected, 100.0 * LOSS);
    println!("opened      {} right, {} wrong", measured.right, measured.wrong);
    let [p50, p99, longest] = [0.5, 0.99, 1.0].map(|part| measured.latency(part).unwrap_or_default());
    println!("latency     p50 {p50:.1?}, p99 {p99:.1?} (less than {LATENCY:?}), longest {longest:.1?}");
    println!("the server  {:.1} % of a core, {:.1} MB", 100.0 * measured.server(), measured.megabytes());
    judge(&measured)
}
