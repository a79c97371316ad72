//! Work that others ask for, and how much of it they get.

use std::time::Instant;

/// So much work in a second, no more.
pub(super) struct Budget {
    since: Instant,
    left: u32,
    per_second: u32,
}

impl Budget {
    pub(super) fn new(now: Instant, per_second: u32) -> Self {
        Self { since: now, left: per_second, per_second }
    }

    /// Takes one unit; `false` if there is none left.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if now.duration_since(self.since).as_secs() >= 1 {
            (self.since, self.left) = (now, self.per_second);
        }
        let taken = self.left > 0;
        self.left = self.left.saturating_sub(1);
        taken
    }
}
