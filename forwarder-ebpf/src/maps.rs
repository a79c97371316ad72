//! The BPF maps. Layouts, writers and readers: `forwarder_common::maps`.
//!
//! The capacities here are the defaults; the loader sets those of the configuration.

use aya_ebpf::{
    Global,
    btf_maps::{Array, ArrayOfMaps, DevMap, HashMap, PerCpuArray, ProgramArray, RingBuf},
    macros::btf_map,
};
use forwarder_common::{
    Counter, SessionKey,
    arrivals::Arrivals,
    keystream::Entry,
    maps as layout,
    store::{self, Stored},
    subsets, tower,
};

/// `BPF_F_MMAPABLE`: userspace writes the values in its own memory.
pub const MMAPABLE: usize = 0x400;

/// `BPF_F_INNER_MAP`: maps of other sizes may take the place of this one (Linux 5.10).
pub const INNER_MAP: usize = 0x1000;

/// UDP port of the media, host byte order. The loader sets it.
#[unsafe(no_mangle)]
pub static MEDIA_PORT: Global<u16> = Global::new(0);

/// Blocks of all copies of a packet from which GHASH is computed by rows. Tests load it with others.
#[unsafe(no_mangle)]
pub static TOWER_WORK: Global<u32> = Global::new(tower::WORK);

/// Sessions that the maps hold by default.
const MAX_SESSIONS: usize = 1024;
/// Incoming SSRCs by default.
const MAX_PUBLISHER_TRACKS: usize = 256;
/// Outgoing SSRCs by default.
const MAX_SUBSCRIBER_TRACKS: usize = 2048;

#[btf_map]
pub static FLOWS: HashMap<layout::FlowKey, u32, MAX_PUBLISHER_TRACKS> = HashMap::new();

#[btf_map]
pub static PUBLISHER_TRACKS: Array<layout::PublisherTrack, MAX_PUBLISHER_TRACKS> = Array::new();

#[btf_map]
pub static PUBLISHER_STATE: Array<layout::PublisherState, MAX_PUBLISHER_TRACKS, MMAPABLE> = Array::new();

#[btf_map]
pub static ARRIVALS: Array<Arrivals, MAX_PUBLISHER_TRACKS, MMAPABLE> = Array::new();

#[btf_map]
pub static FANOUTS: ArrayOfMaps<DevMap<1>, { 2 * MAX_PUBLISHER_TRACKS }> = ArrayOfMaps::new();

#[btf_map]
pub static FANOUT_LISTS: Array<layout::FanoutList, { 2 * MAX_PUBLISHER_TRACKS }> = Array::new();

#[btf_map]
pub static SUBSCRIBER_TRACKS: Array<layout::SubscriberTrack, MAX_SUBSCRIBER_TRACKS> = Array::new();

#[btf_map]
pub static SUBSCRIBER_STATE: Array<layout::SubscriberState, MAX_SUBSCRIBER_TRACKS> = Array::new();

#[btf_map]
pub static SESSIONS: Array<layout::Session, MAX_SESSIONS> = Array::new();

#[btf_map]
pub static PATHS: Array<layout::Path, { 2 * MAX_SESSIONS }> = Array::new();

#[btf_map]
pub static LEASES: Array<u64, MAX_SESSIONS> = Array::new();

// Values of inner maps are arrays of one struct, not the struct: userspace makes them without BTF, and kernels before
// 6.2 find such a map unequal to a template whose value is a struct (`bpf_map_meta_equal`: "has no timer" is another
// number for a struct than for a map without BTF).

#[btf_map]
pub static KEYS: ArrayOfMaps<Array<[SessionKey; 1], { layout::KEY_CHUNK }>, { MAX_SESSIONS / layout::KEY_CHUNK }> =
    ArrayOfMaps::new();

#[btf_map]
pub static TOWERS: ArrayOfMaps<
    Array<[tower::KeyTable; 1], { layout::KEY_CHUNK }>,
    { MAX_SESSIONS / layout::KEY_CHUNK },
> = ArrayOfMaps::new();

