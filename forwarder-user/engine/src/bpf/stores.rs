//! Chunks of kept packets: `forwarder_common::store`. As [`keys`](super::keys), they are added as tracks need them,
//! by the thread that may wait for grace periods, and stay.

use std::{io, os::fd::AsFd as _};

use aya::{
    Ebpf,
    maps::{Array, Map, MapData, MapError},
};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY;
use forwarder_common::store::{CHUNK, Range, Stored, StoredBytes};

use super::{
    handle::{as_io, take_map},
    outer::Batch,
};

/// Bytes of a chunk.
pub const CHUNK_BYTES: usize = CHUNK * size_of::<Stored>();

/// Room for [`CHUNK`] packets.
pub type Chunk = Array<MapData, StoredBytes>;

/// The map of chunks.
pub struct Outer(Map);

impl Outer {
    /// Takes the map out of a loaded object.
    ///
    /// # Errors
    /// The object lacks it.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        take_map(ebpf, "STORES").map(Self)
    }

    /// Makes chunks for these places, which must have been empty. Waits for a grace period.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add(&self, places: impl Iterator<Item = u32>) -> io::Result<Vec<(u32, Chunk)>> {
        let mut made = Vec::new();
        for place in places {
            let size = size_of::<Stored>() as u32;
            let definition = aya_obj::Map::new_from_params(BPF_MAP_TYPE_ARRAY as u32, 4, size, CHUNK as u32, 0);
            made.push((place, MapData::create(definition, "penstock_store", None).map_err(as_io)?));
        }
        let mut batch = Batch::default();
        made.iter().for_each(|(place, map)| batch.add(*place, map.fd().as_fd()));
        batch.write(&self.0)?;
        let typed = |map| Map::from_map_data(map).and_then(Array::try_from).map_err(as_io);
        made.into_iter().map(|(place, map)| Ok((place, typed(map)?))).collect()
    }
}

/// All chunks that there are, and whose they are.
pub struct Stores {
    chunks: Vec<Place>,
}

enum Place {
    /// No chunk yet.
    Empty,
    Free(Chunk),
    /// For a track that waits for it.
    Promised,
    Taken(Chunk),
}

impl Stores {
    /// Room for so many chunks.
    pub fn new(limit: usize) -> Self {
        Self { chunks: (0..limit).map(|_| Place::Empty).collect() }
    }

    /// Chunks that are nobody's, side by side: the first place where there are so many, and which of them are to be
    /// made yet. They are promised to whoever asks.
    pub fn promise(&mut self, chunks_log: u32) -> Option<(Range, Vec<u32>)> {
        let wanted = 1 << chunks_log;
        let is_free = |place: &Place| matches!(place, Place::Empty | Place::Free(_));
        let first = self.chunks.windows(wanted).position(|run| run.iter().all(is_free))?;
        let mut missing = Vec::new();
        for (place, chunk) in self.chunks.iter_mut().enumerate().skip(first).take(wanted) {
            *chunk = match std::mem::replace(chunk, Place::Promised) {
                Place::Free(chunk) => Place::Taken(chunk),
                _ => {
                    missing.push(place as u32);
                    Place::Promised
                }
            };
        }
        Some((Range { first: first as u32, chunks_log }, missing))
    }

    /// A chunk that was promised is there.
    pub fn put(&mut self, place: u32, chunk: Chunk) {
        if let Some(entry) = self.chunks.get_mut(place as usize) {
            *entry = Place::Taken(chunk);
        }
    }

    /// A range is nobody's any more, and nothing writes it. Its packets are overwritten.
    ///
    /// # Errors
    /// What the kernel says; such chunks are not given to anybody again.
    pub fn release(&mut self, range: Range) -> Result<(), MapError> {
        let mut result = Ok(());
        for entry in self.chunks.iter_mut().skip(range.first as usize).take(1 << range.chunks_log) {
            match std::mem::replace(entry, Place::Promised) {
                Place::Taken(mut chunk) => match wipe(&mut chunk) {
                    Ok(()) => *entry = Place::Free(chunk),
                    Err(error) => result = Err(error),
                },
                _ => *entry = Place::Empty,
            }
        }
        result
    }

    /// What lies where a range has the packet with this index.
    pub fn read(&self, range: Range, index: u64) -> Option<Stored> {
        let (chunk, place) = range.place(index);
        let Place::Taken(chunk) = self.chunks.get(chunk as usize)? else { return None };
        chunk.get(&place, 0).ok().map(|bytes| Stored::from_bytes(&bytes))
    }
}

fn wipe(chunk: &mut Chunk) -> Result<(), MapError> {
    let nothing = [0; size_of::<Stored>()];
    (0..CHUNK as u32).try_for_each(|place| chunk.set(place, nothing, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_promised_side_by_side_and_once() {
        let mut stores = Stores::new(5);
        assert_eq!(stores.promise(1), Some((Range { first: 0, chunks_log: 1 }, vec![0, 1])));
        assert_eq!(stores.promise(0), Some((Range { first: 2, chunks_log: 0 }, vec![2])));
        assert_eq!(stores.promise(2), None, "two are left");
        // None of them was ever made.
        stores.release(Range { first: 0, chunks_log: 1 }).unwrap();
        assert_eq!(stores.promise(0), Some((Range { first: 0, chunks_log: 0 }, vec![0])));
        assert_eq!(stores.promise(1), Some((Range { first: 3, chunks_log: 1 }, vec![3, 4])));
        assert_eq!(stores.promise(1), None, "one is left");
    }
}
