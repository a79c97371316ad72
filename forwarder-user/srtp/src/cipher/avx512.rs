//! AES-GCM by VAES and VPCLMULQDQ on registers of 512 bits: four blocks in a register, sixteen in step.
//!
//! Encryption and GHASH in one pass over the data, from the plaintext's place to the ciphertext's, which may be
//! the same. GHASH is computed in the form of POLYVAL: see [`polyval`](crate::polyval).

use std::arch::x86_64::{
    __m128i, __m512i, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_cvtsi128_si32, _mm_extract_epi64, _mm_insert_epi32,
    _mm_loadu_si128, _mm_maskz_loadu_epi8, _mm_set_epi8, _mm_set_epi32, _mm_set_epi64x, _mm_set1_epi32,
    _mm_setzero_si128, _mm_shuffle_epi8, _mm_storeu_si128, _mm_testz_si128, _mm_xor_si128, _mm512_add_epi32,
    _mm512_aesenc_epi128, _mm512_aesenclast_epi128, _mm512_broadcast_i32x4, _mm512_castsi512_si128, _mm512_loadu_si512,
    _mm512_mask_broadcast_i32x4, _mm512_mask_storeu_epi8, _mm512_maskz_loadu_epi8, _mm512_maskz_loadu_epi64,
    _mm512_maskz_mov_epi8, _mm512_set_epi32, _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_storeu_si512,
    _mm512_xor_si512, _mm512_zextsi128_si512,
};

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::polyval::{Product, multiply, reversed};

type Block = [u8; 16];

/// Blocks in step, and powers of H that are kept for them.
const BLOCKS: usize = 16;
/// Bytes of them.
const GROUP: usize = 16 * BLOCKS;
/// Bytes and blocks of a register.
const WIDE: usize = 64;
const LANES: usize = 4;

/// So many bytes at most are sealed at once; the counter of blocks is far from its end then.
pub(super) const MAX: usize = 1 << 20;

/// An AES key with what GHASH needs. 500 bytes, and aligned as the allocator does anyway: whole cache lines would
/// save no time that could be measured, and cost 110 bytes more. Wiped on drop.
///
/// There is one only where the processor has the instructions: see [`Key::new`].
#[repr(C)]
#[derive(Zeroize, ZeroizeOnDrop)]
pub(super) struct Key {
    /// H^16, H^15 … H: `n` blocks take the last `n` of them, in order.
    powers: [Block; BLOCKS],
    round_keys: [Block; 15],
    rounds: u32,
}

impl Key {
    /// A key of 16 or 32 bytes. `None`: it has another length, or the processor lacks something.
    pub(super) fn new(bytes: &[u8]) -> Option<Self> {
        let narrow = is_x86_feature_detected!("aes") && is_x86_feature_detected!("pclmulqdq");
        let wide = is_x86_feature_detected!("vaes") && is_x86_feature_detected!("vpclmulqdq");
        let avx512 = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl");
        if !(narrow && wide && avx512 && is_x86_feature_detected!("avx512bw") && matches!(bytes.len(), 16 | 32)) {
            return None;
        }
        let mut key = Self { powers: [[0; 16]; BLOCKS], round_keys: [[0; 16]; 15], rounds: 0 };
        // SAFETY: the features have just been seen; SSE4.1 and SSSE3 are parts of AVX.
        unsafe { key.fill(bytes) };
        Some(key)
    }

    #[target_feature(enable = "aes,pclmulqdq,ssse3,sse4.1")]
    fn fill(&mut self, bytes: &[u8]) {
        self.rounds = expand(bytes, &mut self.round_keys);
        let [first, others @ ..] = &self.round_keys[..self.rounds as usize] else { return };
        let mut h = load(first);
        for key in others {
            h = _mm_aesenc_si128(h, load(key));
        }
        h = _mm_shuffle_epi8(_mm_aesenclast_si128(h, load(&self.round_keys[self.rounds as usize])), reversed());
        let h = (_mm_extract_epi64(h, 1) as u64 as u128) << 64 | _mm_extract_epi64(h, 0) as u64 as u128;
        // x · H modulo x^128 + x^127 + x^126 + x^121 + 1; without a branch, since H is secret.
        let h = (h << 1) ^ ((h >> 127) * ((0xc2 << 120) | 1));
        let h = _mm_set_epi64x((h >> 64) as i64, h as i64);
        let mut power = h;
        for place in self.powers.iter_mut().rev() {
            store(place, power);
            power = multiply(power, h);
        }
    }

    /// Seals `plain` into `sealed`, which has room for it and the tag. `None`: it has not, or more or less.
    pub(super) fn seal(&self, nonce: &[u8; 12], aad: &[u8], plain: &[u8], sealed: &mut [u8]) -> Option<()> {
        let (body, tag) = sealed.split_last_chunk_mut::<16>()?;
        if body.len() != plain.len() || plain.len() > MAX {
            return None;
        }
        // SAFETY: a key proves the features; both places have the length that is given.
        let right = unsafe { self.crypt::<false>(nonce, aad, plain.as_ptr(), body.as_mut_ptr(), plain.len()) };
        // SAFETY: features as above.
        unsafe { store(tag, right) };
        Some(())
    }

