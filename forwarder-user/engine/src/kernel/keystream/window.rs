//! How many entries a ring has.

use std::time::{Duration, Instant};

use forwarder_common::keystream::{FAST_PAYLOAD, blocks_for};

use crate::Kind;

/// Entries that stay behind the highest index, for packets that come late.
pub(super) const BEHIND: u32 = 8;
/// What stands ready at least: a keyframe of 60 packets at once, and what goes by before the producer
/// has woken; for audio, which comes evenly, a quarter of a second.
const VIDEO_AHEAD: u32 = 72;
const AUDIO_AHEAD: u32 = 12;
/// More than this is never useful: the producer is faster than any sender of one stream.
const MAX_AHEAD: u32 = 1024;
/// Fewer entries are not worth a ring.
pub(super) const LEAST: u32 = 2 * BEHIND;
/// What a fast stream sends in this time stands ready.
const STOCK: Duration = Duration::from_millis(30);

/// What is measured over less time says more about the sender's bursts than about its rate.
const MEASURE: Duration = Duration::from_millis(30);

/// Sizes that memory may limit rings to. Few, so that rings change places when memory gets short, and
/// not with each viewer that joins.
const LEVELS: [u32; 13] = [MAX_AHEAD + BEHIND, 768, 512, 384, 256, 192, 128, 96, 64, 48, 32, 24, LEAST];

/// Entries that each ring may have so that all of them, `wanted` by so many each, have no more than
/// `entries` together: who wants less gets it whole, the others share evenly. Below the lowest level it
/// is first come, first served.
pub(super) fn level(wanted: impl Iterator<Item = (u64, u32)> + Clone, entries: u64) -> u32 {
    let total = |level: u32| wanted.clone().map(|(rings, wanted)| rings * u64::from(wanted.min(level))).sum::<u64>();
    LEVELS.into_iter().find(|level| total(*level) <= entries).unwrap_or(LEAST)
}

/// Recent rate of a publisher track.
#[derive(Debug)]
pub(super) struct Rate {
    kind: Kind,
    /// Packets a second, mostly of the last few measurements.
    per_second: f64,
    /// Since when packets are counted, and from which index on.
    since: Instant,
    from: u64,
}

impl Rate {
    pub(super) fn new(kind: Kind, index: u64, now: Instant) -> Self {
        Self { kind, per_second: 0.0, since: now, from: index }
    }

    /// The publisher has reached this index.
    pub(super) fn reached(&mut self, index: u64, now: Instant) {
        let elapsed = now.duration_since(self.since);
        if elapsed < MEASURE {
            return;
        }
        let sample = index.saturating_sub(self.from) as f64 / elapsed.as_secs_f64();
        // Up at once, down slowly: a burst comes back.
        self.per_second = if sample > self.per_second { sample } else { 0.95 * self.per_second + 0.05 * sample };
        (self.since, self.from) = (now, index);
    }

    /// Would waiting for `time` eat a good part of the stock?
    pub(super) fn hurried(&self, time: Duration) -> bool {
        self.per_second * time.as_secs_f64() > f64::from(self.least_ahead()) / 8.0
    }

    fn least_ahead(&self) -> u32 {
        match self.kind {
            Kind::Audio => AUDIO_AHEAD,
            Kind::Video => VIDEO_AHEAD,
        }
    }

    /// Entries that each ring of this stream should have, whose packets come in bursts of so many.
    pub(super) fn entries(&self, burst: u32) -> u32 {
        let (stock, least) = ((self.per_second * STOCK.as_secs_f64()) as u32, self.least_ahead());
        // What goes by before the producer wakes comes on top of a burst. A ring is replaced by one half as long again
        // at least (`misfits`).
        let burst = burst + burst / 4;
        let burst = if burst > least { burst.max(least + least / 2 + BEHIND) } else { 0 };
        BEHIND + least.max(stock).max(burst).min(MAX_AHEAD)
    }
}

/// Packets that come faster than this are one burst: while they do, the producer wakes once or not at all.
const TOGETHER: Duration = Duration::from_millis(8);
/// A burst is no longer than this. What goes on is a rate.
const BURST: Duration = Duration::from_millis(20);
/// Packets after which a burst is forgotten that does not come again, and twice that at most: some keyframes.
const BURST_PERIOD: u64 = 2048;

