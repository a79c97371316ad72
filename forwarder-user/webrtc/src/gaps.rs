//! Which packets of a publisher's SSRC are missing, and when to ask for them (generic NACK, RFC 4585 §6.2.1).
//!
//! No socket and no clock: who receives the packets says which have come, and when it looked. Nothing here knows of
//! engines, so that a test can play thousands of lines in a moment.
//!
//! A packet that is missing may only be late: it is asked for when it was missing at two looks, [`TOLERANCE`] apart. It
//! is asked for again when a round trip has passed, which repairs themselves measure, and given up in the end. Only so
//! many are asked for in a second: on a line that is too narrow, repairs take the place of media, and make it narrower.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A packet that is this late has overtaken nobody, it is lost.
pub const TOLERANCE: Duration = Duration::from_millis(10);
/// A packet that was missing for so long is of no use to anybody.
const END: Duration = Duration::from_secs(1);
/// How often one packet is asked for.
const TRIES: u32 = 6;
/// Until the first repair has come, and the least and most that is waited for one.
const UNKNOWN_RTT: Duration = Duration::from_millis(100);
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));
/// Packets that are waited for at once.
const MAX_PENDING: usize = 512;
/// Of the packets that come in a second, the part that may be asked for, and what may be in any case.
const SHARE: u64 = 5;
const LEAST: u64 = 20;

/// Missing packets of one SSRC. All indices are extended sequence numbers (RFC 3711 §3.3.1).
#[derive(Debug)]
pub struct Gaps {
    /// The highest index of which it is known whether it has come.
    known: u64,
    pending: BTreeMap<u64, Pending>,
    rtt: Option<Duration>,
    /// When this second began, and the highest index then.
    second: Option<(Instant, u64)>,
    /// Packets that came in the second before, and those asked for in this one.
    before: u64,
    spent: u64,
    figures: Figures,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    since: Instant,
    asked: Option<Instant>,
    tries: u32,
    /// It is late, not only overtaken.
    counted: bool,
}

/// Counts of one SSRC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Packets that were missing for longer than the network takes to reorder them.
    pub missing: u64,
    /// Requests, those for the same packet included.
    pub asked: u64,
    /// Packets that came after they had been asked for.
    pub repaired: u64,
    /// Packets that did not come in time.
    pub given_up: u64,
}

/// What is known of an SSRC at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Of indices below this nobody knows any more whether they have come.
    pub floor: u64,
    /// Highest index that has come.
    pub highest: u64,
    /// Indices from [`Gaps::from`] and `floor` on to `highest` that have not, in ascending order.
    pub missing: Vec<u64>,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Indices to ask for now.
    pub ask: Vec<u64>,
    /// Packets given up at this look: a picture that needs them can be mended by a keyframe only.
    pub given_up: usize,
}

impl Gaps {
    /// Nothing up to `first` is missing.
    pub fn new(first: u64) -> Self {
        Self {
            known: first,
            pending: BTreeMap::new(),
            rtt: None,
            second: None,
            before: 0,
            spent: 0,
            figures: Figures::default(),
        }
    }

    /// The lowest index of which it matters whether it has come.
    pub fn from(&self) -> u64 {
        self.pending.first_key_value().map_or(self.known + 1, |(index, _)| *index)
    }

    /// Is anything waited for?
    pub fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Is this packet waited for?
    pub fn waits_for(&self, index: u64) -> bool {
        self.pending.contains_key(&index)
    }

    /// Counts since the beginning.
    pub fn figures(&self) -> Figures {
        self.figures
    }

    /// Time from a request to its repair, smoothed; a little too long, by the time between two looks.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Takes what is known now, and says what to ask for.
    pub fn look(&mut self, now: Instant, received: &Received) -> Look {
        let mut look = Look::default();
        self.strike_off(now, received);
        self.give_up(now, received.floor, &mut look);
        self.begin_second(now, received.highest);
        for index in received.missing.iter().filter(|index| **index > self.known) {
            self.pending.insert(*index, Pending { since: now, asked: None, tries: 0, counted: false });
        }
        self.known = self.known.max(received.highest);
        while self.pending.len() > MAX_PENDING {
            let first = self.pending.pop_first();
            self.figures.missing += u64::from(first.is_some_and(|(_, pending)| !pending.counted));
            look.given_up += 1;
        }
        for pending in self.pending.values_mut().filter(|pending| !pending.counted && now >= pending.since + TOLERANCE)
        {
            pending.counted = true;
            self.figures.missing += 1;
        }
        self.figures.given_up += look.given_up as u64;
        self.ask(now, &mut look);
        look
    }

