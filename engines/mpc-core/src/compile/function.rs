//! Univariate functions: pieces chosen by secret interval bits, in two rounds.
//!
//! Round one opens `x`; interval bits and the pieces' bodies are then local. Round two opens both and multiplies. A body is only used where
//! its interval bit is 1, so what it is elsewhere does not matter.

use sprint_model::Func;

use super::{CompileError, Lowering, Precision, SERIES, Val};
use crate::fit::{Parity, fourier};
use crate::program::{Fourier, NodeId, Op, View};

/// The largest soft cap: its series' coefficients and the dealer's cosines have bits enough.
const MOST_CAP: f64 = 1024.0;

/// Where an exponential is computed.
struct Exponential {
    /// What is taken off its argument, so that edges are multiples of what they are compared in.
    centre: f64,
    /// Of the argument less the centre: where it may begin to be 0, and its largest.
    edge: f64,
    most: f64,
    /// Fractional bits of the series' coefficients and of the dealer's cosines, and of the root; the ring that this is opened in.
    coefficients: u32,
    trig: u32,
    root: (u32, u32),
}

/// `-12 ≤ x ≤ 0.4`.
const NARROW: Exponential =
    Exponential { centre: 0.0, edge: -12.0, most: 0.4, coefficients: SERIES, trig: SERIES, root: (15, 18) };

/// `-14 ≤ x ≤ 2.05`: the maximum that is taken off is within [`Precision::COARSE_ERROR`].
const WIDE: Exponential =
    Exponential { centre: 2.0, edge: -16.0, most: 0.05, coefficients: SERIES + 2, trig: SERIES + 2, root: (15, 19) };

/// `lo ≤ x < hi`.
type Range = (Option<f64>, Option<f64>);

impl Lowering {
    /// `f` on every element, `|x| < 2^{ring-14}`.
    pub(crate) fn apply(&mut self, x: Val, f: Func, ring: u32) -> Result<Val, CompileError> {
        match f {
            Func::ExpNonPositive if self.ceilings.is_some() => self.exponential_in_range(x),
            Func::ExpNonPositive if self.lean => Ok(self.lean_exponential(x)),
            Func::ExpNonPositive if self.coarse() => Ok(self.exponential(x, &WIDE)),
            Func::ExpNonPositive => Ok(self.exponential(x, &NARROW)),
            Func::ExpShifted { shift } => {
                let shifted = self.shift(x, -shift);
                Ok(self.exponential(shifted, &NARROW))
            }
            Func::Square => Ok(self.square(x, 0.0, ring)),
            Func::QuadShift { c } => Ok(self.square(x, c, ring)),
            Func::Quad => {
                // 0.125x² + 0.25x + 0.5 = 0.125·(x + 1)² + 0.375
                let square = self.square(x, 1.0, ring);
                let eighth = self.gain(square, 0.125);
                Ok(self.shift(eighth, 0.375))
            }
            Func::Relu => Ok(self.linear_pieces(x, ring, &[((Some(0.0), None), 1.0, 0.0)])),
            Func::Relu6 => Ok(self.linear_pieces(x, ring, &[((Some(0.0), Some(6.0)), 1.0, 0.0), ((Some(6.0), None), 0.0, 6.0)])),
            Func::Gelu | Func::GeluTanh if self.lean => Ok(self.lean_gelu(x, f, ring)),
            Func::Gelu | Func::GeluTanh => match self.gelu_in_range(x, f) {
                Some(y) => Ok(y),
                None => Ok(self.gelu(x, f, ring)),
            },
            Func::BoltGelu => Ok(self.polynomial_gelu(x, ring, Func::BOLT_GELU_EDGE, Func::BOLT_GELU)),
            Func::HardGelu => Ok(self.polynomial_gelu(x, ring, Func::HARD_GELU_EDGE, Func::HARD_GELU)),
            Func::HardSwish => Ok(self.hard_swish(x, ring)),
            Func::Tanh => self.soft_cap(x, 1.0, ring),
            Func::SoftCap { cap } => self.soft_cap(x, cap, ring),
            other => {
                let fix = "choose another activation".into();
                Err(CompileError::Unsupported { what: format!("the function {other:?}"), fix })
            }
        }
    }

