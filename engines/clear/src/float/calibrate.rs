//! Ranges of a model's inner values, measured on sample batches: what [`Calibration`] promises about inputs to come.

use sprint_model::{Batch, Calibration, CalibrationError, Checkpoint, LayerRanges, Range, ScoreRange, embed, encode};

use super::{FloatEngine, FloatError, FloatHeads};

/// How much wider than what was seen a range is made, on both sides.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Margin {
    /// Of the width that was seen.
    pub share: f64,
    /// At least, in the value's own units.
    pub least: f64,
}

/// Why a model has no calibration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrateError {
    /// The oracle cannot run the model.
    #[error(transparent)]
    Float(#[from] FloatError),
    /// A range is none: no batches, or values that are not finite.
    #[error(transparent)]
    Ranges(#[from] CalibrationError),
}

impl Default for Margin {
    /// A fifth of the width and a quarter.
    fn default() -> Self {
        Self { share: 0.2, least: 0.25 }
    }
}

/// What the oracle noted while it ran.
#[derive(Debug, Default)]
pub(super) struct Observed {
    layers: Vec<Option<LayerRanges>>,
}

impl Observed {
    fn layer(&mut self, part: &str) -> Option<&mut LayerRanges> {
        let index: usize = part.strip_prefix("layer.")?.split('.').next()?.parse().ok()?;
        if self.layers.len() <= index {
            self.layers.resize(index + 1, None);
        }
        let none = LayerRanges { heads: Vec::new(), activation: Range::EMPTY };
        Some(self.layers[index].get_or_insert(none))
    }

    /// Arguments of an activation: of every token, padding included, for the parties evaluate it there too.
    pub(super) fn arguments(&mut self, part: &str, values: &[f32]) {
        if let Some(layer) = self.layer(part) {
            values.iter().for_each(|x| layer.activation.include(f64::from(*x)));
        }
    }

    /// Scores of every row, padding included, with keys that are no padding.
    pub(super) fn scores(&mut self, part: &str, s: &FloatHeads, lengths: &[usize]) {
        let Some(layer) = self.layer(part) else { return };
        let [_, heads, rows, columns] = s.shape();
        let none = ScoreRange { scores: Range::EMPTY, log_sums: Range::EMPTY };
        layer.heads.resize(heads, none);
        for (at, row) in s.data().chunks_exact(columns.max(1)).enumerate() {
            let (head, example) = (&mut layer.heads[at / rows % heads], at / rows / heads);
            let mut seen = Range::EMPTY;
            row[..lengths[example]].iter().for_each(|x| seen.include(f64::from(*x)));
            head.scores.include(seen.low);
            head.scores.include(seen.high);
            let sum: f64 = row[..lengths[example]].iter().map(|x| (f64::from(*x) - seen.high).exp()).sum();
            head.log_sums.include(seen.high + sum.ln());
        }
    }
}

/// Measures `checkpoint` on `batches`, padded as the deployed ones will be, and widens every range by `margin`.
pub fn calibrate(checkpoint: &Checkpoint, batches: &[Batch], margin: Margin) -> Result<Calibration, CalibrateError> {
    let spec = checkpoint.spec();
    let mut observed = Observed::default();
    for batch in batches {
        let mut engine = FloatEngine::new(checkpoint, batch)?.observing(observed);
        let embedded = embed(&mut engine, spec)?;
        encode(&mut engine, spec, &embedded)?;
        observed = engine.observed();
    }
    let widened = |layer: LayerRanges| LayerRanges {
        heads: layer.heads.into_iter().map(|h| widen(h, margin)).collect(),
        activation: layer.activation.widened(margin.share, margin.least),
    };
    let unseen = LayerRanges { heads: Vec::new(), activation: Range::EMPTY };
    let mut layers: Vec<_> = observed.layers.into_iter().map(|l| l.unwrap_or_else(|| unseen.clone())).collect();
    // A softmax without a maximum reads no range of scores.
    let free = ScoreRange { scores: Range { low: 0.0, high: 0.0 }, log_sums: Range { low: 0.0, high: 0.0 } };
    layers.iter_mut().filter(|l| l.heads.is_empty()).for_each(|l| l.heads = vec![free; spec.heads]);
    Ok(Calibration::new(spec, batches.iter().map(Batch::size).sum(), layers.into_iter().map(widened).collect())?)
}

fn widen(head: ScoreRange, margin: Margin) -> ScoreRange {
    let scores = head.scores.widened(margin.share, margin.least);
    let log_sums = head.log_sums.widened(margin.share, margin.least);
    let log_sums = Range { low: log_sums.low.max(scores.low), ..log_sums };
    ScoreRange { scores, log_sums }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sprint_model::{Example, ModelSpec};

    fn batch(spec: &ModelSpec, lengths: &[usize]) -> Batch {
        let ids = |len: usize| (0..len).map(|i| (7 + i * 13 % 50) as u32).collect();
        let examples: Vec<Example> =
            lengths.iter().map(|len| Example { ids: ids(*len), type_ids: vec![0; *len], label: None }).collect();
        Batch::new(&examples, 10, spec.pad_token).expect("a batch")
    }

    #[test]
    fn ranges_hold_what_was_seen_and_grow_with_the_sample() {
        let model = Checkpoint::random(ModelSpec::bert_tiny(), 3).expect("a valid spec");
        let (a, b) = (batch(model.spec(), &[10, 4]), batch(model.spec(), &[9]));
        let none = Margin { share: 0.0, least: 0.0 };
        let one = calibrate(&model, std::slice::from_ref(&a), none).expect("runs");
        let both = calibrate(&model, &[a.clone(), b], none).expect("runs");
        let wide = calibrate(&model, &[a], Margin::default()).expect("runs");
        assert_eq!((one.examples(), both.examples()), (2, 3));
        for ((one, both), wide) in one.layers().iter().zip(both.layers()).zip(wide.layers()) {
            assert!(both.activation.low <= one.activation.low && one.activation.high <= both.activation.high);
            assert!(wide.activation.low < one.activation.low && one.activation.high < wide.activation.high);
            for ((one, both), wide) in one.heads.iter().zip(&both.heads).zip(&wide.heads) {
                assert!(both.scores.low <= one.scores.low && one.scores.high <= both.scores.high);
                assert!(both.log_sums.low <= one.log_sums.low && wide.log_sums.low < one.log_sums.low);
                assert!(one.scores.low < one.log_sums.low && one.log_sums.high < wide.log_sums.high);
            }
        }
    }

    #[test]
    fn no_batches_are_no_calibration() {
        let model = Checkpoint::random(ModelSpec::bert_tiny(), 3).expect("a valid spec");
        assert!(matches!(calibrate(&model, &[], Margin::default()), Err(CalibrateError::Ranges(_))));
    }
}
