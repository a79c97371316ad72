//! One track's ring: an array map of entries, in our memory too.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::maps::MapData;
use aya_obj::generated::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, bpf_map_type::BPF_MAP_TYPE_ARRAY};
use forwarder_common::{ExtendedSeq, keystream::Entry};
use memmap2::{MmapOptions, MmapRaw};

use super::super::maps::as_io;

/// Memory of one entry.
pub const ENTRY_BYTES: u64 = size_of::<Entry>() as u64;

/// A ring's memory. Wiped when dropped; whoever drops it knows that no packet in flight can find it
/// in its track.
pub struct Ring {
    memory: MmapRaw,
    entries: u32,
}

// SAFETY: the memory belongs to this value, and is shared with the kernel alone, under the protocol of
// `forwarder_common::keystream`.
unsafe impl Send for Ring {}

impl Ring {
    /// A ring of so many free entries, and the map by which the kernel finds it. The map may be closed
    /// once it is in its track's place: the ring keeps it alive.
    ///
    /// # Errors
    /// What the kernel says: out of memory, as a rule.
    pub fn new(entries: u32) -> io::Result<(Self, MapData)> {
        let flags = BPF_F_MMAPABLE | BPF_F_INNER_MAP;
        let definition =
            aya_obj::Map::new_from_params(BPF_MAP_TYPE_ARRAY as u32, 4, ENTRY_BYTES as u32, entries, flags);
        let map = MapData::create(definition, "penstock_keys", None).map_err(as_io)?;
        let len = usize::try_from(ENTRY_BYTES * u64::from(entries)).map_err(io::Error::other)?;
        let memory = MmapOptions::new().len(len).map_raw(map.fd().as_fd().as_raw_fd())?;
        let ring = Self { memory, entries };
        // SAFETY: the first entry of the ring, which nobody else has seen.
        unsafe { (*ring.entry(ExtendedSeq(0))).set_entries(entries) };
        Ok((ring, map))
    }

    pub fn entries(&self) -> u32 {
        self.entries
    }

    pub fn bytes(&self) -> u64 {
        u64::from(self.entries) * ENTRY_BYTES
    }

    /// Where the entry of an index lies.
    pub fn entry(&self, index: ExtendedSeq) -> *mut Entry {
        let place = (index.0 % u64::from(self.entries)) as usize;
        // SAFETY: `place` is below the number of entries that the mapping holds.
        unsafe { self.memory.as_mut_ptr().cast::<Entry>().add(place) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        let words = self.memory.len() / size_of::<u64>();
        for word in 0..words {
            // SAFETY: within the mapping, which is page-aligned. Volatile, so that it is not left out.
            unsafe { self.memory.as_mut_ptr().cast::<u64>().add(word).write_volatile(0) };
        }
    }
}
