//! What a new subscriber has yet to get of what its track has kept. Who sends it, and why so: `catch_up`.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
};

use forwarder_common::{ExtendedSeq, RtpHeader};
use tokio::sync::Notify;

use super::kept::KeptPacket;

/// Parts of a backlog.
pub(super) const STEPS: usize = 32;

/// What a subscriber gets of the past.
pub(super) struct Start {
    /// First incoming index that was not accepted before it was attached.
    live_from: u64,
    first_in: u64,
    /// Packets of the first part.
    pub part: usize,
    behind: AtomicBool,
    backlog: Mutex<VecDeque<KeptPacket>>,
}

impl Start {
    /// `highest`: the last index that was accepted; `backlog`: kept packets up to it.
    pub(super) fn new(highest: ExtendedSeq, backlog: VecDeque<KeptPacket>) -> Self {
        let live_from = highest.0 + 1;
        Self {
            live_from,
            first_in: backlog.front().map_or(live_from, |first| first.index.0),
            part: backlog.len() / STEPS,
            behind: AtomicBool::new(!backlog.is_empty()),
            backlog: Mutex::new(backlog),
        }
    }

    /// First incoming index that the subscriber gets at all.
    pub(super) fn first_in(&self) -> u64 {
        self.first_in
    }

    /// First incoming index that it gets as it comes.
    pub(super) fn live_from(&self) -> u64 {
        self.live_from
    }

    /// What comes now goes behind the backlog.
    pub(super) fn is_behind(&self) -> bool {
        // Changed by the thread that feeds the track, and before anybody else sees the subscriber.
        self.behind.load(Relaxed)
    }

    /// Puts a packet behind the backlog.
    pub(super) fn append(&self, index: ExtendedSeq, header: &RtpHeader, payload: &[u8]) {
        self.lock().push_back(KeptPacket::new(index, header, payload, 0));
    }

    /// It has all: from now on it gets packets as they come.
    pub(super) fn caught_up(&self) {
        self.behind.store(false, Relaxed);
    }

    /// The packets that it lacks.
    pub(super) fn lock(&self) -> MutexGuard<'_, VecDeque<KeptPacket>> {
        self.backlog.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Subscribers with a backlog.
#[derive(Default)]
pub(super) struct Behind {
    handles: Mutex<VecDeque<u32>>,
    /// As many as there are.
    count: AtomicUsize,
    /// Rings when there is one more.
    bell: Arc<Notify>,
}

impl Behind {
    /// Whether there is one.
    pub(super) fn any(&self) -> bool {
        self.count.load(Relaxed) > 0
    }

    /// Rings when there is one more.
    pub(super) fn bell(&self) -> Arc<Notify> {
        Arc::clone(&self.bell)
    }

    /// Whoever has `handles` has changed them.
    pub(super) fn changed(&self, handles: &VecDeque<u32>) {
        self.count.store(handles.len(), Relaxed);
    }

    pub(super) fn add(&self, handle: u32) {
        let mut handles = self.lock();
        handles.push_back(handle);
        self.count.store(handles.len(), Relaxed);
        drop(handles);
        self.bell.notify_one();
    }

    /// Their tracks, in the order of their turns.
    pub(super) fn lock(&self) -> MutexGuard<'_, VecDeque<u32>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
