//! Comparison of what a viewer decrypted with what the publisher sent, byte for byte.

use std::collections::HashMap;
use std::sync::Arc;

use crate::clip::{Clip, Frames};
use crate::labelled::Watch;

use super::source::{Source, Synthetic, VP8_CONTINUED, VP8_START, label, synthetic};
use super::{Kind, MediaStats};

/// Unlabelled packets that wait for a labelled one.
const WAITING: usize = 64;

/// A decrypted packet.
#[derive(Clone, Debug)]
pub(crate) struct Incoming {
    /// Extended.
    pub sequence: u64,
    pub timestamp: u32,
    pub marker: bool,
    pub payload: Arc<[u8]>,
}

/// Judges one track; the verdicts go to `MediaStats`.
#[derive(Debug)]
pub(crate) enum Verifier {
    None,
    Video(Video),
    Audio { clip: Arc<Clip>, next: Option<usize> },
    Synthetic(Numbered),
    Camera(Arc<Watch>),
}

impl Verifier {
    pub fn new(expected: &Source, kind: Kind) -> Self {
        match (expected, kind) {
            (Source::None | Source::Load(_), _) => Verifier::None,
            (Source::Camera(watch), _) => Verifier::Camera(watch.clone()),
            (Source::Clip(clip), Kind::Video) => {
                Verifier::Video(Video { clip: clip.clone(), next: None, partial: None })
            }
            (Source::Clip(clip), Kind::Audio) => Verifier::Audio { clip: clip.clone(), next: None },
            (Source::Synthetic(shape), _) => {
                Verifier::Synthetic(Numbered { shape: *shape, kind, run: None, waiting: HashMap::new() })
            }
        }
    }

    /// Judges a packet.
    pub fn packet(&mut self, packet: Incoming, stats: &mut MediaStats) {
        match self {
            Verifier::None => {}
            Verifier::Video(video) => video.packet(packet, stats),
            Verifier::Audio { clip, next } => judge(&clip.audio, next, &packet.payload, stats),
            Verifier::Synthetic(numbered) => numbered.packet(packet, stats),
            Verifier::Camera(watch) if watch.look(&packet.payload) => stats.verified += 1,
            Verifier::Camera(_) => stats.mismatches += 1,
        }
    }
}

/// A whole frame: the expected one, or another one of the clip (after a loss or a jump).
fn judge(frames: &Frames, next: &mut Option<usize>, bytes: &[u8], stats: &mut MediaStats) {
    let expected = next.filter(|at| **frames.get(*at) == *bytes);
    match expected.or_else(|| frames.find(bytes)) {
        Some(at) => {
            if next.is_some() && expected.is_none() {
                stats.jumps += 1;
            }
            stats.verified += 1;
            *next = Some((at + 1) % frames.len());
        }
        None => stats.mismatches += 1,
    }
}

/// VP8 of the clip.
#[derive(Debug)]
pub(crate) struct Video {
    clip: Arc<Clip>,
    next: Option<usize>,
    partial: Option<Partial>,
}

/// A frame of which some packets have come.
#[derive(Debug)]
struct Partial {
    next_sequence: u64,
    timestamp: u32,
    bytes: Vec<u8>,
}

impl Video {
    fn packet(&mut self, packet: Incoming, stats: &mut MediaStats) {
        let Some((descriptor, piece)) = vp8_descriptor(&packet.payload) else {
            stats.mismatches += 1;
            return;
        };
        let mut partial = match descriptor {
            VP8_START => {
                stats.incomplete += u64::from(self.partial.is_some());
                Partial { next_sequence: packet.sequence, timestamp: packet.timestamp, bytes: Vec::new() }
            }
            VP8_CONTINUED => match self.partial.take() {
                Some(partial) => partial,
                // Its start was lost, or we joined in the middle of it.
                None => return,
            },
            _ => {
                stats.mismatches += 1;
                return;
            }
        };
        self.partial = None;
        if partial.next_sequence != packet.sequence {
            stats.incomplete += 1;
            return;
        }
        stats.mismatches += u64::from(partial.timestamp != packet.timestamp);
        partial.bytes.extend_from_slice(piece);
        partial.next_sequence += 1;
        if packet.marker {
            judge(&self.clip.video, &mut self.next, &partial.bytes, stats);
        } else {
            self.partial = Some(partial);
        }
    }
}

/// The first byte of a VP8 payload descriptor without its X bit, and what follows the descriptor (RFC 7741 §4.2).
fn vp8_descriptor(payload: &[u8]) -> Option<(u8, &[u8])> {
    let (first, mut rest) = payload.split_first()?;
    if first & 0x80 != 0 {
        let (extensions, after) = rest.split_first()?;
        rest = after;
        if extensions & 0x80 != 0 {
            let long = rest.first()? & 0x80 != 0;
            rest = rest.get(1 + usize::from(long)..)?;
        }
        let more = usize::from(extensions & 0x40 != 0) + usize::from(extensions & 0x30 != 0);
        rest = rest.get(more..)?;
    }
    Some((first & 0x7f, rest))
}

