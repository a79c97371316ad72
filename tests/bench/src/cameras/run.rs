//! One measured run.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use tests_kit::labelled::watch;

use super::field::{Clocks, Field};
use crate::memory::Memory;

/// The phases of a run. The load flows through all of them, and loss is counted over all of them.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// Before CPU time and latency are measured.
    pub warm_up: Duration,
    pub measured: Duration,
    /// Behind that.
    pub tail: Duration,
}

/// What a run showed.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Each side in the measured time, in cores.
    pub cores: Clocks,
    /// The kernel's part of the server's work is in them.
    pub apart: bool,
    pub memory: Memory,
    /// Packets of media that came to all viewers, per second of the measured time.
    pub rate: f64,
    /// Of all viewers and all phases: copies of what was sent.
    pub expected: u64,
    /// Of these, the ones that did not come. `None`: nobody knows, since what came are packets of the server's own.
    pub lost: Option<u64>,
    /// Opened packets of all phases: right, wrong, and numbers that were left out.
    pub right: u64,
    pub wrong: u64,
    pub missing: u64,
    /// Of the opened packets of the measured time, from the camera's write to the viewer's program, in µs, the
    /// shortest first. Empty: the server sends packets of its own, which do not say when they were sent.
    pub delays: Vec<u32>,
    /// Packets that cameras left out because the server did not take them. They count as sent and lost.
    pub left_out: u64,
    /// Longest delay of a frame behind its time.
    pub late: Duration,
}

impl Measured {
    /// What the server costs the machine, in cores.
    pub fn server(&self) -> f64 {
        self.cores.process + self.cores.receiving + self.cores.ksoftirqd
    }

    /// That for each packet that came, in ns. `None`: none came that are the load's.
    pub fn ns_per_packet(&self) -> Option<f64> {
        (self.lost.is_some() && self.rate > 0.0).then(|| self.server() * 1e9 / self.rate)
    }

    /// Process and BPF maps, in MB.
    pub fn megabytes(&self) -> f64 {
        (self.memory.process + self.memory.maps) as f64 / 1e6
    }

    /// Part of all packets that did not come. `None`: not known.
    pub fn loss(&self) -> Option<f64> {
        Some(self.lost? as f64 / self.expected.max(1) as f64)
    }

    /// The time within which this part of the opened packets came. `None`: not known.
    pub fn latency(&self, part: f64) -> Option<Duration> {
        watch::quantile(&self.delays, part)
    }

    /// Adds what viewers have seen since the last call.
    fn look(&mut self, field: &Field) -> Vec<u32> {
        let mut delays = vec![];
        for watch in field.watches.iter().flatten() {
            let seen = watch.take();
            self.right += seen.right;
            self.wrong += seen.wrong;
            self.missing += seen.lost;
            delays.extend(seen.delays);
        }
        delays
    }
}

/// Lets everything run for a while, and looks at what it did. `tick` is called now and then with the measured time
/// that has passed.
///
/// # Errors
/// When load or server have gone.
pub fn measure(field: &mut Field, times: Times, tick: &mut dyn FnMut(Duration)) -> Result<Measured> {
    // Nothing is on its way at either end of the run, so that what was sent and what came can be compared.
    let before = field.rest()?;
    field.watches.iter().flatten().for_each(|watch| drop(watch.take()));
    let load = field.feed.ask()?;
    let mut measured = Measured { apart: field.is_apart(), ..Measured::default() };
    field.go_on()?;
    thread::sleep(times.warm_up);
    measured.look(field);
    let sum = |field: &Field| Ok::<u64, anyhow::Error>(field.arrived()?.iter().sum());
    let (arrived, clocks, start) = (sum(field)?, field.clocks()?, Instant::now());
    while start.elapsed() < times.measured {
        tick(start.elapsed());
        thread::sleep(Duration::from_millis(500).min(times.measured.saturating_sub(start.elapsed())));
    }
    let (seconds, now) = (start.elapsed().as_secs_f64(), field.clocks()?);
    measured.cores = Clocks {
        process: (now.process - clocks.process) / seconds,
        receiving: (now.receiving - clocks.receiving) / seconds,
        ksoftirqd: (now.ksoftirqd - clocks.ksoftirqd) / seconds,
        generator: (now.generator - clocks.generator) / seconds,
        viewers: (now.viewers - clocks.viewers) / seconds,
    };
    measured.rate = (sum(field)? - arrived) as f64 / seconds;
    measured.memory = field.memory()?;
    measured.delays = measured.look(field);
    measured.delays.sort_unstable();
    thread::sleep(times.tail);
    let (expected, lost) = field.rest()?.since(&before, field.viewers_each);
    measured.look(field);
    let own_packets = measured.wrong > 0 && measured.right == 0;
    (measured.expected, measured.lost) = (expected, (!own_packets).then_some(lost));
    let after = field.feed.ask()?;
    (measured.left_out, measured.late) = (after.left_out - load.left_out, after.late);
    Ok(measured)
}
