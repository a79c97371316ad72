//! The contract between the control plane and whatever moves the media.
//!
//! The control plane owns HTTP, SDP, ICE, DTLS and RTCP. An engine owns the SRTP media of the
//! sessions that it is given: for each (session key, SSRC) it is the only sealer, and outgoing
//! indices follow from incoming ones by the fixed offset that the control plane sets.

pub mod auto;
pub mod cipher;
mod elsewhere;
pub mod io;
pub mod kernel;
#[cfg(target_arch = "x86_64")]
mod polyval;
pub(crate) mod prefetch;
pub mod route;
mod slots;
pub mod tier;
pub mod transmit;
pub mod userspace;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use forwarder_common::ExtendedSeq;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// SRTP protection profile (RFC 5764 §4.1.2, RFC 7714 §14.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum Profile {
    #[serde(rename = "AEAD_AES_128_GCM")]
    AeadAes128Gcm,
    #[serde(rename = "AEAD_AES_256_GCM")]
    AeadAes256Gcm,
    /// What OBS and GStreamer offer. Served by the userspace engine alone.
    #[serde(rename = "AES_CM_128_HMAC_SHA1_80")]
    AesCm128HmacSha1_80,
}

impl Profile {
    /// Session key length in bytes.
    pub const fn key_len(self) -> usize {
        match self {
            Profile::AeadAes128Gcm | Profile::AesCm128HmacSha1_80 => 16,
            Profile::AeadAes256Gcm => 32,
        }
    }

    /// Session salt length in bytes.
    pub const fn salt_len(self) -> usize {
        match self {
            Profile::AeadAes128Gcm | Profile::AeadAes256Gcm => 12,
            Profile::AesCm128HmacSha1_80 => 14,
        }
    }

    /// Length of the session authentication key in bytes; the AEAD profiles have none.
    pub const fn auth_key_len(self) -> usize {
        match self {
            Profile::AeadAes128Gcm | Profile::AeadAes256Gcm => 0,
            Profile::AesCm128HmacSha1_80 => 20,
        }
    }

    /// Bytes that SRTP adds to an RTP packet: the tag.
    pub const fn tag_len(self) -> usize {
        match self {
            Profile::AeadAes128Gcm | Profile::AeadAes256Gcm => 16,
            Profile::AesCm128HmacSha1_80 => 10,
        }
    }

    /// IANA name.
    pub const fn name(self) -> &'static str {
        match self {
            Profile::AeadAes128Gcm => "AEAD_AES_128_GCM",
            Profile::AeadAes256Gcm => "AEAD_AES_256_GCM",
            Profile::AesCm128HmacSha1_80 => "AES_CM_128_HMAC_SHA1_80",
        }
    }

    /// IANA number.
    pub const fn number(self) -> u8 {
        match self {
            Profile::AeadAes128Gcm => 7,
            Profile::AeadAes256Gcm => 8,
            Profile::AesCm128HmacSha1_80 => 1,
        }
    }
}

/// SRTP session key and salt of one direction (RFC 3711 §4.3). Zeroed on drop, never printed.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct MediaKey {
    #[zeroize(skip)]
    pub profile: Profile,
    /// `profile.key_len()` bytes.
    pub key: Vec<u8>,
    /// `profile.salt_len()` bytes count, the rest is 0.
    pub salt: [u8; 14],
    /// `profile.auth_key_len()` bytes.
    pub auth_key: Vec<u8>,
}

impl MediaKey {
    /// The salt of an AEAD profile (RFC 7714 §8.1).
    pub fn gcm_salt(&self) -> [u8; 12] {
        std::array::from_fn(|i| self.salt[i])
    }
}

impl std::fmt::Debug for MediaKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MediaKey({}, redacted)", self.profile.name())
    }
}

/// Where a session's packets come from or go to, as the peer and we see it on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Transport {
    pub local: SocketAddr,
    pub peer: SocketAddr,
}

/// Which way the media of a session flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sends to us (WHIP). The engine needs the key that opens.
    Publisher,
    /// Receives from us (WHEP). The engine needs the key that seals.
    Subscriber,
}

/// Audio or video.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Audio,
    Video,
}

/// A session with keys.
#[derive(Clone, Debug)]
pub struct NewSession {
    /// First part of the id in the HTTP location, enough to tell sessions apart but not to end one.
    /// For the inspection commands.
    pub id: String,
    /// Stream name. For the inspection commands.
    pub stream: String,
    pub role: Role,
    pub key: MediaKey,
    pub transport: Transport,
    /// It plays what a source of ours sends ([`Engine::add_source`]), as far as can be known now: an engine
    /// that takes no sources need not prepare for it.
    pub of_source: bool,
}

