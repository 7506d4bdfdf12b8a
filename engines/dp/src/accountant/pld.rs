//! Privacy-loss distributions: the accountant that claims are made with.
//!
//! Each step's loss is put on a grid of spacing h by connect-the-dots (an upper bound on δ at every ε), segments are composed by
//! raising discrete Fourier transforms to powers, and ε is read off the composed hockey-stick curve
//! δ(ε) = m_∞ + Σ_{εᵢ>ε} (1 − e^{ε−εᵢ})·mᵢ, in both directions. The grid is halved until its error in ε is below 10⁻⁴ of ε.
//!
//! Two things differ from the published implementations. The masses are tilted by e^{λε} before the transform, λ near the
//! saddle point (Koskela, Jälkö and Honkela 2020 compose untilted): what is computed is then of the order of δ itself, so round-off is relative to
//! δ and δ = 10⁻¹² or 10⁻³⁰ needs no special care. And h starts from the size of the method's own error: connect-the-dots adds about h²/6 to
//! each step's variance and h²/12 to its mean, which moves ε by T·h²(λ+1)/12.
//!
//! Every approximation is upwards: the grid, the mass beyond the single-step range (at +∞), the composed mass above the window
//! (Chernoff bound on the discrete measure, added to δ), mass below the window (wraps to the top), and an allowance for round-off.

use super::moment::SubsampledGaussian;
use super::single_step::{self, DiscreteLoss};
use super::spa::{Composition, Direction, Guess, Part};
use super::{AccountantError, Segment};
use crate::budget::Delta;
use realfft::RealFftPlanner;
use realfft::num_complex::Complex;
use std::f64::consts::FRAC_1_SQRT_2;

/// Relative discretisation error of ε at which halving stops (a halving that moves ε by m leaves an error near m/3).
const TOLERANCE: f64 = 1e-4;
/// Longest transform.
const MAX_GRID: usize = 1 << 21;
/// ln of the share of δ that mass outside the window may add by wrapping around.
const LOG_SHARE: f64 = -16.0;

/// The upper bound on ε at `delta` (larger of both directions).
pub fn epsilon(segments: &[Segment], delta: Delta) -> Result<f64, AccountantError> {
    super::check(segments)?;
    if total_variation(segments) <= delta.get() {
        return Ok(0.0);
    }
    match parts(segments, delta.get()) {
        Parts::Gaussian(mu) => Ok(super::gaussian::epsilon(mu, delta.get())),
        Parts::Sampled(parts) => Problem::new(parts, delta.get()).solve(),
    }
}

/// An upper bound on δ(0): the sum of the steps' total variations q·(2Φ(1/2σ) − 1).
fn total_variation(segments: &[Segment]) -> f64 {
    let one = |s: &Segment| s.steps.get() as f64 * s.q.get() * libm::erf(0.5 * FRAC_1_SQRT_2 / s.sigma.get());
    segments.iter().map(one).sum::<f64>() * (1.0 + 1e-12)
}

/// A fast estimate of ε (no bound): the larger saddle-point guess. Used to seed searches.
pub(crate) fn estimate(segments: &[Segment], delta: f64) -> f64 {
    match parts(segments, delta) {
        Parts::Gaussian(mu) => super::gaussian::epsilon(mu, delta),
        Parts::Sampled(parts) => {
            let both = [Direction::Remove, Direction::Add];
            let guess = |direction| Composition { parts: parts.clone(), direction }.guess(delta).epsilon;
            both.map(guess).into_iter().fold(0.0, f64::max)
        }
    }
}

enum Parts {
    Gaussian(f64),
    Sampled(Vec<Part>),
}

/// Share of δ that the single steps' cut tails may take in all.
const TAIL_SHARE: f64 = 1e-6;

fn parts(segments: &[Segment], delta: f64) -> Parts {
    let (mut list, mu) = super::normalise(segments);
    if list.is_empty() {
        return Parts::Gaussian(mu);
    }
    if mu > 0.0 {
        list.push((1.0, 1.0 / mu, 1));
    }
    let steps: f64 = list.iter().map(|(_, _, n)| *n as f64).sum();
    let part = |&(q, sigma, n): &(f64, f64, u64)| {
        let step = SubsampledGaussian::new(q, sigma);
        Part { step, count: n as f64, bounds: single_step::range(&step, delta * TAIL_SHARE / steps) }
    };
    Parts::Sampled(list.iter().map(part).collect())
}

struct Problem {
    parts: Vec<Part>,
    delta: f64,
    steps: f64,
    sides: [Side; 2],
}

/// One direction with its current tilt and the window that holds all tilted mass that matters at δ.
#[derive(Clone)]
struct Side {
    composition: Composition,
    guess: Guess,
    low: f64,
    high: f64,
    /// The exponent change in Chernoff's bound at `high`.
    shift: f64,
}

