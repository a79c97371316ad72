//! GHASH by carry-less products, in the form of POLYVAL (RFC 8452 §3): blocks with their bytes reversed, and H
//! times x, so that a product needs no shift.

use std::arch::x86_64::{
    __m128i, __m256i, __m512i, _mm_clmulepi64_si128, _mm_set_epi64x, _mm_shuffle_epi32, _mm_slli_si128, _mm_srli_si128,
    _mm_xor_si128, _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_xor_si256, _mm512_bslli_epi128,
    _mm512_bsrli_epi128, _mm512_castsi512_si256, _mm512_clmulepi64_epi128, _mm512_extracti64x4_epi64,
    _mm512_setzero_si512, _mm512_ternarylogic_epi64, _mm512_xor_si512,
};

/// A sum of products of 256 bits, four in parallel, that has yet to be reduced.
pub struct Product {
    low: __m512i,
    middle: __m512i,
    high: __m512i,
}

impl Product {
    /// Of none.
    ///
    /// # Safety
    /// The processor has AVX-512F.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub fn zero() -> Self {
        let zero = _mm512_setzero_si512();
        Self { low: zero, middle: zero, high: zero }
    }

    /// Adds the four products of two registers' lanes.
    ///
    /// # Safety
    /// The processor has AVX-512F and VPCLMULQDQ.
    #[inline]
    #[target_feature(enable = "avx512f,vpclmulqdq")]
    pub fn add(&mut self, a: __m512i, b: __m512i) {
        self.low = _mm512_xor_si512(self.low, _mm512_clmulepi64_epi128(a, b, 0x00));
        self.high = _mm512_xor_si512(self.high, _mm512_clmulepi64_epi128(a, b, 0x11));
        let (one, other) = (_mm512_clmulepi64_epi128(a, b, 0x01), _mm512_clmulepi64_epi128(a, b, 0x10));
        // The sum of all three.
        self.middle = _mm512_ternarylogic_epi64(self.middle, one, other, 0x96);
    }

    /// The sum of the lanes, as a block.
    ///
    /// # Safety
    /// The processor has AVX-512F, AVX-512BW, PCLMULQDQ and SSSE3.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,pclmulqdq,ssse3")]
    pub fn reduced(self) -> __m128i {
        let low = _mm512_xor_si512(self.low, _mm512_bslli_epi128(self.middle, 8));
        let high = _mm512_xor_si512(self.high, _mm512_bsrli_epi128(self.middle, 8));
        reduce(sum(low), sum(high))
    }
}

/// The sum of the four lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn sum(lanes: __m512i) -> __m128i {
    let pairs: __m256i = _mm256_xor_si256(_mm512_castsi512_si256(lanes), _mm512_extracti64x4_epi64(lanes, 1));
    _mm_xor_si128(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1))
}

/// a · b · x^-128 in POLYVAL's field.
///
/// # Safety
/// The processor has PCLMULQDQ and SSSE3.
#[inline]
#[target_feature(enable = "pclmulqdq,ssse3")]
pub fn multiply(a: __m128i, b: __m128i) -> __m128i {
    let low = _mm_clmulepi64_si128(a, b, 0x00);
    let high = _mm_clmulepi64_si128(a, b, 0x11);
    let middle = _mm_xor_si128(_mm_clmulepi64_si128(a, b, 0x01), _mm_clmulepi64_si128(a, b, 0x10));
    reduce(_mm_xor_si128(low, _mm_slli_si128(middle, 8)), _mm_xor_si128(high, _mm_srli_si128(middle, 8)))
}

/// Takes the lower half of a product away, in two steps of 64 bits, by adding the right multiples of
/// x^128 + x^127 + x^126 + x^121 + 1.
#[inline]
#[target_feature(enable = "pclmulqdq,ssse3")]
fn reduce(low: __m128i, high: __m128i) -> __m128i {
    // x^63 + x^62 + x^57: the polynomial's middle, 64 bits further down.
    let polynomial = _mm_set_epi64x(0, 0xc200_0000_0000_0000_u64 as i64);
    let step =
        |low: __m128i| _mm_xor_si128(_mm_shuffle_epi32(low, 0b0100_1110), _mm_clmulepi64_si128(low, polynomial, 0x00));
    _mm_xor_si128(high, step(step(low)))
}

/// A shuffle that reverses a block's bytes.
///
/// # Safety
/// The processor has SSE2.
#[inline]
#[target_feature(enable = "sse2")]
pub fn reversed() -> __m128i {
    _mm_set_epi64x(0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f)
}
