//! Packing of `n`-bit words on the wire: little-endian bit order, no gap between words, zero bits after the last one.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod vbmi;

#[cfg(target_arch = "x86_64")]
use crate::cpu::Cpu;
use thiserror::Error;

/// Why received bytes are not a packed vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum PackError {
    /// The width is not 1 to 64 bits.
    #[error("a packed word has 1 to 64 bits, not {bits}")]
    Width {
        /// The width asked for.
        bits: u32,
    },
    /// The byte string is shorter or longer than the words need.
    #[error("{words} words of {bits} bits need {expected} bytes, found {found}")]
    Length {
        /// The width.
        bits: u32,
        /// How many words were expected.
        words: usize,
        /// Bytes they need.
        expected: usize,
        /// Bytes found.
        found: usize,
    },
    /// The bits after the last word are not zero.
    #[error("the bits after the last packed word are not zero")]
    Tail,
}

/// Bytes that `words` words of `bits` bits take: `⌈bits · words / 8⌉`.
///
/// # Panics
/// If `bits` is not in 1..=64 or the size does not fit `usize`.
pub fn packed_len(bits: u32, words: usize) -> usize {
    assert!((1..=64).contains(&bits), "a packed word has 1 to 64 bits, not {bits}");
    checked_len(bits, words).expect("the packed size fits the address space")
}

fn checked_len(bits: u32, words: usize) -> Option<usize> {
    usize::try_from((u128::from(bits) * words as u128).div_ceil(8)).ok()
}

/// Appends the packed form of `words`, each reduced mod `2^bits`, to `out`.
///
/// # Panics
/// If `bits` is not in 1..=64.
pub fn pack(bits: u32, words: &[u64], out: &mut Vec<u8>) {
    let start = out.len();
    let end = start + packed_len(bits, words.len());
    let done = pack_groups(bits, words, out);
    out.resize(end, 0);
    let (words, bytes) = (&words[done..], &mut out[start + done / 8 * bits as usize..]);
    match bits {
        1 => pack_bits(words, bytes),
        8 => pack_whole::<1>(words, bytes),
        16 => pack_whole::<2>(words, bytes),
        24 => pack_whole::<3>(words, bytes),
        32 => pack_whole::<4>(words, bytes),
        40 => pack_whole::<5>(words, bytes),
        48 => pack_whole::<6>(words, bytes),
        56 => pack_whole::<7>(words, bytes),
        64 => pack_whole::<8>(words, bytes),
        _ => pack_any(bits, words, bytes),
    }
}

/// Appends the first groups of eight words in the fastest way that this CPU has, if any; how many words those are.
fn pack_groups(bits: u32, words: &[u64], out: &mut Vec<u8>) -> usize {
    #[cfg(target_arch = "x86_64")]
    if (8..64).contains(&bits) && Cpu::detected().vbmi {
        out.reserve(packed_len(bits, words.len()));
        let spare = out.spare_capacity_mut();
        let wide = bits > NARROW;
        // SAFETY: AVX-512 F, BW and VBMI were detected.
        let done = unsafe { if wide { vbmi::pack::<true>(bits, words, spare) } else { vbmi::pack::<false>(bits, words, spare) } };
        // SAFETY: every group of eight words that is done has filled its `bits` bytes of the spare capacity.
        unsafe { out.set_len(out.len() + done / 8 * bits as usize) };
        return done;
    }
    let _ = (bits, words, out);
    0
}

/// Appends the first groups of eight words, as [`pack_groups`].
fn unpack_groups(bits: u32, bytes: &[u8], words: usize, out: &mut Vec<u64>) -> usize {
    #[cfg(target_arch = "x86_64")]
    if (2..=NARROW).contains(&bits) && Cpu::detected().avx2 || (NARROW..64).contains(&bits) && Cpu::detected().vbmi {
        out.reserve(words);
        let spare = &mut out.spare_capacity_mut()[..words];
        let done = if Cpu::detected().vbmi {
            // SAFETY: AVX-512 F, BW and VBMI were detected.
            unsafe {
                if bits > NARROW { vbmi::unpack::<true>(bits, bytes, spare) } else { vbmi::unpack::<false>(bits, bytes, spare) }
            }
        } else {
            // SAFETY: AVX2 was detected.
            unsafe { avx2::unpack(bits, bytes, spare) }
        };
        // SAFETY: so many words of the spare capacity were written.
        unsafe { out.set_len(out.len() + done) };
        return done;
    }
    let _ = (bits, bytes, words, out);
    0
}

