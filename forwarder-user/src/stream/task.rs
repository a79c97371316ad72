//! The control task: the one owner of all sessions. Here: its loop, its timers, and which session
//! a datagram belongs to.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forwarder_common::rtp::{Protocol, protocol};
use str0m::config::DtlsCert;
use str0m::ice::StunMessage;
use tokio::sync::mpsc;

use super::clock::NtpClock;
use super::counters::Counters;
use super::ingest::Sourced;
use super::owners::Owners;
use super::session::{Key, Session};
use super::sockets::Sockets;
use super::{Command, StreamConfig};
use crate::ingest::Ingest;
use crate::memory::{self, Turnover};
use penstock_engine::io::Datagram;
use penstock_engine::{Engine, Event};
use penstock_webrtc::dtls;
use penstock_webrtc::peer::{Pair, PeerEvent};

/// Datagrams read before timers and commands get their turn.
const BATCH: usize = 64;
/// Address pairs that one session may have in the index.
const MAX_PAIRS: usize = 16;
/// Consent lasts this long (RFC 7675 §5.1). str0m notices silence after 15 s, but not after an ICE
/// restart that the peer never followed up.
const CONSENT: Duration = Duration::from_secs(30);
/// An address pair on which ICE checks came so recently is not given to another session.
const PAIR_IN_USE: Duration = Duration::from_secs(5);

/// Owner of all sessions.
pub(super) struct Task {
    pub(super) config: StreamConfig,
    pub(super) engine: Arc<dyn Engine>,
    pub(super) sockets: Sockets,
    pub(super) certificate: DtlsCert,
    pub(super) ntp: NtpClock,
    pub(super) sessions: HashMap<Key, Box<Session>>,
    pub(super) index: Index,
    pub(super) streams: BTreeMap<String, Stream>,
    pub(super) ingest: Ingest,
    /// Streams that have a source, and what it sends.
    pub(super) sourced: BTreeMap<String, Sourced>,
    pub(super) owners: Owners,
    pub(super) counters: Counters,
    pub(super) next_key: Key,
    pub(super) turnover: Turnover,
    timers: BTreeSet<(Instant, Key)>,
    /// From when the timers of connected sessions count in steps of [`TICK_MS`].
    started: Instant,
}

/// What connected sessions wait for (reports, looks at ICE) is due together, in steps of this: hundreds
/// of sessions wake the task fifty times a second and not a thousand times.
const TICK_MS: u64 = 20;

/// How a session is found.
#[derive(Default)]
pub(super) struct Index {
    pub(super) by_id: HashMap<String, Key>,
    /// By our ICE username fragment.
    pub(super) by_ufrag: HashMap<String, Key>,
    by_pair: HashMap<Pair, Key>,
}

/// Who publishes and who plays under one name.
#[derive(Default)]
pub(super) struct Stream {
    pub(super) publisher: Option<Key>,
    pub(super) viewers: BTreeSet<Key>,
}

impl Task {
    pub(super) fn new(config: StreamConfig, engine: Arc<dyn Engine>) -> io::Result<Self> {
        let sockets = Sockets::bind(&config.media, config.socket_buffer, &*engine)?;
        let ingest = Ingest::start(&config.ingest, &engine)?;
        let sourced: BTreeMap<_, _> = ingest.sources.keys().map(|name| (name.clone(), Sourced::default())).collect();
        let certificate = dtls::provider().dtls_provider.generate_certificate();
        Ok(Self {
            sockets,
            certificate: certificate.ok_or_else(|| io::Error::other("no DTLS certificate could be made"))?,
            config,
            engine,
            ntp: NtpClock::new(),
            sessions: HashMap::new(),
            index: Index::default(),
            streams: sourced.keys().map(|name| (name.clone(), Stream::default())).collect(),
            ingest,
            sourced,
            owners: Owners::default(),
            counters: Counters::default(),
            next_key: 0,
            turnover: Turnover::default(),
            timers: BTreeSet::new(),
            started: Instant::now(),
        })
    }