    /// What has come is not waited for any more.
    fn strike_off(&mut self, now: Instant, received: &Received) {
        let came = |index: &u64| received.missing.binary_search(index).is_err() && *index >= received.floor;
        let came: Vec<u64> = self.pending.keys().copied().filter(came).collect();
        for pending in came.iter().filter_map(|index| self.pending.remove(index)) {
            let Some(asked) = pending.asked else { continue };
            self.figures.repaired += 1;
            // Of two requests nobody knows which was answered (Karn's algorithm).
            if pending.tries == 1 {
                let measured = now.duration_since(asked);
                self.rtt = Some(self.rtt.map_or(measured, |rtt| (rtt * 7 + measured) / 8));
            }
        }
    }

    fn give_up(&mut self, now: Instant, floor: u64, look: &mut Look) {
        let before = self.pending.len();
        let retry = |pending: &Pending| self.rtt.unwrap_or(UNKNOWN_RTT).clamp(RETRY.0, RETRY.1) * pending.tries;
        self.pending.retain(|index, pending| {
            let last = pending.asked.filter(|_| pending.tries >= TRIES);
            let answered = last.is_none_or(|asked| now.duration_since(asked) < retry(pending));
            *index >= floor && now.duration_since(pending.since) < END && answered
        });
        look.given_up += before - self.pending.len();
    }

    fn begin_second(&mut self, now: Instant, highest: u64) {
        let (since, first) = *self.second.get_or_insert((now, highest));
        let passed = now.duration_since(since).as_millis() as u64;
        if passed >= 1000 {
            self.before = highest.saturating_sub(first) * 1000 / passed;
            (self.second, self.spent) = (Some((now, highest)), 0);
        }
    }

