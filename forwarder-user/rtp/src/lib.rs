//! What a source says that it sends, and its RTP made fit for browsers. Pure: packets and the time come in, packets go out.
//!
//! | file | does |
//! | --- | --- |
//! | `description` | the SDP of a source |
//! | `sender_report` | its clock |
//! | `reorder` | puts packets of UDP in order |
//! | `timeline` | one continuous line of sequence numbers and timestamps |
//! | `nal`, `h264`, `h265` | parameter sets, size, keyframes |
//! | `vp8` | size |
//! | `keyframe` | where decoding can start |
//! | `picture` | how large the picture is |
//! | here | the way of a packet |

pub mod description;
mod h264;
mod h265;
mod keyframe;
mod nal;
pub mod picture;
mod reorder;
pub mod sender_report;
mod timeline;
mod vp8;

use std::time::Instant;

use forwarder_common::{ExtendedSeq, RtpHeader, maps, rtp::FIXED_LEN};

pub use h264::profile_level_id;
pub use keyframe::is_key;
pub use reorder::Reorder;
use timeline::Timeline;

use penstock_media::codec::Codec;

/// Largest payload that leaves: with SRTP and UDP over IPv6 it fits every path that browsers use.
pub const MAX_PAYLOAD: usize = 1200;

/// Why a packet did not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unfit {
    /// Not RTP, or cut off.
    Malformed,
    /// Another payload type than the description says.
    PayloadType,
    /// A packetisation that nobody needs for low delay: STAP-B, MTAP, FU-B, PACI.
    Unsupported,
    /// A duplicate, or behind what has left already.
    Late,
    /// Viewers can begin at a keyframe only.
    BeforeKeyframe,
    /// Beyond what one source may send.
    TooFast,
    /// Longer than what the engine carries, of a codec that is not cut here.
    TooLong,
}

impl Unfit {
    /// Every reason once, for a table of counters that begins with zeros.
    pub const ALL: [Unfit; 7] = [
        Unfit::Malformed,
        Unfit::PayloadType,
        Unfit::Unsupported,
        Unfit::Late,
        Unfit::BeforeKeyframe,
        Unfit::TooFast,
        Unfit::TooLong,
    ];

    /// Name of its counter.
    pub const fn name(self) -> &'static str {
        match self {
            Unfit::Malformed => "malformed_rtp",
            Unfit::PayloadType => "payload_type",
            Unfit::Unsupported => "unsupported_packetization",
            Unfit::Late => "late_or_duplicate",
            Unfit::BeforeKeyframe => "before_keyframe",
            Unfit::TooFast => "too_fast",
            Unfit::TooLong => "too_long",
        }
    }
}

/// What becomes of the payloads, by codec.
enum Repack {
    H264(Box<nal::Repacker<h264::H264>>),
    H265(Box<nal::Repacker<h265::H265>>),
    Vp8,
    AsIs,
}

/// One track's way from the source to the engine.
pub struct Pipeline {
    payload_type: u8,
    timeline: Timeline,
    repack: Repack,
    /// Index of the last packet that left.
    last: ExtendedSeq,
    /// Packets that the source's sequence numbers show to be missing, not yet taken account of.
    lost: u64,
}

impl Pipeline {
    /// `sets`: parameter sets of the description. `last`: indices go on after it.
    pub fn new(codec: Codec, payload_type: u8, sets: &[Vec<u8>], last: ExtendedSeq) -> Self {
        let repack = match codec {
            Codec::H264 => Repack::H264(Box::new(nal::Repacker::new(sets))),
            Codec::H265 => Repack::H265(Box::new(nal::Repacker::new(sets))),
            Codec::Vp8 => Repack::Vp8,
            _ => Repack::AsIs,
        };
        Self { payload_type, timeline: Timeline::new(codec.clock_rate()), repack, last, lost: 0 }
    }

    /// The source was connected to again, and described itself anew as the same codec.
    pub fn reconnect(&mut self, payload_type: u8, sets: &[Vec<u8>]) {
        self.payload_type = payload_type;
        self.timeline.reconnect();
        match &mut self.repack {
            Repack::H264(repacker) => repacker.use_sets(sets),
            Repack::H265(repacker) => repacker.use_sets(sets),
            Repack::Vp8 | Repack::AsIs => {}
        }
    }

