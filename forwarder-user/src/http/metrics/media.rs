//! Streams, sessions and engines, from a snapshot of the control task.

use std::collections::BTreeMap;

use forwarder_common::counter::{Counter, Kind};
use serde::Deserialize;

use super::{
    names::{self, Metric},
    page::{Page, Point},
};

/// What the metrics need of a snapshot.
#[derive(Debug, Deserialize)]
pub(super) struct Snapshot {
    streams: Vec<Stream>,
    sessions: Vec<Session>,
    engines: Vec<Engine>,
    counters: Counters,
}

#[derive(Debug, Deserialize)]
struct Stream {
    live: bool,
    viewers: u64,
}

#[derive(Debug, Deserialize)]
struct Session {
    role: String,
    state: String,
    engine: Option<String>,
    profile: Option<String>,
    tracks: Vec<Track>,
}

#[derive(Debug, Deserialize)]
struct Track {
    kind: String,
    loss: Option<f64>,
    jitter_ms: Option<f64>,
    rtt_ms: Option<f64>,
    /// Bits per second.
    bitrate: Option<f64>,
}

#[derive(Debug, Deserialize)]
struct Engine {
    engine: String,
    counters: BTreeMap<String, u64>,
    programs: Vec<Program>,
}

#[derive(Debug, Deserialize)]
struct Program {
    name: String,
    runs: u64,
    run_time_ns: u64,
}

#[derive(Debug, Deserialize)]
struct Counters {
    control: BTreeMap<String, u64>,
}

/// Beginnings of what a session says carries it. Others are `other`: a reason may name addresses.
const CARRIERS: [&str; 6] =
    ["kernel native", "kernel generic", "kernel", "userspace xdp", "userspace socket", "userspace tcp"];
const ROLES: [&str; 2] = ["publisher", "subscriber"];

/// How many there are.
pub(super) fn sessions(page: &mut Page, snapshot: &Snapshot) {
    let live = snapshot.streams.iter().filter(|stream| stream.live).count();
    let states = [("live", live), ("waiting", snapshot.streams.len() - live)];
    page.gauge(&names::STREAMS, states.map(|(state, count)| (vec![state.to_owned()], count as f64)));
    let most = snapshot.streams.iter().map(|stream| stream.viewers).max().unwrap_or(0);
    page.gauge(&names::STREAM_VIEWERS, [(vec![], most as f64)]);

    // Zeros too: a graph shall fall to 0, not end.
    let of = |role: &str, state: &str| {
        let counted = snapshot.sessions.iter().filter(|session| session.role == role && session.state == state);
        (vec![role.to_owned(), state.to_owned()], counted.count() as f64)
    };
    let states = ["connecting", "connected"];
    page.gauge(&names::SESSIONS, ROLES.iter().flat_map(|role| states.map(|state| of(role, state))));
    let mut carried: BTreeMap<Vec<String>, f64> = BTreeMap::new();
    for (role, carrier) in ROLES.iter().flat_map(|role| CARRIERS.map(|carrier| (role, carrier))) {
        carried.insert(vec![(*role).to_owned(), carrier.to_owned()], 0.0);
    }
    let mut profiles: BTreeMap<Vec<String>, f64> = BTreeMap::new();
    for session in &snapshot.sessions {
        if let Some(engine) = &session.engine {
            *carried.entry(vec![session.role.clone(), carrier(engine).to_owned()]).or_default() += 1.0;
        }
        if let Some(profile) = &session.profile {
            *profiles.entry(vec![profile.clone()]).or_default() += 1.0;
        }
    }
    page.gauge(&names::CARRIED, carried);
    page.gauge(&names::PROFILES, profiles);
    let events = snapshot.counters.control.iter();
    page.counter(&names::CONTROL, events.map(|(name, count)| (vec![name.clone()], *count as f64)));
}

fn carrier(engine: &str) -> &'static str {
    CARRIERS.into_iter().find(|carrier| engine.starts_with(carrier)).unwrap_or("other")
}

/// How well media arrives.
pub(super) fn quality(page: &mut Page, snapshot: &Snapshot) {
    let tracks = |role: &'static str| {
        let sessions = snapshot.sessions.iter().filter(move |session| session.role == role);
        sessions.flat_map(|session| &session.tracks)
    };
    let rate = |kind: &str| {
        let rates = tracks("publisher").filter(|track| track.kind == kind).filter_map(|track| track.bitrate);
        (vec![kind.to_owned()], rates.sum::<f64>() / 8.0)
    };
    page.gauge(&names::RECEIVED_RATE, ["audio", "video"].map(rate));
    let mut spread = |metric: &Metric, role, of: fn(&Track) -> Option<f64>| {
        page.gauge(metric, percentiles(tracks(role).filter_map(of).collect()));
    };
    spread(&names::PUBLISHER_LOSS, "publisher", |track| track.loss);
    spread(&names::PUBLISHER_JITTER, "publisher", |track| Some(track.jitter_ms? / 1000.0));
    spread(&names::VIEWER_LOSS, "subscriber", |track| track.loss);
    spread(&names::VIEWER_JITTER, "subscriber", |track| Some(track.jitter_ms? / 1000.0));
    spread(&names::VIEWER_RTT, "subscriber", |track| Some(track.rtt_ms? / 1000.0));
}