    fn ask(&mut self, now: Instant, look: &mut Look) {
        let first = self.second.map_or(self.known, |(_, first)| first);
        let most = (self.before.max(self.known.saturating_sub(first)) / SHARE).max(LEAST);
        let rtt = self.rtt.unwrap_or(UNKNOWN_RTT).clamp(RETRY.0, RETRY.1);
        for (index, pending) in &mut self.pending {
            let due = match pending.asked {
                None => pending.since + TOLERANCE,
                // Longer each time: the line may be jammed.
                Some(asked) => asked + rtt * (2 + pending.tries) / 2,
            };
            if due > now || pending.tries >= TRIES {
                continue;
            }
            if self.spent >= most {
                return;
            }
            self.spent += 1;
            self.figures.asked += 1;
            (pending.asked, pending.tries) = (Some(now), pending.tries + 1);
            look.ask.push(*index);
        }
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test begins at any time")]
mod tests {
    use super::*;

    struct Line {
        gaps: Gaps,
        start: Instant,
        came: Vec<bool>,
    }

    impl Line {
        fn new() -> Self {
            Self { gaps: Gaps::new(0), start: Instant::now(), came: vec![true] }
        }

        /// Packet by packet, from the next index on.
        fn came(&mut self, which: &[u8]) {
            self.came.extend(which.iter().map(|one| *one == 1));
        }

        fn look(&mut self, ms: u64) -> Look {
            let highest = self.came.iter().rposition(|came| *came).unwrap_or(0) as u64;
            let missing = (self.gaps.from()..=highest).filter(|index| !self.came[*index as usize]).collect();
            let received = Received { floor: 0, highest, missing };
            self.gaps.look(self.start + Duration::from_millis(ms), &received)
        }
    }

    fn asks(indices: &[u64]) -> Look {
        Look { ask: indices.to_vec(), given_up: 0 }
    }

    #[test]
    fn a_gap_is_asked_for_when_it_is_no_reordering() {
        let mut line = Line::new();
        line.came(&[1, 1, 0, 1, 0]);
        assert_eq!(line.look(0), asks(&[]), "3 may be late, 5 was never known to be");
        line.came[3] = true;
        line.came(&[1, 0, 0, 1]);
        assert_eq!(line.look(10), asks(&[]));
        assert!(line.gaps.waits_for(7) && !line.gaps.waits_for(3));
        assert_eq!(line.look(20), asks(&[5, 7, 8]));
        assert_eq!(line.gaps.figures(), Figures { missing: 3, asked: 3, repaired: 0, given_up: 0 });
    }

    #[test]
    fn retries_follow_the_measured_round_trip_and_end() {
        let mut line = Line::new();
        line.came(&[0, 1, 0, 1]);
        line.look(0);
        assert_eq!(line.look(10), asks(&[1, 3]));
        line.came[1] = true;
        assert_eq!(line.look(50), asks(&[]));
        assert_eq!(line.gaps.rtt(), Some(Duration::from_millis(40)));
        let mut asked = vec![];
        let mut given_up = 0;
        for ms in (50..3000).step_by(10) {
            let look = line.look(ms);
            asked.extend(look.ask.iter().map(|_| ms));
            given_up += look.given_up;
        }
        // One and a half round trips, then more and more.
        assert_eq!((asked, given_up), (vec![70, 150, 250, 370, 510], 1));
        assert!(!line.gaps.is_waiting());
        assert_eq!(line.gaps.figures(), Figures { missing: 2, asked: 7, repaired: 1, given_up: 1 });
        line.came[3] = true;
        line.came(&[1]);
        assert_eq!((line.look(4000), line.gaps.figures().repaired), (asks(&[]), 1), "it came after all");
    }

    #[test]
    fn what_nobody_knows_any_more_is_given_up() {
        let mut gaps = Gaps::new(100);
        let now = Instant::now();
        gaps.look(now, &Received { floor: 0, highest: 110, missing: vec![105, 107] });
        let look = gaps.look(now, &Received { floor: 106, highest: 2200, missing: vec![107] });
        assert_eq!((look.given_up, gaps.from()), (1, 107));
    }

    /// A line that is too narrow loses most, and is not asked for most of it once more.
    #[test]
    fn only_a_part_of_what_comes_is_asked_for() {
        let mut line = Line::new();
        let mut asked = vec![0; 6];
        for ms in (0..6000).step_by(10) {
            // 500 packets a second, four of five lost.
            line.came(&[0, 0, 0, 0, 1]);
            asked[ms as usize / 1000] += line.look(ms).ask.len();
        }
        assert!(asked.iter().all(|asked| *asked <= 101), "{asked:?}");
        assert!(asked[1..].iter().all(|asked| *asked >= 90), "{asked:?}");
        assert!(line.gaps.pending.len() <= MAX_PENDING);
    }

    #[test]
    fn a_jump_is_bounded() {
        let mut gaps = Gaps::new(0);
        let now = Instant::now();
        let look = gaps.look(now, &Received { floor: 0, highest: 2001, missing: (1..=2000).collect() });
        assert_eq!((look.given_up, gaps.pending.len()), (2000 - MAX_PENDING, MAX_PENDING));
        assert!(
            gaps.look(now + TOLERANCE, &Received { floor: 0, highest: 2001, missing: (1..=2000).collect() }).ask.len()
                <= 2001 / SHARE as usize + 1
        );
    }

    /// A publisher, a line in both directions, and what is asked for: thousands of lines, each from its seed.
    mod lines {
        use super::*;

        struct Dice(u64);

        impl Dice {
            fn roll(&mut self) -> u64 {
                self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                self.0 >> 33
            }

            fn permille(&mut self, chance: u64) -> bool {
                self.roll() % 1000 < chance
            }
        }

        /// Packets that were lost for good, of so many.
        fn play(seed: u64, loss: u64, rtt_ms: u64, packets: u64) -> (u64, Figures, u64) {
            let mut dice = Dice(seed);
            let mut gaps = Gaps::new(0);
            let start = Instant::now();
            let (mut flying, mut came) = (vec![], vec![false; packets as usize + 1]);
            let (mut highest, mut sent_again, mut sent) = (0u64, 0, 0);
            for ms in 0..packets * 4 + 3000 {
                if ms % 4 == 0 && sent < packets {
                    sent += 1;
                    // One in a hundred is late by a few milliseconds.
                    let late = if dice.permille(10) { dice.roll() % 8 } else { 0 };
                    flying.push((ms + rtt_ms / 2 + late, sent));
                }
                let landed: Vec<u64> = flying.extract_if(.., |(at, _)| *at <= ms).map(|(_, index)| index).collect();
                for index in landed {
                    if !dice.permille(loss) {
                        came[index as usize] = true;
                        highest = highest.max(index);
                    }
                }
                if ms % 10 != 0 {
                    continue;
                }
                let missing = (gaps.from()..=highest).filter(|index| !came[*index as usize]).collect();
                let look = gaps.look(start + Duration::from_millis(ms), &Received { floor: 0, highest, missing });
                assert!(look.ask.iter().all(|index| !came[*index as usize]), "seed {seed}: asked for what is there");
                for index in look.ask {
                    if !dice.permille(loss) {
                        sent_again += 1;
                        flying.push((ms + rtt_ms, index));
                    }
                }
            }
            assert!(!gaps.is_waiting(), "seed {seed}: something is waited for without end");
            let lost = came[1..=highest as usize].iter().filter(|came| !**came).count() as u64;
            (lost, gaps.figures(), sent_again)
        }

        #[test]
        fn nearly_everything_is_repaired_and_all_ends() {
            // At 200 of 1,000, more than may be asked for is lost.
            for (loss, rtt_ms, permille) in [(10, 20, 1), (50, 100, 1), (50, 200, 5), (200, 20, 60)] {
                let (mut lost, mut packets) = (0, 0);
                for seed in 0..100 {
                    let (missing, figures, sent_again) = play(seed, loss, rtt_ms, 1000);
                    assert!(figures.repaired <= sent_again, "seed {seed}: {figures:?}");
                    // A fifth of 250 packets in each of seven seconds.
                    assert!(figures.asked <= 7 * 51, "seed {seed}: {figures:?}");
                    lost += missing;
                    packets += 1000;
                }
                assert!(lost * 1000 <= packets * permille, "{lost} of {packets} at {loss}, {rtt_ms} ms");
            }
        }
    }
}
