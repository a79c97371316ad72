//! Watches a source while it plays, each track by itself, and says why viewers may see nothing.

use std::time::{Duration, Instant};

use penstock_media::{Kind, codec::Codec};
use penstock_rtp::Seen;

use super::reason::{Reason, Reasons};

/// Between two looks.
pub(super) const EVERY: Duration = Duration::from_secs(2);
/// Without media for so long, the connection is given up, unless its frames are further apart.
pub(super) const STALLED: Duration = Duration::from_secs(10);
/// The same, while it is not known how far they are.
const STALLED_SLOW: Duration = Duration::from_secs(30);
/// Longest patience.
const STALLED_MOST: Duration = Duration::from_secs(120);
/// A track is silent after this time, unless its frames are further apart.
const SILENT: Duration = Duration::from_secs(10);
/// Keyframes that are further apart are as good as none, unless they were before.
const KEYFRAME: Duration = Duration::from_secs(12);
/// What has happened is told for so long.
const TOLD: Duration = Duration::from_secs(60);
/// Clocks that are set more often within that time are worth a word: once is daylight saving.
const JUMPS: u64 = 3;

/// One track.
#[derive(Debug)]
pub(super) struct Track {
    /// When a packet came last, whatever became of it.
    pub(super) heard: Instant,
    /// Whether one came at all on this connection.
    pub(super) any: bool,
    /// The longest time between two.
    longest: Duration,
    /// Keyframes when looked last, when the last one was seen, and the longest time between two.
    keyframes: u64,
    keyframe_at: Instant,
    keyframes_apart: Duration,
    /// Jumps of the clock at the begin of this connection.
    jumps: u64,
    jumped: Option<Instant>,
}

impl Track {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            heard: now,
            any: false,
            longest: Duration::ZERO,
            keyframes: 0,
            keyframe_at: now,
            keyframes_apart: Duration::ZERO,
            jumps: 0,
            jumped: None,
        }
    }

    /// A connection begins.
    pub(super) fn begin(&mut self, now: Instant, seen: &Seen) {
        let longest = self.longest;
        *self = Self { longest, keyframes: seen.keyframes, jumps: seen.clock_jumps, ..Self::new(now) };
    }

    /// A packet has come. What comes together has one time.
    pub(super) fn packet(&mut self, now: Instant) {
        if now != self.heard {
            if self.any {
                self.longest = self.longest.max(now.saturating_duration_since(self.heard));
            }
            self.heard = now;
        }
        self.any = true;
    }

    /// How long its silence is no failure.
    pub(super) fn patience(&self) -> Duration {
        if self.any && self.longest == Duration::ZERO {
            return STALLED_SLOW;
        }
        (self.longest * 3).clamp(STALLED, STALLED_MOST)
    }

    /// What is wrong now. `others`: when another track was heard last.
    pub(super) fn look(&mut self, codec: Codec, seen: &Seen, others: Option<Instant>, now: Instant) -> Reasons {
        let (mut reasons, video) = (Reasons::default(), codec.kind() == Kind::Video);
        let silent_for = now.saturating_duration_since(self.heard);
        let others = others.is_some_and(|at| now.saturating_duration_since(at) < EVERY * 2);
        let silent = others && silent_for > SILENT.max(self.longest * 3);
        reasons.insert_if(if video { Reason::VideoSilent } else { Reason::AudioSilent }, silent);
        if seen.clock_jumps >= self.jumps + JUMPS {
            (self.jumps, self.jumped) = (seen.clock_jumps, Some(now));
        }
        let jumped = self.jumped.is_some_and(|at| now.saturating_duration_since(at) < TOLD);
        reasons.insert_if(Reason::ClockJumps, jumped);
        reasons.insert_if(Reason::WrongClock, seen.wrong_clock);
        if video {
            reasons.insert_if(Reason::BFrames, seen.b_frames);
            reasons.insert_if(Reason::CodecNotEverywhere, codec == Codec::H265);
            reasons.insert_if(Reason::NoParameterSets, !seen.has_sets && seen.frames > 0);
            reasons.insert_if(Reason::NoKeyframe, !silent && self.any && self.lacks_keyframe(seen.keyframes, now));
        }
        reasons
    }

    fn lacks_keyframe(&mut self, keyframes: u64, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.keyframe_at);
        if keyframes != self.keyframes {
            self.keyframes_apart = self.keyframes_apart.max(since);
            (self.keyframes, self.keyframe_at) = (keyframes, now);
            return false;
        }
        since > KEYFRAME.max(self.keyframes_apart * 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bench {
        video: Track,
        seen: Seen,
        now: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let now = Instant::now();
            Self { video: Track::new(now), seen: Seen { has_sets: true, ..Seen::default() }, now }
        }

        /// A packet each so many milliseconds, for so many seconds.
        fn play(&mut self, seconds: u64, every: u64) {
            for _ in 0..seconds * 1000 / every {
                self.now += Duration::from_millis(every);
                self.seen.frames += 1;
                self.video.packet(self.now);
            }
        }

        fn look(&mut self) -> Vec<&'static str> {
            let reasons = self.video.look(Codec::H264, &self.seen, Some(self.now), self.now);
            reasons.iter().map(Reason::name).collect()
        }
    }

    #[test]
    fn a_stream_that_is_right_has_no_reason() {
        let mut bench = Bench::new();
        for _ in 0..30 {
            bench.play(2, 40);
            bench.seen.keyframes += 1;
            assert!(bench.look().is_empty());
        }
        assert_eq!(bench.video.patience(), STALLED);
    }

    #[test]
    fn keyframes_that_never_come_or_come_no_more() {
        let mut bench = Bench::new();
        bench.play(10, 40);
        assert!(bench.look().is_empty());
        bench.play(4, 40);
        assert_eq!(bench.look(), ["no_keyframe"]);
        bench.seen.keyframes += 1;
        assert!(bench.look().is_empty());
        bench.play(20, 40);
        assert!(bench.look().is_empty(), "they are far apart");
        bench.seen.keyframes += 1;
        bench.play(44, 40);
        bench.look();
        bench.play(140, 40);
        assert_eq!(bench.look(), ["no_keyframe"]);
    }

    #[test]
    fn silence_is_measured_by_the_track_s_own_pace() {
        let mut bench = Bench::new();
        bench.play(4, 40);
        bench.seen.keyframes += 1;
        bench.look();
        bench.now += Duration::from_secs(11);
        assert_eq!(bench.look(), ["video_silent"]);
        let mut slow = Bench::new();
        assert_eq!(slow.video.patience(), STALLED);
        slow.play(12, 12_000);
        assert_eq!(slow.video.patience(), STALLED_SLOW, "one frame says nothing");
        slow.play(12, 12_000);
        slow.seen.keyframes += 1;
        slow.look();
        slow.now += Duration::from_secs(12);
        assert!(slow.look().is_empty());
        assert_eq!(slow.video.patience(), Duration::from_secs(36));
    }

    #[test]
    fn what_else_is_wrong() {
        let mut bench = Bench::new();
        bench.play(1, 40);
        bench.seen.clock_jumps = 1;
        assert!(bench.look().is_empty(), "once");
        bench.seen = Seen { has_sets: false, b_frames: true, wrong_clock: true, clock_jumps: 3, ..bench.seen };
        assert_eq!(bench.look(), ["no_parameter_sets", "b_frames", "clock_jumps", "wrong_clock"]);
        bench.now += TOLD + SILENT;
        assert_eq!(bench.look(), ["no_parameter_sets", "b_frames", "wrong_clock", "video_silent"]);
    }
}
