//! What a source's sequence numbers say: what is missing, what came twice, where it began anew.
//!
//! A network that loses and overtakes nothing (TCP) delivers what was sent in the order in which it was sent, whatever
//! its numbers say: there, only a gap in numbers that were right so far is a loss.

use std::time::{Duration, Instant};

use forwarder_common::RtpHeader;

use super::Unfit;

/// Sequence numbers that may be missing before it is taken for a new start (RFC 3550 §A.1).
const MAX_DROPOUT: i16 = 3000;
/// Packets may be so late that they are dropped; beyond, it is a new start.
const MAX_MISORDER: i16 = 100;
/// Gaps in a row after which numbers that come in order are counted in another way than by ones.
const MAX_GAPS: u8 = 4;
/// Whoever was left for another sender is not heard for so long after each of its packets.
const DEAF: Duration = Duration::from_secs(2);
/// Packets that are known again, if they come twice. A power of two.
const RECENT: usize = 16;
/// A timestamp so far from the newest one is of another clock: 10 s at 90 kHz.
const FAR: i32 = 900_000;

/// How a packet follows the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Packets that are missing before this one.
    pub lost: u32,
    /// Nothing before this packet helps to decode it.
    pub restarted: bool,
    /// Timestamps belong to another clock than before.
    pub other_clock: bool,
}

/// One packet, as far as its place is concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet<'a> {
    pub header: &'a RtpHeader,
    pub payload: &'a [u8],
    /// Of the payload type that was described. Others are counted, so that they are no hole.
    pub ours: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Sequence {
    /// Order of arrival is the order of sending.
    ordered: bool,
    last: Option<Last>,
    /// The newest timestamp.
    newest: u32,
    /// Found missing before a packet of another payload type.
    pending: u32,
    /// Numbers that come in order were wrong.
    suspect: bool,
    gaps: u8,
    /// The SSRC before this one, and when it was heard last.
    left: Option<(u32, Instant)>,
    recent: [u32; RECENT],
    at: u8,
    /// Whether `last` belongs to a connection that is gone.
    reconnected: bool,
}

#[derive(Clone, Copy, Debug)]
struct Last {
    ssrc: u32,
    seq: u16,
}

impl Sequence {
    pub(crate) fn new() -> Self {
        Self {
            ordered: false,
            last: None,
            newest: 0,
            pending: 0,
            suspect: false,
            gaps: 0,
            left: None,
            recent: [0; RECENT],
            at: 0,
            reconnected: false,
        }
    }

    /// The next packet comes by a new connection.
    pub(crate) fn reconnect(&mut self) {
        *self = Self { last: self.last, ordered: self.ordered, reconnected: true, ..Self::new() };
    }

    /// Whether what comes was sent in this order.
    pub(crate) fn set_ordered(&mut self, ordered: bool) {
        self.ordered = ordered;
    }

    /// Whether packets of this SSRC are the present source's.
    pub(crate) fn is_current(&self, ssrc: u32) -> bool {
        !self.reconnected && self.last.is_some_and(|last| last.ssrc == ssrc)
    }

    /// Places a packet.
    ///
    /// # Errors
    /// [`Unfit::PayloadType`], [`Unfit::Late`], [`Unfit::OtherSender`].
    pub(crate) fn accept(&mut self, packet: Packet<'_>, now: Instant) -> Result<Step, Unfit> {
        let header = packet.header;
        if !packet.ours {
            self.pass_over(header);
            return Err(Unfit::PayloadType);
        }
        let step = match self.last {
            Some(last) if !self.reconnected && last.ssrc == header.ssrc() => self.follow(last.seq, packet)?,
            Some(last) if !self.reconnected => self.change(last, header, now)?,
            _ => Step { lost: 0, restarted: true, other_clock: true },
        };
        self.reconnected = false;
        self.last = Some(Last { ssrc: header.ssrc(), seq: header.seq() });
        let ahead = header.timestamp().wrapping_sub(self.newest) as i32;
        if !(-FAR..=0).contains(&ahead) || step.other_clock {
            self.newest = header.timestamp();
        }
        self.remember(fingerprint(packet));
        Ok(Step { lost: step.lost + std::mem::take(&mut self.pending), ..step })
    }

