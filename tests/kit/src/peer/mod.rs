//! WebRTC peers with a protocol stack, keys and SRTP of their own (str0m): to the server under test
//! they are strangers on the wire.
//!
//! A [`Publisher`] sends a [`Source`] by WHIP; [`Viewers`] are any number of WHEP sessions on one
//! thread, each with its own sockets, that compare every packet with what the source must have sent.
//! Signalling calls block their caller; media runs in the background until `stop` or drop.

mod agent;
mod group;
pub(crate) mod ice;
mod profile;
mod publisher;
mod source;
mod verify;
mod viewers;
mod wire;

use std::net::IpAddr;
use std::time::Duration;

pub use profile::Offer;
pub use publisher::Publisher;
pub(crate) use source::{Outgoing, Track};
pub use source::{Source, Synthetic};
pub use str0m::crypto::dtls::SrtpProfile;
pub use str0m::format::Codec;
pub use viewers::Viewers;

/// Audio or video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Audio,
    Video,
}

/// How a peer presents itself.
#[derive(Clone, Debug)]
pub struct Options {
    /// Network namespace of its sockets and its HTTP, as `ip netns` names it.
    pub namespace: Option<String>,
    /// Local addresses, each a host candidate with its own socket. Empty: the one by which the
    /// server's HTTP address is reached.
    pub addresses: Vec<IpAddr>,
    /// SRTP profiles in its ClientHello.
    pub profiles: Offer,
    /// Codecs of the video section, in order; empty for no such section.
    pub video: Vec<Codec>,
    /// Codecs of the audio section, in order; empty for no such section.
    pub audio: Vec<Codec>,
    /// Candidates follow the offer by PATCH instead of being in it.
    pub trickle: bool,
    /// Bearer token.
    pub token: Option<String>,
    /// For servers of another make: the answer may lack what RFC 9725 demands but media does not need. Such a session
    /// cannot be deleted or changed.
    pub lenient: bool,
    /// Viewers: media that goes astray on the way.
    pub loses: Option<Loss>,
}

/// Every so many RTP packets one, until so many are lost.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    pub every: u64,
    pub in_all: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namespace: None,
            addresses: Vec::new(),
            profiles: Offer::All,
            video: vec![Codec::Vp8],
            audio: vec![Codec::Opus],
            trickle: false,
            token: None,
            lenient: false,
            loses: None,
        }
    }
}

impl Options {
    /// The defaults in a namespace: VP8 and Opus, every profile, one address.
    pub fn within(namespace: &str) -> Self {
        Self { namespace: Some(namespace.into()), ..Self::default() }
    }
}

/// What a peer has seen so far. Durations count from the moment before its POST.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// ICE and DTLS were up.
    pub connected: Option<Duration>,
    /// The first packet was decrypted (viewers).
    pub first_packet: Option<Duration>,
    /// The first video frame, or packet of a synthetic video track, was found right (viewers).
    pub first_video: Option<Duration>,
    /// The server closed DTLS (close_notify).
    pub closed: Option<Duration>,
    /// ICE lost its way to the server, or the peer failed otherwise: why.
    pub failed: Option<String>,
    /// SRTP profile that DTLS chose.
    pub profile: Option<SrtpProfile>,
    pub video: MediaStats,
    pub audio: MediaStats,
}

impl Stats {
    /// Of one kind.
    pub fn media(&self, kind: Kind) -> &MediaStats {
        match kind {
            Kind::Audio => &self.audio,
            Kind::Video => &self.video,
        }
    }

    fn media_mut(&mut self, kind: Kind) -> &mut MediaStats {
        match kind {
            Kind::Audio => &mut self.audio,
            Kind::Video => &mut self.video,
        }
    }
}

/// Counters of one media section.
#[derive(Clone, Debug, Default)]
pub struct MediaStats {
    /// SSRC of the media, as the SDP announced it or as it is sent.
    pub ssrc: u32,
    /// Payload type of the media.
    pub payload_type: u8,
    /// Sent, or received on the wire before any decryption, duplicates included.
    pub packets: u64,
    /// Payload bytes of what was sent, or decrypted.
    pub bytes: u64,
    /// Received and decrypted (viewers).
    pub decrypted: u64,
    /// The first of these.
    pub first_payload: Vec<u8>,
    /// Lost by [`Options::loses`], of whatever kind (viewers, with the video).
    pub gone_astray: u64,
    /// Sequence numbers that never came, between the first and the highest one (viewers).
    pub lost: u64,
    /// Came twice (viewers).
    pub duplicates: u64,
    /// Came after a higher one (viewers).
    pub reordered: u64,
    /// Frames of the clip, or synthetic packets, that were exactly right (viewers).
    pub verified: u64,
    /// Those that were not: never with a working server (viewers).
    pub mismatches: u64,
    /// Frames of which a packet is missing (viewers).
    pub incomplete: u64,
    /// Right, but not the one after the one before: a key frame jump, a loss, a new publisher (viewers).
    pub jumps: u64,
    /// Keyframe requests that reached the publisher, or were sent by the viewer's caller.
    pub keyframe_requests: u64,
    /// Sender reports that arrived (viewers), and the last one.
    pub sender_reports: u64,
    pub last_sender_report: Option<SenderReport>,
    /// Report blocks that arrived (publishers), and the last one.
    pub receiver_reports: u64,
    pub last_receiver_report: Option<ReceiverReport>,
    /// Bit rate limits that arrived (publishers), and the last one in bits per second.
    pub rembs: u64,
    pub last_remb: Option<u64>,
}

/// Sender's part of an RTCP SR (RFC 3550 §6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderReport {
    pub ssrc: u32,
    pub packets: u32,
    pub octets: u32,
    /// What the peer had received itself when the report came.
    pub received_packets: u64,
    pub received_octets: u64,
}

/// Report block of an RTCP RR (RFC 3550 §6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiverReport {
    pub ssrc: u32,
    pub fraction_lost: u8,
    /// 24 bit, signed in the RFC.
    pub packets_lost: u32,
    pub highest_sequence: u32,
    pub jitter: u32,
    /// Middle 32 bits of the NTP time of the last SR that the server had from us; 0 if none.
    pub last_sender_report: u32,
}
