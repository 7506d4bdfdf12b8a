//! `share@1`: splits a fine-tuned model into what everybody may see and one secret share for each party.
//!
//! **Fresh randomness.** Two executions give different shares, so a result is named by the action, not by its bytes.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sprint_artifacts::{ArtifactId, Manifest, Secrecy, Store};
use sprint_model::checkpoint::{params_from_safetensors, params_to_safetensors};
use sprint_model::{Calibration, Checkpoint, ModelSpec, Part, Tuning, WeightPolicy};
use sprint_mpc::{Digest, SharedModel};
use sprint_mpc_core::Mode;
use sprint_stage_api::{
    CachePolicy, Effect, Forecast, Foreseen, ForeseenInputs, InputPort, OutputPort, ParamProblem, Stage, StageContext,
    StageError, StageOutputs, StageSpec,
};

use crate::calibrate::{FILE as RANGES_FILE, ModelRanges};
use crate::errors::{store_error, with_causes};
use crate::model::{self, ModelFacts};
use crate::params::{self, Params};

/// The parties' public file, and the client's.
pub(crate) const PUBLIC_FILE: &str = "public.safetensors";
const EMBEDDINGS_FILE: &str = "embeddings.safetensors";
const META_FILE: &str = "shared.json";
/// A party's file.
pub(crate) const SHARE_FILE: &str = "share";
const VERSION: u32 = 1;

/// Parameters of `share@1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShareParams {
    /// Which weights the parties must not see.
    #[serde(default)]
    weights: Weights,
    /// Which gates the shares are for: `calibrated` if `inputs.ranges` is connected and nothing is said, else `exact`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<Gates>,
}

/// Gates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Gates {
    /// Every function to the precision of the ring.
    Exact,
    /// Functions on public ranges, which `inputs.ranges` has; what leaves them is refused.
    Calibrated,
    /// The functions of `exact` from the least dealer material, in more rounds and bytes.
    Lean,
}

impl Gates {
    /// The mode that is asked for, given whether there are ranges.
    fn mode(asked: Option<Self>, ranges: bool) -> Mode {
        match (asked, ranges) {
            (Some(Self::Lean), _) => Mode::Lean,
            (_, true) => Mode::Calibrated,
            (_, false) => Mode::Exact,
        }
    }
}

/// Which weights the parties must not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Weights {
    /// Everything that training changed; the pretrained encoder is public.
    #[default]
    Trained,
    /// Everything after the embeddings.
    All,
}

impl Weights {
    fn policy(self, tuning: Tuning) -> WeightPolicy {
        match self {
            Self::Trained => WeightPolicy::for_tuning(tuning),
            Self::All => WeightPolicy::AllPrivate,
        }
    }
}

impl Params for ShareParams {}

/// Everything about a shared model that is no secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SharedMeta {
    version: u32,
    /// The model's shape.
    pub(crate) spec: ModelSpec,
    /// Which weights are hidden.
    pub(crate) policy: WeightPolicy,
    /// Which gates the shares are for.
    pub(crate) mode: Mode,
    /// The public ranges that mode `calibrated` relies on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) calibration: Option<Calibration>,
    /// Names this sharing; the parties' handshake compares it.
    pub(crate) digest: Digest,
    /// The task.
    pub(crate) task: String,
}

/// What decides a shared model's programs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SharedFacts {
    pub(crate) spec: ModelSpec,
    pub(crate) policy: WeightPolicy,
    pub(crate) mode: Mode,
    pub(crate) calibration: Option<Calibration>,
}

/// The facts of a shared model that is there, or foreseen.
pub(crate) fn facts(store: &Store, foreseen: &Foreseen) -> Option<SharedFacts> {
    match foreseen {
        Foreseen::Facts(facts) => serde_json::from_value(facts.clone()).ok(),
        Foreseen::Artifact(id) => {
            let json = store.read_file(&store.read_artifact(id).ok()?, META_FILE).ok()?;
            let SharedMeta { spec, policy, mode, calibration, .. } = serde_json::from_slice(&json).ok()?;
            Some(SharedFacts { spec, policy, mode, calibration })
        }
    }
}

