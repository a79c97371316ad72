//! What the engine counts of packets that are kept, all tracks together, those that have gone included.

use std::sync::{
    PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use super::tables::Tables;

/// See the module.
#[derive(Default)]
pub(super) struct Totals {
    hits: AtomicU64,
    misses: AtomicU64,
    overflows: AtomicU64,
    sealed_again: AtomicU64,
}

impl Totals {
    /// A subscriber of a track with a keyframe cache began, with a kept keyframe or without.
    pub(super) fn began(&self, with_keyframe: bool) {
        let total = if with_keyframe { &self.hits } else { &self.misses };
        total.fetch_add(1, Relaxed);
    }

    /// A group of pictures was let go.
    pub(super) fn overflow(&self) {
        self.overflows.fetch_add(1, Relaxed);
    }

    /// A packet was sealed again.
    pub(super) fn sealed_again(&self) {
        self.sealed_again.fetch_add(1, Relaxed);
    }

    /// By name, and the memory that kept packets take now.
    pub(super) fn list(&self, tables: &Tables) -> [(&'static str, u64); 5] {
        let kept = tables.publishers.values().filter_map(|publisher| publisher.kept.as_ref());
        let bytes = kept.map(|kept| kept.lock().unwrap_or_else(PoisonError::into_inner).stats().bytes as u64).sum();
        [
            ("kept_bytes", bytes),
            ("keyframe_cache_hits", self.hits.load(Relaxed)),
            ("keyframe_cache_misses", self.misses.load(Relaxed)),
            ("keyframe_cache_overflows", self.overflows.load(Relaxed)),
            ("sealed_again", self.sealed_again.load(Relaxed)),
        ]
    }
}
