//! Layer normalisation, of a tensor or of a sum of two.

use std::sync::Arc;

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::flex::FlexTensor;
use burn::tensor::Tensor;

use super::tape::{buffer, close, filled, open, values};

const LANES: usize = 8;

/// `γ·(x - mean)/√(var + ε) + β` over the last dimension of `x`; γ and β are on no tape.
pub(crate) fn layer_norm(x: &Tensor<3>, gamma: &Tensor<1>, beta: &Tensor<1>, eps: f64) -> Tensor<3> {
    let (input, node) = open(x);
    let (output, state) = normalise(input, x.dims(), gamma, beta, eps);
    close(Norm, [node], state, output)
}

/// [`layer_norm`] of `a + b`.
pub(crate) fn add_norm(a: &Tensor<3>, b: &Tensor<3>, gamma: &Tensor<1>, beta: &Tensor<1>, eps: f64) -> Tensor<3> {
    let ((left, a_node), (right, b_node)) = (open(a), open(b));
    let sum: Vec<f32> = values(&left).iter().zip(values(&right)).map(|(a, b)| a + b).collect();
    let (output, state) = normalise(filled(sum, a.dims()), a.dims(), gamma, beta, eps);
    close(Norm, [a_node, b_node], state, output)
}

fn normalise(x: FlexTensor, shape: [usize; 3], gamma: &Tensor<1>, beta: &Tensor<1>, eps: f64) -> (FlexTensor, State) {
    let (gamma, beta) = (buffer(gamma), buffer(beta));
    let width = shape[2];
    let mut out = vec![0.0_f32; shape.iter().product()];
    let mut moments = Vec::with_capacity(shape[0] * shape[1]);
    for (x, out) in values(&x).chunks_exact(width).zip(out.chunks_exact_mut(width)) {
        let mean = sum(x, |x, _| x, x) / width as f32;
        let variance = sum(x, |x, _| (x - mean) * (x - mean), x) / width as f32;
        let inverse = ((f64::from(variance) + eps).sqrt().recip()) as f32;
        for (((out, x), gamma), beta) in out.iter_mut().zip(x).zip(values(&gamma)).zip(values(&beta)) {
            *out = (x - mean) * inverse * gamma + beta;
        }
        moments.push((mean, inverse));
    }
    (filled(out, shape), State { x, moments: moments.into(), gamma })
}

/// Σ f(a, b), in independent lanes that the compiler keeps in one register.
fn sum(a: &[f32], f: impl Fn(f32, f32) -> f32, b: &[f32]) -> f32 {
    let mut lanes = [0.0_f32; LANES];
    let (left, right) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = left.remainder().iter().zip(right.remainder()).map(|(a, b)| f(*a, *b)).sum();
    for (a, b) in left.zip(right) {
        for i in 0..LANES {
            lanes[i] += f(a[i], b[i]);
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// The input, each row's mean and inverse deviation, and γ.
#[derive(Debug, Clone)]
struct State {
    x: FlexTensor,
    moments: Arc<[(f32, f32)]>,
    gamma: FlexTensor,
}

#[derive(Debug)]
struct Norm;

impl<const N: usize> Backward<Flex, N> for Norm {
    type State = State;

    /// With `x̂` the normalised row and `g = γ·∂y`: `∂x = (g - mean(g) - x̂·mean(g·x̂))/σ`, the same for every term of a sum.
    fn backward(self, ops: Ops<State, N>, grads: &mut Gradients, _: &mut Checkpointer) {
        let State { x, moments, gamma } = ops.state;
        let mut grad = grads.consume::<Flex>(&ops.node).to_contiguous();
        let (x, gamma) = (values(&x), values(&gamma));
        let width = gamma.len();
        for ((grad, x), (mean, inverse)) in
            grad.storage_mut::<f32>().chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(&*moments)
        {
            grad.iter_mut().zip(gamma).for_each(|(g, gamma)| *g *= gamma);
            let first = sum(grad, |g, _| g, grad) / width as f32;
            let second = sum(grad, |g, x| g * (x - mean), x) * inverse * inverse / width as f32;
            for (g, x) in grad.iter_mut().zip(x) {
                *g = (*g - first - (x - mean) * second) * inverse;
            }
        }
        for parent in ops.parents.into_iter().flatten() {
            grads.register::<Flex>(parent.id, grad.clone());
        }
    }
}
