//! Unpacking with AVX2: four words at a time.
//!
//! Eight words of `bits` bits are `bits` bytes, so every group of eight begins at a byte. Two neighbours of at most 57 bits and the at most seven
//! bits before them fit 16 bytes: a byte shuffle brings each to its word, a shift and a mask do the rest.

use core::arch::x86_64::{
    __m256i, _mm_loadu_si128, _mm256_and_si256, _mm256_loadu_si256, _mm256_set_m128i, _mm256_set1_epi64x, _mm256_shuffle_epi8,
    _mm256_srlv_epi64, _mm256_storeu_si256,
};
use core::mem::MaybeUninit;

/// How four words of a group become a register.
struct Quarter {
    /// First bytes of the two pairs.
    from: [usize; 2],
    shuffle: __m256i,
    shifts: __m256i,
}

impl Quarter {
    /// The words `first..first + 4` of a group.
    #[target_feature(enable = "avx2")]
    fn new(bits: usize, first: usize) -> Self {
        let at = |word: usize| (word * bits / 8, (word * bits % 8) as u64);
        let from = [at(first).0, at(first + 2).0];
        let (mut shuffle, mut shifts) = ([0u8; 32], [0u64; 4]);
        for (i, shift) in shifts.iter_mut().enumerate() {
            let (byte, bit) = at(first + i);
            *shift = bit;
            for (to, j) in shuffle[8 * i..8 * (i + 1)].iter_mut().zip(0u8..) {
                *to = (byte - from[i / 2]) as u8 + j;
            }
        }
        // SAFETY: both arrays have 32 bytes, and the loads need no alignment.
        let [shuffle, shifts] =
            unsafe { [_mm256_loadu_si256(shuffle.as_ptr().cast()), _mm256_loadu_si256(shifts.as_ptr().cast())] };
        Self { from, shuffle, shifts }
    }
}

/// Unpacks as many groups of eight words of 1 to 57 bits as loads inside `bytes` allow; the number of words written.
#[target_feature(enable = "avx2")]
pub(super) fn unpack(bits: u32, bytes: &[u8], out: &mut [MaybeUninit<u64>]) -> usize {
    let bits = bits as usize;
    let halves = [Quarter::new(bits, 0), Quarter::new(bits, 4)];
    let mask = _mm256_set1_epi64x((u64::MAX >> (64 - bits)) as i64);
    let mut done = 0;
    for (at, to) in (0..).step_by(bits).zip(out.as_chunks_mut::<8>().0) {
        // The last pair begins inside the group, so 16 bytes beyond the group hold every load.
        let Some(group) = bytes.get(at..at + bits + 16) else { break };
        for (half, to) in halves.iter().zip(to.as_chunks_mut::<4>().0) {
            let [low, high] = half.from.map(|from| {
                let pair: &[u8; 16] = group[from..].first_chunk().expect("a pair begins inside its group");
                // SAFETY: the reference covers 16 readable bytes, and the load needs no alignment.
                unsafe { _mm_loadu_si128(pair.as_ptr().cast()) }
            });
            let words = _mm256_srlv_epi64(_mm256_shuffle_epi8(_mm256_set_m128i(high, low), half.shuffle), half.shifts);
            // SAFETY: four words are writable, every byte pattern is a valid one, and the store needs no alignment.
            unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), _mm256_and_si256(words, mask)) };
        }
        done += 8;
    }
    done
}
