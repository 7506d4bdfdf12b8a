//! Univariate functions, the one place where an activation or an approximation is defined.

use serde::{Deserialize, Serialize};

/// A real function of one variable, applied to each element.
///
/// All engines evaluate the same function: the f32 oracle and the trainer by [`Func::eval`]'s formula, the MPC gates to a stated
/// error on the stated domain. A domain is a promise of the model, not a check: values outside are evaluated as the
/// documentation of the variant says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Func {
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x·Φ(x) = x/2·(1 + erf(x/√2))`, Hugging Face's `gelu`.
    Gelu,
    /// `x/2·(1 + tanh(√(2/π)(x + 0.044715x³)))`, Hugging Face's `gelu_new`.
    GeluTanh,
    /// BOLT's piecewise polynomial of degree 4 on `|x| ≤ 2.7`, `max(x, 0)` beyond (Pang et al., S&P 2024; max error against
    /// [`Func::Gelu`] 9.4e-3).
    BoltGelu,
    /// `x/2·(1 + h(√(2/π)(x + 0.044715x³)))` with `h(u) = min(max(u, -1), 1)`: [`Func::GeluTanh`] with a hard tanh, SPRINT's `hard_gelu`
    /// (max error against [`Func::Gelu`] 0.14).
    HardGelu,
    /// `x·min(max(x + 3, 0), 6)/6` (Howard et al. 2019).
    HardSwish,
    /// `0.125x² + 0.25x + 0.5`, MPCFormer's Quad (SPRINT has its two last coefficients the other way round).
    Quad,
    /// `x²`.
    Square,
    /// `tanh x`.
    Tanh,
    /// `cap·tanh(x/cap)`, a soft cap.
    SoftCap {
        /// The bound, > 0.
        cap: f64,
    },
    /// `exp x` for `x ≤ 0`; below `-16` engines may give 0 (e^-16 = 1.1e-7).
    ExpNonPositive,
    /// `exp(x - shift)` for `x ≤ shift`, with a public shift: softmax without a secret maximum.
    ExpShifted {
        /// The public bound on x.
        shift: f64,
    },
    /// `(x + c)²`, the numerator of MPCFormer's 2Quad.
    QuadShift {
        /// The shift, 5 in MPCFormer.
        c: f64,
    },
}

impl Func {
    /// Coefficients of [`Func::HardGelu`] in `y = |x|`, as [`Func::BOLT_GELU`]'s, up to [`Func::HARD_GELU_EDGE`].
    pub const HARD_GELU: [f64; 5] = [0.5 * 0.044715 * ROOT_2_OVER_PI, 0.0, 0.5 * ROOT_2_OVER_PI, 0.0, 0.0];
    /// Where the hard tanh of [`Func::HardGelu`] saturates: the root of `√(2/π)(x + 0.044715x³) = 1`.
    pub const HARD_GELU_EDGE: f64 = 1.179_870_202_752_698;
    /// Coefficients of [`Func::BoltGelu`] in `y = |x| ≤ 2.7`: `((((c₀y + c₁)y + c₂)y + c₃)y + c₄) + x/2`.
    pub const BOLT_GELU: [f64; 5] = BOLT_GELU;
    /// Where [`Func::BoltGelu`] becomes `max(x, 0)`.
    pub const BOLT_GELU_EDGE: f64 = BOLT_GELU_EDGE;

    /// The function's value in f64.
    pub fn eval(self, x: f64) -> f64 {
        match self {
            Self::Relu => x.max(0.0),
            Self::Relu6 => x.clamp(0.0, 6.0),
            Self::Gelu => 0.5 * x * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            Self::GeluTanh => {
                let inner = ROOT_2_OVER_PI * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + inner.tanh())
            }
            Self::BoltGelu => bolt_gelu(x),
            Self::HardGelu => {
                let inner = ROOT_2_OVER_PI * (x + 0.044715 * x * x * x);
                0.5 * x * (1.0 + inner.clamp(-1.0, 1.0))
            }
            Self::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Self::Quad => 0.125 * x * x + 0.25 * x + 0.5,
            Self::Square => x * x,
            Self::Tanh => x.tanh(),
            Self::SoftCap { cap } => cap * (x / cap).tanh(),
            Self::ExpNonPositive => x.exp(),
            Self::ExpShifted { shift } => (x - shift).exp(),
            Self::QuadShift { c } => (x + c) * (x + c),
        }
    }
}

/// `√(2/π)`.
const ROOT_2_OVER_PI: f64 = 0.797_884_560_802_865_4;

/// Coefficients of BOLT's polynomial in `|x|`: `a|x|⁴ + b|x|³ + c|x|² + d|x| + e + x/2` for `|x| ≤ 2.7`.
pub(crate) const BOLT_GELU: [f64; 5] = [
    0.020_848_611_754_127_593,
    -0.183_525_061_270_000_45,
    0.541_077_598_934_565_2,
    -0.037_982_034_980_951_89,
    0.001_620_808_531_841_547_4,
];

/// The half width of BOLT's polynomial piece.
pub(crate) const BOLT_GELU_EDGE: f64 = 2.7;

fn bolt_gelu(x: f64) -> f64 {
    let y = x.abs();
    if y > BOLT_GELU_EDGE {
        return x.max(0.0);
    }
    BOLT_GELU.iter().fold(0.0, |acc, c| acc * y + c) + 0.5 * x
}
