//! The userspace engine: opens and seals in this process, and needs no rights at all.
//!
//! | file | does |
//! | --- | --- |
//! | `tables` | sessions and tracks |
//! | `forward` | the way of a packet |
//! | `kept` | what a track keeps of its packets: those last sent, the group of pictures of a source |
//! | `backlog`, `catch_up` | how a new subscriber gets it |
//! | `totals` | what is counted of both |
//! | `paths` | which sessions the xdp transmitter can serve |
//! | `outgoing` | what a packet becomes for one subscriber |
//! | `serve` | the engine's contract |

mod backlog;
mod catch_up;
mod forward;
mod kept;
mod outgoing;
mod paths;
mod serve;
mod tables;
#[cfg(test)]
mod tests;
mod totals;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use forwarder_common::{Counter, ExtendedSeq, maps::LEASE_NS};
use penstock_srtp::cipher::Sealer;

pub use self::forward::Forwarder;
use self::{
    backlog::Behind,
    kept::Kept,
    tables::{Origin, Publisher, Session, Tables},
    totals::Totals,
};
use crate::{
    EngineError, Event, Events, PublisherTrackId, SessionId, SubscriberTrackId, Transport,
    contract::{Keep, NewSource},
    io::{MediaSockets, tcp::TCP},
    repair,
    slots::Slots,
    transmit::{Transmitter, socket::SocketTransmitter, tcp::TcpTransmitter, xdp::XdpTransmitter},
};

/// Frames that are sent at once while the kernel engine sends to other viewers of the same stream: with
/// its largest pass, of 200, they fit into a ring of 256 (decision 14).
const BESIDE_A_PASS: usize = 32;

/// What the engine is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Publishers and viewers together; more get [`EngineError::Full`].
    pub sessions: usize,
    /// Incoming SSRCs, sources of our own included.
    pub publisher_tracks: usize,
    /// Outgoing SSRCs.
    pub subscriber_tracks: usize,
    /// Subscribers of one incoming SSRC in this engine: no pass bounds them.
    pub viewers_per_stream: usize,
    /// How long a session sends and is received without a refresh.
    pub lease: Duration,
    /// Several packets to one peer in one system call (UDP GSO).
    pub gso: bool,
    /// Peers may come by TCP, which takes a thread more.
    pub tcp: bool,
    /// Tests and measurements put another one in.
    pub sealer: Sealer,
    /// What is kept of peers' packets for those that lose them. Sources say it for each track.
    pub repair: repair::Settings,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            sessions: 1024,
            publisher_tracks: 256,
            subscriber_tracks: 2048,
            viewers_per_stream: 2048,
            lease: Duration::from_nanos(LEASE_NS),
            gso: true,
            tcp: false,
            sealer: Sealer::default(),
            repair: repair::Settings::default(),
        }
    }
}

/// See the module.
pub struct UserspaceEngine(Arc<Inner>);

/// What the engine and its feeders share.
pub(crate) struct Inner {
    tables: RwLock<Tables>,
    sockets: OnceLock<Arc<MediaSockets>>,
    counters: Vec<AtomicU64>,
    config: Config,
    events: Events,
    /// Feeders made so far: each sends by the sockets of another thread, in turn.
    feeders: AtomicUsize,
    /// The xdp transmitter, or why there is none.
    xdp: OnceLock<Result<paths::Xdp, String>>,
    /// Packets that the xdp transmitter has sent.
    by_xdp: AtomicU64,
    /// Sent once more by XDP, after a full ring.
    resent: AtomicU64,
    /// Subscribers that have not had all yet that was kept for them.
    behind: Behind,
    kept: Totals,
    repairs: repair::Repairs,
}

impl Inner {
    // A thread that panicked has left a table whose every entry is whole: the others go on.

    fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.tables.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Tables> {
        self.tables.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, counter: Counter, n: u64) {
        if let Some(value) = self.counters.get(counter as usize).filter(|_| n != 0) {
            value.fetch_add(n, Relaxed);
        }
    }

