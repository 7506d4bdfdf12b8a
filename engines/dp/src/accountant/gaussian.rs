//! The exact (ε, δ) curve of the Gaussian mechanism without sampling (q = 1).
//!
//! T steps with noise multipliers σₖ are one Gaussian mechanism with μ² = Σ Tₖ/σₖ², and
//! δ(ε) = Φ(μ/2 − ε/μ) − e^ε·Φ(−μ/2 − ε/μ) (Balle and Wang 2018, theorem 8). With a = μ/2 − ε/μ and b = a − μ both terms share
//! the factor e^{−a²/2}: δ = ½e^{−a²/2}(erfcx(−a/√2) − erfcx(−b/√2)), which stays accurate in the tails.

use crate::special::{erfcx, ndtr};
use std::f64::consts::FRAC_1_SQRT_2;

/// δ(ε) of the Gaussian mechanism with mean-to-deviation ratio `mu` > 0; relative error about 1e-12/μ for small μ.
pub(crate) fn delta(mu: f64, epsilon: f64) -> f64 {
    let a = 0.5 * mu - epsilon / mu;
    let b = a - mu;
    if a > 0.0 {
        // e^ε·Φ(b) = ½e^{−a²/2}·erfcx(−b/√2), since b² − a² = 2ε.
        return if b > 0.0 {
            ndtr(a) - epsilon.exp() * ndtr(b)
        } else {
            ndtr(a) - 0.5 * (-0.5 * a * a).exp() * erfcx(-b * FRAC_1_SQRT_2)
        };
    }
    0.5 * (-0.5 * a * a).exp() * (erfcx(-a * FRAC_1_SQRT_2) - erfcx(-b * FRAC_1_SQRT_2))
}

/// The smallest ε ≥ 0 with δ(ε) ≤ `target`, rounded up (bisection to full precision).
pub(crate) fn epsilon(mu: f64, target: f64) -> f64 {
    if delta(mu, 0.0) <= target {
        return 0.0;
    }
    let (mut low, mut high) = (0.0, mu * mu + mu + 1e-300);
    while delta(mu, high) > target {
        low = high;
        high *= 2.0;
    }
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        if middle <= low || middle >= high {
            break;
        }
        if delta(mu, middle) > target { low = middle } else { high = middle }
    }
    high * (1.0 + 1e-12)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches_the_published_values() {
        for (mu, target, want) in
            [(1.0, 1e-5, 4.377_178_095_681_224), (2.0, 1e-6, 10.997_151), (1000f64.sqrt() / 50.0, 1e-6, 2.921_600_590_427_046)]
        {
            assert!((epsilon(mu, target) / want - 1.0).abs() < 1e-7);
        }
    }

    #[test]
    fn extreme_ratios_stay_monotone_and_finite() {
        for mu in [1e-6, 1e-3, 1.0, 100.0, 3e3] {
            let mut last = 2.0;
            for k in 0..60 {
                let d = delta(mu, mu * (mu + f64::from(k) * 0.1));
                assert!(d.is_finite() && d <= last && d >= 0.0, "mu {mu} k {k} {d} {last}");
                last = d;
            }
            let e = epsilon(mu, 1e-9);
            assert!(delta(mu, e) <= 1e-9 * (1.0 + 1e-6));
        }
    }
}
