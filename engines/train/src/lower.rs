//! What the encoder layers below every trained one make of the examples, computed once and kept.
//!
//! These layers compute the same function in every step: with the upper half trained, keeping their output saves a third of the
//! passes through a layer, and with the head alone all of them. Each example's states are those of its own tokens, so how examples are batched does not matter.

use std::sync::Mutex;

use burn::tensor::{Tensor, TensorData};
use sprint_model::{Batch, Example, ModelSpec, ParamPath, Part, embed, encode_layers};

use crate::cut::cut;
use crate::device::Backend;
use crate::engine::BurnEngine;
use crate::error::TrainError;
use crate::layout::Layout;
use crate::per_sample::read;
use crate::run::Run;

/// Physical batches between two looks at whether the run was cancelled.
const CHUNK: usize = 64;

/// The input of encoder layer `layer` for every token of every example.
pub(crate) struct LowerStates {
    layer: usize,
    hidden: usize,
    /// Where each example begins in `values`, and the end.
    starts: Vec<usize>,
    values: Vec<f32>,
}

impl LowerStates {
    /// Whether there are layers below `layer` that compute the same in every step, and their states fit into `bytes`.
    pub(crate) fn worthwhile(spec: &ModelSpec, layer: usize, examples: &[Example], bytes: usize) -> bool {
        let tokens: usize = examples.iter().map(|e| e.ids.len()).sum();
        layer > 0 && spec.hidden_dropout == 0.0 && tokens.saturating_mul(spec.hidden * size_of::<f32>()) <= bytes
    }

    /// Runs the layers below `layer` on every example of `run`.
    pub(crate) fn compute(run: &Run<'_>, layer: usize, cancelled: &mut dyn FnMut() -> bool) -> Result<Self, TrainError> {
        let (examples, spec) = (run.examples(), run.spec());
        let starts: Vec<usize> = std::iter::once(0)
            .chain(examples.iter().scan(0, |end, e| {
                *end += e.ids.len() * spec.hidden;
                Some(*end)
            }))
            .collect();
        let values = Mutex::new(vec![0.0_f32; starts.last().copied().unwrap_or(0)]);
        let lengths: Vec<usize> = examples.iter().map(|e| e.ids.len()).collect();
        let cuts = cut(&lengths, CHUNK, run.backend().kind());
        for cuts in cuts.chunks(CHUNK) {
            if cancelled() {
                return Err(TrainError::Cancelled);
            }
            let one = |(): &mut (), item: usize| -> Result<(), TrainError> {
                let bucket = &cuts[item];
                let batch = Batch::new(bucket.rows.iter().map(|i| &examples[*i]), bucket.tokens, spec.pad_token)?;
                let mut engine = BurnEngine::new(run.backend(), run.frozen().clone(), &batch, None);
                let embedded = embed(&mut engine, spec)?;
                let states = read(encode_layers(&mut engine, spec, 0..layer, &embedded)?);
                let mut values = values.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                for (row, states) in bucket.rows.iter().zip(states.chunks_exact(bucket.tokens * spec.hidden)) {
                    let (start, end) = (starts[*row], starts[row + 1]);
                    values[start..end].copy_from_slice(&states[..end - start]);
                }
                Ok(())
            };
            run.workers().fold(cuts.len(), || (), one)?;
        }
        let values = values.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        Ok(Self { layer, hidden: spec.hidden, starts, values })
    }

    /// The layer whose input these are.
    pub(crate) fn layer(&self) -> usize {
        self.layer
    }

    /// The states of `examples`, `[examples, tokens, hidden]`; padding is 0.
    pub(crate) fn batch(&self, examples: &[usize], tokens: usize, backend: &Backend) -> Tensor<3> {
        let mut values = vec![0.0; examples.len() * tokens * self.hidden];
        for (row, example) in values.chunks_exact_mut(tokens * self.hidden).zip(examples) {
            let states = &self.values[self.starts[*example]..self.starts[example + 1]];
            row[..states.len()].copy_from_slice(states);
        }
        Tensor::from_data(TensorData::new(values, [examples.len(), tokens, self.hidden]), backend.device())
    }
}