/// An incoming SSRC that userspace has learnt from an authenticated packet.
#[derive(Clone, Copy, Debug)]
pub struct NewPublisherTrack {
    pub ssrc: u32,
    pub kind: Kind,
    /// The one payload type that is forwarded.
    pub payload_type: u8,
    /// RTP clock in Hz.
    pub clock_rate: u32,
    /// Index of the packet from which the SSRC was learnt; it and all before it are not forwarded.
    pub first: ExtendedSeq,
}

/// An outgoing SSRC.
#[derive(Clone, Copy, Debug)]
pub struct NewSubscriberTrack {
    pub ssrc: u32,
    pub kind: Kind,
    pub payload_type: u8,
    /// Outgoing index of the first packet: of the one after the publisher's currently highest, or of the
    /// first that the engine has kept for new subscribers. Must be above every index that this SSRC has
    /// used: the engine turns it into the fixed offset.
    pub next_out: ExtendedSeq,
    /// Added (wrapping) to the RTP timestamp.
    pub timestamp_offset: u32,
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
    pub octets: u64,
    /// RTP clock units (RFC 3550 §6.4.1).
    pub jitter: u32,
    /// Packets refused because of a wrong tag.
    pub auth_failed: u64,
    /// RTP timestamp of the last packet and its arrival, ns of CLOCK_BOOTTIME; 0 if none yet.
    pub last_timestamp: u32,
    pub last_arrival_ns: u64,
}

/// Counters of an outgoing SSRC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriberStats {
    /// Copies handed to the network, and their payload bytes.
    pub packets: u64,
    pub octets: u64,
    /// Outgoing RTP timestamp of the last copy and when it left, ns of CLOCK_BOOTTIME; 0 if none.
    pub last_timestamp: u32,
    pub last_sent_ns: u64,
}

/// What an engine reports by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// `remove_publisher_track` is complete: nothing of it is in flight any more.
    PublisherTrackStopped { track: PublisherTrackId },
    /// `remove_subscriber_track` is complete, or its publisher track stopped. No copy will follow.
    /// `next_out` is above every outgoing index that was used: the SSRC may go on from there.
    SubscriberTrackStopped { track: SubscriberTrackId, next_out: ExtendedSeq },
    /// A subscriber was attached: packets flow from now on, so ask for a keyframe.
    SubscriberTrackStarted { track: SubscriberTrackId },
    /// The engine could not do what it had promised; the track is gone.
    SubscriberTrackFailed { track: SubscriberTrackId },
}

