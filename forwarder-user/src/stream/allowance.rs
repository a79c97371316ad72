//! What a publisher may send on average: a token bucket that may be overdrawn. What comes is read from the engine's
//! counters, after the fact, so that it costs no packet anything (decision 45).

use std::time::{Duration, Instant};

/// Time's worth of bytes that may come at once: keyframes do.
const BURST: Duration = Duration::from_secs(1);
/// Longest time without media, whatever the excess: longer than this nobody's line sends as fast as a loop can.
const LONGEST: Duration = Duration::from_secs(60);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(250);

/// One publisher's.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    /// Bytes that may come now; below 0 after an excess.
    left: i64,
    filled: Option<Instant>,
    spent_until: Option<Instant>,
}

impl Allowance {
    /// Is it time to look again?
    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.filled.is_none_or(|at| now.saturating_duration_since(at) >= PAUSE)
    }

    /// So many bytes have come since the last time. `bytes_per_second`: what may. Returns for how long nothing may come,
    /// if they were too many.
    pub(super) fn charge(&mut self, bytes: u64, bytes_per_second: u64, now: Instant) -> Option<Duration> {
        let most = worth(bytes_per_second, BURST);
        let since = self.filled.map_or(BURST, |filled| now.saturating_duration_since(filled));
        self.filled = Some(now);
        self.left = self.left.saturating_add(worth(bytes_per_second, since)).min(most);
        self.left = self.left.saturating_sub(bytes.try_into().unwrap_or(i64::MAX));
        if self.left >= 0 || self.is_spent(now) {
            return None;
        }
        let owed = Duration::from_secs_f64(self.left.unsigned_abs() as f64 / bytes_per_second.max(1) as f64);
        let owed = owed.min(LONGEST);
        self.spent_until = Some(now + owed);
        Some(owed)
    }

    /// Must nothing be passed on now?
    pub(super) fn is_spent(&self, now: Instant) -> bool {
        self.spent_until.is_some_and(|until| now < until)
    }
}

fn worth(bytes_per_second: u64, time: Duration) -> i64 {
    let time = time.min(LONGEST).as_millis() as u64;
    (bytes_per_second.saturating_mul(time) / 1000).try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn on_average_no_more_comes_than_may() {
        let (mut allowance, start) = (Allowance::default(), Instant::now());
        // A hundred times what may come, looked at twice a second for ten minutes; while muted nothing counts.
        let (rate, mut passed) = (1_000_000u64, 0);
        for look in 0..1200 {
            let now = start + Duration::from_millis(500 * look);
            let came = if allowance.is_spent(now) { 0 } else { 50 * rate };
            passed += came;
            allowance.charge(came, rate, now);
        }
        assert!(passed <= 600 * rate + 51 * rate, "{passed}");
        assert!(passed >= 500 * rate, "{passed}");
    }

    #[test]
    fn who_keeps_to_it_is_never_muted() {
        let (mut allowance, start) = (Allowance::default(), Instant::now());
        for look in 0..100u64 {
            // Bursts of a second's worth every second.
            let now = start + Duration::from_millis(500 * look);
            let bytes = if look.is_multiple_of(2) { 1_000_000 } else { 0 };
            assert_eq!(allowance.charge(bytes, 1_000_000, now), None, "{look}");
        }
        assert!(!allowance.is_due(start) && allowance.is_due(start + Duration::from_secs(100)));
    }
}
