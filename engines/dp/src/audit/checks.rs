//! The mechanism checks: each is a statistic, the threshold it must stay under, and what a failure means.
//!
//! Thresholds are six standard deviations (false alarms below 1e-8 per check) except the two lower bounds on ε, which hold at the
//! configured significance.

use super::one_run::{OneRunConfig, one_run};
use super::statistics::{chi_squared_score, clopper_pearson, kolmogorov_smirnov};
use super::step::{AuditError, ClaimedStep, StepUnderTest};
use crate::accountant::gaussian;
use crate::budget::Delta;
use crate::randomness::Stream;
use serde::{Deserialize, Serialize};

/// Size of an audit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditConfig {
    /// Steps per mechanism check; more finds smaller defects.
    pub steps: u64,
    /// Runs of the single-step distinguisher, with and without the canary.
    pub trials: u64,
    /// Significance of the two lower bounds on ε.
    pub alpha: f64,
    /// δ at which ε is bounded.
    pub delta: Delta,
}

/// One check's result.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// What was checked.
    pub name: String,
    /// Whether it passed.
    pub passed: bool,
    /// The statistic.
    pub statistic: f64,
    /// What it must not exceed.
    pub threshold: f64,
    /// What a failure means.
    pub meaning: String,
}

/// All checks of one step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditOutcome {
    /// The checks in order.
    pub checks: Vec<Check>,
}

impl AuditOutcome {
    /// Whether every check passed.
    pub fn passed(&self) -> bool {
        self.checks.iter().all(|c| c.passed)
    }

    /// The names of those that failed.
    pub fn failures(&self) -> Vec<&str> {
        self.checks.iter().filter(|c| !c.passed).map(|c| c.name.as_str()).collect()
    }
}

const SIX_SIGMA: f64 = 6.0;

struct Auditor<'a> {
    step: &'a mut dyn StepUnderTest,
    claimed: ClaimedStep,
    config: AuditConfig,
    checks: Vec<Check>,
}

/// Runs every check. The step should have at least a few hundred coordinates; `coins` decides the canaries.
pub fn audit(step: &mut dyn StepUnderTest, config: AuditConfig, coins: &mut Stream) -> Result<AuditOutcome, AuditError> {
    let claimed = step.claimed();
    let mut auditor = Auditor { step, claimed, config, checks: Vec::new() };
    auditor.noise()?;
    auditor.divisor()?;
    auditor.restart()?;
    auditor.clipping()?;
    auditor.distinguish()?;
    auditor.canaries(coins)?;
    Ok(AuditOutcome { checks: auditor.checks })
}

