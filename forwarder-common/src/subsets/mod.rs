//! GHASH of one packet under two keys, by the sums of all subsets of its blocks.
//!
//! GHASH is Σ blockₑ · Hᵉ, with e counted from the packet's end. Written out by the bits of the powers
//! of H, it is
//!
//! ```text
//! Σ xᵏ · ( Σ blockₑ, for those e whose Hᵉ has xᵏ )      k = 127 … 0, by Horner's rule
//! ```
//!
//! The inner sums are over subsets of the blocks. So the blocks are taken in groups of five, and the
//! sums of all 32 subsets of each group computed once ([`Sums`]): that is the packet's side, and both
//! keys use it. A key's side says which subset it is, for each k and group ([`Subsets`], computed once
//! for a key). What is left for a key is an XOR for each group and k, and 128 shifts. (This is the
//! "method of the four Russians" for a product of bit matrices.)
//!
//! Compared with [`crate::gf128`]: fewer look-ups, none of which waits for another; 2 KB of a key that
//! are read in order instead of 8 KB that are read at random; and the tables that are read at random
//! belong to the packet. Compared with [`crate::tower`]: nearly nothing to compute before the first key,
//! but more for each one. Decision 17 has the figures.
//!
//! The blocks are plaintext. A packet's ciphertext is plaintext plus keystream, GHASH is linear, and the
//! keystream's share is known before the packet ([`crate::keystream::Entry::horner`]): as a block, it
//! is added to the payload's last one.

pub mod derive;
mod look_up;

use crate::{gf128::Block, order};

/// Blocks of a group.
pub const GROUP: usize = 5;

/// Groups that a key reaches.
pub const GROUPS: usize = 19;

/// Blocks that a key reaches: 91 of payload, one of header, one of lengths.
pub const BLOCKS: usize = GROUP * GROUPS;

/// Bits of an element.
const BITS: usize = 128;

/// Subsets of a group.
const SUBSETS: usize = 1 << GROUP;

/// Which subsets of blocks a key adds up: for each group and coefficient, that of x¹²⁷ first, eight times
/// the number of the subset, which has bit t for the group's block t. 2,432 bytes. Secret.
///
/// Eight times, because that is the distance of the subset's sum, and as much as a byte holds: the
/// verifier then knows that no byte leads out of a table.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Subsets(pub [[u8; BITS]; GROUPS]);

impl Subsets {
    /// What a slot without a key holds.
    pub const EMPTY: Subsets = Subsets([[0; BITS]; GROUPS]);

    /// Overwrites the secret, in a way that the compiler may not leave out.
    pub fn wipe(&mut self) {
        // SAFETY: `self` is a valid, exclusive, aligned place for one value of this type.
        unsafe { core::ptr::write_volatile(self, Self::EMPTY) };
        core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
    }
}

/// A block as the number whose highest bit is the coefficient of x⁰: its two halves.
type Halves = [u64; 2];

/// A packet's side: 11,272 bytes. Plaintext.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sums {
    /// For each group, the sums of its subsets: their first halves, then their second halves.
    sums: [[[u64; SUBSETS]; 2]; GROUPS],
    /// Block e is number e − 1: lengths, payload from its end, header from its end.
    blocks: [Halves; BLOCKS],
    /// Result of [`total`].
    pub total: Block,
    /// For the datapath: Internet checksum of the ciphertext.
    pub checksum: u64,
}

/// Writes a block. Without effect beyond the last one.
#[inline(always)]
pub fn put(sums: &mut Sums, place: usize, block: Block) {
    if place < BLOCKS {
        sums.blocks[order::below::<BLOCKS>(place)] = [block[0].swap_bytes(), block[1].swap_bytes()];
    }
}

/// Writes four blocks, given by their words, the first one to the highest place. `None`: there is no room for them.
#[inline(always)]
pub fn put_four(sums: &mut Sums, place: usize, word: impl Fn(usize) -> u64) -> Option<()> {
    if !(3..BLOCKS).contains(&place) {
        return None;
    }
    let last = order::below::<{ BLOCKS - 3 }>(place - 3);
    let mut n = 0;
    while n < 4 {
        sums.blocks[last + 3 - n] = [word(2 * n).swap_bytes(), word(2 * n + 1).swap_bytes()];
        n += 1;
    }
    Some(())
}

/// Adds to a block. Without effect beyond the last one.
#[inline(always)]
pub fn add(sums: &mut Sums, place: usize, block: Block) {
    if place < BLOCKS {
        let place = order::below::<BLOCKS>(place);
        sums.blocks[place][0] ^= block[0].swap_bytes();
        sums.blocks[place][1] ^= block[1].swap_bytes();
    }
}

/// Sums up the subsets of a group. Without effect beyond the last one.
#[inline(always)]
pub fn sum_up(sums: &mut Sums, group: usize) {
    if group >= GROUPS {
        return;
    }
    let mut half = 0;
    while half < 2 {
        let at = group * GROUP;
        let block = |t: usize| sums.blocks[at + t][half];
        let blocks = [block(0), block(1), block(2), block(3), block(4)];
        let to = &mut sums.sums[group][half];
        let mut sum = 0;
        to[0] = sum;
        // In the order of a Gray code each subset differs from the one before by one block. Written out
        // so that no index is left to be checked.
        macro_rules! change {
            ($($block:literal to $subset:literal,)+) => { $(sum ^= blocks[$block]; to[$subset] = sum;)+ };
        }
        change!(0 to 1, 1 to 3, 0 to 2, 2 to 6, 0 to 7, 1 to 5, 0 to 4, 3 to 12, 0 to 13, 1 to 15, 0 to 14,);
        change!(2 to 10, 0 to 11, 1 to 9, 0 to 8, 4 to 24, 0 to 25, 1 to 27, 0 to 26, 2 to 30, 0 to 31,);
        change!(1 to 29, 0 to 28, 3 to 20, 0 to 21, 1 to 23, 0 to 22, 2 to 18, 0 to 19, 1 to 17, 0 to 16,);
        half += 1;
    }
}

/// Times x.
#[inline(always)]
const fn times_x([first, second]: Halves) -> Halves {
    /// x¹²⁸ = 1 + x + x² + x⁷.
    const REDUCTION: u64 = 0xe1 << 56;
    let carry = second & 1;
    [first >> 1 ^ carry.wrapping_neg() & REDUCTION, second >> 1 | first << 63]
}

/// GHASH under a key of the first `N` groups, all of whose subsets have been summed up.
#[inline(always)]
pub fn total<const N: usize>(sums: &Sums, key: &Subsets) -> Block {
    const { assert!(N <= GROUPS) };
    let mut total = [0; 2];
    let mut bit = 0;
    while bit < BITS {
        let sum = look_up::sum::<N>(sums, key, bit);
        total = times_x(total);
        total = [total[0] ^ sum[0], total[1] ^ sum[1]];
        bit += 1;
    }
    [total[0].swap_bytes(), total[1].swap_bytes()]
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `repr(C)` of bytes; every bit pattern is a valid value.
    unsafe impl aya::Pod for super::Subsets {}
}

#[cfg(test)]
mod tests;