    /// A packet of another payload type takes a number of ours, if it has our SSRC.
    fn pass_over(&mut self, header: &RtpHeader) {
        let Some(last) = self.last.as_mut().filter(|last| !self.reconnected && last.ssrc == header.ssrc()) else {
            return;
        };
        let ahead = header.seq().wrapping_sub(last.seq) as i16;
        if (1..=MAX_DROPOUT).contains(&ahead) {
            last.seq = header.seq();
            if !self.ordered || !self.suspect {
                self.pending += u32::from(ahead as u16 - 1);
            }
        }
    }

    /// The same SSRC as before.
    fn follow(&mut self, last: u16, packet: Packet<'_>) -> Result<Step, Unfit> {
        let mut step = Step { lost: 0, restarted: false, other_clock: false };
        let ahead = packet.header.seq().wrapping_sub(last) as i16;
        if ahead == 1 {
            self.gaps = 0;
            return Ok(step);
        }
        if (2..=MAX_DROPOUT).contains(&ahead) {
            self.gaps = self.gaps.saturating_add(1);
            self.suspect |= self.ordered && self.gaps >= MAX_GAPS;
            step.lost = if self.ordered && self.suspect { 0 } else { u32::from(ahead as u16 - 1) };
            return Ok(step);
        }
        if self.ordered {
            // Short ones are alike, and do no harm if they come twice.
            if packet.payload.len() >= 8 && self.recent.contains(&fingerprint(packet)) {
                return Err(Unfit::Late);
            }
            self.suspect = true;
            return Ok(step);
        }
        if (-MAX_MISORDER..=0).contains(&ahead) {
            // Whatever is late or doubled has a timestamp that is known; a number that began anew has not.
            let newer = packet.header.timestamp().wrapping_sub(self.newest) as i32;
            return if (1..FAR).contains(&newer) { Ok(step) } else { Err(Unfit::Late) };
        }
        step.restarted = true;
        Ok(step)
    }

    /// Another SSRC than before.
    fn change(&mut self, last: Last, header: &RtpHeader, now: Instant) -> Result<Step, Unfit> {
        if let Some((ssrc, at)) = &mut self.left
            && *ssrc == header.ssrc()
            && now.saturating_duration_since(*at) < DEAF
        {
            *at = now;
            return Err(Unfit::OtherSender);
        }
        self.left = Some((last.ssrc, now));
        let goes_on = header.seq() == last.seq.wrapping_add(1);
        Ok(Step { lost: 0, restarted: !self.ordered && !goes_on, other_clock: true })
    }

    fn remember(&mut self, fingerprint: u32) {
        if self.ordered {
            self.recent[usize::from(self.at) % RECENT] = fingerprint;
            self.at = self.at.wrapping_add(1);
        }
    }
}

/// Equal for a packet that comes again; of others, as good as never.
fn fingerprint(packet: Packet<'_>) -> u32 {
    const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
    let word = |bytes: Option<&[u8; 8]>| bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes));
    let place = u64::from(packet.header.timestamp()) << 32 | u64::from(packet.header.seq()) << 16;
    let mixed = (place ^ packet.payload.len() as u64).wrapping_mul(MIX) ^ word(packet.payload.first_chunk());
    let mixed = mixed.wrapping_mul(MIX) ^ word(packet.payload.last_chunk());
    // 0 is what was never heard.
    ((mixed.wrapping_mul(MIX) >> 32) as u32).max(1)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test begins at any time")]
mod tests {
    use super::*;
    use crate::testing::header;

    struct Bench {
        sequence: Sequence,
        now: Instant,
    }

    impl Bench {
        fn new(ordered: bool) -> Self {
            let mut sequence = Sequence::new();
            sequence.set_ordered(ordered);
            Self { sequence, now: Instant::now() }
        }

        fn accept(&mut self, ssrc: u32, seq: u16, timestamp: u32, payload: &[u8]) -> Result<Step, Unfit> {
            let header = header(ssrc, seq, timestamp, 96);
            self.sequence.accept(Packet { header: &header, payload, ours: true }, self.now)
        }

        fn lost(&mut self, seq: u16, timestamp: u32) -> Result<u32, Unfit> {
            self.accept(1, seq, timestamp, &seq.to_be_bytes()).map(|step| step.lost)
        }

