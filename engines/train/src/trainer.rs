//! The training loop.

use std::collections::BTreeMap;
use std::io;
use std::sync::Mutex;

use serde::{Deserialize, Serialize};
use sprint_dp::accountant::AccountantError;
use sprint_dp::budget::{BudgetError, ClipNorm, Delta, Epsilon};
use sprint_dp::calibrate::{Accountant, Plan, Request, steps_for};
use sprint_dp::ledger::{Ledger, LedgerError, LedgerSink, Limit, MemorySink, RunId, RunTerms};
use sprint_dp::mechanism::{GridBits, GridConfig, GridMechanism, MechanismError};
use sprint_dp::randomness::{EntropyError, RandomSource};
use sprint_dp::report::{PrivacyReport, Released, ReportContext, ReportError};
use sprint_dp::sample::{PoissonSampler, ShuffledSampler};
use sprint_model::{
    Batch, BatchError, Checkpoint, CheckpointError, Example, ModelSpec, ParamPath, TensorData, buckets_by_length,
};
use thiserror::Error;

use crate::config::{PrivacyConfig, Sampling, TrainConfig};
use crate::device::{Backend, BackendMissing};
use crate::engine::{EngineError, ParamSet};
use crate::eval::{LENGTH_MULTIPLE, upload};
use crate::layout::Layout;
use crate::optim::Optimiser;
use crate::per_sample::{Differentiable, Granularity};
use crate::snapshot::{Snapshot, SnapshotError};
use crate::start::start;
use crate::validate::ConfigError;
use crate::workers::Workers;

/// What a run trains on.
#[derive(Debug, Clone, Copy)]
pub struct TrainInputs<'a> {
    /// The pretrained model; a head it may have is used only if it fits.
    pub base: &'a Checkpoint,
    /// The training split, all of it labelled.
    pub examples: &'a [Example],
    /// Classes, or 1 for regression.
    pub outputs: usize,
}

/// Where a private run's steps are charged.
pub struct Accounting {
    /// The ledger's bytes, durable.
    pub sink: Box<dyn LedgerSink + Send>,
    /// The data set's name in the ledger.
    pub data_set: String,
    /// The run's name, the same after a crash.
    pub run: RunId,
}

/// A step that has been taken. Neither a loss nor a batch size: both depend on private data.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress {
    /// Steps taken.
    pub step: u64,
    /// Of so many.
    pub steps: u64,
    /// The learning rate of the step.
    pub learning_rate: f64,
    /// The mean loss of the step's batch; only without privacy.
    pub loss: Option<f64>,
}

/// Who watches a run, keeps its snapshots and may stop it.
pub trait TrainObserver {
    /// Called after every step.
    fn progress(&mut self, progress: &Progress) {
        let _ = progress;
    }

    /// Keeps a snapshot, replacing the last one; returns when it is durable. Snapshots are secret.
    fn snapshot(&mut self, bytes: &[u8]) -> io::Result<()> {
        let _ = bytes;
        Ok(())
    }

    /// Whether to stop before the next step.
    fn cancelled(&mut self) -> bool {
        false
    }
}

/// Watches nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl TrainObserver for Unobserved {}

/// What a run leaves behind.
#[derive(Debug, Clone)]
pub struct TrainedModel {
    /// The trained model's shape.
    pub spec: ModelSpec,
    /// What the base model lacks or no longer has: every trained parameter, and LoRA's `A` where it was frozen.
    pub params: BTreeMap<ParamPath, TensorData>,
    /// The names of the trained ones.
    pub trained: Vec<ParamPath>,
    /// The privacy report; `None` without privacy.
    pub privacy: Option<PrivacyReport>,
    /// One entry a step of this process.
    pub history: Vec<HistoryEntry>,
    /// Examples whose gradient was not finite and counted as 0, over all steps of this process. Depends on the data: as secret as the data.
    pub rejected_examples: u64,
}

/// One step of the history.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HistoryEntry {
    /// Its number, from 0.
    pub step: u64,
    /// Its learning rate.
    pub learning_rate: f64,
    /// The mean loss; only without privacy.
    pub loss: Option<f64>,
}

