//! The stage itself and what it declares.

use std::collections::BTreeMap;
use std::path::Path;

use crate::{CachePolicy, Effect, ParamProblem, StageContext, StageError, StageOutputs};
use sprint_artifacts::{ArtifactId, Secrecy, Store};

/// An input a stage reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputPort {
    /// The name under `inputs:` in a workflow.
    pub name: &'static str,
    /// The artifact kind it takes (`dataset`, `model`, `hosts`, …), equal to a producer's [`OutputPort::artifact`].
    pub artifact: &'static str,
    /// Whether a workflow may leave it out.
    pub optional: bool,
    /// Whether it takes `gather:`, a table of artifacts with axis columns.
    pub gather: bool,
}

/// An output a stage makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputPort {
    /// The name after the dot in `stage.output`.
    pub name: &'static str,
    /// The artifact kind.
    pub artifact: &'static str,
    /// Who may see it.
    pub secrecy: Secrecy,
}

/// What a kind of stage declares: enough to validate, plan and key it without running it.
#[derive(Debug, Clone)]
pub struct StageSpec {
    /// The kind's name in a workflow (`download`), without version.
    pub kind: &'static str,
    /// Raised whenever equal inputs and parameters may give other bytes.
    pub version: u32,
    /// One sentence for `schema` and `validate`.
    pub about: &'static str,
    /// What it reads.
    pub inputs: Vec<InputPort>,
    /// What it makes.
    pub outputs: Vec<OutputPort>,
    /// What running it again would mean.
    pub effect: Effect,
    /// The cache policy unless the workflow says otherwise.
    pub cache: CachePolicy,
    /// Digest over the kind's source closure and locked dependencies, made at build time.
    pub code_digest: &'static str,
    /// JSON Schema of `params`, for editors.
    pub params_schema: serde_json::Value,
}

/// What a plan knows of an output before anything runs.
#[derive(Debug, Clone, PartialEq)]
pub enum Foreseen {
    /// It is there already.
    Artifact(ArtifactId),
    /// It is not, but its producer foresees this of it, in words that consumers of its artifact kind understand.
    Facts(serde_json::Value),
}

/// What is known of a stage's inputs, by port; of gathering ports nothing.
pub type ForeseenInputs = BTreeMap<String, Foreseen>;

/// What a stage foresees before it runs.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Forecast {
    /// Facts about outputs, by port.
    pub outputs: BTreeMap<String, serde_json::Value>,
    /// What running will cost, in the stage's own words.
    pub cost: Option<serde_json::Value>,
}

/// A kind of stage.
///
/// **Invariant**: outputs depend only on what is in the action key (kind, version, code digest, normalised parameters, input
/// digests, declared seed); anything else a stage reads must not change a byte, unless its [`Effect`] says so.
pub trait Stage: Send + Sync {
    /// What it declares.
    fn spec(&self) -> &StageSpec;

    /// Checks `params` and fills in defaults; the result goes into the action key. Reports every problem, not only the first.
    fn normalise(&self, params: &serde_json::Value) -> Result<serde_json::Value, Vec<ParamProblem>>;

    /// Pins what the stage reads from local files into normalised parameters (a digest of their bytes), so that a changed
    /// input byte changes the action key. The planner calls it after [`Stage::normalise`] with the folder that relative paths
    /// are resolved against; it is cheap, and the identity for stages that read no files.
    fn pin(&self, params: &serde_json::Value, base: &Path) -> Result<serde_json::Value, Vec<ParamProblem>> {
        let _ = base;
        Ok(params.clone())
    }

    /// What can be said of outputs and costs from what is known of the inputs; for `plan`, so it must be quick. Whatever is wrong with an
    /// input will be told by running: here it is merely unknown.
    fn forecast(&self, store: &Store, params: &serde_json::Value, inputs: &ForeseenInputs) -> Forecast {
        let _ = (store, params, inputs);
        Forecast::default()
    }

    /// Does the work. `ctx.params()` is what [`Stage::normalise`] and [`Stage::pin`] returned.
    fn run(&self, ctx: &StageContext<'_>) -> Result<StageOutputs, StageError>;

    /// Gives back what a [`Effect::Lease`] stage holds. Called once its last consumer ended, and again after a crash: it must be
    /// idempotent. `outputs` are those of the attempt.
    fn release(&self, ctx: &StageContext<'_>, outputs: &StageOutputs) -> Result<(), StageError> {
        let _ = (ctx, outputs);
        Ok(())
    }
}
