//! What a source says that it sends, and its RTP made fit for browsers. Pure: packets and the time come in, packets go out.
//!
//! | file | does |
//! | --- | --- |
//! | `rtsp` | messages and frames of a connection, as the field writes them |
//! | `sdp` | lines of a description |
//! | `description` | what they say that a source sends |
//! | `sender_report` | its clock |
//! | `reorder` | puts packets of UDP in order |
//! | `sequence` | what its sequence numbers say: lost, late, begun anew |
//! | `nal`, `h264`, `h265` | access units: parameter sets, fragments, aggregates, start codes |
//! | `sps` | what a parameter set says |
//! | `vp8`, `audio` | the same for them: where frames begin, size |
//! | `aac` | access units of AAC, which is no codec of browsers |
//! | `clock` | one continuous line of timestamps |
//! | `frames` | what leaves: numbers, timestamps and markers of our own |
//! | `keyframe` | where decoding can start |
//! | `picture` | how large the picture is |
//! | here | the way of a packet |

pub mod aac;
mod audio;
mod bits;
mod clock;
pub mod description;
mod frames;
mod h264;
mod h265;
mod keyframe;
mod nal;
pub mod picture;
mod reorder;
pub mod rtsp;
mod sdp;
pub mod sender_report;
mod sequence;
mod sps;
mod vp8;

use std::time::Instant;

use forwarder_common::{ExtendedSeq, RtpHeader, maps};

pub use h264::profile_level_id;
pub use keyframe::is_key;
pub use reorder::Reorder;
pub use sps::Sps;

use clock::Hint;
use frames::{Frames, Out};
use penstock_media::codec::Codec;
use sequence::Sequence;

/// Largest payload that leaves: with SRTP and UDP over IPv6 it fits every path that browsers use.
pub const MAX_PAYLOAD: usize = 1200;

/// Why a packet did not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unfit {
    /// Not RTP, or cut off.
    Malformed,
    /// Nothing in it: a sign of life.
    Empty,
    /// Another payload type than the description says.
    PayloadType,
    /// A packetisation that nobody needs for low delay: MTAP, PACI.
    Unsupported,
    /// A duplicate, or behind what has left already.
    Late,
    /// Of a sender that another one has taken the place of.
    OtherSender,
    /// A fragment whose unit's begin is lost.
    Orphan,
    /// A part of an aggregate that is no NAL unit.
    BadUnit,
    /// Filler and the like of a frame that has left already.
    Behind,
    /// Viewers can begin at a keyframe only.
    BeforeKeyframe,
    /// Beyond what one source may send.
    TooFast,
    /// Longer than what the engine carries, of a codec that is not cut here.
    TooLong,
    /// From an address that is not the source's.
    WrongSender,
    /// SRTP that the key which was described does not open.
    AuthFailed,
    /// Sound that its decoder does not take.
    Undecodable,
    /// Sound that came faster than it was turned into another codec.
    Backlog,
}

impl Unfit {
    /// Every reason once, for a table of counters that begins with zeros.
    pub const ALL: [Unfit; 16] = [
        Unfit::Malformed,
        Unfit::Empty,
        Unfit::PayloadType,
        Unfit::Unsupported,
        Unfit::Late,
        Unfit::OtherSender,
        Unfit::Orphan,
        Unfit::BadUnit,
        Unfit::Behind,
        Unfit::BeforeKeyframe,
        Unfit::TooFast,
        Unfit::TooLong,
        Unfit::WrongSender,
        Unfit::AuthFailed,
        Unfit::Undecodable,
        Unfit::Backlog,
    ];

    /// Name of its counter.
    pub const fn name(self) -> &'static str {
        match self {
            Unfit::Malformed => "malformed_rtp",
            Unfit::Empty => "empty_payload",
            Unfit::PayloadType => "payload_type",
            Unfit::Unsupported => "unsupported_packetization",
            Unfit::Late => "late_or_duplicate",
            Unfit::OtherSender => "other_ssrc",
            Unfit::Orphan => "fragment_without_begin",
            Unfit::BadUnit => "bad_unit",
            Unfit::Behind => "behind_its_frame",
            Unfit::BeforeKeyframe => "before_keyframe",
            Unfit::TooFast => "too_fast",
            Unfit::TooLong => "too_long",
            Unfit::WrongSender => "wrong_sender",
            Unfit::AuthFailed => "srtp_auth_failed",
            Unfit::Undecodable => "undecodable_sound",
            Unfit::Backlog => "sound_backlog",
        }
    }
}