    /// Opens `x` with the common argument precision.
    fn argument(&mut self, x: Val, ring: u32) -> NodeId {
        let x = self.fit(x, Precision::ARGUMENT.0, ring);
        self.open(x, ring, true, true)
    }

    /// `(x + c)²`.
    fn square(&mut self, x: Val, c: f64, ring: u32) -> Val {
        let f = Precision::ARGUMENT.0;
        let x = self.fit(x, f, ring);
        let x = self.shift(x, c);
        let len = self.len(x);
        let open = self.open(x, ring, true, true);
        self.product(&[(open, View::ALL), (open, View::ALL)], len, 2 * f)
    }

    /// `Σ bit·(slope·x + constant)`; slopes are 0 or 1.
    fn linear_pieces(&mut self, x: Val, ring: u32, pieces: &[(Range, f64, f64)]) -> Val {
        let f = Precision::ARGUMENT.0;
        let open = self.argument(x, ring);
        let len = self.b.len(open);
        let ranges: Vec<Range> = pieces.iter().map(|p| p.0).collect();
        let bits = self.intervals(open, f, 0, &ranges);
        let bits = self.open_bits(bits);
        let mut total: Option<Val> = None;
        for (j, (_, slope, constant)) in pieces.iter().enumerate() {
            let part = if *slope == 0.0 {
                self.bit_constant(bits, j * len, len, *constant, f)
            } else {
                self.product(&[(bits, View::at(j * len)), (open, View::ALL)], len, f)
            };
            total = Some(self.plus(total, part));
        }
        total.expect("at least one piece")
    }

    fn plus(&mut self, total: Option<Val>, part: Val) -> Val {
        match total {
            Some(sum) => self.sum(sum, part),
            None => part,
        }
    }

    /// `constant·bit` for a slice of opened bits.
    fn bit_constant(&mut self, bits: NodeId, from: usize, len: usize, constant: f64, f: u32) -> Val {
        let all = self.lift(bits, 0);
        let view = crate::program::Strided::new(from, &[(len, 1)]);
        let slice = self.b.push(Op::Gather { src: all.node, view }, len);
        let by = (constant * f64::from(f).exp2()).round() as i64;
        Val { node: self.b.push(Op::Scale(slice, by), len), ring: 64, f }
    }

    /// Opens a piece's body, below `limit` in size inside its interval; outside it may be anything.
    fn body(&mut self, v: Val, limit: f64) -> NodeId {
        let ring = Precision::BODY + 2 + limit.log2().ceil().max(0.0) as u32;
        let v = self.rescale(v, Precision::BODY);
        self.open(v, ring.min(v.ring), true, false)
    }

    /// `x/2 + even(x)` on `-5 ≤ x < 5` by a Fourier series of the even part, `x` above, 0 below. A value may count as up to 1 more than it is: what is
    /// so taken for 5 is at least 4, what is so left out is below -4, and there GELU is `x` or 0 up to 1.3e-4. Error 2e-4.
    fn gelu(&mut self, x: Val, func: Func, ring: u32) -> Val {
        const EDGE: f64 = 5.0;
        /// About the best period for seven frequencies, which are within 4e-5; a power of two needs nine.
        const PERIOD: f64 = 13.5;
        let f = Precision::ARGUMENT.0;
        // A whole number of periods is 256, or the argument's ring.
        let period_bits = ring.min(f + 8);
        let turn = f64::from(period_bits - f).exp2();
        let multiplier = (turn / PERIOD).round();
        let open = self.argument(x, ring);
        let len = self.b.len(open);
        let even = fourier(|x| func.eval(x) - 0.5 * x, (0.0, EDGE), turn / multiplier, 7, Parity::Even);
        debug_assert!(even.max_error < 1e-3, "the series fits the function");
        let fit = Fourier { period_bits, multiplier: multiplier as u64, cos: even.cos, sin: even.sin };
        let series = self.series(open, fit, SERIES, 40);
        let half = self.lift(open, f + 1);
        let series = self.rescale(series, Precision::BODY);
        let half = self.rescale(half, Precision::BODY);
        let inner = self.sum(series, half);
        let inner = self.body(inner, 8.0);
        let bits = self.intervals(open, f, f, &[(Some(1.0 - EDGE), Some(EDGE)), (Some(EDGE), None)]);
        let bits = self.open_bits(bits);
        let inside = self.product(&[(bits, View::ALL), (inner, View::ALL)], len, Precision::BODY);
        let above = self.product(&[(bits, View::at(len)), (open, View::ALL)], len, f);
        let above = self.rescale(above, Precision::BODY);
        self.sum(inside, above)
    }

