//! What the engine knows of its sessions and tracks: the userspace mirror of the maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use forwarder_common::{
    arrivals::Seen,
    maps::{KEY_CHUNK, Path},
    store::Range,
};
use penstock_srtp::cipher::Cipher;

use super::keystream::{self, Key};
use crate::{MediaKey, NewPublisherTrack, NewSubscriberTrack, Role, Transport, bpf::maps::Tables, slots::Slots};

/// A session. Its handle's slot indexes `SESSIONS`, `LEASES` and `KEYS`, and `PATHS` at `2 * slot`
/// and `2 * slot + 1`.
pub struct Session {
    pub id: String,
    pub stream: String,
    pub role: Role,
    pub profile: u8,
    pub created_ns: u64,
    /// When its right to be here ends: no lease is longer. `u64::MAX`: never.
    pub ends_ns: u64,
    pub transport: Transport,
    /// A subscriber's path, once the neighbour is known.
    pub path: Option<CurrentPath>,
    /// Why there is none any more. `path` stays what it was, since nothing better is known.
    pub lost: Option<String>,
    /// Tracks of it that could not be put into a fan-out since there was a path last.
    pub failures: u8,
    pub publisher_tracks: BTreeSet<u32>,
    pub subscriber_tracks: BTreeSet<u32>,
    /// For the keystream producer.
    pub key: Arc<Key>,
    /// For packets that are sent again.
    pub repair: Repair,
    /// `remove_session` was called: the slot waits for the fan-out thread.
    pub closing: bool,
}

/// A session's key for packets that are sent again: a cipher when the first one is.
pub enum Repair {
    Key(MediaKey),
    Cipher(Arc<Cipher>),
}

impl Session {
    /// `None`: its key has a wrong length, which the kernel's has not.
    pub fn cipher(&mut self) -> Option<Arc<Cipher>> {
        if let Repair::Key(key) = &self.repair {
            self.repair = Repair::Cipher(Arc::new(Cipher::new(key)?));
        }
        if let Repair::Cipher(cipher) = &self.repair { Some(Arc::clone(cipher)) } else { None }
    }
}

/// The path that the kernel uses.
#[derive(Clone, Copy)]
pub struct CurrentPath {
    /// Which of the session's two path slots: 0 or 1.
    pub side: u32,
    pub path: Path,
}

/// An incoming SSRC. Its handle's slot indexes `PUBLISHER_TRACKS` and `PUBLISHER_STATE`, and
/// `FANOUTS` and `FANOUT_LISTS` at `2 * slot` and `2 * slot + 1`.
pub struct PublisherTrack {
    pub session: u32,
    pub track: NewPublisherTrack,
    /// All subscriber tracks attached or to be attached or detached, in the order of joining.
    pub members: Vec<u32>,
    /// The fan-out that the kernel uses: which of the two slots.
    pub side: Option<u32>,
    /// Entries of its keystream ring, once the kernel can see it.
    pub keystream: u32,
    /// Number in the records of `TAPS`, 0: none are wanted.
    pub tap: u32,
    /// The track of which it brings again what was lost.
    pub repairs: Option<u32>,
    /// Only counted; the userspace engine opens it.
    pub diverted: bool,
    /// Where the kernel keeps its packets, once it does.
    pub store: Option<Range>,
    /// What has been told of `ARRIVALS`, if anything is noted there.
    pub heard: Option<Box<Seen>>,
    /// `remove_publisher_track` was called: the slot waits for the fan-out thread.
    pub stopping: bool,
}

/// An outgoing SSRC. Its handle's slot indexes `SUBSCRIBER_TRACKS` and `SUBSCRIBER_STATE`.
pub struct SubscriberTrack {
    pub session: u32,
    pub from: u32,
    pub track: NewSubscriberTrack,
    pub phase: Phase,
    /// Outgoing minus incoming index, fixed when the track is first attached.
    pub index_offset: Option<u64>,
    /// Entries of its keystream ring, once the kernel can see it.
    pub keystream: u32,
}

/// Where a subscriber track is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not yet in a fan-out.
    Joining,
    /// In the fan-out that the kernel uses.
    Attached,
    /// To be taken out.
    Leaving,
}

/// Everything under the engine's lock.
pub struct State {
    pub tables: Tables,
    pub sessions: Slots<Session>,
    pub publishers: Slots<PublisherTrack>,
    pub subscribers: Slots<SubscriberTrack>,
    pub work: Work,
    /// `None`: all packets are sealed by AES in BPF. Taken away when the engine is dropped.
    pub keystream: Option<keystream::Handle>,
}

/// Room for keys is wanted when no more slots than these are left of it.
const AHEAD: usize = KEY_CHUNK / 2;

/// What waits for the fan-out thread.
#[derive(Default)]
pub struct Work {
    /// Publisher tracks whose set of subscribers changed, or that stop.
    pub publishers: BTreeSet<u32>,
    /// Those of them that are new, and keep no packets yet.
    pub stores: BTreeSet<u32>,
    /// Sessions to be freed.
    pub sessions: BTreeSet<u32>,
    /// New paths of sessions.
    pub paths: BTreeMap<u32, Path>,
    /// Sessions to come need room for their keys.
    pub grow: bool,
    /// The engine is being dropped.
    pub stop: bool,
}

impl Work {
    pub fn is_empty(&self) -> bool {
        self.publishers.is_empty()
            && self.stores.is_empty()
            && self.sessions.is_empty()
            && self.paths.is_empty()
            && !self.grow
    }
}

impl State {
    /// Tells the producer, if there is one.
    pub fn produce(&self, command: keystream::Command) {
        if let Some(keystream) = &self.keystream {
            keystream.send(command);
        }
    }

    /// Has the next new session room for its key, so far as there is a slot for it?
    pub fn has_room(&self) -> bool {
        self.sessions.untouched().is_none_or(|slot| slot < self.tables.keys.room())
    }

    /// Asks for more room before it is needed; says whether it has asked.
    pub fn want_room(&mut self) -> bool {
        let more = self.sessions.untouched().is_some_and(|slot| slot + AHEAD >= self.tables.keys.room());
        self.work.grow |= more && self.tables.keys.room() < self.sessions.limit();
        self.work.grow
    }

    /// Marks a subscriber track for removal; says whether it was alive.
    pub fn detach_subscriber(&mut self, handle: u32) -> bool {
        let Some(subscriber) = self.subscribers.get_mut(handle) else { return false };
        subscriber.phase = Phase::Leaving;
        self.work.publishers.insert(subscriber.from);
        true
    }
}
