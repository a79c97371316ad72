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
    reserved: u64,
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

impl Entry {
    /// Consumer: takes the entry, if it holds the keystream of `index`.
    #[inline(always)]
    pub fn claim(&self, index: ExtendedSeq) -> bool {
        atomic::compare_exchange(&self.state, ready(index), BUSY)
    }

    /// Consumer: gives back what it has claimed, used.
    #[inline(always)]
    pub fn release(&self) {
        atomic::compare_exchange(&self.state, BUSY, FREE);
    }

    /// Consumer: gives back what it has claimed for `index`, for another packet with this index: the
    /// first one was forged.
    #[inline(always)]
    pub fn put_back(&self, index: ExtendedSeq) {
        atomic::compare_exchange(&self.state, BUSY, ready(index));
    }

    /// Producer: takes an entry that is free, or whose index lies below `stale_below`. `false`: it
    /// still waits for its packet, or a consumer reads it.
    pub fn begin(&self, stale_below: ExtendedSeq) -> bool {
        let state = atomic::load(&self.state);
        let free = state == FREE || (state != BUSY && state < ready(stale_below));
        free && atomic::compare_exchange(&self.state, state, BUSY)
    }

    /// Producer: the entry that it has begun now holds everything of `index`.
    pub fn publish(&self, index: ExtendedSeq) {
        atomic::compare_exchange(&self.state, BUSY, ready(index));
    }
}
