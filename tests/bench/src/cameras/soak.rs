//! The users' checklist: so many cameras with a viewer each that opens every packet, for minutes.

use std::time::Duration;

use anyhow::{Result, ensure};

use tests_kit::labelled::Shape;

use super::{
    field::{Field, Plan, Subject},
    run::{Measured, measure},
};

/// Part of the packets that may be missing.
pub const LOSS: f64 = 0.001;
/// Within this time 99 of 100 packets must come.
pub const LATENCY: Duration = Duration::from_millis(100);
/// Before anything is judged.
const WARM_UP: Duration = Duration::from_secs(1);

/// Lets `penstock serve` run with its defaults; `tick` gets the time that has passed.
///
/// # Errors
/// A packet was wrong, too many are missing, they came too late, or the load was not what it should be.
pub fn soak(cameras: u32, length: Duration, tick: &mut dyn FnMut(Duration)) -> Result<Measured> {
    let subject = Subject::Penstock { config: "", transport: "tcp" };
    let shape = Shape::default();
    let plan = Plan { streams: cameras, viewers: 1, shape, opened: cameras, one_core: false, subject };
    let mut field = Field::new(&plan, &|_| ())?;
    std::thread::sleep(WARM_UP);
    let measured = measure(&mut field, length, tick)?;
    // A server that stops reading, and a generator that stops sending, lose nothing.
    let wanted = shape.rate * measured.seconds * f64::from(cameras);
    let log = || field.server.log();
    ensure!(measured.expected as f64 > 0.95 * wanted, "{} packets of {wanted:.0}: {measured:?}", measured.expected);
    ensure!(measured.wrong == 0, "{} packets are not what their camera sent: {measured:?}\n{}", measured.wrong, log());
    let loss = measured.loss().max(measured.missing as f64 / measured.expected as f64);
    ensure!(loss < LOSS && measured.left_out == 0, "{:.3} % lost: {measured:?}\n{}", 100.0 * loss, log());
    ensure!(measured.p99 < LATENCY, "p99 {:?}: {measured:?}", measured.p99);
    Ok(measured)
}
