//! The control task: acts for all sessions and streams, which `Sessions` and `Streams` keep.
//!
//! | file | does |
//! | --- | --- |
//! | here | the loop, timers, which session a datagram belongs to, the end of a session |
//! | `signalling` | commands of HTTP: offers, ICE fragments, deletion |
//! | `connect` | keys into the engine and out of it, consent, peers that move |
//! | `learn` | which SSRCs a publisher sends |
//! | `attach` | which of them viewers get |
//! | `sources` | streams that have a source instead of a WHIP publisher |
//! | `feedback` | RTCP |
//! | `asking` | what publishers' packets lack, asked for |
//! | `snapshot` | all of it, as the API shows it |

mod asking;
mod attach;
mod connect;
mod feedback;
mod learn;
mod signalling;
mod snapshot;
mod sources;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use forwarder_common::rtp::{Protocol, protocol};
use str0m::config::DtlsCert;
use str0m::ice::StunMessage;
use tokio::sync::mpsc;

use self::asking::Asking;
use super::clock::NtpClock;
use super::counters::Counters;
use super::ids::Key;
use super::owners::Owners;
use super::session::Media;
use super::sessions::Sessions;
use super::sockets::Sockets;
use super::streams::Streams;
use super::{Command, StreamConfig};
use crate::ingest::Ingest;
use crate::memory::{self, Turnover};
use penstock_engine::io::Datagram;
use penstock_engine::{Engine, Event};
use penstock_webrtc::dtls;
use penstock_webrtc::peer::{Pair, PeerEvent};

/// Datagrams read before timers and commands get their turn.
const BATCH: usize = 64;
/// Consent lasts this long (RFC 7675 §5.1). str0m notices silence after 15 s, but not after an ICE
/// restart that the peer never followed up.
const CONSENT: Duration = Duration::from_secs(30);

/// See the module.
pub(super) struct Task {
    config: StreamConfig,
    engine: Arc<dyn Engine>,
    sockets: Sockets,
    certificate: DtlsCert,
    pub(in crate::stream) ntp: NtpClock,
    pub(in crate::stream) sessions: Sessions,
    pub(in crate::stream) streams: Streams,
    ingest: Ingest,
    /// Of the engine's subscriber tracks.
    owners: Owners,
    pub(in crate::stream) counters: Counters,
    turnover: Turnover,
    asking: Asking,
}

impl Task {
    pub(in crate::stream) fn new(config: StreamConfig, engine: Arc<dyn Engine>) -> io::Result<Self> {
        let sockets = Sockets::bind(&config.media, config.socket_buffer, &*engine)?;
        let ingest = Ingest::start(&config.ingest, &engine)?;
        let certificate = dtls::provider().dtls_provider.generate_certificate();
        Ok(Self {
            sockets,
            certificate: certificate.ok_or_else(|| io::Error::other("no DTLS certificate could be made"))?,
            config,
            engine,
            ntp: NtpClock::new(),
            sessions: Sessions::new(),
            streams: Streams::with_sources(ingest.sources.keys()),
            ingest,
            owners: Owners::default(),
            counters: Counters::default(),
            turnover: Turnover::default(),
            asking: Asking::default(),
        })
    }

    pub(in crate::stream) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut events: mpsc::UnboundedReceiver<Event>,
    ) {
        tracing::info!(engine = self.engine.describe(), media = ?self.sockets.advertised(), "control task started");
        loop {
            let deadline =
                [self.sessions.next_turn(), self.turnover.due(), self.asking.due()].into_iter().flatten().min();
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

    pub(in crate::stream) fn close_all(&mut self) {
        for key in self.sessions.keys() {
            self.close(key, "the server stops");
        }
    }

    pub(in crate::stream) fn run_timers(&mut self, now: Instant) {
        while let Some(key) = self.sessions.take_due(now) {
            self.due(key, now);
        }
        self.ask_publishers(now);
    }

    fn due(&mut self, key: Key, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
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
        let Some(session) = self.sessions.get(key) else { return };
        let wanted = match session.next_report(now, &self.config) {
            Some(report) => report.min(session.peer_deadline),
            None => (session.created + self.config.connect_timeout).min(session.peer_deadline),
        };
        self.sessions.arm(key, wanted, now);
    }

    /// Sends what ICE and DTLS have to send, and acts on what they report. After each input.
    pub(in crate::stream) fn flush(&mut self, key: Key, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
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

    pub(in crate::stream) fn datagram(&mut self, pair: Pair, bytes: &[u8], now: Instant) {
        let &[first, second, ..] = bytes else {
            self.counters.other_protocol += 1;
            return;
        };
        match protocol(first, second) {
            Protocol::Stun => self.stun(pair, bytes, now),
            Protocol::Other => self.counters.other_protocol += 1,
            of_a_session => {
                let Some(key) = self.sessions.by_pair(pair) else {
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
        let Some(session) = self.sessions.get_mut(key) else { return };
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
        let session = message.split_username().and_then(|(local, _)| self.sessions.by_ufrag(local));
        let Some((key, session)) = session else {
            self.counters.stun_unknown_username += 1;
            return;
        };
        match session.peer.stun(now, pair, message) {
            Ok(true) => {
                self.sessions.remember(key, pair, now);
                self.consent(key, pair, now);
                self.flush(key, now);
            }
            Ok(false) => self.counters.stun_bad_integrity += 1,
            Err(error) => self.failed(key, &error),
        }
    }

    fn failed(&mut self, key: Key, error: &dyn std::error::Error) {
        self.counters.sessions_failed += 1;
        self.close(key, &format!("ICE or DTLS failed: {error}"));
    }

    /// Ends a session: first its media, then DTLS, then our memory of it.
    pub(in crate::stream) fn close(&mut self, key: Key, why: &str) {
        self.stop_media(key);
        let Some(mut session) = self.sessions.remove(key) else { return };
        session.peer.close();
        if let Ok(polled) = session.peer.poll() {
            for datagram in &polled.datagrams {
                self.send(datagram.socket, datagram.peer, &datagram.bytes);
            }
        }
        self.streams.leave(&session.stream, key);
        self.update_demand(&session.stream);
        self.counters.sessions_closed += 1;
        self.turnover.count(Instant::now());
        tracing::info!(session = session.name, stream = session.stream, role = ?session.role, "session closed: {why}");
    }

    /// A connected session's name and media.
    fn with_media(&mut self, key: Key) -> Option<(&str, &mut Media)> {
        let session = self.sessions.get_mut(key)?;
        Some((session.name.as_str(), session.media.as_mut()?))
    }
}
