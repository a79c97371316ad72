//! The live table: redrawn in place on a terminal, a line now and then elsewhere.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use forwarder_common::{Counter, counter::Kind};
use tests_kit::peer::Stats;

use crate::{machine::Load, meter::Counters};

/// How often a line is printed where there is no terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

/// What is known at one moment.
#[derive(Clone, Debug)]
pub struct Sample {
    pub at: Instant,
    pub engine: String,
    pub counters: Counters,
    pub viewers: Vec<Stats>,
}

/// Sums over viewers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Received {
    pub connected: usize,
    pub packets: u64,
    pub bytes: u64,
    pub lost: u64,
    pub video_frames: u64,
    pub audio_frames: u64,
    pub wrong: u64,
}

impl Received {
    /// Of all viewers.
    pub fn sum(viewers: &[Stats]) -> Self {
        viewers.iter().fold(Self::default(), |sum, viewer| Self {
            connected: sum.connected + usize::from(viewer.connected.is_some()),
            packets: sum.packets + viewer.video.packets + viewer.audio.packets,
            bytes: sum.bytes + viewer.video.bytes + viewer.audio.bytes,
            lost: sum.lost + viewer.video.lost + viewer.audio.lost,
            video_frames: sum.video_frames + viewer.video.verified,
            audio_frames: sum.audio_frames + viewer.audio.verified,
            wrong: sum.wrong + viewer.video.mismatches + viewer.audio.mismatches,
        })
    }

    /// Lost packets in percent of those that should have come.
    pub fn loss(&self) -> f64 {
        100.0 * self.lost as f64 / (self.packets + self.lost).max(1) as f64
    }
}

/// Prints samples.
pub struct Table {
    wanted: usize,
    terminal: bool,
    drawn: usize,
    start: Instant,
    last_line: Option<Instant>,
    previous: Option<Sample>,
}

impl Table {
    /// For `wanted` viewers.
    pub fn new(wanted: usize) -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self { wanted, terminal, drawn: 0, start: Instant::now(), last_line: None, previous: None }
    }

    /// Shows a sample; rates are since the one before.
    pub fn show(&mut self, sample: Sample, load: Load) {
        if !self.terminal {
            if self.last_line.is_some_and(|last| last.elapsed() < LINE_INTERVAL) {
                return;
            }
            self.last_line = Some(sample.at);
        }
        let previous = self.previous.as_ref().unwrap_or(&sample);
        let lines = self.lines(previous, &sample, load);
        if self.terminal {
            self.clear();
            // Without wrapping: each line must stay one line for the next redraw.
            lines.iter().for_each(|(name, value)| println!("\x1b[?7l  {name:<10} {value}\x1b[?7h"));
            self.drawn = lines.len();
            // A terminal that is gone does not end the demo.
            let _ = std::io::stdout().flush();
        } else {
            let words: Vec<String> = lines.iter().map(|(name, value)| format!("{name} {value}")).collect();
            println!("{:>4.0} s  {}", self.start.elapsed().as_secs_f32(), words.join(" | "));
        }
        self.previous = Some(sample);
    }

    /// Removes the live lines, so that something else can be printed.
    pub fn clear(&mut self) {
        if self.drawn > 0 {
            print!("\x1b[{}A\x1b[J", self.drawn);
            self.drawn = 0;
        }
    }

    fn lines(&self, before: &Sample, now: &Sample, load: Load) -> Vec<(&'static str, String)> {
        let seconds = (now.at - before.at).as_secs_f64().max(0.001);
        let rate = |counter| {
            let (now, before) = (now.counters.get(counter), before.counters.get(counter));
            now.saturating_sub(before) as f64 / seconds
        };
        let megabits = |counter| rate(counter) * 8.0 / 1e6;
        let packets = |counter| format!("{:>10} packets {:>8.0} /s", now.counters.get(counter), rate(counter));
        let received = Received::sum(&now.viewers);
        vec![
            ("engine", now.engine.clone()),
            ("viewers", format!("{} of {} connected", received.connected, self.wanted)),
            ("opened", format!("{} {:>8.2} Mbit/s", packets(Counter::Opened), megabits(Counter::OpenedBytes))),
            ("sealed", format!("{} {:>8.2} Mbit/s", packets(Counter::Sealed), megabits(Counter::SealedBytes))),
            ("dropped", format!("{:>10} by the engine", now.counters.sum(Kind::Drop))),
            ("lost", format!("{:>10} of {} packets ({:.3} %)", received.lost, received.packets, received.loss())),
            (
                "frames",
                format!(
                    "{:>10} video, {} audio as in the clip, {} wrong",
                    received.video_frames, received.audio_frames, received.wrong
                ),
            ),
            ("CPU", format!("{:>9.0} % of the machine, softirq {:.0} %, peers included", load.busy, load.softirq)),
        ]
    }
}
