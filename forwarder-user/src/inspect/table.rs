//! Tables for people, at most 120 columns wide.

use std::collections::BTreeMap;

use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use serde_json::Value;

use super::{
    entries::{Entry, MapView},
    live::{LiveSession, LiveView},
    view::{Liveness, ServerView, SessionView, Snapshot, StreamView, TrackView},
};
use penstock_engine::Role;

/// Columns of a line.
const WIDTH: u16 = 120;

/// Characters of a session id that tell sessions apart well enough.
const SHORT_ID: usize = 8;

/// One line about the server, a second one if it does not work.
pub(super) fn server(server: &ServerView) -> String {
    let interfaces = server.interfaces.iter().map(|interface| format!("{} ({})", interface.name, interface.mode));
    let interfaces: Vec<String> = interfaces.collect();
    let line = format!(
        "server pid {}, up {}, kernel engine on {}, media port {}\n",
        server.pid,
        duration(server.up_seconds),
        interfaces.join(", "),
        server.media_port
    );
    let silent = duration(server.silent_seconds);
    match server.liveness {
        Liveness::Running => line,
        Liveness::Silent => {
            line + &format!("IT DOES NOT ANSWER: no sign of life for {silent}. The kernel forwards until leases end.\n")
        }
        Liveness::Dead => line + &format!("IT IS DEAD since about {silent}: these are the maps that it left behind.\n"),
    }
}

/// Streams, their tracks, and the counters of the datapath.
pub(super) fn streams(snapshot: &Snapshot) -> String {
    let streams = snapshot.streams();
    if streams.is_empty() {
        return format!("no streams\n\n{}", counters(&snapshot.counters));
    }
    let mut table = new(
        &[
            "STREAM",
            "PUBLISHER",
            "VIEWERS",
            "ENGINE",
            "TRACKS",
            "OPENED",
            "SEALED",
            "BYTES IN",
            "BYTES OUT",
            "DROPS",
            "AGE",
        ],
        &[2, 5, 6, 7, 8, 10],
    );
    for stream in &streams {
        let tracks: Vec<String> =
            stream.tracks.iter().map(|track| format!("{}/{}", track.kind, track.payload_type)).collect();
        table.add_row([
            stream.stream.clone(),
            publisher(stream),
            stream.viewers.to_string(),
            stream.engines.join(", "),
            tracks.join(" "),
            stream.packets_in.to_string(),
            stream.packets_out.to_string(),
            bytes(stream.bytes_in),
            bytes(stream.bytes_out),
            drops(&stream.drops),
            duration(stream.age_seconds),
        ]);
    }
    format!("{}\n{}", finish(&table), counters(&snapshot.counters))
}

/// Sessions, then their tracks.
pub(super) fn sessions(snapshot: &Snapshot) -> String {
    if snapshot.sessions.is_empty() {
        return "no sessions\n".into();
    }
    let mut table = new(
        &["STREAM", "SESSION", "ROLE", "PEER", "ENGINE", "SRTP", "PACKETS", "BYTES", "DROPS", "AGE", "LEASE"],
        &[6, 7, 8, 9, 10],
    );
    for session in &snapshot.sessions {
        let lease = match session.lease_seconds {
            None => "-".into(),
            Some(left) if left < 0.0 => "expired".into(),
            Some(left) => duration(left),
        };
        table.add_row([
            session.stream.clone(),
            short(session),
            role(session.role).into(),
            session.peer.map_or_else(|| "-".into(), |peer| peer.to_string()),
            session.engine.clone(),
            session.profile.as_deref().unwrap_or("-").trim_start_matches("AEAD_").to_owned(),
            session.packets().to_string(),
            bytes(session.bytes()),
            session.drops().to_string(),
            duration(session.age_seconds),
            lease,
        ]);
    }
    format!("{}\n{}", finish(&table), tracks(snapshot))
}

