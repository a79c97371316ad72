//! `cargo xtask bench join`: many viewers join one stream in a few seconds.

use std::time::Duration;

use anyhow::Result;
use clap::Parser;
use tests_bench::join::{Plan, Report, run};

/// A publisher, ten viewers, and then all the others at once; the publisher goes away and comes back. Peers and server
/// share the machine, so a peer's part of each handshake is in the times.
#[derive(Parser)]
#[command(name = "bench join")]
struct Options {
    /// Viewers that join.
    #[arg(long, default_value_t = 1000)]
    viewers: usize,
    /// Seconds in which they come, evenly.
    #[arg(long, default_value_t = 5.0)]
    within: f64,
    /// Threads that join and live them.
    #[arg(long, default_value_t = 4)]
    threads: usize,
    /// Seconds that the publisher is away.
    #[arg(long, default_value_t = 10.0)]
    away: f64,
    /// Seconds that all stay afterwards, e.g. 600.
    #[arg(long, default_value_t = 0.0)]
    stay: f64,
}

fn main() -> Result<()> {
    let Options { viewers, within, threads, away, stay } = Options::parse();
    let seconds = Duration::from_secs_f64;
    let plan = Plan { viewers, within: seconds(within), threads, away: seconds(away), stay: seconds(stay) };
    print(&plan, &run(plan)?);
    Ok(())
}

fn print(plan: &Plan, report: &Report) {
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let viewers = plan.viewers as u32;
    // What the machine cannot be faster than: all handshakes, on all processors.
    let least = (report.cost.1 * viewers / cores as u32).max(plan.within);
    println!("{viewers} viewers in {:.1} s, {cores} processors", plan.within.as_secs_f64());
    println!("a viewer costs the server {}, and with its peer {}", ms(report.cost.0), ms(report.cost.1));
    println!(
        "so all have a picture after {:.1} s at the earliest: {:.1} s",
        least.as_secs_f64(),
        report.all.as_secs_f64()
    );
    let spread = |what: &str, spread: &tests_bench::join::Spread| {
        println!("{what}: median {}, p99 {}, longest {}", ms(spread.median), ms(spread.p99), ms(spread.longest));
    };
    spread("POST to first picture", &report.first_picture);
    println!("longest pause of the control task: {} (with HTTP around it)", ms(report.pause));
    println!("lost by earlier viewers: {}", report.lost);
    println!("keyframes asked for: {}", report.keyframes);
    let mb = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let each = report.memory.1.saturating_sub(report.memory.0) as f64 / f64::from(viewers) / 1024.0;
    println!(
        "memory: {:.1} MiB before, {:.1} MiB with all, {each:.1} KiB each",
        mb(report.memory.0),
        mb(report.memory.1)
    );
    spread(&format!("publisher back after {:.0} s, to next picture", plan.away.as_secs_f64()), &report.again);
    println!("keyframes asked for then: {}", report.keyframes_again);
    if !plan.stay.is_zero() {
        println!("sessions that ended in {:.0} s: {}", plan.stay.as_secs_f64(), report.ended);
    }
}
