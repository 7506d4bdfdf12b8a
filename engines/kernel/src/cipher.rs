//! AES-128 on batches of blocks, and the fixed-key hash of the point-function trees.
//!
//! A block is a `u128` whose bytes are little-endian, so that arithmetic on counters and control bits needs no swap.

use aes::Aes128;
use aes::cipher::generic_array::GenericArray;
use aes::cipher::{BlockEncrypt, KeyInit};
use std::sync::OnceLock;

/// How many blocks go to the block cipher at once; enough to fill every pipeline and bit-sliced batch of the `aes` crate.
const BATCH: usize = 16;

/// AES-128 under one key, portable: AES-NI where present, otherwise constant-time bit slicing (both inside `aes`).
///
/// The key schedule is zeroised on drop.
pub(crate) struct Cipher(Aes128);

impl Cipher {
    pub(crate) fn new(key: [u8; 16]) -> Self {
        Self(Aes128::new(&GenericArray::from(key)))
    }

    /// Replaces each block by its encryption.
    pub(crate) fn encrypt(&self, blocks: &mut [u128]) {
        for chunk in blocks.chunks_mut(BATCH) {
            let mut bytes = [GenericArray::from([0u8; 16]); BATCH];
            for (to, from) in bytes.iter_mut().zip(chunk.iter()) {
                *to = GenericArray::from(from.to_le_bytes());
            }
            self.0.encrypt_blocks(&mut bytes[..chunk.len()]);
            for (to, from) in chunk.iter_mut().zip(&bytes) {
                *to = u128::from_le_bytes((*from).into());
            }
        }
    }

    /// Replaces each block `x` by the Matyas–Meyer–Oseas hash `AES(x) ⊕ x`.
    pub(crate) fn hash(&self, blocks: &mut [u128]) {
        for chunk in blocks.chunks_mut(BATCH) {
            let mut plain = [0u128; BATCH];
            plain[..chunk.len()].copy_from_slice(chunk);
            self.encrypt(chunk);
            for (y, x) in chunk.iter_mut().zip(&plain) {
                *y ^= x;
            }
        }
    }
}

/// The public fixed key: the first 128 bits of the fractional part of π, so that nobody chose it.
pub(crate) const FIXED_KEY: [u8; 16] =
    [0x24, 0x3f, 0x6a, 0x88, 0x85, 0xa3, 0x08, 0xd3, 0x13, 0x19, 0x8a, 0x2e, 0x03, 0x70, 0x73, 0x44];

/// The cipher under [`FIXED_KEY`].
pub(crate) fn fixed() -> &'static Cipher {
    static FIXED: OnceLock<Cipher> = OnceLock::new();
    FIXED.get_or_init(|| Cipher::new(FIXED_KEY))
}

/// Replaces each block by its hash under [`FIXED_KEY`].
pub(crate) fn hash_all(blocks: &mut [u128]) {
    #[cfg(target_arch = "x86_64")]
    use crate::lanes::hashes;
    #[cfg(target_arch = "x86_64")]
    crate::lanes::dispatch!(hashes::hash_all(blocks));
    fixed().hash(blocks);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_many_blocks_are_those_of_each() {
        for count in [0, 1, 3, 15, 16, 17, 32, 40] {
            let mut blocks: Vec<u128> = (0..count).map(|i| i * 0x0123_4567_89ab_cdef_0011_2233_4455_6677).collect();
            let mut expected = blocks.clone();
            for block in &mut expected {
                fixed().hash(std::slice::from_mut(block));
            }
            hash_all(&mut blocks);
            assert_eq!(blocks, expected);
        }
    }

    #[test]
    fn cipher_matches_fips_197_appendix_c1() {
        let key = core::array::from_fn(|i| i as u8);
        let plain: [u8; 16] = core::array::from_fn(|i| (i * 0x11) as u8);
        let mut block = [u128::from_le_bytes(plain); 17];
        Cipher::new(key).encrypt(&mut block);
        let expected = 0x69c4e0d86a7b0430d8cdb78070b4c55a_u128.swap_bytes();
        assert!(block.iter().all(|b| *b == expected));
    }
}
