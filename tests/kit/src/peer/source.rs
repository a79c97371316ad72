//! What a publisher sends, paced in real time: the clip, or packets that encode their own index.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clip::{AUDIO_FRAME, Clip};
use crate::labelled::{self, Camera, Watch};

use super::Kind;

/// Largest piece of a VP8 frame in one packet, without the payload descriptor.
const VP8_PIECE: usize = 1100;
/// VP8 payload descriptor (RFC 7741 §4.2) with S set, and without.
pub(crate) const VP8_START: u8 = 0x10;
pub(crate) const VP8_CONTINUED: u8 = 0;
/// Behind by more than this, time is skipped rather than sent in a burst that overflows rings.
const PATIENCE: Duration = Duration::from_millis(200);

/// Content of a stream, known to publisher and viewers alike.
#[derive(Clone, Debug, Default)]
pub enum Source {
    /// Nothing: a publisher is silent, a viewer does not judge what comes.
    #[default]
    None,
    /// The clip, over and over. A keyframe request makes it jump to its next key frame.
    Clip(Arc<Clip>),
    /// Packets of every size from 1 to `largest` bytes, each computable from its index.
    Synthetic(Synthetic),
    /// A camera of [`crate::labelled`]: only for viewers, each has its own.
    Camera(Arc<Watch>),
    /// What such a camera sends: only for publishers.
    Load(Camera),
}

/// Shape of a synthetic stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Synthetic {
    /// Video packets a second.
    pub rate: u32,
    /// Largest payload in bytes.
    pub largest: usize,
    /// Sequence number of the first packet; close to 65,535 it tests the wrap.
    pub first_sequence: u16,
}

impl Default for Synthetic {
    fn default() -> Self {
        Self { rate: 100, largest: 1400, first_sequence: 1 }
    }
}

/// A packet to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub payload: Vec<u8>,
    pub marker: bool,
    /// RTP clock units since the start.
    pub timestamp: u32,
}

/// One track of a source being played.
#[derive(Debug)]
pub(crate) struct Track {
    content: Content,
    start: Instant,
    interval: Duration,
    clock_rate: u32,
    /// Ticks since `start`, and in all: not the same once time was skipped.
    tick: u32,
    sent: u64,
}

#[derive(Debug)]
enum Content {
    Video { clip: Arc<Clip>, next: usize },
    Audio { clip: Arc<Clip>, next: usize },
    Synthetic { shape: Synthetic, run: u32, kind: Kind },
    Load(Camera),
}

impl Source {
    /// The track of `kind`, starting now. `run` tells one publisher's synthetic packets from another's.
    pub(crate) fn track(&self, kind: Kind, clock_rate: u32, run: u32, now: Instant) -> Option<Track> {
        let (content, interval) = match (self, kind) {
            (Source::None | Source::Camera(_), _) | (Source::Load(_), Kind::Audio) => return None,
            (Source::Load(camera), Kind::Video) => (Content::Load(*camera), camera.shape.frame_interval()),
            (Source::Clip(clip), Kind::Video) => (Content::Video { clip: clip.clone(), next: 0 }, clip.video_frame),
            (Source::Clip(clip), Kind::Audio) => (Content::Audio { clip: clip.clone(), next: 0 }, AUDIO_FRAME),
            (Source::Synthetic(shape), Kind::Audio) => (Content::Synthetic { shape: *shape, run, kind }, AUDIO_FRAME),
            (Source::Synthetic(shape), Kind::Video) => {
                (Content::Synthetic { shape: *shape, run, kind }, Duration::from_secs(1) / shape.rate.max(1))
            }
        };
        Some(Track { content, start: now, interval, clock_rate, tick: 0, sent: 0 })
    }

    /// Sequence number with which tracks begin.
    pub(crate) fn first_sequence(&self) -> u16 {
        match self {
            Source::Synthetic(shape) => shape.first_sequence,
            // What str0m itself would do: anything in the lower half (RFC 3711 §3.3.1 on wraps).
            Source::None | Source::Clip(_) | Source::Camera(_) | Source::Load(_) => 1000,
        }
    }
}

impl Track {
    /// When the next packets are due.
    pub fn due(&self) -> Instant {
        self.start + self.interval * self.tick
    }

