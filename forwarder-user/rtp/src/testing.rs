//! What the tests share: packets, a source, and a receiver that judges.

use std::time::{Duration, Instant};

use forwarder_common::{ExtendedSeq, RtpHeader};
use penstock_media::codec::Codec;

use crate::{Pipeline, Unfit, h264::H264, h265::H265, nal::NalCodec};

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

/// Numbers that look random and are the same each time.
pub(crate) struct Random(pub u64);

impl Random {
    /// Below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % end
    }

    pub(crate) fn one_in(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }
}

/// What left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sent {
    pub index: u64,
    pub marker: bool,
    pub timestamp: u32,
    pub payload: Vec<u8>,
}

/// A frame as a receiver puts it together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Frame {
    pub timestamp: u32,
    pub nals: Vec<Vec<u8>>,
    /// It had a marker.
    pub ended: bool,
}

/// A pipeline and what it was given.
pub(crate) struct Bench {
    pub pipeline: Pipeline,
    pub sent: Vec<Sent>,
    pub now: Instant,
    pub ssrc: u32,
    pub seq: u16,
}

#[expect(clippy::disallowed_methods, reason = "a test begins at any time")]
impl Bench {
    /// Payload type 96; what comes was sent in this order.
    pub(crate) fn new(codec: Codec, sets: &[&[u8]]) -> Self {
        let sets: Vec<Vec<u8>> = sets.iter().map(|set| set.to_vec()).collect();
        let mut pipeline = Pipeline::new(codec, 96, &sets, ExtendedSeq(0), Instant::now());
        pipeline.set_ordered(true);
        Self { pipeline, sent: vec![], now: Instant::now(), ssrc: 1, seq: 100 }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Unfit> {
        let sent = &mut self.sent;
        let mut out = |index: ExtendedSeq, header: &RtpHeader, payload: &[u8]| {
            let (marker, timestamp) = (header.marker(), header.timestamp());
            sent.push(Sent { index: index.0, marker, timestamp, payload: payload.to_vec() });
        };
        self.pipeline.release(self.now, &mut out);
        self.pipeline.packet(bytes, self.now, &mut out)
    }

    /// The next packet.
    pub(crate) fn push(&mut self, timestamp: u32, marker: bool, payload: &[u8]) -> Result<(), Unfit> {
        let payload_type = 96 | u8::from(marker) << 7;
        let bytes = packet(self.ssrc, self.seq, timestamp, payload_type, payload);
        self.seq = self.seq.wrapping_add(1);
        self.bytes(&bytes)
    }

    pub(crate) fn wait(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
    }

    /// The end of the connection; what left until then.
    pub(crate) fn end(&mut self) -> Vec<Sent> {
        let sent = &mut self.sent;
        self.pipeline.end(&mut |index, header, payload| {
            let (marker, timestamp) = (header.marker(), header.timestamp());
            sent.push(Sent { index: index.0, marker, timestamp, payload: payload.to_vec() });
        });
        self.sent.clone()
    }
}

/// Indices from 1 on without a hole.
pub(crate) fn has_no_hole(sent: &[Sent]) -> bool {
    sent.iter().enumerate().all(|(at, sent)| sent.index == at as u64 + 1)
}

/// Frames as a receiver joins them: a frame is over at its marker, or where the timestamp changes.
pub(crate) fn frames_h264(sent: &[Sent]) -> Vec<Frame> {
    frames::<H264>(sent)
}

pub(crate) fn frames_h265(sent: &[Sent]) -> Vec<Frame> {
    frames::<H265>(sent)
}

fn frames<C: NalCodec>(sent: &[Sent]) -> Vec<Frame> {
    let mut frames: Vec<Frame> = vec![];
    for sent in sent {
        assert!(sent.payload.len() <= crate::MAX_PAYLOAD);
        if frames.last().is_none_or(|frame| frame.ended || frame.timestamp != sent.timestamp) {
            frames.push(Frame { timestamp: sent.timestamp, ..Frame::default() });
        }
        let frame = frames.last_mut().unwrap();
        depacketise::<C>(&sent.payload, &mut frame.nals);
        frame.ended = sent.marker;
    }
    frames
}

fn depacketise<C: NalCodec>(payload: &[u8], nals: &mut Vec<Vec<u8>>) {
    match C::nal_type(payload) {
        t if t == C::AGGREGATE => {
            let mut rest = &payload[C::HEADER..];
            while let Some((len, behind)) = rest.split_first_chunk() {
                let (nal, behind) = behind.split_at(usize::from(u16::from_be_bytes(*len)));
                nals.push(nal.to_vec());
                rest = behind;
            }
        }
        t if t == C::FRAGMENT => {
            if payload[C::HEADER] & 0x80 != 0 {
                nals.push(C::nal_header(payload)[..C::HEADER].to_vec());
            }
            nals.last_mut().expect("a fragment's begin").extend_from_slice(&payload[C::HEADER + 1..]);
        }
        _ => nals.push(payload.to_vec()),
    }
}
