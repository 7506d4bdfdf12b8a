//! `privacy-report.json`: everything a reader needs to check a model's privacy claim.
//!
//! The report is computed from the ledger, not from the trainer's own counters: what is accounted is what was charged.

use crate::accountant::{self, AccountantError, EpsilonReport, Segment};
use crate::budget::{BudgetError, ClipNorm, Delta, Steps};
use crate::calibrate::{Accountant, Plan};
use crate::ledger::{Ledger, LedgerHead, LedgerSink};
use crate::mechanism::{self, Claim, GridBits, GridConfig, Strategy};
use serde::{Deserialize, Serialize};

const VERSION: u32 = 1;

/// Which data sets the claim cannot tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NeighbouringRelation {
    /// One record added or removed; N itself is protected, so the N in the report is nominal.
    AddOrRemoveOne,
}

/// What counts as one record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrivacyUnit {
    /// One row of the training split.
    Example,
}

/// How batches were drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampler {
    /// Each record independently with probability q at every step.
    Poisson,
    /// Each record of one group in turn independently with probability q; a record has its turn once in as many steps as the strategy has bands.
    CyclicPoisson,
    /// Batches of a permutation; supports no claim here.
    Shuffled,
}

impl Sampler {
    /// Whether what the ledger accounts for noise of this strategy holds for batches drawn so.
    fn supports(self, strategy: Strategy) -> bool {
        match self {
            Self::Poisson => strategy.is_independent(),
            Self::CyclicPoisson => true,
            Self::Shuffled => false,
        }
    }
}

/// What left the trusted side and is covered by the claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Released {
    /// The parameters after the last step.
    FinalModel,
    /// The parameters after some or all steps.
    IntermediateModels,
    /// The noisy gradients themselves.
    NoisyGradients,
}

/// The noise and how it was made.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MechanismReport {
    /// Always `integer_grid_discrete_gaussian`.
    pub name: MechanismName,
    /// Clipping norm C.
    pub clip: ClipNorm,
    /// The grid: γ = C/2^bits.
    pub grid_bits: GridBits,
    /// Trainable coordinates d.
    pub dimension: u64,
    /// The generator of the noise.
    pub generator: Generator,
    /// How the noise of successive steps is correlated; absent where it is independent.
    #[serde(default, skip_serializing_if = "Strategy::is_independent")]
    pub strategy: Strategy,
}

/// Mechanisms this crate implements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MechanismName {
    /// Integer rounding, exact integer sums, discrete Gaussian noise.
    IntegerGridDiscreteGaussian,
}

/// Generators of noise and samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Generator {
    /// ChaCha20 under a fresh operating-system key per process, BLAKE3-derived per purpose, step and attempt.
    Chacha20OsKey,
    /// ChaCha20 under a public seed: not private.
    Chacha20PublicSeed,
}

/// The report. See the module's description.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrivacyReport {
    /// Format version.
    pub version: u32,
    /// Whether the claim holds: fresh secret keys in every run of the ledger and Poisson sampling.
    pub private: bool,
    /// Neighbouring relation of the claim.
    pub neighbouring: NeighbouringRelation,
    /// Unit of privacy.
    pub unit: PrivacyUnit,
    /// Nominal number of records N₀.
    pub records: u64,
    /// Expected logical batch B.
    pub expected_batch: u64,
    /// Steps of this model's training, equal to the plan's.
    pub steps: Steps,
    /// Charges in the ledger: every attempt of every run on this data, including those that crashed.
    pub attempts: u64,
    /// Torn ledger tails that were charged conservatively.
    pub recovered: u64,
    /// Hyper-parameter trials on the same data, all composed into ε.
    pub trials: u64,
    /// Everything charged, grouped by (q, σ), as compositions: the steps that one record can have entered.
    pub segments: Vec<Segment>,
    /// δ of the claim.
    pub delta: Delta,
    /// **The claim**: ε at δ of all of it, by PLD with the discretisation's cost; `None` if not private.
    pub claim: Option<Claim>,
    /// ε by every accountant, without the discretisation's cost.
    pub epsilon: EpsilonReport,
    /// How batches were drawn.
    pub sampler: Sampler,
    /// The mechanism.
    pub mechanism: MechanismReport,
    /// What was released.
    pub released: Vec<Released>,
    /// The ledger's state the report was computed from.
    pub ledger: LedgerHead,
}

