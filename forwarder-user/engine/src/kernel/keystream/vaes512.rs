//! Entries by VAES and VPCLMULQDQ with AVX-512: four blocks of a packet in a register, `N` packets in
//! step.
//!
//! A register is a cache line of the entry, written whole. GHASH takes four blocks at once, times H⁴,
//! H³, H² and H, so that a packet's chain of multiplications has a quarter of the links.

use std::arch::x86_64::{
    __m128i, __m512i, _mm_loadu_si128, _mm_setzero_si128, _mm_shuffle_epi8, _mm_storeu_si128, _mm512_add_epi32,
    _mm512_aesenc_epi128, _mm512_aesenclast_epi128, _mm512_broadcast_i32x4, _mm512_castsi512_si128, _mm512_loadu_si512,
    _mm512_permutex2var_epi64, _mm512_set_epi32, _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_storeu_si512,
    _mm512_xor_si512, _mm512_zextsi128_si512,
};

use forwarder_common::keystream::{self, STEP};

use super::job::{Job, Key, nonce_bytes};
use penstock_srtp::polyval::{Product, reversed};

/// # Safety
/// The processor has AES-NI, PCLMULQDQ, AVX-512 F and BW, VAES and VPCLMULQDQ; `blocks` and the entries
/// are as in [`super::compute::fill`].
#[target_feature(enable = "aes,pclmulqdq,avx512f,avx512bw,vaes,vpclmulqdq")]
pub(super) unsafe fn fill<const N: usize>(key: &Key, ssrc: u32, blocks: usize, jobs: &[Job; N]) {
    let rounds = key.session.rounds as usize;
    let mut round_keys = [_mm512_setzero_si512(); 15];
    for (key, words) in round_keys.iter_mut().zip(key.session.round_keys.chunks_exact(4)) {
        // SAFETY: four words are 16 bytes; no alignment is asked for.
        *key = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(words.as_ptr().cast()) });
    }
    let mut nonces = [_mm512_setzero_si512(); N];
    for (nonce, job) in nonces.iter_mut().zip(jobs) {
        let bytes = nonce_bytes(key, ssrc, job.index);
        // SAFETY: 16 bytes; no alignment is asked for.
        *nonce = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) });
    }
    // Counters stay below 256, so that only the last byte of a block counts: the highest of its last word
    // as it lies in the register.
    let encrypted = |counters: __m512i| {
        let mut states = [_mm512_setzero_si512(); N];
        for (state, nonce) in states.iter_mut().zip(nonces) {
            *state = _mm512_xor_si512(_mm512_add_epi32(nonce, counters), round_keys[0]);
        }
        for key in &round_keys[1..rounds] {
            states = states.map(|state| _mm512_aesenc_epi128(state, *key));
        }
        states.map(|state| _mm512_aesenclast_epi128(state, round_keys[rounds]))
    };

    for (job, mask) in jobs.iter().zip(encrypted(counters([1; STEP]))) {
        // SAFETY: the entry is valid and the caller's.
        unsafe { _mm_storeu_si128((&raw mut (*job.entry).mask).cast(), _mm512_castsi512_si128(mask)) };
    }
    // SAFETY: 64 bytes; no alignment is asked for.
    let powers = unsafe { _mm512_loadu_si512(key.powers.as_ptr().cast()) };
    let behind = window(keystream::first_step(blocks));
    let mut counter = counters([2, 3, 4, 5]);
    let mut before = [_mm512_setzero_si512(); N];
    let mut y = [_mm_setzero_si128(); N];
    for group in 0..blocks.div_ceil(STEP) {
        let now = encrypted(counter);
        counter = _mm512_add_epi32(counter, counters([STEP as i32; STEP]));
        for lane in 0..N {
            // SAFETY: groups lie below `ROOM / STEP`, since `blocks` is at most `FAST_BLOCKS`; the entry is
            // valid and the caller's.
            unsafe {
                let entry = jobs[lane].entry;
                _mm512_storeu_si512((&raw mut (*entry).keystream).cast::<__m512i>().add(group), now[lane]);
                // The blocks up to `first_step` of this group, and those behind that of the group before:
                // of the first group's none, which leaves zeros in front.
                let hashed = reverse(_mm512_permutex2var_epi64(before[lane], behind, now[lane]));
                let hashed = _mm512_xor_si512(hashed, _mm512_zextsi128_si512(y[lane]));
                let mut product = Product::zero();
                product.add(hashed, powers);
                y[lane] = product.reduced();
                let horner = _mm_shuffle_epi8(y[lane], reversed());
                _mm_storeu_si128((&raw mut (*entry).horner).cast::<__m128i>().add(group), horner);
            }
        }
        before = now;
    }
}

/// What is to be added to nonces, for blocks with these counters.
#[target_feature(enable = "avx512f")]
fn counters([a, b, c, d]: [i32; STEP]) -> __m512i {
    _mm512_set_epi32(d << 24, 0, 0, 0, c << 24, 0, 0, 0, b << 24, 0, 0, 0, a << 24, 0, 0, 0)
}

/// Takes four blocks from two registers with eight: those that end with block `first` of the second one.
#[target_feature(enable = "avx512f")]
fn window(first: usize) -> __m512i {
    let words: [u64; 8] = std::array::from_fn(|n| (n + 2 * first) as u64);
    // SAFETY: 64 bytes; no alignment is asked for.
    unsafe { _mm512_loadu_si512(words.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn reverse(blocks: __m512i) -> __m512i {
    _mm512_shuffle_epi8(blocks, _mm512_broadcast_i32x4(reversed()))
}
