//! Keystream ahead of time: the rings that a userspace producer fills and the datapath consumes.
//!
//! The keystream of (key, SSRC, index) does not depend on the media. So it is computed before the
//! packet exists, with the tag mask and the keystream's share of GHASH, and the datapath only XORs.
//!
//! Each track has a ring: an array map of its own, mapped into the producer's memory, in which the
//! entry of an index is number `index % entries`. What an entry holds is worth something for one index
//! only, so an entry has a state:
//!
//! ```text
//!            producer                      consumer, for the packet with index i
//!   FREE ── begin ──► BUSY ── publish(i) ──► READY(i) ── claim(i) ──► BUSY ── release ──► FREE
//!   READY(stale) ── begin ──► BUSY                                     └── put_back(i) ──► READY(i)
//!   FREE, READY ── close ──► BUSY, for good
//! ```
//!
//! Why no torn and no foreign keystream can leave the machine: an entry is read or written only by
//! whoever won the compare-and-swap to BUSY, so nobody writes while it is read; and the consumer's
//! compare-and-swap names the index, so it never gets the keystream of another one. Whoever finds an
//! entry in another state goes without it: the datapath then computes AES itself (slower, the same
//! bytes), the producer leaves the entry for its next round. All transitions are compare-and-swap
//! operations, which are full barriers in BPF and acquire-release here.
//!
//! The ring does not decide whether an index may be used: that follows from the replay list and the
//! fixed offset (see `egress.rs`). It only says what the keystream of an index is.

use core::sync::atomic::AtomicU64;

use crate::{ExtendedSeq, atomic, gf128::Block};

/// Blocks of keystream in an entry. Longer payloads go the slow way: WebRTC senders stay below 1,200
/// bytes.
pub const FAST_BLOCKS: usize = 78;

/// Largest payload that an entry serves, in bytes.
pub const FAST_PAYLOAD: usize = 16 * FAST_BLOCKS;

/// Everything about one packet that is known before it. 2,528 bytes. Secret.
#[repr(C)]
pub struct Entry {
    state: AtomicU64,
    /// In the first entry of a ring: how many it has. The datapath reads it there, so that it sees a
    /// ring and its size change at once. 0 in the place of a track without a ring.
    entries: AtomicU64,
    /// Encrypted counter block 1, which masks the tag.
    pub mask: Block,
    /// Encrypted counter blocks 2, 3, …
    pub keystream: [Block; FAST_BLOCKS],
    /// `horner[n]`: GHASH state over the first `n` blocks of keystream, that is
    /// K₁·Hⁿ ⊕ K₂·Hⁿ⁻¹ ⊕ … ⊕ Kₙ·H. So the share of m blocks, the last one masked to the payload, in
    /// the tag is `(horner[m - 1] ⊕ Kₘ) · H²`.
    pub horner: [Block; FAST_BLOCKS],
}

/// Nobody uses the entry, and it holds nothing.
const FREE: u64 = 0;
/// The producer writes it, or a consumer reads it.
const BUSY: u64 = !0;

const fn ready(index: ExtendedSeq) -> u64 {
    index.0 + 1
}

/// The word in which an entry's state lies. Generic, so that the transitions below, and not a copy of
/// them, run in the model of every schedule.
trait State {
    fn load(&self) -> u64;
    fn compare_exchange(&self, old: u64, new: u64) -> bool;

    #[inline(always)]
    fn claim(&self, index: ExtendedSeq) -> bool {
        self.compare_exchange(ready(index), BUSY)
    }

    #[inline(always)]
    fn release(&self) {
        self.compare_exchange(BUSY, FREE);
    }

    #[inline(always)]
    fn put_back(&self, index: ExtendedSeq) {
        self.compare_exchange(BUSY, ready(index));
    }

    #[inline(always)]
    fn begin(&self, stale_below: ExtendedSeq) -> bool {
        let state = self.load();
        let free = state == FREE || (state != BUSY && state < ready(stale_below));
        free && self.compare_exchange(state, BUSY)
    }

    #[inline(always)]
    fn publish(&self, index: ExtendedSeq) {
        self.compare_exchange(BUSY, ready(index));
    }

    fn close(&self) -> bool {
        let state = self.load();
        state != BUSY && self.compare_exchange(state, BUSY)
    }
}

impl State for AtomicU64 {
    #[inline(always)]
    fn load(&self) -> u64 {
        atomic::load(self)
    }

    #[inline(always)]
    fn compare_exchange(&self, old: u64, new: u64) -> bool {
        atomic::compare_exchange(self, old, new)
    }
}

impl Entry {
    /// Producer: the ring that begins here has so many entries. Before anybody else sees it.
    pub fn set_entries(&self, entries: u32) {
        atomic::store(&self.entries, entries.into());
    }

    /// Consumer: where the entry of `index` lies in the ring that begins here. `None`: there is none.
    #[inline(always)]
    pub fn place_of(&self, index: ExtendedSeq) -> Option<u32> {
        match atomic::load(&self.entries) {
            0 => None,
            entries => Some((index.0 % entries) as u32),
        }
    }

    /// Consumer: takes the entry, if it holds the keystream of `index`.
    #[inline(always)]
    pub fn claim(&self, index: ExtendedSeq) -> bool {
        self.state.claim(index)
    }

    /// Consumer: gives back what it has claimed, used.
    #[inline(always)]
    pub fn release(&self) {
        self.state.release();
    }

    /// Consumer: gives back what it has claimed for `index`, for another packet with this index: the
    /// first one was forged.
    #[inline(always)]
    pub fn put_back(&self, index: ExtendedSeq) {
        self.state.put_back(index);
    }

