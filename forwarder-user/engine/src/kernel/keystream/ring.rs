//! One track's ring: an array map of entries, in our memory too.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{Arc, atomic::Ordering},
};

use aya::maps::MapData;
use aya_obj::generated::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, bpf_map_type::BPF_MAP_TYPE_ARRAY};
use forwarder_common::{ExtendedSeq, keystream::Entry};
use memmap2::{MmapOptions, MmapRaw};

use super::figures::Figures;
use crate::bpf::as_io;

/// Memory of one entry.
pub(super) const ENTRY_BYTES: u64 = size_of::<Entry>() as u64;

/// A ring's memory. When it is dropped, its entries are closed and wiped; who drops it takes care that
/// no more packets look for it, since they would go without keystream.
pub(super) struct Ring {
    memory: MmapRaw,
    entries: u32,
    figures: Arc<Figures>,
}

// SAFETY: the memory belongs to this value, and is shared with the kernel alone, under the protocol of
// `forwarder_common::keystream`.
unsafe impl Send for Ring {}

impl Ring {
    /// A ring of so many free entries, and the map by which the kernel finds it. The map may be closed
    /// once it is in its track's place: the ring keeps it alive. Its memory is counted in `figures`, for
    /// as long as it lives.
    ///
    /// # Errors
    /// What the kernel says: out of memory, as a rule.
    pub(super) fn new(entries: u32, figures: &Arc<Figures>) -> io::Result<(Self, MapData)> {
        let flags = BPF_F_MMAPABLE | BPF_F_INNER_MAP;
        let definition =
            aya_obj::Map::new_from_params(BPF_MAP_TYPE_ARRAY as u32, 4, ENTRY_BYTES as u32, entries, flags);
        let map = MapData::create(definition, "penstock_keys", None).map_err(as_io)?;
        let len = usize::try_from(ENTRY_BYTES * u64::from(entries)).map_err(io::Error::other)?;
        let memory = MmapOptions::new().len(len).map_raw(map.fd().as_fd().as_raw_fd())?;
        let ring = Self { memory, entries, figures: Arc::clone(figures) };
        ring.figures.memory.fetch_add(ring.bytes(), Ordering::Relaxed);
        // SAFETY: the first entry of the ring, which nobody else has seen.
        unsafe { (*ring.at(0)).set_entries(entries) };
        Ok((ring, map))
    }

    pub(super) fn entries(&self) -> u32 {
        self.entries
    }

    fn bytes(&self) -> u64 {
        u64::from(self.entries) * ENTRY_BYTES
    }

    /// Where the entry of an index lies.
    pub(super) fn entry(&self, index: ExtendedSeq) -> *mut Entry {
        self.at((index.0 % u64::from(self.entries)) as u32)
    }

    fn at(&self, place: u32) -> *mut Entry {
        assert!(place < self.entries, "outside of the ring");
        // SAFETY: `place` is below the number of entries that the mapping holds.
        unsafe { self.memory.as_mut_ptr().cast::<Entry>().add(place as usize) }
    }
}

/// How often an entry is asked for that a packet reads: far longer than a packet takes.
const PATIENCE: usize = 10_000;

impl Drop for Ring {
    fn drop(&mut self) {
        for place in 0..self.entries {
            let entry = self.at(place);
            // SAFETY: an entry of the ring; its state is atomic.
            let closed = (0..PATIENCE).any(|_| unsafe { (*entry).close() } || {
                std::thread::yield_now();
                false
            });
            if closed {
                // SAFETY: closed, so nobody else touches it, now or later.
                unsafe { Entry::wipe(entry) };
            } else {
                // Better a secret that nobody else can reach than a packet sealed with zeros.
                tracing::error!("a keystream entry is in use for too long, and is not wiped");
            }
        }
        self.figures.memory.fetch_sub(self.bytes(), Ordering::Relaxed);
    }
}