fn tracks(snapshot: &Snapshot) -> String {
    let mut table = new(
        &[
            "SESSION",
            "KIND",
            "SSRC",
            "PT",
            "INDEX OFFSET",
            "TIME OFFSET",
            "ROC:SEQ",
            "PACKETS",
            "BYTES",
            "DROPS",
            "IDLE",
        ],
        &[3, 4, 5, 6, 7, 8, 10],
    );
    for session in &snapshot.sessions {
        for track in &session.tracks {
            table.add_row([
                short(session),
                track.kind.to_owned(),
                format!("{:#010x}", track.ssrc),
                track.payload_type.to_string(),
                track.index_offset.map_or_else(|| "-".into(), |offset| format!("{offset:+}")),
                track.timestamp_offset.map_or_else(|| "-".into(), |offset| format!("{offset:+}")),
                track.highest_index.map_or_else(|| "-".into(), |index| format!("{}:{}", index >> 16, index & 0xffff)),
                track.packets.to_string(),
                bytes(track.bytes),
                drops(&track.drops),
                idle(track),
            ]);
        }
    }
    if table.is_empty() { "no tracks\n".into() } else { finish(&table) }
}

/// Streams and sessions with their rates: at most so many lines of them, half for the streams.
pub(super) fn live(view: &LiveView, rows: usize) -> String {
    let of_streams = view.streams.len().min((rows / 2).max(1));
    let of_sessions = view.sessions.len().min(rows.saturating_sub(of_streams).max(1));
    let mut streams =
        new(&["STREAM", "SOURCE", "VIEWERS", "IN", "OUT", "COPIES/S", "DROPS", "AGE"], &[2, 3, 4, 5, 6, 7]);
    for stream in view.streams.iter().take(of_streams) {
        let published = if stream.published { "publisher" } else { "none" };
        let source = stream.source.as_deref().unwrap_or(published);
        streams.add_row([
            stream.stream.clone(),
            if stream.stale { format!("{source} (stale)") } else { source.to_owned() },
            stream.viewers.to_string(),
            bits(stream.bits_in_per_second),
            bits(stream.bits_out_per_second),
            format!("{:.0}", stream.packets_out_per_second),
            stream.drops.to_string(),
            duration(stream.age_seconds),
        ]);
    }
    let mut sessions = new(
        &["STREAM", "SESSION", "ROLE", "PEER", "ENGINE", "PACKETS/S", "RATE", "DROPS", "AGE", "STATE"],
        &[5, 6, 7, 8],
    );
    for LiveSession { session, packets_per_second, bits_per_second, stale_seconds } in
        view.sessions.iter().take(of_sessions)
    {
        sessions.add_row([
            session.stream.clone(),
            short(session),
            role(session.role).into(),
            session.peer.map_or_else(|| "-".into(), |peer| peer.to_string()),
            session.engine.clone(),
            format!("{packets_per_second:.0}"),
            bits(*bits_per_second),
            session.drops().to_string(),
            duration(session.age_seconds),
            state(session, *stale_seconds),
        ]);
    }
    let left = |all: usize, shown: usize, what: &str| match all - shown {
        0 => String::new(),
        left => format!("… and {left} {what} more\n"),
    };
    let part = |table: &Table, none: &str| if table.is_empty() { format!("{none}\n") } else { finish(table) };
    format!(
        "{}{}\n{}{}",
        part(&streams, "no streams"),
        left(view.streams.len(), of_streams, "streams"),
        part(&sessions, "no sessions"),
        left(view.sessions.len(), of_sessions, "sessions"),
    )
}

/// Whether what is told of a session is true now.
fn state(session: &SessionView, stale_seconds: Option<f64>) -> String {
    match (stale_seconds, session.lease_seconds) {
        (Some(seconds), _) => format!("stale {}", duration(seconds)),
        (None, Some(left)) if left < 0.0 => "lease over".into(),
        (None, Some(left)) => format!("lease {}", duration(left)),
        (None, None) => "live".into(),
    }
}

/// The maps with their fill.
pub(super) fn maps(maps: &[MapView]) -> String {
    let mut table = new(&["MAP", "TYPE", "USED", "CAPACITY", "KEY", "VALUE", "MEMORY"], &[2, 3, 4, 5, 6]);
    for map in maps {
        table.add_row([
            map.name.clone(),
            map.kind.clone(),
            map.used.map_or_else(|| "-".into(), |used| used.to_string()),
            map.capacity.to_string(),
            format!("{} B", map.key_bytes),
            format!("{} B", map.value_bytes),
            map.memory_bytes.map_or_else(|| "-".into(), bytes),
        ]);
    }
    finish(&table)
}

