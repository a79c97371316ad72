//! The control task: acts for all sessions and streams, which `Sessions` and `Streams` keep.
//!
//! | file | does |
//! | --- | --- |
//! | here | the loop, timers, which session a datagram belongs to, the end of a session |
//! | `signalling` | commands of HTTP: offers, ICE fragments, deletion |
//! | `connect` | keys into the engine and out of it, consent, peers that move |
//! | `learn` | which SSRCs a publisher sends |
//! | `layers` | which layer of a picture that comes in several viewers get |
//! | `attach` | which tracks viewers get |
//! | `sources` | streams that have a source instead of a WHIP publisher |
//! | `feedback` | RTCP |
//! | `arrivals` | which packets of publishers have come and when, told to them |
//! | `asking` | what publishers' packets lack, asked for |
//! | `allowance` | publishers that send more than they may |
//! | `silence` | who is connected while nothing arrives |
//! | `tcp` | whose peers' connections stay |
//! | `stray` | what comes from addresses that no session has, but of a session's peer |
//! | `snapshot` | all of it, as the API shows it |
//! | `view` | one session, for whoever has it |

mod allowance;
pub(in crate::stream) mod arrivals;
mod asking;
mod attach;
mod connect;
mod feedback;
mod layers;
mod learn;
mod play;
mod signalling;
pub(in crate::stream) mod silence;
mod snapshot;
mod sources;
mod stray;
mod tcp;
mod view;

use std::collections::{BTreeSet, HashMap};
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
use super::half_open;
use super::ids::Key;
use super::notice::{Notices, What};
use super::owners::Owners;
use super::players::Players;
use super::pulse::{BEAT, Pulse};
use super::session::{Media, PublisherTrack, Session};
use super::sessions::Sessions;
use super::sockets::Sockets;
use super::streams::Streams;
use super::{Command, StreamConfig};
use crate::ingest::Ingest;
use crate::lines::Lines;
use crate::memory::{self, Turnover};
use penstock_engine::block::Block;
use penstock_engine::io::Datagram;
use penstock_engine::{Engine, Event, PublisherTrackId};
use penstock_webrtc::dtls;
use penstock_webrtc::ice::Check;
use penstock_webrtc::peer::{Pair, PeerEvent};

/// Lines of the log in ten seconds about refused offers and ICE restarts.
const REFUSALS: usize = 20;
/// And about sessions that are opened and closed before they were connected; a quarter for each address. As many come at once where a
/// page is opened by everybody.
const HALF_OPEN: usize = 1000;
/// Datagrams read before timers and commands get their turn.
const BATCH: usize = 64;
/// Consent lasts this long (RFC 7675 §5.1).
const CONSENT: Duration = Duration::from_secs(30);
/// When ICE and DTLS that have nothing to do are looked at again.
const IDLE: Duration = Duration::from_secs(60);

/// A timer that comes later than this was not late: the process stood still, or had no processor at all.
const STANDSTILL: Duration = Duration::from_secs(1);

/// What the loop wakes up for.
enum Turn {
    Command(Option<Command>),
    Engine(Event),
    Datagram(Datagram),
    Ingest(crate::ingest::Event),
    Timer,
}

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
    /// Who plays by RTSP, and when they were told the time.
    players: Players,
    players_told: Instant,
    /// Of the engine's subscriber tracks.
    owners: Owners,
    /// Incoming tracks of which packets are in flight, and whose SSRC may come back.
    stopping: HashMap<PublisherTrackId, Key>,
    pub(in crate::stream) counters: Counters,
    /// Lines of the log about refused offers, and about sessions that nobody has connected.
    refusals: Lines,
    half_open: Lines,
    turnover: Turnover,
    asking: Asking,
    /// Whom what happens is told.
    pub(in crate::stream) notices: Notices,
    /// Streams of which it was told that they can be watched.
    ready: BTreeSet<String>,
    /// New sessions are refused.
    draining: bool,
}