impl Auditor<'_> {
    fn record(&mut self, name: &str, statistic: f64, threshold: f64, meaning: &str) {
        let passed = statistic <= threshold;
        let (name, meaning) = (name.to_owned(), meaning.to_owned());
        self.checks.push(Check { name, passed, statistic, threshold, meaning });
    }

    /// One release in units of the claimed deviation.
    fn release(&mut self, gradients: &[Vec<f32>]) -> Result<Vec<f64>, AuditError> {
        let released = self.step.step(gradients)?;
        if released.len() != self.claimed.dimension {
            return Err(AuditError::Shape { want: self.claimed.dimension, got: released.len() });
        }
        let scale = 1.0 / self.claimed.deviation();
        Ok(released.iter().map(|v| f64::from(*v) * scale).collect())
    }

    /// A gradient of the given multiple of C along one coordinate.
    fn gradient(&self, coordinate: usize, multiple: f64) -> Vec<f32> {
        let mut gradient = vec![0.0; self.claimed.dimension];
        gradient[coordinate] = (multiple * self.claimed.clip.get()) as f32;
        gradient
    }

    /// Steps on no data: variance, shape, and independence of steps and coordinates.
    fn noise(&mut self) -> Result<(), AuditError> {
        let mut all = Vec::new();
        let (mut previous, mut steps_apart, mut coordinates_apart) = (Vec::<f64>::new(), 0.0, 0.0);
        for _ in 0..self.config.steps {
            let released = self.release(&[])?;
            steps_apart += released.iter().zip(&previous).map(|(a, b)| a * b).sum::<f64>();
            coordinates_apart += released.windows(2).map(|w| w[0] * w[1]).sum::<f64>();
            all.extend_from_slice(&released);
            previous = released;
        }
        let n = all.len() as f64;
        let square: f64 = all.iter().map(|v| v * v).sum();
        let variance = chi_squared_score(square, n).abs();
        self.record("noise_variance", variance, SIX_SIGMA, "the noise does not have the claimed deviation σC/B");
        let shape = kolmogorov_smirnov(all);
        self.record("noise_is_normal", shape, 3.0, "the noise is not Gaussian with the claimed deviation");
        let apart = steps_apart.abs() / (n - self.claimed.dimension as f64).max(1.0).sqrt();
        self.record("steps_are_independent", apart, SIX_SIGMA, "different steps share noise");
        let apart = coordinates_apart.abs() / n.sqrt();
        self.record("coordinates_are_independent", apart, SIX_SIGMA, "different coordinates share noise");
        Ok(())
    }

    /// The noise must not depend on how many examples the batch happened to hold.
    fn divisor(&mut self) -> Result<(), AuditError> {
        let batch = self.claimed.expected_batch.clamp(1, 64) as usize;
        let mut worst = 0.0_f64;
        for size in [1, 2 * batch] {
            let gradients = vec![vec![0.0; self.claimed.dimension]; size];
            let (mut square, mut n) = (0.0, 0.0);
            for _ in 0..self.config.steps.div_ceil(4) {
                let released = self.release(&gradients)?;
                square += released.iter().map(|v| v * v).sum::<f64>();
                n += released.len() as f64;
            }
            worst = worst.max(chi_squared_score(square, n).abs());
        }
        let meaning = "the divisor follows the realised batch instead of the expected one";
        self.record("divisor_is_constant", worst, SIX_SIGMA, meaning);
        Ok(())
    }

    /// A restarted process must not produce the noise of the one before.
    fn restart(&mut self) -> Result<(), AuditError> {
        self.step.restart()?;
        let first = self.release(&[])?;
        self.step.restart()?;
        let second = self.release(&[])?;
        let product: f64 = first.iter().zip(&second).map(|(a, b)| a * b).sum();
        let score = product.abs() / (self.claimed.dimension as f64).sqrt();
        self.record("keys_are_fresh", score, SIX_SIGMA, "a restarted run repeats its noise: the key is fixed or public");
        Ok(())
    }

    /// Large gradients count as C, small ones as themselves, and m large ones as mC.
    fn clipping(&mut self) -> Result<(), AuditError> {
        let unit = 1.0 / self.claimed.sigma.get();
        let mut worst = 0.0_f64;
        for (multiple, copies, want) in [(100.0, 1, 1.0), (0.5, 1, 0.5), (7.0, 3, 3.0)] {
            let gradients: Vec<Vec<f32>> = (0..copies).map(|_| self.gradient(0, multiple)).collect();
            let mut sum = 0.0;
            for _ in 0..self.config.steps {
                sum += self.release(&gradients)?[0];
            }
            let n = self.config.steps as f64;
            // The grid lowers a clipped norm by (√d/2 + 1)/2ᵏ of C, at most 1/64 in an admitted configuration.
            let allowed = want * unit * 0.02;
            let off = ((sum / n - want * unit).abs() - allowed).max(0.0) * n.sqrt();
            worst = worst.max(off);
        }
        self.record("clipping_and_scale", worst, SIX_SIGMA, "gradients are not clipped to C or not divided by B");
        Ok(())
    }

    /// ε refuted by telling "canary present" from "absent" in single steps with q = 1.
    fn distinguish(&mut self) -> Result<(), AuditError> {
        let canary = vec![self.gradient(0, 10.0)];
        let (mut present, mut absent) = (Vec::new(), Vec::new());
        for _ in 0..self.config.trials {
            present.push(self.release(&canary)?[0]);
            absent.push(self.release(&[])?[0]);
        }
        let claimed = gaussian::epsilon(1.0 / self.claimed.sigma.get(), self.config.delta.get());
        let refuted = distinguishing_bound(&present, &absent, self.config.delta.get(), self.config.alpha);
        self.record("single_step_epsilon", refuted, claimed, "one step reveals more than its claimed ε");
        Ok(())
    }

    /// ε refuted by a whole training on canaries.
    fn canaries(&mut self, coins: &mut Stream) -> Result<(), AuditError> {
        let steps = 4;
        let canaries = self.claimed.dimension.min(400);
        let config = OneRunConfig { canaries, steps, guesses: canaries / 2, delta: self.config.delta, alpha: self.config.alpha };
        let found = one_run(self.step, config, coins)?;
        let mu = (steps as f64).sqrt() / self.claimed.sigma.get();
        let claimed = gaussian::epsilon(mu, self.config.delta.get());
        self.record("one_run_epsilon", found.epsilon_lower, claimed, "the canaries refute the claimed ε");
        Ok(())
    }
}

