//! Two blocks per register of AVX2: module `two` with VAES, module `aes_ni` with two AES-NI instructions a register.
//!
//! A mask is a register whose words are all ones or zero.

/// One module: `$round` and `$last` are AES rounds of two blocks.
macro_rules! two_lanes {
    ($(#[$doc:meta])* $name:ident, $features:literal, $round:path, $last:path) => {
        $(#[$doc])*
        pub(crate) mod $name {
            use crate::lanes::{RoundKeys, fixed_keys, load, store, to_register};
            use core::arch::x86_64::{
                __m256i, _mm256_add_epi64, _mm256_and_si256, _mm256_blendv_epi8, _mm256_broadcastsi128_si256,
                _mm256_castsi256_pd, _mm256_castsi256_si128, _mm256_cmpeq_epi64, _mm256_extracti128_si256,
                _mm256_loadu_si256, _mm256_movemask_pd, _mm256_or_si256, _mm256_set_epi64x, _mm256_set_m128i,
                _mm256_set1_epi64x, _mm256_setzero_si256, _mm256_shuffle_epi32, _mm256_slli_epi64, _mm256_sllv_epi64,
                _mm256_srli_epi64, _mm256_storeu_si256, _mm256_sub_epi64, _mm256_subs_epu16, _mm256_xor_si256,
            };

            /// Two blocks.
            pub(crate) type Blocks = __m256i;

            /// Which of the four words are meant.
            pub(crate) type Mask = __m256i;

            /// Blocks of a register.
            pub(crate) const LANES: usize = 2;

            /// The round keys, each in both lanes.
            pub(crate) type Schedule = [Blocks; 11];

            /// The schedule of the public fixed key of [`crate::cipher`].
            #[target_feature(enable = $features)]
            pub(crate) fn fixed() -> Schedule {
                schedule(fixed_keys())
            }

            /// The schedule in registers.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn schedule(keys: &RoundKeys) -> Schedule {
                let mut schedule = [_mm256_setzero_si256(); 11];
                for (to, from) in schedule.iter_mut().zip(&keys.0) {
                    *to = _mm256_broadcastsi128_si256(to_register(*from));
                }
                schedule
            }

            /// Encrypts `LANES · N` blocks; the rounds of the registers are interleaved, so `N` should be 4 to 8.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn encrypt<const N: usize>(keys: &Schedule, blocks: &mut [Blocks; N]) {
                for block in blocks.iter_mut() {
                    *block = _mm256_xor_si256(*block, keys[0]);
                }
                for key in &keys[1..10] {
                    for block in blocks.iter_mut() {
                        *block = $round(*block, *key);
                    }
                }
                for block in blocks.iter_mut() {
                    *block = $last(*block, keys[10]);
                }
            }

            /// The Matyas–Meyer–Oseas hash `AES(x) ⊕ x` of `LANES · N` blocks.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn hash<const N: usize>(keys: &Schedule, blocks: &mut [Blocks; N]) {
                let plain = *blocks;
                encrypt(keys, blocks);
                for (y, x) in blocks.iter_mut().zip(plain) {
                    *y = _mm256_xor_si256(*y, x);
                }
            }

            /// Zero.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn zero() -> Blocks {
                _mm256_setzero_si256()
            }

            /// `x` in every word.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn splat(x: i64) -> Blocks {
                _mm256_set1_epi64x(x)
            }

            /// `high` and `low` in the halves of every lane.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn halves(high: i64, low: i64) -> Blocks {
                _mm256_set_epi64x(high, low, high, low)
            }

            /// `low` in the low half of every lane, zero in the high half.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn in_low_half(low: i64) -> Blocks {
                halves(0, low)
            }

            /// `x ∧ y`.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn and(x: Blocks, y: Blocks) -> Blocks {
                _mm256_and_si256(x, y)
            }

            /// `x ∨ y`.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn or(x: Blocks, y: Blocks) -> Blocks {
                _mm256_or_si256(x, y)
            }

            /// `x ⊕ y`.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn xor(x: Blocks, y: Blocks) -> Blocks {
                _mm256_xor_si256(x, y)
            }

            /// `x + y`, word by word.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn add(x: Blocks, y: Blocks) -> Blocks {
                _mm256_add_epi64(x, y)
            }

            /// `max(x − y, 0)` in every 16 bits.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn saturating_sub(x: Blocks, y: Blocks) -> Blocks {
                _mm256_subs_epu16(x, y)
            }

            /// `x << by`, word by word.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn shift_left<const BY: i32>(x: Blocks) -> Blocks {
                _mm256_slli_epi64::<BY>(x)
            }

            /// `x << by` with a shift of its own for every word; 0 for one above 63 or below 0.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn shift_left_each(x: Blocks, by: Blocks) -> Blocks {
                _mm256_sllv_epi64(x, by)
            }

            /// The parity of each lane, in its bit 0.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn parity(x: Blocks) -> Blocks {
                let x = _mm256_xor_si256(x, _mm256_shuffle_epi32::<0b0100_1110>(x));
                let x = _mm256_xor_si256(x, _mm256_srli_epi64::<32>(x));
                let x = _mm256_xor_si256(x, _mm256_srli_epi64::<16>(x));
                let x = _mm256_xor_si256(x, _mm256_srli_epi64::<8>(x));
                let x = _mm256_xor_si256(x, _mm256_srli_epi64::<4>(x));
                let x = _mm256_xor_si256(x, _mm256_srli_epi64::<2>(x));
                _mm256_xor_si256(x, _mm256_srli_epi64::<1>(x))
            }

            /// The words in which `bit`, one bit in every word, is set.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn test(x: Blocks, bit: Blocks) -> Mask {
                _mm256_cmpeq_epi64(_mm256_and_si256(x, bit), bit)
            }

            /// `y` where the mask is set, `x` elsewhere.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn select(mask: Mask, x: Blocks, y: Blocks) -> Blocks {
                _mm256_blendv_epi8(x, y, mask)
            }

            /// `x ⊕ y` where the mask is set, `x` elsewhere.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn xor_where(mask: Mask, x: Blocks, y: Blocks) -> Blocks {
                _mm256_xor_si256(x, _mm256_and_si256(y, mask))
            }

            /// The seed bits of every lane.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn seed_bits() -> Blocks {
                halves(-1, !3)
            }

            /// Nodes as inputs of the hash: seed bits kept, the low two bits replaced by `tag`.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn opened(node: Blocks, tag: i64) -> Blocks {
                or(and(node, seed_bits()), in_low_half(tag))
            }

            /// The control bit of each node, for both halves of its lane.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn control(node: Blocks) -> Mask {
                let low = _mm256_shuffle_epi32::<0b0100_0100>(node);
                _mm256_sub_epi64(zero(), and(low, splat(1)))
            }

            /// From the correction word of a level, the correction of right children: bit 0 replaced by bit 1.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn right_correction(level: Blocks) -> Blocks {
                or(and(level, halves(-1, !1)), and(_mm256_srli_epi64::<1>(level), in_low_half(1)))
            }

            /// `child ⊕ correction` where the parent's control bit is set, and bit 1 cleared.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn corrected(child: Blocks, control: Mask, correction: Blocks) -> Blocks {
                and(xor_where(control, child, correction), halves(-1, !2))
            }

            /// The low bit of each lane, lane `i` at bit `i`.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn low_bits(x: Blocks) -> u32 {
                let signs = _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_slli_epi64::<63>(x))) as u32;
                signs & 1 | signs >> 1 & 2
            }

            /// Blocks from memory.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn gather(blocks: [&[u8; 16]; LANES]) -> Blocks {
                let [a, b] = blocks.map(load);
                _mm256_set_m128i(b, a)
            }

            /// Blocks that lie side by side.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn load_all(from: &[u128; LANES]) -> Blocks {
                // SAFETY: the reference covers 32 readable bytes and the load needs no alignment.
                unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
            }

            /// Writes a register to blocks side by side.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn store_side_by_side(to: &mut [u128; LANES], x: Blocks) {
                // SAFETY: the reference covers 32 writable bytes and the store needs no alignment.
                unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), x) }
            }

            /// Blocks from words.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn set(blocks: [u128; LANES]) -> Blocks {
                let [a, b] = blocks.map(|x| [x as i64, (x >> 64) as i64]);
                _mm256_set_epi64x(b[1], b[0], a[1], a[0])
            }

            /// The blocks of a register.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn scatter(x: Blocks, to: [&mut [u8; 16]; LANES]) {
                let [a, b] = to;
                store(a, _mm256_castsi256_si128(x));
                store(b, _mm256_extracti128_si256::<1>(x));
            }

            /// Writes a register to memory.
            #[inline]
            #[target_feature(enable = $features)]
            pub(crate) fn store_all(to: &mut [core::mem::MaybeUninit<u8>; 16 * LANES], x: Blocks) {
                // SAFETY: the reference covers 32 writable bytes and the store needs no alignment.
                unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), x) }
            }
        }
    };
}