#[btf_map]
pub static SUBSETS: ArrayOfMaps<
    Array<[subsets::Subsets; 1], { layout::KEY_CHUNK }>,
    { MAX_SESSIONS / layout::KEY_CHUNK },
> = ArrayOfMaps::new();

#[btf_map]
pub static SUMS: PerCpuArray<subsets::Sums, 1> = PerCpuArray::new();

#[btf_map]
pub static TOWER_TABLES: Array<tower::Tables, 1> = Array::new();

#[btf_map]
pub static PUBLISHER_KEYSTREAMS: ArrayOfMaps<Array<[Entry; 1], 1, { MMAPABLE | INNER_MAP }>, MAX_PUBLISHER_TRACKS> =
    ArrayOfMaps::new();

#[btf_map]
pub static SUBSCRIBER_KEYSTREAMS: ArrayOfMaps<Array<[Entry; 1], 1, { MMAPABLE | INNER_MAP }>, MAX_SUBSCRIBER_TRACKS> =
    ArrayOfMaps::new();

#[btf_map]
pub static WINDOWS: Array<layout::Window, MAX_PUBLISHER_TRACKS, MMAPABLE> = Array::new();

/// Room for a record of each publisher track: 24 bytes with its header.
#[btf_map]
pub static KEYSTREAM_LOW: RingBuf<layout::KeystreamLow, { 32 * MAX_PUBLISHER_TRACKS }> = RingBuf::new();

#[btf_map]
pub static STORES: ArrayOfMaps<Array<[Stored; 1], { store::CHUNK }>, 1> = ArrayOfMaps::new();

#[btf_map]
pub static TAPS: RingBuf<layout::TapRecord, { 512 << 10 }> = RingBuf::new();

#[btf_map]
pub static COUNTERS: PerCpuArray<u64, { Counter::COUNT }> = PerCpuArray::new();

#[btf_map]
pub static PASSES: PerCpuArray<layout::Pass, { layout::PASS_SLOTS }> = PerCpuArray::new();

/// Passes begun on this CPU.
#[btf_map]
pub static PASS_NUMBER: PerCpuArray<u64, 1> = PerCpuArray::new();

#[btf_map]
pub static ROWS: PerCpuArray<layout::Rows, { layout::ROWS_SLOTS }> = PerCpuArray::new();

/// Rows published on this CPU.
#[btf_map]
pub static ROWS_NUMBER: PerCpuArray<u64, 1> = PerCpuArray::new();

#[btf_map]
pub static PROGRAMS: ProgramArray<{ layout::program::COUNT }> = ProgramArray::new();

#[btf_map]
pub static HANDOVER: PerCpuArray<layout::Handover, 1> = PerCpuArray::new();

/// Of no use to the datapath: here so that all maps come from one object.
#[btf_map]
pub static SERVER: Array<layout::Server, 1> = Array::new();

/// The key of a session, if there is room for it at all; one without rounds is no key.
#[inline(always)]
pub fn key(session: u32) -> Option<&'static SessionKey> {
    KEYS.get(session / layout::KEY_CHUNK as u32)?.get(session % layout::KEY_CHUNK as u32).map(|[it]| it)
}

/// What is derived from the key of a session for GHASH by rows.
#[inline(always)]
pub fn tower(session: u32) -> Option<&'static tower::KeyTable> {
    TOWERS.get(session / layout::KEY_CHUNK as u32)?.get(session % layout::KEY_CHUNK as u32).map(|[it]| it)
}

/// The subsets of a session's key, as [`key`].
#[inline(always)]
pub fn subsets(session: u32) -> Option<&'static subsets::Subsets> {
    SUBSETS.get(session / layout::KEY_CHUNK as u32)?.get(session % layout::KEY_CHUNK as u32).map(|[it]| it)
}

/// When the lease of a session ends, ns of CLOCK_BOOTTIME; 0 in a free slot.
#[inline(always)]
pub fn lease(session: u32) -> Option<u64> {
    let lease = LEASES.get_ptr(session)?;
    // SAFETY: an aligned number in a map value; volatile because userspace changes it under us.
    Some(unsafe { core::ptr::read_volatile(lease) })
}
