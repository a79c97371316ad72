//! What an engine is given, and what it tells.

use std::{collections::BTreeMap, net::SocketAddr};

use forwarder_common::ExtendedSeq;
use penstock_media::{Kind, MediaKey, Role};

/// Where a session's packets come from or go to, as the peer and we see it on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transport {
    /// One of our media sockets, with the address that is bound, not the one that is advertised.
    pub local: SocketAddr,
    /// Nominated by ICE.
    pub peer: SocketAddr,
    /// By a TCP connection from there (RFC 6544), which only the userspace engine has.
    pub tcp: bool,
}

impl Transport {
    /// Datagrams between these addresses.
    pub const fn udp(local: SocketAddr, peer: SocketAddr) -> Self {
        Self { local, peer, tcp: false }
    }

    /// The connection that the peer has opened from this address.
    pub const fn tcp(local: SocketAddr, peer: SocketAddr) -> Self {
        Self { local, peer, tcp: true }
    }
}

/// A session with keys.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// First part of the id in the HTTP location, enough to tell sessions apart but not to end one.
    /// For the inspection commands.
    pub id: String,
    /// Stream name. For the inspection commands.
    pub stream: String,
    /// Says for which direction `key` is.
    pub role: Role,
    /// Opens what a publisher sends, or seals what a subscriber gets.
    pub key: MediaKey,
    /// As nominated; changes by [`Engine::move_session`](crate::Engine::move_session).
    pub transport: Transport,
    /// It plays what a source of ours sends ([`Sources::add_source`](super::Sources::add_source)), as far as can be known now: an engine
    /// that takes no sources need not prepare for it.
    pub of_source: bool,
}

/// An incoming SSRC that userspace has learnt from an authenticated packet.
#[derive(Clone, Copy, Debug)]
pub struct NewPublisherTrack {
    /// The publisher's own.
    pub ssrc: u32,
    /// Which frames can be asked for: only video has keyframes.
    pub kind: Kind,
    /// The one payload type that is forwarded.
    pub payload_type: u8,
    /// RTP clock in Hz.
    pub clock_rate: u32,
    /// Index of the packet from which the SSRC was learnt; it and all before it are not forwarded.
    pub first: ExtendedSeq,
    /// Number of the header extension by which its sender counts all packets of the transport, 1 to 14. When they come
    /// is noted then, for [`Engine::arrivals`](crate::Engine::arrivals).
    pub sequence_extension: Option<u8>,
}

/// An SSRC by which a publisher sends again what was lost of another one (RFC 4588).
#[derive(Clone, Copy, Debug)]
pub struct NewRepairTrack {
    /// The publisher's own.
    pub ssrc: u32,
    /// Of what is sent again.
    pub payload_type: u8,
    /// Whose packets it carries.
    pub of: PublisherTrackId,
    /// Index of the packet from which the SSRC was learnt; it and all before it are not taken.
    pub first: ExtendedSeq,
    /// As [`NewPublisherTrack::sequence_extension`].
    pub sequence_extension: Option<u8>,
}

/// An outgoing SSRC.
#[derive(Clone, Copy, Debug)]
pub struct NewSubscriberTrack {
    /// Ours, as the answer to the viewer named it.
    pub ssrc: u32,
    /// As the publisher track's.
    pub kind: Kind,
    /// The viewer's for this codec, which may differ from the publisher's.
    pub payload_type: u8,
    /// Outgoing index of the first packet: of the one after the publisher's currently highest, or of the
    /// first that the engine has kept for new subscribers. Must be above every index that this SSRC has
    /// used: the engine turns it into the fixed offset.
    pub next_out: ExtendedSeq,
    /// Outgoing minus incoming index, wrapping, that the SSRC had when the same incoming SSRC fed it last. It is kept if
    /// nothing speaks against it, so that the peer sees as lost what was lost meanwhile, and nothing else changes.
    pub index_offset: Option<u64>,
    /// Added (wrapping) to the RTP timestamp.
    pub timestamp_offset: u32,
    /// Of its packets.
    pub dscp: Dscp,
}

/// What routers are to make of a packet (RFC 2474): the six upper bits of the DS field. 0: what they make of any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dscp(u8);