/// Synthetic packets.
#[derive(Debug)]
pub(crate) struct Numbered {
    shape: Synthetic,
    kind: Kind,
    run: Option<Run>,
    /// By sequence number: too short for a label, and not yet explained by a run.
    waiting: HashMap<u64, Incoming>,
}

/// One publisher's packets: what maps index to sequence number and timestamp.
#[derive(Clone, Copy, Debug)]
struct Run {
    id: u32,
    /// Sequence number minus index; the same for all packets of a run.
    offset: u64,
    timestamp: u32,
}

impl Numbered {
    fn packet(&mut self, packet: Incoming, stats: &mut MediaStats) {
        if self.run.is_some_and(|run| self.explains(run, &packet)) {
            stats.verified += 1;
            return;
        }
        let Some((id, kind, index)) = label(&packet.payload) else {
            self.wait(packet, stats);
            return;
        };
        let sent = synthetic(self.shape, id, self.kind, index);
        let run = Run {
            id,
            offset: packet.sequence.wrapping_sub(index),
            timestamp: packet.timestamp.wrapping_sub(sent.timestamp),
        };
        // Within a run neither offset may change, so a labelled packet that does not fit is wrong.
        let same_run = self.run.is_some_and(|known| known.id == id);
        if kind != self.kind as u8 || same_run || !self.explains(run, &packet) {
            stats.mismatches += 1;
            return;
        }
        stats.verified += 1;
        stats.jumps += u64::from(self.run.is_some());
        self.run = Some(run);
        let (explained, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition(|(_, packet)| self.explains(run, packet));
        let explained: HashMap<_, _> = explained;
        stats.verified += explained.len() as u64;
        self.waiting = waiting;
    }

    fn wait(&mut self, packet: Incoming, stats: &mut MediaStats) {
        if self.waiting.len() >= WAITING {
            stats.mismatches += self.waiting.drain().count() as u64;
        }
        self.waiting.insert(packet.sequence, packet);
    }

    /// Whether `packet` is, to the bit, what the run's publisher sent at this place.
    fn explains(&self, run: Run, packet: &Incoming) -> bool {
        let index = packet.sequence.wrapping_sub(run.offset);
        let sent = synthetic(self.shape, run.id, self.kind, index);
        packet.payload[..] == sent.payload
            && packet.marker == sent.marker
            && packet.timestamp == sent.timestamp.wrapping_add(run.timestamp)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(run: u32, index: u64, sequence: u64) -> Incoming {
        let sent = synthetic(Synthetic::default(), run, Kind::Video, index);
        let timestamp = sent.timestamp.wrapping_add(run * 77);
        Incoming { sequence, timestamp, marker: sent.marker, payload: sent.payload.into() }
    }

    fn verdict(packets: impl IntoIterator<Item = Incoming>) -> (u64, u64) {
        let mut stats = MediaStats::default();
        let mut verifier = Verifier::new(&Source::Synthetic(Synthetic::default()), Kind::Video);
        packets.into_iter().for_each(|packet| verifier.packet(packet, &mut stats));
        (stats.verified, stats.mismatches)
    }

    #[test]
    fn accepts_what_was_sent_in_any_order_over_a_new_publisher() {
        let first = (500..3000).map(|index| received(1, index, 70_000 + index));
        assert_eq!(verdict(first.clone()), (2500, 0));
        assert_eq!(verdict(first.clone().rev()), (2500, 0));
        let second = (1..1500).map(|index| received(2, index, 72_999 + index));
        assert_eq!(verdict(first.chain(second)), (2500 + 1499, 0));
    }

    #[test]
    fn sees_one_wrong_bit_anywhere() {
        let good = || (0..50).map(|index| received(1, index, 70_000 + index));
        let with = |change: fn(&mut Incoming)| {
            let mut bad = received(1, 50, 70_050);
            change(&mut bad);
            verdict(good().chain([bad]))
        };
        assert_eq!(with(|_| {}), (51, 0));
        assert_eq!(with(|packet| packet.marker ^= true), (50, 1));
        assert_eq!(with(|packet| packet.timestamp += 1), (50, 1));
        assert_eq!(with(|packet| packet.sequence += 1), (50, 1));
        let flip = |at: usize| {
            move |packet: &mut Incoming| {
                let mut bytes = packet.payload.to_vec();
                let at = at % bytes.len();
                bytes[at] ^= 1;
                packet.payload = bytes.into();
            }
        };
        for at in [0, 4, 15, 16, 200] {
            let mut bad = received(1, 51, 70_051);
            flip(at)(&mut bad);
            assert_eq!(verdict(good().chain([bad])), (50, 1), "byte {at}");
        }
    }
}
