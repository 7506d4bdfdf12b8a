//! The model on burn tensors: an [`Engine`] that records a tape when its parameters are tracked.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData, module};
use sprint_model::{Batch, Embedding, EmbeddingEngine, Engine, Func, LayerNorm, Linear, ModelSpec, ParamPath, Pooling, Softmax};
use thiserror::Error;

use crate::device::{Backend, BackendKind};
use crate::dropout::DropoutMasks;
use crate::flex;
use crate::functions::apply;
use crate::merged::Merged;

/// Added to the scores of padding keys; `exp` of it is 0 in f32 and a rectifier maps it to 0.
const MASKED: f32 = -1e5;

/// Why the burn engine cannot evaluate a model.
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum EngineError {
    /// The model names a parameter that was not given.
    #[error("parameter `{0}` is missing")]
    MissingParameter(ParamPath),
    /// A parameter has another shape than the model needs.
    #[error("parameter `{path}` has shape {found:?}, the model needs {expected:?}")]
    ParameterShape {
        /// Which parameter.
        path: ParamPath,
        /// The shape given.
        found: Vec<usize>,
        /// The shape needed.
        expected: Vec<usize>,
    },
    /// The loss does not depend on a parameter that is to be trained.
    #[error("parameter `{0}` is trained, but the loss does not depend on it")]
    NoGradient(ParamPath),
    /// A token id, type id or position outside its table.
    #[error("{what} {value} of example {row} is outside the table of {rows} rows")]
    OutsideTable {
        /// `token`, `token type` or `position`.
        what: &'static str,
        /// The example's row in the batch.
        row: usize,
        /// The offending value.
        value: usize,
        /// Rows of the table.
        rows: usize,
    },
}

/// A parameter on the device. One copy per example makes its gradient per example: the leaf `[batch, …]` is read only by its own
/// example, so `∂(Σ losses)/∂leaf[i] = ∂ loss_i/∂θ` exactly, without hooks and in one backward pass.
#[derive(Debug, Clone)]
pub(crate) enum Param {
    /// A matrix all examples read, `[rows, columns]`.
    Matrix(Tensor<2>),
    /// One matrix an example, `[batch, rows, columns]`.
    Matrices(Tensor<3>),
    /// A vector all examples read, `[width]`.
    Vector(Tensor<1>),
    /// One vector an example, `[batch, 1, width]`.
    Vectors(Tensor<3>),
}

impl Param {
    /// A parameter of rank 1 or 2 from host memory, untracked.
    pub(crate) fn upload(shape: &[usize], values: &[f32], backend: &Backend) -> Self {
        let data = TensorData::new(values.to_vec(), shape.to_vec());
        match shape.len() {
            2 => Self::Matrix(Tensor::from_data(data, backend.device())),
            _ => Self::Vector(Tensor::from_data(TensorData::new(values.to_vec(), [values.len()]), backend.device())),
        }
    }

    /// A tracked leaf that all examples read.
    pub(crate) fn tracked(self) -> Self {
        match self {
            Self::Matrix(t) => Self::Matrix(t.require_grad()),
            Self::Matrices(t) => Self::Matrices(t.require_grad()),
            Self::Vector(t) => Self::Vector(t.require_grad()),
            Self::Vectors(t) => Self::Vectors(t.require_grad()),
        }
    }

    /// One untracked view for each of `batch` examples: a leaf with a batch axis whose stride is 0, so that the values exist once.
    pub(crate) fn per_example(self, batch: usize) -> Self {
        match self {
            Self::Matrix(t) => {
                let [rows, columns] = t.dims();
                Self::Matrices(t.unsqueeze_dim::<3>(0).expand([batch, rows, columns]))
            }
            Self::Vector(t) => {
                let width = t.dims()[0];
                Self::Vectors(t.reshape([1, 1, width]).expand([batch, 1, width]))
            }
            copied => copied,
        }
    }
}

/// The parameters of one evaluation, by path.
#[derive(Debug, Clone, Default)]
pub(crate) struct ParamSet {
    params: BTreeMap<ParamPath, Param>,
    merged: Arc<Merged>,
    /// Whether the gradients of merged updates are wanted summed.
    summed: bool,
}

