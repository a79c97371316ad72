//! What the control task keeps of one session.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use forwarder_common::ExtendedSeq;
use str0m::ice::TransId;

use super::allowance::Allowance;
use super::budget::{Budget, Unknown};
use super::ids::Key;
use super::keyframe::Keyframes;
use super::report::{ReceptionHistory, SenderClock, ViewerReport};
use super::resend::Resend;
use super::strays::Strays;
use super::task::arrivals::Reports;
use super::task::silence::Silence;
use crate::rights::Grant;
use penstock_engine::block::Block;
use penstock_engine::{
    Kind, Profile, PublisherStats, PublisherTrackId, Role, SessionId, SubscriberStats, SubscriberTrackId,
};
use penstock_media::codec::Format;
use penstock_rtp::picture::Size;
use penstock_srtp::srtcp::{RtcpOpener, RtcpSealer, RtpOpener};
use penstock_webrtc::estimate::{Arrived, Estimate};
use penstock_webrtc::gaps::Gaps;
use penstock_webrtc::layers::Choice;
use penstock_webrtc::peer::{Pair, Peer};
use penstock_webrtc::sdp::{self, Sent};

/// One WHIP or WHEP session.
pub(super) struct Session {
    /// Last segment of the `Location`: whoever knows it may change and end the session.
    pub(super) id: String,
    /// First part of `id`, which may be shown.
    pub(super) name: String,
    pub(super) role: Role,
    pub(super) stream: String,
    /// Whose share of the half-open sessions it takes until it is connected.
    pub(super) from: Block,
    /// By what right it is here.
    pub(super) grant: Grant,
    pub(super) peer: Peer,
    /// Entity tag of the ICE session.
    pub(super) etag: String,
    /// Our ICE username fragment, as the index has it.
    pub(super) ufrag: String,
    /// Address pairs that the index has.
    pub(super) pairs: Vec<Pair>,
    /// SSRCs under which its peer sends, as the index has them.
    pub(super) ssrcs: Vec<u32>,
    /// The id of the STUN request whose answer it awaits, as the index has it.
    pub(super) request: Option<TransId>,
    pub(super) created: Instant,
    /// How long this process stood still since then.
    pub(super) stood_still: Duration,
    /// When ICE or DTLS want to be called.
    pub(super) peer_deadline: Instant,
    /// When the timers have the session.
    pub(super) armed: Option<Instant>,
    pub(super) tracks: Tracks,
    pub(super) silence: Silence,
    /// Keys and reports, once connected.
    pub(super) media: Option<Media>,
    /// CNAME of our RTCP in this session, and name of the media stream.
    pub(super) cname: String,
    /// What a viewer cannot have of its stream, and what it can do about it.
    pub(super) without: Option<String>,
}

/// Tracks by role, as negotiated.
pub(super) enum Tracks {
    Publisher(Vec<PublisherTrack>),
    Viewer(Vec<ViewerTrack>),
}

impl Session {
    /// Its peer has sent an ICE check.
    pub(super) fn has_begun(&self) -> bool {
        self.peer.consent().is_some()
    }

    /// When it has been there for so long, without the time in which this process stood still.
    pub(super) fn connect_within(&self, life: Duration) -> Instant {
        self.created + self.stood_still + life
    }

    pub(super) fn publisher_tracks(&self) -> &[PublisherTrack] {
        match &self.tracks {
            Tracks::Publisher(tracks) => tracks,
            Tracks::Viewer(_) => &[],
        }
    }

    pub(super) fn publisher_tracks_mut(&mut self) -> &mut [PublisherTrack] {
        match &mut self.tracks {
            Tracks::Publisher(tracks) => tracks,
            Tracks::Viewer(_) => &mut [],
        }
    }

    pub(super) fn viewer_tracks(&self) -> &[ViewerTrack] {
        match &self.tracks {
            Tracks::Viewer(tracks) => tracks,
            Tracks::Publisher(_) => &[],
        }
    }

