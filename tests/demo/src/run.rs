//! From the networks to the verdict: real processes, real ICE and DTLS, a real clip, and every frame compared.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use tests_kit::{
    clip::Clip,
    peer::{self, Publisher, Source, Viewers},
    server,
    stage::{Layout, Stage},
};

use crate::{
    judge,
    machine::Cpu,
    meter::Meter,
    table::{Sample, Table},
};

/// Time between two samples.
const INTERVAL: Duration = Duration::from_millis(500);

/// Longest wait for the publisher's ICE and DTLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// Command line of the demo.
#[derive(Debug, clap::Parser)]
#[command(name = "demo", about = "One publisher, many viewers, and Penstock in between")]
pub struct Options {
    /// Viewers.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=200))]
    viewers: u32,
    /// Seconds to play once all viewers have joined.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Stay afterwards, until Ctrl-C, and say how to look at it.
    #[arg(long)]
    keep: bool,
    /// What moves the media. With `userspace` the server runs as an ordinary user, without any right and without XDP.
    #[arg(long, value_enum, default_value_t = Engine::Auto)]
    engine: Engine,
}

/// `media.engine` of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    Auto,
    Kernel,
    Userspace,
}

/// Set by Ctrl-C.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Runs the demo; whether every viewer got every frame.
///
/// # Errors
/// When something cannot be started.
pub fn run(options: &Options) -> Result<bool> {
    on_interrupt();
    let clip = Clip::load(&Clip::directory())?;
    println!("Three network namespaces, two veth pairs: publisher ── server ── viewers");
    let stage = start(options.engine)?;
    let source = Source::Clip(clip);
    let publisher = publish(&stage, source.clone())?;
    let meter = match options.engine {
        Engine::Userspace => Meter::Api(&stage.server),
        Engine::Auto | Engine::Kernel => Meter::open(&stage.server.pins())?,
    };
    let url = format!("{}/demo/whep", stage.viewing_origin());
    let mut viewers = Viewers::start(&url, 0, source, peer::Options::within(stage.viewers().name()))?;
    let mut watch = Watch::new(meter, options.viewers as usize)?;
    println!("publisher connected; {} viewers join, then {} s of play\n", options.viewers, options.seconds);

    for _ in 0..options.viewers {
        viewers.join()?;
        watch.tick(&viewers)?;
        if interrupted() {
            break;
        }
    }
    let start = judge::Mark::take(&publisher, &viewers);
    let deadline = Instant::now() + Duration::from_secs(options.seconds);
    while Instant::now() < deadline && !interrupted() {
        thread::sleep(Duration::from_millis(50));
        watch.tick(&viewers)?;
    }
    watch.table.clear();
    let ok = if interrupted() {
        println!("interrupted");
        false
    } else {
        let counters = watch.meter.counters()?;
        judge::summary(&start, &judge::Mark::take(&publisher, &viewers), &counters)
    };
    if options.keep && !interrupted() {
        stay(&stage, &viewers, &mut watch)?;
    }
    println!("closing the sessions and removing the networks");
    let closed = viewers.stop().and_then(|_| publisher.stop());
    // Ctrl-C reaches the server too: it may be gone already.
    if !interrupted() {
        closed?;
    }
    Ok(ok)
}

/// publisher ── server ── viewers: with XDP on both interfaces, or as an ordinary user.
fn start(engine: Engine) -> Result<Stage> {
    match engine {
        Engine::Auto => Stage::new(Layout::TwoNics, "native", ""),
        Engine::Kernel => Stage::new(Layout::TwoNics, "native", "[media]\nengine = \"kernel\"\n"),
        Engine::Userspace => Stage::unprivileged(Layout::TwoNics, "[media]\nengine = \"userspace\"\n"),
    }
}

fn publish(stage: &Stage, source: Source) -> Result<Publisher> {
    let url = format!("{}/demo/whip", stage.publishing_origin());
    let publisher = Publisher::start(&url, source, peer::Options::within(stage.near.name()))?;
    let deadline = Instant::now() + CONNECT_TIMEOUT;
    while publisher.stats().connected.is_none() {
        let failure = publisher.stats().failed;
        ensure!(failure.is_none(), "the publisher failed: {}", failure.unwrap_or_default());
        ensure!(Instant::now() < deadline, "the publisher does not connect; the server's log:\n{}", stage.server.log());
        thread::sleep(Duration::from_millis(20));
    }
    Ok(publisher)
}

/// Keeps everything running and says how to look at it.
fn stay(stage: &Stage, viewers: &Viewers, watch: &mut Watch<'_>) -> Result<()> {
    let penstock = server::binary()?;
    let (penstock, pins) = (penstock.display(), stage.server.pins());
    let pins = pins.display();
    let (server, viewer) = (stage.host.name(), stage.viewers().name());
    println!("\nIt goes on until Ctrl-C. From another terminal, as root:");
    if watch.in_kernel() {
        println!("  what the kernel's maps say");
        println!("    {penstock} streams  --pin-dir {pins}");
        println!("    {penstock} sessions --pin-dir {pins}");
        println!("    {penstock} maps     --pin-dir {pins}");
        println!("    bpftool map dump pinned {pins}/COUNTERS");
        println!("  where the programs are attached");
        println!("    nsenter --net=/run/netns/{server} bpftool net show");
    }
    println!("  the server's API, and its player in a browser");
    println!("    nsenter --net=/run/netns/{server} curl -s {}/api/v1/state", stage.viewing_origin());
    println!(
        "    nsenter --net=/run/netns/{viewer} chromium --no-sandbox --user-data-dir=$(mktemp -d) {}/demo\n",
        stage.viewing_origin()
    );
    while !interrupted() {
        thread::sleep(Duration::from_millis(50));
        watch.tick(viewers)?;
    }
    watch.table.clear();
    Ok(())
}

/// Takes a sample every [`INTERVAL`].
struct Watch<'a> {
    meter: Meter<'a>,
    table: Table,
    cpu: Cpu,
    last: Instant,
}

impl<'a> Watch<'a> {
    fn new(meter: Meter<'a>, wanted: usize) -> Result<Self> {
        Ok(Self { meter, table: Table::new(wanted), cpu: Cpu::read()?, last: Instant::now() })
    }

    /// Whether the server has the kernel engine, and with it pinned maps.
    fn in_kernel(&self) -> bool {
        matches!(self.meter, Meter::Maps { .. })
    }

    fn tick(&mut self, viewers: &Viewers) -> Result<()> {
        if self.last.elapsed() < INTERVAL {
            return Ok(());
        }
        self.last = Instant::now();
        let cpu = Cpu::read()?;
        let load = cpu.since(std::mem::replace(&mut self.cpu, cpu));
        let sample = Sample {
            at: self.last,
            engine: self.meter.engine()?,
            counters: self.meter.counters()?,
            viewers: viewers.stats(),
        };
        self.table.show(sample, load);
        Ok(())
    }
}

fn interrupted() -> bool {
    INTERRUPTED.load(Ordering::Relaxed)
}

/// Ctrl-C ends the demo in order: destructors remove namespaces, processes and mounts.
fn on_interrupt() {
    extern "C" fn note(_signal: libc::c_int) {
        INTERRUPTED.store(true, Ordering::Relaxed);
    }
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
        unsafe { libc::signal(signal, note as extern "C" fn(libc::c_int) as libc::sighandler_t) };
    }
}