impl ParamSet {
    pub(crate) fn insert(&mut self, path: ParamPath, param: Param) {
        self.params.insert(path, param);
    }

    pub(crate) fn find(&self, path: &ParamPath) -> Option<&Param> {
        self.params.get(path)
    }

    /// Computes these layers merged; the gradients of their updates go to the leaves that stand in the updates' places.
    pub(crate) fn merge(&mut self, merged: Arc<Merged>, summed: bool) {
        (self.merged, self.summed) = (merged, summed);
    }

    fn get(&self, path: &ParamPath) -> Result<&Param, EngineError> {
        self.find(path).ok_or_else(|| EngineError::MissingParameter(path.clone()))
    }

    /// The merged layers that begin with the one at `path`, on `x`, if there are any and they write `outputs` channels.
    fn merged(&self, x: &Tensor<3>, path: &ParamPath, outputs: usize) -> Option<Tensor<3>> {
        let layer = self.merged.get(path).filter(|layer| layer.outputs() == outputs)?;
        let leaf = |update: &flex::Update| match self.find(&update.path)? {
            Param::Matrices(leaf) => Some(leaf),
            _ => None,
        };
        let leaves: Vec<&Tensor<3>> = layer.updates.iter().map(leaf).collect::<Option<_>>()?;
        (x.dims()[2] == layer.inputs()).then(|| flex::dense(x, layer, &leaves, self.summed))
    }
}

/// A batch with its key mask on the device.
#[derive(Debug, Clone)]
pub(crate) struct DeviceBatch<'a> {
    batch: &'a Batch,
    keep: Tensor<4>,
    mask: Tensor<4>,
    inverse_length: Tensor<4>,
}

impl<'a> DeviceBatch<'a> {
    /// Uploads the mask of `batch`.
    pub(crate) fn new(batch: &'a Batch, backend: &Backend) -> Self {
        let (size, tokens) = (batch.size(), batch.tokens());
        let keep = batch.key_mask();
        let choose = |kept: f32, masked: f32| keep.iter().map(|k| if *k { kept } else { masked }).collect::<Vec<_>>();
        let upload = |values: Vec<f32>, columns: usize| {
            Tensor::<4>::from_data(TensorData::new(values, [size, 1, 1, columns]), backend.device())
        };
        let inverse = batch.lengths().iter().map(|l| 1.0 / *l as f32).collect();
        Self {
            batch,
            keep: upload(choose(1.0, 0.0), tokens),
            mask: upload(choose(0.0, MASKED), tokens),
            inverse_length: upload(inverse, 1),
        }
    }
}

/// The model on burn tensors for one batch. Parameters that are tracked leaves make it record a tape; dropout masks make it a
/// training forward.
pub(crate) struct BurnEngine<'a> {
    backend: Backend,
    params: ParamSet,
    batch: DeviceBatch<'a>,
    dropout: Option<DropoutMasks>,
}

impl<'a> BurnEngine<'a> {
    /// An evaluation of `batch`; without `dropout` every dropout is the identity. Cloning a set of parameters copies handles, no values.
    pub(crate) fn new(backend: &Backend, params: ParamSet, batch: &'a Batch, dropout: Option<DropoutMasks>) -> Self {
        Self { backend: backend.clone(), params, batch: DeviceBatch::new(batch, backend), dropout }
    }

    fn matrix(&self, path: &ParamPath, expected: [usize; 2]) -> Result<&Param, EngineError> {
        let param = self.params.get(path)?;
        let found = match param {
            Param::Matrix(t) => t.dims().to_vec(),
            Param::Matrices(t) => t.dims()[1..].to_vec(),
            Param::Vector(t) => t.dims().to_vec(),
            Param::Vectors(t) => t.dims()[2..].to_vec(),
        };
        if found == expected {
            Ok(param)
        } else {
            Err(EngineError::ParameterShape { path: path.clone(), found, expected: expected.to_vec() })
        }
    }

