//! The privacy-random-variable accountant (Gopi, Lee and Wutschitz 2021, arXiv 2106.02848): an independent cross-check.
//!
//! The loss Y is truncated to [−L, L], rounded to the nearest multiple of h, shifted so that its mean is exact, and composed by an
//! untilted transform. With h = ε_err·(T/2·ln(12/δ_err))^{−1/2} their theorem 5.5 gives
//! δ_Y(ε + ε_err) − δ_err ≤ δ_Ỹ(ε) ≤ δ_Y(ε − ε_err) + δ_err, hence both a lower and an upper bound on ε.
//!
//! Only the quadrature of the mean and the tail bound that picks L are shared with the other accountants. Where the grid would exceed
//! 2¹⁹ points ε_err is raised instead, so the interval may be wide; round-off is added to δ_err, so below δ ≈ T·10⁻¹⁵ the upper end
//! is the RDP bound.

use super::moment::{EVERYWHERE, SubsampledGaussian};
use super::spa::{Composition, Direction, Guess, Part};
use super::{AccountantError, Segment};
use crate::budget::Delta;
use crate::special::ndtr;
use realfft::RealFftPlanner;
use realfft::num_complex::Complex;
use serde::{Deserialize, Serialize};

const MAX_GRID: f64 = (1 << 19) as f64;

/// Certified interval and estimate of ε.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrvEpsilon {
    /// No smaller ε holds.
    pub lower: f64,
    /// The curve's own value.
    pub estimate: f64,
    /// This ε holds.
    pub upper: f64,
}

/// The interval at `delta`; `fallback` is a valid upper bound (RDP) used where this method has none.
pub fn epsilon(segments: &[Segment], delta: Delta, fallback: f64) -> Result<PrvEpsilon, AccountantError> {
    super::check(segments)?;
    let (mut list, mu) = super::normalise(segments);
    if mu > 0.0 {
        list.push((1.0, 1.0 / mu, 1));
    }
    let parts: Vec<_> = list
        .iter()
        .map(|&(q, sigma, n)| Part { step: SubsampledGaussian::new(q, sigma), count: n as f64, bounds: EVERYWHERE })
        .collect();
    let mut worst = PrvEpsilon { lower: 0.0, estimate: 0.0, upper: 0.0 };
    for direction in [Direction::Remove, Direction::Add] {
        let composition = Composition { parts: parts.clone(), direction };
        let side = one_side(&composition, delta.get(), fallback);
        worst.lower = worst.lower.max(side.lower);
        worst.estimate = worst.estimate.max(side.estimate);
        worst.upper = worst.upper.max(side.upper);
    }
    worst.upper = worst.upper.min(fallback);
    worst.estimate = worst.estimate.clamp(worst.lower.min(worst.upper), worst.upper);
    Ok(worst)
}

fn one_side(composition: &Composition, delta: f64, fallback: f64) -> PrvEpsilon {
    let steps: f64 = composition.parts.iter().map(|p| p.count).sum();
    let delta_err = delta * 1e-3;
    let spread = (0.5 * steps * (12.0 / delta_err).ln()).sqrt();
    let mut epsilon_err = (0.005 * fallback).clamp(1e-5, 0.01);
    let untilted = Guess { tilt: 0.0, epsilon: 0.0, moments: composition.moments(0.0) };
    let log_eta = (delta_err / 8.0).ln();
    let high = composition.tail(&untilted, log_eta, true).0;
    let low = composition.tail(&untilted, log_eta, false).0;
    let limit = high.abs().max(low.abs()) + 2.0 * epsilon_err;
    epsilon_err = epsilon_err.max(2.0 * limit / MAX_GRID * spread);
    let n = ((2.0 * limit * spread / epsilon_err).ceil() as usize).next_power_of_two().max(256);
    let h = 2.0 * limit / n as f64;
    let round_off = f64::EPSILON * (n as f64).log2() * (steps + 8.0);
    let (composed, shift) = compose(composition, n, h);
    let curve = |target: f64| solve(&composed, h, shift, target);
    let slack = delta_err + round_off;
    let lower = (curve(delta + slack) - epsilon_err).max(0.0);
    let upper = if slack < delta { (curve(delta - slack) + epsilon_err).max(0.0) } else { fallback };
    PrvEpsilon { lower, estimate: curve(delta).max(0.0), upper }
}

/// Φ(b) − Φ(a) for a ≤ b from the side where both tails are small; narrow cells by Simpson's rule, whose relative
/// error there is below (b − a)⁴·(1 + |a|)⁴/2880 < 1e-11.
fn between(a: f64, b: f64) -> f64 {
    let width = b - a;
    if width * (1.0 + a.abs().max(b.abs())) < 0.01 {
        let density = |x: f64| (-0.5 * x * x).exp();
        let middle = 0.5 * (a + b);
        return width / 6.0 * (density(a) + 4.0 * density(middle) + density(b)) / (2.0 * std::f64::consts::PI).sqrt();
    }
    if a > 0.0 { ndtr(-a) - ndtr(-b) } else { ndtr(b) - ndtr(a) }
}

