//! One continuous line of timestamps out of whatever a source does to its own.
//!
//! A camera that reboots, is connected to again or has its clock set goes on here as time went on, so that viewers
//! stay attached. Whole frames have timestamps here, not packets.

use std::time::{Duration, Instant};

/// A timestamp may step ahead by this much although no time has passed: encoders that were idle, a burst of the past.
const MAX_STEP: Duration = Duration::from_secs(2);
/// Frames that step back by more are no B-frames.
const MAX_BACK: u32 = 1;
/// A clock is compared with ours over so much time, and so many frames.
const WINDOW: Duration = Duration::from_secs(2);
const WINDOW_FRAMES: u32 = 5;
/// Rates that clocks were seen to have in the place of the right one, Hz.
const RATES: [u32; 8] = [1000, 8000, 10_000, 16_000, 44_100, 48_000, 90_000, 1_000_000];

/// What a frame's place in the stream says of its timestamp.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hint {
    /// It may be shown before the one that comes before it: a B-frame.
    pub may_step_back: bool,
    /// How long the frame before it lasts, in units of the clock, if its length says so.
    pub duration: Option<u32>,
    /// Its timestamp does not follow from the ones before.
    pub other_clock: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Clock {
    /// Hz, of the codec.
    rate: u32,
    /// Hz, of the source, if it is known to be another one. 0: none that could be used.
    real: u32,
    last: Option<Tick>,
    /// The timestamp that left last, whatever the line is.
    told: u32,
    /// The last step ahead that was as it should be.
    typical: u32,
    /// Frames in a row whose timestamps stood still.
    still: u8,
    window: Option<Window>,
    /// Rate that the last window has shown, if it was wrong.
    wrong: Option<u32>,
    jumps: u64,
}

/// The last frame.
#[derive(Clone, Copy, Debug)]
struct Tick {
    source: u32,
    out: u32,
    arrived: Instant,
}

/// The begin of a comparison.
#[derive(Clone, Copy, Debug)]
struct Window {
    source: u32,
    began: Instant,
    frames: u32,
}

impl Clock {
    /// `rate` in Hz.
    pub(crate) fn new(rate: u32) -> Self {
        Self { rate, real: rate, last: None, told: 0, typical: 0, still: 0, window: None, wrong: None, jumps: 0 }
    }

    /// Goes on where a line with the same clock rate stands.
    pub(crate) fn succeed(&mut self, former: &Self) {
        if former.rate == self.rate {
            (self.last, self.told) = (former.last, former.told);
        }
    }

    /// Times that the source's clock was set.
    pub(crate) fn jumps(&self) -> u64 {
        self.jumps
    }

    /// Whether the source's clock does not run as the codec's should.
    pub(crate) fn is_wrong(&self) -> bool {
        self.real != self.rate || self.still > 8
    }

    /// A timestamp of the source's on the line. `None`: nothing has come yet.
    pub(crate) fn map(&self, timestamp: u32) -> Option<u32> {
        let last = self.last?;
        let step = i64::from(timestamp.wrapping_sub(last.source) as i32);
        Some(last.out.wrapping_add(self.scaled(step) as u32))
    }

    /// The timestamp of the next frame.
    pub(crate) fn frame(&mut self, source: u32, now: Instant, hint: Hint) -> u32 {
        let Some(last) = self.last else {
            self.last = Some(Tick { source, out: source, arrived: now });
            self.told = source;
            return source;
        };
        let out = match self.step(source, now, hint, &last) {
            Some(step) => last.out.wrapping_add(step as u32),
            None => {
                self.window = None;
                last.out.wrapping_add(self.by_arrival(now, &last, hint.duration))
            }
        };
        self.compare(source, now);
        self.last = Some(Tick { source, out, arrived: now });
        let behind = out.wrapping_sub(self.told) as i32 <= 0;
        // Two frames never have one timestamp, and only B-frames step back.
        self.told = if behind && !hint.may_step_back { self.told.wrapping_add(1) } else { out };
        self.told
    }

