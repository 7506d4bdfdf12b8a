//! The model's elementwise functions in burn's operations.

use burn::tensor::{Tensor, activation};
use sprint_model::Func;

/// `f` on every element, differentiable.
pub(crate) fn apply<const D: usize>(x: Tensor<D>, f: Func) -> Tensor<D> {
    match f {
        Func::Relu => activation::relu(x),
        Func::Relu6 => x.clamp(0.0, 6.0),
        Func::Gelu => activation::gelu(x),
        Func::GeluTanh => {
            let cubed = x.clone().powi_scalar(3).mul_scalar(0.044715);
            let inner = (x.clone() + cubed).mul_scalar((2.0 / std::f64::consts::PI).sqrt());
            x.mul_scalar(0.5) * (inner.tanh().add_scalar(1.0))
        }
        Func::BoltGelu => bolt_gelu(x),
        Func::HardGelu => {
            let cubed = x.clone().powi_scalar(3).mul_scalar(0.044715);
            let inner = (x.clone() + cubed).mul_scalar((2.0 / std::f64::consts::PI).sqrt());
            x.mul_scalar(0.5) * (inner.clamp(-1.0, 1.0).add_scalar(1.0))
        }
        Func::HardSwish => x.clone() * x.add_scalar(3.0).clamp(0.0, 6.0).mul_scalar(1.0 / 6.0),
        Func::Quad => x.clone().square().mul_scalar(0.125) + x.mul_scalar(0.25).add_scalar(0.5),
        Func::Square => x.square(),
        Func::Tanh => x.tanh(),
        Func::SoftCap { cap } => x.mul_scalar(1.0 / cap).tanh().mul_scalar(cap),
        Func::ExpNonPositive => x.exp(),
        Func::ExpShifted { shift } => x.sub_scalar(shift).exp(),
        Func::QuadShift { c } => x.add_scalar(c).square(),
        other => unreachable!("{other:?} was added to the model without its burn form"),
    }
}

fn bolt_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    let y = x.clone().abs();
    let outside = y.clone().greater_scalar(Func::BOLT_GELU_EDGE);
    let mut poly = y.clone().mul_scalar(Func::BOLT_GELU[0]).add_scalar(Func::BOLT_GELU[1]);
    for c in &Func::BOLT_GELU[2..] {
        poly = (poly * y.clone()).add_scalar(*c);
    }
    (poly + x.clone().mul_scalar(0.5)).mask_where(outside, activation::relu(x))
}