    pub(super) fn viewer_tracks_mut(&mut self) -> &mut [ViewerTrack] {
        match &mut self.tracks {
            Tracks::Viewer(tracks) => tracks,
            Tracks::Publisher(_) => &mut [],
        }
    }
}

/// What a connected session has.
pub(super) struct Media {
    pub(super) engine: SessionId,
    pub(super) profile: Profile,
    /// Where media goes and comes from, as the engine knows it.
    pub(super) pair: Pair,
    /// Of a publisher: authenticates RTP of an SSRC that the engine does not know yet.
    pub(super) rtp: Option<RtpOpener>,
    pub(super) opener: RtcpOpener,
    pub(super) sealer: RtcpSealer,
    /// SSRC of our own reports.
    pub(super) ssrc: u32,
    /// When its keys were there.
    pub(super) connected: Instant,
    /// When the engine's lease was renewed.
    pub(super) refreshed: Instant,
    pub(super) next_report: Instant,
    pub(super) next_remb: Instant,
    /// What the publisher may send.
    pub(super) estimate: Estimate,
    /// What of it is passed on.
    pub(super) allowance: Allowance,
    /// Packets from unknown addresses that are authenticated.
    pub(super) strays: Budget,
    /// Of a publisher that is told which packets of its transport have come.
    pub(super) transport: Option<Reports>,
    /// Which RTP of unknown SSRCs is authenticated.
    pub(super) unknown: Unknown,
    /// Packets of layers of which no keyframe has been seen that are looked into.
    pub(super) unseen: Budget,
    /// Of a publisher with layers: which one goes to the viewers, and when that is looked at again.
    pub(super) choice: Choice,
    pub(super) next_layers: Option<Instant>,
    /// The publisher's wall clock against ours, from its first SR.
    pub(super) clock: Option<SenderClock>,
    /// Of a viewer: the last reference time that it sent, its SSRC, and when it came.
    pub(super) reference: Option<(u32, u32, Instant)>,
    /// SSRCs that the publisher used before: they may come back.
    pub(super) former: HashMap<u32, Former>,
    /// SSRCs that are not forwarded, since another one of the same track is: how far they are.
    pub(super) heard: HashMap<u32, ExtendedSeq>,
    /// Packets of unknown SSRCs for which every ROC is tried.
    pub(super) searches: Budget,
}

/// An SSRC that was taken out of the engine.
pub(super) struct Former {
    /// Place of its track in the session.
    pub(super) track: usize,
    /// The track that it had.
    pub(super) id: PublisherTrackId,
    /// The highest index that is known to have been accepted of it.
    pub(super) highest: ExtendedSeq,
    /// The engine has no packet of it in flight any more, so `highest` is final.
    pub(super) stopped: bool,
}

/// A kind of media that a publisher sends.
pub(super) struct PublisherTrack {
    pub(super) format: Format,
    /// In which it may be sent as well: its first packets tell.
    pub(super) others: Vec<Format>,
    pub(super) source: Option<Source>,
    pub(super) keyframes: Keyframes,
    /// It sends again what is missing, if it is asked.
    pub(super) nack: bool,
    /// It comes from a camera, whose profiles no browser offers although it plays them.
    pub(super) any_profile: bool,
    /// By which it sends again what it is asked for, instead of on the SSRC of the media.
    pub(super) rtx: Option<Rtx>,
    /// Number of the header extension by which it counts all packets of its transport, if it takes feedback on them.
    pub(super) sequence: Option<u8>,
    /// It is one of several layers of a picture.
    pub(super) layer: Option<Layer>,
}

/// How a track's repairs are known (RFC 4588).
#[derive(Clone, Copy, Debug)]
pub(super) struct Rtx {
    pub(super) payload_type: u8,
    /// Number of the header extension that names the layer that is repaired.
    pub(super) extension: Option<u8>,
}

