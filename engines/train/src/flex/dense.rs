//! A dense layer with its low-rank update merged into its weight.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, NodeGuard, Ops};
use burn::backend::flex::FlexTensor;
use burn::tensor::{Shape, Tensor};
use sprint_model::ParamPath;

use super::tape::{close, open, product, values, view};

/// One dense layer, or several of one input side by side, for one step: `y = x·(W + s·B·A)ᵀ + b`.
///
/// Between two steps of the optimiser `B` is a constant, so the update costs the forward pass and the gradient of `x` nothing. The gradient of
/// `B` is that of the sum written out, `s·∂yᵀ·(x·Aᵀ)`, and needs neither `B` nor what it was multiplied with.
#[derive(Debug, Clone)]
pub(crate) struct Dense {
    /// `W + s·B·A`, `[outputs, inputs]`.
    pub(crate) weight: FlexTensor,
    /// `b`, `[outputs]`.
    pub(crate) bias: FlexTensor,
    /// `s·A`, the rows of all updates below one another; none without updates.
    pub(crate) a: Option<FlexTensor>,
    /// In the order of the rows of `a`.
    pub(crate) updates: Vec<Update>,
}

impl Dense {
    /// Channels written.
    pub(crate) fn outputs(&self) -> usize {
        self.weight.layout().shape()[0]
    }

    /// Channels read.
    pub(crate) fn inputs(&self) -> usize {
        self.weight.layout().shape()[1]
    }
}

/// A trained `B` of a [`Dense`].
#[derive(Debug, Clone)]
pub(crate) struct Update {
    /// Its name.
    pub(crate) path: ParamPath,
    /// The first of the outputs it adds to.
    pub(crate) output: usize,
    /// How many outputs.
    pub(crate) outputs: usize,
    /// Its first row of `a`.
    pub(crate) row: usize,
    /// How many rows.
    pub(crate) rank: usize,
    /// `U[outputs, width]` where `B = U·R` and the gradient wanted is that of `R`.
    pub(crate) basis: Option<FlexTensor>,
}

/// `x·(W + s·B·A)ᵀ + b` for `x` of `[b, t, inputs]`. `leaves` take the gradients of the updates' `B`, each `[b, rank, outputs]` or, where
/// `summed`, `[1, rank, outputs]`: transposed, as the product leaves them. Where an update has a basis, its width stands for the outputs.
pub(crate) fn dense(x: &Tensor<3>, layer: &Dense, leaves: &[&Tensor<3>], summed: bool) -> Tensor<3> {
    let [batch, tokens, inputs] = x.dims();
    let (x, node) = open(x);
    let flat = view(&x, [batch * tokens, inputs], [inputs, 1], 0);
    let mut y = product(flat.clone(), layer.weight.transpose(0, 1));
    let bias = values(&layer.bias);
    for row in y.storage_mut::<f32>().chunks_exact_mut(bias.len()) {
        row.iter_mut().zip(bias).for_each(|(y, b)| *y += b);
    }
    let u = layer.a.as_ref().map(|a| product(flat, a.transpose(0, 1)));
    let y = y.reshape(Shape::from(vec![batch, tokens, bias.len()]));
    let state = State { weight: layer.weight.clone(), u, updates: layer.updates.clone(), batch, tokens, summed };
    let nodes: Vec<NodeGuard> = std::iter::once(node).chain(leaves.iter().map(|leaf| open(leaf).1)).collect();
    let nodes = match <[NodeGuard; 1]>::try_from(nodes) {
        Ok(nodes) => return close(Linear, nodes, state, y),
        Err(nodes) => nodes,
    };
    let nodes = match <[NodeGuard; 2]>::try_from(nodes) {
        Ok(nodes) => return close(Linear, nodes, state, y),
        Err(nodes) => nodes,
    };
    let nodes = match <[NodeGuard; 3]>::try_from(nodes) {
        Ok(nodes) => return close(Linear, nodes, state, y),
        Err(nodes) => nodes,
    };
    close(Linear, <[NodeGuard; 4]>::try_from(nodes).expect("at most three layers share an input"), state, y)
}

#[derive(Debug, Clone)]
struct State {
    weight: FlexTensor,
    /// `s·x·Aᵀ`, `[b·t, rows of a]`.
    u: Option<FlexTensor>,
    updates: Vec<Update>,
    batch: usize,
    tokens: usize,
    summed: bool,
}

impl State {
    /// `uᵀ·∂y`, or `uᵀ·∂y·U`, of one update, an example or summed.
    fn update(&self, u: &FlexTensor, update: &Update, grad: &FlexTensor) -> FlexTensor {
        let Update { output, outputs, row, rank, ref basis, .. } = *update;
        let (batch, tokens) = if self.summed { (1, self.batch * self.tokens) } else { (self.batch, self.tokens) };
        let ranks = values(u).len() / self.batch / self.tokens;
        let wide = values(grad).len() / self.batch / self.tokens;
        let u = view(u, [batch, rank, tokens], [tokens * ranks, 1, ranks], row);
        let Some(basis) = basis else {
            return product(u, view(grad, [batch, tokens, outputs], [tokens * wide, wide, 1], output));
        };
        let width = basis.layout().shape()[1];
        let within = product(view(grad, [batch * tokens, outputs], [wide, 1], output), basis.clone());
        product(u, view(&within, [batch, tokens, width], [tokens * width, width, 1], 0))
    }
}

#[derive(Debug)]
struct Linear;

impl<const N: usize> Backward<Flex, N> for Linear {
    type State = State;

    fn backward(self, ops: Ops<State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let state = ops.state;
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let mut parents = ops.parents.into_iter();
        let x = parents.next().flatten();
        for (leaf, update) in parents.zip(&state.updates) {
            if let (Some(leaf), Some(u)) = (leaf, &state.u) {
                grads.register::<Flex>(leaf.id, state.update(u, update, &grad));
            }
        }
        if let Some(x) = x {
            let [outputs, inputs] = [state.weight.layout().shape()[0], state.weight.layout().shape()[1]];
            let flat = view(&grad, [state.batch * state.tokens, outputs], [outputs, 1], 0);
            let shape = Shape::from(vec![state.batch, state.tokens, inputs]);
            grads.register::<Flex>(x.id, product(flat, state.weight).reshape(shape));
        }
    }
}
