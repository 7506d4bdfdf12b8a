//! How many steps a run takes, where its randomness comes from, and what its noise costs.

use sprint_dp::budget::{ClipNorm, Delta, Epsilon, SamplingRate};
use sprint_dp::calibrate::{Accountant, Plan, Request, steps_for};
use sprint_dp::ledger::{Ledger, LedgerSink, Limit, MemorySink, RunId, RunTerms};
use sprint_dp::mechanism::{GridBits, GridConfig, GridMechanism};
use sprint_dp::randomness::RandomSource;
use sprint_dp::report::{PrivacyReport, Released, ReportContext};
use sprint_dp::sample::{PoissonSampler, ShuffledSampler};
use sprint_model::{Example, Label};

use crate::config::{PrivacyConfig, Sampling, TrainConfig};
use crate::error::TrainError;
use crate::layout::Layout;
use crate::mechanics::Mechanics;
use crate::snapshot::{Snapshot, SnapshotError};
use crate::trainer::Accounting;

/// The mechanism and the ledger of a run with noise.
pub(crate) struct Noisy {
    pub(crate) plan: Plan,
    pub(crate) grid: GridConfig,
    pub(crate) mechanism: GridMechanism,
    pub(crate) ledger: Ledger<Box<dyn LedgerSink + Send>>,
}

/// How many steps a run takes, where its randomness comes from and what its noise costs.
pub(crate) struct Budget {
    pub(crate) steps: u64,
    pub(crate) source: RandomSource,
    pub(crate) sampler: Sampler,
    pub(crate) noisy: Option<Noisy>,
}

/// A public hash of an example alone, by which cyclic sampling gives it its turn.
pub(crate) fn turn(example: &Example) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key("sprint-train 2026-11 turn of an example");
    example.ids.iter().for_each(|id| {
        hasher.update(&id.to_le_bytes());
    });
    hasher.update(&example.type_ids);
    match example.label {
        None => hasher.update(&[0]),
        Some(Label::Class(class)) => hasher.update(&[1]).update(&class.to_le_bytes()),
        Some(Label::Score(score)) => hasher.update(&[2]).update(&score.to_le_bytes()),
    };
    let mut word = [0; 8];
    word.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(word)
}

pub(crate) enum Sampler {
    Poisson(PoissonSampler),
    Shuffled { sampler: ShuffledSampler, epoch: Option<(u64, Vec<Vec<u32>>)>, per_epoch: u64 },
}

impl Sampler {
    /// The examples of a step; `round` is its charge's, whose turn it is.
    pub(crate) fn batch(&mut self, source: &RandomSource, step: u64, attempt: u64, round: u64) -> Vec<usize> {
        let batch = match self {
            Self::Poisson(sampler) => sampler.batch(source, step, attempt, round),
            Self::Shuffled { sampler, epoch, per_epoch } => {
                let wanted = step / *per_epoch;
                if epoch.as_ref().is_none_or(|(at, _)| *at != wanted) {
                    *epoch = Some((wanted, sampler.epoch(source, wanted)));
                }
                let batches = epoch.as_ref().map(|(_, batches)| batches);
                batches.and_then(|b| b.get((step % *per_epoch) as usize)).cloned().unwrap_or_default()
            }
        };
        batch.into_iter().map(|i| i as usize).collect()
    }
}

impl Budget {
    pub(crate) fn open(
        config: &TrainConfig,
        examples: &[Example],
        layout: &Layout,
        accounting: Option<Accounting>,
        mechanics: &dyn Mechanics,
    ) -> Result<Self, TrainError> {
        let source = mechanics.source(config.seed)?;
        let (n, b) = (examples.len() as u64, config.batch_size as u64);
        let Some(privacy) = config.privacy else {
            let (sampler, steps) = match config.sampling {
                Sampling::Poisson => {
                    let q = SamplingRate::from_batch(b, n)?;
                    (Sampler::Poisson(PoissonSampler::new(examples.len(), q)?), steps_for(n, b, config.epochs)?.get())
                }
                Sampling::Shuffled => {
                    let per_epoch = n.div_ceil(b);
                    let sampler = ShuffledSampler::new(examples.len(), config.batch_size)?;
                    let steps = (config.epochs * per_epoch as f64).round().max(1.0) as u64;
                    (Sampler::Shuffled { sampler, epoch: None, per_epoch }, steps)
                }
            };
            return Ok(Self { steps, source, sampler, noisy: None });
        };
        let noisy = Noisy::open(&privacy, config, n, layout, (accounting, &source), mechanics)?;
        let (q, bands) = (noisy.plan.q(), noisy.plan.strategy().bands());
        let sampler = Sampler::Poisson(PoissonSampler::cyclic(examples.iter().map(turn), q, bands)?);
        Ok(Self { steps: noisy.plan.steps().get(), source, sampler, noisy: Some(noisy) })
    }

