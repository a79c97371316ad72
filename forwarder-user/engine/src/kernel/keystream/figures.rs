//! What is counted.

use std::sync::atomic::AtomicU64;

/// Totals, for people and metrics.
#[derive(Debug, Default)]
pub struct Figures {
    /// Bytes in rings, those that wait to be wiped included.
    pub memory: AtomicU64,
    /// Tracks that have a ring now; falls when they end.
    pub rings: AtomicU64,
    /// Rings that the kernel has been shown, since the start.
    pub installed: AtomicU64,
    /// How often a track got no ring: out of memory, or of the configured bound.
    pub refused: AtomicU64,
    /// Entries made, since the start; one serves one packet.
    pub filled: AtomicU64,
    /// How often the kernel has woken the producer, since the start.
    pub wakeups: AtomicU64,
}
