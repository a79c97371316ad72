//! The control task's sign of life, which costs it nothing to be asked for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

/// How often the task shows it at least.
pub(super) const BEAT: Duration = Duration::from_secs(1);

/// When the control task last went round its loop.
#[derive(Clone, Debug)]
pub(super) struct Pulse {
    start: Instant,
    /// Milliseconds since `start`.
    last: Arc<AtomicU64>,
    /// This host has no address for media.
    unreachable: Arc<AtomicBool>,
    /// New sessions are refused.
    draining: Arc<AtomicBool>,
}

impl Pulse {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), last: Arc::default(), unreachable: Arc::default(), draining: Arc::default() }
    }

    pub(super) fn beat(&self, now: Instant) {
        self.last.store(now.duration_since(self.start).as_millis() as u64, Relaxed);
    }

    pub(super) fn tell_reachable(&self, reachable: bool) {
        self.unreachable.store(!reachable, Relaxed);
    }

    pub(super) fn tell_draining(&self, draining: bool) {
        self.draining.store(draining, Relaxed);
    }

    /// Whether new sessions are refused.
    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Relaxed)
    }

    /// Whether peers can reach this host, as far as it knows.
    pub(super) fn is_reachable(&self) -> bool {
        !self.unreachable.load(Relaxed)
    }

    /// Since the last one.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.duration_since(self.start).saturating_sub(Duration::from_millis(self.last.load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_age_is_that_of_the_last_beat() {
        let pulse = Pulse::new();
        let at = |seconds| pulse.start + Duration::from_secs(seconds);
        assert_eq!(pulse.age(at(2)), Duration::from_secs(2));
        pulse.clone().beat(at(5));
        assert_eq!(pulse.age(at(7)), Duration::from_secs(2));
        assert_eq!(pulse.age(at(4)), Duration::ZERO);
    }
}
