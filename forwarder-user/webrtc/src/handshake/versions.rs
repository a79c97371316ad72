//! What may be one message of the peer: fragments put together, in as many ways as they contradict each other.
//!
//! Whoever sends from the peer's address may send a fragment of his own. It spoils no message: what does not agree
//! begins another version, which keeps of the one before it what the new fragment leaves.

use std::ops::Range;

use super::message::Fragment;

/// Fragments of one version that do not touch each other.
const PARTS: usize = 64;

/// One way to put a message together.
pub(super) struct Version {
    pub(super) body: Vec<u8>,
    kind: u8,
    /// What is there of it, in order, without touching.
    have: Vec<Range<usize>>,
    /// How often its begin has come.
    pub(super) sightings: u32,
    /// The datagram that had some of it last.
    pub(super) datagram: u64,
}

impl Version {
    fn is_whole(&self) -> bool {
        self.body.is_empty() || self.have.first() == Some(&(0..self.body.len()))
    }

    fn is_of(&self, fragment: &Fragment<'_>) -> bool {
        (self.kind, self.body.len()) == (fragment.kind, fragment.len)
    }

    fn agrees(&self, fragment: &Fragment<'_>) -> bool {
        let range = fragment.range();
        self.is_of(fragment)
            && self.have.iter().all(|have| {
                let both = have.start.max(range.start)..have.end.min(range.end);
                let theirs = both.start.saturating_sub(range.start)..both.end.saturating_sub(range.start);
                both.is_empty() || self.body.get(both) == fragment.bytes.get(theirs)
            })
    }

    /// `false`: it has come in too many parts.
    fn put(&mut self, fragment: &Fragment<'_>) -> bool {
        self.sightings += u32::from(fragment.offset == 0);
        self.datagram = fragment.datagram;
        let mut new = fragment.range();
        if let Some(place) = self.body.get_mut(new.clone()) {
            place.copy_from_slice(fragment.bytes);
        }
        self.have.retain(|have| {
            let apart = have.end < new.start || new.end < have.start;
            if !apart {
                new = have.start.min(new.start)..have.end.max(new.end);
            }
            apart
        });
        let place = self.have.partition_point(|have| have.start < new.start);
        self.have.insert(place, new);
        self.have.len() <= PARTS
    }
}

/// See the module.
pub(super) struct Versions {
    all: Vec<Version>,
    most: usize,
}

impl Versions {
    /// At most so many versions; the oldest goes.
    pub(super) const fn new(most: usize) -> Self {
        Self { all: Vec::new(), most }
    }

    /// Takes a fragment. The messages that are whole by it, or that have come once more.
    pub(super) fn add(&mut self, fragment: &Fragment<'_>) -> Vec<usize> {
        if !self.all.iter().any(|version| version.agrees(fragment)) {
            self.begin(fragment);
        }
        for version in self.all.iter_mut().filter(|version| version.agrees(fragment)) {
            if !version.put(fragment) {
                version.have.clear();
            }
        }
        self.all.retain(|version| version.body.is_empty() || !version.have.is_empty());
        let whole = self.all.iter().enumerate().filter(|(_, version)| version.is_whole() && version.agrees(fragment));
        whole.map(|(place, _)| place).collect()
    }

    /// Another version, from what the last one like it has beside the fragment.
    fn begin(&mut self, fragment: &Fragment<'_>) {
        let range = fragment.range();
        let like = self.all.iter().rev().find(|version| version.is_of(fragment));
        let mut version =
            Version { body: vec![0; fragment.len], kind: fragment.kind, have: vec![], sightings: 0, datagram: 0 };
        if let Some(like) = like {
            version.body.clone_from(&like.body);
            let cut =
                |have: &Range<usize>| [have.start..have.end.min(range.start), have.start.max(range.end)..have.end];
            version.have = like.have.iter().flat_map(cut).filter(|have| !have.is_empty()).collect();
        }
        if self.all.len() == self.most {
            self.all.remove(0);
        }
        self.all.push(version);
    }

    /// The whole ones, oldest first.
    pub(super) fn whole(&self) -> impl DoubleEndedIterator<Item = &Version> {
        self.all.iter().filter(|version| version.is_whole())
    }

    /// The body of one of them.
    pub(super) fn body(&self, place: usize) -> Option<&[u8]> {
        self.all.get(place).map(|version| &version.body[..])
    }

    pub(super) fn clear(&mut self) {
        self.all = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::allocations::Seeded;
    use crate::handshake::message::CERTIFICATE;

    fn fragment(len: usize, offset: usize, bytes: &[u8]) -> Fragment<'_> {
        Fragment { kind: CERTIFICATE, number: 2, len, offset, bytes, datagram: 0 }
    }

    #[test]
    fn pieces_of_whatever_size_and_order_become_the_message() {
        let (mut seeded, message) = (Seeded(5), (0..900u32).map(|n| (n * 7) as u8).collect::<Vec<u8>>());
        for _ in 0..300 {
            let mut versions = Versions::new(4);
            for _ in 0..2000 {
                let from = seeded.below(message.len() + 200).saturating_sub(200);
                let to = (from + 1 + seeded.below(300)).min(message.len());
                if let Some(place) = versions.add(&fragment(message.len(), from, &message[from..to])).first() {
                    assert_eq!(versions.body(*place), Some(&message[..]));
                    break;
                }
            }
            assert_eq!(versions.whole().count(), 1);
        }
    }

    /// A stranger's piece in between costs no piece of the peer's.
    #[test]
    fn a_foreign_piece_at_any_place_costs_nothing() {
        let (mut seeded, message) = (Seeded(9), vec![3; 900]);
        for turn in 0..2000 {
            let mut versions = Versions::new(4);
            let size = 1 + seeded.below(400);
            let pieces: Vec<usize> = (0..message.len()).step_by(size).collect();
            let when = seeded.below(pieces.len() + 1);
            let (from, noise) = (seeded.below(message.len()), vec![9; 900]);
            let to = (from + 1 + seeded.below(300)).min(message.len());
            let mut done = false;
            for (place, start) in pieces.iter().enumerate() {
                if place == when {
                    versions.add(&fragment(message.len(), from, &noise[from..to]));
                }
                let end = (start + size).min(message.len());
                let whole = versions.add(&fragment(message.len(), *start, &message[*start..end]));
                done |= whole.iter().any(|place| versions.body(*place) == Some(&message[..]));
            }
            assert!(done, "turn {turn}");
        }
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (mut seeded, mut versions) = (Seeded(1), Versions::new(4));
        for _ in 0..50_000 {
            let (offset, bytes) = (seeded.below(16_000), [seeded.below(256) as u8; 3]);
            versions.add(&fragment(16_384, offset, &bytes));
            assert!(versions.all.len() <= 4 && versions.all.iter().all(|version| version.have.len() <= PARTS));
        }
    }
}
