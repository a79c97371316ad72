//! Cameras, encoders, and those who publish by RTSP, from a snapshot of the control task.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{
    names::{self, Metric},
    page::Page,
};

/// What the metrics need of a snapshot.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Snapshot {
    streams: Vec<Stream>,
    sources: Totals,
    rtsp: BTreeMap<String, u64>,
}

#[derive(Debug, Deserialize)]
struct Stream {
    source: Option<Source>,
}

#[derive(Debug, Deserialize)]
struct Source {
    state: String,
    #[serde(default)]
    reasons: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Totals {
    failures: BTreeMap<String, u64>,
    dropped: BTreeMap<String, u64>,
    reasons: BTreeMap<String, u64>,
    stray_bytes: u64,
}

const STATES: [&str; 4] = ["idle", "connecting", "playing", "waiting"];

pub(super) fn add(page: &mut Page, snapshot: &Snapshot) {
    let sources = || snapshot.streams.iter().filter_map(|stream| stream.source.as_ref());
    // Zeros too: a graph shall fall to 0, not end.
    let of = |state: &str| (vec![state.to_owned()], sources().filter(|source| source.state == state).count() as f64);
    page.gauge(&names::SOURCES, STATES.map(of));
    // Those that have held once, and hold for no source now, are 0.
    let reasons = snapshot.sources.reasons.keys().map(|reason| {
        let holds = |source: &&Source| source.reasons.contains(reason);
        (vec![reason.clone()], sources().filter(holds).count() as f64)
    });
    page.gauge(&names::SOURCE_REASONS, reasons);
    let mut counters = |metric: &Metric, counts: &BTreeMap<String, u64>| {
        page.counter(metric, counts.iter().map(|(name, count)| (vec![name.clone()], *count as f64)));
    };
    counters(&names::SOURCE_FAILURES, &snapshot.sources.failures);
    counters(&names::SOURCE_DROPPED, &snapshot.sources.dropped);
    counters(&names::SOURCE_REASONS_BEGUN, &snapshot.sources.reasons);
    counters(&names::RTSP, &snapshot.rtsp);
    page.counter(&names::SOURCE_STRAY, [(vec![], snapshot.sources.stray_bytes as f64)]);
}
