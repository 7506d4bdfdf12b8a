//! The connect-the-dots discretisation of one step's privacy loss.
//!
//! For a cell (εᵢ, εᵢ₊₁] with P-mass p and Q-mass r the two end points get masses a + b = p with a·e^{−εᵢ} + b·e^{−εᵢ₊₁} = r, so
//! b = ∫_cell (1 − e^{εᵢ−ℓ}) dP / (1 − e^{−h}). The discrete pair dominates the continuous one (Doroshenko et al. 2022, arXiv
//! 2207.04380, theorem 3.3: the same masses as their second differences of δ, here as an integral whose terms are all
//! non-negative, so that h may be as small as 1e-12 without cancellation). Its Q-masses are mᵢ·e^{−εᵢ}, hence the same
//! vector serves the opposite direction.

use super::moment::SubsampledGaussian;
use crate::special::ndtr;

/// P-masses on the grid ε = index·h, plus what lies beyond it.
#[derive(Clone, Debug)]
pub(crate) struct DiscreteLoss {
    /// Grid spacing.
    pub(crate) h: f64,
    /// Index of the first mass.
    pub(crate) first: i64,
    /// P-mass at each grid point.
    pub(crate) mass: Vec<f64>,
    /// Mass at loss +∞, a bound for either direction.
    pub(crate) infinite: f64,
}

const GAUSS_2: [(f64, f64); 2] = [(-0.577_350_269_189_625_8, 1.0), (0.577_350_269_189_625_8, 1.0)];
const GAUSS_5: [(f64, f64); 5] = [
    (-0.906_179_845_938_664, 0.236_926_885_056_189_1),
    (-0.538_469_310_105_683_1, 0.478_628_670_499_366_5),
    (0.0, 0.568_888_888_888_888_9),
    (0.538_469_310_105_683_1, 0.478_628_670_499_366_5),
    (0.906_179_845_938_664, 0.236_926_885_056_189_1),
];

/// The most cells one step may take; the caller coarsens h beyond it.
pub(crate) const MAX_CELLS: f64 = 2.0e6;

/// Discretises one step on spacing `h`, z cut to `bounds` = [`range`] of `tail`: at most `tail` of either side's mass goes to +∞.
///
/// Where little P-mass remains to the right, wider cells are used: still connect-the-dots, on fewer dots. With `steps` steps in all, a
/// tail of probability p may be √(p)⁻¹ times coarser before it adds as much error as the bulk, and one reached at most once may be
/// as coarse as a share of the loss itself.
/// Relative error of each mass below 1e-10; the total is rounded up to 1.
pub(crate) fn discretise(step: &SubsampledGaussian, h: f64, bounds: (f64, f64), tail: f64, steps: f64) -> DiscreteLoss {
    let (z_low, z_high) = bounds;
    let first = (step.loss(z_low) / h).floor() as i64;
    let last = ((step.loss(z_high) / h).ceil() as i64).max(first + 1);
    let mut mass = vec![0.0; (last - first + 1) as usize];
    let norm = 1.0 / (step.sigma * (2.0 * std::f64::consts::PI).sqrt());
    let (mut left, mut cell, mut width, mut review) = (z_low, first, 1, first);
    while cell < last && left < z_high {
        if cell >= review {
            width = cell_width(tail_of_p(step, left), steps, cell).min(last - cell);
            review = cell + 64 * width;
        }
        width = width.min(last - cell);
        let right = step.inverse_loss((cell + width) as f64 * h).clamp(left, z_high);
        let (p, b) = integrate(step, cell as f64 * h, left, right);
        let at = (cell - first) as usize;
        let upper = (b * norm / -(-(h * width as f64)).exp_m1()).min(p * norm);
        mass[at] += p * norm - upper;
        mass[at + width as usize] += upper;
        left = right;
        cell += width;
    }
    while mass.len() > 2 && mass.last() == Some(&0.0) {
        mass.pop();
    }
    // The P-mass below the range moves to the first grid point at or above its supremum: upwards.
    mass[1] += (1.0 - step.q) * ndtr(z_low / step.sigma) + step.q * ndtr((z_low - 1.0) / step.sigma);
    let total: f64 = mass.iter().sum::<f64>() + tail;
    if total < 1.0 {
        for m in &mut mass {
            *m /= total;
        }
    }
    DiscreteLoss { h, first, mass, infinite: tail }
}

/// Grid steps per cell at grid index `cell`, beyond which P has mass `beyond`.
fn cell_width(beyond: f64, steps: f64, cell: i64) -> i64 {
    let thin = (0.25 / beyond.sqrt()).min(64.0).min(steps.sqrt() / 8.0);
    let rare = if beyond * steps < 0.5 { (0.003 * cell as f64).min(4096.0) } else { 1.0 };
    thin.max(rare).max(1.0) as i64
}