/// The largest burst of a publisher track lately: a keyframe, as a rule, whose packets come at once.
#[derive(Debug)]
pub(super) struct Burst {
    /// Where it began, and when.
    from: u64,
    began: Instant,
    /// The last look.
    index: u64,
    at: Instant,
    /// The largest in this period and in the one before, and where this one began.
    now: u64,
    before: u64,
    since: u64,
}

impl Burst {
    pub(super) fn new(index: u64, now: Instant) -> Self {
        Self { from: index, began: now, index, at: now, now: 0, before: 0, since: index }
    }

    /// The producer was woken, and the publisher has reached this index.
    pub(super) fn reached(&mut self, index: u64, now: Instant) {
        if now.duration_since(self.at) > TOGETHER || now.duration_since(self.began) > BURST {
            // What came since the last look came together: else there would have been one between.
            (self.from, self.began) = (self.index, now);
        }
        (self.index, self.at) = (index.max(self.index), now);
        self.now = self.now.max(self.index - self.from);
        if self.index - self.since >= BURST_PERIOD {
            (self.before, self.now, self.since) = (self.now, 0, self.index);
        }
    }

    /// Packets of the largest one.
    pub(super) fn largest(&self) -> u32 {
        self.now.max(self.before).min(MAX_AHEAD.into()) as u32
    }
}

/// After so many packets it is looked anew how long they are.
const PERIOD: u64 = 256;

/// How long a publisher track's payloads have been lately, and so what entries must serve.
#[derive(Debug)]
pub(super) struct Longest {
    /// Bytes, in this period and in the one before.
    now: u64,
    before: u64,
    /// Index at which this period began.
    since: u64,
}

impl Longest {
    /// Of a track of which nothing is known: the longest that there are.
    pub(super) fn new(index: u64) -> Self {
        Self { now: 0, before: FAST_PAYLOAD as u64, since: index }
    }

    /// The longest payload of this period is `longest` by now, when the publisher has reached `index`. Says
    /// whether a new period begins.
    pub(super) fn seen(&mut self, longest: u64, index: u64) -> bool {
        self.now = self.now.max(longest).min(FAST_PAYLOAD as u64);
        let over = index.saturating_sub(self.since) >= PERIOD;
        if over {
            (self.before, self.now, self.since) = (self.now, 0, index);
        }
        over
    }

    /// Blocks of entries that are filled now.
    pub(super) fn blocks(&self) -> usize {
        blocks_for(self.now.max(self.before) as usize)
    }
}

/// Is a ring of `now` entries so far from the `wanted` number that another one pays?
pub(super) fn misfits(now: u32, wanted: u32) -> bool {
    wanted > now + now / 2 || now > 3 * wanted
}