/// Why a run stopped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The request.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A private run was not given a ledger.
    #[error("a private run needs a ledger to charge its steps to")]
    NoLedger,
    /// The backend is not in this build.
    #[error(transparent)]
    Backend(#[from] BackendMissing),
    /// The base model.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A forward or backward pass.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// Examples that form no batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Calibration or accounting.
    #[error(transparent)]
    Accountant(#[from] AccountantError),
    /// A budget field.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The report would not match the run.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The mechanism.
    #[error(transparent)]
    Mechanism(#[from] MechanismError),
    /// The operating system's randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// A snapshot to continue from.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A snapshot could not be kept.
    #[error("a snapshot could not be kept: {0}")]
    KeepSnapshot(#[source] io::Error),
    /// Threads could not be started.
    #[error("worker threads could not be started: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// The configuration could not be digested.
    #[error("the configuration could not be encoded: {0}")]
    Encode(#[from] serde_json::Error),
    /// The parameters became infinite or NaN; the learning rate is too large.
    #[error("the parameters are no longer finite after step {step}; lower learning_rate")]
    Diverged {
        /// Counted from 0.
        step: u64,
    },
    /// The observer asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// Fine-tunes `inputs.base` on `inputs.examples`.
///
/// A private run (`config.privacy` without `config.seed`) charges every step to `accounting` before its noise is drawn. `resume` is the last
/// snapshot the observer kept, if any. The number of steps taken is the number the noise was calibrated for: both come from one [`Plan`].
pub fn train(
    inputs: TrainInputs<'_>,
    config: &TrainConfig,
    accounting: Option<Accounting>,
    resume: Option<&[u8]>,
    observer: &mut dyn TrainObserver,
) -> Result<TrainedModel, TrainError> {
    let (spec, layout) = config.validate(inputs.base.spec(), inputs.examples, inputs.outputs)?;
    let model = start(inputs.base, &spec, config.a_init(), config.init_seed)?;
    model.require_complete()?;
    let digest = run_digest(&inputs, config)?;
    let mut run = Run::prepare(inputs.examples, config, &model, layout)?;
    let mut budget = Budget::open(config, inputs.examples.len(), &run.layout, accounting)?;
    if let Some(bytes) = resume {
        let snapshot = Snapshot::decode(bytes)?;
        snapshot.check(&digest, run.layout.dim(), budget.steps)?;
        budget.resume(&snapshot)?;
        run.restore(snapshot, config)?;
    }
    let mut history = Vec::new();
    let mut rejected_examples = 0;
    while run.step < budget.steps {
        if observer.cancelled() {
            return Err(TrainError::Cancelled);
        }
        let outcome = run.gradient(&mut budget, config)?;
        let learning_rate = config.learning_rate * config.schedule.factor(run.step, budget.steps);
        run.optimiser.step(&mut run.theta, &outcome.mean, learning_rate, outcome.noise_variance);
        if !run.theta.iter().all(|v| v.is_finite()) {
            return Err(TrainError::Diverged { step: run.step });
        }
        rejected_examples += outcome.rejected;
        history.push(HistoryEntry { step: run.step, learning_rate, loss: outcome.loss });
        run.step += 1;
        observer.progress(&Progress { step: run.step, steps: budget.steps, learning_rate, loss: outcome.loss });
        let due = config.snapshot_every > 0 && run.step.is_multiple_of(config.snapshot_every);
        if due && run.step < budget.steps {
            let bytes = run.snapshot(&digest, &budget).encode()?;
            observer.snapshot(&bytes).map_err(TrainError::KeepSnapshot)?;
        }
    }
    let privacy = budget.report(run.layout.dim(), run.optimiser.steps())?;
    let (params, trained) = run.result(inputs.base, &model);
    Ok(TrainedModel { spec, params, trained, privacy, history, rejected_examples })
}

/// Digest of everything that decides a run's result: configuration (what changes speed alone left out), model and data.
fn run_digest(inputs: &TrainInputs<'_>, config: &TrainConfig) -> Result<String, serde_json::Error> {
    let defaults = TrainConfig::default();
    let essential = TrainConfig {
        microbatch: defaults.microbatch,
        threads: defaults.threads,
        device: defaults.device,
        snapshot_every: defaults.snapshot_every,
        ..config.clone()
    };
    let mut hasher = blake3::Hasher::new_derive_key("sprint-train 2026-11 run digest");
    let mut field = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    field(&serde_json::to_vec(&essential)?);
    field(&serde_json::to_vec(inputs.base.spec())?);
    field(&(inputs.outputs as u64).to_le_bytes());
    for (path, tensor) in inputs.base.params() {
        field(path.as_str().as_bytes());
        field(&tensor.data().iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>());
    }
    for example in inputs.examples {
        field(&example.ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>());
        field(&example.type_ids);
        field(format!("{:?}", example.label).as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The mechanism and the ledger of a run with noise.
struct Noisy {
    plan: Plan,
    grid: GridConfig,
    mechanism: GridMechanism,
    ledger: Ledger<Box<dyn LedgerSink + Send>>,
}

/// How many steps a run takes, where its randomness comes from and what its noise costs.
struct Budget {
    steps: u64,
    source: RandomSource,
    sampler: Sampler,
    noisy: Option<Noisy>,
}

enum Sampler {
    Poisson(PoissonSampler),
    Shuffled { sampler: ShuffledSampler, epoch: Option<(u64, Vec<Vec<u32>>)>, per_epoch: u64 },
}

impl Sampler {
    /// The examples of a step.
    fn batch(&mut self, source: &RandomSource, step: u64, attempt: u64) -> Vec<usize> {
        let batch = match self {
            Self::Poisson(sampler) => sampler.batch(source, step, attempt),
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
    fn open(config: &TrainConfig, examples: usize, layout: &Layout, accounting: Option<Accounting>) -> Result<Self, TrainError> {
        let source = config.seed.map_or_else(RandomSource::private, |seed| Ok(RandomSource::reproducible(seed)))?;
        let (n, b) = (examples as u64, config.batch_size as u64);
        let Some(privacy) = config.privacy else {
            let (sampler, steps) = match config.sampling {
                Sampling::Poisson => {
                    let q = sprint_dp::budget::SamplingRate::from_batch(b, n)?;
                    (Sampler::Poisson(PoissonSampler::new(examples, q)?), steps_for(n, b, config.epochs)?.get())
                }
                Sampling::Shuffled => {
                    let per_epoch = n.div_ceil(b);
                    let sampler = ShuffledSampler::new(examples, config.batch_size)?;
                    let steps = (config.epochs * per_epoch as f64).round().max(1.0) as u64;
                    (Sampler::Shuffled { sampler, epoch: None, per_epoch }, steps)
                }
            };
            return Ok(Self { steps, source, sampler, noisy: None });
        };
        let noisy = Noisy::open(&privacy, config, n, layout, accounting, &source)?;
        let sampler = Sampler::Poisson(PoissonSampler::new(examples, noisy.plan.q())?);
        Ok(Self { steps: noisy.plan.steps().get(), source, sampler, noisy: Some(noisy) })
    }

    /// Continues after a snapshot; refuses one that knows charges the ledger has lost.
    fn resume(&mut self, snapshot: &Snapshot) -> Result<(), TrainError> {
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

    fn report(&self, dimension: usize, steps_taken: u64) -> Result<Option<PrivacyReport>, TrainError> {
        let Some(noisy) = &self.noisy else { return Ok(None) };
        let context = ReportContext {
            config: noisy.grid,
            dimension,
            sampler: sprint_dp::report::Sampler::Poisson,
            released: vec![Released::FinalModel],
            steps_taken,
        };
        Ok(Some(PrivacyReport::new(&noisy.plan, &noisy.ledger, context)?))
    }
}

impl Noisy {
    fn open(
        privacy: &PrivacyConfig,
        config: &TrainConfig,
        records: u64,
        layout: &Layout,
        accounting: Option<Accounting>,
        source: &RandomSource,
    ) -> Result<Self, TrainError> {
        let (epsilon, delta) = (Epsilon::new(privacy.epsilon)?, Delta::new(privacy.delta)?);
        let request = Request {
            records,
            expected_batch: config.batch_size as u64,
            epochs: config.epochs,
            epsilon,
            delta,
            dimension: layout.dim() as u64,
        };
        let plan = Plan::calibrate(request, Accountant::Pld)?;
        let grid = GridConfig { clip: ClipNorm::new(privacy.clip)?, sigma: plan.sigma(), bits: GridBits::default() };
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

/// The mean gradient of a step, noisy or not.
struct Outcome {
    mean: Vec<f32>,
    noise_variance: f64,
    loss: Option<f64>,
    rejected: u64,
}

/// A model in training.
struct Run<'a> {
    examples: &'a [Example],
    spec: ModelSpec,
    layout: Layout,
    backend: Backend,
    frozen: ParamSet,
    workers: Workers,
    theta: Vec<f32>,
    optimiser: Optimiser,
    step: u64,
}

impl<'a> Run<'a> {
    fn prepare(examples: &'a [Example], config: &TrainConfig, model: &Checkpoint, layout: Layout) -> Result<Self, TrainError> {
        let backend = Backend::open(config.device)?;
        let frozen = upload(model, &backend);
        let theta: Vec<f32> =
            layout.parameters().iter().flat_map(|p| model.get(&p.path).map_or(&[][..], TensorData::data)).copied().collect();
        let optimiser = Optimiser::new(config.optimiser, theta.len());
        let workers = Workers::new(config.threads)?;
        Ok(Self { examples, spec: model.spec().clone(), layout, backend, frozen, workers, theta, optimiser, step: 0 })
    }

    fn restore(&mut self, snapshot: Snapshot, config: &TrainConfig) -> Result<(), SnapshotError> {
        let Snapshot { step, theta, first, second, .. } = snapshot;
        let optimiser = Optimiser::restored(config.optimiser, theta.len(), first, second, step);
        self.optimiser = optimiser.ok_or(SnapshotError::Shape("optimiser state"))?;
        (self.theta, self.step) = (theta, step);
        Ok(())
    }

    fn snapshot(&self, digest: &str, budget: &Budget) -> Snapshot {
        let (first, second) = self.optimiser.moments();
        Snapshot {
            step: self.step,
            run_digest: digest.to_owned(),
            ledger: budget.noisy.as_ref().map(|noisy| noisy.ledger.head()),
            theta: self.theta.clone(),
            first: first.to_vec(),
            second: second.to_vec(),
        }
    }

    /// The gradient of this step. In a run with noise the ledger's charge is durable before the batch is even sampled.
    fn gradient(&self, budget: &mut Budget, config: &TrainConfig) -> Result<Outcome, TrainError> {
        let Budget { source, sampler, noisy, .. } = budget;
        let Some(noisy) = noisy else {
            let batch = sampler.batch(source, self.step, 0);
            let (sum, loss) = self.summed(&batch, config)?;
            let mean = sum.iter().map(|v| (v / config.batch_size as f64) as f32).collect();
            let loss = (!batch.is_empty()).then(|| loss / batch.len() as f64);
            return Ok(Outcome { mean, noise_variance: 0.0, loss, rejected: 0 });
        };
        let charge = noisy.ledger.charge(self.step)?;
        let batch = sampler.batch(source, self.step, charge.attempt());
        self.accumulate(&batch, config, &mut noisy.mechanism)?;
        let rejected = noisy.mechanism.rejected();
        let mean = noisy.mechanism.finish(charge, source)?.mean(noisy.plan.expected_batch());
        Ok(Outcome { mean: mean.values().to_vec(), noise_variance: mean.noise_variance(), loss: None, rejected })
    }

    /// Adds every example's clipped gradient to the mechanism. Sums are of integers, so neither the cut into physical batches nor the order
    /// of threads changes them.
    fn accumulate(&self, batch: &[usize], config: &TrainConfig, mechanism: &mut GridMechanism) -> Result<(), TrainError> {
        let cuts = self.cut(batch, self.private_rows(config));
        let mechanism = Mutex::new(mechanism);
        let add = |(): &mut (), item: usize| -> Result<(), TrainError> {
            let (physical, rows) = self.physical(batch, &cuts[item])?;
            let gradients =
                self.model().gradients(&self.theta, &physical, &rows, Granularity::PerExample, self.dropout(config))?;
            let slabs: Vec<&[f32]> = gradients.blocks.iter().map(Vec::as_slice).collect();
            let mut mechanism = mechanism.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            Ok(mechanism.accumulate_batch(gradients.rows, &slabs, None)?)
        };
        self.workers.fold(cuts.len(), || (), add)?;
        Ok(())
    }

    /// The sum of gradients and of losses, without clipping.
    fn summed(&self, batch: &[usize], config: &TrainConfig) -> Result<(Vec<f64>, f64), TrainError> {
        let cuts = self.cut(batch, config.microbatch.div_ceil(self.workers.count()).max(1));
        let empty = || (vec![0.0_f64; self.layout.dim()], 0.0_f64);
        let add = |(sum, loss): &mut (Vec<f64>, f64), item: usize| -> Result<(), TrainError> {
            let (physical, rows) = self.physical(batch, &cuts[item])?;
            let gradients = self.model().gradients(&self.theta, &physical, &rows, Granularity::Sum, self.dropout(config))?;
            let values = gradients.blocks.iter().flatten();
            sum.iter_mut().zip(values).for_each(|(s, g)| *s += f64::from(*g));
            *loss += gradients.losses.iter().map(|l| f64::from(*l)).sum::<f64>();
            Ok(())
        };
        let mut total = empty();
        for (sum, loss) in self.workers.fold(cuts.len(), empty, add)? {
            total.0.iter_mut().zip(&sum).for_each(|(t, s)| *t += s);
            total.1 += loss;
        }
        Ok(total)
    }

    fn model(&self) -> Differentiable<'_> {
        Differentiable { spec: &self.spec, backend: &self.backend, frozen: &self.frozen, layout: &self.layout }
    }

    fn dropout(&self, config: &TrainConfig) -> Option<(u64, u64)> {
        Some((config.init_seed, self.step))
    }

    /// Examples of one physical batch: each worker takes its part of a microbatch. A trained table or whole dense layer is too large to copy
    /// for every example, so such examples go one by one.
    fn private_rows(&self, config: &TrainConfig) -> usize {
        if self.layout.is_low_rank() { config.microbatch.div_ceil(self.workers.count()).max(1) } else { 1 }
    }

    /// Cuts a logical batch into physical ones of similar length, longest first so that workers finish together.
    fn cut(&self, batch: &[usize], rows: usize) -> Vec<sprint_model::Bucket> {
        let lengths: Vec<usize> = batch.iter().map(|i| self.examples[*i].ids.len()).collect();
        let mut cuts = buckets_by_length(&lengths, LENGTH_MULTIPLE, rows);
        cuts.reverse();
        cuts
    }

    fn physical(&self, batch: &[usize], cut: &sprint_model::Bucket) -> Result<(Batch, Vec<usize>), TrainError> {
        let rows: Vec<usize> = cut.rows.iter().map(|row| batch[*row]).collect();
        let physical = Batch::new(rows.iter().map(|i| &self.examples[*i]), cut.tokens, self.spec.pad_token)?;
        Ok((physical, rows))
    }

    /// The parameters that differ from the base model's, and the names of the trained ones.
    fn result(&self, base: &Checkpoint, model: &Checkpoint) -> (BTreeMap<ParamPath, TensorData>, Vec<ParamPath>) {
        let mut params = BTreeMap::new();
        for parameter in self.spec.parameters() {
            let added = model.get(&parameter.path).filter(|t| base.get(&parameter.path) != Some(*t));
            if let Some(tensor) = added.filter(|_| !self.layout.contains(&parameter.path)) {
                params.insert(parameter.path, tensor.clone());
            }
        }
        let mut trained = Vec::new();
        for (parameter, values) in self.layout.slices(&self.theta) {
            let tensor = TensorData::new(parameter.shape.clone(), values.to_vec());
            params.insert(parameter.path.clone(), tensor.expect("a slice has its parameter's length"));
            trained.push(parameter.path.clone());
        }
        (params, trained)
    }
}