    /// Continues after a snapshot; refuses one that knows charges the ledger has lost.
    pub(crate) fn resume(&mut self, snapshot: &Snapshot) -> Result<(), TrainError> {
        let Some(noisy) = &mut self.noisy else { return Ok(()) };
        if self.source.is_private() {
            let head = snapshot.ledger.as_ref().ok_or(SnapshotError::OtherRun)?;
            return Ok(noisy.ledger.verify(head)?);
        }
        // A reproducible run's ledger lives in memory and claims nothing: the steps of the earlier process are written into it again.
        for step in 0..snapshot.step {
            drop(noisy.ledger.charge(step)?);
        }
        Ok(())
    }

    pub(crate) fn report(&self, dimension: usize, steps_taken: u64) -> Result<Option<PrivacyReport>, TrainError> {
        let Some(noisy) = &self.noisy else { return Ok(None) };
        let context = ReportContext {
            config: noisy.grid,
            dimension,
            sampler: if noisy.grid.strategy.is_independent() {
                sprint_dp::report::Sampler::Poisson
            } else {
                sprint_dp::report::Sampler::CyclicPoisson
            },
            released: vec![Released::FinalModel],
            steps_taken,
        };
        Ok(Some(PrivacyReport::new(&noisy.plan, &noisy.ledger, context)?))
    }
}

impl Noisy {
    pub(crate) fn open(
        privacy: &PrivacyConfig,
        config: &TrainConfig,
        records: u64,
        layout: &Layout,
        (accounting, source): (Option<Accounting>, &RandomSource),
        mechanics: &dyn Mechanics,
    ) -> Result<Self, TrainError> {
        let (epsilon, delta) = (Epsilon::new(privacy.epsilon)?, Delta::new(privacy.delta)?);
        let request = Request {
            records,
            expected_batch: config.batch_size as u64,
            epochs: config.epochs,
            epsilon,
            delta,
            dimension: layout.dim() as u64,
            bands: privacy.bands,
        };
        let plan = Plan::calibrate(request, Accountant::Pld)?;
        let clip = ClipNorm::new(privacy.clip)?;
        let claimed = GridConfig { clip, sigma: plan.sigma(), bits: GridBits::default(), strategy: plan.strategy() };
        let grid = mechanics.grid(claimed);
        let lengths: Vec<usize> = layout.parameters().iter().map(sprint_model::Parameter::len).collect();
        let mechanism = GridMechanism::new(grid, &lengths)?;
        let accounting = if source.is_private() {
            accounting.ok_or(TrainError::NoLedger)?
        } else {
            // Attempts of earlier processes must not move a reproducible run's streams, and nothing is claimed for it.
            let run = RunId::new("reproducible").map_err(|_| TrainError::NoLedger)?;
            Accounting { sink: Box::new(MemorySink::default()), data_set: "reproducible".to_owned(), run }
        };
        let mut ledger = Ledger::open(accounting.sink, &accounting.data_set)?;
        if let Some(max) = privacy.max_epsilon {
            ledger.limit(Limit { epsilon: Epsilon::new(max)?, delta });
        }
        let planned = plan.steps().get();
        let terms = RunTerms { run: accounting.run, q: plan.q(), config: grid, dimension: layout.dim(), planned };
        ledger.begin_run(terms, source)?;
        Ok(Self { plan, grid, mechanism, ledger })
    }
}
