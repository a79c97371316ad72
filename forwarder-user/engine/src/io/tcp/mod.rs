//! Media by TCP (ICE-TCP, RFC 6544), for peers on networks that let no UDP through. We are passive: peers connect, and
//! each connection carries what a pair of UDP addresses would, in frames (RFC 4571).
//!
//! | file | does |
//! | --- | --- |
//! | here | which connections there are, how many there may be, how to send by them |
//! | `frames` | packets in a stream of bytes |
//! | `connection` | one connection, as senders see it: whoever sends never waits |
//! | `thread` | accepts, reads, and sends what had to wait |
//!
//! Who connects is a stranger until the control task has found an ICE check of a session's peer in what it says
//! ([`Connections::admit`]). A stranger may send nothing but STUN Binding requests, few of them, for a few seconds, and
//! makes way for others when there are many.

mod connection;
mod frames;
#[cfg(test)]
mod tests;
mod thread;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError, RwLock, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;

use self::connection::Connection;
pub use self::frames::{Deframer, MAX_PACKET, TooLong};
pub(crate) use self::{
    frames::{PREFIX, last_frame},
    thread::Thread,
};
use crate::block::{Share, Shares};

/// Number of the media socket that stands for all connections: peers of different ones have different addresses.
pub const TCP: usize = usize::MAX;

/// Connections that may wait to be accepted, and to be taken over from elsewhere.
const BACKLOG: i32 = 256;
const QUEUE: usize = 256;
/// Strangers at a time; a new one takes the place of the oldest.
const STRANGERS: usize = 512;
/// Of one address.
const STRANGERS_EACH: usize = STRANGERS / 4;
/// Connections of one address that are allowed in any case.
const LEAST_SHARE: usize = 16;
/// What the system keeps for a peer that reads slowly: half a second at 4 Mbit/s. Linux doubles it for its own needs.
const SEND_BUFFER: usize = 256 << 10;

/// What became of connections and of what came by them. All but `open` and `strangers` only grow.
#[derive(Debug, Default)]
pub struct TcpCounters {
    /// Connections that a session's peer has at the moment.
    pub open: AtomicUsize,
    /// Connections that somebody else has.
    pub strangers: AtomicUsize,
    /// Closed at once: there are as many as there may be, of one address or of all.
    pub refused: AtomicU64,
    /// Strangers who had said nothing of use in time, or made way for others.
    pub expired: AtomicU64,
    /// Strangers who said something else than an ICE check of a session's peer.
    pub unwanted: AtomicU64,
    /// Closed because what came cannot be frames.
    pub malformed: AtomicU64,
}

/// What the thread is given.
enum New {
    Listener(std::net::TcpListener),
    Connection(std::net::TcpStream, SocketAddr),
}

/// All connections.
pub struct Connections {
    all: RwLock<HashMap<SocketAddr, Arc<Connection>>>,
    /// Those that nobody was admitted by, the oldest first.
    strangers: Mutex<VecDeque<Weak<Connection>>>,
    listening: Mutex<BTreeSet<SocketAddr>>,
    new: mpsc::Sender<New>,
    /// Until the thread takes it.
    inbox: Mutex<Option<mpsc::Receiver<New>>>,
    most: usize,
    shares: Arc<Shares>,
    stranger_shares: Arc<Shares>,
    /// Since the start.
    pub counters: TcpCounters,
}

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connections").field("most", &self.most).finish_non_exhaustive()
    }
}

/// A connection's part of what there may be. Dropped, it is free again.
struct Place {
    _of_all: Share,
    of_strangers: Option<Share>,
}

impl Connections {
    /// None yet, and no more than `most` at a time.
    pub fn new(most: usize) -> Self {
        let (new, inbox) = mpsc::channel(QUEUE);
        Self {
            all: RwLock::default(),
            strangers: Mutex::default(),
            listening: Mutex::default(),
            new,
            inbox: Mutex::new(Some(inbox)),
            most,
            shares: Shares::of(most, LEAST_SHARE),
            stranger_shares: Shares::each(STRANGERS_EACH),
            counters: TcpCounters::default(),
        }
    }

