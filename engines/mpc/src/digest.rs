//! 32-byte names of things: models, programs, sessions, dealer batches, certificates.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! name32 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps 32 bytes.
            pub const fn new(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex::encode(&self.0[..8]))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                let mut bytes = [0; 32];
                hex::decode_to_slice(&text, &mut bytes).map_err(serde::de::Error::custom)?;
                Ok(Self(bytes))
            }
        }
    };
}

name32!(
    /// What a role claims to evaluate: a model or a gate program, by content.
    Digest
);
name32!(
    /// One run of the three roles; drawn afresh for each.
    SessionId
);
name32!(
    /// One supply of dealer material; inference indexes count within it.
    BatchId
);
name32!(
    /// SHA-256 of a certificate's DER encoding.
    CertPin
);

impl SessionId {
    /// A fresh one from the operating system's generator.
    pub fn random() -> Result<Self, getrandom::Error> {
        random32().map(Self)
    }
}

impl BatchId {
    /// A fresh one from the operating system's generator.
    pub fn random() -> Result<Self, getrandom::Error> {
        random32().map(Self)
    }
}

fn random32() -> Result<[u8; 32], getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}
