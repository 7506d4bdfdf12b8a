//! Public ranges of a model's inner values, measured in the clear: what private inference may replace secret comparisons by.

use serde::{Deserialize, Serialize};

use crate::ModelSpec;

/// The format this program writes and reads.
const VERSION: u32 = 1;

/// A closed interval of real numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Range {
    /// Smallest.
    pub low: f64,
    /// Largest.
    pub high: f64,
}

/// Attention scores of one head, of tokens that are no padding, as the softmax reads them (divided by `√d` and the temperature, capped).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreRange {
    /// All scores.
    pub scores: Range,
    /// `ln Σ exp s` of the rows.
    pub log_sums: Range,
}

/// What one encoder layer's functions read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerRanges {
    /// One for each head.
    pub heads: Vec<ScoreRange>,
    /// The argument of the feed-forward activation.
    pub activation: Range,
}

/// Ranges of all layers. They ship with the model and are public: they are part of the program's digest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    version: u32,
    /// Examples that were measured.
    examples: usize,
    layers: Vec<LayerRanges>,
}

/// Why ranges are not those of a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("calibration: {0}")]
pub struct CalibrationError(String);

impl Range {
    /// The interval of nothing: any [`Range::include`] replaces it.
    pub const EMPTY: Self = Self { low: f64::INFINITY, high: f64::NEG_INFINITY };

    /// Widens the interval to hold `x`.
    pub fn include(&mut self, x: f64) {
        self.low = self.low.min(x);
        self.high = self.high.max(x);
    }

    /// The interval widened on both sides by `share` of its width and `least`.
    #[must_use]
    pub fn widened(self, share: f64, least: f64) -> Self {
        let by = share * (self.high - self.low) + least;
        Self { low: self.low - by, high: self.high + by }
    }

    fn holds(self) -> bool {
        self.low.is_finite() && self.high.is_finite() && self.low <= self.high
    }
}

impl Calibration {
    /// Takes the ranges of `layers`, as measured on `examples` examples, margins included.
    pub fn new(spec: &ModelSpec, examples: usize, layers: Vec<LayerRanges>) -> Result<Self, CalibrationError> {
        let this = Self { version: VERSION, examples, layers };
        this.check(spec)?;
        Ok(this)
    }

    /// Whether these are ranges of `spec`'s layers and heads, finite and in order.
    pub fn check(&self, spec: &ModelSpec) -> Result<(), CalibrationError> {
        let fault = |what: String| Err(CalibrationError(what));
        if self.version != VERSION {
            return fault(format!("version {}, this program reads {VERSION}", self.version));
        }
        if self.layers.len() != spec.layers {
            return fault(format!("ranges of {} layers for a model of {}", self.layers.len(), spec.layers));
        }
        for (index, layer) in self.layers.iter().enumerate() {
            if layer.heads.len() != spec.heads {
                return fault(format!("layer {index} has ranges of {} heads of {}", layer.heads.len(), spec.heads));
            }
            if !layer.activation.holds() {
                return fault(format!("layer {index}: the activation's range is not one"));
            }
            let holds = |h: &ScoreRange| h.scores.holds() && h.log_sums.holds() && h.scores.low <= h.log_sums.low;
            if let Some(head) = layer.heads.iter().position(|h| !holds(h)) {
                return fault(format!("layer {index}, head {head}: the scores' range is not one"));
            }
        }
        Ok(())
    }

    /// Examples that were measured.
    pub fn examples(&self) -> usize {
        self.examples
    }

    /// The layers in order.
    pub fn layers(&self) -> &[LayerRanges] {
        &self.layers
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(spec: &ModelSpec) -> LayerRanges {
        let head = ScoreRange { scores: Range { low: -2.0, high: 3.0 }, log_sums: Range { low: 1.0, high: 4.0 } };
        LayerRanges { heads: vec![head; spec.heads], activation: Range { low: -4.0, high: 4.0 } }
    }

    #[test]
    fn ranges_of_another_shape_or_out_of_order_are_refused_by_name() {
        let spec = ModelSpec::bert_tiny();
        let good = vec![layer(&spec); spec.layers];
        Calibration::new(&spec, 3, good.clone()).expect("in order");
        assert!(Calibration::new(&spec, 3, good[1..].to_vec()).unwrap_err().to_string().contains("layers"));
        let mut bad = good.clone();
        bad[1].heads[0].log_sums.low = -9.0;
        assert!(Calibration::new(&spec, 3, bad).unwrap_err().to_string().contains("layer 1, head 0"));
        let mut bad = good;
        bad[0].activation = Range::EMPTY;
        assert!(Calibration::new(&spec, 3, bad).unwrap_err().to_string().contains("layer 0: the activation"));
    }

    #[test]
    fn widening_an_interval_keeps_what_it_held() {
        let mut range = Range::EMPTY;
        [3.0, -1.0, 2.0].into_iter().for_each(|x| range.include(x));
        assert_eq!(range, Range { low: -1.0, high: 3.0 });
        assert_eq!(range.widened(0.25, 1.0), Range { low: -3.0, high: 5.0 });
    }
}