/// Appends `words` words read from `bytes`, the inverse of [`pack`]. Nothing is appended on error.
pub fn unpack(bits: u32, bytes: &[u8], words: usize, out: &mut Vec<u64>) -> Result<(), PackError> {
    if !(1..=64).contains(&bits) {
        return Err(PackError::Width { bits });
    }
    let expected = checked_len(bits, words).unwrap_or(usize::MAX);
    if bytes.len() != expected {
        return Err(PackError::Length { bits, words, expected, found: bytes.len() });
    }
    let used = (u128::from(bits) * words as u128 % 8) as u32;
    if used != 0 && bytes[bytes.len() - 1] >> used != 0 {
        return Err(PackError::Tail);
    }
    if bits == 64 {
        out.extend(bytes.as_chunks::<8>().0.iter().map(|word| u64::from_le_bytes(*word)));
        return Ok(());
    }
    let start = out.len();
    let done = unpack_groups(bits, bytes, words, out);
    out.resize(start + words, 0);
    let (bytes, out) = (&bytes[done / 8 * bits as usize..], &mut out[start + done..]);
    match bits {
        1 => unpack_bits(bytes, out),
        8 => unpack_whole::<1>(bytes, out),
        16 => unpack_whole::<2>(bytes, out),
        24 => unpack_whole::<3>(bytes, out),
        32 => unpack_whole::<4>(bytes, out),
        40 => unpack_whole::<5>(bytes, out),
        48 => unpack_whole::<6>(bytes, out),
        56 => unpack_whole::<7>(bytes, out),
        _ => unpack_any(bits, bytes, out),
    }
    Ok(())
}

fn pack_whole<const BYTES: usize>(words: &[u64], out: &mut [u8]) {
    for (to, word) in out.as_chunks_mut::<BYTES>().0.iter_mut().zip(words) {
        to.copy_from_slice(&word.to_le_bytes()[..BYTES]);
    }
}

fn unpack_whole<const BYTES: usize>(bytes: &[u8], out: &mut [u64]) {
    for (to, from) in out.iter_mut().zip(bytes.as_chunks::<BYTES>().0) {
        let mut word = [0u8; 8];
        word[..BYTES].copy_from_slice(from);
        *to = u64::from_le_bytes(word);
    }
}

fn pack_bits(words: &[u64], out: &mut [u8]) {
    for (to, group) in out.iter_mut().zip(words.chunks(8)) {
        *to = group.iter().enumerate().fold(0, |byte, (i, word)| byte | ((*word & 1) as u8) << i);
    }
}

fn unpack_bits(bytes: &[u8], out: &mut [u64]) {
    for (group, byte) in out.chunks_mut(8).zip(bytes) {
        for (i, to) in group.iter_mut().enumerate() {
            *to = u64::from(byte >> i & 1);
        }
    }
}

/// The largest value of a word of `bits` bits.
fn mask(bits: u32) -> u64 {
    u64::MAX >> (64 - bits)
}

/// The widest word for which a word and the seven bits before it fit in 64 bits.
const NARROW: u32 = 57;

fn pack_any(bits: u32, words: &[u64], out: &mut [u8]) {
    // Eight words fill exactly `bits` bytes, so groups of eight start at a byte boundary.
    let (mut words, mut out) = (words, out);
    if bits <= NARROW {
        while let Some((group, rest)) = words.split_first_chunk::<8>()
            && out.len() >= bits as usize + 8
        {
            pack_group(bits, group, out);
            words = rest;
            out = &mut out[bits as usize..];
        }
    }
    for (to, group) in out.chunks_mut(bits as usize).zip(words.chunks(8)) {
        let (mut pending, mut held, mut at) = (0u128, 0u32, 0usize);
        for word in group {
            pending |= u128::from(word & mask(bits)) << held;
            held += bits;
            if held >= 64 {
                to[at..at + 8].copy_from_slice(&(pending as u64).to_le_bytes());
                pending >>= 64;
                held -= 64;
                at += 8;
            }
        }
        let left = held.div_ceil(8) as usize;
        to[at..at + left].copy_from_slice(&pending.to_le_bytes()[..left]);
    }
}