    /// What is to keep a track's packets, if anything of them.
    fn keeper(&self, keep: Keep) -> Option<Mutex<Kept>> {
        let memory = &self.config.repair.memory;
        (keep != Keep::default()).then(|| Mutex::new(Kept::new(keep, Arc::clone(memory))))
    }

    fn report(&self, event: Event) {
        // Fails only when nobody listens any more, that is while the server stops.
        let _ = self.events.send(event);
    }

    fn socket(&self, transport: Transport) -> Result<usize, EngineError> {
        if transport.tcp {
            return Ok(TCP);
        }
        let number = self.sockets.get().and_then(|sockets| sockets.number(transport.local));
        number.ok_or_else(|| EngineError::Unreachable {
            peer: transport.peer,
            reason: format!("no media socket has the address {}", transport.local),
        })
    }

    /// Takes a subscriber track out, and tells from where its SSRC may go on. Under the write lock, so no
    /// copy is on its way.
    fn end_subscriber(&self, tables: &mut Tables, handle: u32) {
        let Some(subscriber) = tables.subscribers.remove(handle) else { return };
        if let Some(session) = tables.sessions.get_mut(subscriber.session) {
            session.subscriber_tracks.remove(&handle);
        }
        let mut next_out = subscriber.next_out(ExtendedSeq(subscriber.first_in - 1));
        if let Some(publisher) = tables.publishers.get_mut(subscriber.from) {
            publisher.members.retain(|member| *member != handle);
            next_out = subscriber.next_out(publisher.replay.highest_accepted());
        }
        let index_offset = Some(subscriber.index_offset);
        self.report(Event::SubscriberTrackStopped { track: SubscriberTrackId(handle), next_out, index_offset });
    }

    fn end_publisher(&self, tables: &mut Tables, handle: u32) {
        let Some(publisher) = tables.publishers.get(handle) else { return };
        for member in publisher.members.clone() {
            self.end_subscriber(tables, member);
        }
        let Some(publisher) = tables.publishers.remove(handle) else { return };
        if let Origin::Srtp { session, ssrc, .. } = publisher.origin
            && let Some(session) = tables.sessions.get_mut(session)
        {
            session.publisher_tracks.remove(&handle);
            let flow = (session.socket, session.transport.peer, ssrc);
            if tables.flows.get(&flow) == Some(&handle) {
                tables.flows.remove(&flow);
            }
        }
        let highest = publisher.replay.highest_accepted();
        self.report(Event::PublisherTrackStopped { track: PublisherTrackId(handle), highest });
    }
}

impl UserspaceEngine {
    /// An engine without sockets: [`Engine::set_sockets`](crate::Engine::set_sockets) gives it some.
    pub fn new(config: Config, events: Events) -> Self {
        let tables = Tables {
            sessions: Slots::userspace(config.sessions),
            publishers: Slots::userspace(config.publisher_tracks),
            subscribers: Slots::userspace(config.subscriber_tracks),
            flows: HashMap::new(),
        };
        Self(Arc::new(Inner {
            tables: RwLock::new(tables),
            sockets: OnceLock::new(),
            counters: Counter::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            config,
            events,
            feeders: AtomicUsize::new(0),
            xdp: OnceLock::new(),
            by_xdp: AtomicU64::new(0),
            resent: AtomicU64::new(0),
            behind: Behind::default(),
            kept: Totals::default(),
            repairs: repair::Repairs::default(),
        }))
    }

    /// Sends by XDP from now on, wherever that is possible, and by sockets elsewhere. Before any session
    /// is added and any feeder is made. `interfaces`: indices of those that may be used, or all.
    ///
    /// # Errors
    /// Why it cannot be; sessions show it.
    pub fn use_xdp(&self, interfaces: Option<Vec<u32>>) -> Result<(), String> {
        let xdp = paths::Xdp::start(Arc::downgrade(&self.0), interfaces, self.0.config.tcp);
        let result = xdp.as_ref().map(|_| ()).map_err(String::clone);
        let _ = self.0.xdp.set(xdp);
        result
    }

