//! The privacy loss of one Poisson-subsampled Gaussian step and its moments by quadrature.
//!
//! With sensitivity 1 the pair is P = (1−q)·N(0,σ²) + q·N(1,σ²) and Q = N(0,σ²). The likelihood ratio at z is
//! L(z) = 1 − q + q·e^{(2z−1)/2σ²}, the loss ℓ = ln L, and every accountant here starts from A(α) = E_{z~Q}[L^α]:
//! RDP is ln A(α)/(α−1), the loss's log moment generating function is ln A(1+λ) when the record is removed (z ~ P, loss ℓ)
//! and ln A(−λ) when it is added (z ~ Q, loss −ℓ).
//!
//! The trapezoidal rule on the lattice z = k·h with h = min(σ/8, σ²/2) is used throughout: the integrand is analytic in the strip
//! |Im z| < πσ² (the zeros of L) and Gaussian at infinity, so the rule's error is below e^{−39} relative to the integral of the
//! modulus (Trefethen and Weideman 2014, theorem 5.1).

use crate::special::ln_expm1;

/// How far below its maximum (in natural log units) an integrand is dropped.
const DROP: f64 = 45.0;

/// No cut of the range of z.
pub(crate) const EVERYWHERE: (f64, f64) = (f64::NEG_INFINITY, f64::INFINITY);

/// One step's sampling rate and noise multiplier, in the form the quadratures need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SubsampledGaussian {
    pub(crate) q: f64,
    pub(crate) sigma: f64,
    variance: f64,
    spacing: f64,
}

/// ln A(α) and the mean and variance of ℓ under the density ∝ L^α·φ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Tilted {
    pub(crate) log_moment: f64,
    pub(crate) mean: f64,
    pub(crate) variance: f64,
}

struct Node {
    loss: f64,
    log_value: f64,
}

impl SubsampledGaussian {
    pub(crate) fn new(q: f64, sigma: f64) -> Self {
        let variance = sigma * sigma;
        Self { q, sigma, variance, spacing: (sigma / 8.0).min(variance / 2.0) }
    }

    /// ℓ(z) = ln(1 − q + q·e^{(z−½)/σ²}).
    pub(crate) fn loss(&self, z: f64) -> f64 {
        let x = (z - 0.5) / self.variance;
        if self.q == 1.0 {
            x
        } else if x > 500.0 {
            x + self.q.ln() + ((1.0 - self.q) / self.q * (-x).exp()).ln_1p()
        } else {
            (self.q * x.exp_m1()).ln_1p()
        }
    }

    /// The z at which the loss is `loss`; −∞ at or below the infimum ln(1−q).
    pub(crate) fn inverse_loss(&self, loss: f64) -> f64 {
        if self.q == 1.0 {
            return self.variance.mul_add(loss, 0.5);
        }
        if loss > 500.0 {
            return self.variance * (loss - self.q.ln() + (-(1.0 - self.q) * (-loss).exp()).ln_1p()) + 0.5;
        }
        let excess = loss.exp_m1() / self.q;
        if excess <= -1.0 { f64::NEG_INFINITY } else { self.variance * excess.ln_1p() + 0.5 }
    }

    /// The posterior probability that the record was sampled, s(z) = q·eˣ/L.
    fn posterior(&self, z: f64) -> f64 {
        if self.q == 1.0 {
            return 1.0;
        }
        let x = (z - 0.5) / self.variance;
        1.0 / (1.0 + (1.0 - self.q) / self.q * (-x).exp())
    }

    /// The rightmost stationary point of −z²/2σ² + α·ℓ(z), that is of z = α·s(z), for α > 0.
    fn right_peak(&self, alpha: f64) -> f64 {
        let mut z = alpha;
        for _ in 0..200 {
            let next = alpha * self.posterior(z);
            if (next - z).abs() <= 1e-6 * self.sigma {
                break;
            }
            z = next;
        }
        z
    }

    /// The only stationary point for α ≤ 0, where the log density is concave; it lies in [α, 0].
    fn concave_peak(&self, alpha: f64) -> f64 {
        let (mut low, mut high) = (alpha, 0.0);
        for _ in 0..80 {
            let middle = 0.5 * (low + high);
            if middle < alpha * self.posterior(middle) { low = middle } else { high = middle }
        }
        0.5 * (low + high)
    }

