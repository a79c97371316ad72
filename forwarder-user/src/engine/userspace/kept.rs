//! What a source's track keeps of its packets, in the clear: those of the group of pictures that goes on now,
//! so that a new subscriber need not wait for the next keyframe.

use std::{collections::VecDeque, sync::Arc};

use forwarder_common::{ExtendedSeq, RtpHeader};

/// Counted for a packet on top of its payload: what its place in the queue and its allocation take.
const OVERHEAD: usize = 64;

/// A packet in the clear. The payload is shared by all that keep it.
#[derive(Clone)]
pub struct KeptPacket {
    pub index: ExtendedSeq,
    pub header: RtpHeader,
    pub payload: Arc<[u8]>,
}

impl KeptPacket {
    fn cost(&self) -> usize {
        self.payload.len() + OVERHEAD
    }
}

/// What a track keeps, for API and metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct KeptStats {
    /// Memory that the packets take, and the most that they may.
    pub bytes: usize,
    pub limit: usize,
    pub packets: usize,
    /// Groups of pictures that were longer than the limit and were let go.
    pub overflows: u64,
    /// Subscribers that began with a kept keyframe, and those for which there was none.
    pub hits: u64,
    pub misses: u64,
}

/// See the module. Owned by the track; written by the thread that feeds it.
pub struct Kept {
    /// In the order of their indices: from the keyframe on, or, while there is none, of the frame that may
    /// turn out to be one.
    packets: VecDeque<KeptPacket>,
    bytes: usize,
    limit: usize,
    /// Index of the keyframe's first packet, which is the first of `packets`.
    keyframe: Option<ExtendedSeq>,
    /// First packet of the frame that comes now, and its timestamp.
    frame: Option<(ExtendedSeq, u32)>,
    overflows: u64,
    hits: u64,
    misses: u64,
}

impl Kept {
    /// Keeps at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            packets: VecDeque::new(),
            bytes: 0,
            limit,
            keyframe: None,
            frame: None,
            overflows: 0,
            hits: 0,
            misses: 0,
        }
    }

    /// Takes a packet that goes to the subscribers. `key`: decoding can start at its frame. A frame begins with
    /// its first packet, be that a parameter set: packets of one timestamp are one frame.
    ///
    /// `false`: the group of pictures has become too long and was let go.
    pub fn push(&mut self, index: ExtendedSeq, header: &RtpHeader, payload: &[u8], key: bool) -> bool {
        if self.packets.back().is_some_and(|last| last.index >= index) {
            return true;
        }
        let timestamp = header.timestamp();
        let frame = match self.frame {
            Some((first, of)) if of == timestamp => first,
            _ => index,
        };
        self.frame = Some((frame, timestamp));
        if key && self.keyframe != Some(frame) {
            self.keyframe = None;
            self.drop_before(frame);
            // Its beginning may have been too long.
            let whole = self.packets.front().map_or(index, |first| first.index) == frame;
            self.keyframe = whole.then_some(frame);
        }
        if self.keyframe.is_none() {
            self.drop_before(frame);
        }
        let packet = KeptPacket { index, header: *header, payload: payload.into() };
        self.bytes += packet.cost();
        self.packets.push_back(packet);
        if self.bytes <= self.limit {
            return true;
        }
        let kept = self.keyframe.is_some();
        self.overflows += u64::from(kept);
        self.clear();
        !kept
    }

    fn drop_before(&mut self, index: ExtendedSeq) {
        while let Some(first) = self.packets.front().filter(|first| first.index < index) {
            self.bytes -= first.cost();
            self.packets.pop_front();
        }
    }

    /// Lets everything go, until the next keyframe.
    pub fn clear(&mut self) {
        (self.packets, self.bytes, self.keyframe) = (VecDeque::new(), 0, None);
    }

    /// For a new subscriber: everything from the last keyframe on, or nothing.
    pub fn since_keyframe(&mut self) -> VecDeque<KeptPacket> {
        match self.keyframe {
            Some(_) => {
                self.hits += 1;
                self.packets.clone()
            }
            None => {
                self.misses += 1;
                VecDeque::new()
            }
        }
    }

    pub fn stats(&self) -> KeptStats {
        KeptStats {
            bytes: self.bytes,
            limit: self.limit,
            packets: self.packets.len(),
            overflows: self.overflows,
            hits: self.hits,
            misses: self.misses,
        }
    }
}

#[cfg(test)]
mod tests {
    use forwarder_common::rtp::FIXED_LEN;

    use super::*;

    struct Bench {
        kept: Kept,
        next: u64,
    }

    impl Bench {
        fn new(limit: usize) -> Self {
            Self { kept: Kept::new(limit), next: 1 }
        }

        fn push(&mut self, timestamp: u32, len: usize, key: bool) {
            let mut header = [0; FIXED_LEN];
            header[4..8].copy_from_slice(&timestamp.to_be_bytes());
            self.kept.push(ExtendedSeq(self.next), &RtpHeader::new(&header), &vec![7; len], key);
            self.next += 1;
        }

        fn indices(&mut self) -> Vec<u64> {
            self.kept.since_keyframe().iter().map(|packet| packet.index.0).collect()
        }
    }

    #[test]
    fn begins_at_the_first_packet_of_the_last_keyframe() {
        let mut bench = Bench::new(100_000);
        bench.push(0, 100, false);
        bench.push(1, 100, false);
        assert_eq!(bench.indices(), [0; 0], "no keyframe yet");
        // Parameter sets, then two slices.
        bench.push(2, 10, false);
        bench.push(2, 900, true);
        bench.push(2, 900, true);
        bench.push(3, 100, false);
        assert_eq!(bench.indices(), [3, 4, 5, 6]);
        bench.push(4, 10, false);
        assert_eq!(bench.indices(), [3, 4, 5, 6, 7], "nothing says yet that it is a keyframe");
        bench.push(4, 900, true);
        assert_eq!(bench.indices(), [7, 8]);
        let stats = bench.kept.stats();
        assert_eq!((stats.packets, stats.bytes, stats.hits, stats.misses), (2, 910 + 2 * OVERHEAD, 3, 1));
    }

    #[test]
    fn a_group_that_is_too_long_is_let_go_until_the_next_keyframe() {
        let mut bench = Bench::new(10_000);
        bench.push(0, 1000, true);
        (1..20).for_each(|timestamp| {
            bench.push(timestamp, 1000, false);
            assert!(bench.kept.stats().bytes <= 10_000);
        });
        assert_eq!(bench.indices(), [0; 0]);
        let stats = bench.kept.stats();
        assert_eq!(stats.overflows, 1);
        assert!(stats.packets <= 1, "only the frame that may be a keyframe: {stats:?}");
        bench.push(30, 1000, true);
        assert_eq!(bench.indices(), [21]);
    }

    #[test]
    fn a_keyframe_that_is_too_long_alone_is_not_kept_in_part() {
        let mut bench = Bench::new(3_000);
        (0..5).for_each(|_| bench.push(1, 1000, true));
        assert_eq!(bench.indices(), [0; 0]);
        bench.push(2, 1000, true);
        assert_eq!(bench.indices(), [6]);
    }

    #[test]
    fn what_is_late_or_comes_again_is_not_kept() {
        let mut bench = Bench::new(10_000);
        bench.push(0, 100, true);
        bench.push(1, 100, false);
        bench.next = 2;
        bench.push(1, 100, false);
        assert_eq!(bench.indices(), [1, 2]);
        bench.kept.clear();
        assert_eq!((bench.indices(), bench.kept.stats().bytes), (vec![], 0));
    }
}
