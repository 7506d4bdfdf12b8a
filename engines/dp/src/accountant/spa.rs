//! A saddle-point estimate of ε: where to tilt, how fine to discretise. A guess, never a claim.
//!
//! With K(λ) the log moment generating function of the composed loss, the tilted loss is taken as normal with mean K′ and variance
//! s² = K″, so δ(K′(λ)) ≈ e^{K−λK′}·½[erfcx(λs/√2) − erfcx((λ+1)s/√2)] (exact for Gaussian losses; Alghamdi et al. 2023, arXiv 2208.09595,
//! give the general expansion).

use super::moment::{SubsampledGaussian, Tilted};
use crate::special::erfcx;
use std::f64::consts::FRAC_1_SQRT_2;

/// Which neighbour is the true data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// The record is present (z ~ P, loss ℓ).
    Remove,
    /// The record is absent (z ~ Q, loss −ℓ).
    Add,
}

/// Equal steps inside a composition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    pub(crate) step: SubsampledGaussian,
    pub(crate) count: f64,
    /// The range of z that is kept; what lies outside is accounted as loss +∞ by the caller.
    pub(crate) bounds: (f64, f64),
}

/// A composed pair of distributions seen through its log moment generating function.
#[derive(Clone, Debug)]
pub(crate) struct Composition {
    pub(crate) parts: Vec<Part>,
    pub(crate) direction: Direction,
}

/// The tilt, the ε it points at and the standard deviation of the tilted composed loss.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guess {
    pub(crate) tilt: f64,
    pub(crate) epsilon: f64,
    pub(crate) moments: Tilted,
}

impl Composition {
    /// K(λ), K′(λ) and K″(λ).
    pub(crate) fn moments(&self, tilt: f64) -> Tilted {
        let mut sum = Tilted { log_moment: 0.0, mean: 0.0, variance: 0.0 };
        for Part { step, count, bounds } in &self.parts {
            let one = match self.direction {
                Direction::Remove => step.tilted(1.0 + tilt, *bounds),
                Direction::Add => {
                    let t = step.tilted(-tilt, *bounds);
                    Tilted { mean: -t.mean, ..t }
                }
            };
            sum.log_moment += count * one.log_moment;
            sum.mean += count * one.mean;
            sum.variance += count * one.variance;
        }
        sum
    }

    /// Tilts beyond this are not tried: the lattice would grow and ε is then far below 1/σ.
    fn max_tilt(&self) -> f64 {
        2000.0 * self.parts.iter().map(|p| p.step.sigma).fold(1.0, f64::max)
    }

    /// The tilt λ ≥ 0 at which the estimate of δ(K′(λ)) equals `delta`; λ = 0 where δ is too large for any.
    pub(crate) fn guess(&self, delta: f64) -> Guess {
        let log_delta = |m: &Tilted, tilt: f64| {
            let s = m.variance.sqrt() * FRAC_1_SQRT_2;
            let gap = erfcx(tilt * s) - erfcx((tilt + 1.0) * s);
            m.log_moment - tilt * m.mean + (0.5 * gap.max(1e-300)).ln()
        };
        let target = delta.ln();
        let zero = self.moments(0.0);
        if log_delta(&zero, 0.0) <= target {
            return Guess { tilt: 0.0, epsilon: 0.0, moments: zero };
        }
        let (mut low, mut high) = (1e-4_f64.ln(), self.max_tilt().ln());
        for _ in 0..36 {
            let middle = 0.5 * (low + high);
            let tilt = middle.exp();
            if log_delta(&self.moments(tilt), tilt) > target { low = middle } else { high = middle }
        }
        let tilt = high.exp();
        let moments = self.moments(tilt);
        Guess { tilt, epsilon: moments.mean.max(0.0), moments }
    }

    /// The tilt λ ≥ 0 with K′(λ) = `epsilon`, which minimises e^{K−λε}; 0 where the untilted mean is already above.
    pub(crate) fn aim(&self, epsilon: f64) -> Guess {
        let zero = self.moments(0.0);
        if zero.mean >= epsilon {
            return Guess { tilt: 0.0, epsilon, moments: zero };
        }
        let (mut low, mut high) = (1e-4_f64.ln(), self.max_tilt().ln());
        for _ in 0..30 {
            let middle = 0.5 * (low + high);
            if self.moments(middle.exp()).mean < epsilon { low = middle } else { high = middle }
        }
        let tilt = low.exp();
        Guess { tilt, epsilon, moments: self.moments(tilt) }
    }

    /// (x, s) such that Chernoff's bound puts at most e^{log_eta} of the tilted mass above x (`upper`) or below it, with the
    /// exponent change s that shows it.
    pub(crate) fn tail(&self, guess: &Guess, log_eta: f64, upper: bool) -> (f64, f64) {
        let scale = (2.0 * -log_eta).sqrt() / guess.moments.variance.sqrt().max(1e-150);
        let sign = if upper { 1.0 } else { -1.0 };
        let mut best = (sign * f64::INFINITY, 0.0);
        for j in -14..=4 {
            let s = sign * scale * 2f64.powf(0.5 * f64::from(j));
            let moments = self.moments(guess.tilt + s);
            let x = (moments.log_moment - guess.moments.log_moment - log_eta) / s;
            if x.is_finite() && ((upper && x < best.0) || (!upper && x > best.0)) {
                best = (x, s);
            }
        }
        best
    }
}