    /// Two polynomials of degree 4, for `0 ≤ x < edge` and `-edge ≤ x < 0`, and `x` above: `x/2` and the coefficients in `|x|`.
    fn polynomial_gelu(&mut self, x: Val, ring: u32, edge: f64, [a, b, c, d, e]: [f64; 5]) -> Val {
        const FINE: u32 = 58;
        const ARGUMENT: u32 = 10;
        let f = Precision::ARGUMENT.0;
        let x = self.fit(x, f, ring);
        let open = self.argument(x, ring);
        let len = self.b.len(open);
        let coarse = self.lift(open, f);
        let coarse = self.rescale(coarse, ARGUMENT);
        let coarse = self.widen_locally(coarse);
        let wide = self.open(coarse, 64, false, true);
        let encode = |list: [f64; 5]| -> Vec<i64> {
            let scale = |i: usize| f64::from(FINE - ARGUMENT * i as u32).exp2();
            list.iter().enumerate().map(|(i, c)| (c * scale(i)).round() as i64).collect()
        };
        let [right, left] = [encode([e, d + 0.5, c, b, a]), encode([e, 0.5 - d, c, -b, a])].map(|coefficients| {
            let node = self.b.push(Op::Polynomial { src: wide, coefficients }, len);
            self.body(Val { node, ring: 64, f: FINE }, 4.0)
        });
        let ranges = [(Some(0.0), Some(edge)), (Some(-edge), Some(0.0)), (Some(edge), None)];
        let bits = self.intervals(open, f, 0, &ranges);
        let bits = self.open_bits(bits);
        let right = self.product(&[(bits, View::ALL), (right, View::ALL)], len, Precision::BODY);
        let left = self.product(&[(bits, View::at(len)), (left, View::ALL)], len, Precision::BODY);
        let above = self.product(&[(bits, View::at(2 * len)), (open, View::ALL)], len, f);
        let above = self.rescale(above, Precision::BODY);
        let sum = self.sum(right, left);
        self.sum(sum, above)
    }

    /// A truncated value back in Z_2^64 (one round where truncation narrowed it).
    fn widen_locally(&mut self, v: Val) -> Val {
        if v.ring == 64 { v } else { self.widen(v) }
    }

    /// `x(x+3)/6` on `[-3, 3)`, `x` above.
    fn hard_swish(&mut self, x: Val, ring: u32) -> Val {
        let f = Precision::ARGUMENT.0;
        let open = self.argument(x, ring);
        let len = self.b.len(open);
        let square = self.product(&[(open, View::ALL), (open, View::ALL)], len, 2 * f);
        let square = self.gain(square, 1.0 / 6.0);
        let square = self.rescale(square, Precision::BODY);
        let half = self.lift(open, f + 1);
        let half = self.rescale(half, Precision::BODY);
        let inner = self.sum(square, half);
        let inner = self.body(inner, 4.0);
        let bits = self.intervals(open, f, 0, &[(Some(-3.0), Some(3.0)), (Some(3.0), None)]);
        let bits = self.open_bits(bits);
        let inside = self.product(&[(bits, View::ALL), (inner, View::ALL)], len, Precision::BODY);
        let above = self.product(&[(bits, View::at(len)), (open, View::ALL)], len, f);
        let above = self.rescale(above, Precision::BODY);
        self.sum(inside, above)
    }

