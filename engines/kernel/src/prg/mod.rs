//! The pseudo-random generator: AES-128 in counter mode with random access.

#[cfg(target_arch = "x86_64")]
mod stream;

use crate::cipher::Cipher;
#[cfg(target_arch = "x86_64")]
use crate::cpu::{BlockCipher, Cpu};
use core::fmt;

/// A stream of pseudo-random blocks under one secret key: block `i` is `AES_k(i)`, both little-endian.
///
/// Disjoint block ranges give independent randomness; the caller owns the rule that no range is used twice. The key
/// schedule is zeroised on drop, and the type can be neither cloned nor printed.
pub struct Prg {
    cipher: Cipher,
    /// Present exactly when this CPU has AES instructions that a kernel uses.
    #[cfg(target_arch = "x86_64")]
    round_keys: Option<crate::lanes::RoundKeys>,
}

/// Blocks produced per step of the portable path.
const STEP: usize = 16;

impl Prg {
    /// Expands the key schedule of `key`.
    pub fn new(key: [u8; 16]) -> Self {
        Self {
            cipher: Cipher::new(key),
            #[cfg(target_arch = "x86_64")]
            round_keys: (Cpu::detected().aes != BlockCipher::Portable).then(|| {
                // SAFETY: every kernel but the portable one is picked only where AES-NI and SSE4.1 were detected.
                unsafe { crate::lanes::RoundKeys::expand(key) }
            }),
        }
    }

    /// Fills `out` with blocks `start_block, start_block + 1, …` (mod 2^128); a last partial block is cut.
    pub fn fill_bytes(&self, start_block: u128, out: &mut [u8]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(keys) = &self.round_keys
            && fill(keys, start_block, stream::as_free(out))
        {
            return;
        }
        let mut counter = start_block;
        for chunk in out.chunks_mut(16 * STEP) {
            let blocks = self.blocks(&mut counter, chunk.len().div_ceil(16));
            for (to, from) in chunk.chunks_mut(16).zip(blocks) {
                to.copy_from_slice(&from.to_le_bytes()[..to.len()]);
            }
        }
    }

    /// Fills `out` with the same stream as [`Prg::fill_bytes`], read as little-endian words (two per block).
    pub fn fill_u64(&self, start_block: u128, out: &mut [u64]) {
        #[cfg(target_arch = "x86_64")]
        if self.round_keys.is_some() {
            return self.fill_bytes(start_block, stream::as_bytes(out));
        }
        let mut counter = start_block;
        for chunk in out.chunks_mut(2 * STEP) {
            let blocks = self.blocks(&mut counter, chunk.len().div_ceil(2));
            for (to, from) in chunk.chunks_mut(2).zip(blocks) {
                to[0] = from as u64;
                if let Some(high) = to.get_mut(1) {
                    *high = (from >> 64) as u64;
                }
            }
        }
    }

    /// Appends `len` words of the stream of [`Prg::fill_u64`].
    pub fn extend_u64(&self, start_block: u128, len: usize, out: &mut Vec<u64>) {
        #[cfg(target_arch = "x86_64")]
        if let Some(keys) = &self.round_keys {
            out.reserve(len);
            let spare = stream::as_free_bytes(&mut out.spare_capacity_mut()[..len]);
            if fill(keys, start_block, spare) {
                // SAFETY: the stream has filled so many words of the spare capacity.
                unsafe { out.set_len(out.len() + len) };
                return;
            }
        }
        let at = out.len();
        out.resize(at + len, 0);
        self.fill_u64(start_block, &mut out[at..]);
    }

    fn blocks(&self, counter: &mut u128, count: usize) -> [u128; STEP] {
        let mut blocks = [0u128; STEP];
        for block in &mut blocks[..count] {
            *block = *counter;
            *counter = counter.wrapping_add(1);
        }
        self.cipher.encrypt(&mut blocks[..count]);
        blocks
    }
}

/// The stream with this CPU's registers; false where it has none or the counter would wrap.
#[cfg(target_arch = "x86_64")]
fn fill(keys: &crate::lanes::RoundKeys, start: u128, out: &mut [core::mem::MaybeUninit<u8>]) -> bool {
    crate::lanes::dispatch!(stream::fill(keys, start, out));
    false
}

impl fmt::Debug for Prg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Prg(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stream_is_aes_of_little_endian_counters() {
        // FIPS 197 appendix C.1, with the plain text as the counter.
        let prg = Prg::new(core::array::from_fn(|i| i as u8));
        let start = u128::from_le_bytes(core::array::from_fn(|i| (i * 0x11) as u8));
        let mut out = [0u8; 16];
        prg.fill_bytes(start, &mut out);
        assert_eq!(u128::from_be_bytes(out), 0x69c4e0d86a7b0430d8cdb78070b4c55a);
    }

    #[test]
    fn debug_shows_no_key() {
        assert_eq!(format!("{:?}", Prg::new([3; 16])), "Prg(redacted)");
    }

    proptest! {
        #[test]
        fn any_range_of_the_stream_can_be_read_alone(
            key: [u8; 16],
            start in prop_oneof![any::<u128>(), (u128::MAX - 70)..=u128::MAX, (1u128 << 64) - 70..(1u128 << 64) + 3],
            blocks in 0usize..70,
            cut in 0usize..16,
        ) {
            let prg = Prg::new(key);
            let mut expected = Vec::new();
            for i in 0..=blocks {
                let mut block = [start.wrapping_add(i as u128)];
                Cipher::new(key).encrypt(&mut block);
                expected.extend(block[0].to_le_bytes());
            }
            let mut bytes = vec![0u8; 16 * blocks + cut];
            prg.fill_bytes(start, &mut bytes);
            prop_assert_eq!(&bytes[..], &expected[..bytes.len()]);
            let mut words = vec![0u64; 2 * blocks + cut % 2];
            prg.fill_u64(start, &mut words);
            let mut appended = vec![9];
            prg.extend_u64(start, words.len(), &mut appended);
            prop_assert_eq!((appended[0], &appended[1..]), (9, &words[..]));
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            prop_assert_eq!(&bytes[..], &expected[..bytes.len()]);
        }
    }
}