/// The masses of consecutive cells of one step in the given direction.
struct Cells<'a> {
    step: &'a SubsampledGaussian,
    direction: Direction,
    /// z/σ at the last boundary.
    at: f64,
}

impl<'a> Cells<'a> {
    fn new(step: &'a SubsampledGaussian, direction: Direction, from: f64) -> Self {
        let mut cells = Self { step, direction, at: 0.0 };
        cells.at = cells.boundary(from);
        cells
    }

    fn boundary(&self, loss: f64) -> f64 {
        let loss = if self.direction == Direction::Remove { loss } else { -loss };
        self.step.inverse_loss(loss) / self.step.sigma
    }

    /// P(last boundary < loss ≤ to).
    fn next(&mut self, to: f64) -> f64 {
        let (a, b) = (self.at, self.boundary(to));
        self.at = b;
        let shift = 1.0 / self.step.sigma;
        match self.direction {
            Direction::Remove => (1.0 - self.step.q) * between(a, b) + self.step.q * between(a - shift, b - shift),
            Direction::Add => between(b, a),
        }
    }
}

/// The composed masses, index i at loss (i − n/2)·h + the returned offset.
///
/// Before its mean is corrected the sum of T rounded losses may lie T·h/2 away from the true one, so the cyclic window is unrolled around
/// the corrected mean.
fn compose(composition: &Composition, n: usize, h: f64) -> (Vec<f64>, f64) {
    let half = (n / 2) as i64;
    let mut planner = RealFftPlanner::<f64>::new();
    let forward = planner.plan_fft_forward(n);
    let mut product = forward.make_output_vec();
    product.fill(1.0.into());
    let mut shift = 0.0;
    for Part { step, count, .. } in &composition.parts {
        let (a, b) = (step.loss(-13.0 * step.sigma), step.loss(1.0 + 13.0 * step.sigma));
        let (from, to) = if composition.direction == Direction::Remove { (a, b) } else { (-b, -a) };
        let first = ((from / h).floor() as i64).max(1 - half);
        let last = ((to / h).ceil() as i64).min(half - 1);
        let mut grid = vec![0.0; n];
        let (mut total, mut mean) = (0.0, 0.0);
        let mut cells = Cells::new(step, composition.direction, (first as f64 - 0.5) * h);
        for i in first..=last {
            let centre = i as f64 * h;
            let mass = cells.next(centre + 0.5 * h).max(0.0);
            grid[i.rem_euclid(n as i64) as usize] = mass;
            total += mass;
            mean += mass * centre;
        }
        for m in &mut grid {
            *m /= total;
        }
        let exact = match composition.direction {
            Direction::Remove => step.tilted(1.0, EVERYWHERE).mean,
            Direction::Add => -step.tilted(0.0, EVERYWHERE).mean,
        };
        shift += count * (exact - mean / total);
        let mut spectrum = forward.make_output_vec();
        forward.process(&mut grid, &mut spectrum).expect("buffers come from the plan");
        for (p, value) in product.iter_mut().zip(&spectrum) {
            let log_norm = 0.5 * value.norm_sqr().ln() * count;
            *p *= if log_norm > -80.0 {
                Complex::from_polar(log_norm.exp(), (value.arg() * count) % std::f64::consts::TAU)
            } else {
                Complex::new(0.0, 0.0)
            };
        }
    }
    product[0].im = 0.0;
    product[n / 2].im = 0.0;
    let inverse = planner.plan_fft_inverse(n);
    let mut cyclic = inverse.make_output_vec();
    inverse.process(&mut product, &mut cyclic).expect("buffers come from the plan");
    let turns = (shift / h).round();
    let first = -half - turns as i64;
    let centred = (0..n as i64).map(|i| cyclic[(first + i).rem_euclid(n as i64) as usize] / n as f64).collect();
    (centred, shift - turns * h)
}

/// The ε (possibly negative) at which Σ_{y>ε}(1 − e^{ε−y})·m = target.
fn solve(composed: &[f64], h: f64, shift: f64, target: f64) -> f64 {
    let half = (composed.len() / 2) as i64;
    let decay = (-h).exp();
    let (mut above, mut weighted) = (0.0_f64, 0.0_f64);
    for (i, mass) in composed.iter().enumerate().rev() {
        let at = (i as i64 - half) as f64 * h + shift;
        weighted *= decay;
        if above - weighted > target {
            return at + ((above - target) / weighted).ln().clamp(0.0, h);
        }
        above += mass;
        weighted += mass;
    }
    -half as f64 * h + shift
}