    /// Does not send by XDP; sessions show the reason.
    pub fn use_sockets(&self, why: String) {
        let _ = self.0.xdp.set(Err(why));
    }

    /// Does it send by XDP where that is possible?
    ///
    /// # Errors
    /// Why not.
    pub fn sends_by_xdp(&self) -> Result<(), String> {
        match self.0.xdp.get() {
            Some(xdp) => xdp.as_ref().map(|_| ()).map_err(String::clone),
            None => Err("it was not started".into()),
        }
    }

    /// Why a session's packets leave by sockets. `None`: they do not, or nobody has to wonder.
    pub fn why_socket(&self, session: SessionId) -> Option<String> {
        self.0.read().sessions.get(session.0)?.path.as_ref().err().filter(|why| !why.is_empty()).cloned()
    }

    /// For a thread that has packets in the clear. `None` before the engine has sockets.
    pub fn feeder(&self) -> Option<Forwarder> {
        self.feeder_with(|_| {})
    }

    /// For the thread whose packets the kernel engine sends at the same time, to other viewers by the
    /// same devices: small portions, so that both fit into a device's ring.
    pub fn feeder_beside_the_kernel(&self) -> Option<Forwarder> {
        self.feeder_with(|xdp| xdp.send_at_once(BESIDE_A_PASS))
    }

    fn feeder_with(&self, prepare: impl FnOnce(&mut XdpTransmitter)) -> Option<Forwarder> {
        let sockets = self.0.sockets.get()?;
        let number = self.0.feeders.fetch_add(1, Relaxed);
        let socket = SocketTransmitter::new(Arc::clone(sockets), number, self.0.config.gso);
        let mut xdp = self.0.xdp().and_then(|xdp| xdp.sender.transmitter());
        xdp.as_mut().map(prepare);
        let mut transmitters: Vec<Box<dyn Transmitter>> = vec![];
        transmitters.extend(xdp.map(|xdp| Box::new(xdp) as Box<dyn Transmitter>));
        let tcp = sockets.tcp().map(|connections| TcpTransmitter::new(Arc::clone(connections)));
        transmitters.extend(tcp.map(|tcp| Box::new(tcp) as Box<dyn Transmitter>));
        transmitters.push(Box::new(socket));
        Some(Forwarder::new(Arc::clone(&self.0), transmitters))
    }

    /// A publisher track that [`Feeder::push`](crate::Feeder::push) feeds. It ends by `remove_publisher_track`.
    ///
    /// # Errors
    /// [`EngineError::Full`].
    pub fn add_source(&self, source: NewSource) -> Result<PublisherTrackId, EngineError> {
        let mut tables = self.0.write();
        let limit = tables.publishers.limit();
        let NewSource { clock_rate, last, keep, ordered } = source;
        let mut publisher = Publisher::new(Origin::Source, clock_rate, last, ordered);
        publisher.kept = self.0.keeper(keep);
        let full = |_| EngineError::Full { table: "the table of incoming tracks", limit, key: "publisher_tracks" };
        tables.publishers.insert(publisher).map(PublisherTrackId).map_err(full)
    }

    /// What it keeps of a track that comes from a peer.
    pub fn keeps_last(&self) -> Keep {
        self.0.config.repair.last()
    }

    /// Does this session receive or send anything?
    pub fn has_tracks(&self, session: SessionId) -> bool {
        let tables = self.0.read();
        let tracks = |session: &Session| session.publisher_tracks.len() + session.subscriber_tracks.len();
        tables.sessions.get(session.0).is_some_and(|session| tracks(session) > 0)
    }

    /// Has this track subscribers?
    pub fn is_wanted(&self, track: PublisherTrackId) -> bool {
        forward::has_members(&self.0.read(), track.0)
    }
}