    /// Timestamps go on after those of another track, whose place this one takes.
    pub fn succeed(&mut self, former: &Self) {
        self.timeline.succeed(&former.timeline);
    }

    /// Whether frames came that browsers do not put in order.
    pub fn b_frames(&self) -> bool {
        match &self.repack {
            Repack::H264(repacker) => repacker.b_frames(),
            Repack::H265(repacker) => repacker.b_frames(),
            Repack::Vp8 | Repack::AsIs => false,
        }
    }

    /// Packets that were missing since the last call.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    /// A timestamp of the source's sender report as viewers know it. `None`: of another SSRC.
    pub fn map(&self, ssrc: u32, timestamp: u32) -> Option<u32> {
        self.timeline.map(ssrc, timestamp)
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
        if header.payload_type() != self.payload_type {
            return Err(Unfit::PayloadType);
        }
        let step = self.timeline.accept(&header, now).ok_or(Unfit::Late)?;
        if step.restarted {
            match &mut self.repack {
                Repack::H264(repacker) => repacker.restart(),
                Repack::H265(repacker) => repacker.restart(),
                Repack::Vp8 | Repack::AsIs => {}
            }
        }
        // What is missing stays missing, so that receivers see it. A restart leaves a hole as well: the
        // frame before it has no end, and must not be taken for a whole one.
        self.lost += u64::from(step.lost);
        self.last.0 += u64::from(step.lost) + u64::from(step.restarted && self.last.0 != 0);
        let last = &mut self.last;
        let mut send = |marker: bool, payload: &[u8]| {
            last.0 += 1;
            out(*last, &outgoing(marker, step.timestamp), payload);
        };
        match &mut self.repack {
            Repack::H264(repacker) => repacker.packet(step.timestamp, header.marker(), payload, &mut send),
            Repack::H265(repacker) => repacker.packet(step.timestamp, header.marker(), payload, &mut send),
            Repack::Vp8 => vp8::cut(header.marker(), payload, &mut send),
            Repack::AsIs if payload.is_empty() => Err(Unfit::Malformed),
            Repack::AsIs if payload.len() > maps::MAX_PAYLOAD => Err(Unfit::TooLong),
            Repack::AsIs => {
                send(header.marker(), payload);
                Ok(())
            }
        }
    }
}

/// Header and payload without padding.
fn parse(packet: &[u8]) -> Option<(RtpHeader, &[u8])> {
    let (header, len) = RtpHeader::parse(packet)?;
    let payload = &packet[len..];
    let padding = if header.has_padding() { usize::from(*payload.last()?) } else { 0 };
    Some((header, payload.get(..payload.len().checked_sub(padding)?)?))
}

/// The engine writes payload type, sequence number and SSRC of its own.
fn outgoing(marker: bool, timestamp: u32) -> RtpHeader {
    let mut bytes = [0; FIXED_LEN];
    bytes[0] = 0x80;
    bytes[1] = u8::from(marker) << 7;
    bytes[4..8].copy_from_slice(&timestamp.to_be_bytes());
    RtpHeader::new(&bytes)
}

#[cfg(test)]
mod testing {
    use super::nal::NalCodec;
    use super::*;

    /// Markers and payloads.
    pub(crate) type Sent = Vec<(bool, Vec<u8>)>;

    pub(crate) fn header(ssrc: u32, seq: u16, timestamp: u32, payload_type: u8) -> RtpHeader {
        RtpHeader::new(packet(ssrc, seq, timestamp, payload_type, &[]).first_chunk().unwrap())
    }

