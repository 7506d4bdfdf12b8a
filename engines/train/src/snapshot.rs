//! What a run needs to go on after a crash: parameters, optimiser, step and the ledger's head. Never a key.
//!
//! A snapshot is one safetensors file: vectors of f32 and a JSON header under the metadata key `sprint-train`. Steps are sampled
//! independently, or in turns that the ledger counts, so there is no sampler position. In a private run a resumed process draws from a fresh
//! key; in a reproducible one the streams are functions of the seed and the step, so a resumed run repeats the uninterrupted one bit for bit, unless its
//! noise is correlated: what a banded strategy remembers is never written down, and a resumed run begins anew.

use std::collections::HashMap;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde::{Deserialize, Serialize};
use sprint_dp::ledger::LedgerHead;
use thiserror::Error;

const VERSION: u32 = 2;
const HEADER: &str = "sprint-train";
const VECTORS: [&str; 5] = ["parameters", "average", "first_moment", "second_moment", "bases"];

/// A snapshot that this run cannot continue from.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Not a snapshot, or a damaged one.
    #[error("the snapshot cannot be read: {0}")]
    Malformed(String),
    /// Written by another version of the format.
    #[error("the snapshot has format version {found}; this program reads version {VERSION}")]
    Version {
        /// As found.
        found: u32,
    },
    /// Of another configuration, model or data set.
    #[error("the snapshot belongs to a run with another configuration, model or data set")]
    OtherRun,
    /// Of another shape or past the end of the run.
    #[error("the snapshot's {0} does not fit this run")]
    Shape(&'static str),
}

/// The state of a run after `step` steps.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) step: u64,
    /// Digest of everything that decides the run's result.
    pub(crate) run_digest: String,
    pub(crate) ledger: Option<LedgerHead>,
    pub(crate) theta: Vec<f32>,
    pub(crate) average: Vec<f32>,
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
    /// The noise's share of the second moment, for an optimiser that takes it out.
    pub(crate) noise: Option<f64>,
    /// The subspaces' values, in the layout's order; empty without any.
    pub(crate) bases: Vec<f32>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    version: u32,
    step: u64,
    run_digest: String,
    ledger: Option<LedgerHead>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    noise: Option<f64>,
}

impl Snapshot {
    /// The file's bytes.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, SnapshotError> {
        let malformed = |e: &dyn std::fmt::Display| SnapshotError::Malformed(e.to_string());
        let (run_digest, ledger) = (self.run_digest.clone(), self.ledger.clone());
        let header = Header { version: VERSION, step: self.step, run_digest, ledger, noise: self.noise };
        let header = serde_json::to_string(&header).map_err(|e| malformed(&e))?;
        let bytes = [&self.theta, &self.average, &self.first, &self.second, &self.bases]
            .map(|v| v.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
        let mut views = Vec::with_capacity(VECTORS.len());
        for (name, bytes) in VECTORS.iter().zip(&bytes) {
            views.push((*name, TensorView::new(Dtype::F32, vec![bytes.len() / 4], bytes).map_err(|e| malformed(&e))?));
        }
        let metadata = HashMap::from([(HEADER.to_owned(), header)]);
        safetensors::serialize(views, Some(metadata)).map_err(|e| malformed(&e))
    }

    /// Reads and checks the format; whether it belongs to a run is [`Snapshot::check`]'s question.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let malformed = |e: &dyn std::fmt::Display| SnapshotError::Malformed(e.to_string());
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| malformed(&e))?;
        let text = metadata.metadata().as_ref().and_then(|m| m.get(HEADER));
        let text = text.ok_or_else(|| malformed(&"its header is missing"))?;
        let header: Header = serde_json::from_str(text).map_err(|e| malformed(&e))?;
        if header.version != VERSION {
            return Err(SnapshotError::Version { found: header.version });
        }
        let tensors = SafeTensors::deserialize(bytes).map_err(|e| malformed(&e))?;
        let vector = |name: &str| -> Result<Vec<f32>, SnapshotError> {
            let view = tensors.tensor(name).map_err(|e| malformed(&e))?;
            if view.dtype() != Dtype::F32 {
                return Err(malformed(&format_args!("{name} is not F32")));
            }
            let (words, rest) = view.data().as_chunks::<4>();
            debug_assert!(rest.is_empty(), "safetensors checks the byte count");
            let values: Vec<f32> = words.iter().map(|w| f32::from_le_bytes(*w)).collect();
            if values.iter().all(|v| v.is_finite()) { Ok(values) } else { Err(malformed(&format_args!("{name} is not finite"))) }
        };
        let [theta, average, first, second, bases] = VECTORS;
        Ok(Self {
            step: header.step,
            run_digest: header.run_digest,
            ledger: header.ledger,
            theta: vector(theta)?,
            average: vector(average)?,
            first: vector(first)?,
            second: vector(second)?,
            noise: header.noise,
            bases: vector(bases)?,
        })
    }

    /// Whether it was taken within the run of this digest, dimension and length.
    pub(crate) fn check(&self, run_digest: &str, dim: usize, steps: u64) -> Result<(), SnapshotError> {
        if self.run_digest != run_digest {
            return Err(SnapshotError::OtherRun);
        }
        if self.theta.len() != dim {
            return Err(SnapshotError::Shape("number of parameters"));
        }
        if self.step > steps {
            return Err(SnapshotError::Shape("step"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Snapshot, SnapshotError};
    use sprint_dp::ledger::LedgerHead;

    fn snapshot() -> Snapshot {
        Snapshot {
            step: 7,
            run_digest: "d".to_owned(),
            ledger: Some(LedgerHead { entries: 9, digest: "ab".to_owned() }),
            theta: vec![1.0, -2.5],
            average: vec![0.25, 0.5],
            first: vec![0.5, f32::MIN_POSITIVE],
            second: vec![],
            noise: Some(0.25),
            bases: vec![0.5],
        }
    }

    #[test]
    fn a_snapshot_survives_its_encoding() {
        let bytes = snapshot().encode().expect("encodes");
        assert_eq!(Snapshot::decode(&bytes), Ok(snapshot()));
    }

    #[test]
    fn truncated_and_flipped_snapshots_are_errors_or_other_snapshots_but_never_panics() {
        let bytes = snapshot().encode().expect("encodes");
        for cut in 0..bytes.len() {
            assert!(Snapshot::decode(&bytes[..cut]).is_err(), "cut at {cut}");
        }
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 0x11;
            let _ = Snapshot::decode(&flipped);
        }
    }

    #[test]
    fn a_snapshot_of_another_run_is_refused() {
        let s = snapshot();
        assert_eq!(s.check("e", 2, 10), Err(SnapshotError::OtherRun));
        assert_eq!(s.check("d", 3, 10), Err(SnapshotError::Shape("number of parameters")));
        assert_eq!(s.check("d", 2, 6), Err(SnapshotError::Shape("step")));
        assert_eq!(s.check("d", 2, 7), Ok(()));
    }
}
