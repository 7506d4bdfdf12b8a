//! Softmax attention of all heads as one operation.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use super::gelu::exp_non_positive;
use super::tape::{close, filled, open, product, values, view};

/// `softmax(factor·q·kᵀ)·v` in each of `heads` heads, with the keys of padding left out: queries `[b, s, c]`, keys and values `[b, t, c]`, to
/// `[b, s, c]`.
pub(crate) fn attention([q, k, v]: [&Tensor<3>; 3], heads: usize, factor: f64, lengths: &[usize]) -> Tensor<3> {
    let ([batch, queries, channels], [_, keys, _]) = (q.dims(), k.dims());
    let shape = Heads { batch, queries, keys, heads, width: channels / heads };
    let ((q, q_node), (k, k_node), (v, v_node)) = (open(q), open(k), open(v));
    let state = State {
        q: shape.split(&q, queries, 0, channels),
        k: shape.split(&k, keys, 0, channels),
        v: shape.split(&v, keys, 0, channels),
        weights: None,
        factor: factor as f32,
        shape,
    };
    let (output, state) = attend(state, lengths);
    close(Apart, [q_node, k_node, v_node], state, output)
}

/// [`attention`] of `[b, t, 3c]`, whose channels are the query's, the key's and the value's in this order.
pub(crate) fn packed_attention(qkv: &Tensor<3>, heads: usize, factor: f64, lengths: &[usize]) -> Tensor<3> {
    let [batch, tokens, channels] = qkv.dims();
    let shape = Heads { batch, queries: tokens, keys: tokens, heads, width: channels / 3 / heads };
    let (qkv, node) = open(qkv);
    let part = |i: usize| shape.split(&qkv, tokens, i * channels / 3, channels);
    let state = State { q: part(0), k: part(1), v: part(2), weights: None, factor: factor as f32, shape };
    let (output, state) = attend(state, lengths);
    close(Packed, [node], state, output)
}

#[derive(Debug, Clone, Copy)]
struct Heads {
    batch: usize,
    queries: usize,
    keys: usize,
    heads: usize,
    width: usize,
}

impl Heads {
    /// `[b, rows, stride]` from channel `at` on as `[b, heads, rows, width]`, without a copy.
    fn split(&self, t: &FlexTensor, rows: usize, at: usize, stride: usize) -> FlexTensor {
        view(t, [self.batch, self.heads, rows, self.width], [rows * stride, self.width, stride, 1], at)
    }

    /// Writes `[b, heads, rows, width]` to the channels from `at` on of `[b, rows, stride]`.
    fn merge(&self, t: &FlexTensor, out: &mut [f32], rows: usize, at: usize, stride: usize) {
        for (i, from) in values(t).chunks_exact(self.width).enumerate() {
            let (row, head, example) = (i % rows, i / rows % self.heads, i / rows / self.heads);
            let to = (example * rows + row) * stride + at + head * self.width;
            out[to..to + self.width].copy_from_slice(from);
        }
    }
}

/// Queries, keys and values `[b, heads, tokens, width]`, and the attention weights `[b, heads, s, t]` once they are known.
#[derive(Debug, Clone)]
struct State {
    q: FlexTensor,
    k: FlexTensor,
    v: FlexTensor,
    weights: Option<FlexTensor>,
    factor: f32,
    shape: Heads,
}

fn attend(mut state: State, lengths: &[usize]) -> (FlexTensor, State) {
    let Heads { batch, queries, keys, heads, width } = state.shape;
    let mut weights = product(state.q.clone(), transposed(&state.k));
    for (rows, length) in weights.storage_mut::<f32>().chunks_exact_mut(heads * queries * keys).zip(lengths) {
        for row in rows.chunks_exact_mut(keys) {
            let (real, padding) = row.split_at_mut((*length).min(keys));
            softmax(real, state.factor);
            padding.fill(0.0);
        }
    }
    let context = product(weights.clone(), state.v.clone());
    let channels = heads * width;
    let mut out = vec![0.0; batch * queries * channels];
    state.shape.merge(&context, &mut out, queries, 0, channels);
    state.weights = Some(weights);
    (filled(out, [batch, queries, channels]), state)
}

fn softmax(row: &mut [f32], factor: f32) {
    let largest = row.iter().fold(f32::NEG_INFINITY, |m, s| m.max(s * factor));
    row.iter_mut().for_each(|s| *s = exp_non_positive(*s * factor - largest));
    let inverse = 1.0 / row.iter().sum::<f32>();
    row.iter_mut().for_each(|s| *s *= inverse);
}

fn transposed(t: &FlexTensor) -> FlexTensor {
    t.transpose(2, 3)
}

impl State {
    /// The gradients of queries, keys and values, `[b, heads, tokens, width]` each, from the output's.
    fn gradients(&self, grad: &FlexTensor) -> [FlexTensor; 3] {
        let Heads { queries, keys, heads, width, .. } = self.shape;
        let grad = self.shape.split(grad, queries, 0, heads * width);
        let weights = self.weights.as_ref().expect("the forward pass has run");
        let value = product(transposed(weights), grad.clone());
        let mut scores = product(grad, transposed(&self.v));
        for (score, weight) in scores.storage_mut::<f32>().chunks_exact_mut(keys).zip(values(weights).chunks_exact(keys)) {
            let mean: f32 = score.iter().zip(weight).map(|(s, w)| s * w).sum();
            score.iter_mut().zip(weight).for_each(|(s, w)| *s = (*s - mean) * w * self.factor);
        }
        let query = product(scores.clone(), self.k.clone());
        let key = product(transposed(&scores), self.q.clone());
        [query, key, value]
    }
}

#[derive(Debug)]
struct Apart;

impl Backward<Flex, 3> for Apart {
    type State = State;

    fn backward(self, ops: Ops<State, 3>, grads: &mut Gradients, _: &mut Checkpointer) {
        let state = ops.state;
        let shape = state.shape;
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let channels = shape.heads * shape.width;
        let rows = [shape.queries, shape.keys, shape.keys];
        for ((parent, part), rows) in ops.parents.into_iter().zip(state.gradients(&grad)).zip(rows) {
            let Some(parent) = parent else { continue };
            let mut out = vec![0.0; shape.batch * rows * channels];
            shape.merge(&part, &mut out, rows, 0, channels);
            grads.register::<Flex>(parent.id, filled(out, [shape.batch, rows, channels]));
        }
    }
}

#[derive(Debug)]
struct Packed;

impl Backward<Flex, 1> for Packed {
    type State = State;

    fn backward(self, ops: Ops<State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let state = ops.state;
        let shape = state.shape;
        let grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let [Some(parent)] = ops.parents else { return };
        let channels = shape.heads * shape.width;
        let mut out = vec![0.0; shape.batch * shape.keys * 3 * channels];
        for (i, part) in state.gradients(&grad).iter().enumerate() {
            shape.merge(part, &mut out, shape.keys, i * channels, 3 * channels);
        }
        grads.register::<Flex>(parent.id, filled(out, [shape.batch, shape.keys, 3 * channels]));
    }
}
