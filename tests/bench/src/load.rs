//! The load: packets that were sealed beforehand, so that no cryptography of ours is in the measured time.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use tests_engine::wire::Tap;
use tests_kit::frame::Frame;

use super::{
    case::Case,
    receivers::SentTimes,
    scene::{self, BEFORE_FIRST, GENERATOR_MAC, HEADER, SERVER_IN_MAC},
};

/// Shortest sleep. What becomes due meanwhile is sent together.
const TICK: Duration = Duration::from_millis(1);
/// A generator that is later than this did not produce the rate it was asked for.
pub const LATE: Duration = Duration::from_millis(20);

/// Frames in the order in which they are due.
pub struct Load {
    case: Case,
    length: Duration,
    frames: Vec<u8>,
    frame_len: usize,
}

/// What was sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sent {
    pub packets: u64,
    /// Longest delay of a packet behind its time.
    pub late: Duration,
}

impl Load {
    /// Seals everything that `case` sends in `length`.
    pub fn seal(case: &Case, length: Duration) -> Self {
        let mut load = Self { case: *case, length, frames: Vec::new(), frame_len: 0 };
        let keys: Vec<_> = (0..case.streams).map(scene::publisher_key).collect();
        let mut packet = scene::blank(case.payload);
        for (_, stream, number) in case.schedule(length) {
            let index = BEFORE_FIRST + 1 + number;
            scene::stamp(&mut packet, stream, scene::publisher_ssrc(stream), index);
            let (header, payload) = packet.split_at(HEADER);
            let sealed = keys[stream as usize].seal(header, payload, index);
            let mut frame = Frame::new(scene::publisher(stream), scene::locals()[0], sealed);
            (frame.destination_mac, frame.source_mac) = (SERVER_IN_MAC, GENERATOR_MAC);
            let frame = frame.build();
            load.frame_len = frame.len();
            load.frames.extend(frame);
        }
        load
    }

    /// Sends everything from the calling thread, which must be in the generator's namespace.
    ///
    /// # Errors
    /// As the socket says.
    pub fn send(&self, interface: u32, times: &SentTimes) -> Result<Sent> {
        let tap = Tap::sender(interface)?;
        precise_timers();
        let mut frames = self.frames.chunks_exact(self.frame_len.max(1));
        keep_time(self.case.schedule(self.length), |stream, number| {
            if let Some(frame) = frames.next() {
                times.note(stream, BEFORE_FIRST + 1 + number);
                tap.send(frame)?;
            }
            Ok(())
        })
    }
}

/// Sleeps until a packet is due, [`TICK`] at least, and says which ones are due then.
struct Clock {
    start: Instant,
    woken: Duration,
    late: Duration,
}

impl Clock {
    fn start() -> Self {
        Self { start: Instant::now(), woken: Duration::ZERO, late: Duration::ZERO }
    }

    fn is_due(&self, due: Duration) -> bool {
        due <= self.woken
    }

    fn sleep_until(&mut self, due: Duration) {
        let wake = due.max(self.woken + TICK);
        thread::sleep(wake.saturating_sub(self.start.elapsed()));
        self.woken = self.start.elapsed().max(wake);
    }

    fn note(&mut self, due: Duration) {
        self.late = self.late.max(self.start.elapsed().saturating_sub(due));
    }
}

/// Calls `send` for every packet when it is due. What is due at once is sent in a row.
///
/// # Errors
/// As `send`.
fn keep_time(
    schedule: impl Iterator<Item = (Duration, u32, u64)>,
    mut send: impl FnMut(u32, u64) -> Result<()>,
) -> Result<Sent> {
    let mut clock = Clock::start();
    let mut packets = 0;
    for (due, stream, number) in schedule {
        if !clock.is_due(due) {
            clock.sleep_until(due);
        }
        clock.note(due);
        send(stream, number)?;
        packets += 1;
    }
    Ok(Sent { packets, late: clock.late })
}

/// Calls `push` for every packet when it is due, and `flush` behind all that are due at once. The longest
/// delay of a packet behind its time.
pub fn keep_time_in_batches<T>(
    schedule: impl Iterator<Item = (Duration, u32, u64)>,
    sink: &mut T,
    mut push: impl FnMut(&mut T, u32, u64),
    mut flush: impl FnMut(&mut T, u64),
) -> Duration {
    let mut clock = Clock::start();
    let mut waiting = 0;
    for (due, stream, number) in schedule {
        if !clock.is_due(due) {
            flush(sink, std::mem::take(&mut waiting));
            clock.sleep_until(due);
        }
        clock.note(due);
        push(sink, stream, number);
        waiting += 1;
    }
    flush(sink, waiting);
    clock.late
}

/// The kernel may wake a thread up to 50 µs late to save power; not this one.
pub fn precise_timers() {
    // SAFETY: no memory; affects the calling thread only.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000) };
}

/// Keeps the calling thread on one CPU.
pub fn stay_on(cpu: usize) {
    // SAFETY: all zeros is an empty set, and the set outlives the calls; affects the calling thread only.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set);
    }
}
