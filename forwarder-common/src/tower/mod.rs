//! GHASH of one packet under many keys, without a multiplication by table for each block and key.
//!
//! A product in GF(2^128) is `gather(spread(x) & spread(y))`, where both maps are linear and the AND
//! is bit by bit over 768 bits. So GHASH, a sum of blocks times powers of H, becomes
//!
//! ```text
//! gather( Σ spread(blockᵣ) & spread(Hʳ) )
//! ```
//!
//! The left side, [`PacketRows`], is computed once for a packet and shared by all copies; the right
//! side, [`KeyTable`], once for a key. What is left for a copy is an AND and an XOR for each of 12
//! words of each block, at constant addresses. Where the maps come from: [`derive`].
//!
//! The rows hold plaintext. A copy's ciphertext is plaintext plus keystream, GHASH is linear, and the
//! keystream's share is known before the packet ([`crate::keystream::Entry::horner`]).
//!
//! Rows are counted from the end of what GHASH hashes, so one table fits packets of every length:
//! row 0 is the block of lengths, row 1 the payload's last block, and so on.

pub mod derive;
pub mod field;

use crate::{gf128::Block, order};

/// Words that stand for an element.
pub const COLUMNS: usize = 12;

/// Blocks that a table reaches: 91 of payload, one of header, one of lengths, in whole groups.
pub const ROWS: usize = 96;

/// Rows that [`sum`] takes at a time. Those behind the last one in use must hold zeros.
pub const GROUP: usize = 8;

/// Blocks of payload, in all copies of a packet together, from which rows pay. Measured: decision 11.
pub const WORK: u32 = 128;

/// Words of an element that tables know; the others are combinations of them.
const NARROW: usize = 4;

/// Bits by which the tables are indexed: 4 makes 32 KB of them, 8 would make 256 KB, half the look-ups,
/// and most of them out of the cache (decision 11).
const BITS: usize = 4;

/// Look-ups for a word.
const PLACES: usize = 64 / BITS;

/// Takes the bits of one look-up.
const MASK: usize = (1 << BITS) - 1;

/// An element, or a sum of products, as 24 bits at each of 31 points: words 0 to 7 hold elements of
/// GF(4) (low half: 1, high half: ω), words 8 to 11 the sums of their two bits.
pub type Spread = [u64; COLUMNS];

/// Spread powers of a key's H: row r is the power r + 1. 9,216 bytes. Secret.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct KeyTable(pub [[u64; ROWS]; COLUMNS]);

impl KeyTable {
    /// What a slot without a key holds.
    pub const EMPTY: KeyTable = KeyTable([[0; ROWS]; COLUMNS]);

    /// Overwrites the secret, in a way that the compiler may not leave out.
    pub fn wipe(&mut self) {
        // SAFETY: `self` is a valid, exclusive, aligned place for one value of this type.
        unsafe { core::ptr::write_volatile(self, Self::EMPTY) };
        core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
    }
}

/// Spread blocks of a packet. 9,216 bytes. Plaintext.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PacketRows(pub [[u64; ROWS]; COLUMNS]);

/// The two maps. 32 KB, the same for all keys; no secret.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Tables {
    spread: [[[u64; NARROW]; MASK + 1]; 2 * PLACES],
    gather: [[Block; MASK + 1]; NARROW * PLACES],
}

impl Tables {
    /// Before [`derive::Basis::fill`].
    pub const EMPTY: Tables =
        Tables { spread: [[[0; NARROW]; MASK + 1]; 2 * PLACES], gather: [[[0; 2]; MASK + 1]; NARROW * PLACES] };
}

/// Reads a word of a table. Volatile, because LLVM would move all loads to the front, and has nowhere
/// to keep what they load but the 512 bytes of stack that BPF has.
#[inline(always)]
fn load(word: &u64) -> u64 {
    // SAFETY: a reference is valid for reads.
    unsafe { core::ptr::read_volatile(word) }
}

/// Product with ω of elements of GF(4).
#[inline(always)]
const fn omega(w: u64) -> u64 {
    w >> 32 | (w ^ w >> 32) << 32
}

/// Sums of the two bits of the elements in `a` (low half) and `b` (high half).
#[inline(always)]
const fn halves(a: u64, b: u64) -> u64 {
    ((a ^ a >> 32) & 0xffff_ffff) | (b ^ b << 32) & !0xffff_ffff
}

/// All words of an element from those that tables know.
#[inline(always)]
const fn expand([u0, u1, u2, u3]: [u64; NARROW]) -> Spread {
    let (u4, u5) = (u0 ^ u2 ^ omega(u1), u2 ^ u3);
    let (u6, u7) = (u1 ^ u2 ^ u3 ^ omega(u0), u0 ^ u1 ^ u3);
    [u0, u1, u2, u3, u4, u5, u6, u7, halves(u0, u1), halves(u2, u3), halves(u4, u5), halves(u6, u7)]
}

