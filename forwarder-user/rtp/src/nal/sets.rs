//! The parameter sets that are known, and what they say.

use super::{NalCodec, annexb::Split, cut::send_nal};
use crate::{
    MAX_PAYLOAD,
    frames::{Frames, Out},
    sps::Sps,
};

/// Parameter sets that are kept: their number by kind, and their size.
const MAX_SETS: usize = 8;
const MAX_SET: usize = 4096;

/// See the module.
pub(crate) struct Sets<C> {
    codec: std::marker::PhantomData<C>,
    /// The last ones, by kind.
    known: Vec<Vec<Vec<u8>>>,
    /// What the last SPS says, if it can be read.
    pub(crate) sps: Option<Sps>,
}

impl<C: NalCodec> Sets<C> {
    pub(crate) fn new() -> Self {
        Self { codec: std::marker::PhantomData, known: vec![vec![]; C::SETS], sps: None }
    }

    /// Those of a description; some have start codes.
    pub(crate) fn describe(&mut self, sets: &[Vec<u8>]) {
        let mut seen = 0;
        for set in sets.iter().flat_map(|set| Split::<C>::new(set)) {
            if let Some(kind) = C::set_kind(set) {
                self.note(kind, set, &mut seen);
            }
        }
    }

    /// Whether a decoder has all that it needs.
    pub(crate) fn are_complete(&self) -> bool {
        self.known.iter().all(|sets| !sets.is_empty())
    }

    /// Takes note of one. `seen`: bit by kind, those of the same access unit; the first replaces the ones before.
    pub(crate) fn note(&mut self, kind: usize, set: &[u8], seen: &mut u8) {
        let Some(known) = self.known.get_mut(kind) else { return };
        let bit = 1 << kind;
        if *seen & bit == 0 {
            *seen |= bit;
            // The usual case: the same ones again, and nothing to allocate.
            if known.len() == 1 && known[0] == set {
                return;
            }
            known.clear();
        }
        if set.len() <= MAX_SET && known.len() < MAX_SETS && !known.iter().any(|one| one == set) {
            known.push(set.to_vec());
            if kind == C::SPS {
                self.sps = C::read_sps(set);
            }
        }
    }

    /// Sends all of them, in one aggregate if they fit.
    pub(crate) fn send(&self, scratch: &mut Vec<u8>, frames: &mut Frames, out: &mut Out<'_>) {
        let sets = || self.known.iter().flatten();
        let size = C::AGGREGATE_HEADER.len() + sets().map(|set| 2 + set.len()).sum::<usize>();
        if sets().count() > 1 && size <= MAX_PAYLOAD {
            scratch.clear();
            scratch.extend_from_slice(C::AGGREGATE_HEADER);
            for set in sets() {
                scratch.extend_from_slice(&(set.len() as u16).to_be_bytes());
                scratch.extend_from_slice(set);
            }
            frames.push(scratch, false, out);
        } else {
            for set in sets() {
                send_nal::<C>(scratch, set, false, frames, out);
            }
        }
    }
}
