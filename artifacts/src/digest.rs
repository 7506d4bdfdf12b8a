//! BLAKE3 digests, the only name a blob, an artifact or an action ever has.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A BLAKE3 digest of 32 bytes, written `b3:<64 lower-case hex digits>`.
///
/// Invariant: text and bytes correspond one to one; upper-case hex is refused so that a digest has exactly one spelling.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DigestError {
    /// The text does not begin with `b3:`.
    #[error("digest {text:?} does not begin with \"b3:\"")]
    Prefix {
        /// The text that was given.
        text: String,
    },
    /// What follows `b3:` is not 64 lower-case hex digits.
    #[error("digest {text:?} does not have 64 lower-case hex digits after \"b3:\"")]
    Hex {
        /// The text that was given.
        text: String,
    },
}

impl Digest {
    /// The digest whose bytes are already known, for instance read from a record.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The BLAKE3 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The digest of `bytes` in the domain `context`: `BLAKE3.derive_key(context, bytes)`.
    ///
    /// Digests in different domains never meet, so an action key cannot be mistaken for a blob.
    pub fn derived(context: &'static str, bytes: &[u8]) -> Self {
        Self(blake3::derive_key(context, bytes))
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 lower-case hex digits, without the prefix: the file name of a blob.
    pub fn to_hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The digest with these 64 lower-case hex digits.
    pub fn from_hex(text: &str) -> Result<Self, DigestError> {
        let error = || DigestError::Hex { text: text.to_owned() };
        if text.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(error());
        }
        let mut bytes = [0_u8; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| error())?;
        Ok(Self(bytes))
    }

    /// The first 12 hex digits, for people; never for look-ups.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b3:{}", self.to_hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = text.strip_prefix("b3:").ok_or_else(|| DigestError::Prefix { text: text.to_owned() })?;
        Self::from_hex(hex)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// A newtype over [`Digest`] that displays, parses and serialises as the digest does.
macro_rules! digest_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name($crate::digest::Digest);

        impl $name {
            /// The name with this digest.
            pub const fn new(digest: $crate::digest::Digest) -> Self {
                Self(digest)
            }

            /// The digest behind the name.
            pub const fn digest(&self) -> &$crate::digest::Digest {
                &self.0
            }

            /// The 64 hex digits.
            pub fn to_hex(&self) -> String {
                self.0.to_hex()
            }

            /// The first 12 hex digits, for people; never for look-ups.
            pub fn short(&self) -> String {
                self.0.short()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::digest::DigestError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}
pub(crate) use digest_newtype;

/// A BLAKE3 computation in progress; `impl Write`, so that bytes can be copied into it.
#[derive(Clone, Default)]
pub struct Hasher {
    inner: blake3::Hasher,
    length: u64,
}

impl Hasher {
    /// A computation that has seen no byte.
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends `bytes` to what is hashed.
    pub fn update(&mut self, bytes: &[u8]) {
        self.inner.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// How many bytes it has seen.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The digest of everything seen so far.
    pub fn finish(&self) -> Digest {
        Digest(*self.inner.finalize().as_bytes())
    }
}

impl fmt::Debug for Hasher {
    // The inner state is a function of the bytes, which may be secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hasher").field("length", &self.length).finish_non_exhaustive()
    }
}

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_digest_is_the_published_one() {
        // BLAKE3 specification, test_vectors.json, input_len 0.
        let hex = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(Digest::of(b"").to_hex(), hex);
        assert_eq!(Hasher::new().finish().to_hex(), hex);
    }

    #[test]
    fn a_digest_has_exactly_one_spelling() {
        let digest = Digest::of(b"x");
        let text = digest.to_string();
        assert_eq!(text.parse::<Digest>(), Ok(digest));
        let json = serde_json::to_string(&digest).expect("a string");
        assert_eq!(serde_json::from_str::<Digest>(&json).expect("parses"), digest);
        assert!(matches!(text.to_uppercase().parse::<Digest>(), Err(DigestError::Prefix { .. })));
        let upper = format!("b3:{}", digest.to_hex().to_uppercase());
        assert!(matches!(upper.parse::<Digest>(), Err(DigestError::Hex { .. })));
        assert!(matches!("b3:00".parse::<Digest>(), Err(DigestError::Hex { .. })));
        assert!(matches!("b3:é".parse::<Digest>(), Err(DigestError::Hex { .. })));
    }

    #[test]
    fn domains_do_not_meet() {
        assert_ne!(Digest::of(b"x"), Digest::derived("sprint-flow test v1", b"x"));
        assert_ne!(Digest::derived("sprint-flow test v1", b"x"), Digest::derived("sprint-flow test v2", b"x"));
    }
}
