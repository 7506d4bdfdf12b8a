//! The training loop.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};
use sprint_dp::ledger::{LedgerSink, RunId};
use sprint_dp::report::PrivacyReport;
use sprint_model::{Checkpoint, Example, ModelSpec, ParamPath, TensorData};

use crate::basis::within_public_directions;
use crate::budget::Budget;
use crate::centre::centred;
use crate::config::TrainConfig;
use crate::described::described;
use crate::device::Backend;
use crate::error::TrainError;
use crate::mechanics::{Mechanics, Sound};
use crate::run::Run;
use crate::snapshot::Snapshot;
use crate::start::start;

/// What a run trains on.
#[derive(Debug, Clone, Copy)]
pub struct TrainInputs<'a> {
    /// The pretrained model; a head it may have is used only if it fits.
    pub base: &'a Checkpoint,
    /// The training split, all of it labelled.
    pub examples: &'a [Example],
    /// Classes, or 1 for regression.
    pub outputs: usize,
    /// Public texts with the class each describes, which the head starts from; none for a random start.
    pub described: &'a [Example],
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

    /// Whether to take a snapshot after this step although `snapshot_every` does not ask for one: time has passed, or the end is near.
    fn wants_snapshot(&mut self) -> bool {
        false
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

/// The most memory for what the layers below every trained one make of the examples; where it takes more, every step computes them again.
const KEPT_BYTES: usize = 2 << 30;

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

/// Fine-tunes `inputs.base` on `inputs.examples`.
///
/// A private run (`config.privacy` without `config.seed`) charges every step to `accounting` before its noise is drawn. `resume` is the last
/// snapshot the observer kept, if any. The number of steps taken is the number the noise was calibrated for: both come from one `Plan`.
pub fn train(
    inputs: TrainInputs<'_>,
    config: &TrainConfig,
    accounting: Option<Accounting>,
    resume: Option<&[u8]>,
    observer: &mut dyn TrainObserver,
) -> Result<TrainedModel, TrainError> {
    train_with(inputs, config, accounting, resume, observer, &mut Sound)
}

/// [`train`] with the given mechanics; all but [`Sound`] belong to the audit.
pub(crate) fn train_with(
    inputs: TrainInputs<'_>,
    config: &TrainConfig,
    accounting: Option<Accounting>,
    resume: Option<&[u8]>,
    observer: &mut dyn TrainObserver,
    mechanics: &mut dyn Mechanics,
) -> Result<TrainedModel, TrainError> {
    let (spec, layout) = config.validate(inputs.base.spec(), inputs.examples, inputs.outputs)?;
    config.validate_described(inputs.base.spec(), inputs.described, inputs.outputs)?;
    let backend = Backend::open(config.device)?;
    let mut model = start(inputs.base, &spec, config.a_init(), config.init_seed)?;
    if config.head.centred {
        model = centred(model, config.head.pooling, config.init_seed, &backend)?;
    }
    if !inputs.described.is_empty() {
        model = described(model, inputs.described, config.head.margin, &backend)?;
    }
    model.require_complete()?;
    let layout = match config.tuning.public_basis() {
        Some(width) => within_public_directions(layout, &model, inputs.described, width, config.init_seed, &backend)?,
        None => layout,
    };
    let digest = run_digest(&inputs, config)?;
    let mut run = Run::prepare(inputs.examples, config, &model, layout, backend)?;
    let mut budget = Budget::open(config, inputs.examples, &run.layout, accounting, mechanics)?;
    if let Some(bytes) = resume {
        let snapshot = Snapshot::decode(bytes)?;
        snapshot.check(&digest, run.layout.dim(), budget.steps)?;
        budget.resume(&snapshot)?;
        run.restore(snapshot)?;
    }
    if config.epochs > 1.0 {
        run.keep_lower_states(KEPT_BYTES, &mut || observer.cancelled())?;
    }
    let mut history = Vec::new();
    let mut rejected_examples = 0;
    while run.step < budget.steps {
        if observer.cancelled() {
            return Err(TrainError::Cancelled);
        }
        let outcome = run.gradient(&mut budget, config, mechanics)?;
        let learning_rate = config.learning_rate * config.schedule.factor(run.step, budget.steps);
        run.apply(&outcome.mean, learning_rate, outcome.noise_variance);
        if !run.theta.iter().all(|v| v.is_finite()) {
            return Err(TrainError::Diverged { step: run.step });
        }
        run.count_into_average(config.average, budget.steps);
        rejected_examples += outcome.rejected;
        history.push(HistoryEntry { step: run.step, learning_rate, loss: outcome.loss });
        run.step += 1;
        observer.progress(&Progress { step: run.step, steps: budget.steps, learning_rate, loss: outcome.loss });
        let due = config.snapshot_every > 0 && run.step.is_multiple_of(config.snapshot_every);
        if (due || observer.wants_snapshot()) && run.step < budget.steps {
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
    field(&(inputs.described.len() as u64).to_le_bytes());
    for example in inputs.described.iter().chain(inputs.examples) {
        field(&example.ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>());
        field(&example.type_ids);
        field(format!("{:?}", example.label).as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}
