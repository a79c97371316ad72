//! The rings of a publisher track: its own and those of its subscribers.

use std::sync::{Arc, atomic::AtomicBool};

use forwarder_common::ExtendedSeq;

use super::{
    command::{Owner, Source},
    compute::{self, Backend},
    job::Job,
    ring::Ring,
    window::{BEHIND, Burst, Longest, Rate},
};

/// A publisher track's rings.
pub(super) struct Stream {
    pub handle: u32,
    /// The publisher's first, then the subscribers'.
    pub rings: Vec<TrackRing>,
    /// Highest incoming index that the kernel has told.
    pub highest: u64,
    pub rate: Rate,
    /// How many packets come at once.
    pub burst: Burst,
    /// Entries that each ring should have, by the rate.
    pub wanted: u32,
    /// How long payloads are, and so entries.
    pub longest: Longest,
}

/// A track's place among them.
pub(super) struct TrackRing {
    pub owner: Owner,
    pub source: Source,
    /// Outgoing minus incoming index, wrapping; 0 for the publisher's own ring.
    pub offset: u64,
    /// `None`: there was no memory.
    pub ring: Option<Filled>,
    /// The ring before, which the kernel sees until this says that the new one is in its place.
    pub before: Option<(Filled, Arc<AtomicBool>)>,
}

/// A ring and how far it is filled.
pub(super) struct Filled {
    pub ring: Ring,
    /// Everything below has been produced, in outgoing indices: each index once for a ring.
    pub produced: u64,
    /// Blocks that the entries produced so far have at least.
    pub blocks: usize,
}

impl TrackRing {
    pub(super) fn new(owner: Owner, source: Source, offset: u64) -> Self {
        Self { owner, source, offset, ring: None, before: None }
    }

    /// Fills its rings up to their ends for payloads of `blocks`, when the publisher has reached `highest`.
    /// Returns how many entries that took.
    pub(super) fn fill_up(&mut self, highest: u64, blocks: usize, backend: Backend) -> u64 {
        let outgoing = highest.wrapping_add(self.offset);
        // Wrapping can only mean that the publisher is behind the subscriber's first index.
        if outgoing > ExtendedSeq::MAX.0 {
            return 0;
        }
        let rings = self.ring.iter_mut().chain(self.before.iter_mut().map(|(filled, _)| filled));
        rings.map(|filled| filled.fill_up(&self.source, outgoing, blocks, backend)).sum()
    }
}

impl Filled {
    fn fill_up(&mut self, source: &Source, outgoing: u64, blocks: usize, backend: Backend) -> u64 {
        let ring = &self.ring;
        // Entries below wait for packets that are lost, or so late that AES may have them.
        let stale_below = ExtendedSeq((outgoing + 1).saturating_sub(BEHIND.into()));
        let ahead = u64::from(ring.entries().saturating_sub(BEHIND));
        let end = (outgoing + 1 + ahead).min(ExtendedSeq::MAX.0 + 1);
        let first = self.produced.max(outgoing + 1);
        let mut jobs = Vec::with_capacity((end.saturating_sub(first)) as usize);
        if blocks > self.blocks {
            // Payloads have got longer: what waits ready is made longer too.
            for index in (outgoing + 1..self.produced).map(ExtendedSeq) {
                let entry = ring.entry(index);
                // SAFETY: an entry of the ring. The state is atomic, and so is the number of blocks, which this
                // thread alone writes.
                if unsafe { (*entry).blocks() < blocks && (*entry).begin_again(index) } {
                    jobs.push(Job { index, entry });
                }
            }
        }
        self.blocks = blocks;
        for index in (first..end).map(ExtendedSeq) {
            let entry = ring.entry(index);
            // SAFETY: an entry of the ring; its state is atomic, and nothing else is touched before `begin`.
            if unsafe { (*entry).begin(stale_below) } {
                jobs.push(Job { index, entry });
            }
        }
        // SAFETY: the entries have been begun, so they are ours until they are published.
        unsafe { compute::fill(backend, &source.key, source.ssrc, blocks, &jobs) };
        for job in &jobs {
            // SAFETY: as above.
            unsafe { (*job.entry).publish(job.index) };
        }
        self.produced = self.produced.max(end);
        jobs.len() as u64
    }
}
