//! AES-128 on several blocks per register, and the node arithmetic built on it.
//!
//! A register holds [`four::LANES`] or [`two::LANES`] blocks; lane `i` is block `i`. The modules offer the same functions, of which each walk is
//! compiled once a module. Each function needs the features in its attribute, so calling one from ordinary code is `unsafe`; callers check
//! [`crate::cpu::Cpu::aes`] first.

pub(crate) mod four;
mod two_lanes;

use crate::cipher::FIXED_KEY;
use core::arch::x86_64::{
    __m128i, _mm_aeskeygenassist_si128, _mm_extract_epi64, _mm_loadu_si128, _mm_set_epi64x, _mm_shuffle_epi32, _mm_slli_si128,
    _mm_storeu_si128, _mm_xor_si128,
};
use std::sync::OnceLock;
pub(crate) use two_lanes::{aes_ni, two};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The eleven round keys of AES-128, zeroised on drop.
#[derive(Zeroize, ZeroizeOnDrop)]
pub(crate) struct RoundKeys([u128; 11]);

/// The round keys of the public fixed key of [`crate::cipher`].
#[target_feature(enable = "aes,sse4.1")]
fn fixed_keys() -> &'static RoundKeys {
    static FIXED: OnceLock<RoundKeys> = OnceLock::new();
    if let Some(keys) = FIXED.get() {
        return keys;
    }
    let keys = RoundKeys::expand(FIXED_KEY);
    FIXED.get_or_init(|| keys)
}

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

/// Calls a walk's instance for this CPU's registers, if it has one: `dispatch!(module::function(arguments))`.
macro_rules! dispatch {
    ($walks:ident::$name:ident($($argument:expr),* $(,)?)) => {
        match $crate::cpu::Cpu::detected().aes {
            // SAFETY: AVX-512, VAES and AES-NI were detected.
            $crate::cpu::BlockCipher::Four => return unsafe { $walks::four::$name($($argument),*) },
            // SAFETY: AVX2, VAES and AES-NI were detected.
            $crate::cpu::BlockCipher::Two => return unsafe { $walks::two::$name($($argument),*) },
            // SAFETY: AVX2 and AES-NI were detected.
            $crate::cpu::BlockCipher::AesNi => return unsafe { $walks::aes_ni::$name($($argument),*) },
            $crate::cpu::BlockCipher::Portable => {}
        }
    };
}

/// Compiles the walks that a macro defines once a register width: `each_width!(definition)` calls `definition!(module, "features")` in a module
/// of the same name.
macro_rules! each_width {
    ($definition:ident) => {
        pub(crate) mod four {
            $definition!(four, "avx512f,avx512bw,avx512dq,vaes,aes,sse4.1");
        }
        pub(crate) mod two {
            $definition!(two, "avx2,vaes,aes,sse4.1");
        }
        pub(crate) mod aes_ni {
            $definition!(aes_ni, "avx2,aes,sse4.1");
        }
    };
}

macro_rules! hashes {
    ($lanes:ident, $features:literal) => {
        use crate::lanes::$lanes::{LANES, fixed, hash, load_all, store_side_by_side, zero};

        /// Registers side by side in a hash.
        const REGISTERS: usize = 4;

        /// Replaces each block by its hash under the fixed key.
        #[target_feature(enable = $features)]
        pub(crate) fn hash_all(blocks: &mut [u128]) {
            let schedule = fixed();
            let (groups, rest) = blocks.as_chunks_mut::<{ REGISTERS * LANES }>();
            let mut hash_group = |group: &mut [u128; REGISTERS * LANES]| {
                let mut registers = [zero(); REGISTERS];
                for (register, blocks) in registers.iter_mut().zip(group.as_chunks::<LANES>().0) {
                    *register = load_all(blocks);
                }
                hash(&schedule, &mut registers);
                for (blocks, register) in group.as_chunks_mut::<LANES>().0.iter_mut().zip(registers) {
                    store_side_by_side(blocks, register);
                }
            };
            groups.iter_mut().for_each(&mut hash_group);
            if !rest.is_empty() {
                let mut padded = [0; REGISTERS * LANES];
                padded[..rest.len()].copy_from_slice(rest);
                hash_group(&mut padded);
                rest.copy_from_slice(&padded[..rest.len()]);
            }
        }
    };
}

pub(crate) mod hashes {
    //! The fixed-key hash of blocks side by side.
    super::each_width!(hashes);
}

pub(crate) use {dispatch, each_width};