        fn foreign(&mut self, ssrc: u32, seq: u16) {
            let header = header(ssrc, seq, 0, 13);
            let packet = Packet { header: &header, payload: &[], ours: false };
            assert_eq!(self.sequence.accept(packet, self.now), Err(Unfit::PayloadType));
        }
    }

    #[test]
    fn gaps_are_losses_and_what_is_late_is_named() {
        let mut bench = Bench::new(false);
        assert!(bench.accept(1, 65_534, 1000, &[]).unwrap().restarted);
        assert_eq!(bench.lost(65_535, 1000), Ok(0));
        assert_eq!(bench.lost(3, 4000), Ok(3));
        assert_eq!(bench.lost(3, 4000), Err(Unfit::Late), "doubled");
        assert_eq!(bench.lost(0, 1000), Err(Unfit::Late));
        assert!(bench.accept(1, 20_000, 7000, &[]).unwrap().restarted, "a jump");
    }

    #[test]
    fn other_payload_types_take_numbers_and_are_no_hole() {
        for ordered in [false, true] {
            let mut bench = Bench::new(ordered);
            bench.lost(1, 0).unwrap();
            bench.foreign(1, 2);
            bench.foreign(9, 700);
            assert_eq!(bench.lost(3, 3000), Ok(0));
            bench.foreign(1, 5);
            assert_eq!(bench.lost(7, 3000), Ok(2), "4 and 6 are missing");
        }
    }

    #[test]
    fn in_a_network_that_keeps_order_numbers_may_begin_anew_and_stand_still() {
        let mut bench = Bench::new(true);
        let numbers = [5, 6, 7, 0, 1, 2, 0, 1, 9000, 40_000, 40_000, 40_000];
        for (frame, seq) in numbers.into_iter().enumerate() {
            let step = bench.accept(1, seq, 3000 * frame as u32, &[frame as u8; 9]).unwrap();
            assert_eq!((step.lost, step.restarted), (0, frame == 0), "{seq}");
        }
        assert_eq!(bench.accept(1, 40_000, 33_000, &[11; 9]), Err(Unfit::Late), "the same packet again");
        assert_eq!(bench.accept(1, 40_000, 33_000, &[12; 9]).unwrap().lost, 0, "another of the same frame");
        let mut bench = Bench::new(true);
        bench.lost(1, 0).unwrap();
        assert_eq!(bench.lost(4, 3000), Ok(2), "numbers that were right say what the camera itself has dropped");
        let mut bench = Bench::new(true);
        let lost: Vec<u32> = (0..10).map(|n| bench.lost(2 * n, 3000 * u32::from(n)).unwrap()).collect();
        assert_eq!(lost, [0, 1, 1, 1, 0, 0, 0, 0, 0, 0], "by twos");
    }

    #[test]
    fn over_udp_numbers_that_begin_anew_have_newer_timestamps() {
        let mut bench = Bench::new(false);
        for (seq, timestamp) in [(10, 0), (11, 3000), (0, 6000), (1, 6000), (2, 9000)] {
            assert_eq!(bench.lost(seq, timestamp), Ok(0), "{seq}");
        }
    }

    #[test]
    fn another_ssrc_goes_on_if_its_numbers_do() {
        let mut bench = Bench::new(false);
        bench.lost(10, 0).unwrap();
        let step = bench.accept(2, 11, 77, &[]).unwrap();
        assert_eq!(step, Step { lost: 0, restarted: false, other_clock: true });
        assert!(bench.sequence.is_current(2) && !bench.sequence.is_current(1));
        bench.now += Duration::from_secs(3);
        assert!(bench.accept(3, 5000, 77, &[]).unwrap().restarted);
        let mut bench = Bench::new(true);
        bench.lost(10, 0).unwrap();
        assert!(!bench.accept(2, 5000, 77, &[]).unwrap().restarted, "in order: nothing can be missing");
    }

    #[test]
    fn two_senders_do_not_take_turns() {
        let mut bench = Bench::new(false);
        bench.lost(10, 0).unwrap();
        bench.accept(2, 500, 0, &[]).unwrap();
        assert_eq!(bench.lost(11, 3000), Err(Unfit::OtherSender));
        assert_eq!(bench.accept(2, 501, 3000, &[]).unwrap().lost, 0);
        bench.now += DEAF;
        assert!(bench.lost(11, 3000).is_ok(), "it was silent for long enough");
    }
}
