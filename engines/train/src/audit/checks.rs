//! What the released gradients of the trainer must look like.

use serde::{Deserialize, Serialize};
use sprint_dp::audit::statistics::{chi_squared_score, kolmogorov_smirnov};
use sprint_dp::audit::{AuditOutcome, Check, Defect, OneRun, OneRunConfig, guess};
use sprint_dp::budget::Delta;
use sprint_dp::calibrate::{Accountant, Plan, Request};
use sprint_dp::mechanism::Strategy;
use sprint_dp::randomness::{Purpose, RandomSource, Stream};
use sprint_model::{Example, ParamPath};

use super::world::{CLIP, Run, SharedLedger, World, base, canary, config, overflowing};
use crate::budget::turn;
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
    correlated_noise(&mut checks, size, plant)?;
    canaries_in_turn(&mut checks, size, plant)?;
    Ok(TrainerAudit { outcome: AuditOutcome { checks: checks.0 }, parameters, one_run, claimed_epsilon: size.epsilon })
}

/// The plan that a sound run of `world` follows.
fn plan(world: &World, size: TrainerAuditConfig) -> Result<Plan, TrainError> {
    let (_, layout) = world.layout()?;
    let request = Request {
        records: world.examples.len() as u64,
        expected_batch: world.config.batch_size as u64,
        epochs: world.config.epochs,
        epsilon: sprint_dp::budget::Epsilon::new(size.epsilon)?,
        delta: size.delta,
        dimension: layout.dim() as u64,
        bands: world.config.privacy.map_or(1, |p| p.bands),
    };
    Ok(Plan::calibrate(request, Accountant::Pld)?)
}

fn noise_alone(checks: &mut Checks, size: TrainerAuditConfig, plant: Option<Defect>) -> Result<(), TrainError> {
    let epochs = size.steps as f64 * BATCH as f64 / RECORDS as f64;
    let config = config(size.epsilon, size.delta.get(), BATCH, epochs, 1);
    let world = World { base: base()?, examples: overflowing(RECORDS), outputs: 2, config, plant };
    let deviation = plan(&world, size)?.sigma().get() * CLIP / BATCH as f64;
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
    accounted(checks, &whole, size, ["trainer_claim", "trainer_steps_are_charged"]);
    Ok(())
}

/// Bands of the run whose noise is correlated; as many as fit in [`RECORDS`] and [`BATCH`].
const BANDS: u32 = 8;
/// Bands of the run over canaries: with rate 1, half of them enter each step.
const TURNS: u32 = 2;

/// The releases of a run with correlated noise, mixed by its strategy again, must be white and have the claimed deviation.
fn correlated_noise(checks: &mut Checks, size: TrainerAuditConfig, plant: Option<Defect>) -> Result<(), TrainError> {
    let epochs = size.steps as f64 * BATCH as f64 / RECORDS as f64;
    let config = config(size.epsilon, size.delta.get(), BATCH, epochs, BANDS);
    let world = World { base: base()?, examples: overflowing(RECORDS), outputs: 2, config, plant };
    let plan = plan(&world, size)?;
    let whole = world.run(&SharedLedger::default(), None)?;
    let mixed = mixed(&whole.releases, plan.strategy(), plan.sigma().get() * CLIP / BATCH as f64);
    let flat: Vec<f64> = mixed.concat();
    let square = flat.iter().map(|v| v * v).sum::<f64>();
    let variance = chi_squared_score(square, flat.len() as f64).abs();
    let meaning = "what the strategy makes of the released estimates does not carry noise of deviation σC‖n‖/B";
    checks.record("trainer_bands_noise_variance", variance, SIX_SIGMA, meaning);
    let apart = (1..BANDS as usize)
        .flat_map(|lag| mixed.iter().zip(&mixed[lag.min(mixed.len())..]))
        .map(|(a, b)| correlation(a, b))
        .fold(0.0, f64::max);
    checks.record("trainer_bands_noise_is_white", apart, SIX_SIGMA, "rounds of one example's block share noise");
    accounted(checks, &whole, size, ["trainer_bands_claim", "trainer_bands_steps_are_charged"]);
    Ok(())
}

