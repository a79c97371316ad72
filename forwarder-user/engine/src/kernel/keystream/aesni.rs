//! Entries by AES-NI and PCLMULQDQ: `N` packets in step.

use std::arch::x86_64::{
    __m128i, _mm_aesenc_si128, _mm_aesenclast_si128, _mm_loadu_si128, _mm_set_epi64x, _mm_setzero_si128,
    _mm_shuffle_epi8, _mm_storeu_si128, _mm_xor_si128,
};

use forwarder_common::keystream::{self, STEP};

use super::job::{Job, Key, nonce_bytes};
use penstock_srtp::polyval::{multiply, reversed};

/// # Safety
/// The processor has AES-NI, PCLMULQDQ and SSSE3; `blocks` and the entries
/// are as in [`super::compute::fill`].
#[target_feature(enable = "aes,pclmulqdq,ssse3")]
pub(super) unsafe fn fill<const N: usize>(key: &Key, ssrc: u32, blocks: usize, jobs: &[Job; N]) {
    let rounds = key.session.rounds as usize;
    let mut round_keys = [_mm_setzero_si128(); 15];
    for (key, words) in round_keys.iter_mut().zip(key.session.round_keys.chunks_exact(4)) {
        // SAFETY: four words are 16 bytes; no alignment is asked for.
        *key = unsafe { _mm_loadu_si128(words.as_ptr().cast()) };
    }
    let nonces = jobs.map(|job| nonce_bytes(key, ssrc, job.index));
    let h = _mm_set_epi64x((key.h >> 64) as i64, key.h as i64);
    let block = |counter: u32| {
        let mut blocks = [_mm_setzero_si128(); N];
        for (block, nonce) in blocks.iter_mut().zip(nonces) {
            let mut bytes = nonce;
            bytes[12..].copy_from_slice(&counter.to_be_bytes());
            // SAFETY: 16 bytes; no alignment is asked for.
            *block = _mm_xor_si128(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }, round_keys[0]);
        }
        for key in &round_keys[1..rounds] {
            blocks = blocks.map(|block| _mm_aesenc_si128(block, *key));
        }
        blocks.map(|block| _mm_aesenclast_si128(block, round_keys[rounds]))
    };

    for (job, mask) in jobs.iter().zip(block(1)) {
        // SAFETY: the entry is valid and the caller's.
        unsafe { _mm_storeu_si128((&raw mut (*job.entry).mask).cast(), mask) };
    }
    let mut y = [_mm_setzero_si128(); N];
    let first = keystream::first_step(blocks);
    for n in 0..blocks {
        let keystream = block(n as u32 + 2);
        for lane in 0..N {
            // SAFETY: `n` is below the length of the array, as its quarter is of the other, and the entry is
            // valid and the caller's.
            unsafe {
                let entry = jobs[lane].entry;
                if n % STEP == first {
                    _mm_storeu_si128((&raw mut (*entry).horner).cast::<__m128i>().add(n / STEP), reverse(y[lane]));
                }
                _mm_storeu_si128((&raw mut (*entry).keystream).cast::<__m128i>().add(n), keystream[lane]);
            }
            y[lane] = multiply(_mm_xor_si128(y[lane], reverse(keystream[lane])), h);
        }
    }
}

#[target_feature(enable = "ssse3")]
fn reverse(block: __m128i) -> __m128i {
    _mm_shuffle_epi8(block, reversed())
}
