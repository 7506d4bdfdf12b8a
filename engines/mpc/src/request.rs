//! What a client asks, and how inputs and outputs are shared.
//!
//! Input `x` over Z_2^64 becomes a seed `s` for party 0, which expands it to `x₀ = G(s)`, and the words `x₁ = x - G(s)` for party 1. `G` is
//! BLAKE3 in key-derivation mode read as an extendable output: 8 little-endian bytes a word.

use zeroize::Zeroizing;

/// Bytes of a request frame.
pub(crate) const REQUEST: usize = 8 + 4;
/// Bytes of party 0's share.
pub(crate) const SEED: usize = 32;
/// Domain of the input expansion.
pub(crate) const INPUT: &str = "sprint-flow 2026 client input share v1";

/// A client's request: which number in the session, which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) number: u64,
    pub(crate) program: u32,
}

impl Request {
    pub(crate) fn encode(self) -> [u8; REQUEST] {
        let mut bytes = [0; REQUEST];
        bytes[..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..].copy_from_slice(&self.program.to_le_bytes());
        bytes
    }

    /// `None` unless it has exactly [`REQUEST`] bytes.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (number, program) = bytes.split_at_checked(8)?;
        Some(Self { number: u64::from_le_bytes(number.try_into().ok()?), program: u32::from_le_bytes(program.try_into().ok()?) })
    }
}

/// `words` words of the stream that `seed` names in `domain`.
pub(crate) fn expand(domain: &str, seed: &[u8; 32], words: usize) -> Vec<u64> {
    let mut stream = blake3::Hasher::new_derive_key(domain).update(seed).finalize_xof();
    let mut bytes = Zeroizing::new(vec![0; words * 8]);
    stream.fill(&mut bytes);
    words_of(&bytes)
}

/// Little-endian words; a remainder of fewer than 8 bytes is dropped.
pub(crate) fn words_of(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().expect("a chunk has 8 bytes"))).collect()
}

/// The inverse of [`words_of`].
pub(crate) fn bytes_of(words: &[u64]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(words.iter().flat_map(|w| w.to_le_bytes()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion_is_a_function_of_domain_and_seed() {
        let a = expand("one", &[1; 32], 5);
        assert_eq!(a, expand("one", &[1; 32], 5));
        assert_eq!(a[..3], expand("one", &[1; 32], 3));
        assert_ne!(a, expand("two", &[1; 32], 5));
        assert_ne!(a, expand("one", &[2; 32], 5));
    }

    #[test]
    fn words_survive_their_encoding() {
        let words = [0, 1, u64::MAX, 0x0102_0304_0506_0708];
        assert_eq!(words_of(&bytes_of(&words)), words);
    }

    #[test]
    fn requests_of_another_length_do_not_decode() {
        let request = Request { number: 3, program: 1 };
        assert_eq!(Request::decode(&request.encode()), Some(request));
        assert_eq!(Request::decode(&[0; REQUEST + 1]), None);
        assert_eq!(Request::decode(&[0; 7]), None);
    }
}
