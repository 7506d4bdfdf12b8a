//! `privacy-report@1`: a model's privacy claim in the terms of the metrics table, with the accountant's full report beside it.

use serde::{Deserialize, Serialize};
use sprint_artifacts::{ArtifactId, Manifest, Secrecy, Store};
use sprint_dp::ledger::Trials;
use sprint_stage_api::StageError;

use crate::errors::{Put, stamped, store_error};

/// The file of the artifact.
const FILE: &str = "privacy-report.json";

/// The claim. In a run without privacy every number is `null` and `private` is false.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PrivacyClaim {
    /// ε of everything that was charged, crashed attempts included.
    pub(crate) epsilon: Option<f64>,
    /// δ.
    pub(crate) delta: Option<f64>,
    /// The noise multiplier.
    pub(crate) sigma: Option<f64>,
    /// The sampling rate.
    pub(crate) q: Option<f64>,
    /// Noisy steps charged; `epsilon` is that of so many.
    pub(crate) steps: Option<u64>,
    /// Which accountant `epsilon` is by.
    pub(crate) accountant: Option<String>,
    /// Whether the claim holds: false without noise, and false with a public seed.
    pub(crate) private: bool,
}

/// The whole document.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PrivacyDocument {
    version: u32,
    /// The claim.
    pub(crate) claim: PrivacyClaim,
    /// Everything needed to check it: mechanism, sampler, neighbouring relation, attempts, ledger.
    pub(crate) report: serde_json::Value,
    /// All trainings on the same data set in this store up to this one, composed: what a reader of every model has learnt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trials: Option<Trials>,
}

impl PrivacyDocument {
    const VERSION: u32 = 1;

    pub(crate) fn new(claim: PrivacyClaim, report: serde_json::Value) -> Self {
        Self { version: Self::VERSION, claim, report, trials: None }
    }

    /// With the cost of all trainings on the same data.
    pub(crate) fn with_trials(self, trials: Option<Trials>) -> Self {
        Self { trials, ..self }
    }

    /// Stores it.
    pub(crate) fn store(&self, to: &impl Put) -> Result<ArtifactId, StageError> {
        let json = serde_json::to_vec_pretty(self).map_err(|e| StageError::permanent(e.to_string()))?;
        let builder = Manifest::builder("privacy-report@1", Secrecy::Public).bytes(FILE, json);
        to.put(stamped(builder, self.claim.private))
    }

    /// Reads a stored one.
    pub(crate) fn load(store: &Store, id: &ArtifactId) -> Result<Self, StageError> {
        let manifest = store.read_artifact(id).map_err(store_error)?;
        let json = store.read_file(&manifest, FILE).map_err(store_error)?;
        let document: Self = serde_json::from_slice(&json).map_err(|e| StageError::permanent(format!("{FILE}: {e}")))?;
        if document.version == Self::VERSION {
            Ok(document)
        } else {
            Err(StageError::permanent(format!("{FILE} has version {}, this program reads {}", document.version, Self::VERSION)))
        }
    }
}