/// What sharing would give: the shape comes from the model, which need not be there yet, ranges must be.
fn foresee(store: &Store, params: &Value, inputs: &ForeseenInputs) -> Option<SharedFacts> {
    let params: ShareParams = serde_json::from_value(params.clone()).ok()?;
    let ModelFacts { spec, tuning } = model::facts(store, inputs.get("model")?)?;
    let calibration = match (params.mode, inputs.get("ranges")) {
        (Some(Gates::Exact | Gates::Lean), _) | (None, None) => None,
        (_, Some(Foreseen::Artifact(id))) => {
            let json = store.read_file(&store.read_artifact(id).ok()?, RANGES_FILE).ok()?;
            Some(ModelRanges::from_json(&json).ok()?.calibration().clone())
        }
        _ => return None,
    };
    let mode = Gates::mode(params.mode, calibration.is_some());
    Some(SharedFacts { spec, policy: params.weights.policy(tuning), mode, calibration })
}

/// The stage.
pub(crate) struct Share {
    spec: StageSpec,
}

impl Share {
    pub(crate) fn new() -> Self {
        let output = |name, artifact, secrecy| OutputPort { name, artifact, secrecy };
        let spec = StageSpec {
            kind: "share",
            version: 1,
            about: "Splits a fine-tuned model into a public part and one secret share for each party.",
            inputs: vec![
                InputPort { name: "model", artifact: "model", optional: false, gather: false },
                InputPort { name: "ranges", artifact: "calibration", optional: true, gather: false },
            ],
            outputs: vec![
                output("public", "shared-model", Secrecy::Public),
                output("share0", "share-0", Secrecy::Party(0)),
                output("share1", "share-1", Secrecy::Party(1)),
            ],
            effect: Effect::FreshRandomness,
            cache: CachePolicy::Never,
            code_digest: crate::code::SHARE,
            params_schema: params::schema::<ShareParams>(),
        };
        Self { spec }
    }
}

impl Stage for Share {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn normalise(&self, params: &Value) -> Result<Value, Vec<ParamProblem>> {
        params::normalise::<ShareParams>(params)
    }

    fn forecast(&self, store: &Store, params: &Value, inputs: &ForeseenInputs) -> Forecast {
        let facts = foresee(store, params, inputs).map(|facts| ("public".to_owned(), serde_json::json!(facts)));
        Forecast { outputs: facts.into_iter().collect(), cost: None }
    }

    fn run(&self, ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
        let params: ShareParams = ctx.params_as()?;
        let (meta, checkpoint) = model::load(ctx.store(), &ctx.input("model")?.id)?;
        let policy = params.weights.policy(meta.tuning);
        let ranges = ranges(ctx, &params, &checkpoint)?;
        let mode = Gates::mode(params.mode, ranges.is_some());
        let failed = |e: &dyn std::error::Error| StageError::permanent(format!("sharing the model: {}", with_causes(e)));
        let shared = SharedModel::split(&checkpoint, policy, mode, ranges.as_ref()).map_err(|e| failed(&e))?;
        let (spec, task) = (meta.spec, meta.task);
        let about = SharedMeta { version: VERSION, spec, policy, mode, calibration: ranges, digest: shared.digest, task };
        store(ctx, &about, &checkpoint, shared)
    }
}

/// Stores what a sharing gave: the public part, and each party's share under that party's label.
fn store(
    ctx: &StageContext<'_>,
    about: &SharedMeta,
    checkpoint: &Checkpoint,
    shared: SharedModel,
) -> Result<StageOutputs, StageError> {
    let failed = |e: &dyn std::error::Error| StageError::permanent(format!("sharing the model: {}", with_causes(e)));
    let public = Manifest::builder("shared-model@1", Secrecy::Public)
        .bytes(META_FILE, serde_json::to_vec_pretty(about).map_err(|e| failed(&e))?)
        .bytes(EMBEDDINGS_FILE, embeddings(checkpoint).map_err(|e| failed(&e))?)
        .bytes(PUBLIC_FILE, shared.public);
    let put = |builder| ctx.put(builder);
    let mut outputs = StageOutputs::new().with("public", put(public)?);
    let shares = shared.shares.into_iter().chain(shared.third);
    for (party, (port, share)) in (0_u8..).zip(["share0", "share1", "share2"].into_iter().zip(shares)) {
        let kind = format!("share-{party}@1");
        outputs = outputs.with(port, put(Manifest::builder(kind, Secrecy::Party(party)).bytes(SHARE_FILE, share.to_vec()))?);
    }
    ctx.log(format!("shared as {} for gates of mode {}", about.digest, about.mode));
    Ok(outputs)
}