/// Nothing of nothing.
fn percentiles(mut values: Vec<f64>) -> Vec<Point> {
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return Vec::new() };
    let at = |share: f64| values.get((last as f64 * share).round() as usize).copied().unwrap_or_default();
    [("median", 0.5), ("p95", 0.95), ("max", 1.0)].map(|(name, share)| (vec![name.to_owned()], at(share))).to_vec()
}

/// What the engines count.
pub(super) fn engines(page: &mut Page, snapshot: &Snapshot) {
    let engines = &snapshot.engines;
    let directions = |list: [(Counter, &'static str); 2]| {
        engines.iter().flat_map(move |engine| {
            list.map(|(counter, direction)| (vec![engine.engine.clone(), direction.to_owned()], engine.of(counter)))
        })
    };
    page.counter(&names::PACKETS, directions([(Counter::Opened, "in"), (Counter::Sealed, "out")]));
    page.counter(&names::BYTES, directions([(Counter::OpenedBytes, "in"), (Counter::SealedBytes, "out")]));
    let reasons = |kind: Kind| {
        let counters = move || Counter::ALL.iter().filter(move |counter| counter.kind() == kind);
        engines.iter().flat_map(move |engine| {
            counters().map(|counter| (vec![engine.engine.clone(), counter.name().to_owned()], engine.of(*counter)))
        })
    };
    page.counter(&names::DROPS, reasons(Kind::Drop));
    page.counter(&names::PASSES, reasons(Kind::Pass));
    let transmitted = |engine: &Engine| (vec![engine.engine.clone()], engine.of(Counter::Transmitted));
    page.counter(&names::TRANSMITTED, engines.iter().map(transmitted));
    let gaps = |engine: &Engine| (vec![engine.engine.clone()], engine.of(Counter::Gaps));
    page.counter(&names::GAPS, engines.iter().map(gaps));
    for (metric, counter) in [(&names::BY_XDP, "transmitted_by_xdp"), (&names::RESENT, "resent_by_xdp")] {
        let counts = engines.iter().filter_map(|engine| engine.counters.get(counter));
        page.counter(metric, counts.map(|count| (vec![], *count as f64)));
    }
    if let Some(userspace) = engines.iter().find(|engine| engine.engine == "userspace") {
        let one = |name: &str| userspace.counters.get(name).map(|count| *count as f64);
        page.gauge(&names::KEPT_BYTES, one("kept_bytes").map(|bytes| (vec![], bytes)));
        page.gauge(&names::REPAIR_MEMORY, one("repair_memory_bytes").map(|bytes| (vec![], bytes)));
        page.counter(&names::REPAIR_REFUSED, one("repair_memory_refused").map(|count| (vec![], count)));
        let starts = [("keyframe_cache_hits", "hit"), ("keyframe_cache_misses", "miss")];
        let starts = starts.into_iter().filter_map(|(name, result)| Some((vec![result.to_owned()], one(name)?)));
        page.counter(&names::CACHE_STARTS, starts);
        page.counter(&names::CACHE_OVERFLOWS, one("keyframe_cache_overflows").map(|count| (vec![], count)));
    }
    for engine in engines.iter().filter(|engine| engine.engine == "kernel") {
        let by = |(counter, label): (Counter, &str)| (vec![label.to_owned()], engine.of(counter));
        let underruns = [(Counter::KeystreamUnderrunOpen, "in"), (Counter::KeystreamUnderrun, "out")];
        page.counter(&names::UNDERRUNS, underruns.map(by));
        page.counter(&names::BY_ROWS, [(Counter::OpenedByRows, "in"), (Counter::SealedByRows, "out")].map(by));
        page.counter(&names::DIRECT, [(vec![], engine.of(Counter::Direct))]);
        page.counter(&names::KICKS, [(vec![], engine.of(Counter::Kicks))]);
        page.counter(&names::TAPPED, [(Counter::Tapped, "taken"), (Counter::TapFull, "full")].map(by));
        let one = |name: &str| engine.counters.get(name).map(|count| (vec![], *count as f64));
        page.gauge(&names::KEYSTREAM_MEMORY, one("keystream_memory_bytes"));
        page.gauge(&names::KEYSTREAM_WINDOWS, one("keystream_rings"));
        page.counter(&names::KEYSTREAM_INSTALLED, one("keystream_rings_installed"));
        page.counter(&names::KEYSTREAM_REFUSED, one("keystream_rings_refused"));
        page.counter(&names::KEYSTREAM_FILLED, one("keystream_entries_filled"));
        page.counter(&names::KEYSTREAM_WAKEUPS, one("keystream_wakeups"));
        let programs = engine.programs.iter();
        let seconds = |program: &Program| (vec![program.name.clone()], program.run_time_ns as f64 / 1e9);
        page.counter(&names::BPF_SECONDS, programs.clone().map(seconds));
        page.counter(&names::BPF_RUNS, programs.map(|program| (vec![program.name.clone()], program.runs as f64)));
    }
}

impl Engine {
    fn of(&self, counter: Counter) -> f64 {
        self.counters.get(counter.name()).copied().unwrap_or(0) as f64
    }
}
