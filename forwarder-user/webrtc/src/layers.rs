//! Which of the layers of a picture goes to the viewers (simulcast, RFC 8853): the largest one that is sent.
//!
//! No standard says which that is: pages name their layers `q;h;f` or `f;h;q`, OBS numbers them. So all are taken, and
//! their keyframes tell how large each is. An encoder switches layers off when its line is narrow, and on again; all
//! layers of one frame are sent together, so a layer has stopped when another one goes on without it, however slow
//! the picture is.
//!
//! No clock, no socket: whoever receives says what has come, and when.

use std::time::{Duration, Instant};

/// After the first layer, the others are waited for so long before one is chosen: they begin together as a rule.
const GATHER: Duration = Duration::from_millis(400);
/// A layer that others are ahead of by this has stopped.
const STOPPED: Duration = Duration::from_millis(700);
/// A layer that has stopped once must go on for so long before it is taken again, twice as long each time, up to a
/// bound: each change costs the viewers a keyframe.
const RETURN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(16));

/// What is known of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Pixels of its picture; 0: not known.
    pub area: u64,
    /// When its last packet came, on a clock that is the same for all layers.
    pub last: Duration,
}

/// The choice for one picture.
#[derive(Debug, Default)]
pub struct Choice {
    current: Option<usize>,
    /// Since when one has to be chosen and not all are there.
    waiting: Option<Instant>,
    past: Vec<Past>,
}

/// What a layer has done.
#[derive(Clone, Copy, Debug, Default)]
struct Past {
    /// How often it has stopped.
    stops: u32,
    /// Since when it goes on.
    since: Option<Instant>,
}

impl Past {
    fn note(&mut self, layer: Option<&Seen>, newest: Duration, now: Instant) {
        match layer {
            Some(layer) if newest.saturating_sub(layer.last) < STOPPED => _ = self.since.get_or_insert(now),
            Some(_) => self.stops += u32::from(self.since.take().is_some()),
            // Its SSRC has ended, by no fault of the line.
            None => self.since = None,
        }
    }

    /// May it be taken although another one is there?
    fn is_steady(&self, now: Instant) -> bool {
        let Some(doubled) = self.stops.checked_sub(1) else { return true };
        let wait = (RETURN.0 * 2u32.pow(doubled.min(8))).min(RETURN.1);
        self.since.is_some_and(|since| now.saturating_duration_since(since) >= wait)
    }
}

impl Choice {
    /// What goes to the viewers.
    pub fn current(&self) -> Option<usize> {
        self.current
    }

    /// Looks at the layers, in the order in which their sender prefers them where nothing else decides; `None`: nothing
    /// has come of it, or its SSRC has ended. Says which one is to go to the viewers.
    pub fn look(&mut self, now: Instant, layers: &[Option<Seen>]) -> Option<usize> {
        let newest = layers.iter().flatten().map(|layer| layer.last).max()?;
        self.past.resize(layers.len(), Past::default());
        for (past, layer) in self.past.iter_mut().zip(layers) {
            past.note(layer.as_ref(), newest, now);
        }
        let undecided = match self.current {
            None => layers.iter().any(Option::is_none),
            Some(current) => layers.get(current).is_none_or(Option::is_none),
        };
        if undecided && now < *self.waiting.get_or_insert(now) + GATHER {
            return self.current;
        }
        self.waiting = None;
        self.current = self.best(now, layers);
        self.current
    }

