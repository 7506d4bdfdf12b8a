//! AES-128 on four blocks per instruction (VAES with 512-bit registers), and the node arithmetic built on it.
//!
//! A register holds four blocks; lane `i` is block `i`. Each function here needs the features in its attribute, so calling
//! one from ordinary code is `unsafe`; callers check [`crate::cpu::Cpu::vaes`] first.

use crate::cipher::FIXED_KEY;
use core::arch::x86_64::{
    __m128i, __m512i, _mm_aeskeygenassist_si128, _mm_extract_epi64, _mm_loadu_si128, _mm_set_epi64x, _mm_shuffle_epi32,
    _mm_slli_si128, _mm_storeu_si128, _mm_xor_si128, _mm512_aesenc_epi128, _mm512_aesenclast_epi128, _mm512_and_si512,
    _mm512_broadcast_i32x4, _mm512_castsi128_si512, _mm512_extracti32x4_epi32, _mm512_inserti32x4, _mm512_mask_xor_epi64,
    _mm512_or_si512, _mm512_set_epi64, _mm512_set4_epi32, _mm512_set4_epi64, _mm512_setzero_si512, _mm512_shuffle_epi32,
    _mm512_srli_epi64, _mm512_storeu_si512, _mm512_ternarylogic_epi64, _mm512_test_epi64_mask, _mm512_xor_si512,
};
use std::sync::OnceLock;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The eleven round keys of AES-128, zeroised on drop.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct RoundKeys([u128; 11]);

/// The schedule of the public fixed key of [`crate::cipher`].
#[target_feature(enable = "avx512f,aes,sse4.1")]
pub(crate) fn fixed() -> Schedule {
    static FIXED: OnceLock<RoundKeys> = OnceLock::new();
    if let Some(keys) = FIXED.get() {
        return keys.schedule();
    }
    let keys = RoundKeys::expand(FIXED_KEY);
    let schedule = keys.schedule();
    // Losing a race to another thread is harmless: the value is the same.
    let _ = FIXED.set(keys);
    schedule
}

/// The round keys, each in all four lanes.
pub(crate) type Schedule = [__m512i; 11];

#[target_feature(enable = "aes,sse4.1")]
fn next_round_key<const RCON: i32>(key: u128) -> u128 {
    let key = to_register(key);
    let word = _mm_shuffle_epi32::<0xff>(_mm_aeskeygenassist_si128::<RCON>(key));
    let pairs = _mm_xor_si128(key, _mm_slli_si128::<4>(key));
    let prefix = _mm_xor_si128(pairs, _mm_slli_si128::<8>(pairs));
    from_register(_mm_xor_si128(prefix, word))
}

#[inline]
#[target_feature(enable = "sse4.1")]
fn to_register(x: u128) -> __m128i {
    _mm_set_epi64x((x >> 64) as i64, x as i64)
}

#[inline]
#[target_feature(enable = "sse4.1")]
fn from_register(x: __m128i) -> u128 {
    u128::from(_mm_extract_epi64::<0>(x) as u64) | u128::from(_mm_extract_epi64::<1>(x) as u64) << 64
}

impl RoundKeys {
    /// The key schedule of FIPS 197, section 5.2.
    #[target_feature(enable = "aes,sse4.1")]
    pub(crate) fn expand(key: [u8; 16]) -> Self {
        let mut keys = Self([0; 11]);
        let k = &mut keys.0;
        k[0] = u128::from_le_bytes(key);
        k[1] = next_round_key::<0x01>(k[0]);
        k[2] = next_round_key::<0x02>(k[1]);
        k[3] = next_round_key::<0x04>(k[2]);
        k[4] = next_round_key::<0x08>(k[3]);
        k[5] = next_round_key::<0x10>(k[4]);
        k[6] = next_round_key::<0x20>(k[5]);
        k[7] = next_round_key::<0x40>(k[6]);
        k[8] = next_round_key::<0x80>(k[7]);
        k[9] = next_round_key::<0x1b>(k[8]);
        k[10] = next_round_key::<0x36>(k[9]);
        keys
    }

    /// The schedule in registers.
    #[inline]
    #[target_feature(enable = "avx512f,sse4.1")]
    pub(crate) fn schedule(&self) -> Schedule {
        let mut schedule = [_mm512_setzero_si512(); 11];
        for (to, from) in schedule.iter_mut().zip(&self.0) {
            *to = _mm512_broadcast_i32x4(to_register(*from));
        }
        schedule
    }
}

