//! From the continuous subsampled Gaussian to the discrete one: why the accountants' ε holds for what is actually released.
//!
//! *Setting.* In grid steps every example is an integer vector of norm at most M = 2ᵏ, the noise deviation is s = σM, there are d
//! coordinates and T steps. Let 𝓒 add N(0, s²I) to the sampled sum and **round every coordinate to ℤ**; rounding is post-processing, so 𝓒 has
//! exactly the accountants' guarantee for the Poisson-subsampled Gaussian: δ_𝓒(ε). Let 𝓓 add N_ℤ(0, s²) per coordinate: the mechanism. For one
//! coordinate with noise value y, and m = P_𝓒/P_𝓓,
//!
//! m(y) = (Z/s√2π)·∫_{−½}^{½} e^{−t²/2s²}·cosh(ty/s²) dt,  Z = Σ_y e^{−y²/2s²} = s√2π(1 + 2Σ_{j≥1} e^{−2π²s²j²}).
//!
//! *Lemma 1.* cosh ≥ 1 and e^{−t²/2s²} ≥ 1 − t²/2s² give m ≥ 1 − 1/24s², so P_𝓓 ≤ e^{η}·P_𝓒 pointwise with η = −ln(1 − 1/24s²).
//!
//! *Lemma 2.* cosh(x) ≤ e^{x²/2} and |t| ≤ ½ give m(y) ≤ (1 + τ)·e^{y²/8s⁴}, τ < e^{−2π²s²+1} (0 in f64, as s ≥ 64).
//!
//! *Composition.* Both mechanisms' transcripts (adaptive, given the samples drawn) are mixtures over the sampled batches of products of such
//! factors, so Lemma 1 gives P_𝓓(S) ≤ e^{H}·P_𝓒(S) with H = dTη for every data set. For Lemma 2, except on an event of 𝓒-probability
//! β = T·e^{−x} every step's noise has ‖y‖ ≤ R = s(√d + √2x) + √d/2 (Gaussian concentration of the norm, plus the rounding), and off that event
//! P_𝓒 ≤ e^{H′}·P_𝓓 with H′ = T·R²/8s⁴ (+ dTτ). For neighbours with transcripts P and Q therefore
//!
//! P_𝓓(S) ≤ e^{H}P_𝓒(S) ≤ e^{H}(e^{ε}Q_𝓒(S) + δ_𝓒(ε)) ≤ e^{ε+H+H′}·Q_𝓓(S) + e^{H}(δ_𝓒(ε) + e^{ε}β),
//!
//! that is **δ_𝓓(ε + H + H′) ≤ e^{H}(δ_𝓒(ε) + e^{ε}β)**. [`claim`] evaluates 𝓒's accountants at δ′ = δe^{−H}(1 − 2·10⁻⁴), sets
//! β = 10⁻⁴·δe^{−H−ε} and returns ε + H + H′; the remaining 10⁻⁴·δ pays for the sampler's distance (2⁻¹⁰⁰ per draw). At k = 26, d = 2·10⁶,
//! T = 10⁴ and σ = 0.5, H + H′ is 3·10⁻⁶.
//!
//! *Bands.* With a strategy of b bands (see [`super::Strategy`]) a composition stands for up to b rounds, each with noise of deviation s‖n‖. η(s) is convex
//! in 1/s² and 0 at 0, and ‖n‖² ≥ b, so b·η(s‖n‖) ≤ η(s); R/s² falls by ‖n‖ as well. H and H′ above therefore bound the banded mechanism's, with the
//! number of rounds, at most 256 a composition, in β = 256·T·e^{−x}.
//!
//! *Second route.* At integer orders the Poisson-subsampled discrete Gaussian's RDP is at most the continuous one's: expand binomially
//! (all coefficients positive) and use E[e^{tX}] ≤ e^{t²s²/2} for X ~ N_ℤ(0, s²) (Canonne, Kamath and Steinke 2020, corollary 9). It needs no
//! slack but only serves the RDP figure; the argument above carries every accountant.

use super::grid::GridBits;
use super::strategy::MOST_BANDS;
use crate::accountant::{AccountantError, Segment};
use crate::budget::{Delta, Epsilon};
use crate::calibrate::Accountant;
use serde::{Deserialize, Serialize};

