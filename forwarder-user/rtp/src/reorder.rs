//! Puts back into order what a network has overtaken: for RTP that comes by UDP. What follows cuts and
//! joins packets, and cannot take one later.

use std::time::{Duration, Instant};

use forwarder_common::RtpHeader;

/// Packets that wait for a missing one, and how long.
const MAX_HELD: usize = 64;
const PATIENCE: Duration = Duration::from_millis(40);

/// See the module.
#[derive(Default)]
pub struct Reorder {
    ssrc: u32,
    /// Sequence number that comes next.
    next: Option<u16>,
    /// What came too early, by sequence number from `next` on.
    held: Vec<Held>,
    /// Buffers to use again.
    free: Vec<Vec<u8>>,
}

struct Held {
    seq: u16,
    arrived: Instant,
    bytes: Vec<u8>,
}

impl Reorder {
    /// Takes a packet; `out` gets those whose turn it is. What is missing for too long is not waited for,
    /// as soon as another packet comes. Another sender's packets of another payload type than ours have no turn.
    pub fn push(&mut self, bytes: &[u8], payload_type: u8, now: Instant, out: &mut dyn FnMut(&[u8])) {
        let Some((header, _)) = RtpHeader::parse(bytes) else { return out(bytes) };
        if self.ssrc != header.ssrc() && header.payload_type() != payload_type {
            return out(bytes);
        }
        let seq = header.seq();
        let Some(next) = self.next.filter(|_| self.ssrc == header.ssrc()) else {
            self.release(usize::MAX, out);
            self.ssrc = header.ssrc();
            self.next = Some(seq.wrapping_add(1));
            return out(bytes);
        };
        let ahead = seq.wrapping_sub(next);
        match ahead {
            0 => {
                out(bytes);
                self.next = Some(seq.wrapping_add(1));
                self.in_order(out);
            }
            1..0x4000 if usize::from(ahead) <= MAX_HELD => self.hold(seq, ahead, next, bytes, now),
            // Behind what has left by little: late or doubled, which the timeline drops.
            0xff00.. => return out(bytes),
            // A new start.
            _ => {
                self.release(usize::MAX, out);
                self.next = Some(seq.wrapping_add(1));
                out(bytes);
            }
        }
        let overdue = self.held.iter().any(|held| now.saturating_duration_since(held.arrived) >= PATIENCE);
        if overdue || self.held.len() >= MAX_HELD {
            self.release(1, out);
        }
    }

    fn hold(&mut self, seq: u16, ahead: u16, next: u16, bytes: &[u8], now: Instant) {
        let place = self.held.partition_point(|held| held.seq.wrapping_sub(next) < ahead);
        if self.held.get(place).is_some_and(|held| held.seq == seq) {
            return;
        }
        let mut buffer = self.free.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(bytes);
        self.held.insert(place, Held { seq, arrived: now, bytes: buffer });
    }

    /// Hands out what follows without a gap.
    fn in_order(&mut self, out: &mut dyn FnMut(&[u8])) {
        let mut count = 0;
        for held in &self.held {
            if Some(held.seq) != self.next {
                break;
            }
            out(&held.bytes);
            self.next = Some(held.seq.wrapping_add(1));
            count += 1;
        }
        self.free.extend(self.held.drain(..count).map(|held| held.bytes));
    }

    /// Gives up on so many gaps.
    fn release(&mut self, gaps: usize, out: &mut dyn FnMut(&[u8])) {
        for _ in 0..gaps {
            let Some(first) = self.held.first() else { return };
            self.next = Some(first.seq);
            self.in_order(out);
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test begins at any time")]
mod tests {
    use super::*;
    use crate::testing::packet;

    #[derive(Default)]
    struct Bench {
        reorder: Reorder,
        sent: Vec<u16>,
    }

    impl Bench {
        fn push(&mut self, ssrc: u32, seq: u16, now: Instant) {
            let sent = &mut self.sent;
            self.reorder.push(&packet(ssrc, seq, 0, 96, &[1]), 96, now, &mut |bytes| {
                sent.push(RtpHeader::parse(bytes).unwrap().0.seq());
            });
        }
    }

    #[test]
    fn overtaken_packets_take_their_place() {
        let (mut bench, now) = (Bench::default(), Instant::now());
        for seq in [65_533, 65_535, 0, 0, 65_534, 1, 4, 3, 2, 5] {
            bench.push(1, seq, now);
        }
        assert_eq!(bench.sent, [65_533, 65_534, 65_535, 0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn what_is_lost_is_not_waited_for() {
        let (mut bench, now) = (Bench::default(), Instant::now());
        for seq in [1, 3, 4, 6] {
            bench.push(1, seq, now);
        }
        assert_eq!(bench.sent, [1]);
        bench.push(1, 7, now + PATIENCE);
        assert_eq!(bench.sent, [1, 3, 4]);
        bench.push(1, 8, now + PATIENCE);
        assert_eq!(bench.sent, [1, 3, 4, 6, 7, 8]);
        bench.push(1, 5, now + PATIENCE);
        assert_eq!(bench.sent.last(), Some(&5), "late: left to the timeline");
    }

    #[test]
    fn it_holds_no_more_than_it_may() {
        let (mut bench, now) = (Bench::default(), Instant::now());
        bench.push(1, 0, now);
        for seq in 2..100 {
            bench.push(1, seq, now);
        }
        assert_eq!(bench.sent, [0].into_iter().chain(2..100).collect::<Vec<_>>());
    }

    #[test]
    fn new_starts_let_everything_go() {
        let (mut bench, now) = (Bench::default(), Instant::now());
        for (ssrc, seq) in [(1, 10), (1, 12), (2, 50), (2, 52), (2, 9000), (2, 9001)] {
            bench.push(ssrc, seq, now);
        }
        assert_eq!(bench.sent, [10, 12, 50, 52, 9000, 9001]);
    }
}