    /// A vector parameter as `[1 or batch, 1, width]`.
    fn vector(&self, path: &ParamPath, width: usize) -> Result<Tensor<3>, EngineError> {
        match self.params.get(path)? {
            Param::Vector(t) if t.dims()[0] == width => Ok(t.clone().reshape([1, 1, width])),
            Param::Vectors(t) if t.dims()[2] == width => Ok(t.clone()),
            Param::Vector(t) => Err(self.wrong_width(path, t.dims().to_vec(), width)),
            Param::Vectors(t) | Param::Matrices(t) => Err(self.wrong_width(path, t.dims()[1..].to_vec(), width)),
            Param::Matrix(t) => Err(self.wrong_width(path, t.dims().to_vec(), width)),
        }
    }

    fn on_cpu(&self) -> bool {
        self.backend.kind() == BackendKind::Flex
    }

    /// γ and β, if they are on no tape and of the right width.
    fn frozen_norm(&self, norm: &LayerNorm) -> Option<(&Tensor<1>, &Tensor<1>)> {
        match (self.params.find(&norm.weight())?, self.params.find(&norm.bias())?) {
            (Param::Vector(g), Param::Vector(b)) => {
                let fit = [g, b].iter().all(|t| t.dims() == [norm.width] && !t.is_tracked());
                fit.then_some((g, b))
            }
            _ => None,
        }
    }

    /// What scores are multiplied with, where attention is the softmax that the CPU has as one operation.
    fn softmax_factor(&self, spec: &ModelSpec) -> Option<f64> {
        let temperature = match spec.softmax {
            Softmax::Exact => 1.0,
            Softmax::Scaled { temperature } => temperature,
            _ => return None,
        };
        let whole = self.on_cpu() && spec.caps.attention.is_none();
        whole.then(|| 1.0 / ((spec.hidden / spec.heads) as f64).sqrt() / temperature)
    }

    #[expect(clippy::unused_self, reason = "reads as a method beside `vector`")]
    fn wrong_width(&self, path: &ParamPath, found: Vec<usize>, width: usize) -> EngineError {
        EngineError::ParameterShape { path: path.clone(), found, expected: vec![width] }
    }

    /// The rows of a table for `ids`, `[batch, tokens, hidden]`.
    fn rows(&self, path: &ParamPath, what: &'static str, ids: &[u32], hidden: usize) -> Result<Tensor<3>, EngineError> {
        let (batch, tokens) = (self.batch.batch.size(), self.batch.batch.tokens());
        let table = match self.params.get(path)? {
            Param::Matrix(t) => t.clone(),
            Param::Matrices(t) if t.dims()[0] == 1 => t.clone().squeeze_dim::<2>(0),
            other => {
                let found = match other {
                    Param::Vector(t) => t.dims().to_vec(),
                    Param::Matrices(t) | Param::Vectors(t) => t.dims().to_vec(),
                    Param::Matrix(t) => t.dims().to_vec(),
                };
                return Err(EngineError::ParameterShape { path: path.clone(), found, expected: vec![hidden] });
            }
        };
        let rows = table.dims()[0];
        if let Some(at) = ids.iter().position(|id| *id as usize >= rows) {
            return Err(EngineError::OutsideTable { what, row: at / tokens, value: ids[at] as usize, rows });
        }
        let index: Vec<i64> = ids.iter().map(|id| i64::from(*id)).collect();
        let index = Tensor::<1, Int>::from_data(TensorData::new(index, [ids.len()]), self.backend.device());
        Ok(table.select(0, index).reshape([batch, tokens, hidden]))
    }
}

