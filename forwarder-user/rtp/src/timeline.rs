//! One continuous line of timestamps out of whatever a source does to its own.
//!
//! A camera that reboots or is connected to again starts with another SSRC, sequence number and
//! timestamp. What leaves here goes on as time went on, so that viewers stay attached.

use std::time::{Duration, Instant};

use forwarder_common::RtpHeader;

/// Sequence numbers that may be missing before it is taken for a new start (RFC 3550 §A.1).
const MAX_DROPOUT: i16 = 3000;
/// Packets may be so late that they are dropped; beyond, it is a new start.
const MAX_MISORDER: i16 = 100;
/// A timestamp may step ahead by this much although less time has passed: encoders that were idle.
const MAX_STEP: Duration = Duration::from_secs(10);

/// Where a packet stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Timestamp on the continuous line.
    pub timestamp: u32,
    /// Packets that are missing before this one.
    pub lost: u16,
    /// The source started anew: nothing before this packet helps to decode it.
    pub restarted: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Timeline {
    clock_rate: u32,
    last: Option<Last>,
    /// Outgoing minus incoming timestamp, wrapping.
    offset: u32,
    /// Whether `last` belongs to a connection that is gone.
    reconnected: bool,
}

/// The last packet.
#[derive(Clone, Copy, Debug)]
struct Last {
    ssrc: u32,
    seq: u16,
    timestamp: u32,
    arrived: Instant,
}

impl Timeline {
    /// `clock_rate` in Hz.
    pub(crate) fn new(clock_rate: u32) -> Self {
        Self { clock_rate, last: None, offset: 0, reconnected: false }
    }

    /// The next packet comes by a new connection.
    pub(crate) fn reconnect(&mut self) {
        self.reconnected = true;
    }

    /// Goes on where a line with the same clock rate stands.
    pub(crate) fn succeed(&mut self, former: &Self) {
        if former.clock_rate == self.clock_rate {
            (self.last, self.offset, self.reconnected) = (former.last, former.offset, true);
        }
    }

    /// Places a packet. `None`: a duplicate, or too late to be of use.
    pub(crate) fn accept(&mut self, header: &RtpHeader, now: Instant) -> Option<Step> {
        let timestamp = header.timestamp();
        let follows = match self.last {
            Some(last) if !self.reconnected && last.ssrc == header.ssrc() => {
                let ahead = header.seq().wrapping_sub(last.seq) as i16;
                if (-MAX_MISORDER..=0).contains(&ahead) {
                    return None;
                }
                let lost = (1..=MAX_DROPOUT).contains(&ahead).then(|| ahead as u16 - 1);
                lost.filter(|_| !self.jumped(timestamp, &last, now))
            }
            _ => None,
        };
        if follows.is_none() {
            self.rebase(timestamp, now);
        }
        self.reconnected = false;
        self.last = Some(Last { ssrc: header.ssrc(), seq: header.seq(), timestamp, arrived: now });
        Some(Step {
            timestamp: timestamp.wrapping_add(self.offset),
            lost: follows.unwrap_or(0),
            restarted: follows.is_none(),
        })
    }

    /// A timestamp of a sender report, on the continuous line. `None`: it is not of the present source.
    pub(crate) fn map(&self, ssrc: u32, timestamp: u32) -> Option<u32> {
        let current = self.last.is_some_and(|last| last.ssrc == ssrc) && !self.reconnected;
        current.then(|| timestamp.wrapping_add(self.offset))
    }

    /// Does the source's clock run on? B-frames step back a little, pauses step ahead as time does.
    fn jumped(&self, timestamp: u32, last: &Last, now: Instant) -> bool {
        let step = i64::from(timestamp.wrapping_sub(last.timestamp) as i32);
        let passed = self.units(now.saturating_duration_since(last.arrived));
        step < -i64::from(self.clock_rate) || step > self.units(MAX_STEP) + 2 * passed
    }

    fn rebase(&mut self, timestamp: u32, now: Instant) {
        let Some(last) = self.last else { return };
        let passed = self.units(now.saturating_duration_since(last.arrived)).max(1);
        let next = last.timestamp.wrapping_add(self.offset).wrapping_add(passed as u32);
        self.offset = next.wrapping_sub(timestamp);
    }

    fn units(&self, time: Duration) -> i64 {
        (time.as_nanos() * u128::from(self.clock_rate) / 1_000_000_000) as i64
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test begins at any time")]
mod tests {
    use super::*;
    use crate::testing::header;

    fn line() -> (Timeline, Instant) {
        (Timeline::new(90_000), Instant::now())
    }

    fn step(timestamp: u32, lost: u16, restarted: bool) -> Option<Step> {
        Some(Step { timestamp, lost, restarted })
    }

    #[test]
    fn packets_in_order_keep_their_timestamps_and_show_gaps() {
        let (mut line, now) = line();
        assert_eq!(line.accept(&header(1, 65_534, 1000, 0), now), step(1000, 0, true));
        assert_eq!(line.accept(&header(1, 65_535, 1000, 0), now), step(1000, 0, false));
        assert_eq!(line.accept(&header(1, 3, 4000, 0), now), step(4000, 3, false));
        assert_eq!(line.accept(&header(1, 3, 4000, 0), now), None, "duplicate");
        assert_eq!(line.accept(&header(1, 0, 4000, 0), now), None, "late");
        assert_eq!(line.map(1, 4500), Some(4500));
        assert_eq!(line.map(2, 4500), None);
    }

    #[test]
    fn a_reboot_goes_on_as_time_went_on() {
        let (mut line, now) = line();
        line.accept(&header(1, 10, u32::MAX - 100, 0), now);
        let later = now + Duration::from_secs(2);
        let out = (u32::MAX - 100).wrapping_add(180_000);
        assert_eq!(line.accept(&header(9, 5000, 77, 0), later), step(out, 0, true));
        assert_eq!(line.accept(&header(9, 5001, 177, 0), later), step(out.wrapping_add(100), 0, false));
        assert_eq!(line.map(9, 277), Some(out.wrapping_add(200)));
    }

    #[test]
    fn a_new_connection_restarts_even_the_same_source() {
        let (mut line, now) = line();
        line.accept(&header(1, 10, 1000, 0), now);
        line.reconnect();
        assert_eq!(line.map(1, 1000), None);
        assert_eq!(line.accept(&header(1, 11, 500, 0), now + Duration::from_secs(1)), step(91_000, 0, true));
    }

    #[test]
    fn jumps_of_sequence_and_clock_are_restarts() {
        let (mut line, now) = line();
        line.accept(&header(1, 10_000, 1_000_000, 0), now);
        assert!(line.accept(&header(1, 20_000, 1_003_000, 0), now).unwrap().restarted, "sequence");
        assert!(line.accept(&header(1, 20_001, 500_000, 0), now).unwrap().restarted, "clock back");
        assert!(line.accept(&header(1, 20_002, 3_500_000, 0), now).unwrap().restarted, "clock ahead");
        assert!(!line.accept(&header(1, 20_003, 3_497_000, 0), now).unwrap().restarted, "a B-frame");
        let later = now + Duration::from_secs(60);
        assert!(!line.accept(&header(1, 20_004, 3_500_000, 0), later).unwrap().restarted, "a stall");
        let idle = later + Duration::from_secs(60);
        assert!(!line.accept(&header(1, 20_005, 8_900_000, 0), idle).unwrap().restarted, "a pause");
    }
}
