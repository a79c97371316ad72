//! Arrays that lie in our memory too (`BPF_F_MMAPABLE`): read without a system call, word by word.

use std::{io, marker::PhantomData, os::fd::AsFd as _, os::fd::AsRawFd as _};

use aya::maps::{Map, MapData};
use forwarder_common::{ReplayWindow, arrivals::Arrivals};
use memmap2::{MmapOptions, MmapRaw};

/// What may be read while the programs write it.
///
/// # Safety
/// It consists of atomics, and every bit pattern is a valid value.
pub unsafe trait Shared {}

// SAFETY: `repr(C)` of atomic integers.
unsafe impl Shared for ReplayWindow {}
// SAFETY: as above.
unsafe impl Shared for Arrivals {}

/// What each value of an array begins with.
pub struct Mapped<T> {
    memory: MmapRaw,
    /// Bytes of a value, and how many there are.
    value: usize,
    entries: usize,
    _of: PhantomData<T>,
}

impl<T: Shared> Mapped<T> {
    /// Maps an array.
    ///
    /// # Errors
    /// It is none, or its values are too short; what the kernel says.
    pub fn of(map: &Map) -> io::Result<Self> {
        let Map::Array(data) = map else { return Err(io::Error::other("not an array")) };
        Self::of_data(data)
    }

    fn of_data(data: &MapData) -> io::Result<Self> {
        let info = data.info().map_err(io::Error::other)?;
        // The kernel rounds values up to words.
        let value = (info.value_size() as usize).next_multiple_of(8);
        if value < size_of::<T>() || align_of::<T>() > 8 {
            return Err(io::Error::other(format!("values of {value} bytes")));
        }
        let entries = info.max_entries() as usize;
        let memory = MmapOptions::new().len(value * entries).map_raw(data.fd().as_fd().as_raw_fd())?;
        Ok(Self { memory, value, entries, _of: PhantomData })
    }

    /// The beginning of a value.
    pub fn get(&self, place: u32) -> Option<&T> {
        let place = usize::try_from(place).ok().filter(|place| *place < self.entries)?;
        // SAFETY: within the mapping, which lives as long as this value; aligned, since the mapping is and values are
        // whole words; `Shared` types may change under a reference.
        Some(unsafe { &*self.memory.as_ptr().add(place * self.value).cast::<T>() })
    }
}
