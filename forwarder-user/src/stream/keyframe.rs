//! When to ask a publisher for a keyframe: requests of all viewers are merged, and two requests
//! to the publisher keep a distance, since each costs every viewer bandwidth.

use std::time::{Duration, Instant};

/// Keyframe requests of one video track.
#[derive(Debug, Default)]
pub(super) struct Keyframes {
    wanted: bool,
    last: Option<Instant>,
    /// FIR sequence number (RFC 5104 §4.3.1.1).
    pub(super) seq: u8,
}

impl Keyframes {
    /// Somebody needs one.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// When one is to be asked for; `None` if nobody needs one.
    pub(super) fn due(&self, now: Instant, distance: Duration) -> Option<Instant> {
        self.wanted.then(|| self.last.map_or(now, |last| last + distance))
    }

    /// Is one to be asked for now? Then the request counts as sent.
    pub(super) fn take(&mut self, now: Instant, distance: Duration) -> bool {
        let take = self.due(now, distance).is_some_and(|due| due <= now);
        if take {
            self.wanted = false;
            self.last = Some(now);
            self.seq = self.seq.wrapping_add(1);
        }
        take
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_merged_and_keep_their_distance() {
        let distance = Duration::from_millis(500);
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut keyframes = Keyframes::default();
        assert!(!keyframes.take(start, distance));
        keyframes.want();
        keyframes.want();
        assert!(keyframes.take(start, distance));
        assert!(!keyframes.take(at(600), distance), "nobody asked again");
        keyframes.want();
        assert!(keyframes.take(at(600), distance));
        keyframes.want();
        assert_eq!(keyframes.due(at(700), distance), Some(at(1100)));
        assert!(!keyframes.take(at(1099), distance));
        assert!(keyframes.take(at(1100), distance));
    }
}
