//! How many entries a ring has.

use std::time::{Duration, Instant};

use crate::engine::Kind;

/// Entries that stay behind the highest index, for packets that come late.
pub const BEHIND: u32 = 8;
/// What stands ready at least: a keyframe of 60 packets at once, and what goes by before the producer
/// has woken; for audio, which comes evenly, a quarter of a second.
const VIDEO_AHEAD: u32 = 72;
const AUDIO_AHEAD: u32 = 12;
/// More than this is never useful: the producer is faster than any sender of one stream.
const MAX_AHEAD: u32 = 1024;
/// Fewer are not worth a ring.
const MIN_ENTRIES: u64 = 2 * BEHIND as u64;
/// What a fast stream sends in this time stands ready.
const STOCK: Duration = Duration::from_millis(30);

/// Recent rate of a publisher track.
#[derive(Debug)]
pub struct Rate {
    kind: Kind,
    /// Packets a second, mostly of the last few wake-ups.
    per_second: f64,
    at: Instant,
}

impl Rate {
    pub fn new(kind: Kind, now: Instant) -> Self {
        Self { kind, per_second: 0.0, at: now }
    }

    /// The publisher's index went from `before` to `index` since the last call.
    pub fn reached(&mut self, before: u64, index: u64, now: Instant) {
        let seconds = now.duration_since(self.at).as_secs_f64().max(0.001);
        let sample = index.saturating_sub(before) as f64 / seconds;
        // Up at once, down slowly: a burst comes back.
        self.per_second = if sample > self.per_second { sample } else { 0.95 * self.per_second + 0.05 * sample };
        self.at = now;
    }

    /// Would waiting for `time` eat a good part of the stock?
    pub fn hurried(&self, time: Duration) -> bool {
        self.per_second * time.as_secs_f64() > f64::from(self.least_ahead()) / 8.0
    }

    fn least_ahead(&self) -> u32 {
        match self.kind {
            Kind::Audio => AUDIO_AHEAD,
            Kind::Video => VIDEO_AHEAD,
        }
    }

    /// Entries of each ring of this stream, if a ring may have at most `bound`. 0: no ring.
    pub fn entries(&self, bound: u64) -> u32 {
        let stock = (self.per_second * STOCK.as_secs_f64()) as u32;
        let wanted = BEHIND + self.least_ahead().max(stock).min(MAX_AHEAD);
        if bound < MIN_ENTRIES { 0 } else { wanted.min(u32::try_from(bound).unwrap_or(u32::MAX)) }
    }
}

/// Is a ring of `now` entries so far from the `wanted` number that another one pays?
pub fn misfits(now: u32, wanted: u32) -> bool {
    wanted > now + now / 2 || now > 3 * wanted
}

/// After how many packets the producer wants to be woken, with so many entries ahead.
pub fn step(ahead: u32) -> u64 {
    u64::from((ahead / 8).max(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keyframe_of_60_packets_is_in_stock_just_before_a_wake_up() {
        let rate = Rate::new(Kind::Video, Instant::now());
        let ahead = rate.entries(u64::MAX) - BEHIND;
        assert!(u64::from(ahead) - step(ahead) >= 60);
    }

    #[test]
    fn rings_grow_with_the_rate_at_once_and_shrink_slowly() {
        let start = Instant::now();
        let mut rate = Rate::new(Kind::Video, start);
        rate.reached(0, 1000, start + Duration::from_millis(100));
        assert_eq!(rate.entries(u64::MAX), BEHIND + 300);
        assert!(rate.hurried(Duration::from_millis(5)));
        rate.reached(1000, 1001, start + Duration::from_secs(1));
        assert!(rate.entries(u64::MAX) > BEHIND + 250);
        for second in 2..200 {
            rate.reached(1000, 1001, start + Duration::from_secs(second));
        }
        assert_eq!(rate.entries(u64::MAX), BEHIND + VIDEO_AHEAD);
        assert!(!rate.hurried(Duration::from_millis(5)));
    }

    #[test]
    fn memory_bounds_a_ring() {
        let rate = Rate::new(Kind::Video, Instant::now());
        assert_eq!((rate.entries(20), rate.entries(15), rate.entries(0)), (20, 0, 0));
        assert!(misfits(20, 80) && misfits(80, 20) && !misfits(80, 88) && !misfits(80, 30));
    }
}