impl Engine for BurnEngine<'_> {
    type Act = Tensor<3>;
    type Heads = Tensor<4>;
    type Error = EngineError;

    fn linear(&mut self, x: &Tensor<3>, layer: &Linear) -> Result<Tensor<3>, EngineError> {
        let [batch, tokens, inputs] = x.dims();
        let product = match self.matrix(&layer.weight(), [layer.outputs, layer.inputs])? {
            Param::Matrices(w) => x.clone().matmul(w.clone().swap_dims(1, 2)),
            Param::Matrix(w) => {
                let flat = x.clone().reshape([batch * tokens, inputs]);
                flat.matmul(w.clone().transpose()).reshape([batch, tokens, layer.outputs])
            }
            Param::Vector(_) | Param::Vectors(_) => unreachable!("`matrix` compared two dimensions"),
        };
        match layer.bias() {
            Some(path) => Ok(product + self.vector(&path, layer.outputs)?),
            None => Ok(product),
        }
    }

    fn add(&mut self, a: &Tensor<3>, b: &Tensor<3>) -> Result<Tensor<3>, EngineError> {
        Ok(a.clone() + b.clone())
    }

    fn scale(&mut self, x: &Tensor<3>, factor: f64) -> Result<Tensor<3>, EngineError> {
        Ok(if factor == 1.0 { x.clone() } else { x.clone().mul_scalar(factor) })
    }

    fn map(&mut self, x: &Tensor<3>, f: Func) -> Result<Tensor<3>, EngineError> {
        if f == Func::Gelu && self.on_cpu() {
            return Ok(flex::gelu(x));
        }
        Ok(apply(x.clone(), f))
    }

    fn layer_norm(&mut self, x: &Tensor<3>, norm: &LayerNorm) -> Result<Tensor<3>, EngineError> {
        if let Some((gamma, beta)) = self.frozen_norm(norm) {
            return Ok(if self.on_cpu() {
                flex::layer_norm(x, gamma, beta, norm.eps)
            } else {
                module::layer_norm(x.clone(), gamma.clone(), Some(beta.clone()), norm.eps)
            });
        }
        let (gamma, beta) = (self.vector(&norm.weight(), norm.width)?, self.vector(&norm.bias(), norm.width)?);
        let centred = x.clone() - x.clone().mean_dim(2);
        let deviation = centred.clone().square().mean_dim(2).add_scalar(norm.eps).sqrt();
        Ok(centred / deviation * gamma + beta)
    }

    fn add_norm(&mut self, a: &Tensor<3>, b: &Tensor<3>, norm: &LayerNorm, _part: &str) -> Result<Tensor<3>, EngineError> {
        match self.frozen_norm(norm) {
            Some((gamma, beta)) if self.on_cpu() => Ok(flex::add_norm(a, b, gamma, beta, norm.eps)),
            _ => self.layer_norm(&(a.clone() + b.clone()), norm),
        }
    }

    fn dense(&mut self, x: &Tensor<3>, layer: &Linear) -> Result<Tensor<3>, EngineError> {
        match self.params.merged(x, &layer.path, layer.outputs) {
            Some(y) => Ok(y),
            None => sprint_model::dense(self, x, layer),
        }
    }

    fn attention(&mut self, spec: &ModelSpec, [q, k, v]: [&Tensor<3>; 3]) -> Result<Tensor<3>, EngineError> {
        match self.softmax_factor(spec) {
            Some(factor) => Ok(flex::attention([q, k, v], spec.heads, factor, self.batch.batch.lengths())),
            None => sprint_model::attention(self, spec, q, k, v),
        }
    }

    fn self_attention(&mut self, spec: &ModelSpec, x: &Tensor<3>, layers: [&Linear; 3]) -> Result<Tensor<3>, EngineError> {
        let outputs = layers.iter().map(|l| l.outputs).sum();
        let Some(qkv) = self.params.merged(x, &layers[0].path, outputs) else {
            return sprint_model::self_attention(self, spec, x, layers);
        };
        if let Some(factor) = self.softmax_factor(spec) {
            return Ok(flex::packed_attention(&qkv, spec.heads, factor, self.batch.batch.lengths()));
        }
        let [query, key, value] = layers.map(|l| l.outputs);
        let part = |at, channels| qkv.clone().narrow(2, at, channels);
        let (q, k, v) = (part(0, query), part(query, key), part(query + key, value));
        sprint_model::attention(self, spec, &q, &k, &v)
    }

    fn dropout(&mut self, x: &Tensor<3>, p: f64) -> Result<Tensor<3>, EngineError> {
        let Some(masks) = self.dropout.as_mut().filter(|_| p > 0.0) else { return Ok(x.clone()) };
        let [batch, tokens, channels] = x.dims();
        let mask = masks.draw(self.batch.batch.lengths(), tokens, channels, p);
        Ok(x.clone() * Tensor::from_data(TensorData::new(mask, [batch, tokens, channels]), self.backend.device()))
    }

    fn pool(&mut self, x: &Tensor<3>, pooling: Pooling) -> Result<Tensor<3>, EngineError> {
        let [batch, tokens, _] = x.dims();
        match pooling {
            Pooling::First => Ok(x.clone().narrow(1, 0, 1)),
            Pooling::Mean => {
                let keep = self.batch.keep.clone().reshape([batch, tokens, 1]);
                let sum = (x.clone() * keep).sum_dim(1);
                Ok(sum * self.batch.inverse_length.clone().reshape([batch, 1, 1]))
            }
        }
    }

    fn split_heads(&mut self, x: &Tensor<3>, heads: usize) -> Result<Tensor<4>, EngineError> {
        let [batch, tokens, channels] = x.dims();
        Ok(x.clone().reshape([batch, tokens, heads, channels / heads]).swap_dims(1, 2))
    }

    fn merge_heads(&mut self, x: &Tensor<4>) -> Result<Tensor<3>, EngineError> {
        let [batch, heads, tokens, width] = x.dims();
        Ok(x.clone().swap_dims(1, 2).reshape([batch, tokens, heads * width]))
    }

    fn scores(&mut self, q: &Tensor<4>, k: &Tensor<4>, factor: f64) -> Result<Tensor<4>, EngineError> {
        Ok(q.clone().mul_scalar(factor).matmul(k.clone().swap_dims(2, 3)))
    }

    fn mask_keys(&mut self, s: &Tensor<4>) -> Result<Tensor<4>, EngineError> {
        Ok(s.clone() + self.batch.mask.clone())
    }

    fn drop_keys(&mut self, s: &Tensor<4>) -> Result<Tensor<4>, EngineError> {
        Ok(s.clone() * self.batch.keep.clone())
    }

    /// The gradient stops here: the model subtracts the maximum only inside a softmax, whose value does not depend on it.
    fn row_max(&mut self, s: &Tensor<4>) -> Result<Tensor<4>, EngineError> {
        Ok(s.clone().detach().max_dim(3))
    }

    fn row_sum(&mut self, s: &Tensor<4>) -> Result<Tensor<4>, EngineError> {
        Ok(s.clone().sum_dim(3))
    }

    fn sub_rows(&mut self, s: &Tensor<4>, r: &Tensor<4>) -> Result<Tensor<4>, EngineError> {
        Ok(s.clone() - r.clone())
    }

    fn mul_rows(&mut self, s: &Tensor<4>, r: &Tensor<4>) -> Result<Tensor<4>, EngineError> {
        Ok(s.clone() * r.clone())
    }

    fn shift_heads(&mut self, s: &Tensor<4>, c: f64) -> Result<Tensor<4>, EngineError> {
        Ok(s.clone().add_scalar(c))
    }

    fn map_heads(&mut self, s: &Tensor<4>, f: Func) -> Result<Tensor<4>, EngineError> {
        Ok(apply(s.clone(), f))
    }

    fn reciprocal_rows(&mut self, r: &Tensor<4>, _lo: f64, _hi_per_key: f64) -> Result<Tensor<4>, EngineError> {
        Ok(r.clone().recip())
    }

    fn divide_by_length(&mut self, s: &Tensor<4>) -> Result<Tensor<4>, EngineError> {
        Ok(s.clone() * self.batch.inverse_length.clone())
    }

    fn attend(&mut self, p: &Tensor<4>, v: &Tensor<4>) -> Result<Tensor<4>, EngineError> {
        Ok(p.clone().matmul(v.clone()))
    }
}

impl EmbeddingEngine for BurnEngine<'_> {
    fn embedding(&mut self, tables: &Embedding) -> Result<Tensor<3>, EngineError> {
        let batch = self.batch.batch;
        // A padding token takes its example's last position: it is masked everywhere, and the batch may be padded past the table.
        let mut positions = Vec::with_capacity(batch.ids().len());
        for length in batch.lengths() {
            positions.extend((0..batch.tokens()).map(|t| (t.min(length - 1) + tables.position_offset) as u32));
        }
        let types: Vec<u32> = batch.type_ids().iter().map(|t| u32::from(*t)).collect();
        let words = self.rows(&tables.word_weight(), "token", batch.ids(), tables.hidden)?;
        let places = self.rows(&tables.position_weight(), "position", &positions, tables.hidden)?;
        let types = self.rows(&tables.token_type_weight(), "token type", &types, tables.hidden)?;
        Ok(words + places + types)
    }
}

#[cfg(test)]
#[path = "engine_tests.rs"]
mod tests;
