//! The field itself, bit by bit: for what is computed once (tables of constants, powers of a key's H).
//!
//! An element is its 16 bytes read as one big-endian number, so the highest bit is the coefficient of
//! x^0, as in SP 800-38D §6.3.

use crate::gf128::{self, Block};

/// 1.
pub const ONE: u128 = 1 << 127;

/// x, which generates GF(2^128) over each of its subfields.
pub const X: u128 = 1 << 126;

/// Generates the multiplicative group of the subfield GF(256). Its minimal polynomial is
/// x^8 + x^7 + x^2 + x + 1; `derive` builds on that.
pub const SUBFIELD_GENERATOR: u128 = 0x8850_4218_a4c5_dbdc_fe69_7273_dfaf_1026;

/// The element that a block of GHASH stands for.
pub const fn from_block(block: Block) -> u128 {
    u128::from_be_bytes(gf128::to_bytes(block))
}

/// The block of an element.
pub const fn to_block(element: u128) -> Block {
    gf128::from_bytes(element.to_be_bytes())
}

/// Product of two elements. Takes the same time for all of them.
pub const fn multiply(x: u128, y: u128) -> u128 {
    let (mut product, mut power) = (0, y);
    let mut bit = 128;
    while bit > 0 {
        bit -= 1;
        product ^= power & (x >> bit & 1).wrapping_neg();
        power = gf128::times_x(power);
    }
    product
}

/// `x` to the power of `n`.
pub const fn power(x: u128, n: u32) -> u128 {
    let (mut result, mut square, mut rest) = (ONE, x, n);
    while rest > 0 {
        if rest & 1 == 1 {
            result = multiply(result, square);
        }
        square = multiply(square, square);
        rest >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_are_those_of_the_tables() {
        let (mut x, mut y) = (0x1234_5678_9abc_def0_0fed_cba9_8765_4321, X);
        for _ in 0..50 {
            let mut table = [[[0; 2]; 16]; gf128::POSITIONS];
            gf128::fill(&mut table, to_block(y));
            let product = multiply(x, y);
            assert_eq!(gf128::multiply(&table, to_block(x)), to_block(product));
            (x, y) = (y, product);
        }
        assert_eq!((multiply(x, ONE), multiply(ONE, x)), (x, x));
    }

    #[test]
    fn the_generator_generates_the_subfield() {
        let g = SUBFIELD_GENERATOR;
        assert_eq!(power(g, 255), ONE);
        for divisor in [3, 5, 17] {
            assert_ne!(power(g, 255 / divisor), ONE);
        }
        assert_eq!(power(g, 8) ^ power(g, 7) ^ power(g, 2) ^ g ^ ONE, 0);
    }
}