/// Encrypts `4 · N` blocks; the rounds of the registers are interleaved, so `N` should be 4 to 8.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
pub(crate) fn encrypt<const N: usize>(keys: &Schedule, blocks: &mut [__m512i; N]) {
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

/// The Matyas–Meyer–Oseas hash `AES(x) ⊕ x` of `4 · N` blocks.
#[inline]
#[target_feature(enable = "avx512f,vaes")]
pub(crate) fn hash<const N: usize>(keys: &Schedule, blocks: &mut [__m512i; N]) {
    let plain = *blocks;
    encrypt(keys, blocks);
    for (y, x) in blocks.iter_mut().zip(plain) {
        *y = _mm512_xor_si512(*y, x);
    }
}

/// `low` in the low half of every lane, zero in the high half.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn in_low_half(low: i64) -> __m512i {
    _mm512_set4_epi64(0, low, 0, low)
}

/// The seed bits of every lane.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn seed_bits() -> __m512i {
    _mm512_set4_epi64(-1, !3, -1, !3)
}

/// Nodes as inputs of the hash: seed bits kept, the low two bits replaced by `tag`.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn opened(node: __m512i, tag: i64) -> __m512i {
    _mm512_or_si512(_mm512_and_si512(node, seed_bits()), in_low_half(tag))
}

/// The control bit of each node, for both halves of its lane.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(crate) fn control(node: __m512i) -> u8 {
    let low = _mm512_shuffle_epi32::<0b0100_0100>(node);
    _mm512_test_epi64_mask(low, _mm512_set4_epi32(0, 1, 0, 1))
}

/// From the correction word of a level, the correction of right children: bit 0 replaced by bit 1.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn right_correction(level: __m512i) -> __m512i {
    // The truth table 0xca selects the second operand where the first is 1.
    _mm512_ternarylogic_epi64::<0xca>(in_low_half(1), _mm512_srli_epi64::<1>(level), level)
}

/// `child ⊕ correction` where the parent's control bit is set, and bit 1 cleared.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn corrected(child: __m512i, control: u8, correction: __m512i) -> __m512i {
    let child = _mm512_mask_xor_epi64(child, control, child, correction);
    _mm512_and_si512(child, _mm512_set4_epi64(-1, !2, -1, !2))
}

/// Four blocks from memory.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn gather(blocks: [&[u8; 16]; 4]) -> __m512i {
    let [a, b, c, d] = blocks.map(load);
    let x = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
    _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(x, c), d)
}

/// Four pairs of words from memory.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn gather_words(pairs: [&[u64; 2]; 4]) -> __m512i {
    let [a, b, c, d] = pairs.map(|pair| {
        // SAFETY: the reference covers 16 readable bytes and the load needs no alignment; SSE2 is part of x86-64.
        unsafe { _mm_loadu_si128(pair.as_ptr().cast()) }
    });
    let x = _mm512_inserti32x4::<1>(_mm512_castsi128_si512(a), b);
    _mm512_inserti32x4::<3>(_mm512_inserti32x4::<2>(x, c), d)
}

/// Writes a register as four pairs of words.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn scatter_words(x: __m512i, to: &mut [[u64; 2]; 4]) {
    // SAFETY: the reference covers 64 writable bytes and the store needs no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
}

/// Four blocks from words.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn set(blocks: [u128; 4]) -> __m512i {
    let [a, b, c, d] = blocks.map(|x| [x as i64, (x >> 64) as i64]);
    _mm512_set_epi64(d[1], d[0], c[1], c[0], b[1], b[0], a[1], a[0])
}

/// The four blocks of a register.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn scatter(x: __m512i, to: [&mut [u8; 16]; 4]) {
    let [a, b, c, d] = to;
    store(a, _mm512_extracti32x4_epi32::<0>(x));
    store(b, _mm512_extracti32x4_epi32::<1>(x));
    store(c, _mm512_extracti32x4_epi32::<2>(x));
    store(d, _mm512_extracti32x4_epi32::<3>(x));
}

#[inline]
fn load(from: &[u8; 16]) -> __m128i {
    // SAFETY: the reference covers 16 readable bytes and the load needs no alignment; SSE2 is part of x86-64.
    unsafe { _mm_loadu_si128(from.as_ptr().cast()) }
}

#[inline]
fn store(to: &mut [u8; 16], x: __m128i) {
    // SAFETY: the reference covers 16 writable bytes and the store needs no alignment; SSE2 is part of x86-64.
    unsafe { _mm_storeu_si128(to.as_mut_ptr().cast(), x) }
}

/// Writes a register to memory.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn store_all(to: &mut [core::mem::MaybeUninit<u8>; 64], x: __m512i) {
    // SAFETY: the reference covers 64 writable bytes and the store needs no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
}