impl Task {
    pub(in crate::stream) fn new(config: StreamConfig, engine: Arc<dyn Engine>) -> io::Result<Self> {
        let sockets = Sockets::bind(&config.media, config.tcp.as_ref(), config.socket_buffer, &*engine)?;
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
            players: Players::default(),
            players_told: Instant::now(),
            owners: Owners::default(),
            stopping: HashMap::new(),
            counters: Counters::default(),
            refusals: Lines::new(Instant::now(), REFUSALS),
            half_open: Lines::new(Instant::now(), HALF_OPEN),
            turnover: Turnover::default(),
            asking: Asking::default(),
            notices: Notices::new(),
            ready: BTreeSet::new(),
            draining: false,
        })
    }

    #[cfg(test)]
    pub(in crate::stream) fn config(&self) -> &StreamConfig {
        &self.config
    }

    pub(in crate::stream) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        mut events: mpsc::UnboundedReceiver<Event>,
        pulse: Pulse,
    ) {
        tracing::info!(engine = self.engine.describe(), media = ?self.sockets.advertised(), "control task started");
        loop {
            let deadline =
                [self.sessions.next_turn(), self.turnover.due(), self.asking.due()].into_iter().flatten().min();
            let beat = Instant::now() + BEAT;
            let deadline = deadline.map_or(beat, |deadline| deadline.min(beat));
            let turn = tokio::select! {
                command = commands.recv() => Turn::Command(command),
                Some(event) = events.recv() => Turn::Engine(event),
                Some(datagram) = self.sockets.receive() => Turn::Datagram(datagram),
                Some(event) = self.ingest.event() => Turn::Ingest(event),
                () = tokio::time::sleep_until(deadline.into()) => Turn::Timer,
            };
            // Before anything is done that looks at the clock.
            self.notice_standstill(deadline, Instant::now());
            self.draining = pulse.is_draining();
            match turn {
                Turn::Command(None) => return self.close_all(),
                Turn::Command(Some(Command::Drain { reply })) => {
                    self.close_all();
                    let _ = reply.send(());
                    return;
                }
                Turn::Command(Some(command)) => self.command(command, Instant::now()),
                Turn::Engine(event) => self.engine_event(event, Instant::now()),
                Turn::Datagram(datagram) => self.read(datagram),
                Turn::Ingest(event) => self.ingest_event(event, Instant::now()),
                Turn::Timer => {}
            }
            let now = Instant::now();
            pulse.tell_reachable(self.sockets.advertised().udp.iter().any(Option::is_some));
            pulse.beat(now);
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

    /// A process that stood still (SIGSTOP, a frozen cgroup, the migration of its machine) has heard nobody meanwhile,
    /// though XDP forwarded and peers sent all the time: what they sent waits in the sockets, or has found them full.
    /// So that time counts for nobody. `due`: when the loop wanted to wake up.
    pub(in crate::stream) fn notice_standstill(&mut self, due: Instant, now: Instant) {
        let late = now.saturating_duration_since(due);
        if late < STANDSTILL {
            return;
        }
        self.counters.standstills += 1;
        tracing::warn!("the server stood still for {:.1} s: no peer is blamed for that time", late.as_secs_f64());
        for key in self.sessions.keys() {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            session.stood_still += late;
            // What found the sockets full is lost, and pictures that follow need it.
            session.publisher_tracks_mut().iter_mut().for_each(PublisherTrack::want_keyframe);
            session.peer.stood_still(late);
        }
    }

    pub(in crate::stream) fn run_timers(&mut self, now: Instant) {
        while let Some(key) = self.sessions.take_due(now) {
            self.due(key, now);
        }
        self.ask_publishers(now);
        self.tell_players_the_time(now);
    }

    fn due(&mut self, key: Key, now: Instant) {
        let (used, pool) = (self.sessions.half_open(), self.half_open_pool());
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.grant.left().is_some_and(|left| left.is_zero()) {
            self.counters.sessions_right_ended += 1;
            return self.close(key, "its right to be here has ended");
        }
        let life = half_open::life(self.config.connect_timeout, used, pool, session.has_begun());
        if session.media.is_none() && now >= session.connect_within(life) {
            self.counters.sessions_timed_out += 1;
            let why = tcp::why_unconnected(session, self.sockets.tcp().is_some());
            return self.close(key, &why);
        }
        let consent = session.peer.consent().unwrap_or(session.created + session.stood_still);
        if session.media.is_some() && now >= consent + CONSENT {
            self.counters.sessions_disconnected += 1;
            return self.close(key, "its peer sent no ICE checks for 30 s");
        }
        if now >= session.peer_deadline
            && let Err(error) = session.peer.timeout(now)
        {
            return self.failed(key, &error);
        }
        self.look_whether_back(key);
        self.look_at_layers_in_time(key, now);
        self.charge(key, now);
        self.look_for_silence(key, now);
        self.look_for_other_types(key, now);
        self.report_arrivals(key, now);
        self.report(key, now);
        self.flush(key, now);
    }

    /// Sets the session's timer to what it waits for next.
    pub(super) fn arm(&mut self, key: Key, now: Instant) {
        let Some(session) = self.sessions.get(key) else { return };
        let wanted = match session.next_report(now, &self.config) {
            Some(report) => report.min(session.peer_deadline),
            // The times at which it may have to make way: see `half_open::life`.
            None => {
                let whole = self.config.connect_timeout;
                let turns = [whole / 4, whole / 2, whole].map(|life| session.connect_within(life));
                let next = turns.into_iter().find(|turn| *turn > now).unwrap_or(now);
                next.min(session.peer_deadline)
            }
        };
        // Media has stopped by then, by the lease in the engine.
        let wanted = session.grant.left().map_or(wanted, |left| wanted.min(now + left));
        self.sessions.arm(key, wanted, now);
    }

    /// Sends what ICE and DTLS have to send, and acts on what they report. After each input.
    pub(in crate::stream) fn flush(&mut self, key: Key, now: Instant) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let polled = match session.peer.poll() {
            Ok(polled) => polled,
            Err(error) => return self.failed(key, &error),
        };
        // Where nothing is to be done by the clock, the session's own timers are enough.
        session.peer_deadline = polled.deadline.unwrap_or(now + IDLE);
        self.sessions.update_request(key);
        for datagram in &polled.datagrams {
            self.send(datagram.socket, datagram.peer, &datagram.bytes);
        }
        for event in polled.events {
            match event {
                PeerEvent::Connected(keying, pair) => self.connected(key, &keying, pair, now),
                PeerEvent::Moved(pair) => self.moved(key, pair),
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
                    // A connection that was a session's and is no more.
                    self.end_connection(pair);
                    return self.stray(of_a_session, pair, bytes, now);
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
        let Some(check) = Check::parse(bytes) else {
            return match StunMessage::parse(bytes) {
                Ok(message) if message.is_successful_binding_response() => self.stun_answer(pair, &message, now),
                _ => self.counters.stun_malformed += 1,
            };
        };
        let Some((key, session)) = self.sessions.by_ufrag(check.local()) else {
            self.counters.stun_unknown_username += 1;
            return self.refuse_connection(pair);
        };
        if !session.peer.is_check(&check) {
            self.counters.stun_bad_integrity += 1;
            return self.refuse_connection(pair);
        }
        if !self.sessions.remember(key, pair, now) {
            return self.pair_in_use(key, pair, now);
        }
        self.admit_connection(pair);
        let Some(session) = self.sessions.get_mut(key) else { return };
        match session.peer.stun(now, pair, &check) {
            Ok(()) => {
                self.consent(key, pair, now);
                self.flush(key, now);
            }
            Err(error) => self.failed(key, &error),
        }
    }

    /// A session says that its peer is where another one's is. If the other one is silent, whoever receives there
    /// may show it.
    fn pair_in_use(&mut self, key: Key, pair: Pair, now: Instant) {
        self.counters.stun_pair_in_use += 1;
        if self.sessions.is_quiet(pair, now)
            && let Some(session) = self.sessions.get_mut(key)
        {
            session.peer.probe(now, pair);
            self.flush(key, now);
        }
    }

    /// An answer to a request of ours: whoever made it receives at that address.
    fn stun_answer(&mut self, pair: Pair, message: &StunMessage<'_>, now: Instant) {
        let waiting = self.sessions.waiting_for(message.trans_id());
        let Some((key, session)) = waiting else {
            self.counters.stun_unknown_answer += 1;
            return;
        };
        if !session.peer.stun_answer(now, pair, message) {
            self.counters.stun_bad_integrity += 1;
            return;
        }
        self.sessions.give(key, pair);
        self.flush(key, now);
        self.consent(key, pair, now);
    }

    fn failed(&mut self, key: Key, error: &dyn std::error::Error) {
        self.counters.sessions_failed += 1;
        self.close(key, &format!("ICE or DTLS failed: {error}"));
    }

    /// Ends a session: first its media, then DTLS, then our memory of it.
    pub(in crate::stream) fn close(&mut self, key: Key, why: &str) {
        let was_connected = self.sessions.get(key).is_some_and(|session| session.media.is_some());
        self.stop_media(key);
        let Some(mut session) = self.sessions.remove(key) else { return };
        session.peer.close();
        if let Ok(polled) = session.peer.poll() {
            for datagram in &polled.datagrams {
                self.send(datagram.socket, datagram.peer, &datagram.bytes);
            }
        }
        session.pairs.iter().for_each(|pair| self.end_connection(*pair));
        if self.streams.publisher(&session.stream) == Some(key) {
            self.tell_ready(&session.stream, false);
        }
        self.streams.leave(&session.stream, key);
        self.update_demand(&session.stream);
        self.counters.sessions_closed += 1;
        self.turnover.count(Instant::now());
        let (id, of, role) = (&session.name, &session.stream, session.role);
        let write = |kept_back: Option<u64>| {
            tracing::info!(session = id, stream = of, ?role, kept_back, "session closed: {why}");
        };
        if was_connected {
            write(None)
        } else {
            self.tell_half_open(session.from, "closed", write)
        }
        let Session { name, role, stream, .. } = *session;
        self.notices.tell(&stream, What::SessionClosed { session: name, role, reason: why.into() });
    }

    /// A stream can be watched from now on, or not any more.
    pub(super) fn tell_ready(&mut self, stream: &str, ready: bool) {
        let news = if ready { self.ready.insert(stream.to_owned()) } else { self.ready.remove(stream) };
        if news {
            self.notices.tell(stream, if ready { What::StreamReady } else { What::StreamGone });
        }
    }

    /// Writes a line about a session of which a stranger may cause as many as he likes.
    pub(super) fn tell_half_open(&mut self, from: Block, kind: &'static str, write: impl FnOnce(Option<u64>)) {
        match self.half_open.take(Instant::now(), kind, from) {
            Some(0) => write(None),
            Some(kept_back) => write(Some(kept_back)),
            None => {}
        }
    }

    /// A connected session's name and media.
    fn with_media(&mut self, key: Key) -> Option<(&str, &mut Media)> {
        let session = self.sessions.get_mut(key)?;
        Some((session.name.as_str(), session.media.as_mut()?))
    }
}
