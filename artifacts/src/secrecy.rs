//! Secrecy labels: who may hold an artifact.
//!
//! **Architecture invariant.** The label decides the folder, the folder decides the permissions, and the two parties' shares
//! never lie in one folder. What may leave this machine is decided by type: a [`PublicArtifact`](crate::manifest::PublicArtifact), which
//! exists only for manifests labelled [`Secrecy::Public`], goes to a remote as it is; a
//! [`SecretArtifact`](crate::manifest::SecretArtifact) goes sealed to its owner's key. A party's share is neither and stays.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Who may hold an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Secrecy {
    /// Anyone.
    Public,
    /// One party of a multi-party computation, by index: its shares, its correlations.
    Party(u8),
    /// Nobody but this machine: training checkpoints, noise keys, material from which a secret can be derived.
    Secret,
}

/// A text that is not a secrecy label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a secrecy label; there are \"public\", \"party-<0..255>\" and \"secret\"")]
pub struct SecrecyError {
    /// The text.
    pub text: String,
}

impl Secrecy {
    /// Whether everyone may hold it.
    pub const fn is_public(self) -> bool {
        matches!(self, Self::Public)
    }

    /// The mode of a file with this label that is never written again.
    pub const fn file_mode(self) -> u32 {
        if self.is_public() { 0o444 } else { 0o400 }
    }

    /// The mode of a folder that holds files with this label.
    pub const fn dir_mode(self) -> u32 {
        if self.is_public() { 0o755 } else { 0o700 }
    }
}

impl fmt::Display for Secrecy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Public => f.write_str("public"),
            Self::Party(index) => write!(f, "party-{index}"),
            Self::Secret => f.write_str("secret"),
        }
    }
}

impl FromStr for Secrecy {
    type Err = SecrecyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let label = match text {
            "public" => Some(Self::Public),
            "secret" => Some(Self::Secret),
            _ => text.strip_prefix("party-").and_then(|index| index.parse().ok()).map(Self::Party),
        };
        // "party-007" and "party-+7" also parse as numbers; a label has one spelling.
        label.filter(|l| l.to_string() == text).ok_or_else(|| SecrecyError { text: text.to_owned() })
    }
}

impl Serialize for Secrecy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Secrecy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_has_exactly_one_spelling() {
        for label in [Secrecy::Public, Secrecy::Party(0), Secrecy::Party(255), Secrecy::Secret] {
            assert_eq!(label.to_string().parse(), Ok(label));
        }
        for text in ["", "Public", "party-", "party-256", "party-01", "party-+1", "secret "] {
            assert!(text.parse::<Secrecy>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn only_public_files_are_readable_by_others() {
        for label in [Secrecy::Party(0), Secrecy::Party(1), Secrecy::Secret] {
            assert_eq!(label.file_mode() & 0o077, 0);
            assert_eq!(label.dir_mode() & 0o077, 0);
        }
    }
}