impl Side {
    fn new(composition: Composition, guess: Guess, delta: f64) -> Self {
        let log_room = delta.ln() - (guess.moments.log_moment - guess.tilt * guess.epsilon);
        let (high, shift) = composition.tail(&guess, LOG_SHARE + log_room.min(0.0), true);
        // Mass below the window reappears at its top, where a unit of tilted mass weighs e^{−λ·(high − ε)} of what it weighs at ε.
        let discount = guess.tilt * (high - guess.epsilon).max(0.0);
        let (low, _) = composition.tail(&guess, (LOG_SHARE + log_room.min(0.0) + discount).min(-8.0), false);
        Self { composition, guess, low, high, shift }
    }

    /// The tilt of the guess, or a smaller one where that narrows the window: rare large losses, blown up by the tilt, would
    /// otherwise stretch it. Tilts whose round-off would exceed 10⁻⁴ of δ are not considered.
    fn narrowest(composition: Composition, guess: Guess, delta: f64, steps: f64) -> Self {
        let mut best = Self::new(composition, guess, delta);
        if best.high - best.low < 20.0 * guess.moments.variance.sqrt() {
            return best;
        }
        let limit = (1e-4 / round_off(steps)).ln() + delta.ln();
        for factor in [0.8, 0.65, 0.5, 0.4, 0.3] {
            let tilt = factor * guess.tilt;
            let moments = best.composition.moments(tilt);
            if moments.log_moment - tilt * guess.epsilon > limit {
                break;
            }
            let lower = Self::new(best.composition.clone(), Guess { tilt, epsilon: guess.epsilon, moments }, delta);
            if lower.high - lower.low < 0.9 * (best.high - best.low) {
                best = lower;
            }
        }
        best
    }

    fn aimed(&self, epsilon: f64, delta: f64, steps: f64) -> Self {
        Self::narrowest(self.composition.clone(), self.composition.aim(epsilon), delta, steps)
    }

    fn tilted(&self, tilt: f64, delta: f64) -> Self {
        let moments = self.composition.moments(tilt);
        let guess = Guess { tilt, epsilon: moments.mean.max(0.0), moments };
        Self::new(self.composition.clone(), guess, delta)
    }
}

enum Reading {
    Epsilon(f64),
    BelowWindow(f64),
    NoRoom,
}

impl Problem {
    fn new(parts: Vec<Part>, delta: f64) -> Self {
        let steps: f64 = parts.iter().map(|p| p.count).sum();
        let sides = [Direction::Remove, Direction::Add].map(|direction| {
            let composition = Composition { parts: parts.clone(), direction };
            let guess = composition.guess(delta);
            Side::narrowest(composition, guess, delta, steps)
        });
        Self { parts, delta, steps, sides }
    }

    fn solve(mut self) -> Result<f64, AccountantError> {
        let scale = self.sides.iter().map(|s| s.guess.epsilon.max(0.02 * s.guess.moments.variance.sqrt())).fold(0.0, f64::max);
        let steepest = self.sides.iter().map(|s| 1.0 + s.guess.tilt).fold(1.0, f64::max);
        // Eight times the tolerance at the first grid, as halving divides the error by four.
        let mut h =
            self.affordable((12.0 * 8.0 * TOLERANCE * scale / (self.steps * steepest)).sqrt().min(0.02).min(0.25 / steepest));
        let (mut best, mut found) = (f64::INFINITY, [f64::INFINITY; 2]);
        for round in 0..10 {
            found = self.at_spacing(h, found)?;
            let worst = found[0].max(found[1]);
            let moved = (best - worst).abs();
            best = best.min(worst);
            if worst == 0.0 || moved <= 2.0 * TOLERANCE * worst.max(0.02 * scale.min(worst.mul_add(100.0, 1e-9))) {
                break;
            }
            if round < 3 {
                for (side, epsilon) in self.sides.iter_mut().zip(found) {
                    if (side.guess.epsilon - epsilon).abs() > 0.03 * epsilon {
                        *side = side.aimed(epsilon, self.delta, self.steps);
                    }
                }
            }
            let next = self.affordable(0.5 * h);
            if next > 0.9 * h {
                break;
            }
            h = next;
        }
        Ok(best)
    }

    /// The smallest spacing at or above `h` whose vectors stay within the size limits.
    fn affordable(&self, mut h: f64) -> f64 {
        for part in &self.parts {
            h = h.max(h * single_step::cells(&part.step, h, part.bounds) / single_step::MAX_CELLS);
        }
        for side in &self.sides {
            h = h.max((side.high - side.low) / (MAX_GRID as f64 * 0.98));
        }
        h
    }