    /// Lattice nodes within `bounds` that carry the integral of e^{value(z, ℓ)}, where the value behaves like −z²/2σ² + α·ℓ far from 0.
    ///
    /// For α > 0 the integrand has a peak near 0 (or 2) and one at the rightmost stationary point; the far one is walked first, so
    /// that a negligible valley between them is never filled with nodes.
    fn nodes(&self, alpha: f64, bounds: (f64, f64), value: impl Fn(f64, f64) -> f64) -> Vec<Node> {
        let h = self.spacing;
        let reach = 14.0 * self.sigma;
        let (from, to) = if alpha <= 0.0 {
            let peak = self.concave_peak(alpha).max(bounds.0);
            (peak - reach, peak + reach)
        } else {
            (-reach, 2.0 + reach)
        };
        let first = (from.max(bounds.0) / h).floor() as i64;
        let mut last = (to.min(bounds.1) / h).ceil() as i64;
        let end = (bounds.1 / h).min(1e15).ceil() as i64;
        let mut nodes = Vec::with_capacity((last - first).max(0) as usize + 256);
        let mut top = f64::NEG_INFINITY;
        let mut push = |k: i64| {
            let z = k as f64 * h;
            let loss = self.loss(z);
            let log_value = value(z, loss);
            top = top.max(log_value);
            nodes.push(Node { loss, log_value });
            log_value > top - DROP
        };
        let mut wall = end + 1;
        if alpha > 0.0 {
            let seed = ((self.right_peak(alpha) / h).round() as i64).min(end);
            if seed > last {
                let mut k = seed;
                while k <= end && push(k) {
                    k += 1;
                }
                wall = seed;
                while wall - 1 > last && push(wall - 1) {
                    wall -= 1;
                }
            }
        }
        for k in first..=last {
            push(k);
        }
        if alpha > 0.0 {
            while last + 1 < wall && push(last + 1) {
                last += 1;
            }
        }
        nodes
    }

    /// ln A(α), and mean and variance of the loss under the tilted density, for any real α.
    ///
    /// Absolute error of `log_moment` about 1e-15·nodes: enough for guesses and tail bounds, not for RDP at tiny q (see [`Self::log_moment`]).
    /// `bounds` cuts the integral to that range of z.
    pub(crate) fn tilted(&self, alpha: f64, bounds: (f64, f64)) -> Tilted {
        let half_precision = 0.5 / self.variance;
        let nodes = self.nodes(alpha, bounds, |z, loss| alpha * loss - z * z * half_precision);
        let top = nodes.iter().map(|n| n.log_value).fold(f64::NEG_INFINITY, f64::max);
        let (mut total, mut first, mut second) = (0.0, 0.0, 0.0);
        for node in &nodes {
            let weight = (node.log_value - top).exp();
            total += weight;
            first += weight * node.loss;
            second += weight * node.loss * node.loss;
        }
        let mean = first / total;
        let norm = self.spacing / (self.sigma * (2.0 * std::f64::consts::PI).sqrt());
        Tilted { log_moment: top + (total * norm).ln(), mean, variance: (second / total - mean * mean).max(0.0) }
    }

    /// ln A(α) for α > 1 with full relative accuracy at any q.
    ///
    /// Because E_Q[L] = 1, A − 1 = E_Q[L^α − 1 − α(L−1)], whose integrand is non-negative: nothing cancels between nodes, and
    /// near L = 1 the integrand itself comes from its Taylor series.
    pub(crate) fn log_moment(&self, alpha: f64) -> f64 {
        let half_precision = 0.5 / self.variance;
        let nodes = self.nodes(alpha, EVERYWHERE, |z, loss| self.log_excess(alpha, z, loss) - z * z * half_precision);
        let top = nodes.iter().map(|n| n.log_value).fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = nodes.iter().map(|n| (n.log_value - top).exp()).sum();
        let norm = self.spacing / (self.sigma * (2.0 * std::f64::consts::PI).sqrt());
        log_of_one_plus_exp(top + (total * norm).ln())
    }

