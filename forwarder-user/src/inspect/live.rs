//! What `penstock top` shows: two looks and the time between them, and what a server that does not answer any more has
//! said last.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    time::Instant,
};

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::Value;

use super::{
    Answer,
    read::Pinned,
    told,
    view::{ServerView, SessionView, Snapshot},
};
use penstock_engine::Role;

/// Looks again and again.
pub struct Live {
    pin_dir: PathBuf,
    /// The last answer of the server that the maps belong to, and when it came.
    told: Option<(Value, Instant)>,
    /// Counters of the look before.
    before: HashMap<Key, Counted>,
    looked: Option<Instant>,
}

/// Slots are given to others; ids are not.
type Key = (String, Option<u32>);

#[derive(Clone, Copy)]
struct Counted {
    packets: u64,
    bytes: u64,
}

/// Everything at one moment, with rates.
#[derive(Clone, Debug, Serialize)]
pub struct LiveView {
    /// None if there are no maps.
    pub server: Option<ServerView>,
    /// What could not be had.
    pub note: Option<String>,
    /// By name.
    pub streams: Vec<LiveStream>,
    /// Those of the maps, then others.
    pub sessions: Vec<LiveSession>,
}

/// A session with its rates.
#[derive(Clone, Debug, Serialize)]
pub struct LiveSession {
    /// As `penstock sessions` has it.
    #[serde(flatten)]
    pub session: SessionView,
    /// Since the look before; of a stale one 0.
    pub packets_per_second: f64,
    /// Payload alone.
    pub bits_per_second: f64,
    /// For how long nobody has said how it is; none while somebody does.
    pub stale_seconds: Option<f64>,
}

/// A stream with its rates.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LiveStream {
    /// As in the URL.
    pub stream: String,
    /// State of its camera or encoder.
    pub source: Option<String>,
    /// Whether somebody publishes it by WHIP, or a source does.
    pub published: bool,
    /// Sessions by WHEP.
    pub viewers: usize,
    /// Payload of the publisher, bits per second.
    pub bits_in_per_second: f64,
    /// Payload of all copies.
    pub bits_out_per_second: f64,
    /// Copies per second.
    pub packets_out_per_second: f64,
    /// Over publisher and viewers.
    pub drops: u64,
    /// Whether some of it is stale.
    pub stale: bool,
    /// Of its oldest session.
    pub age_seconds: f64,
}

/// By what rows are sorted; the largest first, names from A to Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Sort {
    /// Bits per second.
    #[default]
    Rate,
    /// Packets per second.
    Packets,
    /// Packets that were dropped.
    Drops,
    /// Viewers of a stream.
    Viewers,
    /// The oldest first.
    Age,
    /// Name of the stream.
    Stream,
}

impl Sort {
    /// The one after it, and the first after the last.
    pub fn next(self) -> Self {
        match self {
            Self::Rate => Self::Packets,
            Self::Packets => Self::Drops,
            Self::Drops => Self::Viewers,
            Self::Viewers => Self::Age,
            Self::Age => Self::Stream,
            Self::Stream => Self::Rate,
        }
    }
}

impl Live {
    /// Maps are looked for in this directory (`kernel.pin_dir`).
    pub fn new(pin_dir: PathBuf) -> Self {
        Self { pin_dir, told: None, before: HashMap::new(), looked: None }
    }

    /// Looks. `answer`: what the server says now, or why it does not.
    ///
    /// # Errors
    /// Neither are there maps that can be read, nor does the server answer, nor has it ever.
    pub fn look(&mut self, answer: Answer) -> Result<LiveView> {
        let now = Instant::now();
        let pinned = Pinned::open(&self.pin_dir).and_then(|pinned| pinned.snapshot());
        let Answer { url, state } = answer;
        let (mut snapshot, no_maps) = match pinned {
            Ok(snapshot) => (snapshot, None),
            Err(error) => (Snapshot::default(), Some(error)),
        };
        let ours = snapshot.server.as_ref().map(|server| u64::from(server.pid));
        let (note, stale) = match state {
            Ok(state) if ours.is_none() || told::pid(&state) == ours => {
                self.told = Some((state, now));
                (None, None)
            }
            Ok(_) => (Some(format!("{url} is another server (see --url)")), self.stale(ours, now)),
            Err(problem) => match (&self.told, &no_maps) {
                (None, Some(maps)) => bail!("{maps:#}; and {url} does not tell: {problem}"),
                _ => (Some(format!("{url} does not tell: {problem}")), self.stale(ours, now)),
            },
        };
        let in_maps = snapshot.sessions.len();
        if let Some((state, _)) = self.told.as_ref().filter(|(state, _)| ours.is_none() || told::pid(state) == ours) {
            told::add(&mut snapshot, state);
        }
        Ok(self.view(snapshot, in_maps, (note, stale), now))
    }