    /// Opens `sealed`, ciphertext and tag, in place. `None`, and nothing of the plaintext is left there: the
    /// tag is wrong, or there is none.
    pub(super) fn open(&self, nonce: &[u8; 12], aad: &[u8], sealed: &mut [u8]) -> Option<usize> {
        let (body, tag) = sealed.split_last_chunk_mut::<16>()?;
        if body.len() > MAX {
            return None;
        }
        // SAFETY: a key proves the features; the place has the length that is given, and may be its own target.
        let right = unsafe { self.crypt::<true>(nonce, aad, body.as_ptr(), body.as_mut_ptr(), body.len()) };
        // SAFETY: features as above.
        if unsafe { equal(right, tag) } {
            return Some(body.len());
        }
        body.fill(0);
        None
    }

    /// # Safety
    /// The processor has the features of [`Key::new`]; as [`gcm`].
    unsafe fn crypt<const OPEN: bool>(
        &self,
        nonce: &[u8; 12],
        aad: &[u8],
        from: *const u8,
        to: *mut u8,
        len: usize,
    ) -> __m128i {
        // SAFETY: as the caller promises.
        unsafe {
            if self.rounds == 10 {
                gcm::<10, OPEN>(self, nonce, aad, from, to, len)
            } else {
                gcm::<14, OPEN>(self, nonce, aad, from, to, len)
            }
        }
    }
}

/// FIPS-197 §5.2, with the instruction's S-box, which looks nothing up in memory. The number of rounds.
#[target_feature(enable = "aes,sse2")]
fn expand(key: &[u8], round_keys: &mut [Block; 15]) -> u32 {
    // In four equal columns ShiftRows changes nothing.
    let sub_word = |word: u32| {
        let sub = _mm_aesenclast_si128(_mm_set1_epi32(word as i32), _mm_setzero_si128());
        _mm_cvtsi128_si32(sub) as u32
    };
    let mut words = [0; 60];
    for (word, bytes) in words.iter_mut().zip(key.as_chunks().0) {
        *word = u32::from_le_bytes(*bytes);
    }
    let n = key.len() / 4;
    let rounds = n + 6;
    let mut constant = 1;
    for at in n..4 * (rounds + 1) {
        let mut word = words[at - 1];
        if at % n == 0 {
            word = sub_word(word.rotate_right(8)) ^ constant;
            constant = (constant << 1) ^ ((constant >> 7) * 0x11b);
        } else if n > 6 && at % n == 4 {
            word = sub_word(word);
        }
        words[at] = words[at - n] ^ word;
    }
    for (round_key, words) in round_keys.as_flattened_mut().as_chunks_mut().0.iter_mut().zip(words) {
        *round_key = words.to_le_bytes();
    }
    words.zeroize();
    rounds as u32
}

