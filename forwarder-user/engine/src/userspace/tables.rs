//! Sessions and tracks. Changed under a write lock, which waits until no batch is on its way; read by
//! whoever forwards, who changes only the atomics.

use std::{
    collections::{BTreeSet, HashMap},
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use forwarder_common::{
    ExtendedSeq, ReplayWindow, RtpHeader,
    arrivals::{Arrivals, Seen},
    maps::Path,
    rtp,
    seq::Refused,
};

use super::{backlog::Start, kept::Kept};
use penstock_srtp::cipher::Cipher;

use crate::{
    Dscp, Ear, NewSubscriberTrack, PublisherStats, Role, SubscriberStats, Transport, slots::Slots,
    transmit::Destination,
};

/// An RTP source as it arrives: socket, peer and SSRC.
pub(super) type Flow = (usize, SocketAddr, u32);

pub(super) struct Tables {
    pub sessions: Slots<Session>,
    pub publishers: Slots<Publisher>,
    pub subscribers: Slots<Subscriber>,
    pub flows: HashMap<Flow, u32>,
}

pub(super) struct Session {
    pub role: Role,
    pub cipher: Arc<Cipher>,
    pub transport: Transport,
    /// Number of the socket that has the local address.
    pub socket: usize,
    /// Headers for the xdp transmitter, or why there are none (yet).
    pub path: Result<Path, String>,
    /// When the session's lease ends, ns of CLOCK_BOOTTIME.
    pub expires: Arc<AtomicU64>,
    /// When its right to be here ends: no lease is longer.
    pub ends_ns: u64,
    pub publisher_tracks: BTreeSet<u32>,
    pub subscriber_tracks: BTreeSet<u32>,
}

impl Session {
    pub(super) fn destination(&self, dscp: Dscp) -> Destination {
        Destination { socket: self.socket, transport: self.transport, path: self.path.as_ref().ok().copied(), dscp }
    }
}

/// How a publisher track's packets come.
pub(super) enum Origin {
    /// As SRTP, by a socket.
    Srtp { session: u32, cipher: Arc<Cipher>, expires: Arc<AtomicU64>, ssrc: u32, payload_type: u8 },
    /// In the clear, each index once, from whoever holds the track.
    Source,
}

/// Which indices have come. Of each window an index is accepted once, whatever its length.
pub(super) enum Replay {
    /// As the network delivers packets.
    Network(Box<ReplayWindow>),
    /// In order, or nearly.
    Ordered(ReplayWindow<16>),
}

impl Replay {
    fn new(last: ExtendedSeq, ordered: bool) -> Self {
        match ordered {
            true => Replay::Ordered(ReplayWindow::starting_after(last)),
            false => Replay::Network(Box::new(ReplayWindow::starting_after(last))),
        }
    }

    pub(super) fn highest(&self) -> ExtendedSeq {
        match self {
            Replay::Network(window) => window.highest(),
            Replay::Ordered(window) => window.highest(),
        }
    }

    pub(super) fn highest_accepted(&self) -> ExtendedSeq {
        match self {
            Replay::Network(window) => window.highest_accepted(),
            Replay::Ordered(window) => window.highest_accepted(),
        }
    }

    pub(super) fn check(&self, index: ExtendedSeq) -> Result<(), Refused> {
        match self {
            Replay::Network(window) => window.check(index),
            Replay::Ordered(window) => window.check(index),
        }
    }

    /// Says whether others are missing before it.
    pub(super) fn enter(&self, index: ExtendedSeq) -> Result<bool, Refused> {
        match self {
            Replay::Network(window) => window.enter(index),
            Replay::Ordered(window) => window.enter(index),
        }
    }
}

pub(super) struct Publisher {
    pub origin: Origin,
    pub clock_rate: u32,
    /// Moves only after the tag of a packet was right.
    pub replay: Replay,
    first: u64,
    packets: AtomicU64,
    octets: AtomicU64,
    pub auth_failed: AtomicU64,
    /// Packets with another payload type than the track's, and that of the last one, plus one.
    pub others: AtomicU64,
    pub other_type: AtomicU64,
    last_arrival_ns: AtomicU64,
    last_timestamp: AtomicU32,
    jitter_q4: AtomicU32,
    /// The track of which it brings again what was lost.
    pub repairs: Option<u32>,
    /// When its packets came, if their sender counts them, and by which header extension.
    pub heard: Option<Box<Heard>>,
    /// What it keeps for subscribers to come, if anything.
    pub kept: Option<Mutex<Kept>>,
    /// Subscriber tracks in the order of joining.
    pub members: Vec<u32>,
    /// Who hears its packets in the clear.
    pub listeners: Vec<Listener>,
}

/// A consumer of a track's packets.
pub(super) struct Listener {
    pub ear: Ear,
    /// First incoming index that was not accepted before it began to listen; it has been told of those before.
    pub live_from: u64,
}

/// When packets came, by the number of their transport.
pub(super) struct Heard {
    extension: u8,
    arrivals: Arrivals,
    /// What has been told of it.
    told: Mutex<Seen>,
}

impl Heard {
    pub(super) fn new(extension: u8) -> Self {
        Self { extension, arrivals: Arrivals::new(), told: Mutex::new(Seen::new()) }
    }

    /// An authentic packet, as it came but for its payload.
    pub(super) fn note(&self, packet: &[u8], now_ns: u64) {
        if let Some([a, b]) = rtp::extension(packet, self.extension) {
            self.arrivals.note(u16::from_be_bytes([*a, *b]), now_ns);
        }
    }

    pub(super) fn tell(&self, each: &mut dyn FnMut(u16, u64)) {
        self.arrivals.since(&mut self.told.lock().unwrap_or_else(PoisonError::into_inner), each);
    }
}

impl Publisher {
    /// `last`: the last index that is not forwarded. `ordered`: see [`Replay`].
    pub(super) fn new(origin: Origin, clock_rate: u32, last: ExtendedSeq, ordered: bool) -> Self {
        Self {
            origin,
            clock_rate,
            replay: Replay::new(last, ordered),
            first: last.0 + 1,
            packets: AtomicU64::new(0),
            octets: AtomicU64::new(0),
            auth_failed: AtomicU64::new(0),
            others: AtomicU64::new(0),
            other_type: AtomicU64::new(0),
            last_arrival_ns: AtomicU64::new(0),
            last_timestamp: AtomicU32::new(0),
            jitter_q4: AtomicU32::new(0),
            repairs: None,
            heard: None,
            kept: None,
            members: Vec::new(),
            listeners: Vec::new(),
        }
    }

    /// Reception statistics of a packet that was accepted. As in the kernel, the jitter is not guarded
    /// against two threads, which never serve one peer.
    pub(super) fn account(&self, header: &RtpHeader, payload_len: usize, now_ns: u64) {
        self.packets.fetch_add(1, Relaxed);
        self.octets.fetch_add(payload_len as u64, Relaxed);
        let timestamp = header.timestamp();
        let (last_ns, last) = (self.last_arrival_ns.load(Relaxed), self.last_timestamp.load(Relaxed));
        if last_ns != 0 {
            let elapsed = now_ns.saturating_sub(last_ns);
            let difference = rtp::transit_difference(elapsed, timestamp.wrapping_sub(last), self.clock_rate);
            let jitter = self.jitter_q4.load(Relaxed);
            // RFC 3550 §A.8, the integer form.
            let next = jitter.wrapping_add(difference).wrapping_sub(jitter.wrapping_add(8) >> 4);
            self.jitter_q4.store(next, Relaxed);
        }
        self.last_arrival_ns.store(now_ns, Relaxed);
        self.last_timestamp.store(timestamp, Relaxed);
    }

    /// A packet with another payload type than the track's has come.
    pub(super) fn other(&self, payload_type: u8) {
        self.others.fetch_add(1, Relaxed);
        self.other_type.store(u64::from(payload_type) + 1, Relaxed);
    }

    pub(super) fn stats(&self) -> PublisherStats {
        PublisherStats {
            highest: self.replay.highest(),
            highest_accepted: self.replay.highest_accepted(),
            first: ExtendedSeq(self.first),
            packets: self.packets.load(Relaxed),
            octets: self.octets.load(Relaxed),
            jitter: self.jitter_q4.load(Relaxed) / 16,
            auth_failed: self.auth_failed.load(Relaxed),
            others: self.others.load(Relaxed),
            other_type: self.other_type.load(Relaxed).checked_sub(1).map(|payload_type| payload_type as u8 & 0x7f),
            last_timestamp: self.last_timestamp.load(Relaxed),
            last_arrival_ns: self.last_arrival_ns.load(Relaxed),
        }
    }
}

pub(super) struct Subscriber {
    pub session: u32,
    pub from: u32,
    pub track: NewSubscriberTrack,
    pub cipher: Arc<Cipher>,
    pub expires: Arc<AtomicU64>,
    pub destination: Destination,
    /// Outgoing minus incoming index, wrapping: fixed for the life of the track.
    pub index_offset: u64,
    /// First incoming index that is for this subscriber.
    pub first_in: u64,
    /// What it gets of the past, before what comes.
    pub start: Start,
    packets: AtomicU64,
    octets: AtomicU64,
    /// Outgoing index of the last copy.
    pub last_index: AtomicU64,
    last_timestamp: AtomicU32,
    last_sent_ns: AtomicU64,
}

impl Subscriber {
    pub(super) fn new(session: &Session, ids: (u32, u32), track: NewSubscriberTrack, start: Start) -> Self {
        let first_in = start.first_in();
        Self {
            session: ids.0,
            from: ids.1,
            track,
            cipher: Arc::clone(&session.cipher),
            expires: Arc::clone(&session.expires),
            destination: session.destination(track.dscp),
            index_offset: track.offset_from(first_in),
            first_in,
            start,
            packets: AtomicU64::new(0),
            octets: AtomicU64::new(0),
            last_index: AtomicU64::new(0),
            last_timestamp: AtomicU32::new(0),
            last_sent_ns: AtomicU64::new(0),
        }
    }

    pub(super) fn account(&self, payload_len: usize, index: ExtendedSeq, timestamp: u32, now_ns: u64) {
        self.packets.fetch_add(1, Relaxed);
        self.octets.fetch_add(payload_len as u64, Relaxed);
        self.last_index.fetch_max(index.0, Relaxed);
        self.last_timestamp.store(timestamp, Relaxed);
        self.last_sent_ns.store(now_ns, Relaxed);
    }

    pub(super) fn stats(&self) -> SubscriberStats {
        SubscriberStats {
            packets: self.packets.load(Relaxed),
            octets: self.octets.load(Relaxed),
            last_timestamp: self.last_timestamp.load(Relaxed),
            last_sent_ns: self.last_sent_ns.load(Relaxed),
        }
    }

    /// An index above every one that this track has used, or can have been asked to use.
    pub(super) fn next_out(&self, highest: ExtendedSeq) -> ExtendedSeq {
        let reached = highest.0.wrapping_add(1).wrapping_add(self.index_offset);
        let used = match self.packets.load(Relaxed) {
            0 => 0,
            _ => self.last_index.load(Relaxed) + 1,
        };
        ExtendedSeq(self.track.next_out.0.max(reached).max(used))
    }
}
