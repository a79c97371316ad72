//! Typed handles to the maps of one loaded datapath. Layouts: [`forwarder_common::maps`].

use aya::{
    Ebpf,
    maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf},
};
use forwarder_common::{
    ReplayWindow,
    arrivals::Arrivals,
    maps::{
        FanoutList, FlowKey, Path, PublisherState, PublisherStateBytes, PublisherTrack, Server, Session,
        SubscriberState, SubscriberTrack,
    },
    tower::{self, derive::Basis},
};

use super::{
    handle::{array, take, take_map},
    keys::{self, Keys},
    mapped::{Mapped, Shared},
    stores::{self, Stores},
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
    /// `FLOWS`: incoming 5-tuple and SSRC → publisher-track slot.
    pub flows: HashMap<MapData, FlowKey, u32>,
    /// `PUBLISHER_TRACKS`, by slot: what is forwarded, and to which fan-out.
    pub publisher_tracks: Array<MapData, PublisherTrack>,
    /// `PUBLISHER_STATE`, by slot: written before the flow exists, only read afterwards.
    pub publisher_state: Array<MapData, PublisherStateBytes>,
    /// The replay lists of `PUBLISHER_STATE`, as they are at the moment.
    pub replay: Mapped<ReplayWindow>,
    /// `ARRIVALS`, by slot: cleared before the flow exists, only read afterwards.
    pub arrivals: Mapped<Arrivals>,
    /// `SUBSCRIBER_TRACKS`, by slot: written while no member list names it.
    pub subscriber_tracks: Array<MapData, SubscriberTrack>,
    /// `SUBSCRIBER_STATE`, by slot: written before the slot is used, only read afterwards.
    pub subscriber_state: Array<MapData, SubscriberState>,
    /// `SESSIONS`, by slot.
    pub sessions: Array<MapData, Session>,
    /// `PATHS`, by slot: written while no session names it.
    pub paths: Array<MapData, Path>,
    /// `LEASES`, by session slot: expiry, ns of CLOCK_BOOTTIME; 0: none.
    pub leases: Array<MapData, u64>,
    /// Key material by session slot: `KEYS`, `TOWERS`, `SUBSETS`.
    pub keys: Keys,
    /// `STORES`, by publisher slot: packets that are kept.
    pub stores: Stores,
}

/// The maps of the fan-out thread.
pub struct Fanouts {
    /// An array of devmaps.
    pub fanouts: Map,
    /// `FANOUT_LISTS`, by fan-out slot: written while no publisher track names it.
    pub lists: Array<MapData, FanoutList>,
    /// To which it adds room.
    pub keys: keys::Outer,
    /// To which it adds chunks.
    pub stores: stores::Outer,
}

/// All handles.
pub struct Maps {
    /// For the engine's state, behind its lock.
    pub tables: Tables,
    /// For the fan-out thread, which alone waits for grace periods.
    pub fanouts: Fanouts,
    /// `SERVER`, one entry: written at start, then each second by housekeeping.
    pub server: Array<MapData, Server>,
    /// `COUNTERS`, by the number of the counter; a total is the sum over CPUs.
    pub counters: PerCpuArray<MapData, u64>,
    /// `TAPS`: plaintext of streams that have viewers in the userspace engine.
    pub taps: RingBuf<MapData>,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    /// The object lacks a map or has one of another type or value size.
    /// `chunks`: most chunks of kept packets.
    pub fn take(ebpf: &mut Ebpf, chunks_of_packets: usize) -> Result<Self, MapError> {
        let basis = Box::new(Basis::new());
        let mut tables = Box::new(tower::Tables::EMPTY);
        basis.fill(&mut tables);
        array::<tower::Tables>(ebpf, "TOWER_TABLES")?.set(0, tables.as_ref(), 0)?;
        let (chunks, mut keys) = (keys::Outer::take(ebpf)?, Keys::new(basis));
        let publisher_state = take_map(ebpf, "PUBLISHER_STATE")?;
        let arrivals = take_map(ebpf, "ARRIVALS")?;
        keys.push(chunks.add(0).map_err(MapError::IoError)?);
        Ok(Self {
            tables: Tables {
                flows: take(ebpf, "FLOWS")?,
                publisher_tracks: array(ebpf, "PUBLISHER_TRACKS")?,
                replay: mapped(&publisher_state)?,
                arrivals: mapped(&arrivals)?,
                publisher_state: publisher_state.try_into()?,
                subscriber_tracks: array(ebpf, "SUBSCRIBER_TRACKS")?,
                subscriber_state: array(ebpf, "SUBSCRIBER_STATE")?,
                sessions: array(ebpf, "SESSIONS")?,
                paths: array(ebpf, "PATHS")?,
                leases: array(ebpf, "LEASES")?,
                keys,
                stores: Stores::new(chunks_of_packets),
            },
            fanouts: Fanouts {
                fanouts: take_map(ebpf, "FANOUTS")?,
                lists: array(ebpf, "FANOUT_LISTS")?,
                keys: chunks,
                stores: stores::Outer::take(ebpf)?,
            },
            server: array(ebpf, "SERVER")?,
            counters: take(ebpf, "COUNTERS")?,
            taps: take(ebpf, "TAPS")?,
        })
    }
}

fn mapped<T: Shared>(map: &Map) -> Result<Mapped<T>, MapError> {
    Mapped::of(map).map_err(MapError::IoError)
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
