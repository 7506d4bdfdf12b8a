//! `infer-clear@1`: logits of the validation split in the clear, which the private ones are held against.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sprint_artifacts::Secrecy;
use sprint_clear::float::run_logits;
use sprint_model::{Batch, Checkpoint, Example, buckets_by_length};
use sprint_stage_api::{
    CachePolicy, Effect, ErrorClass, InputPort, OutputPort, ParamProblem, Stage, StageContext, StageError, StageOutputs,
    StageSpec,
};
use sprint_train::{Backend, BackendKind, Evaluator};

use crate::dataset::{self, Split};
use crate::errors::with_causes;
use crate::model;
use crate::params::{self, Params};
use crate::predictions::Predictions;

/// Padded lengths are multiples of this.
const LENGTH_MULTIPLE: usize = 8;
/// Examples in one pass.
const BATCH: usize = 32;

/// Parameters of `infer-clear@1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InferClearParams {
    /// The interpreter of the model: the f32 oracle, or burn (faster for large models; equal within 1e-4).
    #[serde(default)]
    engine: ClearEngine,
}

/// The interpreter of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum ClearEngine {
    /// The f32 oracle.
    #[default]
    F32,
    /// burn on the CPU.
    Burn,
}

impl Params for InferClearParams {}

/// The stage.
pub(crate) struct InferClear {
    spec: StageSpec,
}

impl InferClear {
    pub(crate) fn new() -> Self {
        let input = |name, artifact| InputPort { name, artifact, optional: false, gather: false };
        let spec = StageSpec {
            kind: "infer-clear",
            version: 1,
            about: "Classifies the validation split in the clear.",
            inputs: vec![input("model", "model"), input("dataset", "dataset")],
            outputs: vec![OutputPort { name: "predictions", artifact: "predictions", secrecy: Secrecy::Secret }],
            effect: Effect::Pure,
            cache: CachePolicy::Always,
            code_digest: crate::code::INFER_CLEAR,
            params_schema: params::schema::<InferClearParams>(),
        };
        Self { spec }
    }
}

impl Stage for InferClear {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn normalise(&self, params: &Value) -> Result<Value, Vec<ParamProblem>> {
        params::normalise::<InferClearParams>(params)
    }

    fn run(&self, ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
        let params: InferClearParams = ctx.params_as()?;
        let (_, checkpoint) = model::load(ctx.store(), &ctx.input("model")?.id)?;
        let (meta, examples) = dataset::load(ctx.store(), &ctx.input("dataset")?.id, Split::Validation)?;
        let (name, logits) = match params.engine {
            ClearEngine::F32 => ("f32", oracle(ctx, &checkpoint, &examples)?),
            ClearEngine::Burn => ("burn", burn(ctx, &checkpoint, &examples)?),
        };
        let predictions = Predictions::new(&meta, name, &examples, (0..examples.len()).collect(), logits)?;
        for (metric, value) in predictions.scores() {
            ctx.log(format!("{}: {}", metric.name(), value.map_or_else(|| "undefined".to_owned(), |v| format!("{v:.4}"))));
        }
        Ok(StageOutputs::new().with("predictions", predictions.store(ctx)?))
    }
}

fn cancelled() -> StageError {
    StageError::new(ErrorClass::Cancelled, "cancelled")
}

fn failed(error: &dyn std::error::Error) -> StageError {
    StageError::permanent(with_causes(error))
}

/// Length buckets, on as many threads as the stage may use; the result does not depend on how many.
fn oracle(ctx: &StageContext<'_>, checkpoint: &Checkpoint, examples: &[Example]) -> Result<Vec<Vec<f32>>, StageError> {
    let lengths: Vec<usize> = examples.iter().map(|e| e.ids.len()).collect();
    let buckets = buckets_by_length(&lengths, LENGTH_MULTIPLE, BATCH);
    let mut logits: Vec<Vec<f32>> = vec![Vec::new(); examples.len()];
    let mut done = 0;
    for bucket in &buckets {
        if ctx.is_cancelled() {
            return Err(cancelled());
        }
        let batch = Batch::new(bucket.rows.iter().map(|r| &examples[*r]), bucket.tokens, checkpoint.spec().pad_token);
        let batch = batch.map_err(|e| failed(&e))?;
        let rows = run_logits(checkpoint, &batch).map_err(|e| failed(&e))?;
        for (row, values) in bucket.rows.iter().zip(rows) {
            logits[*row] = values;
        }
        done += bucket.rows.len();
        ctx.progress(done as u64, Some(examples.len() as u64), "messages", None);
    }
    Ok(logits)
}

fn burn(ctx: &StageContext<'_>, checkpoint: &Checkpoint, examples: &[Example]) -> Result<Vec<Vec<f32>>, StageError> {
    const CHUNK: usize = 512;
    let backend = Backend::open(BackendKind::Flex).map_err(|e| failed(&e))?;
    let evaluator = Evaluator::new(checkpoint, backend);
    let mut logits = Vec::with_capacity(examples.len());
    for chunk in examples.chunks(CHUNK) {
        if ctx.is_cancelled() {
            return Err(cancelled());
        }
        logits.extend(evaluator.predict(chunk).map_err(|e| failed(&e))?);
        ctx.progress(logits.len() as u64, Some(examples.len() as u64), "messages", None);
    }
    Ok(logits)
}