/// A lower bound on ε from scores with and without the canary: the threshold is chosen on the first halves, Clopper–Pearson bounds on the
/// second halves give ε ≥ ln((TPR − δ)/FPR), each wrong with probability α/2.
fn distinguishing_bound(present: &[f64], absent: &[f64], delta: f64, alpha: f64) -> f64 {
    let half = present.len().min(absent.len()) / 2;
    let bound = |threshold: f64, p: &[f64], a: &[f64]| {
        let count = |values: &[f64]| values.iter().filter(|v| **v >= threshold).count() as u64;
        let (true_low, _) = clopper_pearson(p.len() as u64, count(p), alpha / 2.0);
        let (_, false_high) = clopper_pearson(a.len() as u64, count(a), alpha / 2.0);
        ((true_low - delta).max(0.0) / false_high).ln().max(0.0)
    };
    let (low, high) =
        present[..half].iter().chain(&absent[..half]).fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
    let best = (0..60)
        .map(|k| low + (high - low) * f64::from(k) / 59.0)
        .map(|t| (bound(t, &present[..half], &absent[..half]), t))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    best.map_or(0.0, |(_, t)| bound(t, &present[half..], &absent[half..]))
}

#[cfg(test)]
mod tests {
    use super::super::planted::{Defect, PlantedStep};
    use super::super::step::GridStep;
    use super::*;
    use crate::budget::{ClipNorm, NoiseMultiplier};
    use crate::mechanism::{GridBits, GridConfig, Strategy};
    use crate::randomness::{Purpose, RandomSource};

    const DIMENSION: usize = 500;

    fn mechanism(sigma: f64) -> GridConfig {
        GridConfig {
            clip: ClipNorm::new(0.3).unwrap(),
            sigma: NoiseMultiplier::new(sigma).unwrap(),
            bits: GridBits::default(),
            strategy: Strategy::default(),
        }
    }

    fn run(step: &mut dyn StepUnderTest) -> AuditOutcome {
        let config = AuditConfig { steps: 200, trials: 2000, alpha: 0.01, delta: Delta::new(1e-5).unwrap() };
        let mut coins = RandomSource::private().unwrap().stream(Purpose::Audit, 0, 0).unwrap();
        audit(step, config, &mut coins).unwrap()
    }

    #[test]
    fn the_real_mechanism_passes_with_a_telling_lower_bound() {
        let outcome = run(&mut GridStep::new(mechanism(0.8), DIMENSION, 16).unwrap());
        assert!(outcome.passed(), "{:?}", outcome.checks);
        for name in ["single_step_epsilon", "one_run_epsilon"] {
            let check = outcome.checks.iter().find(|c| c.name == name).unwrap();
            assert!(check.statistic > 0.05 * check.threshold, "{name} has power: {check:?}");
        }
    }

    #[test]
    fn every_planted_defect_is_caught_by_the_check_made_for_it() {
        for (defect, by) in [
            (Defect::SigmaHalved, "noise_variance"),
            (Defect::NoClipping, "clipping_and_scale"),
            (Defect::NoiseReused, "steps_are_independent"),
            (Defect::WrongDivisor, "divisor_is_constant"),
            (Defect::PublicSeed, "keys_are_fresh"),
        ] {
            let outcome = run(&mut PlantedStep::new(defect, mechanism(0.8), DIMENSION, 16).unwrap());
            assert!(outcome.failures().contains(&by), "{defect:?}: {:?}", outcome.checks);
        }
    }

    #[test]
    fn missing_clipping_alone_refutes_the_claim_through_the_canaries() {
        let outcome = run(&mut PlantedStep::new(Defect::NoClipping, mechanism(6.0), DIMENSION, 16).unwrap());
        assert!(outcome.failures().contains(&"one_run_epsilon"), "{:?}", outcome.checks);
        assert!(outcome.failures().contains(&"single_step_epsilon"), "{:?}", outcome.checks);
    }
}
