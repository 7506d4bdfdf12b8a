//! What the released gradients of the trainer must look like.

use serde::{Deserialize, Serialize};
use sprint_dp::audit::statistics::{chi_squared_score, kolmogorov_smirnov};
use sprint_dp::audit::{AuditOutcome, Check, Defect, OneRun, OneRunConfig, guess};
use sprint_dp::budget::Delta;
use sprint_dp::calibrate::{Accountant, Plan, Request};
use sprint_dp::randomness::{Purpose, RandomSource, Stream};
use sprint_model::ParamPath;

use super::world::{CLIP, Run, SharedLedger, World, base, canary, config, overflowing};
use crate::device::Backend;
use crate::error::TrainError;
use crate::eval::hidden_states;

/// Size of an audit of the trainer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerAuditConfig {
    /// Steps of the run whose releases are noise alone.
    pub steps: u64,
    /// Canaries m; each is a class of its own.
    pub canaries: usize,
    /// Steps of the run over the canaries, each with all of them (q = 1): where one example shows most.
    pub rounds: u64,
    /// The ε that both runs claim.
    pub epsilon: f64,
    /// δ of the claims.
    pub delta: Delta,
    /// Significance of the bound on ε.
    pub alpha: f64,
}

impl Default for TrainerAuditConfig {
    fn default() -> Self {
        let delta = Delta::new(1e-5).expect("between 0 and 1");
        Self { steps: 40, canaries: 400, rounds: 4, epsilon: 8.0, delta, alpha: 0.01 }
    }
}

/// What an audit of the trainer found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerAudit {
    /// The checks.
    pub outcome: AuditOutcome,
    /// Trained parameters of the run over the canaries.
    pub parameters: usize,
    /// The guesses about the canaries.
    pub one_run: OneRun,
    /// The ε that was claimed.
    pub claimed_epsilon: f64,
}

/// Six standard deviations: a sound trainer fails such a check once in 5·10⁸ audits.
const SIX_SIGMA: f64 = 6.0;
/// Records and expected batch of the run on noise alone: a sampled batch holds between none and about twelve of them.
const RECORDS: usize = 64;
const BATCH: usize = 4;

#[derive(Default)]
struct Checks(Vec<Check>);

impl Checks {
    fn record(&mut self, name: &str, statistic: f64, threshold: f64, meaning: &str) {
        // A NaN passes nothing.
        let passed = statistic <= threshold;
        let (name, meaning) = (name.to_owned(), meaning.to_owned());
        self.0.push(Check { name, passed, statistic, threshold, meaning });
    }
}

/// Audits [`crate::train`], with `plant` in it if a defect is given. Every run is of a throw-away model on made-up examples.
pub fn audit_trainer(size: TrainerAuditConfig, plant: Option<Defect>) -> Result<TrainerAudit, TrainError> {
    let mut checks = Checks::default();
    noise_alone(&mut checks, size, plant)?;
    let (parameters, one_run) = canaries(&mut checks, size, plant)?;
    Ok(TrainerAudit { outcome: AuditOutcome { checks: checks.0 }, parameters, one_run, claimed_epsilon: size.epsilon })
}

/// The σ that a sound run of `world` uses.
fn calibrated(world: &World, size: TrainerAuditConfig) -> Result<f64, TrainError> {
    let (_, layout) = world.layout()?;
    let request = Request {
        records: world.examples.len() as u64,
        expected_batch: world.config.batch_size as u64,
        epochs: world.config.epochs,
        epsilon: sprint_dp::budget::Epsilon::new(size.epsilon)?,
        delta: size.delta,
        dimension: layout.dim() as u64,
    };
    Ok(Plan::calibrate(request, Accountant::Pld)?.sigma().get())
}