    /// By how much the line goes on. `None`: the source does not know.
    fn step(&mut self, source: u32, now: Instant, hint: Hint, last: &Tick) -> Option<i64> {
        if hint.other_clock || self.real == 0 {
            return None;
        }
        let step = self.scaled(i64::from(source.wrapping_sub(last.source) as i32));
        if step == 0 {
            self.still = self.still.saturating_add(1);
            // Once, it is a clock that is not fine enough.
            return (self.still < 2 && hint.duration.is_none()).then_some(0);
        }
        self.still = 0;
        if step < 0 {
            let back = hint.may_step_back && step >= -i64::from(MAX_BACK * self.rate);
            self.jumps += u64::from(!back);
            return back.then_some(step);
        }
        let passed = self.units(now.saturating_duration_since(last.arrived));
        if step > self.units(MAX_STEP).max(3 * i64::from(self.typical)) + 2 * passed {
            self.jumps += 1;
            return None;
        }
        self.typical = step as u32;
        Some(step)
    }

    /// By how much the line goes on where only the time of arrival is known: frames come in bursts, so what passes
    /// between two frames is no less than between those before.
    fn by_arrival(&self, now: Instant, last: &Tick, duration: Option<u32>) -> u32 {
        let passed = self.units(now.saturating_duration_since(last.arrived)).min(i64::from(u32::MAX >> 2)) as u32;
        let typical = duration.unwrap_or(if self.still > 1 { 0 } else { self.typical });
        if passed < 2 * typical { typical.max(1) } else { passed.max(1) }
    }

    /// Compares the source's clock with ours. One comparison proves nothing: the past comes in a burst, networks stall.
    fn compare(&mut self, source: u32, now: Instant) {
        let window = *self.window.get_or_insert(Window { source, began: now, frames: 0 });
        let passed = now.saturating_duration_since(window.began);
        if passed < WINDOW || window.frames < WINDOW_FRAMES {
            if let Some(window) = &mut self.window {
                window.frames += 1;
            }
            return;
        }
        self.window = Some(Window { source, began: now, frames: 0 });
        let units = u64::from(source.wrapping_sub(window.source));
        let seen = u32::try_from(units * 1000 / (passed.as_millis() as u64).max(1)).unwrap_or(u32::MAX);
        let assumed = if self.real == 0 { self.rate } else { self.real };
        let tenths = 10 * u64::from(seen) / u64::from(assumed.max(1));
        if (6..16).contains(&tenths) {
            (self.wrong, self.real) = (None, assumed);
            return;
        }
        let before = self.wrong.replace(seen);
        if before.is_some_and(|before| seen.abs_diff(before) <= before / 5) && seen > 0 {
            let near = RATES.into_iter().find(|rate| seen.abs_diff(*rate) <= rate / 8);
            self.real = near.unwrap_or(0);
            self.wrong = None;
        }
    }

    fn scaled(&self, step: i64) -> i64 {
        if self.real == self.rate || self.real == 0 {
            return step;
        }
        step * i64::from(self.rate) / i64::from(self.real)
    }

