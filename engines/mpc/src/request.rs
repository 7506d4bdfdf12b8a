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

/// `words` words, as bytes, of the stream that `seed` names in `domain`.
pub(crate) fn expand(domain: &str, seed: &[u8; 32], words: usize) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(vec![0; words * 8]);
    blake3::Hasher::new_derive_key(domain).update(seed).finalize_xof().fill(&mut bytes);
    bytes
}

/// Little-endian words; a remainder of fewer than 8 bytes is dropped.
pub(crate) fn words_of(bytes: &[u8]) -> impl Iterator<Item = u64> {
    bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().expect("a chunk has 8 bytes")))
}

/// The inverse of [`words_of`].
pub(crate) fn bytes_of(words: &[u64]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(words.iter().flat_map(|w| w.to_le_bytes()).collect())
}

/// An input as the two parties get it. Nothing here may be used for two requests: a repeated seed with another input reveals the difference.
pub struct SharedInput {
    pub(crate) seed: Zeroizing<[u8; SEED]>,
    /// The second of three servers' seed.
    pub(crate) second: Option<Zeroizing<[u8; SEED]>>,
    pub(crate) rest: Zeroizing<Vec<u8>>,
    pub(crate) public: Vec<u8>,
}

impl SharedInput {
    /// Shares words over Z_2^64; `public` is for both parties' eyes.
    pub fn of_words(x: &[u64], public: &[u8]) -> Result<Self, getrandom::Error> {
        Self::with_masks(public, |mask| {
            let mut r = Zeroizing::new(vec![0; x.len()]);
            mask(&mut r);
            x.iter().zip(r.iter()).flat_map(|(x, r)| x.wrapping_sub(*r).to_le_bytes()).collect()
        })
    }

    /// Shares what `subtract` encodes: it calls the function it is given to fill words with masks, in order, and returns the input less the
    /// masks, as little-endian words.
    pub fn with_masks(
        public: &[u8],
        subtract: impl FnOnce(&mut dyn FnMut(&mut [u64])) -> Vec<u8>,
    ) -> Result<Self, getrandom::Error> {
        let (seed, mut stream) = fresh_stream()?;
        let mut mask = |words: &mut [u64]| {
            let bytes = stream(words.len());
            words.iter_mut().zip(words_of(&bytes)).for_each(|(w, r)| *w = r);
        };
        let rest = Zeroizing::new(subtract(&mut mask));
        Ok(Self { seed, second: None, rest, public: public.to_vec() })
    }

    /// The same among three servers: two get a seed and the third the input less both their masks.
    pub fn in_three(subtract: impl FnOnce(&mut dyn FnMut(&mut [u64])) -> Vec<u8>) -> Result<Self, getrandom::Error> {
        let ((seed, mut first), (other, mut second)) = (fresh_stream()?, fresh_stream()?);
        let mut mask = |words: &mut [u64]| {
            let (a, b) = (first(words.len()), second(words.len()));
            words.iter_mut().zip(words_of(&a).zip(words_of(&b))).for_each(|(w, (a, b))| *w = a.wrapping_add(b));
        };
        let rest = Zeroizing::new(subtract(&mut mask));
        Ok(Self { seed, second: Some(other), rest, public: Vec::new() })
    }

    /// What each server gets, in order.
    pub(crate) fn shares(&self) -> Vec<Zeroizing<Vec<u8>>> {
        let seeds = std::iter::once(&self.seed).chain(&self.second).map(|s| &s[..]);
        let parts = seeds.chain(std::iter::once(&self.rest[..]));
        parts.map(|share| Zeroizing::new([&self.public[..], share].concat())).collect()
    }
}

/// A seed and the words, as bytes, that [`expand`] makes of it, piece by piece.
type Stream = (Zeroizing<[u8; SEED]>, Box<dyn FnMut(usize) -> Zeroizing<Vec<u8>>>);

fn fresh_stream() -> Result<Stream, getrandom::Error> {
    let mut seed = Zeroizing::new([0; SEED]);
    getrandom::fill(&mut *seed)?;
    let mut stream = blake3::Hasher::new_derive_key(INPUT).update(&*seed).finalize_xof();
    let words = move |words: usize| {
        let mut bytes = Zeroizing::new(vec![0; words * 8]);
        stream.fill(&mut bytes);
        bytes
    };
    Ok((seed, Box::new(words)))
}

impl std::fmt::Debug for SharedInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SharedInput({} words, redacted)", self.rest.len() / 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expansion_is_a_function_of_domain_and_seed() {
        let a = expand("one", &[1; 32], 5);
        assert_eq!(a, expand("one", &[1; 32], 5));
        assert_eq!(a[..24], expand("one", &[1; 32], 3)[..]);
        assert_ne!(a, expand("two", &[1; 32], 5));
        assert_ne!(a, expand("one", &[2; 32], 5));
    }

    #[test]
    fn shares_add_up_and_neither_repeats() {
        let x: Vec<u64> = (0..100).map(|i| i * 0x0123_4567_89ab).collect();
        let open = |s: &SharedInput| -> Vec<u64> {
            words_of(&s.rest).zip(words_of(&expand(INPUT, &s.seed, 100))).map(|(b, a)| a.wrapping_add(b)).collect()
        };
        let [first, second] = [0, 1].map(|_| SharedInput::of_words(&x, b"pub").unwrap());
        assert_ne!(first.seed, second.seed);
        assert_ne!(first.rest, second.rest);
        assert_eq!(open(&first), x);
        assert_eq!(open(&second), x);
    }

    /// Masks asked for piece by piece are the one stream that party 0 expands.
    #[test]
    fn masks_in_pieces_are_the_stream_of_the_seed() {
        let mut seen = Vec::new();
        let shared = SharedInput::with_masks(b"", |mask| {
            for n in [1, 3, 2] {
                let mut piece = vec![0; n];
                mask(&mut piece);
                seen.extend(piece);
            }
            Vec::new()
        });
        assert_eq!(seen, words_of(&expand(INPUT, &shared.unwrap().seed, 6)).collect::<Vec<_>>());
    }

    #[test]
    fn three_shares_add_up() {
        let x: Vec<u64> = (0..50).map(|i| i * 0x0123_4567_89ab).collect();
        let shared = SharedInput::in_three(|mask| {
            let mut masks = vec![0; 50];
            mask(&mut masks);
            x.iter().zip(&masks).flat_map(|(x, r)| x.wrapping_sub(*r).to_le_bytes()).collect()
        });
        let shares = shared.unwrap().shares();
        let words = [0, 1].map(|i| expand(INPUT, shares[i][..].try_into().unwrap(), 50));
        let sum = words_of(&words[0]).zip(words_of(&words[1])).zip(words_of(&shares[2]));
        assert_eq!(sum.map(|((a, b), c)| a.wrapping_add(b).wrapping_add(c)).collect::<Vec<_>>(), x);
    }

    #[test]
    fn requests_of_another_length_do_not_decode() {
        let request = Request { number: 3, program: 1 };
        assert_eq!(Request::decode(&request.encode()), Some(request));
        assert_eq!(Request::decode(&[0; REQUEST + 1]), None);
        assert_eq!(Request::decode(&[0; 7]), None);
    }
}