    /// ε of both directions on the grid of spacing `h`. A direction whose bound `known` from a coarser grid is already the smaller
    /// one keeps that bound.
    fn at_spacing(&mut self, h: f64, known: [f64; 2]) -> Result<[f64; 2], AccountantError> {
        let tail = self.delta * TAIL_SHARE / self.steps;
        let losses: Vec<DiscreteLoss> =
            self.parts.iter().map(|p| single_step::discretise(&p.step, h, p.bounds, tail, self.steps)).collect();
        let mut found = known;
        let first = usize::from(known[1] > known[0]);
        for index in [first, 1 - first] {
            if found[index].is_infinite() || found[index] >= found[1 - index] {
                found[index] = self.one_side(index, &losses)?;
            }
        }
        Ok(found)
    }

    fn one_side(&mut self, index: usize, losses: &[DiscreteLoss]) -> Result<f64, AccountantError> {
        for attempt in 0..8 {
            let side = &self.sides[index];
            let tilt = side.guess.tilt;
            let next = match self.read(side, losses) {
                Reading::Epsilon(value) => return Ok(value * (1.0 + 1e-12)),
                // ε lies left of what this tilt resolves: tilt less.
                Reading::BelowWindow(_) if tilt > 0.0 => {
                    if attempt >= 5 {
                        0.0
                    } else {
                        0.4 * tilt
                    }
                }
                Reading::BelowWindow(bottom) => return Ok(bottom.max(0.0)),
                Reading::NoRoom => break,
            };
            self.sides[index] = side.tilted(next, self.delta);
        }
        Err(AccountantError::Diverged { accountant: "pld" })
    }

    fn read(&self, side: &Side, losses: &[DiscreteLoss]) -> Reading {
        let (h, direction, tilt) = (losses[0].h, side.composition.direction, side.guess.tilt);
        let counts: Vec<u64> = self.parts.iter().map(|p| p.count as u64).collect();
        let tilted: Vec<TiltedMass> = losses.iter().map(|loss| TiltedMass::new(loss, direction, tilt)).collect();
        let log_moment: f64 = tilted.iter().zip(&counts).map(|(t, n)| *n as f64 * t.log_total).sum();
        // Chernoff on the discrete measure: untilted mass above `high` is at most e^{K(λ+s) − (λ+s)·high}; `high` makes that 10⁻⁷·δ.
        let steep = tilt + side.shift;
        let log_total: f64 = losses.iter().zip(&counts).map(|(l, n)| *n as f64 * TiltedMass::log_sum(l, direction, steep)).sum();
        let above_share = 1e-7_f64;
        let high = side.high.max((log_total - (self.delta * above_share).ln()) / steep);
        let infinite: f64 = losses.iter().zip(&counts).map(|(l, n)| l.infinite * *n as f64).sum();
        let composed = compose(&tilted, &counts, ((high - side.low) / h).ceil() as usize + 4);
        let start = (side.low / h).floor() as i64 - 1;
        Curve { h, start, tilt, log_moment, steps: self.steps }.read(&composed, self.delta * (1.0 - above_share) - infinite)
    }
}

/// One step's masses times e^{λ·loss}, normalised; on the grid of the direction's own loss.
struct TiltedMass {
    first: i64,
    mass: Vec<f64>,
    log_total: f64,
}

/// The loss index of grid position `i` and ln of the direction's mass there, without ln m.
fn exponent(loss: &DiscreteLoss, direction: Direction, tilt: f64, i: usize) -> f64 {
    let at = (loss.first + i as i64) as f64 * loss.h;
    match direction {
        Direction::Remove => tilt * at,
        Direction::Add => -(1.0 + tilt) * at,
    }
}

impl TiltedMass {
    fn top(loss: &DiscreteLoss, direction: Direction, tilt: f64) -> f64 {
        let terms = loss.mass.iter().enumerate().filter(|(_, m)| **m > 0.0);
        terms.map(|(i, m)| exponent(loss, direction, tilt, i) + m.ln()).fold(f64::NEG_INFINITY, f64::max)
    }

    fn log_sum(loss: &DiscreteLoss, direction: Direction, tilt: f64) -> f64 {
        let top = Self::top(loss, direction, tilt);
        let sum: f64 = loss
            .mass
            .iter()
            .enumerate()
            .filter(|(_, m)| **m > 0.0)
            .map(|(i, m)| (exponent(loss, direction, tilt, i) + m.ln() - top).exp())
            .sum();
        top + sum.ln()
    }

