//! Low-rank updates within the directions in which public texts have gradients.
//!
//! An update `B·A` of a layer with `o` outputs has `o·r` trained values, and the mechanism's noise reaches each of them. With `B = U·R`, where
//! the orthonormal columns of `U[o, k]` are fixed before anything private is seen, only `R[k, r]` is trained: the gradient of `R` is `Uᵀ·∂B`,
//! its noise has `k/o` of the variance, and the deployed model has `B` as before. `U` spans the leading left singular vectors of the gradients
//! of `B` on the public texts that the head starts from, each example's scaled to norm 1 as clipping does:
//!
//! ```text
//! Σ_i ∂B_i·∂B_iᵀ / ‖∂_i‖² = V·Λ·Vᵀ,   U = the k columns of V with the largest λ.
//! ```
//!
//! A projection onto a public subspace, as in Zhou, Wu and Banerjee (ICLR 2021) and Yu, Zhang, Chen and Liu (ICLR 2021, where what is left
//! over is released too); here it is a choice of parameters, made once. It costs no privacy: neither texts nor model are the data's. What it gives up is every
//! direction that the texts do not name.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use sprint_model::{Batch, Checkpoint, Example, ParamPath, Part};

use crate::cut::cut;
use crate::device::Backend;
use crate::error::TrainError;
use crate::eval::upload;
use crate::init::{gaussian, orthonormal};
use crate::layout::Layout;
use crate::merged::Merging;
use crate::per_sample::{Differentiable, Gradients, Granularity, read};
use crate::validate::{ConfigError, Problem};

/// Public texts computed at once.
const ROWS: usize = 32;

/// Steps of the subspace iteration: the error falls by `λ_{k+1}/λ_k` in each, and any basis near the leading one serves.
const ITERATIONS: usize = 8;

/// `U` of one update, `[outputs, width]` row-major with orthonormal columns.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Basis {
    pub(crate) outputs: usize,
    pub(crate) width: usize,
    pub(crate) values: Arc<[f32]>,
}

impl Basis {
    /// `U·R` for `R[width, rank]`.
    pub(crate) fn expand(&self, inner: &[f32]) -> Vec<f32> {
        let rank = inner.len() / self.width;
        let mut out = vec![0.0; self.outputs * rank];
        for (row, u) in out.chunks_exact_mut(rank).zip(self.values.chunks_exact(self.width)) {
            for (u, inner) in u.iter().zip(inner.chunks_exact(rank)) {
                row.iter_mut().zip(inner).for_each(|(to, r)| *to += u * r);
            }
        }
        out
    }

    /// On the device, `[outputs, width]`.
    pub(crate) fn upload(&self, backend: &Backend) -> Tensor<2> {
        Tensor::from_data(TensorData::new(self.values.to_vec(), [self.outputs, self.width]), backend.device())
    }
}

/// `layout` with the `B` of every update that has more than `width` outputs within so many directions of `texts`' gradients at `model`.
///
/// # Domain
/// Each text has a label. A model whose `B` is not zero is refused.
pub(crate) fn within_public_directions(
    layout: Layout,
    model: &Checkpoint,
    texts: &[Example],
    width: usize,
    seed: u64,
    backend: &Backend,
) -> Result<Layout, TrainError> {
    for parameter in layout.parameters().iter().filter(|p| p.part == Part::LoraB) {
        if model.get(&parameter.path).is_some_and(|b| b.data().iter().any(|v| *v != 0.0)) {
            let message =
                format!("`{}` of the base model is not zero, so it may lie outside; leave public_basis out", parameter.path);
            return Err(ConfigError { problems: vec![Problem { field: "tuning.public_basis".to_owned(), message }] }.into());
        }
    }
    let grams = grams(&layout, model, texts, width, backend)?;
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut bases = BTreeMap::new();
    for (path, gram) in grams {
        let outputs = gram.dims()[0];
        let mut columns = orthonormal(gaussian(outputs * width, 1.0, &mut rng), outputs, width, &mut rng);
        for _ in 0..ITERATIONS {
            let start = Tensor::<2>::from_data(TensorData::new(columns, [width, outputs]), backend.device());
            columns = orthonormal(read(start.matmul(gram.clone())), outputs, width, &mut rng);
        }
        let values = (0..outputs * width).map(|i| columns[i % width * outputs + i / width]).collect();
        bases.insert(path, Basis { outputs, width, values });
    }
    Ok(layout.within(bases))
}

/// `Σ_i ∂B_i·∂B_iᵀ / ‖∂_i‖²`, `[outputs, outputs]`, of every update with more than `width` outputs.
fn grams(
    layout: &Layout,
    model: &Checkpoint,
    texts: &[Example],
    width: usize,
    backend: &Backend,
) -> Result<BTreeMap<ParamPath, Tensor<2>>, TrainError> {
    let spec = model.spec();
    let theta: Vec<f32> =
        layout.parameters().iter().flat_map(|p| model.get(&p.path).map_or(&[][..], |t| t.data())).copied().collect();
    let (frozen, merging) = (upload(model, backend), Merging::new(spec, layout, backend));
    let differentiable = Differentiable { spec, backend, frozen: &frozen, layout, merging: &merging, lower: None };
    let point = differentiable.at(&theta);
    let lengths: Vec<usize> = texts.iter().map(|t| t.ids.len()).collect();
    let mut grams = BTreeMap::<ParamPath, Tensor<2>>::new();
    for bucket in cut(&lengths, ROWS, backend.kind()) {
        let batch = Batch::new(bucket.rows.iter().map(|i| &texts[*i]), bucket.tokens, spec.pad_token)?;
        let gradients = differentiable.gradients(&point, &batch, &bucket.rows, Granularity::PerExample, None)?;
        let scales = inverse_norms(&gradients);
        for (at, (parameter, block)) in layout.parameters().iter().zip(gradients.blocks()).enumerate() {
            let [outputs, rank] = parameter.shape[..] else { continue };
            if parameter.part != Part::LoraB || outputs <= width {
                continue;
            }
            // The examples' columns of ∂B below one another.
            let mut columns = Vec::with_capacity(block.len());
            for (example, scale) in block.chunks_exact(outputs * rank).zip(&scales) {
                let entry = |i: usize| if merging.is_transposed(at) { i } else { i % outputs * rank + i / outputs };
                columns.extend((0..example.len()).map(|i| example[entry(i)] * scale));
            }
            let columns = Tensor::<2>::from_data(TensorData::new(columns, [gradients.rows * rank, outputs]), backend.device());
            let gram = columns.clone().transpose().matmul(columns);
            let sum = grams.remove(&parameter.path).map_or(gram.clone(), |sum| sum + gram);
            grams.insert(parameter.path.clone(), sum);
        }
    }
    Ok(grams)
}

/// `1/‖∂_i‖` over all trained values; 0 for an example without a gradient.
fn inverse_norms(gradients: &Gradients) -> Vec<f32> {
    let mut squares = vec![0.0_f64; gradients.rows];
    for block in gradients.blocks() {
        for (square, example) in squares.iter_mut().zip(block.chunks_exact(block.len() / gradients.rows)) {
            *square += example.iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>();
        }
    }
    squares.iter().map(|s| if *s > 0.0 { s.sqrt().recip() as f32 } else { 0.0 }).collect()
}

#[cfg(test)]
#[path = "basis_tests.rs"]
mod tests;