/// A packet in its turn, as far as payloads are concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Incoming<'a> {
    /// The source's.
    timestamp: u32,
    marker: bool,
    /// Without padding.
    payload: &'a [u8],
    /// Packets are missing before it.
    lost: bool,
}

impl Incoming<'_> {
    /// Where payloads are not cut.
    fn fits(&self) -> Result<(), Unfit> {
        match self.payload.len() {
            0 => Err(Unfit::Empty),
            len if len > maps::MAX_PAYLOAD => Err(Unfit::TooLong),
            _ => Ok(()),
        }
    }
}

/// What becomes of the payloads, by codec.
enum Repack {
    H264(Box<nal::Repacker<h264::H264>>),
    H265(Box<nal::Repacker<h265::H265>>),
    /// The source's timestamp of the present frame.
    Vp8(Option<u32>),
    /// Other video; the same.
    Video(Codec, Option<u32>),
    /// Sound that may be cut anywhere; length of the last packet.
    Bytewise(u32),
    /// Other sound.
    Audio,
}

/// What is known of a track's content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Frames that were begun, keyframes among them.
    pub frames: u64,
    /// Those at which decoding can start; of sound, none.
    pub keyframes: u64,
    /// A decoder has all parameter sets that it needs, or needs none.
    pub has_sets: bool,
    /// Frames that browsers do not put in order.
    pub b_frames: bool,
    /// Markers stand where no frame ends, or not where one does.
    pub wrong_markers: bool,
    /// Times that the source's clock was set.
    pub clock_jumps: u64,
    /// The source's clock does not run as the codec's should, or stands still.
    pub wrong_clock: bool,
    /// Of the last sequence parameter set that could be read.
    pub sps: Option<Sps>,
}

/// One track's way from the source to the engine.
pub struct Pipeline {
    payload_type: u8,
    sequence: Sequence,
    repack: Repack,
    frames: Frames,
    /// Packets that the source's sequence numbers show to be missing, not yet taken account of.
    lost: u64,
}

impl Pipeline {
    /// `sets`: parameter sets of the description. `last`: indices go on after it.
    pub fn new(codec: Codec, payload_type: u8, sets: &[Vec<u8>], last: ExtendedSeq, now: Instant) -> Self {
        let repack = match codec {
            Codec::H264 => Repack::H264(Box::new(nal::Repacker::new(sets))),
            Codec::H265 => Repack::H265(Box::new(nal::Repacker::new(sets))),
            Codec::Vp8 => Repack::Vp8(None),
            Codec::Vp9 | Codec::Av1 => Repack::Video(codec, None),
            Codec::Pcmu | Codec::Pcma | Codec::G722 => Repack::Bytewise(0),
            Codec::Opus => Repack::Audio,
        };
        let frames = Frames::new(codec.clock_rate(), last, now);
        Self { payload_type, sequence: Sequence::new(), repack, frames, lost: 0 }
    }

    /// The source was connected to again, and described itself anew as the same codec.
    pub fn reconnect(&mut self, payload_type: u8, sets: &[Vec<u8>]) {
        self.payload_type = payload_type;
        self.sequence.reconnect();
        self.frames.reconnect();
        match &mut self.repack {
            Repack::H264(repacker) => repacker.use_sets(sets),
            Repack::H265(repacker) => repacker.use_sets(sets),
            _ => {}
        }
    }

    /// Whether packets come as they were sent: by TCP they do, whatever their numbers say.
    pub fn set_ordered(&mut self, ordered: bool) {
        self.sequence.set_ordered(ordered);
    }

    /// Payload type of the source.
    pub fn payload_type(&self) -> u8 {
        self.payload_type
    }

    /// Timestamps go on after those of another track, whose place this one takes.
    pub fn succeed(&mut self, former: &Self) {
        self.frames.succeed(&former.frames);
    }

    /// What is known of what came.
    pub fn seen(&self) -> Seen {
        let (frames, clock) = (self.frames.count(), self.frames.clock());
        let seen = Seen {
            frames,
            keyframes: self.frames.keyframes,
            has_sets: true,
            b_frames: false,
            wrong_markers: self.frames.markers_are_wrong(),
            clock_jumps: clock.jumps(),
            wrong_clock: clock.is_wrong(),
            sps: None,
        };
        match &self.repack {
            Repack::H264(repacker) => repacker.seen(seen),
            Repack::H265(repacker) => repacker.seen(seen),
            _ => seen,
        }
    }