    /// How old the last answer of this server is.
    fn stale(&self, ours: Option<u64>, now: Instant) -> Option<f64> {
        let (_, came) = self.told.as_ref().filter(|(state, _)| ours.is_none() || told::pid(state) == ours)?;
        Some(now.duration_since(*came).as_secs_f64())
    }

    fn view(
        &mut self,
        snapshot: Snapshot,
        in_maps: usize,
        (note, stale): (Option<String>, Option<f64>),
        now: Instant,
    ) -> LiveView {
        let passed = self.looked.replace(now).map_or(0.0, |before| now.duration_since(before).as_secs_f64());
        let before = std::mem::take(&mut self.before);
        let Snapshot { server, sessions, sources, .. } = snapshot;
        let sessions = sessions.into_iter().enumerate().map(|(at, session)| {
            let stale_seconds = stale.filter(|_| at >= in_maps);
            let counted = Counted { packets: session.packets(), bytes: session.bytes() };
            let key = (session.id.clone(), session.slot);
            let last = before.get(&key).copied().unwrap_or(counted);
            self.before.insert(key, counted);
            // Counters of a session that has moved to another engine begin again.
            let rate = |new: u64, old: u64| if passed > 0.0 { new.saturating_sub(old) as f64 / passed } else { 0.0 };
            LiveSession {
                packets_per_second: rate(counted.packets, last.packets),
                bits_per_second: rate(counted.bytes, last.bytes) * 8.0,
                stale_seconds,
                session,
            }
        });
        let sessions: Vec<LiveSession> = sessions.collect();
        LiveView { server, note, streams: streams(&sessions, &sources, stale.is_some()), sessions }
    }
}

fn streams(sessions: &[LiveSession], sources: &BTreeMap<String, String>, sources_stale: bool) -> Vec<LiveStream> {
    let mut streams: BTreeMap<&str, LiveStream> = BTreeMap::new();
    for (name, state) in sources {
        let stream = streams.entry(name).or_default();
        (stream.source, stream.published, stream.stale) = (Some(state.clone()), state == "playing", sources_stale);
    }
    for live in sessions {
        let stream = streams.entry(&live.session.stream).or_default();
        stream.drops += live.session.drops();
        stream.stale |= live.stale_seconds.is_some();
        stream.age_seconds = stream.age_seconds.max(live.session.age_seconds);
        match live.session.role {
            Role::Publisher => {
                stream.published = true;
                stream.bits_in_per_second += live.bits_per_second;
            }
            Role::Subscriber => {
                stream.viewers += 1;
                stream.bits_out_per_second += live.bits_per_second;
                stream.packets_out_per_second += live.packets_per_second;
            }
        }
    }
    streams.into_iter().map(|(name, stream)| LiveStream { stream: name.to_owned(), ..stream }).collect()
}

impl LiveView {
    /// Keeps rows that have this text somewhere a person would look for it.
    pub fn filter(&mut self, text: &str) {
        let text = text.to_lowercase();
        let has = |part: &str| part.to_lowercase().contains(&text);
        self.sessions.retain(|LiveSession { session, .. }| {
            let peer = session.peer.map(|peer| peer.to_string()).unwrap_or_default();
            [&session.stream, &session.id, &session.engine, &peer].into_iter().any(|part| has(part))
        });
        let sessions = &self.sessions;
        self.streams
            .retain(|stream| has(&stream.stream) || sessions.iter().any(|live| live.session.stream == stream.stream));
    }