    fn units(&self, time: Duration) -> i64 {
        (time.as_nanos() * u128::from(self.rate) / 1_000_000_000) as i64
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test begins at any time")]
mod tests {
    use super::*;

    const FRAME: Duration = Duration::from_millis(40);

    struct Bench {
        clock: Clock,
        now: Instant,
    }

    impl Bench {
        fn new(rate: u32) -> Self {
            Self { clock: Clock::new(rate), now: Instant::now() }
        }

        /// A frame that comes in its time.
        fn frame(&mut self, source: u32) -> u32 {
            self.hinted(source, Hint::default())
        }

        fn hinted(&mut self, source: u32, hint: Hint) -> u32 {
            self.now += FRAME;
            self.clock.frame(source, self.now, hint)
        }
    }

    #[test]
    fn a_clock_that_is_right_is_kept() {
        let mut bench = Bench::new(90_000);
        for n in 0..1000u32 {
            let source = (u32::MAX - 9000).wrapping_add(3600 * n);
            assert_eq!(bench.frame(source), source);
        }
        assert!(!bench.clock.is_wrong());
        assert_eq!(bench.clock.jumps(), 0);
        let now = bench.now + Duration::from_secs(60);
        assert_eq!(bench.clock.frame(5_400_000 + 3_581_999, now, Hint::default()), 8_981_999, "a pause");
    }

    #[test]
    fn a_clock_that_is_set_goes_on() {
        let mut bench = Bench::new(90_000);
        for n in 0..10 {
            bench.frame(3600 * n);
        }
        assert_eq!(bench.frame(900_000_000), 10 * 3600, "ahead");
        assert_eq!(bench.frame(900_003_600), 11 * 3600);
        assert_eq!(bench.frame(17), 12 * 3600, "back");
        assert_eq!(bench.frame(3617), 13 * 3600);
        assert_eq!(bench.frame(0), 14 * 3600, "a little back, and no B-frame");
        assert_eq!(bench.frame(3600 + 270_000), 15 * 3600, "three seconds ahead");
        assert_eq!(bench.clock.jumps(), 4);
        assert_eq!(bench.clock.map(3600 + 270_090), Some(15 * 3600 + 90));
    }

    #[test]
    fn b_frames_keep_their_timestamps() {
        let mut bench = Bench::new(90_000);
        let b = Hint { may_step_back: true, ..Hint::default() };
        bench.frame(0);
        assert_eq!(bench.frame(10_800), 10_800);
        assert_eq!(bench.hinted(3600, b), 3600);
        assert_eq!(bench.hinted(7200, b), 7200);
        assert_eq!(bench.frame(21_600), 21_600);
        assert_eq!(bench.clock.jumps(), 0);
    }

    #[test]
    fn timestamps_that_stand_still_follow_time() {
        let mut bench = Bench::new(90_000);
        bench.frame(0);
        bench.frame(3600);
        assert_eq!(bench.frame(3600), 3601, "once: the clock is coarse");
        assert_eq!(bench.frame(10_800), 10_800);
        let mut last = 10_800;
        for n in 0..50 {
            let out = bench.frame(10_800);
            assert!(out > last && (n < 2 || out - last == 3600), "{out} after {last}");
            last = out;
        }
        assert!(bench.clock.is_wrong());
    }

    #[test]
    fn a_wrong_rate_is_found_and_mended() {
        for (rate, real) in [(90_000, 1000), (8000, 16_000), (90_000, 1_000_000)] {
            let mut bench = Bench::new(rate);
            let mut out = vec![];
            for n in 0..300u64 {
                out.push(bench.frame((n * 40 * real / 1000) as u32));
            }
            assert!(bench.clock.is_wrong(), "{real}");
            let step = rate / 25;
            assert!(out[200..].windows(2).all(|two| two[1] - two[0] == step), "{real}: {:?}", &out[200..210]);
            assert!(out.windows(2).all(|two| two[1] > two[0]));
        }
    }

    #[test]
    fn a_burst_of_the_past_is_no_wrong_clock() {
        let mut bench = Bench::new(90_000);
        for n in 0..250 {
            let now = bench.now;
            assert_eq!(bench.clock.frame(3600 * n, now, Hint::default()), 3600 * n);
        }
        for n in 250..600 {
            assert_eq!(bench.frame(3600 * n), 3600 * n);
        }
        assert!(!bench.clock.is_wrong());
    }

    #[test]
    fn another_clock_begins_where_the_former_ends() {
        let mut bench = Bench::new(90_000);
        bench.frame(u32::MAX - 100);
        let later = bench.now + Duration::from_secs(2);
        let hint = Hint { other_clock: true, ..Hint::default() };
        let out = (u32::MAX - 100).wrapping_add(180_000);
        assert_eq!(bench.clock.frame(77, later, hint), out);
        let mut next = Clock::new(90_000);
        next.succeed(&bench.clock);
        assert_eq!(next.frame(5, later + FRAME, hint), out.wrapping_add(3600));
    }

    #[test]
    fn sound_lasts_as_long_as_its_bytes() {
        let mut bench = Bench::new(8000);
        let hint = Hint { duration: Some(320), ..Hint::default() };
        bench.hinted(5, hint);
        assert_eq!(bench.hinted(5, hint), 325);
        assert_eq!(bench.hinted(5, hint), 645);
    }
}
