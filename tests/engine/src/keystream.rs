//! Keystream rings that a test fills itself, entry by entry.

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, ArrayOfMaps, Map, MapData};
use forwarder_common::{
    ExtendedSeq, SessionKey,
    keystream::{Entry, FAST_BLOCKS},
    maps::MAX_PAYLOAD,
};
use penstock_engine::kernel::keystream::{
    Job, Key as ProducerKey,
    compute::{Backend, fill},
};

use tests_kit::srtp::Key;

use crate::bpf::Datapath;

/// An entry as the system call takes it.
pub type EntryBytes = [u8; size_of::<Entry>()];

/// A map of rings.
pub type Rings = ArrayOfMaps<MapData, Array<MapData, EntryBytes>>;

/// The ring of one track.
pub struct Ring {
    map: Array<MapData, EntryBytes>,
    entries: u32,
    backend: Backend,
    key: ProducerKey,
    ssrc: u32,
}

impl Ring {
    /// Longest payload that it serves and that viewers by IPv6 can have, too.
    pub const LONGEST: usize = MAX_PAYLOAD - 20;

    /// A ring without keystream, for a track with this key and SSRC.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(key: &Key, ssrc: u32, entries: u32) -> Result<Self> {
        const ARRAY: u32 = 2;
        /// `BPF_F_MMAPABLE` and `BPF_F_INNER_MAP`, as the template in the object has them.
        const FLAGS: u32 = 0x400 | 0x1000;
        let description = aya_obj::Map::new_from_params(ARRAY, 4, size_of::<Entry>() as u32, entries, FLAGS);
        let map = Map::from_map_data(MapData::create(description, "ring", None)?)?.try_into()?;
        let session = SessionKey::new(&key.key, key.salt).context("key of 16 or 32 bytes")?;
        let mut ring = Self { map, entries, backend: Backend::detect(), key: ProducerKey::new(&session), ssrc };
        let empty = ring.entry();
        ring.put(0, &empty)?;
        Ok(ring)
    }

    /// Puts the keystream of an index to its place.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn fill(&mut self, index: u64) -> Result<()> {
        self.fill_blocks(index, FAST_BLOCKS)
    }

    /// The same, but no more than so many blocks. The rest of the entry is full of ones, which a copy must
    /// never get.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn fill_blocks(&mut self, index: u64, blocks: usize) -> Result<()> {
        let mut entry = self.entry();
        ensure!(entry.begin(ExtendedSeq(0)), "a new entry is not free");
        entry.keystream.fill([!0, !0]);
        entry.horner.fill([!0, !0]);
        let job = Job { index: ExtendedSeq(index), entry: &raw mut *entry };
        // SAFETY: the entry is ours alone.
        unsafe { fill(self.backend, &self.key, self.ssrc, blocks, &[job]) };
        entry.publish(ExtendedSeq(index));
        self.put((index % u64::from(self.entries)) as u32, &entry)
    }

    /// The kernel's handle, to be put into a map of rings.
    pub fn map(&self) -> &Array<MapData, EntryBytes> {
        &self.map
    }

    fn entry(&self) -> Box<Entry> {
        // SAFETY: all zeros is a valid entry.
        let entry: Box<Entry> = Box::new(unsafe { std::mem::zeroed() });
        entry.set_entries(self.entries);
        entry
    }

    fn put(&mut self, place: u32, entry: &Entry) -> Result<()> {
        // SAFETY: an entry is integers without padding, and of that size.
        let bytes: &EntryBytes = unsafe { &*std::ptr::from_ref(entry).cast() };
        Ok(self.map.set(place, bytes, 0)?)
    }
}

/// Rings for publisher track 0 and the subscriber tracks of a fan-out.
pub struct Keystreams {
    /// With what is to be added to the incoming index.
    rings: Vec<(Ring, u64)>,
}

impl Keystreams {
    /// Gives each track a ring: publisher 0 and the subscribers from 0 on, described by key, SSRC and
    /// index offset.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn install<'a>(
        datapath: &mut Datapath,
        publisher: (&Key, u32),
        subscribers: impl IntoIterator<Item = (&'a Key, u32, u64)>,
        entries: u32,
    ) -> Result<Self> {
        let ring = Ring::new(publisher.0, publisher.1, entries)?;
        datapath.set_publisher_ring(0, &ring)?;
        datapath.change_publisher(0, |track| track.keystream = entries)?;
        let mut rings = vec![(ring, 0)];
        for (slot, (key, ssrc, offset)) in (0..).zip(subscribers) {
            let ring = Ring::new(key, ssrc, entries)?;
            datapath.set_subscriber_ring(slot, &ring)?;
            datapath.change_subscriber(slot, |track| track.keystream = entries)?;
            rings.push((ring, offset));
        }
        Ok(Self { rings })
    }

    /// Fills in what the packet with this incoming index, and all its copies, need.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn fill(&mut self, index: u64) -> Result<()> {
        self.rings.iter_mut().try_for_each(|(ring, offset)| ring.fill(index.wrapping_add(*offset)))
    }

    /// The same, with as many blocks as are said for the packet and then for each copy.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn fill_blocks(&mut self, index: u64, blocks: &[usize]) -> Result<()> {
        ensure!(blocks.len() == self.rings.len(), "{} numbers for {} rings", blocks.len(), self.rings.len());
        let rings = self.rings.iter_mut().zip(blocks);
        rings
            .into_iter()
            .try_for_each(|((ring, offset), blocks)| ring.fill_blocks(index.wrapping_add(*offset), *blocks))
    }

    /// The same for the copies alone.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn fill_copies(&mut self, index: u64) -> Result<()> {
        self.rings.iter_mut().skip(1).try_for_each(|(ring, offset)| ring.fill(index.wrapping_add(*offset)))
    }

    /// The same for the packet and some copies.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn fill_some(&mut self, index: u64, copies: &[usize]) -> Result<()> {
        for (n, (ring, offset)) in self.rings.iter_mut().enumerate() {
            if n == 0 || copies.contains(&(n - 1)) {
                ring.fill(index.wrapping_add(*offset))?;
            }
        }
        Ok(())
    }
}
