//! Keys and random streams: ChaCha20 keyed from the operating system, one derived key per purpose, step and attempt.
//!
//! A private run's [`NoiseKey`] has no constructor from bytes or seeds, so a user seed cannot reach its noise by type. A reproducible source is a
//! different variant that every artefact made from it must be stamped with ([`RandomSource::is_private`]).

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use serde::{Deserialize, Serialize};
use std::fmt;
use zeroize::{Zeroize, Zeroizing};

/// What a stream is for; streams of different purposes, steps or attempts are independent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Purpose {
    /// Noise added to the clipped sum. Only [`crate::mechanism`] can ask for it.
    Noise,
    /// Which records enter a batch.
    Sampling,
    /// Initial values of trainable parameters.
    Initialisation,
    /// Dropout masks.
    Dropout,
    /// An audit's coins.
    Audit,
}

impl Purpose {
    fn context(self) -> &'static str {
        match self {
            Self::Noise => "sprint-dp 2026-11 noise",
            Self::Sampling => "sprint-dp 2026-11 sampling",
            Self::Initialisation => "sprint-dp 2026-11 initialisation",
            Self::Dropout => "sprint-dp 2026-11 dropout",
            Self::Audit => "sprint-dp 2026-11 audit",
        }
    }
}

/// A public name of a key: 16 bytes of a one-way derivation, safe in logs and ledgers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyId([u8; 16]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl From<KeyId> for String {
    fn from(id: KeyId) -> String {
        id.to_string()
    }
}

impl TryFrom<String> for KeyId {
    type Error = hex::FromHexError;
    fn try_from(text: String) -> Result<Self, hex::FromHexError> {
        let mut id = [0; 16];
        hex::decode_to_slice(text, &mut id)?;
        Ok(Self(id))
    }
}

/// The operating system gave no randomness.
#[derive(Debug, thiserror::Error)]
#[error("the operating system's random generator failed: {0}")]
pub struct EntropyError(getrandom::Error);

/// A 256-bit key that lives in memory only: not cloneable, not serialisable, zeroised when dropped.
pub struct NoiseKey(Zeroizing<[u8; 32]>);

impl fmt::Debug for NoiseKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NoiseKey(redacted)")
    }
}

impl NoiseKey {
    /// A fresh key from the operating system.
    pub fn fresh() -> Result<Self, EntropyError> {
        let mut key = Zeroizing::new([0; 32]);
        getrandom::fill(key.as_mut()).map_err(EntropyError)?;
        Ok(Self(key))
    }

    fn from_seed(seed: u64) -> Self {
        let mut key = Zeroizing::new([0; 32]);
        key[..8].copy_from_slice(&seed.to_le_bytes());
        Self(Zeroizing::new(blake3::derive_key("sprint-dp 2026-11 reproducible seed", key.as_ref())))
    }

    fn id(&self) -> KeyId {
        let long = blake3::derive_key("sprint-dp 2026-11 key id", self.0.as_ref());
        let mut id = [0; 16];
        id.copy_from_slice(&long[..16]);
        KeyId(id)
    }

    fn stream(&self, purpose: Purpose, step: u64, attempt: u64) -> Stream {
        let mut material = Zeroizing::new([0; 48]);
        material[..32].copy_from_slice(self.0.as_ref());
        material[32..40].copy_from_slice(&step.to_le_bytes());
        material[40..].copy_from_slice(&attempt.to_le_bytes());
        let mut key = blake3::derive_key(purpose.context(), material.as_ref());
        let stream = Stream { rng: ChaCha20Rng::from_seed(key), words: [0; BUFFER], next: BUFFER };
        key.zeroize();
        stream
    }
}

/// Where a run's randomness comes from.
#[derive(Debug)]
pub enum RandomSource {
    /// A fresh key from the operating system: the only source under which a model may be called private.
    Private(NoiseKey),
    /// A user's seed, for tests and debugging: everything made from it is not private.
    Reproducible(ReproducibleKey),
}

/// A key derived from a public seed.
#[derive(Debug)]
pub struct ReproducibleKey {
    seed: u64,
    key: NoiseKey,
}

impl RandomSource {
    /// A private source with a fresh key.
    pub fn private() -> Result<Self, EntropyError> {
        Ok(Self::Private(NoiseKey::fresh()?))
    }

    /// A reproducible source; stamps its run "not private".
    pub fn reproducible(seed: u64) -> Self {
        Self::Reproducible(ReproducibleKey { seed, key: NoiseKey::from_seed(seed) })
    }