/// What the trainer knows beyond plan and ledger.
#[derive(Clone, Debug, PartialEq)]
pub struct ReportContext {
    /// The mechanism's configuration.
    pub config: GridConfig,
    /// Trainable coordinates.
    pub dimension: usize,
    /// How batches were drawn.
    pub sampler: Sampler,
    /// What was released.
    pub released: Vec<Released>,
    /// Noisy steps that the released model contains.
    pub steps_taken: u64,
}

/// Why no report can be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// The training took another number of steps than the plan calibrated.
    #[error("the model contains {taken} noisy steps but its plan calibrated {planned}: the claim would not match")]
    Steps {
        /// Steps in the model.
        taken: u64,
        /// Steps in the plan.
        planned: u64,
    },
    /// Fewer charges than steps: some noise was drawn without a record.
    #[error("the ledger holds {charged} charges for a model of {taken} noisy steps: it is not this model's ledger")]
    Uncharged {
        /// Charges in the ledger.
        charged: u64,
        /// Steps in the model.
        taken: u64,
    },
    /// The accountants cannot evaluate it.
    #[error(transparent)]
    Accountant(#[from] AccountantError),
    /// A number is outside its domain.
    #[error(transparent)]
    Budget(#[from] BudgetError),
}

impl PrivacyReport {
    /// Accounts the whole ledger for a model trained to `plan`.
    pub fn new<S: LedgerSink>(plan: &Plan, ledger: &Ledger<S>, context: ReportContext) -> Result<Self, ReportError> {
        let planned = plan.steps().get();
        if context.steps_taken != planned {
            return Err(ReportError::Steps { taken: context.steps_taken, planned });
        }
        if ledger.charges() < planned {
            return Err(ReportError::Uncharged { charged: ledger.charges(), taken: planned });
        }
        let segments = ledger.segments();
        let private = ledger.is_private() && context.sampler.supports(context.config.strategy);
        let bits = context.config.bits;
        let claim = if private {
            Some(mechanism::claim(Accountant::Pld, &segments, plan.delta(), context.dimension, bits)?)
        } else {
            None
        };
        let generator = if ledger.is_private() { Generator::Chacha20OsKey } else { Generator::Chacha20PublicSeed };
        Ok(Self {
            version: VERSION,
            private,
            neighbouring: NeighbouringRelation::AddOrRemoveOne,
            unit: PrivacyUnit::Example,
            records: plan.records(),
            expected_batch: plan.expected_batch(),
            steps: plan.steps(),
            attempts: ledger.charges(),
            recovered: ledger.recovered(),
            trials: ledger.trials(),
            epsilon: accountant::epsilon_all(&segments, plan.delta())?,
            segments,
            delta: plan.delta(),
            claim,
            sampler: context.sampler,
            mechanism: MechanismReport {
                name: MechanismName::IntegerGridDiscreteGaussian,
                clip: context.config.clip,
                grid_bits: bits,
                dimension: context.dimension as u64,
                generator,
                strategy: context.config.strategy,
            },
            released: context.released,
            ledger: ledger.head(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::Epsilon;
    use crate::calibrate::Request;
    use crate::ledger::{MemorySink, RunId, RunTerms};
    use crate::randomness::RandomSource;

    fn plan() -> Plan {
        let request = Request {
            records: 1000,
            expected_batch: 100,
            epochs: 2.0,
            epsilon: Epsilon::new(8.0).unwrap(),
            delta: Delta::new(1e-5).unwrap(),
            dimension: 500,
            bands: 1,
        };
        Plan::calibrate(request, Accountant::Pld).unwrap()
    }

    fn context(plan: &Plan, steps_taken: u64) -> ReportContext {
        ReportContext {
            config: GridConfig {
                clip: ClipNorm::new(1.0).unwrap(),
                sigma: plan.sigma(),
                bits: GridBits::default(),
                strategy: plan.strategy(),
            },
            dimension: 500,
            sampler: Sampler::Poisson,
            released: vec![Released::FinalModel],
            steps_taken,
        }
    }

    fn trained(plan: &Plan, charges: u64, source: &RandomSource) -> Ledger<MemorySink> {
        let mut ledger = Ledger::open(MemorySink::default(), "data").unwrap();
        let config = context(plan, 0).config;
        let terms = RunTerms { run: RunId::new("run").unwrap(), q: plan.q(), config, dimension: 500, planned: charges };
        ledger.begin_run(terms, source).unwrap();
        for step in 0..charges {
            let _ = ledger.charge(step % plan.steps().get()).unwrap();
        }
        ledger
    }

    #[test]
    fn an_undisturbed_run_claims_at_most_its_target() {
        let plan = plan();
        let ledger = trained(&plan, plan.steps().get(), &RandomSource::private().unwrap());
        let report = PrivacyReport::new(&plan, &ledger, context(&plan, plan.steps().get())).unwrap();
        let claim = report.claim.unwrap();
        assert!(report.private && claim.epsilon <= 8.0 && claim.epsilon > 7.9, "{claim:?}");
        assert!(report.epsilon.pld <= claim.epsilon && report.attempts == report.steps.get());
        let text = serde_json::to_string_pretty(&report).unwrap();
        assert_eq!(serde_json::from_str::<PrivacyReport>(&text).unwrap(), report);
        assert!(text.contains("add_or_remove_one") && text.contains("chacha20_os_key"));
    }

    #[test]
    fn crashed_attempts_raise_the_claim_and_seeds_void_it() {
        let plan = plan();
        let steps = plan.steps().get();
        let ledger = trained(&plan, steps + 3, &RandomSource::private().unwrap());
        let report = PrivacyReport::new(&plan, &ledger, context(&plan, steps)).unwrap();
        assert!(report.claim.unwrap().epsilon > 8.0 && report.attempts == steps + 3);
        let seeded = trained(&plan, steps, &RandomSource::reproducible(1));
        let report = PrivacyReport::new(&plan, &seeded, context(&plan, steps)).unwrap();
        assert!(!report.private && report.claim.is_none());
        let shuffled = ReportContext { sampler: Sampler::Shuffled, ..context(&plan, steps) };
        assert!(!PrivacyReport::new(&plan, &ledger, shuffled).unwrap().private);
        // Plain sampling may draw an example twice within a block of correlated noise, which nobody accounted for.
        let GridConfig { clip, sigma, bits, .. } = context(&plan, steps).config;
        for (sampler, private) in [(Sampler::Poisson, false), (Sampler::CyclicPoisson, true)] {
            let config = GridConfig { clip, sigma, bits, strategy: Strategy::new(4).unwrap() };
            let banded = ReportContext { config, sampler, ..context(&plan, steps) };
            assert_eq!(PrivacyReport::new(&plan, &ledger, banded).unwrap().private, private, "{sampler:?}");
        }
    }

    #[test]
    fn steps_that_differ_from_the_plan_or_the_ledger_are_refused() {
        let plan = plan();
        let steps = plan.steps().get();
        let ledger = trained(&plan, steps - 1, &RandomSource::private().unwrap());
        assert!(matches!(PrivacyReport::new(&plan, &ledger, context(&plan, steps + 1)), Err(ReportError::Steps { .. })));
        assert!(matches!(PrivacyReport::new(&plan, &ledger, context(&plan, steps)), Err(ReportError::Uncharged { .. })));
    }
}