impl Dscp {
    /// `None`: it has more than six bits.
    pub const fn new(value: u8) -> Option<Self> {
        if value < 64 { Some(Self(value)) } else { None }
    }

    /// The DS field, without congestion notification (RFC 3168 §5).
    pub const fn field(self) -> u8 {
        self.0 << 2
    }
}

/// A wider gap is closed: receivers estimate indices within 2^15 of the last one (RFC 3711 §3.3.1).
const WIDEST_GAP: u64 = 1 << 14;

impl NewSubscriberTrack {
    /// Outgoing minus incoming index, wrapping, of a track whose first packet has the index `first_in`. No outgoing
    /// index below `next_out` comes of it.
    pub fn offset_from(&self, first_in: u64) -> u64 {
        let gap = |offset: u64| first_in.wrapping_add(offset).wrapping_sub(self.next_out.0);
        let kept = self.index_offset.filter(|offset| gap(*offset) <= WIDEST_GAP);
        kept.unwrap_or_else(|| self.next_out.0.wrapping_sub(first_in))
    }
}

macro_rules! ids {
    ($($(#[doc = $doc:literal])+ $name:ident;)+) => {$(
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u32);
    )+};
}

ids! {
    /// Handle of a session in an engine. Never used again soon after the session is gone, so a late
    /// event cannot be taken for one of another session; the same holds for the two below.
    SessionId;
    /// Handle of an incoming SSRC.
    PublisherTrackId;
    /// Handle of an outgoing SSRC.
    SubscriberTrackId;
}

/// Counters of an incoming SSRC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublisherStats {
    /// Highest authenticated index.
    pub highest: ExtendedSeq,
    /// First index that counts as expected (RFC 3550 §A.3).
    pub first: ExtendedSeq,
    /// Authenticated packets since then, and their payload bytes.
    pub packets: u64,
    /// Payload bytes of the packets, without header and tag.
    pub octets: u64,
    /// RTP clock units (RFC 3550 §6.4.1).
    pub jitter: u32,
    /// Highest index ever accepted, exact even where two CPUs raced to raise `highest`: whoever hands over an index
    /// uses this one.
    pub highest_accepted: ExtendedSeq,
    /// Packets refused because of a wrong tag.
    pub auth_failed: u64,
    /// Authentic packets with another payload type than the track's, of which copies are empty, and the payload type of
    /// the last one.
    pub others: u64,
    /// See [`others`](Self::others).
    pub other_type: Option<u8>,
    /// RTP timestamp of the last packet and its arrival, ns of CLOCK_BOOTTIME; 0 if none yet.
    pub last_timestamp: u32,
    /// Moment of arrival of that packet, ns of CLOCK_BOOTTIME; 0 if none yet.
    pub last_arrival_ns: u64,
}

/// Counters of an outgoing SSRC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriberStats {
    /// Copies handed to the network, and their payload bytes.
    pub packets: u64,
    /// Payload bytes of the copies, without header and tag (RFC 3550 §6.4.1).
    pub octets: u64,
    /// Outgoing RTP timestamp of the last copy and when it left, ns of CLOCK_BOOTTIME; 0 if none.
    pub last_timestamp: u32,
    /// When the last copy left, ns of CLOCK_BOOTTIME; 0 if none.
    pub last_sent_ns: u64,
}

/// What an engine reports by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// `remove_publisher_track` is complete: nothing of it is in flight any more. `highest`: no index above it was
    /// accepted, so the SSRC may be learnt again from there, whoever opens it then.
    PublisherTrackStopped {
        /// Its handle; it may be given out again.
        track: PublisherTrackId,
        /// 0 if nothing was accepted.
        highest: ExtendedSeq,
    },
    /// `remove_subscriber_track` is complete, or its publisher track stopped. No copy will follow.
    /// `next_out` is above every outgoing index that was used: the SSRC may go on from there. `index_offset`: outgoing
    /// minus incoming index, if there was any.
    SubscriberTrackStopped {
        /// Its handle; it may be given out again.
        track: SubscriberTrackId,
        /// For the next track with this SSRC and key.
        next_out: ExtendedSeq,
        /// Modulo 2^64. `None`: it never had a publisher track.
        index_offset: Option<u64>,
    },
    /// A subscriber was attached: packets flow from now on, so ask for a keyframe.
    SubscriberTrackStarted {
        /// It had no publisher track until now.
        track: SubscriberTrackId,
    },
    /// Copies of this track do not reach its peer any more, by the way that the engine has for it. If it
    /// [can](crate::Engine::has_other_ways), it finds another one for a track that is added anew.
    SubscriberTrackLost {
        /// It still exists, until it is removed.
        track: SubscriberTrackId,
    },
    /// The engine could not do what it had promised; the track is gone.
    SubscriberTrackFailed {
        /// Its handle means nothing from now on.
        track: SubscriberTrackId,
    },
}

