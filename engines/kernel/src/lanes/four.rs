//! Four blocks per register (VAES and AVX-512).

use super::{RoundKeys, load, store, to_register};
use core::arch::x86_64::{
    __m512i, __mmask8, _mm512_add_epi64, _mm512_aesenc_epi128, _mm512_aesenclast_epi128, _mm512_and_si512,
    _mm512_broadcast_i32x4, _mm512_castsi128_si512, _mm512_extracti32x4_epi32, _mm512_inserti32x4, _mm512_loadu_si512,
    _mm512_mask_blend_epi64, _mm512_mask_xor_epi64, _mm512_or_si512, _mm512_set_epi64, _mm512_set1_epi64, _mm512_set4_epi32,
    _mm512_set4_epi64, _mm512_setzero_si512, _mm512_shuffle_epi32, _mm512_slli_epi64, _mm512_sllv_epi64, _mm512_srli_epi64,
    _mm512_storeu_si512, _mm512_subs_epu16, _mm512_ternarylogic_epi64, _mm512_test_epi64_mask, _mm512_xor_si512,
};

/// Four blocks.
pub(crate) type Blocks = __m512i;

/// Which of the eight words are meant.
pub(crate) type Mask = __mmask8;

/// Blocks of a register.
pub(crate) const LANES: usize = 4;

/// The round keys, each in all lanes.
pub(crate) type Schedule = [Blocks; 11];

/// The schedule of the public fixed key of [`crate::cipher`].
#[target_feature(enable = "avx512f,aes,sse4.1")]
pub(crate) fn fixed() -> Schedule {
    schedule(super::fixed_keys())
}

/// The schedule in registers.
#[inline]
#[target_feature(enable = "avx512f,sse4.1")]
pub(crate) fn schedule(keys: &RoundKeys) -> Schedule {
    let mut schedule = [_mm512_setzero_si512(); 11];
    for (to, from) in schedule.iter_mut().zip(&keys.0) {
        *to = _mm512_broadcast_i32x4(to_register(*from));
    }
    schedule
}

/// Encrypts `LANES · N` blocks; the rounds of the registers are interleaved, so `N` should be 4 to 8.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
pub(crate) fn encrypt<const N: usize>(keys: &Schedule, blocks: &mut [Blocks; N]) {
    for block in blocks.iter_mut() {
        *block = _mm512_xor_si512(*block, keys[0]);
    }
    for key in &keys[1..10] {
        for block in blocks.iter_mut() {
            *block = _mm512_aesenc_epi128(*block, *key);
        }
    }
    for block in blocks.iter_mut() {
        *block = _mm512_aesenclast_epi128(*block, keys[10]);
    }
}

/// The Matyas–Meyer–Oseas hash `AES(x) ⊕ x` of `LANES · N` blocks.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
pub(crate) fn hash<const N: usize>(keys: &Schedule, blocks: &mut [Blocks; N]) {
    let plain = *blocks;
    encrypt(keys, blocks);
    for (y, x) in blocks.iter_mut().zip(plain) {
        *y = _mm512_xor_si512(*y, x);
    }
}

/// Zero.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn zero() -> Blocks {
    _mm512_setzero_si512()
}

/// `x` in every word.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn splat(x: i64) -> Blocks {
    _mm512_set1_epi64(x)
}

/// `high` and `low` in the halves of every lane.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn halves(high: i64, low: i64) -> Blocks {
    _mm512_set4_epi64(high, low, high, low)
}

/// `low` in the low half of every lane, zero in the high half.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn in_low_half(low: i64) -> Blocks {
    halves(0, low)
}

/// `x ∧ y`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn and(x: Blocks, y: Blocks) -> Blocks {
    _mm512_and_si512(x, y)
}

/// `x ∨ y`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn or(x: Blocks, y: Blocks) -> Blocks {
    _mm512_or_si512(x, y)
}

/// `x ⊕ y`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn xor(x: Blocks, y: Blocks) -> Blocks {
    _mm512_xor_si512(x, y)
}

/// `x + y`, word by word.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn add(x: Blocks, y: Blocks) -> Blocks {
    _mm512_add_epi64(x, y)
}

/// `max(x − y, 0)` in every 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(crate) fn saturating_sub(x: Blocks, y: Blocks) -> Blocks {
    _mm512_subs_epu16(x, y)
}

/// `x << by`, word by word.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn shift_left<const BY: u32>(x: Blocks) -> Blocks {
    _mm512_slli_epi64::<BY>(x)
}

/// `x << by` with a shift of its own for every word; 0 for one above 63 or below 0.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn shift_left_each(x: Blocks, by: Blocks) -> Blocks {
    _mm512_sllv_epi64(x, by)
}

