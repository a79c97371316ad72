//! `penstock maps`: the maps as they are, entry by entry.

use std::{
    fmt::Write as _,
    os::fd::{AsFd as _, AsRawFd as _},
};

use anyhow::{Result, bail};
use aya::{
    Pod,
    maps::{Array, ArrayOfMaps, HashMap, MapData, PerCpuArray, xdp::DevMap},
};
use forwarder_common::{
    Counter,
    maps::{
        FanoutList, FlowKey, PUBLISHER_DROPS, Path, PublisherState, PublisherStateBytes, PublisherTrack,
        SUBSCRIBER_DROPS, Server, Session, SubscriberState, SubscriberTrack,
    },
};
use serde::Serialize;
use serde_json::{Value, json};

use super::read::{Pinned, kind, profile, socket_address};
use penstock_engine::bpf::maps::NAMES;

/// One map.
#[derive(Clone, Debug, Serialize)]
pub struct MapView {
    /// As in bpffs, e.g. `PUBLISHER_TRACKS`.
    pub name: String,
    /// The kernel's word in snake case, e.g. `per_cpu_array`; `unknown` if aya has none for it.
    #[serde(rename = "type")]
    pub kind: String,
    /// Entries that hold something; unknown for scratch memory of the datapath.
    pub used: Option<usize>,
    /// Most entries that it may have.
    pub capacity: u32,
    /// Size of a key.
    pub key_bytes: u32,
    /// Size of a value, on one CPU.
    pub value_bytes: u32,
    /// Kernel memory, all CPUs together.
    pub memory_bytes: Option<u64>,
}

/// One entry of a map.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    pub key: Value,
    pub value: Value,
}

/// All maps.
///
/// # Errors
/// One cannot be read.
pub fn map_views(pinned: &Pinned) -> Result<Vec<MapView>> {
    let view = |name: &&str| {
        let map = pinned.raw(name)?;
        let info = map.info()?;
        let used = Some(entries(pinned, name)?.len());
        Ok(MapView {
            name: (*name).to_owned(),
            kind: info.map_type().map_or_else(|_| "unknown".into(), |kind| snake_case(&format!("{kind:?}"))),
            used,
            capacity: info.max_entries(),
            key_bytes: info.key_size(),
            value_bytes: info.value_size(),
            memory_bytes: memory(&map),
        })
    };
    NAMES.iter().map(view).collect()
}

/// What the kernel charges for a map.
fn memory(map: &MapData) -> Option<u64> {
    let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let text = std::fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
}