/// Why an engine refuses.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A table of the configuration is full.
    #[error("{table} is full ({limit} entries): raise `limits.{key}` in the configuration")]
    Full { table: &'static str, limit: usize, key: &'static str },
    /// The stream has as many subscribers as one pass can serve.
    #[error("the stream has {limit} subscribers already, the most that one pass can serve")]
    StreamFull { limit: usize },
    /// The engine does not know the session's SRTP profile.
    #[error("the peer knows only {profile}, which the kernel engine does not: set `media.engine` to \"auto\"")]
    Profile { profile: &'static str },
    /// The peer cannot be reached by an interface of this engine.
    #[error("{peer} cannot be served: {reason}")]
    Unreachable { peer: SocketAddr, reason: String },
    /// The handle names nothing.
    #[error("no such {0}")]
    Unknown(&'static str),
    /// The engine serves peers only, no sources of our own.
    #[error("this engine takes no sources: set `media.engine` to \"auto\"")]
    NoSources,
    /// The kernel refused.
    #[error("{what}: {source}")]
    Kernel { what: &'static str, source: std::io::Error },
}

/// Moves the media of the sessions that it is given.
///
/// Calls return at once: what needs a grace period of the kernel is completed by a thread of the
/// engine and reported by [`Event`], in the order of the calls of one track.
pub trait Engine: Send + Sync {
    /// One line for people: engine, mode and interfaces, e.g. `kernel native on eth0`.
    fn describe(&self) -> String;

    /// Same for one session, e.g. `kernel native` (design: each session shows what carries it).
    fn describe_session(&self, session: SessionId) -> String;

    /// What carries the media wherever it can. `None`: an engine that is part of another.
    fn tier(&self) -> Option<tier::Tier> {
        None
    }

    /// Installs the key and the addresses of a session, with a fresh lease.
    ///
    /// # Errors
    /// [`EngineError::Full`], [`EngineError::Unreachable`], [`EngineError::Kernel`].
    fn add_session(&self, session: NewSession) -> Result<SessionId, EngineError>;

    /// The peer's or our address changed (ICE nomination, restart). Keys, SSRCs, indices stay.
    ///
    /// # Errors
    /// As [`add_session`](Self::add_session), and [`EngineError::Unknown`].
    fn move_session(&self, session: SessionId, transport: Transport) -> Result<(), EngineError>;

    /// Consent is fresh: the session may send and be received for 30 more seconds (RFC 7675).
    /// Also the moment at which the engine checks that its route to the peer still holds.
    fn refresh_session(&self, session: SessionId);

    /// Stops the session's media at once, removes its tracks and wipes its key.
    fn remove_session(&self, session: SessionId);

    /// Starts opening an incoming SSRC.
    ///
    /// # Errors
    /// [`EngineError::Full`], [`EngineError::Unknown`], [`EngineError::Kernel`].
    fn add_publisher_track(
        &self,
        session: SessionId,
        track: NewPublisherTrack,
    ) -> Result<PublisherTrackId, EngineError>;

    /// Stops opening it. Its subscribers stop too, each with its own event.
    fn remove_publisher_track(&self, track: PublisherTrackId);

    /// Attaches an outgoing SSRC of `session` to an incoming one.
    ///
    /// # Errors
    /// [`EngineError::Full`], [`EngineError::StreamFull`], [`EngineError::Unknown`], [`EngineError::Kernel`].
    fn add_subscriber_track(
        &self,
        session: SessionId,
        from: PublisherTrackId,
        track: NewSubscriberTrack,
    ) -> Result<SubscriberTrackId, EngineError>;

    /// Stops it.
    fn remove_subscriber_track(&self, track: SubscriberTrackId);

    /// Reads counters; `None` for an unknown handle.
    fn publisher_stats(&self, track: PublisherTrackId) -> Option<PublisherStats>;

    /// Reads counters; `None` for an unknown handle.
    fn subscriber_stats(&self, track: SubscriberTrackId) -> Option<SubscriberStats>;

    /// What a source's track keeps for new subscribers; `None` if nothing.
    fn kept_stats(&self, _track: PublisherTrackId) -> Option<userspace::KeptStats> {
        None
    }

    /// The packet that a subscriber's track has sent under this sequence number, byte for byte as it was sent.
    /// `None`: none was, or it is not kept any more.
    fn seal_again(&self, _track: SubscriberTrackId, _seq: u16) -> Option<Vec<u8>> {
        None
    }

    /// The media sockets are bound. An engine that sends by itself keeps them.
    fn set_sockets(&self, _sockets: &Arc<io::MediaSockets>) {}

    /// What the engine does with the RTP that a thread of the sockets reads. `None`: nothing.
    fn worker(&self) -> Option<Box<dyn io::Worker>> {
        None
    }

    /// A publisher track whose packets come by [`feeder`](Self::feeder), in the clear.
    ///
    /// # Errors
    /// [`EngineError::Full`], [`EngineError::NoSources`].
    fn add_source(&self, _source: userspace::NewSource) -> Result<PublisherTrackId, EngineError> {
        Err(EngineError::NoSources)
    }

    /// The way in for a thread that has packets of sources. `None`: the engine takes none, or has no
    /// sockets yet.
    fn feeder(&self) -> Option<userspace::Feeder> {
        None
    }

    /// Global counters by name.
    fn counters(&self) -> Vec<(&'static str, u64)>;

    /// What the metrics show of each engine in use, apart where there are two.
    fn figures(&self) -> Vec<Figures> {
        Vec::new()
    }
}

/// What the metrics show of one engine.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Figures {
    /// `kernel` or `userspace`.
    pub engine: &'static str,
    pub counters: BTreeMap<&'static str, u64>,
    /// Of the kernel engine, while somebody has the kernel's BPF statistics on.
    pub programs: Vec<ProgramFigures>,
}

/// What a BPF program has cost.
#[derive(Clone, Debug, serde::Serialize)]
pub struct ProgramFigures {
    pub name: String,
    pub runs: u64,
    /// Time in the program, all CPUs together.
    pub run_time_ns: u64,
}

/// Receives [`Event`]s.
pub type Events = tokio::sync::mpsc::UnboundedSender<Event>;
