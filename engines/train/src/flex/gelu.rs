//! GELU and its derivative in one pass.
//!
//! burn-flex evaluates `erf` by libm, one element at a time and again in the backward pass: 40 % of a training step of bert-tiny. Here both
//! values come from one vectorisable loop.

use burn::backend::Flex;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops};
use burn::backend::flex::FlexTensor;
use burn::backend::ops::FloatTensorOps;
use burn::tensor::Tensor;

use super::tape::{close, filled, open, values};

/// `gelu(x) = x·Φ(x)`. Error: below 1e-6 absolute in the value, 2e-6 in the derivative.
pub(crate) fn gelu(x: &Tensor<3>) -> Tensor<3> {
    let (shape, tracked) = (x.dims(), x.is_tracked());
    let (x, node) = open(x);
    let x = values(&x);
    let mut y = vec![0.0; x.len()];
    if !tracked {
        x.iter().zip(&mut y).for_each(|(x, y)| *y = value_and_slope(*x).0);
        let y = filled(y, shape);
        return close(Gelu, [node], y.clone(), y);
    }
    let mut slopes = vec![0.0; x.len()];
    for ((x, y), slope) in x.iter().zip(&mut y).zip(&mut slopes) {
        (*y, *slope) = value_and_slope(*x);
    }
    close(Gelu, [node], filled(slopes, shape), filled(y, shape))
}

/// Its state is `gelu'(x)`.
#[derive(Debug)]
struct Gelu;

impl Backward<Flex, 1> for Gelu {
    type State = FlexTensor;

    fn backward(self, ops: Ops<FlexTensor, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let grad = grads.consume::<Flex>(&ops.node);
        if let [Some(parent)] = ops.parents {
            grads.register::<Flex>(parent.id, Flex::float_mul(grad, ops.state));
        }
    }
}

/// `(x·Φ(x), Φ(x) + x·φ(x))`.
///
/// Source: erfc by Abramowitz and Stegun 7.1.26 (absolute error 1.5e-7), whose factor `exp(-z²)` at `z = x/√2` is also φ's.
#[inline]
#[expect(clippy::excessive_precision, reason = "as published")]
fn value_and_slope(x: f32) -> (f32, f32) {
    const P: f32 = 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2;
    const A: [f32; 5] = [1.061_405_429, -1.453_152_027, 1.421_413_741, -0.284_496_736, 0.254_829_592];
    const INV_SQRT_2PI: f32 = 0.398_942_28;
    let gauss = exp_non_positive(-0.5 * x * x);
    let t = 1.0 / (1.0 + P * x.abs());
    let poly = ((((A[0] * t + A[1]) * t + A[2]) * t + A[3]) * t + A[4]) * t;
    let tail = 0.5 * poly * gauss;
    let phi = if x > 0.0 { 1.0 - tail } else { tail };
    (x * phi, phi + x * gauss * INV_SQRT_2PI)
}

/// `exp(x)` for `x ≤ 0`, 0 or below 1e-37 where f32's would be subnormal; NaN for NaN. Error: 3e-7 relative.
#[inline]
pub(super) fn exp_non_positive(x: f32) -> f32 {
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    // Adding 1.5·2²³ rounds to an integer and leaves it in the low mantissa bits.
    const MAGIC: f32 = 12_582_912.0;
    // Not `max`, which would turn NaN into a number.
    let x = if x < -87.0 { -87.0 } else { x };
    let shifted = x * LOG2_E + MAGIC;
    let k = shifted - MAGIC;
    let r = (x - k * 0.693_359_4) - k * -2.121_944_4e-4;
    let p = 1.0 + r * (1.0 + r * (0.5 + r * (1.666_666_6e-1 + r * (4.166_579_6e-2 + r * (8.333_452e-3 + r * 1.398_2e-3)))));
    let exponent = shifted.to_bits().wrapping_sub(MAGIC.to_bits()).wrapping_add(127) << 23;
    p * f32::from_bits(exponent)
}

#[cfg(test)]
mod tests {
    use super::{exp_non_positive, value_and_slope};
    use sprint_model::Func;

    #[test]
    fn value_and_slope_are_gelus() {
        for i in -24_000..=24_000 {
            let x = i as f32 * 5e-4;
            let (y, d) = value_and_slope(x);
            let exact = |x: f64| Func::Gelu.eval(x);
            let slope = (exact(f64::from(x) + 1e-5) - exact(f64::from(x) - 1e-5)) / 2e-5;
            assert!((f64::from(y) - exact(f64::from(x))).abs() < 1e-6, "gelu({x}) = {y}");
            assert!((f64::from(d) - slope).abs() < 2e-6, "gelu'({x}) = {d}, not {slope}");
        }
    }

    #[test]
    fn far_from_zero_and_outside_the_numbers() {
        assert_eq!(value_and_slope(1e30), (1e30, 1.0));
        assert_eq!(value_and_slope(-1e30).0, 0.0);
        assert!(value_and_slope(f32::NAN).0.is_nan() && value_and_slope(f32::NAN).1.is_nan());
    }

    #[test]
    fn the_exponential_is_within_its_error() {
        for i in 0..87_000 {
            let x = -(i as f32) * 1e-3;
            let exact = f64::from(x).exp();
            assert!((f64::from(exp_non_positive(x)) / exact - 1.0).abs() < 5e-7, "exp({x})");
        }
    }
}
