//! Typed handles to the maps of one loaded datapath. Layouts: [`forwarder_common::maps`].

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
};
use forwarder_common::{
    maps::{
        FanoutList, FlowKey, Path, PublisherState, PublisherStateBytes, PublisherTrack, Server, Session,
        SubscriberState, SubscriberTrack,
    },
    tower::{self, derive::Basis},
};

use super::{
    handle::{array, take, take_map},
    keys::{self, Keys},
};

/// The maps that are pinned, in the order in which they are shown to people. None of the others may be: a pin outlives
/// the server, however it dies, and they hold keys, keystream, plaintext, or packets in flight.
pub const NAMES: [&str; 12] = [
    "SERVER",
    "SESSIONS",
    "LEASES",
    "PATHS",
    "FLOWS",
    "PUBLISHER_TRACKS",
    "PUBLISHER_STATE",
    "SUBSCRIBER_TRACKS",
    "SUBSCRIBER_STATE",
    "FANOUTS",
    "FANOUT_LISTS",
    "COUNTERS",
];

/// The maps that the control side of the engine writes, under one lock.
pub struct Tables {
    pub flows: HashMap<MapData, FlowKey, u32>,
    pub publisher_tracks: Array<MapData, PublisherTrack>,
    pub publisher_state: Array<MapData, PublisherStateBytes>,
    pub subscriber_tracks: Array<MapData, SubscriberTrack>,
    pub subscriber_state: Array<MapData, SubscriberState>,
    pub sessions: Array<MapData, Session>,
    pub paths: Array<MapData, Path>,
    pub leases: Array<MapData, u64>,
    pub keys: Keys,
}

/// The maps of the fan-out thread.
pub struct Fanouts {
    /// An array of devmaps.
    pub fanouts: Map,
    pub lists: Array<MapData, FanoutList>,
    /// To which it adds room.
    pub keys: keys::Outer,
}

/// All handles.
pub struct Maps {
    pub tables: Tables,
    pub fanouts: Fanouts,
    pub server: Array<MapData, Server>,
    pub counters: PerCpuArray<MapData, u64>,
    pub taps: RingBuf<MapData>,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    /// The object lacks a map or has one of another type or value size.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        let basis = Box::new(Basis::new());
        let mut tables = Box::new(tower::Tables::EMPTY);
        basis.fill(&mut tables);
        array::<tower::Tables>(ebpf, "TOWER_TABLES")?.set(0, tables.as_ref(), 0)?;
        let (chunks, mut keys) = (keys::Outer::take(ebpf)?, Keys::new(basis));
        keys.push(chunks.add(0).map_err(MapError::IoError)?);
        Ok(Self {
            tables: Tables {
                flows: take(ebpf, "FLOWS")?,
                publisher_tracks: array(ebpf, "PUBLISHER_TRACKS")?,
                publisher_state: array(ebpf, "PUBLISHER_STATE")?,
                subscriber_tracks: array(ebpf, "SUBSCRIBER_TRACKS")?,
                subscriber_state: array(ebpf, "SUBSCRIBER_STATE")?,
                sessions: array(ebpf, "SESSIONS")?,
                paths: array(ebpf, "PATHS")?,
                leases: array(ebpf, "LEASES")?,
                keys,
            },
            fanouts: Fanouts { fanouts: take_map(ebpf, "FANOUTS")?, lists: array(ebpf, "FANOUT_LISTS")?, keys: chunks },
            server: array(ebpf, "SERVER")?,
            counters: take(ebpf, "COUNTERS")?,
            taps: take(ebpf, "TAPS")?,
        })
    }
}

impl Tables {
    /// A copy of what the kernel knows of an incoming SSRC.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn publisher_state(&self, slot: u32) -> Result<PublisherState, MapError> {
        self.publisher_state.get(&slot, 0).map(|bytes| PublisherState::from_bytes(&bytes))
    }
}
