//! Registers of 32-bit sums, for the product by limbs.

use core::arch::x86_64::{
    __m128i, __m256i, __m512i, _mm_cvtsi32_si128, _mm256_add_epi32, _mm256_add_epi64, _mm256_castsi256_si128,
    _mm256_cvtepi32_epi64, _mm256_extracti128_si256, _mm256_loadu_si256, _mm256_madd_epi16, _mm256_set1_epi32,
    _mm256_setzero_si256, _mm256_sll_epi64, _mm256_storeu_si256, _mm512_add_epi32, _mm512_add_epi64, _mm512_castsi512_si256,
    _mm512_cvtepi32_epi64, _mm512_dpwssd_epi32, _mm512_extracti64x4_epi64, _mm512_loadu_si512, _mm512_madd_epi16,
    _mm512_set1_epi32, _mm512_setzero_si512, _mm512_sll_epi64, _mm512_storeu_si512,
};

/// A register of 32-bit sums, or of as many pairs of signed 16-bit numbers.
///
/// # Safety
/// Calling any function needs the CPU features of the type, `load` `2 · LANES` readable numbers, `splat` two, and `add_to` `LANES` accessible
/// words. All are inlined, so that they compile for their caller's features.
pub(super) trait Register: Copy {
    /// Sums of a register.
    const LANES: usize;

    /// Zeros.
    unsafe fn zero() -> Self;

    /// The pairs at `from`.
    unsafe fn load(from: *const i16) -> Self;

    /// The pair at `from` in all lanes.
    unsafe fn splat(from: *const i16) -> Self;

    /// Every lane's sum plus both products of its pairs, mod 2^32.
    unsafe fn add_products(self, x: Self, y: Self) -> Self;

    /// Adds `2^shift` times the signed sums to the words at `to`.
    unsafe fn add_to(self, to: *mut u64, shift: u32);
}

/// AVX2.
#[derive(Clone, Copy)]
pub(super) struct Eight(__m256i);

/// AVX-512 F and BW, or VNNI if `FUSED`.
#[derive(Clone, Copy)]
pub(super) struct Sixteen<const FUSED: bool>(__m512i);

/// The pair at `from` as one number.
///
/// # Safety
/// Two numbers at `from` are readable.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a call would compile it without the caller's target features")]
unsafe fn pair(from: *const i16) -> i32 {
    // SAFETY: the caller's contract; the read needs no alignment.
    unsafe { from.cast::<i32>().read_unaligned() }
}

/// A shift's count as the instructions take it.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a call would compile it without the caller's target features")]
fn count(shift: u32) -> __m128i {
    // SAFETY: SSE2 is part of x86-64.
    unsafe { _mm_cvtsi32_si128(shift as i32) }
}

#[expect(clippy::inline_always, reason = "a call would compile it without the caller's target features")]
impl Register for Eight {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the trait's contract.
        unsafe { Self(_mm256_setzero_si256()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const i16) -> Self {
        // SAFETY: the trait's contract; the load needs no alignment.
        unsafe { Self(_mm256_loadu_si256(from.cast())) }
    }

    #[inline(always)]
    unsafe fn splat(from: *const i16) -> Self {
        // SAFETY: the trait's contract.
        unsafe { Self(_mm256_set1_epi32(pair(from))) }
    }

    #[inline(always)]
    unsafe fn add_products(self, x: Self, y: Self) -> Self {
        // SAFETY: the trait's contract.
        unsafe { Self(_mm256_add_epi32(self.0, _mm256_madd_epi16(x.0, y.0))) }
    }

    #[inline(always)]
    unsafe fn add_to(self, to: *mut u64, shift: u32) {
        // SAFETY: the trait's contract; neither loads nor stores need alignment.
        unsafe {
            let halves = [_mm256_castsi256_si128(self.0), _mm256_extracti128_si256::<1>(self.0)];
            for (at, half) in halves.into_iter().enumerate() {
                let to = to.add(4 * at).cast();
                let words = _mm256_sll_epi64(_mm256_cvtepi32_epi64(half), count(shift));
                _mm256_storeu_si256(to, _mm256_add_epi64(words, _mm256_loadu_si256(to)));
            }
        }
    }
}

#[expect(clippy::inline_always, reason = "a call would compile it without the caller's target features")]
impl<const FUSED: bool> Register for Sixteen<FUSED> {
    const LANES: usize = 16;

    #[inline(always)]
    unsafe fn zero() -> Self {
        // SAFETY: the trait's contract.
        unsafe { Self(_mm512_setzero_si512()) }
    }

    #[inline(always)]
    unsafe fn load(from: *const i16) -> Self {
        // SAFETY: the trait's contract; the load needs no alignment.
        unsafe { Self(_mm512_loadu_si512(from.cast())) }
    }

    #[inline(always)]
    unsafe fn splat(from: *const i16) -> Self {
        // SAFETY: the trait's contract.
        unsafe { Self(_mm512_set1_epi32(pair(from))) }
    }

    #[inline(always)]
    unsafe fn add_products(self, x: Self, y: Self) -> Self {
        // SAFETY: the trait's contract.
        unsafe {
            Self(if FUSED {
                _mm512_dpwssd_epi32(self.0, x.0, y.0)
            } else {
                _mm512_add_epi32(self.0, _mm512_madd_epi16(x.0, y.0))
            })
        }
    }

    #[inline(always)]
    unsafe fn add_to(self, to: *mut u64, shift: u32) {
        // SAFETY: the trait's contract; neither loads nor stores need alignment.
        unsafe {
            let halves = [_mm512_castsi512_si256(self.0), _mm512_extracti64x4_epi64::<1>(self.0)];
            for (at, half) in halves.into_iter().enumerate() {
                let to = to.add(8 * at).cast();
                let words = _mm512_sll_epi64(_mm512_cvtepi32_epi64(half), count(shift));
                _mm512_storeu_si512(to, _mm512_add_epi64(words, _mm512_loadu_si512(to)));
            }
        }
    }
}

/// Sixteen sums in portable code: the width of AVX-512 for tests on CPUs without it.
#[cfg(test)]
#[derive(Clone, Copy)]
pub(super) struct Plain([i32; 16]);

#[cfg(test)]
impl Plain {
    /// Lane `lane`'s pair.
    fn pair(self, lane: usize) -> [i32; 2] {
        [self.0[lane] as i16, (self.0[lane] >> 16) as i16].map(i32::from)
    }
}

#[cfg(test)]
impl Register for Plain {
    const LANES: usize = 16;

    unsafe fn zero() -> Self {
        Self([0; 16])
    }

    unsafe fn load(from: *const i16) -> Self {
        // SAFETY: the trait's contract.
        Self(std::array::from_fn(|lane| unsafe { pair(from.add(2 * lane)) }))
    }

    unsafe fn splat(from: *const i16) -> Self {
        // SAFETY: the trait's contract.
        Self([unsafe { pair(from) }; 16])
    }

    unsafe fn add_products(self, x: Self, y: Self) -> Self {
        let products = |lane| x.pair(lane).into_iter().zip(y.pair(lane)).map(|(x, y)| x * y);
        Self(std::array::from_fn(|lane| products(lane).fold(self.0[lane], i32::wrapping_add)))
    }

    unsafe fn add_to(self, to: *mut u64, shift: u32) {
        for (lane, sum) in self.0.into_iter().enumerate() {
            // SAFETY: the trait's contract.
            unsafe { *to.add(lane) = (*to.add(lane)).wrapping_add((i64::from(sum) as u64) << shift) };
        }
    }
}
