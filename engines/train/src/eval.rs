//! Forward passes without gradients.

use sprint_model::{Batch, BatchError, Checkpoint, Example, ModelSpec, buckets_by_length, embed, encode, encode_and_classify};
use thiserror::Error;

use crate::device::{Backend, BackendMissing};
use crate::engine::{BurnEngine, EngineError, Param, ParamSet};
use crate::per_sample::read;

/// Examples in one forward pass.
const FORWARD: usize = 64;

/// Padded lengths are multiples of this, so that few distinct shapes occur.
pub(crate) const LENGTH_MULTIPLE: usize = 8;

/// Why a forward pass failed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The backend is not in this build.
    #[error(transparent)]
    Backend(#[from] BackendMissing),
    /// Examples that do not form a batch of this model.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Parameters that do not fit the model.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// A model on a device, for forward passes.
pub struct Evaluator {
    spec: ModelSpec,
    params: ParamSet,
    backend: Backend,
}

/// The last hidden state of one example, in the two forms a client may want.
#[derive(Debug, Clone, PartialEq)]
pub struct HiddenState {
    /// The first token's channels.
    pub cls: Vec<f32>,
    /// The mean over the example's tokens.
    pub mean: Vec<f32>,
}

impl Evaluator {
    /// Uploads every parameter of `checkpoint` that its spec names.
    pub fn new(checkpoint: &Checkpoint, backend: Backend) -> Self {
        Self { spec: checkpoint.spec().clone(), params: upload(checkpoint, &backend), backend }
    }

    /// The logits of each example, in the order given.
    pub fn predict(&self, examples: &[Example]) -> Result<Vec<Vec<f32>>, EvalError> {
        self.forward(examples, |engine, spec| {
            let embedded = embed(engine, spec)?;
            let logits = encode_and_classify(engine, spec, &embedded)?;
            let width = logits.dims()[2];
            Ok(read(logits).chunks_exact(width).map(<[f32]>::to_vec).collect())
        })
    }

    /// The last hidden state of each example, in the order given; the head is not used.
    pub fn hidden_states(&self, examples: &[Example]) -> Result<Vec<HiddenState>, EvalError> {
        use sprint_model::{Engine, Pooling};
        self.forward(examples, |engine, spec| {
            let embedded = embed(engine, spec)?;
            let hidden = encode(engine, spec, &embedded)?;
            let cls = read(engine.pool(&hidden, Pooling::First)?);
            let mean = read(engine.pool(&hidden, Pooling::Mean)?);
            let rows = cls.chunks_exact(spec.hidden).zip(mean.chunks_exact(spec.hidden));
            Ok(rows.map(|(cls, mean)| HiddenState { cls: cls.to_vec(), mean: mean.to_vec() }).collect())
        })
    }

    fn forward<T: Clone>(
        &self,
        examples: &[Example],
        pass: impl Fn(&mut BurnEngine<'_>, &ModelSpec) -> Result<Vec<T>, EngineError>,
    ) -> Result<Vec<T>, EvalError> {
        let lengths: Vec<usize> = examples.iter().map(|e| e.ids.len()).collect();
        let mut out: Vec<Option<T>> = vec![None; examples.len()];
        for bucket in buckets_by_length(&lengths, LENGTH_MULTIPLE, FORWARD) {
            let batch = Batch::new(bucket.rows.iter().map(|row| &examples[*row]), bucket.tokens, self.spec.pad_token)?;
            batch.check(&self.spec)?;
            let mut engine = BurnEngine::new(&self.backend, self.params.clone(), &batch, None);
            for (row, value) in bucket.rows.iter().zip(pass(&mut engine, &self.spec)?) {
                out[*row] = Some(value);
            }
        }
        Ok(out.into_iter().map(|value| value.expect("buckets hold every example")).collect())
    }
}

/// Every parameter that the checkpoint's spec names, on the device.
pub(crate) fn upload(checkpoint: &Checkpoint, backend: &Backend) -> ParamSet {
    let mut params = ParamSet::default();
    for parameter in checkpoint.spec().parameters() {
        if let Some(tensor) = checkpoint.get(&parameter.path) {
            params.insert(parameter.path, Param::upload(tensor.shape(), tensor.data(), backend));
        }
    }
    params
}

/// The logits of each example under `checkpoint`, on `backend`.
pub fn predict(checkpoint: &Checkpoint, examples: &[Example], backend: Backend) -> Result<Vec<Vec<f32>>, EvalError> {
    Evaluator::new(checkpoint, backend).predict(examples)
}

/// The last hidden state of each example under `checkpoint`, on `backend`.
pub fn hidden_states(checkpoint: &Checkpoint, examples: &[Example], backend: Backend) -> Result<Vec<HiddenState>, EvalError> {
    Evaluator::new(checkpoint, backend).hidden_states(examples)
}
