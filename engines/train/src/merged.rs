//! Which dense layers are computed with their low-rank updates merged, and their weights at one θ.

use std::collections::BTreeMap;

use burn::tensor::Tensor;
use sprint_model::{Linear, ModelSpec, ParamPath, Pooling};

use crate::device::{Backend, BackendKind};
use crate::engine::{Param, ParamSet};
use crate::flex::{Dense, Update, buffer};
use crate::layout::Layout;

/// The dense layers whose weight, bias and `A` are frozen, on the CPU: between two steps each is one matrix.
#[derive(Debug, Clone, Default)]
pub(crate) struct Merging {
    /// Layers that read one input and are computed as one, by the path of the first.
    groups: Vec<Vec<Linear>>,
    /// For each trained parameter, whether its gradient comes transposed.
    transposed: Vec<bool>,
    /// The subspaces in which updates are trained.
    bases: BTreeMap<ParamPath, Tensor<2>>,
}

/// The layers of a [`Merging`] at one θ.
#[derive(Debug, Clone, Default)]
pub(crate) struct Merged(BTreeMap<ParamPath, Dense>);

impl Merging {
    /// What can be merged when `layout` is trained. Dropout between `x` and `A` forbids it.
    pub(crate) fn new(spec: &ModelSpec, layout: &Layout, backend: &Backend) -> Self {
        let lowest = layout.lowest_layer(spec);
        let frozen = |l: &Linear| {
            let update = l.lora.is_none_or(|lora| lora.dropout == 0.0 && !layout.contains(&l.lora_a(&lora).weight()));
            update && !layout.contains(&l.weight()) && l.bias().is_some_and(|bias| !layout.contains(&bias))
        };
        // A head that reads the first token alone asks for it alone in the last layer, so there the three layers have two inputs.
        let first = spec.head.as_ref().is_some_and(|head| head.pooling == Pooling::First);
        let mut groups = Vec::new();
        for index in (lowest..spec.layers).filter(|_| backend.kind() == BackendKind::Flex) {
            let layers = spec.layer_linears(index);
            let (joint, single) = layers.split_at(3);
            if joint.iter().all(frozen) && !(first && index + 1 == spec.layers) {
                groups.push(joint.to_vec());
            } else {
                groups.extend(joint.iter().filter(|l| frozen(l)).map(|l| vec![l.clone()]));
            }
            groups.extend(single.iter().filter(|l| frozen(l)).map(|l| vec![l.clone()]));
        }
        let merged =
            |path: &ParamPath| groups.iter().flatten().any(|l| l.lora.is_some_and(|lora| l.lora_b(&lora).weight() == *path));
        let transposed = layout.parameters().iter().map(|p| merged(&p.path)).collect();
        let bases = layout.bases().iter().map(|(path, basis)| (path.clone(), basis.upload(backend))).collect();
        Self { groups, transposed, bases }
    }

    /// Whether the gradient of the layout's parameter `at` comes transposed.
    pub(crate) fn is_transposed(&self, at: usize) -> bool {
        self.transposed.get(at).copied().unwrap_or(false)
    }

    /// Gives a vector of gradients, each parameter's as it comes, the layout's order. A permutation, so clipping and noise may come before it.
    pub(crate) fn straighten(&self, layout: &Layout, gradient: &mut [f32]) {
        let mut rest = gradient;
        for (parameter, transposed) in layout.parameters().iter().zip(&self.transposed) {
            let (slice, after) = rest.split_at_mut(parameter.len());
            rest = after;
            if let ([outputs, rank], true) = (&parameter.shape[..], transposed) {
                let from = slice.to_vec();
                for (i, row) in slice.chunks_exact_mut(*rank).enumerate() {
                    row.iter_mut().enumerate().for_each(|(j, v)| *v = from[j * outputs + i]);
                }
            }
        }
    }

    /// The subspace that the parameter is trained in, `[rows, width]`, if not the whole.
    pub(crate) fn basis(&self, path: &ParamPath) -> Option<&Tensor<2>> {
        self.bases.get(path)
    }

    /// The layers' weights, where `updates` holds the trained parameters that come transposed and `frozen` all others.
    pub(crate) fn merge(&self, frozen: &ParamSet, updates: &BTreeMap<ParamPath, Param>) -> Merged {
        let get = |path: &ParamPath| updates.get(path).or_else(|| frozen.find(path));
        let merged = self.groups.iter().filter_map(|group| Some((group.first()?.path.clone(), merge(group, get, &self.bases)?)));
        Merged(merged.collect())
    }
}

impl Merged {
    /// The layers that are computed as one and begin with the one at `path`.
    pub(crate) fn get(&self, path: &ParamPath) -> Option<&Dense> {
        self.0.get(path)
    }
}

/// `None` where a parameter is missing or of another rank: then the layer is computed as it is written, and reports it.
fn merge<'a>(
    group: &[Linear],
    get: impl Fn(&ParamPath) -> Option<&'a Param>,
    bases: &BTreeMap<ParamPath, Tensor<2>>,
) -> Option<Dense> {
    let matrix = |path: &ParamPath, rows: usize, columns: usize| match get(path)? {
        Param::Matrix(t) if t.dims() == [rows, columns] => Some(t.clone()),
        _ => None,
    };
    let (mut weights, mut biases, mut inner, mut updates) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut output, mut row) = (0, 0);
    for layer in group {
        let mut weight = matrix(&layer.weight(), layer.outputs, layer.inputs)?;
        match get(&layer.bias()?)? {
            Param::Vector(t) if t.dims() == [layer.outputs] => biases.push(t.clone()),
            _ => return None,
        }
        if let Some(lora) = &layer.lora {
            let path = layer.lora_b(lora).weight();
            let a = matrix(&layer.lora_a(lora).weight(), lora.rank, layer.inputs)?;
            let a = if lora.scale == 1.0 { a } else { a.mul_scalar(lora.scale) };
            let basis = bases.get(&path);
            let rows = basis.map_or(layer.outputs, |u| u.dims()[1]);
            let update = matrix(&path, rows, lora.rank)?;
            let update = basis.map_or(update.clone(), |u| u.clone().matmul(update));
            weight = weight + update.matmul(a.clone());
            inner.push(a);
            let basis = basis.map(buffer);
            updates.push(Update { path, output, outputs: layer.outputs, row, rank: lora.rank, basis });
            row += lora.rank;
        }
        weights.push(weight);
        output += layer.outputs;
    }
    let joined = |mut parts: Vec<Tensor<2>>| if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, 0) };
    let a = (!inner.is_empty()).then(|| buffer(&joined(inner)));
    Some(Dense { weight: buffer(&joined(weights)), bias: buffer(&Tensor::cat(biases, 0)), a, updates })
}
