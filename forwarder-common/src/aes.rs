//! AES (FIPS-197) block encryption by table, for the machine that has no better: BPF.
//!
//! The state is four columns, each a `u32` whose lowest byte is row 0, i.e. 16 bytes of memory read
//! as little-endian words; round keys are kept in the same form, so no byte is ever swapped. Table
//! lookups depend on the key: on a machine shared with an attacker who can time the cache this
//! leaks, as any table AES does.

use crate::order;

/// Words of round keys for 14 rounds.
pub const ROUND_KEY_WORDS: usize = 60;

/// Multiplication by x in GF(2^8) modulo x^8 + x^4 + x^3 + x + 1.
const fn xtime(a: u8) -> u8 {
    (a << 1) ^ ((a >> 7) * 0x1b)
}

/// FIPS-197 §5.1.1, from its definition: p runs through the powers of the generator 3, q through
/// those of its inverse.
const fn sbox() -> [u8; 256] {
    let mut table = [0; 256];
    let (mut p, mut q) = (1u8, 1u8);
    loop {
        p ^= xtime(p);
        q ^= q << 1;
        q ^= q << 2;
        q ^= q << 4;
        q ^= (q >> 7) * 0x09;
        table[p as usize] = q ^ q.rotate_left(1) ^ q.rotate_left(2) ^ q.rotate_left(3) ^ q.rotate_left(4) ^ 0x63;
        if p == 1 {
            break;
        }
    }
    table[0] = 0x63;
    table
}

/// `TABLES[row][byte]`: what a byte in `row` adds to its column by SubBytes and MixColumns.
const fn tables() -> [[u32; 256]; 4] {
    let mut tables = [[0; 256]; 4];
    let mut i = 0;
    while i < 256 {
        let s = SBOX[i];
        let s2 = xtime(s);
        let column = u32::from_le_bytes([s2, s, s, s2 ^ s]);
        let mut row = 0;
        while row < 4 {
            tables[row][i] = column.rotate_left(8 * row as u32);
            row += 1;
        }
        i += 1;
    }
    tables
}

static SBOX: [u8; 256] = sbox();
static TABLES: [[u32; 256]; 4] = tables();

const fn sub_word(w: u32) -> u32 {
    let b = w.to_le_bytes();
    u32::from_le_bytes([SBOX[b[0] as usize], SBOX[b[1] as usize], SBOX[b[2] as usize], SBOX[b[3] as usize]])
}

/// Key expansion (FIPS-197 §5.2). Returns the number of rounds: 10 for 16 bytes of key, 14 for 32.
pub fn expand(key: &[u8], round_keys: &mut [u32; ROUND_KEY_WORDS]) -> Option<u32> {
    let rounds = match key.len() {
        16 => 10,
        32 => 14,
        _ => return None,
    };
    let words = key.len() / 4;
    for (word, bytes) in round_keys.iter_mut().zip(key.chunks_exact(4)) {
        *word = bytes.iter().rev().fold(0, |w, b| w << 8 | u32::from(*b));
    }
    let mut constant = 1;
    for i in words..4 * (rounds + 1) {
        let mut w = round_keys[i - 1];
        if i % words == 0 {
            // RotWord moves every byte up one place in memory: a rotation to the right here.
            w = sub_word(w.rotate_right(8)) ^ u32::from(constant);
            constant = xtime(constant);
        } else if words == 8 && i % words == 4 {
            w = sub_word(w);
        }
        round_keys[i] = round_keys[i - words] ^ w;
    }
    Some(rounds as u32)
}

/// One byte of a column, by row.
#[inline(always)]
fn byte(column: u32, row: u32) -> usize {
    (column >> (8 * row)) as usize & 0xff
}

#[inline(always)]
fn round(mut s: [u32; 4], keys: &[u32; ROUND_KEY_WORDS], round: usize) -> [u32; 4] {
    let mut t = [0; 4];
    let mut c = 0;
    while c < 4 {
        t[c] = TABLES[0][byte(s[c], 0)]
            ^ TABLES[1][byte(s[(c + 1) & 3], 1)]
            ^ TABLES[2][byte(s[(c + 2) & 3], 2)]
            ^ TABLES[3][byte(s[(c + 3) & 3], 3)];
        order::xor_column(&mut t[c], keys[4 * round + c], &mut s);
        c += 1;
    }
    t
}

/// Rounds `first..rounds` and the last one, which has no MixColumns.
#[inline(always)]
fn finish(mut s: [u32; 4], keys: &[u32; ROUND_KEY_WORDS], rounds: u32, first: usize) -> [u32; 4] {
    // Not the number from memory: the bound must be a constant on each path for the BPF verifier.
    let last = if rounds == 14 { 14 } else { 10 };
    let mut r = first;
    while r < last {
        s = round(s, keys, r);
        r += 1;
    }
    let mut t = [0; 4];
    let mut c = 0;
    while c < 4 {
        t[c] = u32::from(SBOX[byte(s[c], 0)])
            | u32::from(SBOX[byte(s[(c + 1) & 3], 1)]) << 8
            | u32::from(SBOX[byte(s[(c + 2) & 3], 2)]) << 16
            | u32::from(SBOX[byte(s[(c + 3) & 3], 3)]) << 24;
        order::xor_column(&mut t[c], keys[4 * last + c], &mut s);
        c += 1;
    }
    t
}

/// Encrypts one block, given and returned as four little-endian words.
#[inline(always)]
pub fn encrypt(keys: &[u32; ROUND_KEY_WORDS], rounds: u32, block: [u32; 4]) -> [u32; 4] {
    let s = [block[0] ^ keys[0], block[1] ^ keys[1], block[2] ^ keys[2], block[3] ^ keys[3]];
    finish(s, keys, rounds, 1)
}