/// Σ nᵢ·g̃_{t−i} of every step t, in deviations of its noise.
fn mixed(releases: &[Vec<f64>], strategy: Strategy, deviation: f64) -> Vec<Vec<f64>> {
    let weights = strategy.weights();
    let norm = weights.iter().map(|n| (n * n) as f64).sum::<f64>().sqrt();
    let scale = 1.0 / (norm * deviation);
    let mix = |t: usize| {
        let mut sum = vec![0.0; releases[t].len()];
        for (lag, n) in weights.iter().enumerate().take(t + 1) {
            sum.iter_mut().zip(&releases[t - lag]).for_each(|(s, g)| *s += *n as f64 * g * scale);
        }
        sum
    };
    (0..releases.len()).map(mix).collect()
}

/// Canaries in a run with correlated noise: they enter in their turn alone, and do not refute the claim.
fn canaries_in_turn(checks: &mut Checks, size: TrainerAuditConfig, plant: Option<Defect>) -> Result<(), TrainError> {
    let canaries = Canaries::train(size, TURNS, plant)?;
    let in_turn = |t: usize, i: usize| t as u64 % u64::from(TURNS) == turn(&canaries.all[i]) % u64::from(TURNS);
    // The mean step along canaries that are outside their turn, in units of C.
    let mean = |present: bool| {
        let (mut sum, mut n) = (0.0, 0.0_f64);
        for (t, along) in canaries.along.iter().enumerate() {
            for i in (0..size.canaries).filter(|i| canaries.included[*i] == present && !in_turn(t, *i)) {
                (sum, n) = (sum + along[i], n + 1.0);
            }
        }
        (sum / n.max(1.0) * canaries.batch / CLIP, n.max(1.0))
    };
    // Every example pushes the rows of all other classes a little: what absent canaries show is not theirs.
    let ((outside, n), (absent, m)) = (mean(true), mean(false));
    let deviation = canaries.deviations.iter().copied().fold(0.0, f64::max);
    let most = 0.2 + 4.0 * deviation * (1.0 / n + 1.0 / m).sqrt();
    let meaning = "an example enters steps that are not its turn: there it would move them by about 1";
    checks.record("trainer_bands_turns", (outside - absent).abs(), most, meaning);
    let scores = canaries.scores();
    let found = guess(&scores, &canaries.included, canaries.one_run(size));
    let meaning = "the canaries refute the claimed ε";
    checks.record("trainer_bands_one_run_epsilon", found.epsilon_lower, size.epsilon, meaning);
    Ok(())
}