fn noise_alone(checks: &mut Checks, size: TrainerAuditConfig, plant: Option<Defect>) -> Result<(), TrainError> {
    let epochs = size.steps as f64 * BATCH as f64 / RECORDS as f64;
    let config = config(size.epsilon, size.delta.get(), BATCH, epochs);
    let world = World { base: base()?, examples: overflowing(RECORDS), outputs: 2, config, plant };
    let deviation = calibrated(&world, size)? * CLIP / BATCH as f64;
    let ledger = SharedLedger::default();
    let whole = world.run(&ledger, None)?;
    let released = in_deviations(&whole, deviation);

    let flat: Vec<f64> = released.concat();
    let n = flat.len() as f64;
    let square = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>();
    let variance = chi_squared_score(square(&flat), n).abs();
    checks.record("trainer_noise_variance", variance, SIX_SIGMA, "released parameters do not carry noise of deviation σC/B");
    let average = square(&flat) / n;
    let spread = released.iter().map(|r| chi_squared_score(square(r) / average, r.len() as f64).abs()).fold(0.0, f64::max);
    let meaning = "the noise of a step depends on how many examples its batch held: the divisor is not the expected batch";
    checks.record("trainer_divisor_is_constant", spread, SIX_SIGMA, meaning);
    let apart = released.windows(2).map(|w| correlation(&w[0], &w[1])).fold(0.0, f64::max);
    checks.record("trainer_steps_are_independent", apart, SIX_SIGMA, "different steps share noise");
    checks.record("trainer_noise_is_normal", kolmogorov_smirnov(flat), 3.0, "the noise is not Gaussian with deviation σC/B");

    // The same step again, in a second run and in a run resumed from the first one's snapshot under the same ledger.
    let again = in_deviations(&world.run(&SharedLedger::default(), None)?, deviation);
    let at = whole.snapshots.len() / 2;
    let resumed = in_deviations(&world.run(&ledger, Some(&whole.snapshots[at]))?, deviation);
    let restarted = released.iter().zip(&again).chain(released[at + 1..].iter().zip(&resumed));
    let apart = restarted.map(|(a, b)| correlation(a, b)).fold(0.0, f64::max);
    checks.record(
        "trainer_keys_are_fresh",
        apart,
        SIX_SIGMA,
        "a restarted or resumed run repeats noise: its key is fixed or public",
    );
    accounted(checks, &whole, size);
    Ok(())
}

/// The report must claim what was asked for, from as many charges as steps were released.
fn accounted(checks: &mut Checks, run: &Run, size: TrainerAuditConfig) {
    let Some(report) = &run.model.privacy else {
        return checks.record("trainer_claim", f64::NAN, size.epsilon, "a private run left no report");
    };
    // No claim is as good as an infinite one.
    let claimed = report.claim.as_ref().map_or(f64::INFINITY, |c| c.epsilon);
    checks.record("trainer_claim", claimed, size.epsilon, "the ledger's charges cost more than the ε that was asked for");
    let steps = run.releases.len() as f64;
    let off = (report.attempts as f64 - steps).abs() + (report.steps.get() as f64 - steps).abs();
    checks.record("trainer_steps_are_charged", off, 0.0, "steps calibrated, charged and released are not the same number");
}

/// The releases in units of the claimed deviation.
fn in_deviations(run: &Run, deviation: f64) -> Vec<Vec<f64>> {
    run.releases.iter().map(|r| r.iter().map(|v| v / deviation).collect()).collect()
}

/// The correlation of two steps' noise in standard deviations of independent noise.
fn correlation(a: &[f64], b: &[f64]) -> f64 {
    let product: f64 = a.iter().zip(b).map(|(a, b)| a * b).sum();
    let scale = (a.iter().map(|v| v * v).sum::<f64>() * b.iter().map(|v| v * v).sum::<f64>()).sqrt();
    product.abs() / scale * (a.len() as f64).sqrt()
}