    /// Whether outputs may carry a privacy claim.
    pub fn is_private(&self) -> bool {
        matches!(self, Self::Private(_))
    }

    /// The seed of a reproducible source.
    pub fn seed(&self) -> Option<u64> {
        match self {
            Self::Private(_) => None,
            Self::Reproducible(key) => Some(key.seed),
        }
    }

    fn key(&self) -> &NoiseKey {
        match self {
            Self::Private(key) => key,
            Self::Reproducible(reproducible) => &reproducible.key,
        }
    }

    /// The public name of the key.
    pub fn key_id(&self) -> KeyId {
        self.key().id()
    }

    /// The stream for sampling, initialisation or dropout of one step and attempt; `None` for noise, which only the mechanism draws.
    pub fn stream(&self, purpose: Purpose, step: u64, attempt: u64) -> Option<Stream> {
        (purpose != Purpose::Noise).then(|| self.key().stream(purpose, step, attempt))
    }

    pub(crate) fn noise(&self, step: u64, attempt: u64) -> Stream {
        self.key().stream(Purpose::Noise, step, attempt)
    }
}

const BUFFER: usize = 512;

/// A ChaCha20 key stream read in 64-bit words. Not cloneable: a stream is read once.
///
/// The buffer is zeroised on drop; the cipher's own state inside `rand_chacha` is not, which leaves a step's derived key (never the run's
/// key) in freed memory.
pub struct Stream {
    rng: ChaCha20Rng,
    words: [u64; BUFFER],
    next: usize,
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream(redacted)")
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.words.zeroize();
    }
}

impl Stream {
    /// The next 64 uniform bits.
    #[inline]
    pub fn word(&mut self) -> u64 {
        if self.next == BUFFER {
            self.refill();
        }
        let word = self.words[self.next];
        self.next += 1;
        word
    }

    #[cold]
    fn refill(&mut self) {
        let mut bytes = [0; 8 * BUFFER];
        self.rng.fill_bytes(&mut bytes);
        for (word, chunk) in self.words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_le_bytes(chunk.try_into().expect("chunks of eight"));
        }
        bytes.zeroize();
        self.next = 0;
    }

    /// A uniform integer below `bound` > 0 (rejection, no modulo bias).
    pub fn below(&mut self, bound: u64) -> u64 {
        loop {
            let product = u128::from(self.word()) * u128::from(bound);
            if product as u64 >= bound.wrapping_neg() % bound {
                return (product >> 64) as u64;
            }
        }
    }

    /// A uniform f64 in [0, 1) with 53 bits, for initialisation and dropout (never for noise).
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_purpose_step_attempt_and_key() {
        let a = RandomSource::reproducible(1);
        let b = RandomSource::reproducible(2);
        let mut seen = std::collections::BTreeSet::new();
        for source in [&a, &b] {
            for purpose in [Purpose::Sampling, Purpose::Initialisation, Purpose::Dropout] {
                for (step, attempt) in [(0, 0), (0, 1), (1, 0)] {
                    assert!(seen.insert(source.stream(purpose, step, attempt).unwrap().word()));
                }
            }
            assert!(seen.insert(source.noise(0, 0).word()));
            assert!(source.stream(Purpose::Noise, 0, 0).is_none());
        }
        assert_eq!(a.noise(3, 1).word(), RandomSource::reproducible(1).noise(3, 1).word());
    }

    #[test]
    fn private_sources_are_fresh_and_never_print_their_key() {
        let (a, b) = (RandomSource::private().unwrap(), RandomSource::private().unwrap());
        assert_ne!(a.key_id(), b.key_id());
        assert!(a.is_private() && a.seed().is_none());
        assert!(!RandomSource::reproducible(7).is_private());
        assert_eq!(format!("{a:?}"), "Private(NoiseKey(redacted))");
    }

    #[test]
    fn bounded_integers_cover_their_range_evenly() {
        let mut stream = RandomSource::reproducible(3).stream(Purpose::Sampling, 0, 0).unwrap();
        let mut counts = [0_u32; 7];
        for _ in 0..70_000 {
            counts[stream.below(7) as usize] += 1;
        }
        let chi: f64 = counts.iter().map(|c| (f64::from(*c) - 1e4).powi(2) / 1e4).sum();
        assert!(chi < 30.0, "{counts:?}");
    }
}