/// The parity of each lane, in its bit 0.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn parity(x: Blocks) -> Blocks {
    let x = _mm512_xor_si512(x, _mm512_shuffle_epi32::<0b0100_1110>(x));
    let x = _mm512_xor_si512(x, _mm512_srli_epi64::<32>(x));
    let x = _mm512_xor_si512(x, _mm512_srli_epi64::<16>(x));
    let x = _mm512_xor_si512(x, _mm512_srli_epi64::<8>(x));
    let x = _mm512_xor_si512(x, _mm512_srli_epi64::<4>(x));
    let x = _mm512_xor_si512(x, _mm512_srli_epi64::<2>(x));
    _mm512_xor_si512(x, _mm512_srli_epi64::<1>(x))
}

/// The words in which `bit`, one bit in every word, is set.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn test(x: Blocks, bit: Blocks) -> Mask {
    _mm512_test_epi64_mask(x, bit)
}

/// `y` where the mask is set, `x` elsewhere.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn select(mask: Mask, x: Blocks, y: Blocks) -> Blocks {
    _mm512_mask_blend_epi64(mask, x, y)
}

/// `x ⊕ y` where the mask is set, `x` elsewhere.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn xor_where(mask: Mask, x: Blocks, y: Blocks) -> Blocks {
    _mm512_mask_xor_epi64(x, mask, x, y)
}

/// The seed bits of every lane.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn seed_bits() -> Blocks {
    halves(-1, !3)
}

/// Nodes as inputs of the hash: seed bits kept, the low two bits replaced by `tag`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn opened(node: Blocks, tag: i64) -> Blocks {
    _mm512_or_si512(_mm512_and_si512(node, seed_bits()), in_low_half(tag))
}

/// The control bit of each node, for both halves of its lane.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(crate) fn control(node: Blocks) -> Mask {
    let low = _mm512_shuffle_epi32::<0b0100_0100>(node);
    _mm512_test_epi64_mask(low, _mm512_set4_epi32(0, 1, 0, 1))
}

/// From the correction word of a level, the correction of right children: bit 0 replaced by bit 1.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn right_correction(level: Blocks) -> Blocks {
    // The truth table 0xca selects the second operand where the first is 1.
    _mm512_ternarylogic_epi64::<0xca>(in_low_half(1), _mm512_srli_epi64::<1>(level), level)
}

/// `child ⊕ correction` where the parent's control bit is set, and bit 1 cleared.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn corrected(child: Blocks, control: Mask, correction: Blocks) -> Blocks {
    let child = _mm512_mask_xor_epi64(child, control, child, correction);
    _mm512_and_si512(child, halves(-1, !2))
}

/// The low bit of each lane, lane `i` at bit `i`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn low_bits(x: Blocks) -> u32 {
    // One bit per lane at even positions, moved together.
    let lanes = u32::from(_mm512_test_epi64_mask(x, in_low_half(1)));
    lanes & 1 | lanes >> 1 & 2 | lanes >> 2 & 4 | lanes >> 3 & 8
}

/// Blocks from memory.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn gather(blocks: [&[u8; 16]; LANES]) -> Blocks {
    let [a, b, c, d] = blocks.map(load);
    let x = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
    _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(x, c), d)
}

/// Blocks that lie side by side.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn load_all(from: &[u128; LANES]) -> Blocks {
    // SAFETY: the reference covers 64 readable bytes and the load needs no alignment.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

/// Writes a register to blocks side by side.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store_side_by_side(to: &mut [u128; LANES], x: Blocks) {
    // SAFETY: the reference covers 64 writable bytes and the store needs no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
}

/// Blocks from words.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn set(blocks: [u128; LANES]) -> Blocks {
    let [a, b, c, d] = blocks.map(|x| [x as i64, (x >> 64) as i64]);
    _mm512_set_epi64(d[1], d[0], c[1], c[0], b[1], b[0], a[1], a[0])
}

/// The blocks of a register.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn scatter(x: Blocks, to: [&mut [u8; 16]; LANES]) {
    let [a, b, c, d] = to;
    store(a, _mm512_extracti32x4_epi32::<0>(x));
    store(b, _mm512_extracti32x4_epi32::<1>(x));
    store(c, _mm512_extracti32x4_epi32::<2>(x));
    store(d, _mm512_extracti32x4_epi32::<3>(x));
}

/// Writes a register to memory.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store_all(to: &mut [core::mem::MaybeUninit<u8>; 16 * LANES], x: Blocks) {
    // SAFETY: the reference covers 64 writable bytes and the store needs no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
}
