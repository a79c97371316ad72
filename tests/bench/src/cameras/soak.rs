//! The users' checklist: so many cameras with a viewer each that opens every packet, for minutes.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests_kit::labelled::Shape;

use super::{
    field::{Field, Plan, Subject},
    run::{Measured, Times, measure},
};

/// Part of the packets that may be missing.
pub const LOSS: f64 = 0.001;
/// Within this time 99 of 100 packets must come.
pub const LATENCY: Duration = Duration::from_millis(100);

/// Lets `penstock serve` run with its defaults; `tick` gets the time that has passed.
///
/// # Errors
/// A packet was wrong, or is missing and no counter of the cameras, of the server or of an interface names it. Neither
/// depends on how fast or how busy the machine is.
pub fn soak(cameras: u32, length: Duration, tick: &mut dyn FnMut(Duration)) -> Result<Measured> {
    let subject = Subject::Penstock { config: "", transport: "tcp" };
    let shape = Shape::default();
    let plan = Plan { streams: cameras, viewers: 1, shape, opened: cameras, one_core: false, subject };
    let mut field = Field::new(&plan, &|_| ())?;
    let before = field.drops()?;
    let times = Times { warm_up: Duration::from_secs(1), measured: length, tail: Duration::ZERO };
    let measured = measure(&mut field, times, tick)?;
    let log = || field.server.log();
    ensure!(measured.wrong == 0, "{} packets are not what their camera sent: {measured:?}\n{}", measured.wrong, log());
    let after = field.drops()?;
    let named: u64 = after.iter().map(|(name, now)| now - before.get(name).unwrap_or(&0)).sum();
    let lost = measured.lost.unwrap_or(measured.expected);
    ensure!(measured.right > 0, "no viewer got anything: {measured:?}\n{}", log());
    ensure!(
        lost <= measured.left_out + named,
        "{lost} packets lost, {} left out by cameras, {named} named by counters ({after:?}): {measured:?}\n{}",
        measured.left_out,
        log()
    );
    Ok(measured)
}

/// What the checklist says of loss and latency: on a machine that has nothing else to do.
///
/// # Errors
/// Too many are missing, or they came too late.
pub fn judge(measured: &Measured) -> Result<()> {
    let loss = measured.loss().unwrap_or(1.0).max(measured.missing as f64 / measured.expected.max(1) as f64);
    ensure!(loss < LOSS, "{:.3} % lost: {measured:?}", 100.0 * loss);
    let p99 = measured.latency(0.99);
    ensure!(p99.is_some_and(|p99| p99 < LATENCY), "p99 {p99:?}: {measured:?}");
    Ok(())
}