impl Layout {
    /// The lowest encoder layer with a trained parameter: 0 if an embedding is trained too, `spec.layers` if only the head is.
    pub(crate) fn lowest_layer(&self, spec: &ModelSpec) -> usize {
        let within = |path: &ParamPath, layer: usize| {
            path.as_str().strip_prefix(spec.layer_path(layer).as_str()).is_some_and(|rest| rest.starts_with('.'))
        };
        let layer = |part: Part, path: &ParamPath| match part {
            Part::Head => spec.layers,
            Part::Embeddings => 0,
            Part::Encoder | Part::LoraA | Part::LoraB => (0..spec.layers).find(|l| within(path, *l)).unwrap_or(0),
        };
        self.parameters().iter().map(|p| layer(p.part, &p.path)).min().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::LowerStates;
    use crate::config::TrainConfig;
    use crate::device::{Backend, BackendKind};
    use crate::layout::Layout;
    use crate::run::Run;
    use sprint_model::{Checkpoint, Example, HeadSpec, Label, LoraSpec, ModelSpec, Pooling, TargetModules, Tuning};

    fn spec(first_layer: usize, pooling: Pooling) -> ModelSpec {
        let targets = TargetModules::from_names(&["all-linear".to_owned()]).expect("known").from_layer(first_layer);
        ModelSpec {
            layers: 3,
            hidden_dropout: 0.0,
            head: Some(HeadSpec { outputs: 2, pooling, dense: false, dropout: 0.0 }),
            lora: Some(LoraSpec::new(4, 4.0, targets)),
            ..ModelSpec::bert_tiny_5k()
        }
    }

    fn examples() -> Vec<Example> {
        let example = |i: u32| {
            let ids: Vec<u32> = (0..3 + i % 7).map(|t| 5 + (i * 131 + t * 17) % 4_000).collect();
            Example { type_ids: vec![0; ids.len()], ids, label: Some(Label::Class(i % 2)) }
        };
        (0..40).map(example).collect()
    }

    #[test]
    fn the_lowest_trained_layer_is_found_for_every_tuning() {
        let spec = spec(2, Pooling::Mean);
        let lowest = |tuning, also: &[&str]| {
            let also: Vec<String> = also.iter().map(ToString::to_string).collect();
            Layout::new(&spec, tuning, &also).expect("matches").lowest_layer(&spec)
        };
        assert_eq!(lowest(Tuning::Lora { freeze_a: true }, &[]), 2);
        assert_eq!(lowest(Tuning::Head, &[]), 3);
        assert_eq!(lowest(Tuning::Head, &["layer.1.output"]), 1);
        assert_eq!(lowest(Tuning::Lora { freeze_a: false }, &["LayerNorm"]), 0, "the embeddings have one too");
        assert_eq!(lowest(Tuning::Full, &[]), 0);
    }

    #[test]
    fn kept_states_give_the_gradients_of_the_whole_model() {
        let examples = examples();
        let batch: Vec<usize> = (0..examples.len()).step_by(3).collect();
        for pooling in [Pooling::Mean, Pooling::First] {
            for (first_layer, tuning) in
                [(1, Tuning::Lora { freeze_a: true }), (2, Tuning::Lora { freeze_a: false }), (0, Tuning::Head)]
            {
                let spec = spec(first_layer, pooling);
                let model = Checkpoint::random(spec.clone(), 7).expect("valid");
                let layout = Layout::new(&spec, tuning, &[]).expect("matches");
                let config = TrainConfig { microbatch: 8, threads: 2, ..TrainConfig::default() };
                let backend = Backend::open(BackendKind::Flex).expect("built");
                let mut run = Run::prepare(&examples, &config, &model, layout, backend).expect("prepared");
                let (whole, loss) = run.summed(&batch, &config).expect("computes");
                run.keep_lower_states(0, &mut || false).expect("nothing to do");
                assert!(run.lower().is_none(), "no room");
                run.keep_lower_states(1 << 30, &mut || false).expect("computes");
                assert!(run.lower().is_some());
                let (kept, kept_loss) = run.summed(&batch, &config).expect("computes");
                let norm = whole.iter().map(|v| v * v).sum::<f64>().sqrt();
                let away = whole.iter().zip(&kept).map(|(a, b)| (a - b).powi(2)).sum::<f64>().sqrt();
                assert!(norm > 1e-3 && away < 1e-5 * norm, "{away} of {norm} with {pooling:?}, {first_layer}");
                assert!((loss - kept_loss).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn dropout_in_the_encoder_and_a_trained_first_layer_leave_nothing_to_keep() {
        let examples = examples();
        let spec = spec(1, Pooling::Mean);
        let tokens: usize = examples.iter().map(|e| e.ids.len()).sum();
        let bytes = tokens * spec.hidden * 4;
        assert!(LowerStates::worthwhile(&spec, 1, &examples, bytes));
        assert!(!LowerStates::worthwhile(&spec, 1, &examples, bytes - 1));
        assert!(!LowerStates::worthwhile(&spec, 0, &examples, bytes));
        assert!(!LowerStates::worthwhile(&ModelSpec { hidden_dropout: 0.1, ..spec }, 1, &examples, bytes));
    }
}