    /// Producer: takes an entry that is free, or whose index lies below `stale_below`. `false`: it
    /// still waits for its packet, or a consumer reads it.
    pub fn begin(&self, stale_below: ExtendedSeq) -> bool {
        self.state.begin(stale_below)
    }

    /// Producer: the entry that it has begun now holds everything of `index`.
    pub fn publish(&self, index: ExtendedSeq) {
        self.state.publish(index);
    }

    /// Producer, before it wipes the entry: takes it for ever, so that no packet that still finds the
    /// ring is sealed with zeros. `false`: a consumer reads it just now.
    pub fn close(&self) -> bool {
        self.state.close()
    }

    /// Producer: overwrites the secrets of an entry.
    ///
    /// # Safety
    /// `this` is an entry that the caller has closed.
    pub unsafe fn wipe(this: *mut Self) {
        // SAFETY: closed, so nobody else touches these. Volatile, so that it is not left out.
        unsafe {
            (&raw mut (*this).mask).write_volatile([0, 0]);
            (&raw mut (*this).keystream).write_volatile([[0, 0]; FAST_BLOCKS]);
            (&raw mut (*this).horner).write_volatile([[0, 0]; FAST_BLOCKS]);
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use loom::{
        cell::UnsafeCell,
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
        thread,
    };

    use super::{BUSY, FREE, State};
    use crate::ExtendedSeq;

    /// An entry in loom's world: it fails the test when two threads are in `content` at once.
    struct Model {
        state: AtomicU64,
        /// The index whose keystream the entry holds.
        content: UnsafeCell<u64>,
    }

    impl State for AtomicU64 {
        fn load(&self) -> u64 {
            self.load(Ordering::Relaxed)
        }

        fn compare_exchange(&self, old: u64, new: u64) -> bool {
            self.compare_exchange(old, new, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        }
    }

    // SAFETY: what the model is to show; loom watches `content`.
    unsafe impl Sync for Model {}
    // SAFETY: as above.
    unsafe impl Send for Model {}

    impl Model {
        fn new() -> Arc<Self> {
            Arc::new(Self { state: AtomicU64::new(FREE), content: UnsafeCell::new(u64::MAX) })
        }

        /// One round of the producer: the entry is to hold `index`.
        fn produce(&self, index: u64, stale_below: u64) -> bool {
            let begun = State::begin(&self.state, ExtendedSeq(stale_below));
            if begun {
                // SAFETY: begun.
                self.content.with_mut(|content| unsafe { *content = index });
                State::publish(&self.state, ExtendedSeq(index));
            }
            begun
        }

        /// The packet with `index`; a forged one gives the entry back. Says whether it had keystream.
        fn consume(&self, index: u64, forged: bool) -> bool {
            if !State::claim(&self.state, ExtendedSeq(index)) {
                return false;
            }
            // SAFETY: claimed.
            let content = self.content.with(|content| unsafe { *content });
            assert_eq!(content, index, "keystream of another index");
            if forged {
                State::put_back(&self.state, ExtendedSeq(index));
            } else {
                State::release(&self.state);
            }
            true
        }
    }

    /// Two CPUs hold packets of the same and of the next index, while the producer reclaims and refills.
    #[test]
    fn no_schedule_gives_torn_or_foreign_keystream() {
        let mut model = loom::model::Builder::new();
        // All schedules take two minutes; those with more than three preemptions have found nothing else.
        model.preemption_bound = Some(3);
        model.check(|| {
            let entry = Model::new();
            entry.produce(0, 0);
            let producer = {
                let entry = Arc::clone(&entry);
                thread::spawn(move || {
                    entry.produce(1, 1);
                    entry.produce(2, 2);
                })
            };
            let other = {
                let entry = Arc::clone(&entry);
                thread::spawn(move || {
                    entry.consume(0, true);
                    entry.consume(1, false);
                })
            };
            entry.consume(0, false);
            entry.consume(2, false);
            producer.join().unwrap();
            other.join().unwrap();
            assert_ne!(State::load(&entry.state), BUSY, "an entry was lost");
        });
    }

    /// A ring is wiped while packets may still find it.
    #[test]
    fn nobody_reads_what_is_wiped() {
        loom::model(|| {
            let entry = Model::new();
            entry.produce(3, 0);
            let consumer = {
                let entry = Arc::clone(&entry);
                thread::spawn(move || {
                    entry.consume(3, true);
                    entry.consume(3, false);
                })
            };
            let closed = State::close(&entry.state);
            if closed {
                // SAFETY: closed.
                entry.content.with_mut(|content| unsafe { *content = 0 });
            }
            consumer.join().unwrap();
            assert!(!closed || (!entry.consume(3, false) && !entry.produce(4, 4)), "an entry was opened again");
            assert!(closed || State::close(&entry.state));
        });
    }

    #[test]
    fn of_two_packets_with_one_index_one_gets_the_keystream() {
        loom::model(|| {
            let entry = Model::new();
            entry.produce(7, 0);
            let other = {
                let entry = Arc::clone(&entry);
                thread::spawn(move || entry.consume(7, false))
            };
            let first = entry.consume(7, false);
            assert!(first ^ other.join().unwrap());
            assert!(!entry.consume(7, false));
        });
    }

    #[test]
    fn what_waits_for_its_packet_is_not_reclaimed_before_it_is_stale() {
        loom::model(|| {
            let entry = Model::new();
            assert!(entry.produce(5, 0));
            assert!(!entry.produce(14, 5));
            assert!(entry.consume(5, true) && entry.consume(5, false));
            assert!(entry.produce(14, 5));
            assert!(entry.produce(23, 15) && !entry.consume(14, false) && entry.consume(23, false));
        });
    }
}