    /// Whether frames came that browsers do not put in order.
    pub fn b_frames(&self) -> bool {
        match &self.repack {
            Repack::H264(repacker) => repacker.b_frames(),
            Repack::H265(repacker) => repacker.b_frames(),
            _ => false,
        }
    }

    /// Packets that were missing since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// Units that were dropped since the last call although others of the same packet went on.
    pub fn take_bad(&mut self) -> u64 {
        match &mut self.repack {
            Repack::H264(repacker) => repacker.take_bad(),
            Repack::H265(repacker) => repacker.take_bad(),
            _ => 0,
        }
    }

    /// A timestamp of the source's sender report as viewers know it. `None`: of another SSRC.
    pub fn map(&self, ssrc: u32, timestamp: u32) -> Option<u32> {
        self.frames.clock().map(timestamp).filter(|_| self.sequence.is_current(ssrc))
    }

    /// Takes an RTP packet; `out` gets index, header and payload of each packet that leaves.
    ///
    /// # Errors
    /// Why nothing left.
    pub fn packet(
        &mut self,
        packet: &[u8],
        now: Instant,
        out: &mut dyn FnMut(ExtendedSeq, &RtpHeader, &[u8]),
    ) -> Result<(), Unfit> {
        let (header, payload) = parse(packet).ok_or(Unfit::Malformed)?;
        let ours = header.payload_type() == self.payload_type;
        let step = self.sequence.accept(sequence::Packet { header: &header, payload, ours }, now)?;
        self.frames.now = now;
        self.frames.other_clock |= step.other_clock;
        if step.restarted {
            self.frames.cut(out);
            match &mut self.repack {
                Repack::H264(repacker) => repacker.restart(),
                Repack::H265(repacker) => repacker.restart(),
                Repack::Vp8(timestamp) | Repack::Video(_, timestamp) => *timestamp = None,
                Repack::Bytewise(_) | Repack::Audio => {}
            }
        }
        if step.lost > 0 {
            // What is missing stays missing, so that receivers see it.
            self.lost += u64::from(step.lost);
            self.frames.lost(step.lost.into(), out);
        }
        let (timestamp, marker) = (header.timestamp(), header.marker());
        let packet = Incoming { timestamp, marker, payload, lost: step.lost > 0 };
        match &mut self.repack {
            Repack::H264(repacker) => repacker.packet(&packet, &mut self.frames, out),
            Repack::H265(repacker) => repacker.packet(&packet, &mut self.frames, out),
            Repack::Vp8(timestamp) => vp8::packet(&packet, timestamp, &mut self.frames, out),
            Repack::Video(codec, timestamp) => video(&packet, *codec, timestamp, &mut self.frames, out),
            Repack::Bytewise(former) => audio::bytewise(&packet, former, &mut self.frames, out),
            Repack::Audio => audio::whole(&packet, &mut self.frames, out),
        }
    }

    /// When [`release`](Self::release) shall be called, if nothing comes before.
    pub fn deadline(&self) -> Option<Instant> {
        self.frames.deadline()
    }

    /// What waits for its frame's end leaves, if its time has come.
    pub fn release(&mut self, now: Instant, out: &mut dyn FnMut(ExtendedSeq, &RtpHeader, &[u8])) {
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.frames.release(out);
        }
    }

    /// The connection has ended: what waits leaves.
    pub fn end(&mut self, out: &mut dyn FnMut(ExtendedSeq, &RtpHeader, &[u8])) {
        self.frames.lost(0, out);
    }
}

/// Video whose payloads nobody looks into: a frame ends where the timestamp changes.
fn video(
    packet: &Incoming<'_>,
    codec: Codec,
    timestamp: &mut Option<u32>,
    frames: &mut Frames,
    out: &mut Out<'_>,
) -> Result<(), Unfit> {
    packet.fits()?;
    if timestamp.replace(packet.timestamp) != Some(packet.timestamp) {
        frames.begin(packet.timestamp, Hint::default(), out);
        frames.keyframes += u64::from(is_key(codec, packet.payload));
    }
    frames.push(packet.payload, packet.marker, out);
    Ok(())
}

/// Header and payload without padding. Padding that is longer than the payload, or says that it has no length, is none.
fn parse(packet: &[u8]) -> Option<(RtpHeader, &[u8])> {
    let (header, len) = RtpHeader::parse(packet)?;
    let payload = packet.get(len..)?;
    let padding = if header.has_padding() { payload.last().copied().map_or(0, usize::from) } else { 0 };
    Some((
        header,
        payload.get(..payload.len().saturating_sub(padding)).filter(|_| padding <= payload.len()).unwrap_or(payload),
    ))
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