/// Counter mode of GCM for one packet: the nonce with everything computed that the blocks share.
///
/// An RTP packet has fewer than 255 blocks, so only the last byte of the counter moves. It changes
/// one byte of the state, hence one column after the first round and one lookup per column in the
/// second: the other 27 of the 32 lookups of two rounds are made once, here.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct CounterBlock {
    /// Byte of the state before the first round to which the counter is added.
    moving: u32,
    /// Column 0 after round 1 but for the moving byte.
    first: u32,
    /// Columns after round 2 but for what column 0 of round 1 contributes.
    second: [u32; 4],
}

impl CounterBlock {
    /// Of no nonce: a place for one.
    pub const ZERO: Self = Self { moving: 0, first: 0, second: [0; 4] };

    /// `nonce`: the 12 bytes of the IV as little-endian words.
    #[inline(always)]
    pub fn new(keys: &[u32; ROUND_KEY_WORDS], nonce: [u32; 3]) -> Self {
        let s = [nonce[0] ^ keys[0], nonce[1] ^ keys[1], nonce[2] ^ keys[2], keys[3]];
        let t = round(s, keys, 1);
        let moving = s[3] >> 24;
        let first = t[0] ^ TABLES[3][moving as usize & 0xff];
        let u = round([0, t[1], t[2], t[3]], keys, 2);
        let second = [u[0] ^ TABLES[0][0], u[1] ^ TABLES[3][0], u[2] ^ TABLES[2][0], u[3] ^ TABLES[1][0]];
        Self { moving, first, second }
    }

    /// Keystream block `counter` (below 256), as two little-endian words. In GCM 1 is the mask of
    /// the tag and 2 the first block of the data.
    #[inline(always)]
    pub fn keystream(&self, keys: &[u32; ROUND_KEY_WORDS], rounds: u32, counter: u32) -> [u64; 2] {
        let t = self.first ^ TABLES[3][(self.moving ^ counter) as usize & 0xff];
        let s = [
            self.second[0] ^ TABLES[0][byte(t, 0)],
            self.second[1] ^ TABLES[3][byte(t, 3)],
            self.second[2] ^ TABLES[2][byte(t, 2)],
            self.second[3] ^ TABLES[1][byte(t, 1)],
        ];
        let s = finish(s, keys, rounds, 3);
        [u64::from(s[0]) | u64::from(s[1]) << 32, u64::from(s[2]) | u64::from(s[3]) << 32]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(block: [u8; 16]) -> [u32; 4] {
        core::array::from_fn(|i| {
            u32::from_le_bytes([block[4 * i], block[4 * i + 1], block[4 * i + 2], block[4 * i + 3]])
        })
    }

    fn bytes(words: [u32; 4]) -> [u8; 16] {
        core::array::from_fn(|i| words[i / 4].to_le_bytes()[i % 4])
    }

    fn key<const N: usize>() -> [u8; N] {
        core::array::from_fn(|i| i as u8)
    }

    /// FIPS-197 Appendix C.1 and C.3.
    #[test]
    fn fips_197_examples() {
        let plain = core::array::from_fn(|i| 0x11 * i as u8);
        let mut keys = [0; ROUND_KEY_WORDS];
        let rounds = expand(&key::<16>(), &mut keys).unwrap();
        let expected = 0x69c4_e0d8_6a7b_0430_d8cd_b780_70b4_c55a_u128;
        assert_eq!(bytes(encrypt(&keys, rounds, words(plain))), expected.to_be_bytes());

        let rounds = expand(&key::<32>(), &mut keys).unwrap();
        let expected = 0x8ea2_b7ca_5167_45bf_eafc_4990_4b49_6089_u128;
        assert_eq!(bytes(encrypt(&keys, rounds, words(plain))), expected.to_be_bytes());
    }

    /// FIPS-197 Appendix A.1: first and last expanded word.
    #[test]
    fn fips_197_key_expansion() {
        let key = 0x2b7e_1516_28ae_d2a6_abf7_1588_09cf_4f3c_u128.to_be_bytes();
        let mut keys = [0; ROUND_KEY_WORDS];
        assert_eq!(expand(&key, &mut keys), Some(10));
        assert_eq!(keys[4], 0xa0fa_fe17_u32.swap_bytes());
        assert_eq!(keys[43], 0xb663_0ca6_u32.swap_bytes());
    }

    #[test]
    fn other_key_lengths_are_refused() {
        for len in [0, 15, 17, 24, 31] {
            assert_eq!(expand(&[0; 64][..len], &mut [0; ROUND_KEY_WORDS]), None);
        }
    }

    #[test]
    fn counter_mode_is_block_encryption_of_nonce_and_counter() {
        let key = key::<32>();
        for len in [16, 32] {
            let mut keys = [0; ROUND_KEY_WORDS];
            let rounds = expand(&key[..len], &mut keys).unwrap();
            let nonce = [0x9182_7364, 0x5546_3728, 0x1900_fefd];
            let counter_block = CounterBlock::new(&keys, nonce);
            for counter in 1..256u32 {
                let w = encrypt(&keys, rounds, [nonce[0], nonce[1], nonce[2], counter.swap_bytes()]);
                let expected = [u64::from(w[0]) | u64::from(w[1]) << 32, u64::from(w[2]) | u64::from(w[3]) << 32];
                assert_eq!(counter_block.keystream(&keys, rounds, counter), expected);
            }
        }
    }
}