    /// Listens there from now on, if it does not yet.
    ///
    /// # Errors
    /// It cannot be bound; the error names the address.
    pub fn listen(&self, address: SocketAddr) -> io::Result<SocketAddr> {
        let named = |error: io::Error| io::Error::new(error.kind(), format!("media by TCP at {address}: {error}"));
        let mut listening = self.listening.lock().unwrap_or_else(PoisonError::into_inner);
        if address.port() != 0 && listening.contains(&address) {
            return Ok(address);
        }
        let listener = bind(address).map_err(named)?;
        let bound = listener.local_addr()?;
        self.new.try_send(New::Listener(listener)).map_err(|_| named(io::ErrorKind::WouldBlock.into()))?;
        listening.insert(bound);
        Ok(bound)
    }

    /// Takes over a connection of which nothing has been read.
    pub fn adopt(&self, stream: std::net::TcpStream, peer: SocketAddr) {
        if self.new.try_send(New::Connection(stream, peer)).is_err() {
            self.counters.refused.fetch_add(1, Relaxed);
        }
    }

    fn get(&self, peer: SocketAddr) -> Option<Arc<Connection>> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).get(&peer).cloned()
    }

    /// Our address of the connection with this peer.
    pub fn local(&self, peer: SocketAddr) -> Option<SocketAddr> {
        Some(self.get(peer)?.local)
    }

    /// Sends a packet of the control task. `false`: there is no such connection, or no room.
    pub fn send(&self, peer: SocketAddr, packet: &[u8]) -> bool {
        let Ok(len) = u16::try_from(packet.len()) else { return false };
        let frame = [&len.to_be_bytes()[..], packet].concat();
        self.get(peer).is_some_and(|connection| connection.send_control(&frame))
    }

    /// Sends frames of media. Returns how many packets were dropped.
    pub(crate) fn send_media(&self, peer: SocketAddr, frames: &[u8]) -> u64 {
        match self.get(peer) {
            Some(connection) => connection.send_media(frames),
            None => self::frames::frames(frames).count() as u64,
        }
    }

    /// A session's peer is there, by an authenticated ICE check: it may stay.
    pub fn admit(&self, peer: SocketAddr) {
        if let Some(connection) = self.get(peer)
            && connection.admit()
        {
            // The thread gives its place among the strangers to others.
            connection.bell.notify_one();
        }
    }

    /// Whoever is there is nobody's peer, unless it was admitted.
    pub fn refuse(&self, peer: SocketAddr) {
        if let Some(connection) = self.get(peer).filter(|connection| !connection.is_admitted()) {
            self.counters.unwanted.fetch_add(1, Relaxed);
            connection.end();
        }
    }

    /// The connection has no session any more.
    pub fn end(&self, peer: SocketAddr) {
        if let Some(connection) = self.get(peer) {
            connection.end();
        }
    }

    /// A place for a new connection, if there is one.
    fn place(&self, from: IpAddr) -> Option<Place> {
        let full = self.all.read().unwrap_or_else(PoisonError::into_inner).len() >= self.most;
        let place = || {
            let of_strangers = self.stranger_shares.take(from.into())?;
            Some(Place { _of_all: self.shares.take(from.into())?, of_strangers: Some(of_strangers) })
        };
        let place = if full { None } else { place() };
        if place.is_none() {
            self.counters.refused.fetch_add(1, Relaxed);
        }
        place
    }

    /// Enters a connection. `false`: another one has this peer's address.
    fn enter(&self, connection: &Arc<Connection>) -> bool {
        {
            let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
            if all.contains_key(&connection.peer) {
                self.counters.refused.fetch_add(1, Relaxed);
                return false;
            }
            all.insert(connection.peer, Arc::clone(connection));
        }
        let mut strangers = self.strangers.lock().unwrap_or_else(PoisonError::into_inner);
        strangers.retain(|stranger| stranger.upgrade().is_some_and(|one| !one.is_admitted() && !one.is_ending()));
        if strangers.len() >= STRANGERS
            && let Some(oldest) = strangers.pop_front().and_then(|oldest| oldest.upgrade())
        {
            self.counters.expired.fetch_add(1, Relaxed);
            oldest.end();
        }
        strangers.push_back(Arc::downgrade(connection));
        true
    }

    fn leave(&self, connection: &Connection) {
        self.all.write().unwrap_or_else(PoisonError::into_inner).remove(&connection.peer);
    }
}

fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a server before may still be closing.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