    /// ln(L^α − 1 − α(L−1)).
    fn log_excess(&self, alpha: f64, z: f64, loss: f64) -> f64 {
        let x = (z - 0.5) / self.variance;
        let u = if x > 500.0 { f64::INFINITY } else { self.q * x.exp_m1() };
        if alpha * loss > 30.0 {
            let linear = if u.is_finite() { (alpha * u).ln_1p() } else { alpha.ln() + loss };
            return alpha * loss + (-(linear - alpha * loss).exp()).ln_1p();
        }
        if u.abs() * alpha < 1e-3 {
            let tail = 1.0 + (alpha - 3.0) / 4.0 * u * (1.0 + (alpha - 4.0) / 5.0 * u);
            let series = 1.0 + (alpha - 2.0) / 3.0 * u * tail;
            return (0.5 * alpha * (alpha - 1.0) * u * u * series).ln();
        }
        ((alpha * loss).exp_m1() - alpha * u).max(0.0).ln()
    }

    /// ln A(α) for integer α ≥ 2 by the binomial expansion with its first two terms summed exactly:
    /// A − 1 = Σ_{k≥2} C(α,k)(1−q)^{α−k}q^k·(e^{(k²−k)/2σ²} − 1).
    pub(crate) fn log_moment_integer(&self, alpha: u32) -> f64 {
        let n = f64::from(alpha);
        let (ln_q, ln_rest) = (self.q.ln(), (-self.q).ln_1p());
        let mut log_choose = 0.0;
        let mut terms = Vec::with_capacity(alpha as usize);
        for k in 1..=alpha {
            let k = f64::from(k);
            log_choose += ((n - k + 1.0) / k).ln();
            if k >= 2.0 {
                let exponent = (k * k - k) / (2.0 * self.variance);
                let rest = if n > k { (n - k) * ln_rest } else { 0.0 };
                terms.push(log_choose + rest + k * ln_q + ln_expm1(exponent));
            }
        }
        log_of_one_plus_exp(crate::special::log_sum_exp(&terms))
    }
}

/// ln(1 + eˣ).
fn log_of_one_plus_exp(x: f64) -> f64 {
    if x > 30.0 { x + (-x).exp().ln_1p() } else { x.exp().ln_1p() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inverse_loss_undoes_the_loss() {
        for (q, sigma) in [(1e-6, 0.3), (0.01, 1.0), (0.9, 5.0), (1.0, 2.0), (0.5, 1000.0)] {
            let step = SubsampledGaussian::new(q, sigma);
            for k in 0..40 {
                let z = 1.0 + sigma * (f64::from(k) / 5.0 - 1.0);
                let back = step.inverse_loss(step.loss(z));
                assert!((back - z).abs() < 1e-6 * sigma, "q={q} sigma={sigma} z={z} back={back}");
            }
        }
    }

    #[test]
    fn quadrature_equals_the_binomial_sum_at_integer_orders() {
        for q in [1e-6, 1e-4, 0.01, 0.3, 0.9] {
            for sigma in [0.3, 0.7, 1.0, 4.0, 50.0, 1000.0] {
                for alpha in [2_u32, 3, 8, 33, 128, 700] {
                    let step = SubsampledGaussian::new(q, sigma);
                    let (a, b) = (step.log_moment(f64::from(alpha)), step.log_moment_integer(alpha));
                    assert!((a / b - 1.0).abs() < 1e-9, "q={q} sigma={sigma} alpha={alpha}: {a} {b}");
                }
            }
        }
    }

    #[test]
    fn tilted_moments_are_the_derivatives_of_the_log_moment() {
        let step = SubsampledGaussian::new(0.02, 0.8);
        for alpha in [-3.0, -0.5, 0.5, 1.7, 6.0, 12.0] {
            let (low, here, high) =
                (step.tilted(alpha - 1e-4, EVERYWHERE), step.tilted(alpha, EVERYWHERE), step.tilted(alpha + 1e-4, EVERYWHERE));
            let slope = (high.log_moment - low.log_moment) / 2e-4;
            let bend = (high.mean - low.mean) / 2e-4;
            assert!((slope - here.mean).abs() < 1e-6 * (1.0 + here.mean.abs()));
            assert!((bend - here.variance).abs() < 1e-4 * (1e-3 + here.variance));
        }
        assert!(step.tilted(0.0, EVERYWHERE).log_moment.abs() < 1e-12 && step.tilted(1.0, EVERYWHERE).log_moment.abs() < 1e-12);
    }
}
