//! How fast a source may send: what no viewer could take costs the other sources' time, and is not passed on.

use std::time::Instant;

/// Time's worth of bytes that may come in one burst: keyframes do.
const BURST_MS: u64 = 500;

/// A token bucket.
pub(super) struct Pace {
    bytes_per_second: u64,
    /// Bytes that may come now.
    left: u64,
    filled: Option<Instant>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, left: 0, filled: None }
    }

    /// Whether a packet may go on.
    pub(super) fn admits(&mut self, bytes: usize, now: Instant) -> bool {
        let most = self.bytes_per_second * BURST_MS / 1000;
        let since = self.filled.map_or(BURST_MS * 1000, |filled| {
            now.saturating_duration_since(filled).as_micros().min(u128::from(BURST_MS * 1000)) as u64
        });
        let earned = self.bytes_per_second * since / 1_000_000;
        // What is less than a byte is earned with the next packet.
        if earned > 0 {
            self.left = (self.left + earned).min(most);
            self.filled = Some(now);
        }
        let Some(left) = self.left.checked_sub(bytes as u64) else { return false };
        self.left = left;
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn bursts_pass_and_floods_are_cut_to_the_rate() {
        let (mut pace, start) = (Pace::new(1_000_000), Instant::now());
        let burst = (0..1000).filter(|_| pace.admits(1000, start)).count();
        assert_eq!(burst, 500, "half a second's worth");
        // Ten times the rate, for two seconds.
        let passed = (1..=20_000u64).filter(|n| pace.admits(1000, start + Duration::from_micros(n * 100))).count();
        assert!((1990..=2010).contains(&passed), "{passed}");
    }
}