/// Packs eight words of at most [`NARROW`] bits; the seven bytes after them may be overwritten with zeros.
fn pack_group(bits: u32, group: &[u64; 8], out: &mut [u8]) {
    let (mut pending, mut held, mut at) = (0u64, 0u32, 0usize);
    for word in group {
        pending |= (word & mask(bits)) << held;
        held += bits;
        out[at..at + 8].copy_from_slice(&pending.to_le_bytes());
        at += held as usize / 8;
        // Two shifts, because all 64 bits may be done.
        pending = pending >> (held / 8 * 4) >> (held / 8 * 4);
        held %= 8;
    }
}

fn unpack_any(bits: u32, bytes: &[u8], out: &mut [u64]) {
    let (mut bytes, mut out) = (bytes, out);
    if bits <= NARROW {
        while out.len() >= 8 && bytes.len() >= bits as usize + 8 {
            let (group, rest) = out.split_at_mut(8);
            for (i, to) in group.iter_mut().enumerate() {
                let at = i * bits as usize;
                let word = bytes[at / 8..].first_chunk().expect("eight bytes follow the group");
                *to = u64::from_le_bytes(*word) >> (at % 8) & mask(bits);
            }
            bytes = &bytes[bits as usize..];
            out = rest;
        }
    }
    // A word, the seven bits before it and what follows: sixteen bytes.
    while out.len() >= 8 && bytes.len() >= bits as usize + 16 {
        let (group, rest) = out.split_at_mut(8);
        for (i, to) in group.iter_mut().enumerate() {
            let at = i * bits as usize;
            let words = bytes[at / 8..].first_chunk().expect("sixteen bytes follow the group");
            *to = (u128::from_le_bytes(*words) >> (at % 8)) as u64 & mask(bits);
        }
        bytes = &bytes[bits as usize..];
        out = rest;
    }
    for (group, from) in out.chunks_mut(8).zip(bytes.chunks(bits as usize)) {
        let (mut pending, mut held, mut at) = (0u128, 0u32, 0usize);
        for to in group {
            while held < bits {
                pending |= u128::from(from[at]) << held;
                held += 8;
                at += 1;
            }
            *to = pending as u64 & mask(bits);
            pending >>= bits;
            held -= bits;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn unpacking_inverts_packing_mod_2_to_the_bits(bits in 1u32..=64, words in prop::collection::vec(any::<u64>(), 0..200)) {
            let mut bytes = vec![0xaa];
            pack(bits, &words, &mut bytes);
            prop_assert_eq!(bytes.len(), 1 + packed_len(bits, words.len()));
            let mut back = vec![7];
            unpack(bits, &bytes[1..], words.len(), &mut back).unwrap();
            prop_assert_eq!(back[0], 7);
            let reduced: Vec<u64> = words.iter().map(|w| w & mask(bits)).collect();
            prop_assert_eq!(&back[1..], &reduced[..]);
            // The code for any CPU does the same.
            let (mut portable, mut again) = (vec![0; bytes.len() - 1], vec![0; words.len()]);
            pack_any(bits, &words, &mut portable);
            unpack_any(bits, &portable, &mut again);
            prop_assert_eq!(&portable[..], &bytes[1..]);
            prop_assert_eq!(again, reduced);
        }

        #[test]
        fn every_width_has_the_bit_order_of_the_definition(bits in 1u32..=64, words in prop::collection::vec(any::<u64>(), 1..150)) {
            let mut bytes = Vec::new();
            pack(bits, &words, &mut bytes);
            for (i, word) in words.iter().enumerate() {
                for b in 0..bits {
                    let at = i * bits as usize + b as usize;
                    prop_assert_eq!(u64::from(bytes[at / 8] >> (at % 8) & 1), word >> b & 1);
                }
            }
        }
    }

    #[test]
    fn malformed_bytes_are_refused() {
        let mut out = Vec::new();
        assert_eq!(unpack(0, &[], 0, &mut out), Err(PackError::Width { bits: 0 }));
        assert_eq!(unpack(65, &[], 0, &mut out), Err(PackError::Width { bits: 65 }));
        assert!(matches!(unpack(16, &[0; 3], 2, &mut out), Err(PackError::Length { expected: 4, found: 3, .. })));
        assert!(matches!(unpack(64, &[0; 3], usize::MAX, &mut out), Err(PackError::Length { .. })));
        assert_eq!(unpack(3, &[0b0100_0000], 2, &mut out), Err(PackError::Tail));
        assert!(out.is_empty());
    }
}
