//! `finetune@1`: a pretrained encoder learns a task under differential privacy.
//!
//! **Spends privacy.** Every noisy step is charged to a ledger that outlives attempts before its noise is drawn; an attempt
//! that continues after a crash draws fresh noise, and everything ever charged is in the report.

mod head_start;
mod mirror;
mod params;
mod trials;

#[cfg(test)]
pub(crate) mod tests;

use std::io;
use std::time::Instant;

use serde_json::{Value, json};
use sprint_artifacts::{Digest, Manifest, Secrecy, Store};
use sprint_dp::ledger::{FileSink, LedgerError, LedgerSink, RunId};
use sprint_model::ModelSpec;
use sprint_stage_api::{
    CachePolicy, Effect, ErrorClass, Forecast, Foreseen, ForeseenInputs, InputPort, OutputPort, ParamProblem, Stage,
    StageContext, StageError, StageOutputs, StageSpec,
};
use sprint_train::{
    Accounting, PrivacyReport, Progress, TrainConfig, TrainError, TrainInputs, TrainObserver, TrainedModel, train,
};

use crate::dataset::{self, Split};
use crate::errors::{stamped, with_causes};
use crate::model::{self, ModelFacts};
use crate::params as parameters;
use crate::privacy::{PrivacyClaim, PrivacyDocument};
use mirror::MirroredSink;
use params::FinetuneParams;

/// The ledger's file in an action's folder.
const LEDGER: &str = "privacy.ledger";

/// The stage.
pub(crate) struct Finetune {
    spec: StageSpec,
}

impl Finetune {
    pub(crate) fn new() -> Self {
        let input = |name, artifact| InputPort { name, artifact, optional: false, gather: false };
        let output = |name, artifact, secrecy| OutputPort { name, artifact, secrecy };
        let spec = StageSpec {
            kind: "finetune",
            version: 1,
            about: "Fine-tunes a pretrained encoder on a data set under differential privacy.",
            inputs: vec![input("dataset", "dataset"), input("model", "files")],
            outputs: vec![
                output("model", "model", Secrecy::Secret),
                output("report", "privacy-report", Secrecy::Public),
                output("history", "history", Secrecy::Secret),
            ],
            effect: Effect::SpendsPrivacy,
            cache: CachePolicy::Always,
            code_digest: crate::code::FINETUNE,
            params_schema: parameters::schema::<FinetuneParams>(),
        };
        Self { spec }
    }
}

impl Stage for Finetune {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn normalise(&self, params: &Value) -> Result<Value, Vec<ParamProblem>> {
        parameters::normalise::<FinetuneParams>(params)
    }

    fn forecast(&self, store: &Store, params: &Value, inputs: &ForeseenInputs) -> Forecast {
        let facts = shape(store, params, inputs).map(|facts| ("model".to_owned(), json!(facts)));
        Forecast { outputs: facts.into_iter().collect(), cost: None }
    }

    fn run(&self, ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
        let params: FinetuneParams = ctx.params_as()?;
        let config = params.config(ctx.cpus()).map_err(|p| StageError::permanent(format!("{p:?}")))?;
        let (meta, examples) = dataset::load(ctx.store(), &ctx.input("dataset")?.id, Split::Train)?;
        let all = examples.len();
        let examples = params.select(examples)?;
        if examples.len() < all {
            ctx.log(format!("min_tokens leaves {} of {all} examples", examples.len()));
        }
        let pretrained = model::pretrained(ctx, "model")?;
        if meta.vocab != pretrained.checkpoint.spec().vocab {
            let message = format!(
                "the data set was tokenised for {} pieces, the model has {}",
                meta.vocab,
                pretrained.checkpoint.spec().vocab
            );
            return Err(StageError::permanent(message).help("connect the same model to tokenize and finetune"));
        }
        let described = match params.head_start() {
            Some(start) => start.texts(&meta.classes, pretrained.tokenizer()?, pretrained.checkpoint.spec())?,
            None => Vec::new(),
        };
        let inputs =
            TrainInputs { base: &pretrained.checkpoint, examples: &examples, outputs: meta.outputs(), described: &described };
        let trained = attempt(ctx, &config, inputs)?;
        let document = PrivacyDocument::new(claim(trained.privacy.as_ref(), params.delta()), json!(trained.privacy));
        let document = document.with_trials(trials::of(ctx, &config)?);
        if !document.claim.private {
            ctx.log("this model is NOT private: it was trained without noise, or with noise that a public seed reproduces");
        }
        let report = document.store(ctx)?;
        let history =
            serde_json::to_vec(&json!({"version": 1, "steps": trained.history, "rejected_examples": trained.rejected_examples}));
        let history = history.map_err(|e| StageError::permanent(e.to_string()))?;
        let history = Manifest::builder("history@1", Secrecy::Secret).bytes("history.json", history);
        let private = document.claim.private;
        let history = ctx.put(stamped(history, private))?;
        let model = model::store(ctx, pretrained, trained.spec, &trained.params, config.tuning(), &meta.task, private)?;
        Ok(StageOutputs::new().with("model", model).with("report", report).with("history", history))
    }
}