/// Shares a model among three servers, each of which gets one of three words.
pub(crate) fn share_in_three(ctx: &StageContext<'_>, weights: Weights) -> Result<StageOutputs, StageError> {
    let (meta, checkpoint) = model::load(ctx.store(), &ctx.input("model")?.id)?;
    let (policy, mode) = (weights.policy(meta.tuning), Mode::ThreeServer);
    let shared = SharedModel::split(&checkpoint, policy, mode, None)
        .map_err(|e| StageError::permanent(format!("sharing the model: {}", with_causes(&e))))?;
    let (spec, task) = (meta.spec, meta.task);
    let about = SharedMeta { version: VERSION, spec, policy, mode, calibration: None, digest: shared.digest, task };
    store(ctx, &about, &checkpoint, shared)
}

/// The facts of what [`share_in_three`] would give.
pub(crate) fn foresee_three(store: &Store, weights: Weights, inputs: &ForeseenInputs) -> Option<SharedFacts> {
    let ModelFacts { spec, tuning } = model::facts(store, inputs.get("model")?)?;
    Some(SharedFacts { spec, policy: weights.policy(tuning), mode: Mode::ThreeServer, calibration: None })
}

/// The ranges that are shared with the model, if its gates rely on any.
fn ranges(ctx: &StageContext<'_>, params: &ShareParams, checkpoint: &Checkpoint) -> Result<Option<Calibration>, StageError> {
    let input = match (params.mode, ctx.optional_input("ranges")) {
        (Some(Gates::Exact | Gates::Lean), _) | (None, None) => return Ok(None),
        (_, Some(input)) => input,
        (Some(Gates::Calibrated), None) => {
            return Err(
                StageError::permanent("mode `calibrated` needs inputs.ranges").help("a stage of kind `calibrate` makes them")
            );
        }
    };
    let manifest = ctx.store().read_artifact(&input.id).map_err(store_error)?;
    let found = ModelRanges::from_json(&ctx.store().read_file(&manifest, RANGES_FILE).map_err(store_error)?)?;
    found.check(checkpoint).map_err(|e| StageError { message: format!("inputs.ranges: {}", e.message), ..e })?;
    ctx.log(format!("published ranges were measured on {}", found.on()));
    Ok(Some(found.calibration().clone()))
}

/// The tables that the client looks its tokens up in.
fn embeddings(checkpoint: &Checkpoint) -> Result<Vec<u8>, sprint_model::CheckpointError> {
    let wanted: Vec<_> = checkpoint.spec().parameters().into_iter().filter(|p| p.part == Part::Embeddings).collect();
    let found: BTreeMap<_, _> = wanted.iter().filter_map(|p| checkpoint.params().get_key_value(&p.path)).collect();
    params_to_safetensors(found)
}

/// What a client needs: the public facts, and a model that can embed its texts.
pub(crate) fn client(store: &Store, id: &ArtifactId) -> Result<(SharedMeta, Checkpoint), StageError> {
    let manifest = store.read_artifact(id).map_err(store_error)?;
    let read = |name: &str| store.read_file(&manifest, name).map_err(store_error);
    let damaged = |name: &str, e: &dyn std::error::Error| StageError::permanent(format!("{name}: {}", with_causes(e)));
    let meta: SharedMeta = serde_json::from_slice(&read(META_FILE)?).map_err(|e| damaged(META_FILE, &e))?;
    if meta.version != VERSION {
        return Err(StageError::permanent(format!("{META_FILE} has version {}, this program reads {VERSION}", meta.version)));
    }
    let mut params = params_from_safetensors(PUBLIC_FILE, &read(PUBLIC_FILE)?).map_err(|e| damaged(PUBLIC_FILE, &e))?;
    params.extend(params_from_safetensors(EMBEDDINGS_FILE, &read(EMBEDDINGS_FILE)?).map_err(|e| damaged(EMBEDDINGS_FILE, &e))?);
    let checkpoint = Checkpoint::part(EMBEDDINGS_FILE, meta.spec.clone(), params).map_err(|e| damaged(EMBEDDINGS_FILE, &e))?;
    Ok((meta, checkpoint))
}