    /// What is due now; call again until it is `None`.
    pub fn take(&mut self, now: Instant) -> Option<Vec<Outgoing>> {
        let due = self.due();
        if due > now {
            return None;
        }
        if now - due > PATIENCE {
            self.start = now;
            self.tick = 0;
        }
        let ticks_sent = self.sent;
        self.tick += 1;
        self.sent += 1;
        let seconds = self.interval.as_secs_f64() * ticks_sent as f64;
        let timestamp = (seconds * f64::from(self.clock_rate)).round() as u64 as u32;
        Some(match &mut self.content {
            Content::Video { clip, next } => {
                let frame = clip.video.get(*next).clone();
                *next += 1;
                vp8_packets(&frame, timestamp)
            }
            Content::Audio { clip, next } => {
                let payload = clip.audio.get(*next).to_vec();
                *next += 1;
                vec![Outgoing { payload, marker: false, timestamp }]
            }
            Content::Synthetic { shape, run, kind } => vec![synthetic(*shape, *run, *kind, ticks_sent)],
            Content::Load(camera) => load_packets(*camera, ticks_sent),
        })
    }

    /// A keyframe was asked for.
    pub fn keyframe(&mut self) {
        if let Content::Video { clip, next } = &mut self.content {
            *next = clip.next_keyframe(*next);
        }
    }
}

fn load_packets(Camera { number, shape }: Camera, frame: u64) -> Vec<Outgoing> {
    let packet = |packet| {
        let mut payload = Vec::with_capacity(shape.payload);
        shape.write_payload(&mut payload, number, frame, packet, labelled::now_ns());
        Outgoing { payload, marker: packet + 1 == shape.burst, timestamp: shape.timestamp(frame) }
    };
    (0..shape.burst).map(packet).collect()
}

fn vp8_packets(frame: &[u8], timestamp: u32) -> Vec<Outgoing> {
    let pieces = frame.chunks(VP8_PIECE);
    let last = pieces.len().saturating_sub(1);
    pieces
        .enumerate()
        .map(|(at, piece)| {
            let descriptor = if at == 0 { VP8_START } else { VP8_CONTINUED };
            Outgoing { payload: [&[descriptor], piece].concat(), marker: at == last, timestamp }
        })
        .collect()
}

/// Bytes at the start of a synthetic payload, if it is long enough: run, kind, 0, index.
pub(crate) const LABEL: usize = 16;

/// Packet `index` of a synthetic track.
pub(crate) fn synthetic(shape: Synthetic, run: u32, kind: Kind, index: u64) -> Outgoing {
    let largest = match kind {
        Kind::Video => shape.largest.max(LABEL),
        Kind::Audio => shape.largest.clamp(LABEL, 200),
    };
    // 709 is prime, so the sizes go through all of 1..=largest.
    let size = 1 + (index.wrapping_mul(709).wrapping_add(largest as u64 - 1) % largest as u64) as usize;
    let mut payload = Vec::with_capacity(size + 8);
    let mut state = (u64::from(run) << 32 | index << 1 | kind as u64) ^ 0x9e37_79b9_7f4a_7c15;
    if size >= LABEL {
        payload.extend_from_slice(&run.to_be_bytes());
        payload.extend_from_slice(&[kind as u8, 0, 0, 0]);
        payload.extend_from_slice(&index.to_be_bytes());
    }
    while payload.len() < size {
        // SplitMix64: any index gives bytes unlike those of its neighbours.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        payload.extend_from_slice(&(mixed ^ mixed >> 31).to_be_bytes());
    }
    payload.truncate(size);
    // Frames of three packets in video, one in audio.
    let per_frame = if kind == Kind::Video { 3 } else { 1 };
    let timestamp = (index / per_frame).wrapping_mul(3000) as u32;
    Outgoing { payload, marker: index % per_frame == per_frame - 1, timestamp }
}

/// Run, kind and index in a synthetic payload that is long enough for a label.
pub(crate) fn label(payload: &[u8]) -> Option<(u32, u8, u64)> {
    let (label, _) = payload.split_first_chunk::<LABEL>()?;
    let (run, rest) = label.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*run), rest[0], u64::from_be_bytes(*rest.last_chunk()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn synthetic_packets_have_every_size_and_know_their_index() {
        let shape = Synthetic::default();
        let sizes: std::collections::BTreeSet<_> =
            (0..1400).map(|index| synthetic(shape, 7, Kind::Video, index).payload.len()).collect();
        assert_eq!((sizes.len(), sizes.first(), sizes.last()), (1400, Some(&1), Some(&1400)));
        assert_eq!(label(&synthetic(shape, 7, Kind::Video, 0).payload), Some((7, Kind::Video as u8, 0)));
        assert_ne!(synthetic(shape, 7, Kind::Video, 5), synthetic(shape, 8, Kind::Video, 5));
    }

    #[test]
    fn time_that_was_slept_through_is_skipped() {
        let start = Instant::now();
        let source = Source::Synthetic(Synthetic::default());
        let mut track = source.track(Kind::Video, 90_000, 1, start).expect("video");
        assert!(track.take(start).is_some() && track.take(start).is_none());
        let late = start + Duration::from_secs(5);
        assert!(track.take(late).is_some() && track.take(late).is_none());
    }
}