/// One line for each entry of a map, wrapped.
pub(super) fn entries(name: &str, entries: &[Entry]) -> String {
    if entries.is_empty() {
        return format!("{name}: no entry is in use\n");
    }
    let mut table = new(&["KEY", "VALUE"], &[]);
    for entry in entries {
        table.add_row([plain(&entry.key), plain(&entry.value)]);
    }
    finish(&table)
}

/// JSON as `field=value` pairs.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => format!("[{}]", values.iter().map(plain).collect::<Vec<_>>().join(" ")),
        Value::Object(fields) => {
            let pair = |(name, value): (&String, &Value)| match value {
                Value::Object(_) => format!("{name}=({})", plain(value)),
                _ => format!("{name}={}", plain(value)),
            };
            fields.iter().map(pair).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

/// The counters that are not zero.
fn counters(counters: &BTreeMap<&'static str, u64>) -> String {
    let used: Vec<String> =
        counters.iter().filter(|(_, count)| **count != 0).map(|(name, count)| format!("{name} {count}")).collect();
    if used.is_empty() {
        return "no packets yet\n".into();
    }
    let mut table = new(&["COUNTERS"], &[]);
    table.add_row([used.join(", ")]);
    finish(&table)
}

fn new(header: &[&str], right: &[usize]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_width(WIDTH);
    table.set_header(header.to_vec());
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
    for column in right {
        if let Some(column) = table.column_mut(*column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn finish(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// Its address; of a camera's stream, the camera's state.
fn publisher(stream: &StreamView) -> String {
    match (stream.publisher, &stream.source) {
        (Some(peer), _) => peer.to_string(),
        (None, Some(state)) => format!("source: {state}"),
        (None, None) => "none".into(),
    }
}

/// The userspace engine does not keep the time of a track's last packet.
fn idle(track: &TrackView) -> String {
    match (track.slot, track.idle_seconds) {
        (None, _) => "-".into(),
        (_, None) => "never".into(),
        (_, Some(seconds)) => duration(seconds),
    }
}

fn short(session: &SessionView) -> String {
    session.id.chars().take(SHORT_ID).collect()
}

const fn role(role: Role) -> &'static str {
    match role {
        Role::Publisher => "publisher",
        Role::Subscriber => "viewer",
    }
}

fn drops(drops: &BTreeMap<&'static str, u64>) -> String {
    if drops.is_empty() {
        return "0".into();
    }
    let reason = |(name, count): (&&str, &u64)| format!("{} {count}", name.trim_start_matches("drop_"));
    drops.iter().map(reason).collect::<Vec<_>>().join(", ")
}

/// With two significant digits and a unit.
fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KB", "MB", "GB", "TB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 100.0 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// Rate of payload, in bits a second.
fn bits(per_second: f64) -> String {
    match per_second {
        rate if rate >= 999_950_000.0 => format!("{:.1} Gbit/s", rate / 1e9),
        rate if rate >= 999_950.0 => format!("{:.1} Mbit/s", rate / 1e6),
        rate => format!("{:.0} kbit/s", rate / 1e3),
    }
}

/// The two largest units.
fn duration(seconds: f64) -> String {
    let whole = seconds.max(0.0) as u64;
    let (days, hours, minutes, secs) = (whole / 86_400, whole / 3600 % 24, whole / 60 % 60, whole % 60);
    match (days, hours, minutes) {
        (0, 0, 0) if whole < 10 => format!("{:.1}s", seconds.max(0.0)),
        (0, 0, 0) => format!("{secs}s"),
        (0, 0, _) => format!("{minutes}m{secs:02}s"),
        (0, ..) => format!("{hours}h{minutes:02}m"),
        _ => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        assert_eq!([0, 999, 1000, 123_456, 5_000_000_000].map(bytes), ["0 B", "999 B", "1.0 KB", "123 KB", "5.0 GB"]);
        assert_eq!([0.25, 59.9, 61.0, 3700.0, 90_000.0].map(duration), ["0.2s", "59s", "1m01s", "1h01m", "1d01h"]);
    }

    #[test]
    fn entries_are_flat_text() {
        let value = serde_json::json!({ "a": 1, "b": "x", "c": [1, 2], "d": { "e": true } });
        assert_eq!(plain(&value), "a=1 b=x c=[1 2] d=(e=true)");
    }
}