    /// `c·tanh(x/c)` by a sine series on `|x| < 5c`, ±c beyond, for `|x| < 2^{ring-13}`, or half of that where comparisons are signs of
    /// differences ([`Lowering::argument_ring`] adds the bit). The period is 2^p ≥ 12.5c and frequencies are added until the error is 2e-4 or 1e-5·c,
    /// as the larger is.
    fn soft_cap(&mut self, x: Val, cap: f64, ring: u32) -> Result<Val, CompileError> {
        const EDGE: f64 = 5.0;
        const DROP: u32 = 4;
        if !(1.0 / 64.0..=MOST_CAP).contains(&cap) {
            let fix = format!("choose a cap from 1/64 to {MOST_CAP}, or none");
            return Err(CompileError::Unsupported { what: format!("caps: a soft cap of {cap}"), fix });
        }
        let f = Precision::ARGUMENT.0;
        let edge = EDGE * cap;
        let size = cap.log2().ceil() as i32;
        let x = self.fit(x, f, ring);
        let open = self.open(x, ring, false, true);
        let len = self.b.len(open);
        let period = (2.5 * edge).log2().ceil() as i32;
        let goal = 2e-4f64.max(1e-5 * cap);
        let fit = |n| fourier(|x| cap * (x / cap).tanh(), (0.0, edge), f64::from(period).exp2(), n, Parity::Odd);
        let odd = [14, 18, 22, 28].map(fit).into_iter().find(|f| f.max_error <= goal).unwrap_or_else(|| fit(36));
        let fit = Fourier { period_bits: (period + f as i32) as u32, multiplier: 1, cos: odd.cos, sin: odd.sin };
        // The dealer's cosines get the bits that the coefficients' size takes.
        let more = size.max(0) as u32;
        let body = Precision::BODY + 3 + more;
        let series = self.series(open, fit, SERIES + more, 2 * SERIES + more - Precision::BODY + body);
        let series = self.rescale(series, Precision::BODY);
        let inner = self.open(series, body, true, false);
        let ranges = [(Some(-edge), Some(edge)), (Some(edge), None), (None, Some(-edge))];
        let bits = self.intervals(open, f, DROP, &ranges);
        let bits = self.open_bits(bits);
        let fine = Precision::BODY;
        let inside = self.product(&[(bits, View::ALL), (inner, View::ALL)], len, fine);
        let above = self.bit_constant(bits, len, len, cap, fine);
        let below = self.bit_constant(bits, 2 * len, len, -cap, fine);
        let sum = self.sum(inside, above);
        Ok(self.sum(sum, below))
    }

    /// `exp x` from an edge to the largest argument, 0 below a unit under the edge, either between: the square of a Fourier series of `exp(x/2)`, whose error
    /// shrinks with the value.
    fn exponential(&mut self, x: Val, range: &Exponential) -> Val {
        const UNIT: f64 = 4.0;
        let Exponential { centre, edge, most, coefficients, trig, root: (fine, root_ring) } = *range;
        let (f, ring) = Precision::EXP_ARGUMENT;
        let x = self.fit(x, f, ring);
        let x = if centre == 0.0 { x } else { self.shift(x, -centre) };
        let open = self.open(x, ring, false, true);
        let len = self.b.len(open);
        let half = fourier(|y| (0.5 * (y + centre)).exp(), (edge - UNIT - 0.3, most), 32.0, 10, Parity::Neither);
        let fit = Fourier { period_bits: 5 + f, multiplier: 1, cos: half.cos, sin: half.sin };
        let series = self.series_of(open, fit, (coefficients, trig), 48);
        let series = self.rescale(series, fine);
        let root = self.open(series, root_ring, true, false);
        let bits = self.intervals(open, f, f + 2, &[(Some(edge), None)]);
        let bits = self.open_bits(bits);
        self.product(&[(bits, View::ALL), (root, View::ALL), (root, View::ALL)], len, 2 * fine)
    }

    /// The ring that an argument of `f` is opened in: `least`, or as much more as a soft cap's edges at ±5c need, and where comparisons are signs of
    /// differences one bit more, so that the whole of the argument's range less an edge fits.
    pub(crate) fn argument_ring(&self, f: Func, least: u32) -> u32 {
        let spare = u32::from(self.by_difference);
        match f {
            Func::SoftCap { cap } if cap > 1.0 && cap <= MOST_CAP => {
                least.max(Precision::ARGUMENT.0 + 4 + cap.log2().ceil() as u32) + spare
            }
            Func::SoftCap { .. } | Func::Tanh => least + spare,
            _ => least,
        }
    }
}
