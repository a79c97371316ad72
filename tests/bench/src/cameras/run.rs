//! One measured run.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use tests_kit::labelled::watch;

use super::field::{Clocks, Field};
use crate::memory::Memory;

/// What a run showed.
#[derive(Clone, Debug)]
pub struct Measured {
    pub seconds: f64,
    /// Each side, in cores.
    pub cores: Clocks,
    /// The kernel's part of the server's work is in them.
    pub apart: bool,
    pub memory: Memory,
    /// Of all viewers: packets that should have come in the measured time, and those that did not.
    pub expected: u64,
    pub lost: u64,
    /// Opened packets: right, wrong, and numbers that were left out.
    pub right: u64,
    pub wrong: u64,
    pub missing: u64,
    /// Of the opened packets, from the camera's write to the viewer's program, in µs, the shortest first.
    pub delays: Vec<u32>,
    /// Of these.
    pub p50: Duration,
    pub p99: Duration,
    pub longest: Duration,
    /// Frames that cameras left out because the server did not read.
    pub left_out: u64,
    /// Longest delay of a frame behind its time.
    pub late: Duration,
}

impl Measured {
    /// What the server costs the machine, in cores.
    pub fn server(&self) -> f64 {
        self.cores.process + self.cores.receiving + self.cores.ksoftirqd
    }

    /// Process and BPF maps, in MB.
    pub fn megabytes(&self) -> f64 {
        (self.memory.process + self.memory.maps) as f64 / 1e6
    }

    /// Part of all packets that did not come.
    pub fn loss(&self) -> f64 {
        self.lost as f64 / self.expected.max(1) as f64
    }
}

/// Lets everything run for a while, and looks at what it did. `tick` is called now and then with the time
/// that has passed.
///
/// # Errors
/// When somebody has gone, or nothing came.
pub fn measure(field: &mut Field, length: Duration, tick: &mut dyn FnMut(Duration)) -> Result<Measured> {
    let load = field.feed.ask()?;
    field.watches.iter().flatten().for_each(|watch| drop(watch.take()));
    let (counts, clocks, start) = (field.counts()?, field.clocks()?, Instant::now());
    while start.elapsed() < length {
        tick(start.elapsed());
        thread::sleep(Duration::from_millis(500).min(length.saturating_sub(start.elapsed())));
    }
    let (seconds, now) = (start.elapsed().as_secs_f64(), field.clocks()?);
    let cores = Clocks {
        process: (now.process - clocks.process) / seconds,
        receiving: (now.receiving - clocks.receiving) / seconds,
        ksoftirqd: (now.ksoftirqd - clocks.ksoftirqd) / seconds,
        generator: (now.generator - clocks.generator) / seconds,
        viewers: (now.viewers - clocks.viewers) / seconds,
    };
    let mut measured = Measured {
        seconds,
        cores,
        apart: field.is_apart(),
        memory: field.memory()?,
        expected: 0,
        lost: 0,
        right: 0,
        wrong: 0,
        missing: 0,
        delays: vec![],
        p50: Duration::ZERO,
        p99: Duration::ZERO,
        longest: Duration::ZERO,
        left_out: 0,
        late: Duration::ZERO,
    };
    for (before, after) in counts.iter().zip(field.counts()?) {
        let expected = after.expected - before.expected;
        ensure!(expected > 0, "a viewer got nothing");
        measured.expected += expected;
        measured.lost += expected.saturating_sub(after.packets.saturating_sub(before.packets));
    }
    for watch in field.watches.iter().flatten() {
        let seen = watch.take();
        measured.right += seen.right;
        measured.wrong += seen.wrong;
        measured.missing += seen.lost;
        measured.delays.extend(seen.delays);
    }
    let mut quantile = |part| watch::quantile(&mut measured.delays, part).unwrap_or_default();
    let (p50, p99, longest) = (quantile(0.5), quantile(0.99), quantile(1.0));
    (measured.p50, measured.p99, measured.longest) = (p50, p99, longest);
    let after = field.feed.ask()?;
    (measured.left_out, measured.late) = (after.left_out - load.left_out, after.late);
    Ok(measured)
}