/// Encrypts or decrypts, and returns what the tag must be.
///
/// The last group's GHASH takes the block of lengths with it: after `n` blocks of data it is the block `n`.
///
/// # Safety
/// `len` bytes may be read at `from` and written at `to`; the two are the same place, or do not overlap.
/// `key.rounds` is `ROUNDS`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq,ssse3,sse4.1")]
unsafe fn gcm<const ROUNDS: usize, const OPEN: bool>(
    key: &Key,
    nonce: &[u8; 12],
    aad: &[u8],
    from: *const u8,
    to: *mut u8,
    len: usize,
) -> __m128i {
    let reverse = _mm512_broadcast_i32x4(reversed());
    let mut round_keys = [_mm512_setzero_si512(); 15];
    for (wide, key) in round_keys.iter_mut().zip(&key.round_keys[..=ROUNDS]) {
        *wide = _mm512_broadcast_i32x4(load(key));
    }
    let encrypt = |mut block: __m512i| {
        block = _mm512_xor_si512(block, round_keys[0]);
        for key in &round_keys[1..ROUNDS] {
            block = _mm512_aesenc_epi128(block, *key);
        }
        _mm512_aesenclast_epi128(block, round_keys[ROUNDS])
    };
    let word = |at| i32::from_le_bytes([nonce[at], nonce[at + 1], nonce[at + 2], nonce[at + 3]]);
    let nonce = _mm_set_epi32(0, word(8), word(4), word(0));
    // Little-endian counters in the last words, 2 to 5, that go up by four. They are turned before use.
    let turn = _mm512_broadcast_i32x4(_mm_set_epi8(12, 13, 14, 15, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
    let counters = _mm512_set_epi32(5, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0);
    let step = _mm512_set_epi32(4, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0);
    let mut counters = _mm512_xor_si512(_mm512_broadcast_i32x4(nonce), counters);
    let powers = key.powers.as_ptr().cast::<u8>();

    let mask = _mm512_castsi512_si128(encrypt(_mm512_zextsi128_si512(_mm_insert_epi32(nonce, 1 << 24, 3))));
    let h = load(&key.powers[BLOCKS - 1]);
    let mut y = _mm_setzero_si128();
    for bytes in aad.chunks(16) {
        // SAFETY: no more than the chunk's bytes are read.
        let block = unsafe { _mm_maskz_loadu_epi8(((1u32 << bytes.len()) - 1) as u16, bytes.as_ptr().cast()) };
        y = multiply(_mm_xor_si128(y, _mm_shuffle_epi8(block, reversed())), h);
    }

    let mut at = 0;
    while len - at >= GROUP {
        let mut blocks = [_mm512_setzero_si512(); BLOCKS / LANES];
        for block in &mut blocks {
            *block = _mm512_xor_si512(_mm512_shuffle_epi8(counters, turn), round_keys[0]);
            counters = _mm512_add_epi32(counters, step);
        }
        for key in &round_keys[1..ROUNDS] {
            blocks = blocks.map(|block| _mm512_aesenc_epi128(block, *key));
        }
        let mut product = Product::zero();
        for (n, block) in blocks.into_iter().enumerate() {
            // SAFETY: a group is left, of which this is the `n`th quarter.
            let input = unsafe { _mm512_loadu_si512(from.add(at + n * WIDE).cast()) };
            let output = _mm512_xor_si512(_mm512_aesenclast_epi128(block, round_keys[ROUNDS]), input);
            // SAFETY: as above.
            unsafe { _mm512_storeu_si512(to.add(at + n * WIDE).cast(), output) };
            let mut hashed = _mm512_shuffle_epi8(if OPEN { input } else { output }, reverse);
            if n == 0 {
                hashed = _mm512_xor_si512(hashed, _mm512_zextsi128_si512(y));
            }
            // SAFETY: the `n`th quarter of the powers.
            product.add(hashed, unsafe { _mm512_loadu_si512(powers.add(n * WIDE).cast()) });
        }
        y = product.reduced();
        at += GROUP;
    }

    // Up to 255 bytes are left: up to 16 blocks, and the lengths behind them, if they find a power.
    let rest = len - at;
    let blocks = rest.div_ceil(16);
    let hashed_blocks = (blocks + 1).min(BLOCKS);
    let lengths = _mm_set_epi64x((aad.len() * 8) as i64, (len * 8) as i64);
    let mut product = Product::zero();
    for n in 0..hashed_blocks.div_ceil(LANES) {
        let bytes = rest.saturating_sub(n * WIDE).min(WIDE);
        let these = if bytes == WIDE { !0 } else { (1u64 << bytes) - 1 };
        // SAFETY: no more than what is left is read, or its address used.
        let input = unsafe { _mm512_maskz_loadu_epi8(these, from.wrapping_add(at + n * WIDE).cast()) };
        let output = _mm512_xor_si512(encrypt(_mm512_shuffle_epi8(counters, turn)), input);
        counters = _mm512_add_epi32(counters, step);
        // SAFETY: as above, for writing.
        unsafe { _mm512_mask_storeu_epi8(to.wrapping_add(at + n * WIDE).cast(), these, output) };
        let mut hashed = _mm512_maskz_mov_epi8(these, if OPEN { input } else { output });
        hashed = _mm512_shuffle_epi8(hashed, reverse);
        if blocks / LANES == n {
            hashed = _mm512_mask_broadcast_i32x4(hashed, 0xf << (4 * (blocks % LANES)), lengths);
        }
        if n == 0 {
            hashed = _mm512_xor_si512(hashed, _mm512_zextsi128_si512(y));
        }
        let lanes = (hashed_blocks - n * LANES).min(LANES);
        // SAFETY: of the last `hashed_blocks` powers those that are left, four at most.
        let power = unsafe {
            let first = powers.add(16 * (BLOCKS - hashed_blocks + n * LANES));
            _mm512_maskz_loadu_epi64(((1u32 << (2 * lanes)) - 1) as u8, first.cast())
        };
        product.add(hashed, power);
    }
    y = product.reduced();
    if blocks == BLOCKS {
        y = multiply(_mm_xor_si128(y, lengths), h);
    }
    _mm_xor_si128(_mm_shuffle_epi8(y, reversed()), mask)
}

#[inline]
#[target_feature(enable = "sse2")]
fn load(block: &Block) -> __m128i {
    // SAFETY: 16 bytes; no alignment is asked for.
    unsafe { _mm_loadu_si128(block.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "sse2")]
fn store(to: &mut Block, value: __m128i) {
    // SAFETY: 16 bytes; no alignment is asked for.
    unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), value) }
}

/// In a time that does not depend on where they differ.
#[target_feature(enable = "sse4.1")]
fn equal(one: __m128i, other: &Block) -> bool {
    let difference = _mm_xor_si128(one, load(other));
    _mm_testz_si128(difference, difference) == 1
}