/// From three products of bits each to elements of GF(4), and from eight of them to four combinations.
#[inline(always)]
const fn contract(p: &Spread) -> [u64; NARROW] {
    /// (a + bω)(c + dω) = ac + bd + (ac + (a + b)(c + d))·ω; `p` has ac and bd, `sums` the last product.
    const fn element(p: u64, sums: u64) -> u64 {
        ((p ^ p >> 32) & 0xffff_ffff) | (p ^ sums) << 32
    }
    let (g0, g1) = (element(p[0], p[8]), element(p[1], p[8] >> 32));
    let (g2, g3) = (element(p[2], p[9]), element(p[3], p[9] >> 32));
    let (g4, g5) = (element(p[4], p[10]), element(p[5], p[10] >> 32));
    let (g6, g7) = (element(p[6], p[11]), element(p[7], p[11] >> 32));
    [g0 ^ g1 ^ g6 ^ g7, g0 ^ g2 ^ g5 ^ g7, g0 ^ g3 ^ g6 ^ omega(g0 ^ g5), g0 ^ g4 ^ g7 ^ omega(g6 ^ g7)]
}

/// Spreads a block.
#[inline(always)]
pub fn spread(tables: &Tables, block: Block) -> Spread {
    let mut words = [0; NARROW];
    let mut half = 0;
    while half < 2 {
        let mut rest = block[half];
        let mut place = 0;
        while place < PLACES {
            let row = &tables.spread[half * PLACES + place][rest as usize & MASK];
            let row = [load(&row[0]), load(&row[1]), load(&row[2]), load(&row[3])];
            order::xor_words(&mut words, row, &mut rest);
            rest >>= BITS;
            place += 1;
        }
        half += 1;
    }
    expand(words)
}

/// The block of a sum of products.
#[inline(always)]
pub fn gather(tables: &Tables, sum: &Spread) -> Block {
    let words = contract(sum);
    let mut block = [0, 0];
    let mut word = 0;
    while word < NARROW {
        let mut rest = words[word];
        let mut place = 0;
        while place < PLACES {
            let row = &tables.gather[word * PLACES + place][rest as usize & MASK];
            order::xor_block(&mut block, [load(&row[0]), load(&row[1])], &mut rest);
            rest >>= BITS;
            place += 1;
        }
        word += 1;
    }
    block
}

/// Sum of the products of the first `groups` times [`GROUP`] rows.
#[inline(always)]
pub fn sum(key: &KeyTable, rows: &PacketRows, groups: usize) -> Spread {
    let mut total = [0; COLUMNS];
    let mut column = 0;
    while column < COLUMNS {
        total[column] = sum_column(&key.0[column], &rows.0[column], groups);
        column += 1;
    }
    total
}

/// One word of [`sum`].
#[inline(always)]
pub fn sum_column(key: &[u64; ROWS], rows: &[u64; ROWS], groups: usize) -> u64 {
    let mut total = 0;
    let mut row = 0;
    while row < ROWS && row < groups * GROUP {
        let mut step = 0;
        while step < GROUP {
            total ^= load(&key[row + step]) & load(&rows[row + step]);
            step += 1;
        }
        row += GROUP;
    }
    total
}

/// Adds the product of an element with the power of H in `row`. Without effect outside of the table.
#[inline(always)]
pub fn add(total: &mut Spread, element: &Spread, key: &KeyTable, row: usize) {
    if row >= ROWS {
        return;
    }
    let row = order::below::<ROWS>(row);
    let mut column = 0;
    while column < COLUMNS {
        total[column] ^= element[column] & load(&key.0[column][row]);
        column += 1;
    }
}

/// Writes an element to a row of a packet. Without effect outside of the rows.
#[inline(always)]
pub fn put(rows: &mut PacketRows, row: usize, element: &Spread) {
    if row >= ROWS {
        return;
    }
    let row = order::below::<ROWS>(row);
    let mut column = 0;
    while column < COLUMNS {
        rows.0[column][row] = element[column];
        column += 1;
    }
}

/// Groups of rows that a payload of so many blocks needs, with its block of lengths.
#[inline(always)]
pub const fn groups(blocks: usize) -> usize {
    blocks / GROUP + 1
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: `repr(C)` of integers without padding; every bit pattern is a valid value.
    unsafe impl aya::Pod for super::KeyTable {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Tables {}
}

#[cfg(test)]
mod tests;