/// What the released model may claim.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claim {
    /// ε of the discrete mechanism at the asked δ.
    pub epsilon: f64,
    /// The part of it that is H + H′.
    pub discretisation: f64,
}

/// ε at `delta` of the discrete mechanism over `dimension` coordinates, by the given accountant; rounded up throughout.
pub fn claim(
    by: Accountant,
    segments: &[Segment],
    delta: Delta,
    dimension: usize,
    bits: GridBits,
) -> Result<Claim, AccountantError> {
    let d = dimension as f64;
    let (mut first, mut steps) = (0.0, 0.0);
    for segment in segments {
        let s = segment.sigma.get() * bits.steps();
        let t = segment.steps.get() as f64;
        first -= d * t * (-1.0 / (24.0 * s * s)).ln_1p();
        steps += t;
    }
    let room = delta.get() * (-first).exp();
    let continuous = by.epsilon(segments, Delta::new(room * (1.0 - 2e-4))?)?;
    let log_beta = (1e-4 * room).ln() - continuous;
    let x = (f64::from(MOST_BANDS) * steps).ln() - log_beta;
    let mut second = 0.0;
    for segment in segments {
        let s = segment.sigma.get() * bits.steps();
        let radius = (d.sqrt() + (2.0 * x).sqrt()) / s + d.sqrt() / (2.0 * s * s);
        second += segment.steps.get() as f64 * radius * radius / 8.0;
    }
    let discretisation = (first + second) * (1.0 + 1e-12);
    let epsilon = (continuous + discretisation) * (1.0 + 1e-15);
    Ok(Claim { epsilon, discretisation })
}

/// Whether the claim is within a limit.
pub(crate) fn within(claim: Claim, limit: Epsilon) -> bool {
    claim.epsilon <= limit.get()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::{NoiseMultiplier, SamplingRate, Steps};

    fn segment(q: f64, sigma: f64, steps: u64) -> Segment {
        Segment {
            q: SamplingRate::new(q).unwrap(),
            sigma: NoiseMultiplier::new(sigma).unwrap(),
            steps: Steps::new(steps).unwrap(),
        }
    }

    #[test]
    fn discretisation_costs_millionths_at_training_sizes() {
        let delta = Delta::new(1e-6).unwrap();
        let segments = [segment(0.03, 0.7468, 320)];
        let found = claim(Accountant::Pld, &segments, delta, 2_000_000, GridBits::default()).unwrap();
        let plain = Accountant::Pld.epsilon(&segments, delta).unwrap();
        assert!(found.discretisation > 0.0 && found.discretisation < 1e-6, "{found:?}");
        assert!(found.epsilon > plain && found.epsilon < plain * 1.0002, "{found:?} {plain}");
    }

    #[test]
    fn discrete_hockey_stick_is_within_the_slack_of_the_continuous_one() {
        // One coordinate, one step, q = 1, M = 4 and s = 8 in grid steps: small enough for the slack to be visible and δ summed exactly.
        let (s, m) = (8.0_f64, 4.0_f64);
        let norm: f64 = (-400..=400).map(|y| (-f64::from(y * y) / (2.0 * s * s)).exp()).sum();
        for epsilon in [0.1, 0.5, 1.0, 1.7] {
            let discrete: f64 = (-400..=400)
                .map(|y| {
                    let y = f64::from(y);
                    let p = (-(y - m).powi(2) / (2.0 * s * s)).exp() / norm;
                    let q = (-y * y / (2.0 * s * s)).exp() / norm;
                    (p - f64::exp(epsilon) * q).max(0.0)
                })
                .sum();
            let eta = -(-1.0 / (24.0 * s * s)).ln_1p();
            let x = 20.0_f64;
            let radius = (1.0 + (2.0 * x).sqrt()) / s + 1.0 / (2.0 * s * s);
            let slack = eta + radius * radius / 8.0;
            let continuous = crate::accountant::gaussian::delta(m / s, epsilon - slack);
            assert!(discrete <= eta.exp() * (continuous + epsilon.exp() * (-x).exp()), "{epsilon}: {discrete} {continuous}");
        }
    }
}
