//! Puts rings into their tracks' places.
//!
//! The kernel waits for a grace period (10 to 25 ms) whenever an element of a map of maps is replaced,
//! but once for a whole batch. So a thread of its own takes whatever has gathered and replaces it
//! together; meanwhile the tracks' packets are sealed by AES.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use aya::maps::{Map, MapData};
use aya_obj::generated::{
    bpf_attr,
    bpf_cmd::{self, BPF_MAP_UPDATE_BATCH, BPF_MAP_UPDATE_ELEM},
};

use super::{
    super::{fanout::Shared, load::describe, slots::Slots, wire},
    producer::Figures,
    ring::Ring,
};

/// Which track a ring is for, by its handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    Publisher(u32),
    Subscriber(u32),
}

/// A change of a track's place.
pub struct Change {
    pub owner: Owner,
    /// The new ring's map and number of entries. `None`: the track has ended.
    pub ring: Option<(MapData, u32)>,
    /// Set when the kernel sees the change, and nothing in flight can see what was there before.
    pub done: Option<Arc<AtomicBool>>,
    /// Rings of a track that has ended: wiped then.
    pub old: Vec<Ring>,
}

/// The thread's maps.
pub struct Installer {
    pub publishers: Map,
    pub subscribers: Map,
    pub shared: Arc<Shared>,
    pub figures: Arc<Figures>,
    pub inbox: mpsc::Receiver<Change>,
}

impl Installer {
    /// Runs until the producer ends.
    pub fn run(self) {
        // Its ring is dropped here, and with that its one entry is closed: nothing is ever found there.
        let empty = match Ring::new(1, &self.figures) {
            Ok((_, map)) => map,
            Err(error) => return tracing::error!("no keystream ahead of time: {error}"),
        };
        while let Ok(first) = self.inbox.recv() {
            let mut changes = vec![first];
            changes.extend(self.inbox.try_iter());
            self.install(&empty, changes);
        }
    }

    fn install(&self, empty: &MapData, changes: Vec<Change>) {
        let (mut publishers, mut subscribers) = (Batch::default(), Batch::default());
        for change in &changes {
            let map = change.ring.as_ref().map_or(empty, |(map, _)| map);
            let (batch, handle) = match change.owner {
                Owner::Publisher(handle) => (&mut publishers, handle),
                Owner::Subscriber(handle) => (&mut subscribers, handle),
            };
            batch.keys.push(Slots::<()>::slot(handle));
            batch.values.push(map.fd().as_fd().as_raw_fd() as u32);
        }
        for (map, batch) in [(&self.publishers, &publishers), (&self.subscribers, &subscribers)] {
            if let Err(error) = map_fd(map).and_then(|fd| batch.write(&fd)) {
                // Places keep what they had: rings that are closed before they are wiped, below. The
                // packets of these tracks go by AES.
                tracing::error!("keystream rings not installed: {error}");
            }
        }
        let mut state = self.shared.lock();
        for change in &changes {
            let Some((_, entries)) = &change.ring else { continue };
            match announce(&mut state, change.owner, *entries) {
                Ok(()) => _ = self.figures.installed.fetch_add(1, Ordering::Relaxed),
                Err(error) => tracing::error!("keystream ring not announced: {error}"),
            }
        }
        drop(state);
        // By now the batch has waited for every packet that could have found the rings that it replaced.
        for change in changes {
            if let Some(done) = &change.done {
                done.store(true, Ordering::Release);
            }
            drop(change.old);
        }
    }
}

/// Tells the datapath that a track has a ring, if the track is still there.
fn announce(state: &mut super::super::state::State, owner: Owner, entries: u32) -> Result<(), String> {
    match owner {
        Owner::Publisher(handle) => {
            let Some(publisher) = state.publishers.get_mut(handle) else { return Ok(()) };
            publisher.keystream = entries;
            let slot = Slots::<()>::slot(handle);
            let entry = wire::publisher_track(slot, publisher);
            state.tables.publisher_tracks.set(slot, entry, 0).map_err(|error| describe(&error))
        }
        Owner::Subscriber(handle) => {
            let Some(subscriber) = state.subscribers.get_mut(handle) else { return Ok(()) };
            subscriber.keystream = entries;
            let slot = Slots::<()>::slot(handle);
            let Ok(mut entry) = state.tables.subscriber_tracks.get(&slot, 0) else { return Ok(()) };
            entry.keystream = entries;
            state.tables.subscriber_tracks.set(slot, entry, 0).map_err(|error| describe(&error))
        }
    }
}

#[derive(Default)]
struct Batch {
    keys: Vec<u32>,
    values: Vec<u32>,
}

impl Batch {
    fn write(&self, map: &OwnedFd) -> io::Result<()> {
        if self.keys.is_empty() {
            return Ok(());
        }
        match self.write_together(map) {
            // Maps of maps take no batches before Linux 5.19: one grace period for each.
            Err(error) if error.raw_os_error() == Some(ENOTSUPP) => self.write_singly(map),
            result => result,
        }
    }

    fn write_together(&self, map: &OwnedFd) -> io::Result<()> {
        // SAFETY: all zeros is a valid argument of bpf(2).
        let mut argument: bpf_attr = unsafe { std::mem::zeroed() };
        argument.batch.keys = self.keys.as_ptr() as u64;
        argument.batch.values = self.values.as_ptr() as u64;
        argument.batch.count = self.keys.len() as u32;
        argument.batch.map_fd = map.as_raw_fd() as u32;
        // SAFETY: keys and values are `count` numbers of 4 bytes each, as the map has them, and outlive
        // the call.
        unsafe { bpf(BPF_MAP_UPDATE_BATCH, &mut argument) }
    }

    fn write_singly(&self, map: &OwnedFd) -> io::Result<()> {
        for (key, value) in self.keys.iter().zip(&self.values) {
            // SAFETY: all zeros is a valid argument of bpf(2).
            let mut argument: bpf_attr = unsafe { std::mem::zeroed() };
            argument.__bindgen_anon_2.map_fd = map.as_raw_fd() as u32;
            argument.__bindgen_anon_2.key = std::ptr::from_ref(key) as u64;
            argument.__bindgen_anon_2.__bindgen_anon_1.value = std::ptr::from_ref(value) as u64;
            // SAFETY: key and value are of 4 bytes, as the map has them, and outlive the call.
            unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut argument)? };
        }
        Ok(())
    }
}

/// The kernel's own "not supported", which libc does not know.
const ENOTSUPP: i32 = 524;

/// # Safety
/// What `argument` points to is as the command wants it.
unsafe fn bpf(command: bpf_cmd, argument: &mut bpf_attr) -> io::Result<()> {
    let size = size_of::<bpf_attr>() as libc::c_uint;
    // SAFETY: the kernel reads and writes `argument` alone, and what it points to.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command as libc::c_int, std::ptr::from_mut(argument), size) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn map_fd(map: &Map) -> io::Result<OwnedFd> {
    match map {
        Map::ArrayOfMaps(data) => data.fd().as_fd().try_clone_to_owned(),
        _ => Err(io::Error::other("the object's keystream maps are no arrays of maps")),
    }
}