    /// The largest that goes on and is steady; without any, the largest that goes on.
    fn best(&self, now: Instant, layers: &[Option<Seen>]) -> Option<usize> {
        let there = self.past.iter().zip(layers).enumerate().filter(|(_, (past, _))| past.since.is_some());
        let ranked = there.filter_map(|(place, (past, layer))| {
            let is_current = self.current == Some(place);
            let area = layer.as_ref()?.area;
            // Of equal ones that which is there already, else the one that its sender prefers.
            Some((is_current || past.is_steady(now), area, is_current, std::cmp::Reverse(place)))
        });
        ranked.max().map(|(.., place)| place.0)
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test begins at any time")]
mod tests {
    use super::*;

    const AREAS: [u64; 3] = [160 * 90, 320 * 180, 640 * 360];

    struct Sender {
        choice: Choice,
        start: Instant,
        last: [Option<u64>; 3],
        areas: [u64; 3],
    }

    impl Sender {
        fn new(areas: [u64; 3]) -> Self {
            Self { choice: Choice::default(), start: Instant::now(), last: [None; 3], areas }
        }

        /// Frames every so many ms of these layers, looked at every 100 ms; what was chosen, changes only.
        fn play(&mut self, ms: std::ops::Range<u64>, every: u64, sent: [bool; 3]) -> Vec<Option<usize>> {
            let mut chosen = vec![];
            for at in ms.step_by(10) {
                if at % every == 0 {
                    self.last.iter_mut().zip(sent).filter(|(_, sent)| *sent).for_each(|(last, _)| *last = Some(at));
                }
                if at % 100 == 0 {
                    let seen = |(last, area): (&Option<u64>, &u64)| {
                        Some(Seen { area: *area, last: Duration::from_millis((*last)?) })
                    };
                    let layers: Vec<_> = self.last.iter().zip(&self.areas).map(seen).collect();
                    chosen.push(self.choice.look(self.start + Duration::from_millis(at), &layers));
                }
            }
            chosen.dedup();
            chosen
        }
    }

    #[test]
    fn the_largest_is_taken_in_whatever_order() {
        for (areas, best) in [(AREAS, 2), ([AREAS[2], AREAS[1], AREAS[0]], 0), ([AREAS[1], AREAS[2], AREAS[0]], 1)] {
            let mut sender = Sender::new(areas);
            assert_eq!(sender.play(0..3000, 40, [true; 3]), [Some(best)]);
        }
        // Without sizes, what the sender names first; what has one goes before what has none.
        assert_eq!(Sender::new([0; 3]).play(0..1000, 40, [true; 3]), [Some(0)]);
        assert_eq!(Sender::new([0, 0, 5]).play(0..1000, 40, [true; 3]), [Some(2)]);
    }

    #[test]
    fn layers_that_come_late_are_waited_for_a_little_and_taken_when_they_come() {
        let mut sender = Sender::new(AREAS);
        assert_eq!(sender.play(0..300, 40, [true, false, false]), [None]);
        assert_eq!(sender.play(300..600, 40, [true, true, false]), [None, Some(1)]);
        assert_eq!(sender.play(600..5000, 40, [true; 3]), [Some(2)]);
        let mut alone = Sender::new(AREAS);
        assert_eq!(alone.play(0..5000, 40, [true, false, false]), [None, Some(0)]);
    }

    #[test]
    fn a_layer_that_stops_makes_way_and_comes_back_when_it_is_steady() {
        let mut sender = Sender::new(AREAS);
        sender.play(0..3000, 40, [true; 3]);
        assert_eq!(sender.play(3000..5000, 40, [true, true, false]), [Some(2), Some(1)]);
        assert_eq!(sender.play(5000..6000, 40, [true, false, false]), [Some(1), Some(0)]);
        assert_eq!(sender.play(6000..7900, 40, [true; 3]), [Some(0)]);
        assert_eq!(sender.play(7900..9000, 40, [true; 3]), [Some(0), Some(2)]);
        // The second time it takes longer.
        sender.play(9000..10_000, 40, [true, true, false]);
        assert_eq!(sender.play(10_000..13_900, 40, [true; 3]), [Some(1)]);
        assert_eq!(sender.play(13_900..15_000, 40, [true; 3]), [Some(1), Some(2)]);
        // All stop: nothing changes, however long.
        assert_eq!(sender.play(15_000..60_000, 40, [false; 3]), [Some(2)]);
    }

    #[test]
    fn a_slow_picture_has_not_stopped() {
        let mut sender = Sender::new(AREAS);
        assert_eq!(sender.play(0..20_000, 1000, [true; 3]), [Some(2)]);
    }

    /// Its tracks are learnt anew, by another engine.
    #[test]
    fn a_layer_whose_ssrc_has_ended_is_waited_for() {
        let mut sender = Sender::new(AREAS);
        sender.play(0..3000, 40, [true; 3]);
        sender.last = [None; 3];
        assert_eq!(sender.play(3000..3300, 40, [true, true, false]), [Some(2)]);
        assert_eq!(sender.play(3300..4000, 40, [true; 3]), [Some(2)]);
        sender.last = [None; 3];
        assert_eq!(sender.play(4000..5000, 40, [true, true, false]), [Some(2), Some(1)]);
    }

    #[test]
    fn one_layer_and_none() {
        let mut choice = Choice::default();
        let now = Instant::now();
        assert_eq!(choice.look(now, &[]), None);
        assert_eq!(choice.look(now, &[None]), None);
        assert_eq!(choice.look(now, &[Some(Seen { area: 1, last: Duration::ZERO })]), Some(0));
    }
}