    /// Sorts both lists.
    pub fn sort(&mut self, by: Sort) {
        // Rates are never NaN; as numbers of thousandths they have an order.
        let milli = |rate: f64| Reverse((rate * 1000.0) as u64);
        self.streams.sort_by_key(|stream| {
            let key = match by {
                Sort::Rate => milli(stream.bits_in_per_second + stream.bits_out_per_second),
                Sort::Packets => milli(stream.packets_out_per_second),
                Sort::Drops => Reverse(stream.drops),
                Sort::Viewers => Reverse(stream.viewers as u64),
                Sort::Age => milli(stream.age_seconds),
                Sort::Stream => Reverse(0),
            };
            (key, stream.stream.clone())
        });
        let viewers: HashMap<String, usize> =
            self.streams.iter().map(|stream| (stream.stream.clone(), stream.viewers)).collect();
        self.sessions.sort_by_key(|live| {
            let key = match by {
                Sort::Rate => milli(live.bits_per_second),
                Sort::Packets => milli(live.packets_per_second),
                Sort::Drops => Reverse(live.session.drops()),
                Sort::Viewers => Reverse(viewers.get(&live.session.stream).copied().unwrap_or(0) as u64),
                Sort::Age => milli(live.session.age_seconds),
                Sort::Stream => Reverse(0),
            };
            let role = live.session.role == Role::Subscriber;
            (key, live.session.stream.clone(), role, live.session.id.clone())
        });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn state(packets: u64) -> Value {
        let session = |id: &str, stream: &str, packets: u64| {
            json!({
                "id": id, "role": "subscriber", "stream": stream, "engine": "userspace socket", "peer": "192.0.2.1:5",
                "local": null, "profile": null, "age_s": 1.0,
                "tracks": [{ "kind": "video", "ssrc": 7, "payload_type": 96, "packets": packets, "bytes": packets }],
            })
        };
        json!({ "pid": 12, "sessions": [session("a", "door", 0), session("b", "gate", packets)], "streams": [] })
    }

    fn answer(state: Result<Value, String>) -> Answer {
        Answer { url: "http://x".into(), state }
    }

    fn live() -> Live {
        Live::new("/nowhere/at/all".into())
    }

    #[test]
    fn rates_are_what_has_come_between_two_looks() {
        let mut live = live();
        let first = live.look(answer(Ok(state(0)))).unwrap();
        assert!(first.sessions.iter().all(|session| session.packets_per_second == 0.0));
        std::thread::sleep(std::time::Duration::from_millis(5));
        let mut second = live.look(answer(Ok(state(500)))).unwrap();
        second.sort(Sort::Rate);
        assert_eq!((second.sessions[0].session.id.as_str(), second.streams[0].stream.as_str()), ("b", "gate"));
        assert!(second.sessions[0].packets_per_second > 0.0 && second.sessions[1].packets_per_second == 0.0);
        second.sort(Sort::Stream);
        assert_eq!(second.streams[0].stream, "door");
        second.filter("GAT");
        assert_eq!((second.sessions.len(), second.streams.len()), (1, 1));
    }

    #[test]
    fn what_a_server_that_hangs_has_said_last_is_stale() {
        let mut live = live();
        assert!(live.look(answer(Err("no answer".into()))).is_err());
        live.look(answer(Ok(state(1)))).unwrap();
        let view = live.look(answer(Err("no answer".into()))).unwrap();
        assert_eq!(view.sessions.len(), 2);
        assert!(view.sessions.iter().all(|session| session.stale_seconds.is_some()) && view.streams[0].stale);
        assert!(view.note.unwrap().contains("no answer"));
        let view = live.look(answer(Ok(state(2)))).unwrap();
        assert!(view.sessions.iter().all(|session| session.stale_seconds.is_none()) && view.note.is_none());
    }

    #[test]
    fn every_order_is_reached_by_going_on() {
        use clap::ValueEnum as _;
        let all = std::iter::successors(Some(Sort::default()), |sort| Some(sort.next()));
        let reached: Vec<Sort> = all.take(Sort::value_variants().len()).collect();
        assert!(Sort::value_variants().iter().all(|sort| reached.contains(sort)));
    }
}
