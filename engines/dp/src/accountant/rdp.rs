//! Rényi differential privacy of Poisson-subsampled Gaussian steps, and its conversion to (ε, δ).
//!
//! Per step ρ(α) = ln A(α)/(α−1) with A(α) = E_Q[L^α] (Mironov, Talwar and Zhang 2019, arXiv 1908.10530: for this mechanism the
//! direction P‖Q dominates at every order). Steps add: ρ_total = Σ Tₖ·ρₖ(α). Integer orders up to 1024 use the binomial sum, all others
//! quadrature, so there is no series to diverge (the two-sided erfc series of the published accountants does at q = 0.1, σ = 0.5).
//! Results are rounded up by 2⁻⁴⁰ relative, far above the arithmetic's error.

use super::moment::SubsampledGaussian;
use super::{AccountantError, Segment};
use crate::budget::{BudgetError, Delta, NoiseMultiplier, SamplingRate};

const UPWARDS: f64 = 1.0 + 1.0 / (1u64 << 40) as f64;

/// An ε by RDP and the order that attains it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RdpEpsilon {
    /// Upper bound on ε at the asked δ.
    pub epsilon: f64,
    /// The Rényi order α that attains it.
    pub order: f64,
}

/// RDP of one step at order α > 1 (relative error below 1e-9, rounded up).
pub fn rdp_step(q: SamplingRate, sigma: NoiseMultiplier, order: f64) -> Result<f64, AccountantError> {
    if !(order > 1.0 && order <= 1e6) {
        return Err(AccountantError::Budget(BudgetError {
            field: "order",
            value: order,
            fix: "give a Rényi order above 1 and at most 1e6",
        }));
    }
    super::check_sigma(sigma.get())?;
    Ok(per_step(q.get(), sigma.get(), order))
}

fn per_step(q: f64, sigma: f64, order: f64) -> f64 {
    if q == 1.0 {
        return order / (2.0 * sigma * sigma) * UPWARDS;
    }
    let step = SubsampledGaussian::new(q, sigma);
    let log_moment = if order.fract() == 0.0 && (2.0..=1024.0).contains(&order) {
        step.log_moment_integer(order as u32)
    } else {
        step.log_moment(order)
    };
    log_moment / (order - 1.0) * UPWARDS
}

/// ρ(α) of the whole list of segments.
fn total(segments: &[Segment], order: f64) -> f64 {
    segments.iter().map(|s| s.steps.get() as f64 * per_step(s.q.get(), s.sigma.get(), order)).sum()
}

/// ε from an (α, ρ) pair: ρ + ln(1−1/α) − ln(δα)/(α−1), and 0 where δ² > 1 − e^{−ρ}.
///
/// Source: Canonne, Kamath and Steinke 2020, proposition 12; the zero rule is Bretagnolle–Huber: TV² ≤ 1 − e^{−KL} ≤ 1 − e^{−ρ}.
fn convert(rho: f64, order: f64, delta: f64) -> f64 {
    if delta * delta + (-rho).exp_m1() > 0.0 {
        return 0.0;
    }
    let epsilon = rho + (-1.0 / order).ln_1p() - (delta * order).ln() / (order - 1.0);
    (epsilon.max(0.0)) * UPWARDS
}

/// The smallest ε over orders 1.012 to 10⁵: a geometric grid in α − 1, then golden-section refinement around its best point.
pub fn epsilon(segments: &[Segment], delta: Delta) -> Result<RdpEpsilon, AccountantError> {
    super::check(segments)?;
    let at = |log_excess: f64| {
        let order = 1.0 + log_excess.exp();
        let value = convert(total(segments, order), order, delta.get());
        RdpEpsilon { epsilon: if value.is_nan() { f64::INFINITY } else { value }, order }
    };
    let (from, to, points) = (0.012_f64.ln(), 1e5_f64.ln(), 64);
    let width = (to - from) / f64::from(points - 1);
    let mut best = at(from);
    let mut centre = from;
    for k in 1..points {
        let x = from + width * f64::from(k);
        let found = at(x);
        // ρ(α) never decreases, so once it alone exceeds the best ε no larger order with δα < 1 can win.
        if best.epsilon.is_finite() && found.order * delta.get() < 1.0 && found.epsilon > 4.0 * best.epsilon + 1.0 {
            break;
        }
        if found.epsilon < best.epsilon {
            (best, centre) = (found, x);
        }
    }
    if best.epsilon > 0.0 {
        best = refine(&at, (centre - width).max(from), (centre + width).min(to), best);
    }
    if best.epsilon.is_finite() { Ok(best) } else { Err(AccountantError::Diverged { accountant: "rdp" }) }
}

fn refine(at: &dyn Fn(f64) -> RdpEpsilon, mut low: f64, mut high: f64, mut best: RdpEpsilon) -> RdpEpsilon {
    let ratio = 0.5 * (5f64.sqrt() - 1.0);
    let (mut x1, mut x2) = (high - ratio * (high - low), low + ratio * (high - low));
    let (mut f1, mut f2) = (at(x1), at(x2));
    for _ in 0..22 {
        for f in [f1, f2] {
            if f.epsilon < best.epsilon {
                best = f;
            }
        }
        if f1.epsilon < f2.epsilon {
            (high, x2, f2) = (x2, x1, f1);
            x1 = high - ratio * (high - low);
            f1 = at(x1);
        } else {
            (low, x1, f1) = (x1, x2, f2);
            x2 = low + ratio * (high - low);
            f2 = at(x2);
        }
    }
    best
}
