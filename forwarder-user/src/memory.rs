//! Memory that was needed once.

use std::time::{Duration, Instant};

/// Lets large pieces have memory of their own, which goes back when they are freed or grow: by itself, glibc stops
/// doing so when the start frees some of them, and tables that grow leave holes of half their size. At the start.
pub(crate) fn prepare() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Bytes; glibc's own default.
#[cfg(target_env = "gnu")]
const LARGE: i32 = 128 << 10;

/// Gives back what glibc keeps for later: 3 MB after the start, which loading BPF objects has taken, and half as
/// much after hundreds of handshakes.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and locks each arena while it looks for whole free pages.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// So many sessions leave enough behind to look for it.
const MANY: usize = 64;
/// So long nobody has come or gone before it is looked for.
const QUIET: Duration = Duration::from_secs(2);

/// Says when it is time to give back what sessions have left.
#[derive(Default)]
pub(crate) struct Turnover {
    /// Sessions that came or went since the last time.
    sessions: usize,
    due: Option<Instant>,
}

impl Turnover {
    /// A session has come or gone.
    pub(crate) fn count(&mut self, now: Instant) {
        self.sessions += 1;
        if self.sessions >= MANY {
            self.due = Some(now + QUIET);
        }
    }

    /// When to look.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Whether it is time; then it begins anew.
    pub(crate) fn is_over(&mut self, now: Instant) -> bool {
        let over = self.due.is_some_and(|due| due <= now);
        if over {
            *self = Self::default();
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_sessions_and_then_none() {
        let (mut turnover, start) = (Turnover::default(), Instant::now());
        (1..MANY).for_each(|_| turnover.count(start));
        assert!(turnover.due().is_none() && !turnover.is_over(start + 2 * QUIET));
        turnover.count(start);
        turnover.count(start + QUIET / 2);
        assert!(!turnover.is_over(start + QUIET) && turnover.is_over(start + QUIET + QUIET / 2));
        assert!(turnover.due().is_none() && !turnover.is_over(start + 9 * QUIET));
    }
}
