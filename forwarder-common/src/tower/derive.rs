//! Where the numbers of the tower come from: computed when the datapath is loaded, by userspace.
//!
//! GF(2^128) has a subfield GF(256), over which x has degree 16. So an element is a polynomial of
//! degree 15 in x with coefficients from GF(256), and a product has degree 30: its values at 31 points
//! determine it. A value at a point is one element of GF(256), and two of those are multiplied by
//! eight products in GF(4):
//!
//! ```text
//! u·v = Σ cₖ · φₖ(u) · φₖ(v),  φₖ(u) = Tr(aₖ · u), the trace from GF(256) to GF(4)
//! ```
//!
//! φ₄ to φ₇ are combinations of φ₀ to φ₃ with coefficients from GF(4), and the sum over eight products
//! is one over four combinations of them: [`super::expand`] and [`super::contract`]. The exponents below
//! were found by search, among many sets of eight, for cheap combinations. An element of GF(4) is two
//! bits, a + bω, and a product of two is three products of bits (Karatsuba).

use super::{
    BITS, KeyTable, NARROW, ROWS, Spread, Tables, expand,
    field::{self, ONE, SUBFIELD_GENERATOR, X, multiply, power},
};
use crate::gf128::{self, Block};

/// Points at which elements are evaluated: the generator's powers 0 to 30.
const POINTS: usize = 31;
/// a₀ to a₃, as exponents of the generator.
const FORMS: [usize; NARROW] = [1, 211, 199, 74];
/// What the four combinations of products stand for, as exponents of the generator.
const COMBINATIONS: [u32; NARROW] = [75, 64, 39, 21];
/// ω, which with 1 generates GF(4), as an exponent of the generator.
const OMEGA: u32 = 85;

/// The two linear maps by their images of single bits. 8 KB; no secret.
pub struct Basis {
    /// Of the element that has only bit 127 − i.
    spread: [[u64; NARROW]; 128],
    /// Of bit i of each word.
    gather: [[u128; 64]; NARROW],
}

impl Basis {
    /// Computes it: some thousand multiplications, bit by bit.
    pub fn new() -> Self {
        Self { spread: spread_images(), gather: gather_images() }
    }

    /// What [`super::spread`] does, in a way that takes the same time for every element: for keys.
    pub fn spread(&self, element: u128) -> Spread {
        let mut words = [0; NARROW];
        for (i, image) in self.spread.iter().enumerate() {
            let bit = (element >> (127 - i) & 1) as u64;
            for (word, image) in words.iter_mut().zip(image) {
                *word ^= image & bit.wrapping_neg();
            }
        }
        expand(words)
    }

    /// Fills in the datapath's tables.
    pub fn fill(&self, tables: &mut Tables) {
        for (place, rows) in tables.spread.iter_mut().enumerate() {
            for (value, row) in rows.iter_mut().enumerate() {
                // The block's first bit is its first byte's highest one.
                for bit in (0..BITS).filter(|bit| value >> bit & 1 == 1) {
                    let at = place * BITS + bit;
                    let image = self.spread[at / 8 * 8 + 7 - at % 8];
                    row.iter_mut().zip(image).for_each(|(word, image)| *word ^= image);
                }
            }
        }
        for (place, rows) in tables.gather.iter_mut().enumerate() {
            for (value, row) in rows.iter_mut().enumerate() {
                let images = self.gather.as_flattened().iter().skip(place * BITS).take(BITS).enumerate();
                let sum = images.filter(|(bit, _)| value >> bit & 1 == 1).fold(0, |sum, (_, image)| sum ^ image);
                *row = field::to_block(sum);
            }
        }
    }

    /// Fills in the table of a key with this H.
    pub fn derive(&self, h: Block, table: &mut KeyTable) {
        let h = field::from_block(h);
        let mut power = h;
        for row in 0..ROWS {
            let words = self.spread(power);
            for (column, word) in table.0.iter_mut().zip(words) {
                column[row] = word;
            }
            power = multiply(power, h);
        }
    }
}

impl Default for Basis {
    fn default() -> Self {
        Self::new()
    }
}

/// Trace from GF(256) to GF(4) of the generator's powers: a + bω as the number a + 2b.
fn traces() -> [u8; 255] {
    let mut traces = [0; 255];
    let omega = power(SUBFIELD_GENERATOR, OMEGA);
    let mut element = ONE;
    for trace in &mut traces {
        let sum = element ^ power(element, 4) ^ power(element, 16) ^ power(element, 64);
        *trace = match sum {
            0 => 0,
            ONE => 1,
            _ if sum == omega => 2,
            _ => 3,
        };
        element = multiply(element, SUBFIELD_GENERATOR);
    }
    traces
}

/// φ₀ to φ₃ at all points, of each bit: computed for the basis gᵇ·xᵈ, then brought to single bits by
/// elimination.
fn spread_images() -> [[u64; NARROW]; 128] {
    let traces = traces();
    let mut pairs = [(0, [0; NARROW]); 128];
    for (q, (element, words)) in pairs.iter_mut().enumerate() {
        let (d, b) = (q / 8, q % 8);
        *element = multiply(power(X, d as u32), power(SUBFIELD_GENERATOR, b as u32));
        for (word, form) in words.iter_mut().zip(FORMS) {
            for point in 0..POINTS {
                let trace = u64::from(traces[(form + b + point * d) % 255]);
                *word |= (trace & 1) << point | (trace >> 1) << (32 + point);
            }
        }
    }
    for bit in 0..128 {
        let has = |pair: &(u128, _)| pair.0 >> (127 - bit) & 1 == 1;
        let pivot = (bit..128).find(|at| has(&pairs[*at])).unwrap_or(bit);
        pairs.swap(bit, pivot);
        let (element, words) = pairs[bit];
        for (_, pair) in pairs.iter_mut().enumerate().filter(|(at, pair)| *at != bit && has(pair)) {
            pair.0 ^= element;
            pair.1.iter_mut().zip(words).for_each(|(to, from)| *to ^= from);
        }
    }
    pairs.map(|(_, words)| words)
}

/// Interpolation (Lagrange) at x, times what each combination stands for.
fn gather_images() -> [[u128; 64]; NARROW] {
    let points: [u128; POINTS] = core::array::from_fn(|i| power(SUBFIELD_GENERATOR, i as u32));
    let mut images = [[0; 64]; NARROW];
    for (i, point) in points.iter().enumerate() {
        let (mut above, mut below) = (ONE, ONE);
        for other in points.iter().filter(|other| *other != point) {
            above = multiply(above, X ^ other);
            below = multiply(below, point ^ other);
        }
        // In GF(256), the inverse.
        let lagrange = multiply(above, power(below, 254));
        for (words, combination) in images.iter_mut().zip(COMBINATIONS) {
            let image = multiply(lagrange, power(SUBFIELD_GENERATOR, combination));
            words[i] = image;
            words[32 + i] = multiply(image, power(SUBFIELD_GENERATOR, OMEGA));
        }
    }
    images
}

/// H as the tables of [`crate::SessionKey`] hold it: the product with 1.
pub fn h_of(table: &gf128::Table) -> Block {
    gf128::multiply(table, field::to_block(ONE))
}
