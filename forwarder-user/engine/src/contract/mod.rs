//! The contract between the control plane and whatever moves the media.
//!
//! The control plane owns HTTP, SDP, ICE, DTLS and RTCP. An engine owns the SRTP media of the
//! sessions that it is given: for each (session key, SSRC) it is the only sealer, and outgoing
//! indices follow from incoming ones by the fixed offset that the control plane sets.

mod listen;
mod repair;
mod sources;
mod types;

use std::sync::Arc;

use forwarder_common::ExtendedSeq;

pub use self::{
    listen::{Ear, Heard},
    repair::{Received, RtxSource, Unrepaired},
    sources::{Feeder, Keep, KeptStats, NewSource, Sources},
    types::*,
};
use crate::{
    io::{MediaSockets, Worker},
    tier::Tier,
};

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
    fn tier(&self) -> Option<Tier> {
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
    /// As [`add_session`](Self::add_session), [`EngineError::Taken`] and [`EngineError::Unknown`]; where it cannot
    /// move, everything stays as it was.
    fn move_session(&self, session: SessionId, transport: Transport) -> Result<(), EngineError>;

    /// Consent is fresh: the session may send and be received for 30 more seconds (RFC 7675).
    /// Also the moment at which the engine checks that its route to the peer still holds.
    fn refresh_session(&self, session: SessionId);

    /// The session's right to be here ends at `at_ns`, in ns of CLOCK_BOOTTIME: its media stops then, whether or not this
    /// process runs at that moment, however fresh its consent is. Counts until it is called again.
    fn end_session_at(&self, session: SessionId, at_ns: u64);

    /// Stops the session's media at once, removes its tracks and wipes its key.
    fn remove_session(&self, session: SessionId);

    /// Starts opening an incoming SSRC.
    ///
    /// # Errors
    /// [`EngineError::Full`], [`EngineError::Taken`], [`EngineError::Unknown`], [`EngineError::Kernel`].
    fn add_publisher_track(
        &self,
        session: SessionId,
        track: NewPublisherTrack,
    ) -> Result<PublisherTrackId, EngineError>;

    /// Starts opening an SSRC of repairs. Each packet in it takes the way of the packet that it repairs: it claims that
    /// one's index in the one replay list of its track, so of a late original and its repair one is forwarded, whichever
    /// comes first. Ends by [`remove_publisher_track`](Self::remove_publisher_track).
    ///
    /// # Errors
    /// As [`add_publisher_track`](Self::add_publisher_track); also where room is left for media alone.
    fn add_repair_track(&self, _session: SessionId, _track: NewRepairTrack) -> Result<PublisherTrackId, EngineError> {
        Err(EngineError::Unknown("repair"))
    }

    /// Are there SSRCs of repairs ([`add_repair_track`](Self::add_repair_track))?
    fn takes_repairs(&self) -> bool {
        false
    }

    /// The track's packets come up to the control task although the engine has it: if nothing leads to it any more,
    /// that is mended. Whether it was.
    fn restore_publisher_track(&self, _track: PublisherTrackId) -> bool {
        false
    }

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

    /// Has a packet of this track with this index been accepted, or is it too old to tell? `true` of an unknown track.
    fn has_accepted(&self, _track: PublisherTrackId, _index: ExtendedSeq) -> bool {
        true
    }

    /// Packets of this publisher come up to the sockets that should not: tracks that are added to the session from now
    /// on are opened there. `false`: the engine has nobody for that. `why` is for people.
    fn divert(&self, _session: SessionId, _why: &str) -> bool {
        false
    }

    /// Is there another way for a track whose way is lost?
    fn has_other_ways(&self) -> bool {
        false
    }

    /// Asked now and then: `true` once when a session's tracks should be taken out and added anew, since they may go the
    /// better way again. Of a publisher after [`divert`](Self::divert), when packets have come as they should for long
    /// enough; of a viewer after [`Event::SubscriberTrackLost`].
    fn is_back(&self, _session: SessionId) -> bool {
        false
    }

    /// The packet that a subscriber's track has sent under this sequence number, for a viewer that lost it: by the
    /// source for repairs where there is one, else byte for byte as it was sent.
    ///
    /// # Errors
    /// [`Unrepaired`].
    fn repair(
        &self,
        _track: SubscriberTrackId,
        _seq: u16,
        _rtx: Option<&mut RtxSource>,
    ) -> Result<Vec<u8>, Unrepaired> {
        Err(Unrepaired::NeverSent)
    }

    /// How often a packet of any incoming SSRC came before others of lower index. Cheap to ask; who wants to know which
    /// are missing asks [`received`](Self::received) when this has grown.
    fn gaps(&self) -> u64 {
        0
    }

    /// Which packets of an incoming SSRC have come, from the index `from` on. `None` for an unknown handle.
    fn received(&self, _track: PublisherTrackId, _from: u64) -> Option<Received> {
        None
    }

    /// Which packets of an incoming SSRC have come since this was asked last, those that went to nobody included: their
    /// numbers by [`NewPublisherTrack::sequence_extension`], and when, ns of CLOCK_BOOTTIME. In no order.
    fn arrivals(&self, _track: PublisherTrackId, _each: &mut dyn FnMut(u16, u64)) {}

    /// The media sockets are bound. An engine that sends by itself keeps them.
    fn set_sockets(&self, _sockets: &Arc<MediaSockets>) {}

    /// What the engine does with the RTP that a thread of the sockets reads. `None`: nothing.
    fn worker(&self) -> Option<Box<dyn Worker>> {
        None
    }

    /// What it does for sources. `None`: it serves peers only.
    fn sources(&self) -> Option<&dyn Sources> {
        None
    }

    /// Begins to tell a track's packets to a consumer in this process: first what is kept for new subscribers, then what
    /// comes. It ends with the consumer or with the track.
    ///
    /// # Errors
    /// [`EngineError::Unknown`], [`EngineError::Full`], [`EngineError::Kernel`].
    fn listen(&self, _from: PublisherTrackId, _ear: Ear) -> Result<(), EngineError> {
        Err(EngineError::Unknown("publisher track"))
    }

    /// Consumers of this track may have gone: nothing is kept up for those that have.
    fn forget_listeners(&self, _from: PublisherTrackId) {}

    /// Global counters by name.
    fn counters(&self) -> Vec<(&'static str, u64)>;

    /// What the metrics show of each engine in use, apart where there are two.
    fn figures(&self) -> Vec<Figures> {
        Vec::new()
    }
}
