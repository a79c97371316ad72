//! What a track keeps of its packets, in the clear: the last ones, so that a subscriber that lost some can have them
//! again, and, of a source, those of the group of pictures that goes on now, so that a new subscriber need not wait
//! for the next keyframe.

use std::{collections::VecDeque, sync::Arc};

use forwarder_common::{ExtendedSeq, RtpHeader};

use zeroize::Zeroize as _;

use crate::{
    contract::{Keep, KeptStats},
    repair::{HOLD, Memory},
};

/// Counted for a packet on top of its payload: what its place in the queue and its allocation take.
const OVERHEAD: usize = 64;

/// A packet in the clear. The payload is shared by all that keep it.
#[derive(Clone)]
pub(super) struct KeptPacket {
    pub index: ExtendedSeq,
    pub header: RtpHeader,
    pub payload: Arc<[u8]>,
    /// When it came, ns of CLOCK_BOOTTIME.
    at_ns: u64,
}

impl KeptPacket {
    pub(super) fn new(index: ExtendedSeq, header: &RtpHeader, payload: &[u8], at_ns: u64) -> Self {
        Self { index, header: *header, payload: payload.into(), at_ns }
    }

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
    /// Of these, what is taken from the memory of all tracks: what the group of pictures does not need.
    taken: usize,
    memory: Arc<Memory>,
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
    pub(super) fn new(keep: Keep, memory: Arc<Memory>) -> Self {
        Self {
            keep,
            packets: VecDeque::new(),
            bytes: 0,
            taken: 0,
            memory,
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
    pub(super) fn push(&mut self, packet: KeptPacket, key: bool) -> bool {
        let (index, now_ns) = (packet.index, packet.at_ns);
        let mut fits = true;
        if self.packets.back().is_none_or(|last| last.index < index) {
            fits = self.keep.group == 0 || self.extend_group(&packet, key);
            self.bytes += packet.cost();
            self.packets.push_back(packet);
        } else if self.keep.group == 0
            && let Err(place) = self.packets.binary_search_by_key(&index, |kept| kept.index)
        {
            // Late, as the network has it. A group of pictures comes in order.
            self.bytes += packet.cost();
            self.packets.insert(place, packet);
        }
        self.trim(now_ns);
        fits
    }

    fn extend_group(&mut self, packet: &KeptPacket, key: bool) -> bool {
        let frame = match self.frame {
            Some((first, timestamp)) if timestamp == packet.header.timestamp() => first,
            _ => packet.index,
        };
        self.frame = Some((frame, packet.header.timestamp()));
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

    /// Lets go what neither the group needs nor belongs to the last packets: those of the last while, as far as there
    /// is memory for them.
    fn trim(&mut self, now_ns: u64) {
        let group = match self.group {
            Group::From { first, .. } => first,
            Group::None => ExtendedSeq(u64::MAX),
        };
        while let Some(oldest) = self.packets.front().filter(|oldest| oldest.index < group) {
            let (cost, late) = (oldest.cost(), oldest.at_ns + (HOLD.as_nanos() as u64) < now_ns);
            if !late && self.bytes <= self.keep.recent && self.take(self.bytes - self.group_bytes()) {
                return;
            }
            self.bytes -= cost;
            self.packets.pop_front();
        }
        self.take(0);
    }

    fn group_bytes(&self) -> usize {
        if let Group::From { bytes, .. } = self.group { bytes } else { 0 }
    }

    /// Takes as much of the memory of all tracks. `false`: there is no more.
    fn take(&mut self, wanted: usize) -> bool {
        if wanted > self.taken && !self.memory.take(wanted - self.taken) {
            return false;
        }
        self.memory.give(self.taken.saturating_sub(wanted));
        self.taken = wanted;
        true
    }

    /// Lets everything go, until the next keyframe.
    pub(super) fn clear(&mut self) {
        self.wipe();
        (self.packets, self.bytes, self.group) = (VecDeque::new(), 0, Group::None);
        self.take(0);
    }

    /// What is in the clear here, and nobody else's too, is not left in memory.
    fn wipe(&mut self) {
        for packet in &mut self.packets {
            if let Some(payload) = Arc::get_mut(&mut packet.payload) {
                payload.zeroize();
            }
        }
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

impl Drop for Kept {
    fn drop(&mut self) {
        self.wipe();
        self.take(0);
    }
}

#[cfg(test)]
mod tests {
    use forwarder_common::rtp::FIXED_LEN;

    use super::*;

    struct Bench {
        kept: Kept,
        next: u64,
        memory: Arc<Memory>,
        now_ns: u64,
    }

    impl Bench {
        fn new(group: usize, recent: usize) -> Self {
            let memory = Arc::new(Memory::new(1 << 20));
            let kept = Kept::new(Keep { group, recent }, Arc::clone(&memory));
            Self { kept, next: 1, memory, now_ns: 1 }
        }

        fn push(&mut self, timestamp: u32, len: usize, key: bool) {
            let mut header = [0; FIXED_LEN];
            header[4..8].copy_from_slice(&timestamp.to_be_bytes());
            let packet = KeptPacket::new(ExtendedSeq(self.next), &RtpHeader::new(&header), &vec![7; len], self.now_ns);
            self.kept.push(packet, key);
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

    fn kept(bench: &Bench) -> Vec<u64> {
        bench.kept.packets.iter().map(|packet| packet.index.0).collect()
    }

    #[test]
    fn what_came_late_is_kept_in_its_place_once() {
        let mut bench = Bench::new(0, 100_000);
        for index in [5, 7, 6, 6, 3, 7] {
            bench.next = index;
            bench.push(1, 100, false);
        }
        assert_eq!(kept(&bench), [3, 5, 6, 7]);
        assert_eq!(bench.memory.used(), 4 * (100 + OVERHEAD));
    }

    #[test]
    fn the_last_packets_are_bounded_by_time_and_by_the_memory_of_all() {
        let mut bench = Bench::new(0, 100_000);
        bench.push(1, 100, false);
        bench.now_ns += HOLD.as_nanos() as u64;
        bench.push(2, 100, false);
        bench.now_ns += 1;
        bench.push(3, 100, false);
        assert_eq!(kept(&bench), [2, 3]);
        // Another track takes the rest.
        let rest = (1 << 20) - bench.memory.used();
        assert!(bench.memory.take(rest));
        bench.push(4, 100, false);
        assert_eq!((kept(&bench), bench.memory.refused()), (vec![3, 4], 1));
        drop(bench.kept);
        assert_eq!(bench.memory.used(), rest);
    }

    #[test]
    fn a_group_of_pictures_takes_nothing_from_the_memory_of_all() {
        let mut bench = Bench::new(100_000, 0);
        bench.push(1, 100, true);
        (2..10).for_each(|timestamp| bench.push(timestamp, 100, false));
        assert_eq!((kept(&bench).len(), bench.memory.used()), (9, 0));
    }
}