    fn new(loss: &DiscreteLoss, direction: Direction, tilt: f64) -> Self {
        let top = Self::top(loss, direction, tilt);
        let mut mass: Vec<f64> = loss
            .mass
            .iter()
            .enumerate()
            .map(|(i, m)| if *m > 0.0 { (exponent(loss, direction, tilt, i) + m.ln() - top).exp() } else { 0.0 })
            .collect();
        let sum: f64 = mass.iter().sum();
        for m in &mut mass {
            *m /= sum;
        }
        let mut first = loss.first;
        if direction == Direction::Add {
            first = -(loss.first + loss.mass.len() as i64 - 1);
            mass.reverse();
        }
        Self { first, mass, log_total: top + sum.ln() }
    }
}

/// The smallest convenient transform length at or above `needed`.
fn transform_length(needed: usize) -> usize {
    let mut best = needed.next_power_of_two().max(64);
    for factor in [3, 5, 9, 15] {
        let length = factor * needed.div_ceil(factor).next_power_of_two();
        if length >= needed && length < best && length % 2 == 0 {
            best = length;
        }
    }
    best
}

/// The composed masses on the cyclic grid of the returned length.
fn compose(tilted: &[TiltedMass], counts: &[u64], needed: usize) -> Vec<f64> {
    let n = transform_length(needed);
    let mut planner = RealFftPlanner::<f64>::new();
    let forward = planner.plan_fft_forward(n);
    let mut product: Vec<Complex<f64>> = Vec::new();
    for (one, count) in tilted.iter().zip(counts) {
        let mut grid = vec![0.0; n];
        for (i, m) in one.mass.iter().enumerate() {
            grid[(one.first + i as i64).rem_euclid(n as i64) as usize] += m;
        }
        let mut spectrum = forward.make_output_vec();
        forward.process(&mut grid, &mut spectrum).expect("buffers come from the plan");
        for value in &mut spectrum {
            *value = power(*value, *count);
        }
        if product.is_empty() {
            product = spectrum;
        } else {
            for (a, b) in product.iter_mut().zip(&spectrum) {
                *a *= b;
            }
        }
    }
    product[0].im = 0.0;
    if let Some(last) = product.last_mut() {
        last.im = 0.0;
    }
    let inverse = planner.plan_fft_inverse(n);
    let mut composed = inverse.make_output_vec();
    inverse.process(&mut product, &mut composed).expect("buffers come from the plan");
    let scale = 1.0 / n as f64;
    for value in &mut composed {
        *value = (*value * scale).max(0.0);
    }
    composed
}

/// zⁿ; 0 where it would be below e^{−80}.
fn power(z: Complex<f64>, n: u64) -> Complex<f64> {
    if n == 1 {
        return z;
    }
    let log_norm = 0.5 * z.norm_sqr().ln() * n as f64;
    if log_norm < -80.0 {
        return Complex::new(0.0, 0.0);
    }
    let (mut base, mut left, mut result) = (z, n, Complex::new(1.0, 0.0));
    while left > 0 {
        if left & 1 == 1 {
            result *= base;
        }
        base = base * base;
        left >>= 1;
    }
    result
}

/// Allowance for round-off, as a share of the tilted mass: a spectrum's relative error of 2⁻⁵² grows T-fold in the power. (The errors of
/// different frequencies are independent, so what reaches a tail sum is smaller by orders.)
fn round_off(steps: f64) -> f64 {
    2.0 * f64::EPSILON * (steps + 32.0)
}

/// How composed tilted masses read as a hockey-stick curve.
struct Curve {
    h: f64,
    start: i64,
    tilt: f64,
    log_moment: f64,
    steps: f64,
}

impl Curve {
    /// The smallest ε ≥ 0 at which the curve is at most `room`.
    fn read(&self, composed: &[f64], room: f64) -> Reading {
        if room <= 0.0 {
            return Reading::NoRoom;
        }
        let n = composed.len() as i64;
        let round_off = round_off(self.steps);
        let (mut above, mut weighted) = (0.0_f64, 0.0_f64);
        // `weighted` is Σ c·e^{ε_k − ε_j}: rescaled at every step so that it never overflows.
        let decay = (-self.h).exp();
        for k in (self.start.max(-1)..self.start + n).rev() {
            let at = k as f64 * self.h;
            let factor = (self.log_moment - self.tilt * at).exp();
            let slack = round_off * factor;
            weighted *= decay;
            if above - weighted + slack > room {
                // δ falls through `room` in (at, at + h]: solve above + slack − e^{x}·weighted = room for x in [0, h].
                let x = ((above + slack - room) / weighted).ln().clamp(0.0, self.h);
                return Reading::Epsilon((at + x).max(0.0));
            }
            if at <= 0.0 {
                return Reading::Epsilon(0.0);
            }
            let c = composed[k.rem_euclid(n) as usize] * factor;
            above += c;
            weighted += c;
        }
        Reading::BelowWindow(self.start as f64 * self.h)
    }
}