/// The shape of the model that would be trained.
fn shape(store: &Store, params: &Value, inputs: &ForeseenInputs) -> Option<ModelFacts> {
    let params: FinetuneParams = serde_json::from_value(params.clone()).ok()?;
    let config = params.config(1).ok()?;
    let (Foreseen::Artifact(files), Foreseen::Artifact(dataset)) = (inputs.get("model")?, inputs.get("dataset")?) else {
        return None;
    };
    let json = store.read_file(&store.read_artifact(files).ok()?, "config.json").ok()?;
    let base = ModelSpec::from_hf_config(&json).ok()?;
    let outputs = dataset::meta(store, dataset).ok()?.outputs();
    Some(ModelFacts { spec: config.spec(&base, outputs).ok()?, tuning: config.tuning() })
}

/// Trains, from the newest checkpoint if there is one.
fn attempt(ctx: &StageContext<'_>, config: &TrainConfig, inputs: TrainInputs<'_>) -> Result<TrainedModel, StageError> {
    let resume = ctx.checkpoints().latest()?;
    if resume.is_some() {
        ctx.log("continuing from a checkpoint; steps repeated since then are charged again");
    }
    let mut watcher = Watcher { ctx, kept: Instant::now() };
    match train(inputs, config, accounting(ctx, config)?, resume.as_deref(), &mut watcher) {
        // A checkpoint that cannot be read costs steps, not the run: the ledger still charges what was spent.
        Err(TrainError::Snapshot(e)) => {
            ctx.log(format!("the checkpoint is of no use ({}); training starts again", with_causes(&e)));
            train(inputs, config, accounting(ctx, config)?, None, &mut watcher).map_err(stage_error)
        }
        other => other.map_err(stage_error),
    }
}

/// The ledger of this action, for a run that spends.
fn accounting(ctx: &StageContext<'_>, config: &TrainConfig) -> Result<Option<Accounting>, StageError> {
    if config.privacy.is_none() || config.seed.is_some() {
        return Ok(None);
    }
    let path = ctx.checkpoints().ledger_dir().join(LEDGER);
    let sink = FileSink::open(&path).map_err(|e| {
        let class = if e.kind() == io::ErrorKind::WouldBlock { ErrorClass::Transient } else { ErrorClass::Permanent };
        StageError::new(class, format!("the privacy ledger {}: {e}", path.display()))
    })?;
    let sink: Box<dyn LedgerSink + Send> = match ctx.checkpoints().ledger_mirror() {
        Some(mirror) => Box::new(MirroredSink::new(sink, mirror, LEDGER)),
        None => Box::new(sink),
    };
    let data_set = ctx.input("dataset")?.id.to_string();
    // The same for every attempt of this action: a restart is no new trial.
    let run = format!("{data_set} {}", Digest::of(ctx.params().to_string().as_bytes()));
    let run = RunId::new(run).map_err(|e| StageError::permanent(e.to_string()))?;
    Ok(Some(Accounting { sink, data_set, run }))
}

/// The claim in the metrics table's terms, from the trainer's report.
fn claim(report: Option<&PrivacyReport>, delta: f64) -> PrivacyClaim {
    let segment = report.and_then(|r| r.segments.first());
    let sum = |r: &PrivacyReport| r.segments.iter().map(|s| s.steps.get()).sum();
    let epsilon = report.and_then(|r| r.claim.as_ref()).map(|c| c.epsilon);
    PrivacyClaim {
        epsilon,
        delta: report.map(|_| delta),
        sigma: segment.map(|s| s.sigma.get()),
        q: segment.map(|s| s.q.get()),
        steps: report.map(sum),
        accountant: epsilon.map(|_| "pld".to_owned()),
        private: report.is_some_and(|r| r.private),
    }
}

fn stage_error(error: TrainError) -> StageError {
    let class = match &error {
        TrainError::Cancelled => ErrorClass::Cancelled,
        TrainError::Ledger(LedgerError::BudgetExceeded { .. }) => ErrorClass::Refused,
        TrainError::Ledger(LedgerError::Damaged { .. } | LedgerError::RolledBack { .. }) => ErrorClass::Integrity,
        TrainError::Ledger(LedgerError::Io(_))
        | TrainError::KeepSnapshot(_)
        | TrainError::Entropy(_)
        | TrainError::Threads(_) => ErrorClass::Transient,
        _ => ErrorClass::Permanent,
    };
    let stage = StageError::new(class, with_causes(&error));
    match class {
        ErrorClass::Refused => stage.help("what was spent stays spent; raise max_epsilon only if the larger claim is acceptable"),
        _ => stage,
    }
}

/// Passes the trainer's progress and checkpoints on.
struct Watcher<'a, 'c> {
    ctx: &'a StageContext<'c>,
    kept: Instant,
}

impl TrainObserver for Watcher<'_, '_> {
    fn progress(&mut self, progress: &Progress) {
        let loss = progress.loss.map(|l| format!(", loss {l:.4}")).unwrap_or_default();
        let note = format!("learning rate {:.1e}{loss}", progress.learning_rate);
        self.ctx.progress(progress.step, Some(progress.steps), "steps", Some(note));
    }

    /// By the workflow's clock (`checkpoint: {every: 10m}`), and before a cancelled run ends.
    fn wants_snapshot(&mut self) -> bool {
        self.ctx.is_cancelled() || self.ctx.checkpoints().every().is_some_and(|every| self.kept.elapsed() >= every)
    }

    fn snapshot(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.kept = Instant::now();
        self.ctx.checkpoints().offer(bytes).map_err(io::Error::other)
    }

    fn cancelled(&mut self) -> bool {
        self.ctx.is_cancelled()
    }
}