/// How many cells [`discretise`] would make.
pub(crate) fn cells(step: &SubsampledGaussian, h: f64, bounds: (f64, f64)) -> f64 {
    (step.loss(bounds.1) - step.loss(bounds.0)) / h + 2.0
}

/// P(z > x).
fn tail_of_p(step: &SubsampledGaussian, x: f64) -> f64 {
    (1.0 - step.q) * ndtr(-x / step.sigma) + step.q * ndtr((1.0 - x) / step.sigma)
}

/// The z outside which P (above) and Q (below) have mass at most `tail` each; P ≤ Q below, so both sides of the claim are covered.
pub(crate) fn range(step: &SubsampledGaussian, tail: f64) -> (f64, f64) {
    let reach = (-2.0 * tail.ln()).sqrt() * step.sigma;
    let (mut low, mut high) = (0.5, 1.0 + reach);
    for _ in 0..50 {
        let middle = 0.5 * (low + high);
        if tail_of_p(step, middle) > tail { low = middle } else { high = middle }
    }
    (-reach, high)
}

/// ∫ dP and ∫ (1 − e^{ε−ℓ}) dP over (left, right), both without the factor 1/(σ√2π).
fn integrate(step: &SubsampledGaussian, epsilon: f64, left: f64, right: f64) -> (f64, f64) {
    let inverse = 1.0 / step.sigma;
    let (mut p, mut b) = (0.0, 0.0);
    let mut from = left;
    while from < right {
        let steepness = (from.abs() * inverse).max(1.0);
        let to = right.min(from + step.sigma * 0.25_f64.min(1.0 / steepness));
        let narrow = (to - from) * inverse * steepness < 0.02;
        let rule: &[(f64, f64)] = if narrow { &GAUSS_2 } else { &GAUSS_5 };
        let (centre, half) = (0.5 * (from + to), 0.5 * (to - from));
        if half <= 0.0 {
            break;
        }
        for (node, weight) in rule {
            let z = centre + half * node;
            let loss = step.loss(z);
            let density = weight * half * (loss - 0.5 * z * z * inverse * inverse).exp();
            p += density;
            b += density * (-(epsilon - loss).exp_m1()).max(0.0);
        }
        from = to;
    }
    (p, b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// δ(ε) of one step in closed form (both directions).
    fn closed_form(q: f64, sigma: f64, epsilon: f64) -> (f64, f64) {
        let step = SubsampledGaussian::new(q, sigma);
        let x = step.inverse_loss(epsilon);
        let remove = (1.0 - q) * ndtr(-x / sigma) + q * ndtr((1.0 - x) / sigma) - epsilon.exp() * ndtr(-x / sigma);
        let y = step.inverse_loss(-epsilon);
        let add = ndtr(y / sigma) - epsilon.exp() * ((1.0 - q) * ndtr(y / sigma) + q * ndtr((y - 1.0) / sigma));
        (remove, add)
    }

    #[test]
    fn discrete_pair_dominates_and_meets_the_curve_at_grid_points() {
        for (q, sigma, h) in [(0.01, 1.0, 1e-3), (0.3, 0.5, 1e-2), (0.9, 5.0, 1e-4), (1e-4, 0.4, 1e-3)] {
            for steps in [1.0, 1e6] {
                let step = SubsampledGaussian::new(q, sigma);
                let d = discretise(&step, h, range(&step, 1e-30), 1e-30, steps);
                assert!((d.mass.iter().sum::<f64>() - 1.0).abs() < 1e-9);
                for k in 0..12 {
                    let index = (d.first.abs() / 8).max(3) * k / 4;
                    let epsilon = index as f64 * h;
                    let (mut remove, mut add) = (d.infinite, d.infinite);
                    for (i, m) in d.mass.iter().enumerate() {
                        let at = (d.first + i as i64) as f64 * h;
                        remove += m * (-(epsilon - at).exp_m1()).max(0.0);
                        add += m * (-at).exp() * (-(epsilon + at).exp_m1()).max(0.0);
                    }
                    let (want_remove, want_add) = closed_form(q, sigma, epsilon);
                    let case =
                        format!("q={q} sigma={sigma} eps={epsilon} steps={steps}: {remove} {want_remove} {add} {want_add}");
                    assert!(remove > want_remove * (1.0 - 1e-9) - 1e-14 && add > want_add * (1.0 - 1e-9) - 1e-14, "{case}");
                    if index < 300 && epsilon < 0.3 {
                        assert!((remove - want_remove).abs() < 1e-12 + 1e-4 * want_remove, "{case}");
                        assert!((add - want_add).abs() < 1e-12 + 1e-4 * want_add, "{case}");
                    }
                }
            }
        }
    }
}
