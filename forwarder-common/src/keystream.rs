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
//!   READY(i) ── claim(i) ──► BUSY ── publish(i) ──► READY(i), longer
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
//! An entry need not be full: the producer fills in as many blocks as the track's payloads have had
//! lately, and writes their number into the entry. What lies behind them is keystream of an earlier
//! index, which must never be used again. It cannot be: the number is written together with the blocks,
//! between `begin` and `publish`, so whoever has claimed the entry sees the number that belongs to its
//! index; and [`claim`](Entry::claim) gives the entry back when the payload needs more. Nothing behind
//! the number is ever read.
//!
//! When payloads get longer, the producer claims entries that wait for their packets, as a consumer
//! would, fills them again and publishes them for the same index. The keystream of an index is the same
//! however often it is computed.
//!
//! The ring does not decide whether an index may be used: that follows from the replay list and the
//! fixed offset (see `egress.rs`). It only says what the keystream of an index is.

use core::sync::atomic::AtomicU64;

use crate::{ExtendedSeq, atomic, gf128::Block};

/// Most blocks of keystream that are used of an entry: those of the longest payload that is forwarded.
pub const FAST_BLOCKS: usize = crate::maps::MAX_PAYLOAD.div_ceil(16);

/// Largest payload that an entry serves, in bytes.
pub const FAST_PAYLOAD: usize = 16 * FAST_BLOCKS;

/// Blocks of keystream from one stored GHASH state to the next.
pub const STEP: usize = 4;

/// Places for blocks in an entry: whole steps, so that a producer may write them at once.
pub const ROOM: usize = FAST_BLOCKS.next_multiple_of(STEP);

/// Everything about one packet that is known before it. 1,920 bytes, whole cache lines. Secret.
#[repr(C, align(64))]
pub struct Entry {
    state: AtomicU64,
    /// In the first entry of a ring: how many it has. The datapath reads it there, so that it sees a
    /// ring and its size change at once. 0 in the place of a track without a ring.
    entries: AtomicU64,
    /// How many blocks of keystream belong to the index, 1 to [`FAST_BLOCKS`]. Written by the producer
    /// between `begin` and `publish`; atomic, because it reads it later without a claim.
    blocks: AtomicU64,
    /// Encrypted counter block 1, which masks the tag.
    pub mask: Block,
    reserved: [u64; 3],
    /// GHASH states over the keystream, one for every fourth block: `horner[j]` is the one over the first
    /// n = 4·j + `first_step` blocks, that is K₁·Hⁿ ⊕ K₂·Hⁿ⁻¹ ⊕ … ⊕ Kₙ·H. The share of m blocks, the
    /// last one masked to the payload, in the tag is
    /// `horner[j]`·Hᵐ⁺¹⁻ⁿ ⊕ Kₙ₊₁·Hᵐ⁺¹⁻ⁿ ⊕ … ⊕ Kₘ·H², where n is below m.
    pub horner: [Block; ROOM / STEP],
    /// Encrypted counter blocks 2, 3, …
    pub keystream: [Block; ROOM],
}

/// Blocks of an entry that serves payloads of so many bytes.
#[inline(always)]
pub const fn blocks_for(payload_len: usize) -> usize {
    let blocks = payload_len.div_ceil(16);
    if blocks == 0 { 1 } else { blocks }
}

