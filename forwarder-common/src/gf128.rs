//! GF(2^128) as GHASH uses it (NIST SP 800-38D §6.3): multiplication by a fixed H, by table.
//!
//! A block is two `u64`, the 16 bytes of memory read as little-endian words, so packet bytes enter
//! and leave without a swap. The first bit of the first byte (its most significant one) is the
//! coefficient of x^0.

use crate::order;

/// A block, or an element of the field.
pub type Block = [u64; 2];

/// Nibbles of a block.
pub const POSITIONS: usize = 32;

/// `table[position][nibble]`: the product of H with the block that has `nibble` at nibble
/// `position` and zeros elsewhere. Even positions are the high nibbles of their byte.
pub type Table = [[Block; 16]; POSITIONS];

/// The 16 bytes of a block.
pub const fn to_bytes(block: Block) -> [u8; 16] {
    ((block[1] as u128) << 64 | block[0] as u128).to_le_bytes()
}

/// The block of 16 bytes.
pub const fn from_bytes(bytes: [u8; 16]) -> Block {
    let v = u128::from_le_bytes(bytes);
    [v as u64, (v >> 64) as u64]
}

/// Product with x, on the field's natural form (bytes read as one big-endian number).
pub(crate) const fn times_x(v: u128) -> u128 {
    (v >> 1) ^ ((v & 1) * (0xe1 << 120))
}

/// Fills in the table of `h`.
pub fn fill(table: &mut Table, h: Block) {
    let mut power = u128::from_be_bytes(to_bytes(h));
    for row in table.iter_mut() {
        // The nibble's most significant bit has the lowest power of x.
        for bit in [8, 4, 2, 1] {
            let product = from_bytes(power.to_be_bytes());
            for nibble in (0..16).filter(|nibble| nibble & bit != 0) {
                row[nibble][0] ^= product[0];
                row[nibble][1] ^= product[1];
            }
            power = times_x(power);
        }
    }
}

/// Product of `y` with the table's H: 32 lookups.
#[inline(always)]
pub fn multiply(table: &Table, y: Block) -> Block {
    let mut product = [0, 0];
    let mut word = 0;
    while word < 2 {
        let mut rest = y[word];
        let mut byte = 0;
        while byte < 8 {
            let position = 16 * word + 2 * byte;
            let low = table[position + 1][rest as usize & 0xf];
            order::xor_block(&mut product, low, &mut rest);
            let high = table[position][(rest >> 4) as usize & 0xf];
            order::xor_block(&mut product, high, &mut rest);
            rest >>= 8;
            byte += 1;
        }
        word += 1;
    }
    product
}

/// The last block of GHASH: lengths of the additional data and of the ciphertext, given in bytes.
#[inline(always)]
pub const fn lengths(aad: u64, ciphertext: u64) -> Block {
    [(aad << 3).swap_bytes(), (ciphertext << 3).swap_bytes()]
}

/// Mask that keeps the first `bytes` (1 to 15) of a block.
#[inline(always)]
pub const fn mask(bytes: u32) -> Block {
    if bytes >= 8 { [!0, (1 << (8 * (bytes & 7))) - 1] } else { [(1 << (8 * (bytes & 7))) - 1, 0] }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SP 800-38D §6.3, algorithm 1, bit by bit.
    fn slow(x: u128, y: u128) -> u128 {
        let (mut z, mut v) = (0, y);
        for i in 0..128 {
            if x >> (127 - i) & 1 == 1 {
                z ^= v;
            }
            v = times_x(v);
        }
        z
    }

    /// xorshift128: enough for test data.
    fn random(state: &mut u128) -> u128 {
        *state ^= *state << 23;
        *state ^= *state >> 17;
        *state ^= *state << 26;
        *state
    }

    #[test]
    fn table_equals_bitwise_product() {
        let mut state = 0x0123_4567_89ab_cdef_0f1e_2d3c_4b5a_6978;
        for _ in 0..50 {
            let h = random(&mut state);
            let mut table = [[[0; 2]; 16]; POSITIONS];
            fill(&mut table, from_bytes(h.to_be_bytes()));
            for y in [1, 1 << 127, !0, random(&mut state), random(&mut state)] {
                let product = multiply(&table, from_bytes(y.to_be_bytes()));
                assert_eq!(u128::from_be_bytes(to_bytes(product)), slow(y, h));
            }
        }
    }

    #[test]
    fn masks_keep_the_first_bytes() {
        for n in 1..16 {
            let bytes = to_bytes(mask(n as u32));
            for (i, byte) in bytes.iter().enumerate() {
                assert_eq!(*byte, if i < n { 0xff } else { 0 });
            }
        }
    }

    #[test]
    fn lengths_are_big_endian_bits() {
        let bytes = to_bytes(lengths(12, 0x1234));
        assert_eq!(bytes, [0, 0, 0, 0, 0, 0, 0, 96, 0, 0, 0, 0, 0, 0, 0x91, 0xa0]);
    }
}
