//! What leaves, for everything that sources were seen to send and for what they might.

mod audio;
mod loss;
mod markers;
mod property;
mod units;
mod video;

use crate::testing::Random;

/// Parameter sets and slices of H.264, as short as they can be.
const SPS: &[u8] = &[0x67, 0x42, 0xe0, 0x1f, 1, 2];
const PPS: &[u8] = &[0x68, 0xce, 3];
/// first_mb 0, then slice type 7 (I) resp. 5 (P) resp. 6 (B).
const IDR: &[u8] = &[0x65, 0b1000_1000, 9];
const P: &[u8] = &[0x41, 0b1001_1000, 9];
const B: &[u8] = &[0x01, 0b1001_1100, 9];
/// Slices that go on: first_mb 1.
const IDR_2: &[u8] = &[0x65, 0b0100_1000, 8];
const P_2: &[u8] = &[0x41, 0b0100_1100, 8];
const AUD: &[u8] = &[0x09, 0xf0];
const SEI: &[u8] = &[0x06, 5, 1, 7, 0x80];

fn stap(nals: &[&[u8]]) -> Vec<u8> {
    let mut payload = vec![0x78];
    for nal in nals {
        payload.extend((nal.len() as u16).to_be_bytes());
        payload.extend_from_slice(nal);
    }
    payload
}

/// A unit that begins so, of so many bytes without a zero.
fn long(begin: &[u8], len: usize) -> Vec<u8> {
    let mut random = Random(begin.iter().fold(7, |seed, byte| seed * 31 + u64::from(*byte)));
    begin.iter().copied().chain(std::iter::repeat_with(|| random.below(256) as u8 | 4)).take(len).collect()
}

/// FU-A fragments with so many bytes each.
fn fragments(nal: &[u8], size: usize) -> Vec<Vec<u8>> {
    let chunks: Vec<&[u8]> = nal[1..].chunks(size).collect();
    let last = chunks.len() - 1;
    let bits = |at: usize| u8::from(at == 0) << 7 | u8::from(at == last) << 6;
    let fragment = |(at, chunk): (usize, &&[u8])| [&[nal[0] & 0xe0 | 28, bits(at) | nal[0] & 0x1f], *chunk].concat();
    chunks.iter().enumerate().map(fragment).collect()
}