/// One of several layers of a picture (simulcast). Each is a track; one goes to the viewers.
pub(super) struct Layer {
    /// As packets name it.
    pub(super) name: String,
    /// Number of the header extension by which they do.
    pub(super) extension: u8,
    /// By its last keyframe that came up to us.
    pub(super) size: Option<Size>,
    /// Its SSRC, and since when, while no keyframe has been seen: its packets come up until one has.
    pub(super) unseen: Option<(u32, Instant)>,
    pub(super) is_forwarded: bool,
}

impl PublisherTrack {
    pub(super) fn kind(&self) -> Kind {
        self.format.codec.kind()
    }

    /// Does it go to the viewers?
    pub(super) fn is_forwarded(&self) -> bool {
        self.layer.as_ref().is_none_or(|layer| layer.is_forwarded)
    }

    /// The SSRC under which it comes, be it one of which the engine knows nothing yet.
    pub(super) fn ssrc(&self) -> Option<u32> {
        let unseen = self.layer.as_ref().and_then(|layer| layer.unseen);
        self.source.as_ref().map(|source| source.ssrc).or(unseen.map(|(ssrc, _)| ssrc))
    }

    /// Asks for a keyframe, with the next report.
    pub(super) fn want_keyframe(&mut self) {
        if self.kind() == Kind::Video && self.source.is_some() {
            self.keyframes.want();
        }
    }

    /// Was this payload type negotiated for it?
    pub(super) fn accepts(&self, payload_type: u8) -> bool {
        std::iter::once(&self.format).chain(&self.others).any(|format| format.payload_type == payload_type)
    }

    /// It comes with this payload type. `true`: that is another format than before.
    pub(super) fn adopt(&mut self, payload_type: u8) -> bool {
        let other = self.others.iter_mut().find(|other| other.payload_type == payload_type);
        let other = other.filter(|_| self.format.payload_type != payload_type);
        other.map(|other| std::mem::swap(other, &mut self.format)).is_some()
    }

    /// What viewers are to be ready for.
    pub(super) fn sent(&self) -> Sent {
        // What has come is what will come.
        let others = if self.source.is_none() { self.others.clone() } else { vec![] };
        Sent { format: self.format.clone(), others, any_profile: self.any_profile }
    }
}

/// The SSRC from which a track comes now.
pub(super) struct Source {
    pub(super) ssrc: u32,
    pub(super) id: PublisherTrackId,
    /// When the SSRC was learnt, and the RTP timestamp of that packet.
    pub(super) learnt: Instant,
    pub(super) first_timestamp: u32,
    /// The SSRC by which it is repaired, once that is known.
    pub(super) repairs: Option<(u32, PublisherTrackId)>,
    /// Packets that came up to us between that one and the engine's first. They have arrived, so
    /// reports must not call them lost.
    pub(super) passed_up: u64,
    /// What came up although the engine has the SSRC.
    pub(super) strays: Strays,
    /// Payload bytes that its publisher's allowance was charged for.
    pub(super) charged: u64,
    pub(super) reception: ReceptionHistory,
    /// What is missing, from the first look on.
    pub(super) gaps: Option<Gaps>,
    /// What came with other payload types.
    pub(super) others: Others,
}

/// Packets of an SSRC with another payload type than its track's, of which copies are empty.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// When they were looked for, and how many packets there were by then, in all and of these.
    pub(super) looked: Option<Instant>,
    pub(super) packets: u64,
    pub(super) others: u64,
    pub(super) told: bool,
}

impl Source {
    /// Adds what has arrived of it. What was missing counts although it was repaired: the line has lost it.
    pub(super) fn add_to(&self, arrived: &mut Arrived, stats: &PublisherStats) {
        let lost = (stats.highest.0 + 1).saturating_sub(stats.first.0).saturating_sub(stats.packets);
        arrived.octets += stats.octets;
        arrived.packets += stats.packets;
        arrived.missing += self.gaps.as_ref().map_or(lost, |gaps| gaps.figures().missing);
    }
}

