//! What a source's track keeps of its packets, in the clear: those of the group of pictures that goes on now,
//! so that a new subscriber need not wait for the next keyframe, and the last ones, so that a subscriber that
//! lost some can have them again.

use std::{collections::VecDeque, sync::Arc};

use forwarder_common::{ExtendedSeq, RtpHeader};

use crate::contract::{Keep, KeptStats};

/// Counted for a packet on top of its payload: what its place in the queue and its allocation take.
const OVERHEAD: usize = 64;

/// A packet in the clear. The payload is shared by all that keep it.
#[derive(Clone)]
pub(super) struct KeptPacket {
    pub index: ExtendedSeq,
    pub header: RtpHeader,
    pub payload: Arc<[u8]>,
}

impl KeptPacket {
    fn cost(&self) -> usize {
        self.payload.len() + OVERHEAD
    }
}

/// See the module. Owned by the track; written by the thread that feeds it.
pub(super) struct Kept {
    keep: Keep,
    /// In the order of their indices.
    packets: VecDeque<KeptPacket>,
    bytes: usize,
    group: Group,
    /// First packet of the frame that comes now, and its timestamp.
    frame: Option<(ExtendedSeq, u32)>,
    overflows: u64,
    hits: u64,
    misses: u64,
}

/// The group of pictures that goes on, or the frame that may turn out to begin one.
#[derive(Clone, Copy)]
enum Group {
    /// Not kept: it was too long, or nothing has come.
    None,
    /// From this packet on so many bytes. `keyframe`: it begins with one.
    From { first: ExtendedSeq, bytes: usize, keyframe: bool },
}

impl Kept {
    pub(super) fn new(keep: Keep) -> Self {
        Self {
            keep,
            packets: VecDeque::new(),
            bytes: 0,
            group: Group::None,
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
    pub(super) fn push(&mut self, index: ExtendedSeq, header: &RtpHeader, payload: &[u8], key: bool) -> bool {
        if self.packets.back().is_some_and(|last| last.index >= index) {
            return true;
        }
        let frame = match self.frame {
            Some((first, timestamp)) if timestamp == header.timestamp() => first,
            _ => index,
        };
        self.frame = Some((frame, header.timestamp()));
        let packet = KeptPacket { index, header: *header, payload: payload.into() };
        let fits = self.keep.group == 0 || self.extend_group(frame, &packet, key);
        self.bytes += packet.cost();
        self.packets.push_back(packet);
        self.trim();
        fits
    }

    fn extend_group(&mut self, frame: ExtendedSeq, packet: &KeptPacket, key: bool) -> bool {
        let (mut first, mut bytes, mut keyframe) = match self.group {
            Group::From { first, bytes, keyframe } => (first, bytes, keyframe),
            Group::None if frame == packet.index => (frame, 0, false),
            // Its frame's beginning was let go.
            Group::None => return true,
        };
        if first != frame && (key || !keyframe) {
            first = frame;
            bytes = self.packets.iter().rev().take_while(|kept| kept.index >= frame).map(KeptPacket::cost).sum();
            keyframe = false;
        }
        keyframe |= key;
        bytes += packet.cost();
        let fits = bytes <= self.keep.group;
        self.group = if fits { Group::From { first, bytes, keyframe } } else { Group::None };
        self.overflows += u64::from(!fits && keyframe);
        fits || !keyframe
    }

    /// Lets go what neither the group needs nor belongs to the last packets.
    fn trim(&mut self) {
        let group = match self.group {
            Group::From { first, .. } => first,
            Group::None => ExtendedSeq(u64::MAX),
        };
        while self.bytes > self.keep.recent
            && let Some(oldest) = self.packets.front().filter(|oldest| oldest.index < group)
        {
            self.bytes -= oldest.cost();
            self.packets.pop_front();
        }
    }

    /// Lets everything go, until the next keyframe.
    pub(super) fn clear(&mut self) {
        (self.packets, self.bytes, self.group) = (VecDeque::new(), 0, Group::None);
    }

    /// For a new subscriber: everything from the last keyframe on, or nothing.
    pub(super) fn since_keyframe(&mut self) -> VecDeque<KeptPacket> {
        let packets: VecDeque<_> = self.group().cloned().collect();
        match packets.is_empty() {
            true => self.misses += 1,
            false => self.hits += 1,
        }
        packets
    }

    /// What a new subscriber would get.
    fn group(&self) -> impl ExactSizeIterator<Item = &KeptPacket> {
        let begin = match self.group {
            Group::From { first, keyframe: true, .. } => self.packets.partition_point(|kept| kept.index < first),
            _ => self.packets.len(),
        };
        self.packets.range(begin..)
    }

    /// Whether new subscribers may get something at all.
    pub(super) fn keeps_groups(&self) -> bool {
        self.keep.group > 0
    }

    /// A packet that was pushed before and is still there.
    pub(super) fn find(&self, index: ExtendedSeq) -> Option<&KeptPacket> {
        let at = self.packets.binary_search_by_key(&index, |kept| kept.index).ok()?;
        self.packets.get(at)
    }

    pub(super) fn stats(&self) -> KeptStats {
        KeptStats {
            bytes: self.bytes,
            limit: self.keep.group.max(self.keep.recent),
            packets: self.group().len(),
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
        fn new(group: usize, recent: usize) -> Self {
            Self { kept: Kept::new(Keep { group, recent }), next: 1 }
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
        let mut bench = Bench::new(100_000, 0);
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
        let mut bench = Bench::new(10_000, 0);
        bench.push(0, 1000, true);
        (1..20).for_each(|timestamp| {
            bench.push(timestamp, 1000, false);
            assert!(bench.kept.stats().bytes <= 10_000);
        });
        assert_eq!(bench.indices(), [0; 0]);
        let stats = bench.kept.stats();
        assert_eq!(stats.overflows, 1);
        assert!(stats.bytes <= 1000 + OVERHEAD, "only the frame that may be a keyframe: {stats:?}");
        bench.push(30, 1000, true);
        assert_eq!(bench.indices(), [21]);
    }

    #[test]
    fn a_keyframe_that_is_too_long_alone_is_not_kept_in_part() {
        let mut bench = Bench::new(3_000, 0);
        (0..5).for_each(|_| bench.push(1, 1000, true));
        assert_eq!(bench.indices(), [0; 0]);
        bench.push(2, 1000, true);
        assert_eq!(bench.indices(), [6]);
    }

    #[test]
    fn what_is_late_or_comes_again_is_not_kept() {
        let mut bench = Bench::new(10_000, 0);
        bench.push(0, 100, true);
        bench.push(1, 100, false);
        bench.next = 2;
        bench.push(1, 100, false);
        assert_eq!(bench.indices(), [1, 2]);
        bench.kept.clear();
        assert_eq!((bench.indices(), bench.kept.stats().bytes), (vec![], 0));
    }

    #[test]
    fn the_last_packets_are_kept_beside_the_group() {
        for group in [0, 5 * (1000 + OVERHEAD)] {
            let mut bench = Bench::new(group, 10 * (1000 + OVERHEAD));
            bench.push(0, 1000, true);
            (1..30).for_each(|timestamp| {
                bench.push(timestamp, 1000, timestamp == 26);
                assert!(bench.kept.stats().bytes <= bench.kept.stats().limit);
            });
            let found: Vec<u64> = (1..40).filter(|index| bench.kept.find(ExtendedSeq(*index)).is_some()).collect();
            assert_eq!(found, (21..=30).collect::<Vec<_>>());
            assert_eq!(bench.indices(), if group == 0 { vec![] } else { (27..=30).collect() });
        }
    }
}
