//! What is shown, and that the document says the same.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;

const DOCUMENT: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md"));
const DASHBOARD: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/grafana/penstock.json"));

fn snapshot() -> serde_json::Value {
    let track = json!({ "kind": "video", "loss": 0.25, "jitter_ms": 4.0, "rtt_ms": 20.0, "bitrate": 8000 });
    let session = |role: &str, engine: &str| {
        json!({
            "role": role, "state": "connected", "engine": engine, "profile": "AEAD_AES_128_GCM", "tracks": [track],
            "stream": "name-of-a-stream", "peer": "192.0.2.7:5000",
        })
    };
    let unknown = "something new: 192.0.2.7 is far";
    json!({
        "streams": [
            { "name": "name-of-a-stream", "live": true, "viewers": 2 },
            { "name": "cam", "live": false, "viewers": 0, "source": { "state": "waiting" } },
        ],
        "sources": { "failures": { "dns": 3 }, "dropped": { "payload_type": 9 } },
        "rtsp": { "connections": 5 },
        "sessions": [session("publisher", "kernel native"), session("subscriber", unknown)],
        "engines": [{
            "engine": "kernel",
            "counters": { "opened": 7, "drop_replayed": 3, "keystream_rings": 2 },
            "programs": [{ "name": "penstock_egress", "runs": 2, "run_time_ns": 3_000_000_000u64 }],
        }],
        "counters": { "control": { "sessions_opened": 2 } },
    })
}

fn shown() -> String {
    text(&snapshot(), &Requests::new().unwrap()).unwrap()
}

#[test]
fn numbers_and_units() {
    let text = shown();
    for line in [
        "penstock_streams{state=\"live\"} 1",
        "penstock_stream_viewers_max 2",
        "penstock_sources{state=\"waiting\"} 1",
        "penstock_sources{state=\"playing\"} 0",
        "penstock_source_failures_total{error=\"dns\"} 3",
        "penstock_source_dropped_total{reason=\"payload_type\"} 9",
        "penstock_rtsp_events_total{event=\"connections\"} 5",
        "penstock_sessions{role=\"subscriber\",state=\"connected\"} 1",
        "penstock_sessions{role=\"subscriber\",state=\"connecting\"} 0",
        "penstock_sessions_carried{role=\"publisher\",carrier=\"kernel native\"} 1",
        "penstock_sessions_profile{profile=\"AEAD_AES_128_GCM\"} 2",
        "penstock_received_bytes_per_second{kind=\"video\"} 1000",
        "penstock_viewer_rtt_seconds{at=\"max\"} 0.02",
        "penstock_viewer_loss_ratio{at=\"median\"} 0.25",
        "penstock_packets_total{engine=\"kernel\",direction=\"in\"} 7",
        "penstock_drops_total{engine=\"kernel\",reason=\"drop_replayed\"} 3",
        "penstock_keystream_windows 2",
        "penstock_bpf_run_seconds_total{program=\"penstock_egress\"} 3",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
    }
}

#[test]
fn nothing_that_a_peer_chooses_is_a_label() {
    let text = shown();
    assert!(!text.contains("name-of-a-stream") && !text.contains("192.0.2.7"), "{text}");
    assert!(text.contains("carrier=\"other\"} 1"), "{text}");
}

#[test]
fn the_document_lists_exactly_what_there_is() {
    let rows = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `penstock_"));
    let documented: BTreeSet<(String, String, String)> = rows
        .map(|row| {
            let mut cells = row.split('|').map(|cell| cell.trim().replace('`', ""));
            let name = format!("penstock_{}", cells.next().unwrap());
            (name, cells.next().unwrap(), cells.next().unwrap())
        })
        .collect();
    let metrics = names::ALL.iter().map(|metric| {
        let kind = match metric.name {
            name if name.ends_with("_total") => "counter",
            "penstock_http_request_seconds" => "histogram",
            _ => "gauge",
        };
        (metric.name.to_owned(), kind.to_owned(), metric.labels.join(", "))
    });
    assert_eq!(documented, metrics.collect());
    for line in shown().lines().filter_map(|line| line.strip_prefix("# TYPE penstock_")) {
        let (name, kind) = line.split_once(' ').unwrap();
        let documented = documented.iter().find(|row| row.0 == format!("penstock_{name}"));
        assert_eq!(documented.map(|row| row.1.as_str()), Some(kind), "{name}");
    }
    for counter in forwarder_common::Counter::ALL {
        assert!(DOCUMENT.contains(&format!("`{}`", counter.name())), "{} is not explained", counter.name());
    }
}

#[test]
fn the_dashboard_asks_for_every_metric_and_for_none_that_does_not_exist() {
    let dashboard: serde_json::Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries: Vec<&str> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    assert!(queries.len() > 15, "{queries:?}");
    let known: BTreeSet<&str> = names::ALL.iter().map(|metric| metric.name).collect();
    let mut asked = BTreeSet::new();
    for query in queries {
        let words = query.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let named: Vec<&str> = words.filter(|word| word.starts_with("penstock_")).collect();
        assert!(!named.is_empty() || query.contains("process_"), "{query}");
        for name in named {
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(known.contains(name), "{name} in {query}");
            asked.insert(name);
        }
    }
    assert_eq!(asked, known, "metrics without a panel in config/grafana/penstock.json");
}