fn snake_case(name: &str) -> String {
    let mut text = String::new();
    for (place, letter) in name.chars().enumerate() {
        if letter.is_uppercase() && place > 0 {
            text.push('_');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

/// The used entries of a map, decoded.
///
/// # Errors
/// There is no such map, or it cannot be read.
pub fn entries(pinned: &Pinned, name: &str) -> Result<Vec<Entry>> {
    match name {
        "SERVER" => array(pinned, name, server),
        "SESSIONS" => array(pinned, name, session),
        "LEASES" => array(pinned, name, |lease: &u64| (*lease != 0).then(|| json!(lease))),
        "PATHS" => array(pinned, name, path),
        "FLOWS" => flows(pinned),
        "PUBLISHER_TRACKS" => array(pinned, name, publisher_track),
        "PUBLISHER_STATE" => array(pinned, name, publisher_state),
        "SUBSCRIBER_TRACKS" => array(pinned, name, subscriber_track),
        "SUBSCRIBER_STATE" => array(pinned, name, subscriber_state),
        "FANOUTS" => fanouts(pinned),
        "FANOUT_LISTS" => array(pinned, name, fanout_list),
        "COUNTERS" => counters(pinned),
        "KEYS" | "TOWERS" | "SUBSETS" => {
            bail!("{name} holds keys, and is not pinned: nobody can read them from outside")
        }
        _ => bail!("no map {name}: the maps are {}", NAMES.join(", ")),
    }
}

fn array<V: Pod>(pinned: &Pinned, name: &str, decode: impl Fn(&V) -> Option<Value>) -> Result<Vec<Entry>> {
    let map: Array<MapData, V> = pinned.map(name)?;
    let mut entries = Vec::new();
    for slot in 0..map.len() {
        if let Some(value) = decode(&map.get(&slot, 0)?) {
            entries.push(Entry { key: json!(slot), value });
        }
    }
    Ok(entries)
}

fn server(server: &Server) -> Option<Value> {
    Some(json!({
        "layout": server.layout, "pid": server.pid, "started_ns": server.started_ns,
        "heartbeat_ns": server.heartbeat_ns, "ifindex": server.ifindex, "mode": server.mode,
        "media_port": server.media_port,
    }))
}

fn session(session: &Session) -> Option<Value> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned();
    (session.state != 0).then(|| {
        json!({
            "stream": text(&session.stream), "id": text(&session.id), "state": session.state,
            "profile": profile(session.profile), "peer": socket_address(session.peer, session.peer_port),
            "local": socket_address(session.local, session.local_port), "path": session.path,
            "created_ns": session.created_ns,
        })
    })
}

fn path(path: &Path) -> Option<Value> {
    (path.header_len != 0).then(|| {
        let header = path.header.get(..usize::from(path.header_len)).unwrap_or(&path.header);
        json!({
            "egress_ifindex": path.egress_ifindex, "ip_version": path.ip_version, "l3_offset": path.l3_offset,
            "checksum_base": path.checksum_base, "header": hex(header),
        })
    })
}

fn flows(pinned: &Pinned) -> Result<Vec<Entry>> {
    let map: HashMap<MapData, FlowKey, u32> = pinned.map("FLOWS")?;
    // An entry that is deleted while the table is read is no error.
    let entry = |(flow, slot): (FlowKey, u32)| Entry {
        key: json!({
            "peer": socket_address(flow.peer, flow.peer_port), "local": socket_address(flow.local, flow.local_port),
            "ssrc": ssrc(u32::from_be_bytes(flow.ssrc)),
        }),
        value: json!({ "publisher_track": slot }),
    };
    Ok(map.iter().flatten().map(entry).collect())
}

fn publisher_track(track: &PublisherTrack) -> Option<Value> {
    (track.kind != 0).then(|| {
        json!({
            "session": track.session, "kind": kind(track.kind), "ssrc": ssrc(track.ssrc),
            "payload_type": track.payload_type, "clock_rate": track.clock_rate, "fanout": track.fanout,
        })
    })
}

fn publisher_state(bytes: &PublisherStateBytes) -> Option<Value> {
    let state = PublisherState::from_bytes(bytes);
    (state.first != 0).then(|| {
        json!({
            "highest": state.replay.highest().0, "first": state.first, "packets": state.packets,
            "octets": state.octets, "drops": named(&PUBLISHER_DROPS, &state.drops),
            "last_arrival_ns": state.last_arrival_ns, "last_timestamp": state.last_timestamp,
            "jitter_q4": state.jitter_q4,
        })
    })
}

fn subscriber_track(track: &SubscriberTrack) -> Option<Value> {
    (track.kind != 0).then(|| {
        json!({
            "session": track.session, "kind": kind(track.kind), "ssrc": ssrc(track.ssrc),
            "payload_type": track.payload_type, "index_offset": track.index_offset as i64,
            "first_in": track.first_in, "timestamp_offset": track.timestamp_offset,
            "publisher_track": track.publisher_track,
        })
    })
}

fn subscriber_state(state: &SubscriberState) -> Option<Value> {
    (*state != SubscriberState::default()).then(|| {
        json!({
            "packets": state.packets, "octets": state.octets, "last_index": state.last_index,
            "last_sent_ns": state.last_sent_ns, "last_timestamp": state.last_timestamp,
            "drops": named(&SUBSCRIBER_DROPS, &state.drops),
        })
    })
}

fn fanouts(pinned: &Pinned) -> Result<Vec<Entry>> {
    let map: ArrayOfMaps<MapData, DevMap<MapData>> = pinned.map("FANOUTS")?;
    let mut entries = Vec::new();
    for slot in 0..map.len() {
        let Ok(devmap) = map.get(&slot, 0) else { continue };
        let ifindex: Vec<u32> = devmap.iter().flatten().map(|entry| entry.if_index).collect();
        entries.push(Entry { key: json!(slot), value: json!({ "entries": devmap.len(), "ifindex": ifindex }) });
    }
    Ok(entries)
}

fn fanout_list(list: &FanoutList) -> Option<Value> {
    (list.copies != 0).then(|| {
        let groups = list.groups.iter().take(list.groups_len as usize);
        let groups: Vec<Value> =
            groups.map(|g| json!({ "ifindex": g.ifindex, "start": g.start, "len": g.len })).collect();
        let members = list.members.get(..list.copies as usize).unwrap_or(&list.members);
        json!({ "copies": list.copies, "groups": groups, "members": members })
    })
}

fn counters(pinned: &Pinned) -> Result<Vec<Entry>> {
    let map: PerCpuArray<MapData, u64> = pinned.map("COUNTERS")?;
    let mut entries = Vec::new();
    for counter in Counter::ALL {
        let values = map.get(&(*counter as u32), 0)?;
        let total = values.iter().fold(0u64, |sum, value| sum.wrapping_add(*value));
        if total != 0 {
            entries.push(Entry {
                key: json!(counter.name()),
                value: json!({ "total": total, "by_cpu": values.to_vec() }),
            });
        }
    }
    Ok(entries)
}

fn named(reasons: &[Counter], counts: &[u64]) -> Value {
    let used = reasons.iter().zip(counts).filter(|(_, count)| **count != 0);
    Value::Object(used.map(|(reason, count)| (reason.name().to_owned(), json!(count))).collect())
}

fn ssrc(ssrc: u32) -> String {
    format!("{ssrc:#010x}")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
