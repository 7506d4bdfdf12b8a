//! The one-run audit with canaries (Steinke, Nasr and Jagielski 2023, arXiv 2305.08846).
//!
//! Each of m canaries is included with probability ½; the auditor guesses the membership of the r it is surest of and is right v times. If
//! the training is (ε, δ)-DP then, with W ~ Binomial(r, e^ε/(1+e^ε)),
//! P[correct ≥ v] ≤ P[W ≥ v] + 2mδ·max_{i≥1} (P[W ≥ v−i] − P[W ≥ v])/i (their theorem 5.2), so every ε at which that is below
//! the significance level is refuted.

use super::statistics::binomial_tail;
use super::step::{AuditError, StepUnderTest};
use crate::budget::Delta;
use crate::randomness::Stream;
use serde::{Deserialize, Serialize};

/// The p-value of the hypothesis "(ε, δ)-DP" after v right guesses of r among m canaries.
fn p_value(epsilon: f64, delta: f64, canaries: u64, guesses: u64, right: u64) -> f64 {
    let p = 1.0 / (1.0 + (-epsilon).exp());
    let base = binomial_tail(guesses, p, right);
    let steepest = (1..=right).map(|i| (binomial_tail(guesses, p, right - i) - base) / i as f64).fold(0.0, f64::max);
    (base + 2.0 * canaries as f64 * delta * steepest).min(1.0)
}

/// The largest ε refuted at significance `alpha`; 0 if none is.
pub fn one_run_bound(delta: Delta, canaries: u64, guesses: u64, right: u64, alpha: f64) -> f64 {
    let refuted = |epsilon: f64| p_value(epsilon, delta.get(), canaries, guesses, right) <= alpha;
    if !refuted(0.0) {
        return 0.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    while refuted(high) && high < 64.0 {
        low = high;
        high *= 2.0;
    }
    for _ in 0..40 {
        let middle = 0.5 * (low + high);
        if refuted(middle) { low = middle } else { high = middle }
    }
    low
}

/// Size of a one-run audit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneRunConfig {
    /// Canaries m; at most the dimension, so that Dirac canaries are orthogonal.
    pub canaries: usize,
    /// Steps of the audited training (q = 1).
    pub steps: u64,
    /// Guesses r, split between the highest and the lowest scores.
    pub guesses: usize,
    /// δ of the claim.
    pub delta: Delta,
    /// Significance level.
    pub alpha: f64,
}

/// What a one-run audit found.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneRun {
    /// Guesses made.
    pub guesses: u64,
    /// Right guesses.
    pub right: u64,
    /// ε refuted at the configured significance.
    pub epsilon_lower: f64,
}

/// Trains `steps` white-box steps whose only data are the included canaries, gradients 10·C along one coordinate each, and
/// scores a canary by Σₜ⟨g̃ₜ, c⟩.
pub fn one_run(step: &mut dyn StepUnderTest, config: OneRunConfig, coins: &mut Stream) -> Result<OneRun, AuditError> {
    let claimed = step.claimed();
    let canaries = config.canaries.min(claimed.dimension);
    let included: Vec<bool> = (0..canaries).map(|_| coins.word() >> 63 == 1).collect();
    let gradients: Vec<Vec<f32>> = (0..canaries)
        .filter(|i| included[*i])
        .map(|i| {
            let mut gradient = vec![0.0; claimed.dimension];
            gradient[i] = (10.0 * claimed.clip.get()) as f32;
            gradient
        })
        .collect();
    let mut scores = vec![0.0_f64; canaries];
    for _ in 0..config.steps {
        let released = step.step(&gradients)?;
        if released.len() != claimed.dimension {
            return Err(AuditError::Shape { want: claimed.dimension, got: released.len() });
        }
        for (score, value) in scores.iter_mut().zip(&released) {
            *score += f64::from(*value);
        }
    }
    Ok(guess(&scores, &included, config))
}

/// Guesses that the canaries with the highest scores were included and those with the lowest were not, and bounds ε by how often that is right.
///
/// # Shapes
/// `scores` and `included` have one entry a canary.
pub fn guess(scores: &[f64], included: &[bool], config: OneRunConfig) -> OneRun {
    let canaries = scores.len().min(included.len());
    let mut order: Vec<usize> = (0..canaries).collect();
    order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
    let half = (config.guesses / 2).min(canaries / 2);
    let right = order[..half].iter().filter(|i| included[**i]).count()
        + order[canaries - half..].iter().filter(|i| !included[**i]).count();
    let (guesses, right) = (2 * half as u64, right as u64);
    let epsilon_lower = one_run_bound(config.delta, canaries as u64, guesses, right, config.alpha);
    OneRun { guesses, right, epsilon_lower }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_is_the_binomial_one_without_delta_and_falls_with_it() {
        // All of r guesses right and δ → 0: p = (e^ε/(1+e^ε))^r ≤ α.
        let tiny = Delta::new(1e-50).unwrap();
        let share: f64 = 0.05_f64.powf(0.01);
        let want = (share / (1.0 - share)).ln();
        assert!((one_run_bound(tiny, 100, 100, 100, 0.05) - want).abs() < 1e-9);
        let coarse = one_run_bound(Delta::new(1e-3).unwrap(), 100, 100, 100, 0.05);
        assert!(coarse < want && coarse > 0.0, "{coarse} {want}");
        assert_eq!(one_run_bound(tiny, 100, 100, 55, 0.05), 0.0);
    }

    #[test]
    fn randomised_response_is_never_refuted_at_its_own_epsilon() {
        let source = crate::randomness::RandomSource::reproducible(11);
        let mut stream = source.stream(crate::randomness::Purpose::Audit, 0, 0).unwrap();
        let (epsilon, m) = (1.5_f64, 1000_u64);
        let p = 1.0 / (1.0 + (-epsilon).exp());
        let mut refuted = 0;
        for _ in 0..200 {
            let right = (0..m).filter(|_| stream.unit() < p).count() as u64;
            let bound = one_run_bound(Delta::new(1e-12).unwrap(), m, m, right, 0.05);
            assert!(bound > 1.0, "the test has power: {bound}");
            refuted += u32::from(bound > epsilon);
        }
        assert!(refuted <= 22, "{refuted} of 200 at level 0.05");
    }
}