/// A kind of media that a viewer receives.
pub(super) struct ViewerTrack {
    /// In which it is sent.
    pub(super) format: Format,
    /// In which it may be sent as well.
    pub(super) others: Vec<Format>,
    pub(super) ssrc: u32,
    /// Where the outgoing index goes on; above all that were used while nothing is attached.
    pub(super) next_out: ExtendedSeq,
    pub(super) attachment: Attachment,
    /// What fed it last: the publisher's session and SSRC, and the index offset that it had then.
    pub(super) fed_by: Option<(Key, u32)>,
    pub(super) index_offset: Option<u64>,
    pub(super) timestamp_offset: u32,
    /// Last outgoing timestamp of the former publisher and when it was sent: what a new one goes on from.
    pub(super) left_at: Option<(u32, u64)>,
    /// Copies and payload bytes of former attachments.
    pub(super) sent_before: (u64, u64),
    pub(super) report: ViewerReport,
    /// What is lost of it is sent again: its source keeps packets, and the viewer offered to ask.
    pub(super) resend: Option<Resend>,
}

impl ViewerTrack {
    pub(super) fn kind(&self) -> Kind {
        self.format.codec.kind()
    }

    /// Of its formats, the place of the one in which it plays what is sent.
    pub(super) fn place(&self, sent: &PublisherTrack) -> Option<usize> {
        let own = std::iter::once(&self.format).chain(&self.others);
        sdp::place(&sent.format, sent.any_profile, own)
    }

    /// It is sent in another of its formats from now on; its SSRCs and indices go on.
    pub(super) fn take(&mut self, place: usize) {
        let Some(other) = place.checked_sub(1).and_then(|place| self.others.get_mut(place)) else { return };
        std::mem::swap(other, &mut self.format);
        let Some(resend) = &mut self.resend else { return };
        match (&mut resend.rtx, self.format.rtx) {
            (Some(rtx), Some(payload_type)) => rtx.set_payload_type(payload_type),
            // It is never made again: its indices would begin anew under the same key.
            (rtx, None) => *rtx = None,
            (None, Some(_)) => {}
        }
    }

    /// The engine stops feeding the track: keeps what its successor goes on from.
    pub(super) fn leave(&mut self, track: SubscriberTrackId, stats: &SubscriberStats) {
        if stats.last_sent_ns != 0 {
            self.left_at = Some((stats.last_timestamp, stats.last_sent_ns));
        }
        self.sent_before.0 += stats.packets;
        self.sent_before.1 += stats.octets;
        self.attachment = Attachment::Stopping { track };
    }

    /// Offset by which the timestamps of a new source follow those of the former one as time went
    /// on: `since_first` after the source's packet with `first_timestamp`, `now_ns` after the last
    /// copy of the former one.
    pub(super) fn continued_timestamp(&self, first_timestamp: u32, since_first: Duration, now_ns: u64) -> u32 {
        let Some((last, left_ns)) = self.left_at else { return self.timestamp_offset };
        let clock_rate = u128::from(self.format.codec.clock_rate());
        let units = |ns: u128| (ns * clock_rate / 1_000_000_000) as u32;
        let source_now = first_timestamp.wrapping_add(units(since_first.as_nanos()));
        let out_now = last.wrapping_add(units(now_ns.saturating_sub(left_ns).into()).max(1));
        out_now.wrapping_sub(source_now)
    }
}

/// Whether the engine feeds a viewer's track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attachment {
    /// Nothing flows; `next_out` is right.
    Idle,
    Attached {
        track: SubscriberTrackId,
        from: PublisherTrackId,
    },
    /// Waiting for the engine to say where the index stands.
    Stopping {
        track: SubscriberTrackId,
    },
}