/// After how many packets the producer wants to be woken, with so many entries ahead.
pub(super) fn step(ahead: u32) -> u64 {
    u64::from((ahead / 8).max(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyframe_of_60_packets_is_in_stock_just_before_a_wake_up() {
        let rate = Rate::new(Kind::Video, 0, Instant::now());
        let ahead = rate.entries(0) - BEHIND;
        assert!(u64::from(ahead) - step(ahead) >= 60);
    }

    /// Video of 30 frames a second, six packets each, and every two seconds a keyframe.
    #[test]
    fn keyframes_of_any_size_are_in_stock_once_one_was_seen() {
        for key in [20u64, 70, 91, 150, 400] {
            let start = Instant::now();
            let (mut rate, mut burst) = (Rate::new(Kind::Video, 0, start), Burst::new(0, start));
            let (mut index, mut low, mut short) = (0, 9, 0);
            for frame in 0..600 {
                let now = start + Duration::from_millis(33) * frame;
                let ahead = u64::from(rate.entries(burst.largest()) - BEHIND);
                let packets = if frame % 60 == 30 { key } else { 6 };
                // Without the producer in between, and woken by a part of the stock before.
                short += u64::from(frame > 60 && packets + step(ahead as u32) > ahead);
                index += packets;
                if index >= low {
                    burst.reached(index, now);
                    rate.reached(index, now);
                    low = index + step(ahead as u32);
                }
            }
            assert_eq!(short, 0, "keyframes of {key} packets");
            assert!(u64::from(rate.entries(burst.largest())) <= BEHIND as u64 + (key + 20) * 5 / 4 + 72);
        }
    }

    #[test]
    fn what_comes_evenly_is_no_burst_and_old_bursts_are_forgotten() {
        let start = Instant::now();
        let mut burst = Burst::new(0, start);
        for wake in 1..100u64 {
            burst.reached(9 * wake, start + Duration::from_millis(40 * wake));
        }
        assert_eq!(burst.largest(), 9);
        burst.reached(1000, start + Duration::from_secs(4));
        assert!(burst.largest() >= 100);
        for wake in 0..1000u64 {
            burst.reached(1009 + 9 * wake, start + Duration::from_secs(5) + Duration::from_millis(40 * wake));
        }
        assert_eq!(burst.largest(), 9);
        assert_eq!(Rate::new(Kind::Audio, 0, start).entries(9), BEHIND + AUDIO_AHEAD);
    }

    #[test]
    fn rings_grow_with_the_rate_at_once_and_shrink_slowly() {
        let start = Instant::now();
        let mut rate = Rate::new(Kind::Video, 0, start);
        rate.reached(1000, start + Duration::from_millis(100));
        assert_eq!(rate.entries(0), BEHIND + 300);
        assert!(rate.hurried(Duration::from_millis(5)));
        rate.reached(1001, start + Duration::from_secs(1));
        assert!(rate.entries(0) > BEHIND + 250);
        for second in 2..200 {
            rate.reached(1001, start + Duration::from_secs(second));
        }
        assert_eq!(rate.entries(0), BEHIND + VIDEO_AHEAD);
        assert!(!rate.hurried(Duration::from_millis(5)));
    }

    use forwarder_common::keystream::FAST_BLOCKS;

    #[test]
    fn entries_get_longer_at_once_and_shorter_after_two_periods() {
        let mut longest = Longest::new(1000);
        assert_eq!(longest.blocks(), FAST_BLOCKS);
        assert!(!longest.seen(160, 1000 + PERIOD - 1) && longest.blocks() == FAST_BLOCKS);
        assert!(longest.seen(160, 1000 + PERIOD) && longest.blocks() == 10);
        assert!(!longest.seen(161, 1001 + PERIOD) && longest.blocks() == 11);
        assert!(longest.seen(5000, 1000 + 2 * PERIOD) && longest.blocks() == FAST_BLOCKS);
        assert!(longest.seen(0, 1000 + 3 * PERIOD) && longest.blocks() == 1);
    }

    #[test]
    fn a_burst_is_no_rate() {
        let start = Instant::now();
        let mut rate = Rate::new(Kind::Video, 0, start);
        for packet in 1..=60 {
            rate.reached(packet, start + Duration::from_micros(20 * packet));
        }
        assert_eq!(rate.entries(0), BEHIND + VIDEO_AHEAD);
        rate.reached(63, start + Duration::from_millis(100));
        assert_eq!(rate.entries(0), BEHIND + VIDEO_AHEAD);
    }

    #[test]
    fn memory_is_shared_evenly_by_those_who_want_much() {
        let all = |rings: &[(u64, u32)], entries| level(rings.iter().copied(), entries);
        assert_eq!(all(&[(10, 80), (10, 20)], 1000), MAX_AHEAD + BEHIND);
        // 10 × 64 + 10 × 20.
        assert_eq!(all(&[(10, 80), (10, 20)], 900), 64);
        assert_eq!(all(&[(1, 1000), (100, 20)], 2200), 192);
        assert_eq!(all(&[(1000, 80)], 1000), LEAST);
        assert_eq!(all(&[], 0), MAX_AHEAD + BEHIND);
    }

    #[test]
    fn small_differences_are_not_worth_another_ring() {
        assert!(misfits(20, 80) && misfits(80, 20) && !misfits(80, 88) && !misfits(80, 30));
    }
}