fn canaries(checks: &mut Checks, size: TrainerAuditConfig, plant: Option<Defect>) -> Result<(usize, OneRun), TrainError> {
    let source = RandomSource::private()?;
    let mut coins = source.stream(Purpose::Audit, 0, 0).expect("only noise is kept from callers");
    let included = flips(size.canaries, &mut coins);
    let all: Vec<_> = (0..size.canaries).map(canary).collect();
    let examples: Vec<_> = all.iter().zip(&included).filter(|(_, kept)| **kept).map(|(e, _)| e.clone()).collect();
    let present = examples.len();
    let config = config(size.epsilon, size.delta.get(), present, size.rounds as f64);
    let world = World { base: base()?, examples, outputs: size.canaries, config, plant };
    let sigma = calibrated(&world, size)?;
    let run = world.run(&SharedLedger::default(), None)?;

    // cᵢ is minus the direction of canary i's features, in row i of the head: where its cross-entropy pulls.
    let (spec, layout) = world.layout()?;
    let features = hidden_states(&world.base, &all, Backend::open(world.config.device)?)?;
    let head = layout.offset(&ParamPath::new("classifier.weight")).expect("a linear head is trained");
    let scores: Vec<f64> = (0..size.canaries)
        .map(|i| {
            let feature = &features[i].mean;
            let norm = feature.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            let row = head + i * spec.hidden..head + (i + 1) * spec.hidden;
            let along = |r: &Vec<f64>| r[row.clone()].iter().zip(feature).map(|(g, f)| -g * f64::from(*f) / norm).sum::<f64>();
            run.releases.iter().map(along).sum()
        })
        .collect();

    // How far one canary moves a sum, in units of C: at most 1, and near it, as nearly all of its gradient lies along cᵢ.
    let mean = |kept: bool| {
        let (sum, n) =
            scores.iter().zip(&included).filter(|(_, k)| **k == kept).fold((0.0, 0.0), |(s, n), (v, _)| (s + v, n + 1.0));
        sum / f64::max(n, 1.0)
    };
    let per_step = present as f64 / CLIP / run.releases.len() as f64;
    let moved = (mean(true) - mean(false)) * per_step;
    let absent = (size.canaries - present).max(1) as f64;
    let error = sigma / (run.releases.len() as f64).sqrt() * (1.0 / present as f64 + 1.0 / absent).sqrt();
    let most = 1.0 + SIX_SIGMA * error;
    checks.record(
        "trainer_clipping",
        moved,
        most,
        "one example moves the sum further than C: gradients are not clipped, or not divided by B",
    );
    checks.record("trainer_canaries_are_seen", 0.25 - moved, 0.0, "canaries hardly move the model: the audit has no power");

    let guesses = size.canaries / 2;
    let one_run = OneRunConfig { canaries: size.canaries, steps: size.rounds, guesses, delta: size.delta, alpha: size.alpha };
    let found = guess(&scores, &included, one_run);
    checks.record("trainer_one_run_epsilon", found.epsilon_lower, size.epsilon, "the canaries refute the claimed ε");
    Ok((layout.dim(), found))
}

fn flips(n: usize, coins: &mut Stream) -> Vec<bool> {
    (0..n).map(|_| coins.word() >> 63 == 1).collect()
}

#[cfg(test)]
mod tests {
    use super::{TrainerAuditConfig, audit_trainer};
    use sprint_dp::audit::Defect;

    fn small() -> TrainerAuditConfig {
        TrainerAuditConfig { steps: 16, canaries: 120, ..TrainerAuditConfig::default() }
    }

    #[test]
    fn the_real_trainer_passes_and_its_canaries_are_recognised() {
        let audit = audit_trainer(small(), None).expect("the audit runs");
        assert!(audit.outcome.passed(), "{:#?}", audit.outcome.checks);
        assert!(audit.one_run.right * 10 > audit.one_run.guesses * 6, "{:?}", audit.one_run);
        assert!(audit.one_run.epsilon_lower > 0.0, "{:?}", audit.one_run);
    }

    #[test]
    fn every_planted_defect_of_the_trainer_is_caught_by_the_check_made_for_it() {
        for (defect, by) in [
            (Defect::SigmaHalved, "trainer_noise_variance"),
            (Defect::SigmaHalved, "trainer_claim"),
            (Defect::NoClipping, "trainer_clipping"),
            (Defect::NoiseReused, "trainer_steps_are_independent"),
            (Defect::WrongDivisor, "trainer_divisor_is_constant"),
            (Defect::PublicSeed, "trainer_keys_are_fresh"),
        ] {
            let audit = audit_trainer(small(), Some(defect)).expect("the audit runs");
            assert!(audit.outcome.failures().contains(&by), "{defect:?}: {:#?}", audit.outcome.checks);
        }
    }
}
