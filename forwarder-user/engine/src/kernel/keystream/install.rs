//! Puts rings into their tracks' places.
//!
//! The kernel waits for a grace period (10 to 25 ms) whenever an element of a map of maps is replaced,
//! but once for a whole batch. So a thread of its own takes whatever has gathered and replaces it
//! together; meanwhile the tracks' packets are sealed by AES.

use std::{
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use aya::maps::{Map, MapData};

use super::{command::Owner, figures::Figures, ring::Ring};
use crate::{bpf::outer::Batch, slots::Slots};

/// Whoever tells the datapath which tracks have rings.
pub trait Tracks: Send + Sync {
    /// The kernel sees a ring of so many entries from now on: tells the datapath, if the track is still there.
    ///
    /// # Errors
    /// What the kernel says.
    fn announce(&self, owner: Owner, entries: u32) -> Result<(), String>;
}

/// A change of a track's place.
pub(super) struct Change {
    pub owner: Owner,
    /// The new ring's map and number of entries. `None`: the track has ended.
    pub ring: Option<(MapData, u32)>,
    /// Set when the kernel sees the change, and nothing in flight can see what was there before.
    pub done: Option<Arc<AtomicBool>>,
    /// Rings of a track that has ended: wiped then.
    pub old: Vec<Ring>,
}

/// The thread's maps.
pub(super) struct Installer {
    pub publishers: Map,
    pub subscribers: Map,
    pub tracks: Box<dyn Tracks>,
    pub figures: Arc<Figures>,
    pub inbox: mpsc::Receiver<Change>,
}

impl Installer {
    /// Runs until the producer ends.
    pub(super) fn run(self) {
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
            batch.add(Slots::<()>::slot(handle), map.fd().as_fd());
        }
        for (map, batch) in [(&self.publishers, &publishers), (&self.subscribers, &subscribers)] {
            if let Err(error) = batch.write(map) {
                // Places keep what they had: rings that are closed before they are wiped, below. The
                // packets of these tracks go by AES.
                tracing::error!("keystream rings not installed: {error}");
            }
        }
        for change in &changes {
            let Some((_, entries)) = &change.ring else { continue };
            match self.tracks.announce(change.owner, *entries) {
                Ok(()) => _ = self.figures.installed.fetch_add(1, Ordering::Relaxed),
                Err(error) => tracing::error!("keystream ring not announced: {error}"),
            }
        }
        // By now the batch has waited for every packet that could have found the rings that it replaced.
        for change in changes {
            if let Some(done) = &change.done {
                done.store(true, Ordering::Release);
            }
            drop(change.old);
        }
    }
}