/// For an entry of so many blocks: over how many of them the first GHASH state is, 0 to 3. It is chosen
/// so that the longest payload, which most packets have, needs but one product for its share.
#[inline(always)]
pub const fn first_step(blocks: usize) -> usize {
    (blocks + STEP - 1) % STEP
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

    /// Consumer: takes the entry, if it holds the keystream of `index`, and enough of it for `payload_len`
    /// bytes.
    #[inline(always)]
    pub fn claim(&self, index: ExtendedSeq, payload_len: usize) -> bool {
        if !self.state.claim(index) {
            return false;
        }
        let enough = payload_len <= 16 * self.blocks();
        if !enough {
            self.state.put_back(index);
        }
        enough
    }

    /// How many blocks of keystream the entry has. Says something about the index that the caller has
    /// claimed; to the producer, who alone changes it, also without that.
    #[inline(always)]
    pub fn blocks(&self) -> usize {
        atomic::load(&self.blocks) as usize
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

    /// Producer: takes an entry that waits for the packet with `index`, to fill it again with more
    /// blocks and to publish it for the same index.
    pub fn begin_again(&self, index: ExtendedSeq) -> bool {
        self.state.claim(index)
    }

    /// Producer: the entry that it has begun gets so many blocks.
    pub fn set_blocks(&self, blocks: usize) {
        debug_assert!(blocks > 0 && blocks <= FAST_BLOCKS);
        atomic::store(&self.blocks, blocks as u64);
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
            (&raw mut (*this).keystream).write_volatile([[0, 0]; ROOM]);
            (&raw mut (*this).horner).write_volatile([[0, 0]; ROOM / STEP]);
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
        /// The index whose keystream the entry holds, and how many blocks of it.
        content: UnsafeCell<(u64, u64)>,
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
            Arc::new(Self { state: AtomicU64::new(FREE), content: UnsafeCell::new((u64::MAX, 0)) })
        }

        /// One round of the producer: the entry is to hold `index`.
        fn produce(&self, index: u64, stale_below: u64) -> bool {
            let begun = State::begin(&self.state, ExtendedSeq(stale_below));
            if begun {
                // SAFETY: begun.
                self.content.with_mut(|content| unsafe { *content = (index, 1) });
                State::publish(&self.state, ExtendedSeq(index));
            }
            begun
        }

        /// The producer makes the entry longer that waits for `index`.
        fn lengthen(&self, index: u64) -> bool {
            let begun = State::claim(&self.state, ExtendedSeq(index));
            if begun {
                // SAFETY: begun.
                self.content.with_mut(|content| unsafe { *content = (index, 2) });
                State::publish(&self.state, ExtendedSeq(index));
            }
            begun
        }

        /// The packet with `index`, which needs two blocks. Says whether it had them.
        fn consume_long(&self, index: u64) -> bool {
            if !State::claim(&self.state, ExtendedSeq(index)) {
                return false;
            }
            // SAFETY: claimed.
            let (content, blocks) = self.content.with(|content| unsafe { *content });
            assert_eq!(content, index, "keystream of another index");
            if blocks < 2 {
                State::put_back(&self.state, ExtendedSeq(index));
            } else {
                State::release(&self.state);
            }
            blocks == 2
        }

        /// The packet with `index`; a forged one gives the entry back. Says whether it had keystream.
        fn consume(&self, index: u64, forged: bool) -> bool {
            if !State::claim(&self.state, ExtendedSeq(index)) {
                return false;
            }
            // SAFETY: claimed.
            let (content, _) = self.content.with(|content| unsafe { *content });
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
                entry.content.with_mut(|content| unsafe { *content = (0, 0) });
            }
            consumer.join().unwrap();
            assert!(!closed || (!entry.consume(3, false) && !entry.produce(4, 4)), "an entry was opened again");
            assert!(closed || State::close(&entry.state));
        });
    }

    /// The producer makes an entry longer while one CPU has a packet that is too long for it, and another
    /// one a packet with the same index that is not; then it takes the place for another index.
    #[test]
    fn entries_get_longer_under_packets() {
        loom::model(|| {
            let entry = Model::new();
            entry.produce(5, 0);
            let producer = {
                let entry = Arc::clone(&entry);
                thread::spawn(move || {
                    entry.lengthen(5);
                    entry.produce(14, 6);
                })
            };
            let other = {
                let entry = Arc::clone(&entry);
                thread::spawn(move || entry.consume_long(5))
            };
            let short = entry.consume(5, false);
            producer.join().unwrap();
            let long = other.join().unwrap();
            assert!(!(short && long), "two packets got the keystream of one index");
            assert_ne!(State::load(&entry.state), BUSY, "an entry was lost");
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