    pub(super) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut events: mpsc::UnboundedReceiver<Event>,
    ) {
        tracing::info!(engine = self.engine.describe(), media = ?self.sockets.advertised(), "control task started");
        if self.config.ingest.recent_bytes > 0 {
            tracing::info!(
                "rtcp.nack: lost video of streams with a source is sent again, that of WHIP publishers is not"
            );
        }
        loop {
            let timer = self.timers.first().map(|first| first.0);
            let deadline = [timer, self.turnover.due()].into_iter().flatten().min();
            let deadline = deadline.unwrap_or_else(|| Instant::now() + Duration::from_secs(60));
            tokio::select! {
                command = commands.recv() => match command {
                    None => {
                        self.close_all();
                        return;
                    }
                    Some(Command::Drain { reply }) => {
                        self.close_all();
                        let _ = reply.send(());
                        return;
                    }
                    Some(command) => self.command(command, Instant::now()),
                },
                Some(event) = events.recv() => self.engine_event(event, Instant::now()),
                Some(datagram) = self.sockets.receive() => self.read(datagram),
                Some(event) = self.ingest.event() => self.ingest_event(event, Instant::now()),
                () = tokio::time::sleep_until(deadline.into()) => {}
            }
            let now = Instant::now();
            self.run_timers(now);
            if self.turnover.is_over(now) {
                tokio::task::spawn_blocking(memory::give_back);
            }
        }
    }

    pub(super) fn close_all(&mut self) {
        let keys: Vec<Key> = self.sessions.keys().copied().collect();
        for key in keys {
            self.close(key, "the server stops");
        }
    }

    pub(super) fn run_timers(&mut self, now: Instant) {
        while let Some((at, key)) = self.timers.first().copied().filter(|(at, _)| *at <= now) {
            self.timers.remove(&(at, key));
            if let Some(session) = self.sessions.get_mut(&key) {
                session.armed = None;
                self.due(key, now);
            }
        }
    }

    fn due(&mut self, key: Key, now: Instant) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if session.media.is_none() && now >= session.created + self.config.connect_timeout {
            self.counters.sessions_timed_out += 1;
            return self.close(key, "it had no keys in time");
        }
        let consent = session.peer.consent().unwrap_or(session.created);
        if session.media.is_some() && now >= consent + CONSENT {
            self.counters.sessions_disconnected += 1;
            return self.close(key, "its peer sent no ICE checks for 30 s");
        }
        if now >= session.peer_deadline
            && let Err(error) = session.peer.timeout(now)
        {
            return self.failed(key, &error);
        }
        self.report(key, now);
        self.flush(key, now);
    }

    /// Sets the session's timer to what it waits for next.
    pub(super) fn arm(&mut self, key: Key, now: Instant) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let wanted = match session.next_report(now, &self.config) {
            Some(report) => report.min(session.peer_deadline),
            None => (session.created + self.config.connect_timeout).min(session.peer_deadline),
        };
        // What is overdue gets its turn in the next round, not in an endless one.
        let mut wanted = wanted.max(now + Duration::from_millis(1));
        if session.media.is_some() {
            let since = wanted.duration_since(self.started).as_millis() as u64;
            wanted = self.started + Duration::from_millis((since / TICK_MS + 1) * TICK_MS);
        }
        if session.armed == Some(wanted) {
            return;
        }
        if let Some(armed) = session.armed.replace(wanted) {
            self.timers.remove(&(armed, key));
        }
        self.timers.insert((wanted, key));
    }

    /// Sends what ICE and DTLS have to send, and acts on what they report. After each input.
    pub(super) fn flush(&mut self, key: Key, now: Instant) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        let polled = match session.peer.poll() {
            Ok(polled) => polled,
            Err(error) => return self.failed(key, &error),
        };
        if let Some(deadline) = polled.deadline {
            session.peer_deadline = deadline;
        }
        for datagram in &polled.datagrams {
            self.send(datagram.socket, datagram.peer, &datagram.bytes);
        }
        for event in polled.events {
            match event {
                PeerEvent::Connected(keying, pair) => self.connected(key, &keying, pair, now),
                PeerEvent::Moved(pair) => self.moved(key, pair),
                PeerEvent::Disconnected => {
                    self.counters.sessions_disconnected += 1;
                    self.close(key, "its peer sent no ICE checks for 15 s");
                }
                PeerEvent::Closed => self.close(key, "its peer closed it"),
            }
        }
        self.arm(key, now);
    }

    pub(super) fn send(&mut self, socket: usize, peer: std::net::SocketAddr, bytes: &[u8]) {
        match self.sockets.send(socket, peer, bytes) {
            true => self.counters.datagrams_sent += 1,
            false => self.counters.datagrams_not_sent += 1,
        }
    }

    fn read(&mut self, first: Datagram) {
        let mut next = Some(first);
        let mut turns = BATCH;
        while let Some(datagram) = next {
            self.counters.datagrams_received += 1;
            self.datagram(Pair { socket: datagram.socket, peer: datagram.peer }, &datagram.bytes, Instant::now());
            turns -= 1;
            next = if turns == 0 { None } else { self.sockets.try_receive() };
        }
        self.counters.datagrams_overrun = self.sockets.overrun();
    }

    pub(super) fn datagram(&mut self, pair: Pair, bytes: &[u8], now: Instant) {
        let &[first, second, ..] = bytes else {
            self.counters.other_protocol += 1;
            return;
        };
        match protocol(first, second) {
            Protocol::Stun => self.stun(pair, bytes, now),
            Protocol::Other => self.counters.other_protocol += 1,
            of_a_session => {
                let Some(key) = self.index.by_pair.get(&pair).copied() else {
                    self.counters.unknown_peer += 1;
                    return;
                };
                match of_a_session {
                    Protocol::Rtcp => self.rtcp(key, bytes, now),
                    Protocol::Rtp => self.rtp(key, pair, bytes, now),
                    _ => self.dtls(key, bytes, now),
                }
            }
        }
    }

    fn dtls(&mut self, key: Key, bytes: &[u8], now: Instant) {
        let Some(session) = self.sessions.get_mut(&key) else { return };
        match session.peer.receive(now, bytes) {
            Ok(()) => self.flush(key, now),
            Err(error) => self.failed(key, &error),
        }
    }

    fn stun(&mut self, pair: Pair, bytes: &[u8], now: Instant) {
        let message = StunMessage::parse(bytes).ok().filter(StunMessage::is_binding_request);
        let Some(message) = message else {
            self.counters.stun_malformed += 1;
            return;
        };
        let key = message.split_username().and_then(|(local, _)| self.index.by_ufrag.get(local).copied());
        let Some((key, session)) = key.and_then(|key| Some((key, self.sessions.get_mut(&key)?))) else {
            self.counters.stun_unknown_username += 1;
            return;
        };
        match session.peer.stun(now, pair, message) {
            Ok(true) => {
                self.remember(key, pair, now);
                self.consent(key, pair, now);
                self.flush(key, now);
            }
            Ok(false) => self.counters.stun_bad_integrity += 1,
            Err(error) => self.failed(key, &error),
        }
    }

    /// An authenticated ICE check came from `pair`: what else comes from there is the session's.
    fn remember(&mut self, key: Key, pair: Pair, now: Instant) {
        let owner = self.index.by_pair.get(&pair).and_then(|owner| self.sessions.get(owner));
        let in_use = owner.is_some_and(|owner| {
            owner.peer.nominated() == Some(pair)
                && owner.peer.consent().is_some_and(|consent| now.duration_since(consent) < PAIR_IN_USE)
        });
        let Some(session) = self.sessions.get_mut(&key) else { return };
        if in_use || session.pairs.contains(&pair) {
            return;
        }
        if session.pairs.len() == MAX_PAIRS {
            let oldest = session.pairs.remove(0);
            self.index.by_pair.remove(&oldest);
        }
        session.pairs.push(pair);
        if let Some(former) = self.index.by_pair.insert(pair, key)
            && let Some(former) = self.sessions.get_mut(&former)
        {
            former.pairs.retain(|other| *other != pair);
        }
    }

    fn failed(&mut self, key: Key, error: &dyn std::error::Error) {
        self.counters.sessions_failed += 1;
        self.close(key, &format!("ICE or DTLS failed: {error}"));
    }

    /// Ends a session: first its media, then DTLS, then our memory of it.
    pub(super) fn close(&mut self, key: Key, why: &str) {
        self.stop_media(key);
        let Some(mut session) = self.sessions.remove(&key) else { return };
        session.peer.close();
        if let Ok(polled) = session.peer.poll() {
            for datagram in &polled.datagrams {
                self.send(datagram.socket, datagram.peer, &datagram.bytes);
            }
        }
        if let Some(armed) = session.armed {
            self.timers.remove(&(armed, key));
        }
        self.index.by_id.remove(&session.id);
        self.index.by_ufrag.remove(&session.ufrag);
        for pair in &session.pairs {
            self.index.by_pair.remove(pair);
        }
        if let Some(stream) = self.streams.get_mut(&session.stream) {
            stream.viewers.remove(&key);
            stream.publisher.take_if(|publisher| *publisher == key);
            let sourced = self.sourced.contains_key(&session.stream);
            if stream.publisher.is_none() && stream.viewers.is_empty() && !sourced {
                self.streams.remove(&session.stream);
            }
        }
        self.update_demand(&session.stream);
        self.counters.sessions_closed += 1;
        self.turnover.count(Instant::now());
        tracing::info!(session = session.name, stream = session.stream, role = ?session.role, "session closed: {why}");
    }
}
