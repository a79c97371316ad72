//! Entries by VAES and VPCLMULQDQ: two packets in a register, four in step.

use std::arch::x86_64::{
    __m128i, __m256i, _mm_loadu_si128, _mm_storeu_si128, _mm256_aesenc_epi128, _mm256_aesenclast_epi128,
    _mm256_broadcastsi128_si256, _mm256_bslli_epi128, _mm256_bsrli_epi128, _mm256_castsi256_si128,
    _mm256_clmulepi64_epi128, _mm256_extracti128_si256, _mm256_loadu2_m128i, _mm256_set_epi64x, _mm256_setzero_si256,
    _mm256_shuffle_epi8, _mm256_shuffle_epi32, _mm256_xor_si256,
};

use forwarder_common::{
    gf128::Block,
    keystream::{self, STEP},
};

use super::job::{BATCH, Job, Key, nonce_bytes};

/// Registers in step, with two packets each.
const PAIRS: usize = BATCH / 2;

/// # Safety
/// The processor has AES-NI, PCLMULQDQ, AVX2, VAES and VPCLMULQDQ; `blocks` and the entries are as in
/// [`super::compute::fill`].
#[target_feature(enable = "aes,pclmulqdq,avx2,vaes,vpclmulqdq")]
pub(super) unsafe fn fill(key: &Key, ssrc: u32, blocks: usize, jobs: &[Job; BATCH]) {
    let rounds = key.session.rounds as usize;
    let mut round_keys = [_mm256_setzero_si256(); 15];
    for (key, words) in round_keys.iter_mut().zip(key.session.round_keys.chunks_exact(4)) {
        // SAFETY: four words are 16 bytes; no alignment is asked for.
        *key = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(words.as_ptr().cast()) });
    }
    let nonces = jobs.map(|job| nonce_bytes(key, ssrc, job.index));
    let h = both(key.h);
    let block = |counter: u32| {
        let counter = counter.to_be_bytes();
        let mut blocks = [_mm256_setzero_si256(); PAIRS];
        for (pair, block) in blocks.iter_mut().enumerate() {
            let [mut low, mut high] = [nonces[2 * pair], nonces[2 * pair + 1]];
            low[12..].copy_from_slice(&counter);
            high[12..].copy_from_slice(&counter);
            // SAFETY: 16 bytes each; no alignment is asked for.
            let value = unsafe { _mm256_loadu2_m128i(high.as_ptr().cast(), low.as_ptr().cast()) };
            *block = _mm256_xor_si256(value, round_keys[0]);
        }
        for key in &round_keys[1..rounds] {
            blocks = blocks.map(|block| _mm256_aesenc_epi128(block, *key));
        }
        blocks.map(|block| _mm256_aesenclast_epi128(block, round_keys[rounds]))
    };

    for (pair, mask) in block(1).into_iter().enumerate() {
        for (lane, entry) in [jobs[2 * pair].entry, jobs[2 * pair + 1].entry].into_iter().enumerate() {
            // SAFETY: the entry is valid and the caller's.
            unsafe { store((&raw mut (*entry).mask).cast(), mask, lane) };
        }
    }
    let mut y = [_mm256_setzero_si256(); PAIRS];
    let first = keystream::first_step(blocks);
    for n in 0..blocks {
        let keystream = block(n as u32 + 2);
        for pair in 0..PAIRS {
            let horner = reverse(y[pair]);
            for (lane, entry) in [jobs[2 * pair].entry, jobs[2 * pair + 1].entry].into_iter().enumerate() {
                // SAFETY: `n` is below the length of the array, as its quarter is of the other, and the entry
                // is valid and the caller's.
                unsafe {
                    if n % STEP == first {
                        store((&raw mut (*entry).horner).cast::<Block>().add(n / STEP), horner, lane);
                    }
                    store((&raw mut (*entry).keystream).cast::<Block>().add(n), keystream[pair], lane);
                }
            }
            y[pair] = multiply(_mm256_xor_si256(y[pair], reverse(keystream[pair])), h);
        }
    }
}

/// # Safety
/// `to` has room for 16 bytes.
#[target_feature(enable = "avx2")]
unsafe fn store(to: *mut Block, value: __m256i, lane: usize) {
    let half = if lane == 0 { _mm256_castsi256_si128(value) } else { _mm256_extracti128_si256(value, 1) };
    // SAFETY: as the caller promises; no alignment is asked for.
    unsafe { _mm_storeu_si128(to.cast::<__m128i>(), half) };
}

#[target_feature(enable = "avx2")]
fn both(value: u128) -> __m256i {
    let (high, low) = ((value >> 64) as i64, value as i64);
    _mm256_set_epi64x(high, low, high, low)
}

#[target_feature(enable = "avx2")]
fn reverse(blocks: __m256i) -> __m256i {
    _mm256_shuffle_epi8(blocks, both(0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f))
}

/// As in `polyval`, two products at once.
#[target_feature(enable = "avx2,vpclmulqdq")]
fn multiply(a: __m256i, b: __m256i) -> __m256i {
    let low = _mm256_clmulepi64_epi128(a, b, 0x00);
    let high = _mm256_clmulepi64_epi128(a, b, 0x11);
    let middle = _mm256_xor_si256(_mm256_clmulepi64_epi128(a, b, 0x01), _mm256_clmulepi64_epi128(a, b, 0x10));
    let low = _mm256_xor_si256(low, _mm256_bslli_epi128(middle, 8));
    let high = _mm256_xor_si256(high, _mm256_bsrli_epi128(middle, 8));
    let polynomial = both(0xc200_0000_0000_0000);
    let step = |low: __m256i| {
        _mm256_xor_si256(_mm256_shuffle_epi32(low, 0b0100_1110), _mm256_clmulepi64_epi128(low, polynomial, 0x00))
    };
    _mm256_xor_si256(high, step(step(low)))
}
