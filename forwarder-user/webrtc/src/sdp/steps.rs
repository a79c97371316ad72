//! How much work a text made: counted in tests only.

#[cfg(test)]
thread_local!(static STEPS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) });

/// A line or a word has been looked at.
#[inline]
pub(super) fn step() {
    #[cfg(test)]
    STEPS.with(|steps| steps.set(steps.get() + 1));
}

/// Steps that `work` takes.
#[cfg(test)]
pub(super) fn count<T>(work: impl FnOnce() -> T) -> (T, usize) {
    STEPS.with(|steps| steps.set(0));
    let done = work();
    (done, STEPS.with(std::cell::Cell::get))
}