    pub(crate) fn packet(ssrc: u32, seq: u16, timestamp: u32, payload_type: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0x80, payload_type];
        bytes.extend(seq.to_be_bytes());
        bytes.extend(timestamp.to_be_bytes());
        bytes.extend(ssrc.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// NAL units as a receiver joins them.
    pub(crate) fn join_fragments<C: NalCodec>(sent: &[(bool, Vec<u8>)]) -> Vec<Vec<u8>> {
        let mut nals: Vec<Vec<u8>> = vec![];
        for (_, payload) in sent {
            if C::nal_type(payload) != C::FRAGMENT {
                nals.push(payload.clone());
                continue;
            }
            if payload[C::HEADER] & 0x80 != 0 {
                nals.push(C::nal_header(payload)[..C::HEADER].to_vec());
            }
            nals.last_mut().unwrap().extend_from_slice(&payload[C::HEADER + 1..]);
        }
        nals
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test begins at any time")]
mod tests {
    use super::{testing::packet, *};

    const IDR: &[u8] = &[0x65, 0x88, 1];
    const P: &[u8] = &[0x41, 0x9a, 1];

    struct Bench {
        pipeline: Pipeline,
        /// Index, marker, timestamp and length of what left.
        sent: Vec<(u64, bool, u32, usize)>,
        now: Instant,
    }

    impl Bench {
        fn new(codec: Codec) -> Self {
            let sets = [vec![0x67, 0x42, 0xe0, 0x1f], vec![0x68, 1, 2]];
            let pipeline = Pipeline::new(codec, 96, &sets, ExtendedSeq(0));
            Self { pipeline, sent: vec![], now: Instant::now() }
        }

        fn push(&mut self, bytes: &[u8]) -> Result<(), Unfit> {
            let sent = &mut self.sent;
            self.pipeline.packet(bytes, self.now, &mut |index, header, payload| {
                sent.push((index.0, header.marker(), header.timestamp(), payload.len()));
            })
        }
    }

    #[test]
    fn indices_count_what_leaves_and_show_what_is_missing() {
        let mut bench = Bench::new(Codec::H264);
        bench.push(&packet(1, 100, 0, 96 | 0x80, IDR)).unwrap();
        bench.push(&packet(1, 101, 3000, 96 | 0x80, P)).unwrap();
        bench.push(&packet(1, 104, 6000, 96 | 0x80, P)).unwrap();
        let indices: Vec<u64> = bench.sent.iter().map(|sent| sent.0).collect();
        assert_eq!(indices, [1, 2, 3, 6]);
        assert_eq!(bench.pipeline.take_lost(), 2);
    }

    #[test]
    fn a_reconnected_source_goes_on_at_its_next_keyframe() {
        let mut bench = Bench::new(Codec::H264);
        bench.push(&packet(1, 100, 0, 96, IDR)).unwrap();
        bench.pipeline.reconnect(97, &[]);
        bench.now += std::time::Duration::from_secs(1);
        assert_eq!(bench.push(&packet(2, 7, 55, 96, IDR)), Err(Unfit::PayloadType));
        assert_eq!(bench.push(&packet(2, 7, 55, 97, P)), Err(Unfit::BeforeKeyframe));
        bench.push(&packet(2, 8, 3055, 97, IDR)).unwrap();
        assert_eq!(bench.sent[2..], [(4, false, 93_000, 12), (5, false, 93_000, 3)]);
        assert_eq!(bench.pipeline.map(2, 55), Some(90_000));
    }

    #[test]
    fn other_codecs_pass_without_their_padding() {
        let mut bench = Bench::new(Codec::Pcma);
        let mut padded = packet(1, 1, 160, 96, &[1, 2, 3, 0, 2]);
        padded[0] |= 0x20;
        bench.push(&padded).unwrap();
        assert_eq!(bench.sent, [(1, false, 160, 3)]);
        padded[16] = 6;
        assert_eq!(bench.push(&padded), Err(Unfit::Malformed));
        assert_eq!(bench.push(&[0x80, 96, 0]), Err(Unfit::Malformed));
        assert_eq!(bench.push(&packet(1, 2, 320, 96, &[])), Err(Unfit::Malformed));
        assert_eq!(bench.push(&packet(1, 1, 160, 96, &[1])), Err(Unfit::Late));
        assert_eq!(bench.push(&packet(1, 3, 480, 96, &[1; 1401])), Err(Unfit::TooLong));
    }
}
