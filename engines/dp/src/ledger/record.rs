//! The ledger's lines: bodies, the checksum chain, and reading them back.

use crate::budget::{ClipNorm, NoiseMultiplier, SamplingRate};
use crate::mechanism::{GridBits, Strategy};
use crate::randomness::KeyId;
use serde::{Deserialize, Serialize};

/// A run's name in the ledger: 1 to 200 printable characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunId(String);

impl RunId {
    /// Accepts 1 to 200 characters without control characters.
    pub fn new(name: impl Into<String>) -> Result<Self, RunIdError> {
        let name = name.into();
        if name.is_empty() || name.chars().count() > 200 || name.chars().any(char::is_control) {
            Err(RunIdError { length: name.chars().count() })
        } else {
            Ok(Self(name))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A run name the ledger does not take.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the run name has {length} characters or control characters: give 1 to 200 printable ones")]
pub struct RunIdError {
    length: usize,
}

impl TryFrom<String> for RunId {
    type Error = RunIdError;
    fn try_from(name: String) -> Result<Self, RunIdError> {
        Self::new(name)
    }
}

impl From<RunId> for String {
    fn from(id: RunId) -> String {
        id.0
    }
}

/// One line's content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Body {
    Open {
        version: u32,
        dataset: String,
    },
    Run(RunBody),
    Charge(ChargeBody),
    Recovered {
        discarded_bytes: u64,
        q: Option<SamplingRate>,
        sigma: Option<NoiseMultiplier>,
        #[serde(default, skip_serializing_if = "Strategy::is_independent")]
        strategy: Strategy,
    },
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunBody {
    pub(crate) run: RunId,
    pub(crate) q: SamplingRate,
    pub(crate) sigma: NoiseMultiplier,
    pub(crate) clip: ClipNorm,
    pub(crate) bits: GridBits,
    pub(crate) dimension: u64,
    pub(crate) key_id: KeyId,
    pub(crate) private: bool,
    #[serde(default, skip_serializing_if = "Strategy::is_independent")]
    pub(crate) strategy: Strategy,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChargeBody {
    pub(crate) run: RunId,
    pub(crate) step: u64,
    pub(crate) attempt: u64,
    pub(crate) q: SamplingRate,
    pub(crate) sigma: NoiseMultiplier,
    pub(crate) clip: ClipNorm,
    pub(crate) key_id: KeyId,
    #[serde(default, skip_serializing_if = "Strategy::is_independent")]
    pub(crate) strategy: Strategy,
}

/// The chain value after a line.
pub(crate) type Link = [u8; 32];

fn chain(previous: &Link, body: &str) -> Link {
    let mut hasher = blake3::Hasher::new_derive_key("sprint-dp ledger v1");
    hasher.update(previous);
    hasher.update(body.as_bytes());
    *hasher.finalize().as_bytes()
}

/// The line that follows `previous`, newline included, and its chain value.
pub(crate) fn encode(previous: &Link, body: &Body) -> Result<(Vec<u8>, Link), serde_json::Error> {
    let text = serde_json::to_string(body)?;
    let link = chain(previous, &text);
    Ok((format!("{} {text}\n", hex::encode(link)).into_bytes(), link))
}

/// Why a complete line is not what the ledger wrote.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LineError {
    #[error("not of the form `<digest> <record>`")]
    Form,
    #[error("its digest does not follow from the line before it")]
    Chain,
    #[error("its record does not parse: {0}")]
    Body(String),
}

/// Checks and reads one complete line (without its newline).
pub(crate) fn decode(previous: &Link, line: &[u8]) -> Result<(Body, Link), LineError> {
    let text = std::str::from_utf8(line).map_err(|_| LineError::Form)?;
    let (digest, body) = text.split_once(' ').ok_or(LineError::Form)?;
    let link = chain(previous, body);
    if digest != hex::encode(link) {
        return Err(LineError::Chain);
    }
    let body = serde_json::from_str(body).map_err(|error| LineError::Body(error.to_string()))?;
    Ok((body, link))
}
