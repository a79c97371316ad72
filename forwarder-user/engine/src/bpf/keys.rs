//! Keys as the datapath reads them: in chunks of [`KEY_CHUNK`] sessions, each three maps within `KEYS`, `TOWERS`
//! and `SUBSETS`.
//!
//! A session's key and what is derived from it are 18 KB. Room for all sessions that the configuration allows
//! would be 19 MB from the start, also on servers whose sessions are all in userspace. A new chunk costs three
//! grace periods, so the fan-out thread adds it, before it is needed.

use std::{io, os::fd::AsFd as _};

use aya::{
    Ebpf, Pod,
    maps::{Array, Map, MapData, MapError},
};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY;
use forwarder_common::{
    SessionKey,
    maps::KEY_CHUNK,
    subsets::{self, Subsets},
    tower::{
        KeyTable,
        derive::{Basis, h_of},
    },
};

use super::{
    handle::{as_io, take_map},
    outer::Batch,
};

/// Room for the keys of [`KEY_CHUNK`] sessions.
pub struct Chunk {
    keys: Array<MapData, SessionKey>,
    towers: Array<MapData, KeyTable>,
    subsets: Array<MapData, Subsets>,
}

/// The three maps of chunks.
pub struct Outer {
    keys: Map,
    towers: Map,
    subsets: Map,
}

impl Outer {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    /// The object lacks one.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        Ok(Self {
            keys: take_map(ebpf, "KEYS")?,
            towers: take_map(ebpf, "TOWERS")?,
            subsets: take_map(ebpf, "SUBSETS")?,
        })
    }

    /// Makes a chunk and puts it into its place, which must have been empty. Waits for grace periods.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn add(&self, place: usize) -> io::Result<Chunk> {
        Ok(Chunk {
            keys: put(&self.keys, place, "penstock_skeys")?,
            towers: put(&self.towers, place, "penstock_towers")?,
            subsets: put(&self.subsets, place, "penstock_subset")?,
        })
    }
}

/// Makes an array for a chunk and puts it into its place.
fn put<V: Pod>(outer: &Map, place: usize, name: &str) -> io::Result<Array<MapData, V>> {
    let definition =
        aya_obj::Map::new_from_params(BPF_MAP_TYPE_ARRAY as u32, 4, size_of::<V>() as u32, KEY_CHUNK as u32, 0);
    let map = MapData::create(definition, name, None).map_err(as_io)?;
    let mut batch = Batch::default();
    batch.add(place as u32, map.fd().as_fd());
    batch.write(outer)?;
    Map::from_map_data(map).and_then(Array::try_from).map_err(as_io)
}

/// The keys of all sessions.
pub struct Keys {
    chunks: Vec<Chunk>,
    basis: Box<Basis>,
}

impl Keys {
    /// Without room for any.
    pub fn new(basis: Box<Basis>) -> Self {
        Self { chunks: Vec::new(), basis }
    }

    /// The next chunk has its place.
    pub fn push(&mut self, chunk: Chunk) {
        self.chunks.push(chunk);
    }

    /// Chunks that have their places.
    pub fn chunks(&self) -> usize {
        self.chunks.len()
    }

    /// Session slots that have room.
    pub fn room(&self) -> usize {
        self.chunks.len() * KEY_CHUNK
    }

    fn chunk(&mut self, slot: u32) -> Result<(&mut Chunk, u32), MapError> {
        let max_entries = self.room() as u32;
        let chunk = self.chunks.get_mut(slot as usize / KEY_CHUNK);
        chunk.map(|chunk| (chunk, slot % KEY_CHUNK as u32)).ok_or(MapError::OutOfBounds { index: slot, max_entries })
    }

    /// Installs the key of a session slot that nothing refers to, and what is derived from it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set(&mut self, slot: u32, key: &SessionKey) -> Result<(), MapError> {
        let mut table = Box::new(KeyTable::EMPTY);
        let h = h_of(&key.ghash);
        self.basis.derive(h, &mut table);
        let mut subsets = Box::new(Subsets::EMPTY);
        subsets::derive::derive(h, &mut subsets);
        let set = self.chunk(slot).and_then(|(chunk, place)| {
            chunk.towers.set(place, table.as_ref(), 0)?;
            chunk.subsets.set(place, subsets.as_ref(), 0)?;
            // The datapath takes a slot without rounds for empty: so the key comes last.
            chunk.keys.set(place, key, 0)
        });
        table.wipe();
        subsets.wipe();
        set
    }

    /// Overwrites the key of a session slot, and what was derived from it.
    ///
    /// # Errors
    /// What the kernel says; it has been asked for all of them.
    pub fn wipe(&mut self, slot: u32) -> Result<(), MapError> {
        let (chunk, place) = self.chunk(slot)?;
        let wiped = chunk.keys.set(place, SessionKey::EMPTY, 0);
        let wiped = wiped.and(chunk.towers.set(place, KeyTable::EMPTY, 0));
        wiped.and(chunk.subsets.set(place, Subsets::EMPTY, 0))
    }
}
