//! What a publisher may send, from what arrives of it: rate and loss. For REMB (draft-alvestrand-rmcat-remb-03), that
//! is for publishers whose encoder follows no other feedback. No clock, no socket.
//!
//! It begins as high as the sender may try, since a sender that is told little sends little, and comes down by what the
//! line shows: a line that loses much is too narrow, and what arrives says how narrow; one that loses some is left
//! alone, since it may lose by nature; one that loses next to nothing may carry more.

use std::time::{Duration, Instant};

/// Least that a publisher is told, bit/s: sound and a small picture.
const LEAST: u64 = 150_000;
/// Of 1,000 packets: below the first nearly nothing is lost, above the second much, above the third most.
const LITTLE: u64 = 20;
const MUCH: u64 = 100;
const MOST: u64 = 300;
/// Packets of an interval from which its loss means something.
const ENOUGH: u64 = 20;
/// More for a line that has come down once, of 1,000 in a second.
const GROWTH: u64 = 100;

/// What has arrived of a publisher since it began, all SSRCs together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Arrived {
    /// Of payloads.
    pub octets: u64,
    /// Each index once.
    pub packets: u64,
    /// Packets that were missing when those behind them came, repaired later or not.
    pub missing: u64,
}

/// The estimate for one publisher.
#[derive(Debug)]
pub struct Estimate {
    bitrate: u64,
    last: Option<(Instant, Arrived)>,
    /// It has never come down.
    rising: bool,
}

impl Estimate {
    /// Begins with `start` bit/s, and doubles that each second until the line shows its limit.
    pub fn new(start: u64) -> Self {
        Self { bitrate: start, last: None, rising: true }
    }

    /// What the publisher may send from now on, bit/s, at most `most`.
    pub fn update(&mut self, now: Instant, arrived: Arrived, most: u64) -> u64 {
        let Some((then, before)) = self.last else {
            self.last = Some((now, arrived));
            return self.bitrate.min(most);
        };
        let passed = now.duration_since(then).as_millis() as u64;
        if passed == 0 {
            return self.bitrate.min(most);
        }
        let [octets, packets, missing] = [
            arrived.octets.saturating_sub(before.octets),
            arrived.packets.saturating_sub(before.packets),
            arrived.missing.saturating_sub(before.missing),
        ];
        let all = packets.max(missing);
        // Too few to tell: they count with those to come, for a while.
        if all < ENOUGH && missing > 0 && passed < 2000 {
            return self.bitrate.min(most);
        }
        self.last = Some((now, arrived));
        let (rate, loss) = (octets * 8000 / passed, missing * 1000 / all.max(1));
        self.bitrate = match loss {
            MOST.. => self.down(rate * 9 / 10),
            MUCH.. => self.down(self.bitrate * (2000 - loss) / 2000),
            LITTLE.. => self.bitrate,
            _ if self.rising => self.bitrate + self.bitrate * passed.min(1000) / 1000,
            _ => self.bitrate + self.bitrate * GROWTH * passed.min(1000) / 1_000_000,
        };
        self.bitrate = self.bitrate.clamp(LEAST, most.max(LEAST));
        self.bitrate.min(most)
    }

    fn down(&mut self, to: u64) -> u64 {
        self.rising = false;
        self.bitrate.min(to)
    }
}

/// How often [`Estimate::update`] is worth a call.
pub const INTERVAL: Duration = Duration::from_millis(500);

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test begins at any time")]
mod tests {
    use super::*;

    const MOST_BITRATE: u64 = 4_000_000;

    /// A sender that sends what it is told, 2.5 Mbit/s at most, over a line of a certain width that loses so many of
    /// 1,000 packets besides. What it was told in each half of a second.
    fn play(
        estimate: &mut Estimate,
        start: Instant,
        halves: std::ops::Range<u32>,
        width: u64,
        loss: u64,
        sum: &mut Arrived,
    ) -> Vec<u64> {
        let mut told = vec![];
        for half in halves {
            let sends = estimate.bitrate.min(2_500_000);
            let packets = (sends / 2 / 8000).max(1);
            let carried = packets.min(width / 2 / 8000);
            let arrive = carried - carried * loss / 1000;
            sum.packets += arrive;
            sum.octets += arrive * 1000;
            sum.missing += packets - arrive;
            told.push(estimate.update(start + INTERVAL * (half + 1), *sum, MOST_BITRATE));
        }
        told
    }

    #[test]
    fn a_wide_line_is_used_soon() {
        let (mut estimate, start, mut sum) = (Estimate::new(1_500_000), Instant::now(), Arrived::default());
        estimate.update(start, sum, MOST_BITRATE);
        let told = play(&mut estimate, start, 0..6, u64::MAX / 16, 0, &mut sum);
        assert_eq!(told.last(), Some(&MOST_BITRATE), "{told:?}");
        assert!(told.is_sorted());
    }

    #[test]
    fn a_line_that_narrows_is_followed_and_filled_again() {
        let (mut estimate, start, mut sum) = (Estimate::new(1_500_000), Instant::now(), Arrived::default());
        estimate.update(start, sum, MOST_BITRATE);
        play(&mut estimate, start, 0..10, u64::MAX / 16, 0, &mut sum);
        let narrow = play(&mut estimate, start, 10..80, 500_000, 0, &mut sum);
        assert!(narrow[1] <= 500_000, "{narrow:?}");
        assert!(narrow[2..].iter().all(|told| (300_000..700_000).contains(told)), "{narrow:?}");
        let wide = play(&mut estimate, start, 80..140, u64::MAX / 16, 0, &mut sum);
        let again = wide.iter().position(|told| *told >= 2_500_000);
        assert!(again.is_some_and(|halves| halves <= 50), "{wide:?}");
    }

    #[test]
    fn loss_by_nature_is_endured() {
        let (mut estimate, start, mut sum) = (Estimate::new(1_500_000), Instant::now(), Arrived::default());
        estimate.update(start, sum, MOST_BITRATE);
        let told = play(&mut estimate, start, 0..60, u64::MAX / 16, 50, &mut sum);
        assert!(told.iter().all(|told| *told == 1_500_000), "{told:?}");
        let told = play(&mut estimate, start, 60..120, u64::MAX / 16, 200, &mut sum);
        assert_eq!(told.last(), Some(&LEAST), "{told:?}");
    }

    #[test]
    fn few_packets_say_little() {
        let (mut estimate, start) = (Estimate::new(1_500_000), Instant::now());
        estimate.update(start, Arrived::default(), MOST_BITRATE);
        let few = Arrived { octets: 300, packets: 3, missing: 2 };
        assert_eq!(estimate.update(start + INTERVAL, few, MOST_BITRATE), 1_500_000);
        assert_eq!(estimate.update(start + INTERVAL, few, 1_000_000), 1_000_000, "the configuration's bound");
    }
}
