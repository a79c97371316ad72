//! What only the server itself knows, as `GET /api/v1/state` tells it: sessions of the userspace engine, those
//! that are still connecting, cameras.

use std::collections::BTreeMap;

use serde_json::Value;

use super::view::{SessionView, Snapshot, TrackView};
use penstock_engine::Role;

/// Adds it. What the kernel's maps show comes from there, fresher and in more detail.
pub(super) fn add(snapshot: &mut Snapshot, state: &Value) {
    let list = |key: &str| state.get(key).and_then(Value::as_array).into_iter().flatten();
    let in_maps = |session: &&Value| snapshot.server.is_some() && engine(session).starts_with("kernel");
    let others: Vec<SessionView> = list("sessions").filter(|one| !in_maps(one)).filter_map(session).collect();
    snapshot.sessions.extend(others);
    for stream in list("streams") {
        let source = stream.get("source").and_then(|source| text(source, "state"));
        if let (Some(name), Some(source)) = (text(stream, "name"), source) {
            snapshot.sources.insert(name, source);
        }
    }
}

/// The server that tells; the maps have it too.
pub fn pid(state: &Value) -> Option<u64> {
    state.get("pid").and_then(Value::as_u64)
}

fn engine(session: &Value) -> &str {
    session.get("engine").and_then(Value::as_str).unwrap_or("connecting")
}

fn session(session: &Value) -> Option<SessionView> {
    let address = |key| text(session, key).and_then(|address| address.parse().ok());
    let role = if text(session, "role")? == "publisher" { Role::Publisher } else { Role::Subscriber };
    let tracks = session.get("tracks").and_then(Value::as_array).into_iter().flatten();
    Some(SessionView {
        slot: None,
        stream: text(session, "stream")?,
        id: text(session, "id")?,
        role,
        peer: address("peer"),
        local: address("local"),
        engine: engine(session).to_owned(),
        profile: text(session, "profile"),
        age_seconds: session.get("age_s").and_then(Value::as_f64).unwrap_or_default(),
        lease_seconds: None,
        tracks: tracks.filter_map(track).collect(),
    })
}

/// None for a track whose SSRC is still unknown.
fn track(track: &Value) -> Option<TrackView> {
    let number = |key: &str| track.get(key).and_then(Value::as_u64);
    let auth_failed = number("auth_failed").filter(|count| *count != 0);
    Some(TrackView {
        slot: None,
        kind: if text(track, "kind")? == "audio" { "audio" } else { "video" },
        ssrc: number("ssrc")?.try_into().ok()?,
        payload_type: number("payload_type")?.try_into().ok()?,
        publisher_track: None,
        index_offset: None,
        timestamp_offset: None,
        highest_index: None,
        viewers: None,
        packets: number("packets")?,
        bytes: number("bytes")?,
        jitter_ms: track.get("jitter_ms").and_then(Value::as_f64),
        idle_seconds: None,
        drops: auth_failed.map(|count| ("drop_auth_failed", count)).into_iter().collect::<BTreeMap<_, _>>(),
    })
}

fn text(value: &Value, key: &str) -> Option<String> {
    value.get(key)?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told() -> Value {
        let viewer = |engine: Value| {
            json!({
                "id": "a", "role": "subscriber", "stream": "s", "engine": engine, "peer": "192.0.2.1:5",
                "local": null, "profile": "AES_CM_128_HMAC_SHA1_80", "age_s": 1.5,
                "tracks": [
                    { "kind": "video", "ssrc": 7, "payload_type": 96, "packets": 3, "bytes": 9 },
                    { "kind": "audio", "ssrc": null, "payload_type": 111, "packets": 0, "bytes": 0 },
                ],
            })
        };
        json!({
            "pid": 12,
            "sessions": [viewer(json!("kernel native")), viewer(json!("userspace socket: why")), viewer(Value::Null)],
            "streams": [{ "name": "door", "source": { "state": "waiting" } }, { "name": "s", "source": null }],
        })
    }

    #[test]
    fn all_sessions_are_there_without_maps() {
        let mut snapshot = Snapshot::default();
        add(&mut snapshot, &told());
        let engines: Vec<&str> = snapshot.sessions.iter().map(|session| session.engine.as_str()).collect();
        assert_eq!(engines, ["kernel native", "userspace socket: why", "connecting"]);
        let session = &snapshot.sessions[1];
        assert_eq!((session.peer, session.local), (Some("192.0.2.1:5".parse().unwrap()), None));
        assert_eq!((session.tracks.len(), session.packets(), session.bytes()), (1, 3, 9));
        let streams = snapshot.streams();
        assert_eq!((streams[0].stream.as_str(), streams[0].source.as_deref()), ("door", Some("waiting")));
        assert_eq!((streams[1].stream.as_str(), streams[1].viewers), ("s", 3));
        assert_eq!(pid(&told()), Some(12));
    }

    #[test]
    fn an_answer_in_another_form_is_no_harm() {
        let mut snapshot = Snapshot::default();
        add(&mut snapshot, &json!({ "sessions": [1, {}, { "id": [] }], "streams": "none" }));
        assert!(snapshot.sessions.is_empty() && snapshot.sources.is_empty());
    }
}