/// The report must claim what was asked for, from as many charges as steps were released.
fn accounted(checks: &mut Checks, run: &Run, size: TrainerAuditConfig, [claim, charges]: [&str; 2]) {
    let Some(report) = &run.model.privacy else {
        return checks.record(claim, f64::NAN, size.epsilon, "a private run left no report");
    };
    // No claim is as good as an infinite one.
    let claimed = report.claim.as_ref().map_or(f64::INFINITY, |c| c.epsilon);
    checks.record(claim, claimed, size.epsilon, "the ledger's charges cost more than the ε that was asked for");
    let steps = run.releases.len() as f64;
    let off = (report.attempts as f64 - steps).abs() + (report.steps.get() as f64 - steps).abs();
    checks.record(charges, off, 0.0, "steps calibrated, charged and released are not the same number");
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

/// A run over canaries, each a class of its own, of which a coin let half in.
struct Canaries {
    all: Vec<Example>,
    included: Vec<bool>,
    sigma: f64,
    /// By step: the deviation of a sum's noise, in units of C.
    deviations: Vec<f64>,
    /// The expected batch.
    batch: f64,
    parameters: usize,
    /// By step: how far the release points along each canary's gradient.
    along: Vec<Vec<f64>>,
}

impl Canaries {
    fn train(size: TrainerAuditConfig, bands: u32, plant: Option<Defect>) -> Result<Self, TrainError> {
        let source = RandomSource::private()?;
        let mut coins = source.stream(Purpose::Audit, 0, 0).expect("only noise is kept from callers");
        let included = flips(size.canaries, &mut coins);
        let all: Vec<_> = (0..size.canaries).map(canary).collect();
        let examples: Vec<_> = all.iter().zip(&included).filter(|(_, kept)| **kept).map(|(e, _)| e.clone()).collect();
        let batch = examples.len() / bands as usize;
        let epochs = size.rounds as f64 / f64::from(bands);
        let config = config(size.epsilon, size.delta.get(), batch, epochs, bands);
        let world = World { base: base()?, examples, outputs: size.canaries, config, plant };
        let plan = plan(&world, size)?;
        let sigma = plan.sigma().get();
        let deviations = plan.strategy().deviations(size.rounds as usize).iter().map(|d| d * sigma).collect();
        let run = world.run(&SharedLedger::default(), None)?;

        // cᵢ is minus the direction of canary i's features, in row i of the head: where its cross-entropy pulls.
        let (spec, layout) = world.layout()?;
        let features = hidden_states(&world.base, &all, Backend::open(world.config.device)?)?;
        let head = layout.offset(&ParamPath::new("classifier.weight")).expect("a linear head is trained");
        let along = |release: &Vec<f64>, i: usize| {
            let feature = &features[i].mean;
            let norm = feature.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
            let row = &release[head + i * spec.hidden..head + (i + 1) * spec.hidden];
            row.iter().zip(feature).map(|(g, f)| -g * f64::from(*f) / norm).sum::<f64>()
        };
        let along = run.releases.iter().map(|r| (0..size.canaries).map(|i| along(r, i)).collect()).collect();
        Ok(Self { all, included, sigma, deviations, batch: batch as f64, parameters: layout.dim(), along })
    }

    fn scores(&self) -> Vec<f64> {
        (0..self.all.len()).map(|i| self.along.iter().map(|step| step[i]).sum()).collect()
    }

    fn one_run(&self, size: TrainerAuditConfig) -> OneRunConfig {
        let guesses = size.canaries / 2;
        OneRunConfig { canaries: size.canaries, steps: size.rounds, guesses, delta: size.delta, alpha: size.alpha }
    }
}

fn canaries(checks: &mut Checks, size: TrainerAuditConfig, plant: Option<Defect>) -> Result<(usize, OneRun), TrainError> {
    let canaries = Canaries::train(size, 1, plant)?;
    let (scores, included, steps) = (canaries.scores(), &canaries.included, canaries.along.len() as f64);

    // How far one canary moves a sum, in units of C: at most 1, and near it, as nearly all of its gradient lies along cᵢ.
    let mean = |kept: bool| {
        let (sum, n) =
            scores.iter().zip(included).filter(|(_, k)| **k == kept).fold((0.0, 0.0), |(s, n), (v, _)| (s + v, n + 1.0));
        sum / f64::max(n, 1.0)
    };
    let moved = (mean(true) - mean(false)) * canaries.batch / CLIP / steps;
    let present = included.iter().filter(|k| **k).count().max(1) as f64;
    let absent = (size.canaries as f64 - present).max(1.0);
    let error = canaries.sigma / steps.sqrt() * (1.0 / present + 1.0 / absent).sqrt();
    let most = 1.0 + SIX_SIGMA * error;
    checks.record(
        "trainer_clipping",
        moved,
        most,
        "one example moves the sum further than C: gradients are not clipped, or not divided by B",
    );
    checks.record("trainer_canaries_are_seen", 0.25 - moved, 0.0, "canaries hardly move the model: the audit has no power");

    let found = guess(&scores, included, canaries.one_run(size));
    checks.record("trainer_one_run_epsilon", found.epsilon_lower, size.epsilon, "the canaries refute the claimed ε");
    Ok((canaries.parameters, found))
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