two_lanes! {
    /// With VAES: one instruction a round and register.
    two, "avx2,vaes,aes,sse4.1", core::arch::x86_64::_mm256_aesenc_epi128, core::arch::x86_64::_mm256_aesenclast_epi128
}

two_lanes! {
    /// With AES-NI: two instructions a round and register.
    aes_ni, "avx2,aes,sse4.1", crate::lanes::two_lanes::round, crate::lanes::two_lanes::last_round
}

use core::arch::x86_64::{
    __m128i, __m256i, _mm_aesenc_si128, _mm_aesenclast_si128, _mm256_castsi256_si128, _mm256_extracti128_si256, _mm256_set_m128i,
};

/// The two blocks of a register.
#[inline]
#[target_feature(enable = "avx2")]
fn split(x: __m256i) -> [__m128i; 2] {
    [_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x)]
}

#[inline]
#[target_feature(enable = "avx2,aes")]
fn round(x: __m256i, key: __m256i) -> __m256i {
    let ([a, b], [key, _]) = (split(x), split(key));
    _mm256_set_m128i(_mm_aesenc_si128(b, key), _mm_aesenc_si128(a, key))
}

#[inline]
#[target_feature(enable = "avx2,aes")]
fn last_round(x: __m256i, key: __m256i) -> __m256i {
    let ([a, b], [key, _]) = (split(x), split(key));
    _mm256_set_m128i(_mm_aesenclast_si128(b, key), _mm_aesenclast_si128(a, key))
}
