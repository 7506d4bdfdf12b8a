//! `calibration@1`: one public file, `calibration.json`.

use serde::{Deserialize, Serialize};
use sprint_artifacts::{Manifest, ManifestBuilder, Secrecy};
use sprint_clear::float::{Margin, calibrate};
use sprint_model::{Batch, Calibration, Checkpoint, Example, LayerRanges, ModelSpec, Range, ScoreRange};
use sprint_stage_api::{StageError, with_causes};

/// The file.
pub(crate) const FILE: &str = "calibration.json";
const VERSION: u32 = 1;
/// Ranges are widened to multiples of this: fewer digits of the model are published, and they are the same number in every program.
const STEP: f64 = 1.0 / 256.0;

/// What ranges were measured on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CalibratedOn {
    /// Random tokens of the vocabulary: no data at all.
    RandomTokens {
        /// Which.
        seed: u64,
    },
    /// Texts that anybody may know.
    PublicTexts,
    /// Texts of somebody, whose extremes are thereby released.
    PrivateTexts,
}

impl std::fmt::Display for CalibratedOn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::RandomTokens { seed } => write!(f, "random tokens (seed {seed})"),
            Self::PublicTexts => f.write_str("public texts"),
            Self::PrivateTexts => f.write_str("private texts, whose extremes are released"),
        }
    }
}

/// Ranges of one model, and what they were measured on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRanges {
    version: u32,
    /// Names the model: a hash of its spec and parameters.
    model: String,
    on: CalibratedOn,
    /// The most tokens of a text that was measured.
    tokens: usize,
    /// Added to either side, as a fraction of the width.
    margin: f64,
    ranges: Calibration,
}

impl ModelRanges {
    /// Runs `checkpoint` in the clear on `texts`, each padded to `tokens`, and widens what is seen by `margin` of its width and a quarter.
    pub fn measure(
        checkpoint: &Checkpoint,
        on: CalibratedOn,
        texts: &[Example],
        tokens: usize,
        margin: f64,
    ) -> Result<Self, StageError> {
        let failed = |e: &dyn std::error::Error| StageError::permanent(format!("calibrating: {}", with_causes(e)));
        let pad = checkpoint.spec().pad_token;
        let batches = texts.iter().map(|text| Batch::new([text], tokens, pad)).collect::<Result<Vec<_>, _>>();
        let margins = Margin { share: margin, ..Margin::default() };
        let measured = calibrate(checkpoint, &batches.map_err(|e| failed(&e))?, margins).map_err(|e| failed(&e))?;
        let bound = score_bound(checkpoint.spec());
        let layers = measured.layers().iter().map(|layer| rounded(&held(layer, bound))).collect();
        let ranges = Calibration::new(checkpoint.spec(), measured.examples(), layers).map_err(|e| failed(&e))?;
        Ok(Self { version: VERSION, model: model_name(checkpoint), on, tokens, margin, ranges })
    }

    /// Reads `calibration.json`; the ranges themselves are checked against a model by [`ModelRanges::check`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, StageError> {
        let found: Self = serde_json::from_slice(bytes).map_err(|e| StageError::permanent(format!("{FILE}: {e}")))?;
        if found.version != VERSION {
            return Err(StageError::permanent(format!("{FILE} has version {}, this program reads {VERSION}", found.version)));
        }
        Ok(found)
    }

    /// As `calibration.json` has it.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).expect("ranges are finite numbers and names")
    }

    /// The artifact of these ranges.
    pub(super) fn artifact(&self) -> ManifestBuilder {
        Manifest::builder("calibration@1", Secrecy::Public).bytes(FILE, self.to_json())
    }

    /// Whether they are those of `checkpoint`.
    pub fn check(&self, checkpoint: &Checkpoint) -> Result<(), StageError> {
        let (found, due) = (&self.model, model_name(checkpoint));
        if *found != due {
            let what = format!("ranges of another model: they were measured on {found}, this is {due}");
            return Err(
                StageError::permanent(what).help("measure this model's ranges: stage `calibrate`, or `sprint-flow calibrate`")
            );
        }
        self.ranges.check(checkpoint.spec()).map_err(|e| StageError::permanent(e.to_string()))
    }

    /// What they were measured on.
    pub fn on(&self) -> CalibratedOn {
        self.on
    }

    /// The most tokens of a text that was measured.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// The ranges.
    pub fn calibration(&self) -> &Calibration {
        &self.ranges
    }
}

/// What no score exceeds in size, where the model caps them: a margin beyond it would be for nothing.
fn score_bound(spec: &ModelSpec) -> f64 {
    // The cap comes last, after any temperature, and is itself computed with an error.
    spec.caps.attention.map_or(f64::INFINITY, |cap| cap + 1.0 / 16.0)
}

/// Ranges of scores within `±bound`; the log-sum-exp of a row is no less than its largest score.
fn held(layer: &LayerRanges, bound: f64) -> LayerRanges {
    let head = |h: &ScoreRange| ScoreRange {
        scores: Range { low: h.scores.low.max(-bound), high: h.scores.high.min(bound) },
        log_sums: Range { low: h.log_sums.low.max(-bound), ..h.log_sums },
    };
    LayerRanges { heads: layer.heads.iter().map(head).collect(), activation: layer.activation }
}

/// Outwards to multiples of [`STEP`].
fn rounded(layer: &LayerRanges) -> LayerRanges {
    let out = |r: Range| Range { low: (r.low / STEP).floor() * STEP, high: (r.high / STEP).ceil() * STEP };
    let head = |h: &ScoreRange| ScoreRange { scores: out(h.scores), log_sums: out(h.log_sums) };
    LayerRanges { heads: layer.heads.iter().map(head).collect(), activation: out(layer.activation) }
}

/// A hash of everything that decides a model's values.
pub fn model_name(checkpoint: &Checkpoint) -> String {
    let mut hasher = blake3::Hasher::new_derive_key("sprint-flow calibrated model v1");
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    };
    field(&serde_json::to_vec(checkpoint.spec()).expect("a spec is numbers and names"));
    for (path, tensor) in checkpoint.params() {
        field(path.as_str().as_bytes());
        let bytes: Vec<u8> = tensor.data().iter().flat_map(|v| v.to_le_bytes()).collect();
        field(&bytes);
    }
    format!("b3:{}", hasher.finalize().to_hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_margin_does_not_widen_scores_beyond_their_cap() {
        let mut spec = ModelSpec::bert_tiny();
        let range = |low, high| Range { low, high };
        let head = ScoreRange { scores: range(-4.0, 4.0), log_sums: range(-3.0, 6.0) };
        let layer = LayerRanges { heads: vec![head; spec.heads], activation: range(-9.0, 9.0) };
        assert_eq!(held(&layer, score_bound(&spec)), layer, "nothing is known without a cap");
        spec.caps.attention = Some(2.5);
        let held = rounded(&held(&layer, score_bound(&spec)));
        let bound = 2.5 + 1.0 / 16.0;
        assert_eq!(held.heads[0], ScoreRange { scores: range(-bound, bound), log_sums: range(-bound, 6.0) });
        assert_eq!(held.activation, layer.activation);
    }
}