/// Why an engine refuses.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A table of the configuration is full.
    #[error("{table} is full ({limit} entries): raise `limits.{key}` in the configuration")]
    Full {
        /// In words, with an article.
        table: &'static str,
        /// From the configuration.
        limit: usize,
        /// Without `limits.` in front.
        key: &'static str,
    },
    /// The stream has as many subscribers as one pass can serve.
    #[error("the stream has {limit} subscribers already, the most that one pass can serve")]
    StreamFull {
        /// Of the engine that refuses, not of the whole server.
        limit: usize,
    },
    /// The engine does not know the session's SRTP profile.
    #[error("the peer knows only {profile}, which the kernel engine does not: set `media.engine` to \"auto\"")]
    Profile {
        /// IANA name.
        profile: &'static str,
    },
    /// The peer cannot be reached by an interface of this engine.
    #[error("{peer} cannot be served: {reason}")]
    Unreachable {
        /// Where its media would go.
        peer: SocketAddr,
        /// For people.
        reason: String,
    },
    /// Another session's packets with this SSRC come from this address.
    #[error("{peer} sends SSRC {ssrc} in another session")]
    Taken {
        /// Where those packets come from.
        peer: SocketAddr,
        /// Theirs.
        ssrc: u32,
    },
    /// The handle names nothing.
    #[error("no such {0}")]
    Unknown(&'static str),
    /// The engine serves peers only, no sources of our own.
    #[error("this engine takes no sources: set `media.engine` to \"auto\"")]
    NoSources,
    /// The kernel refused.
    #[error("{what}: {source}")]
    Kernel {
        /// What was tried, in words.
        what: &'static str,
        /// The system call's error.
        source: std::io::Error,
    },
}

/// What the metrics show of one engine.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Figures {
    /// `kernel` or `userspace`.
    pub engine: &'static str,
    /// By name, since the start; some (memory, rings) are levels and may fall.
    pub counters: BTreeMap<&'static str, u64>,
    /// Of the kernel engine, while somebody has the kernel's BPF statistics on.
    pub programs: Vec<ProgramFigures>,
}

/// What a BPF program has cost.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ProgramFigures {
    /// As in the object, e.g. `penstock_egress`.
    pub name: String,
    /// Counted while statistics are on; a program without a run is not listed.
    pub runs: u64,
    /// Time in the program, all CPUs together.
    pub run_time_ns: u64,
}

/// Receives [`Event`]s.
pub type Events = tokio::sync::mpsc::UnboundedSender<Event>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_is_kept_unless_an_index_would_come_twice() {
        let track = |next_out, index_offset| NewSubscriberTrack {
            ssrc: 1,
            kind: Kind::Video,
            payload_type: 96,
            next_out: ExtendedSeq(next_out),
            index_offset,
            timestamp_offset: 0,
            dscp: Dscp::default(),
        };
        // It was sent until 1,099 from 99, and 100 to 119 are lost.
        assert_eq!(track(1100, Some(1000)).offset_from(120), 1000);
        assert_eq!(track(1100, None).offset_from(120), 980);
        assert_eq!(track(1100, Some(1000)).offset_from(100), 1000);
        // Below what was used, and too far above it.
        assert_eq!(track(1100, Some(979)).offset_from(120), 980);
        assert_eq!(track(1100, Some(50_000)).offset_from(120), 980);
        // Outgoing indices below the incoming ones.
        assert_eq!(track(10, Some(0_u64.wrapping_sub(90))).offset_from(105), 0_u64.wrapping_sub(90));
    }
}
