//! `model@1`: a fine-tuned model, as the pretrained files it started from and the parameters that training gave it.
//!
//! Files: `base.safetensors` (the pretrained weights, byte for byte, so the store keeps them once), `trained.safetensors`,
//! `tokenizer.json` where the pretrained model has one, so that the model can be served by itself, and `model.json` ([`ModelMeta`]). The artifact is secret: it is its owner's.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sprint_artifacts::{ArtifactId, Manifest, Secrecy, Store};
use sprint_model::checkpoint::{params_from_safetensors, params_to_safetensors};
use sprint_model::{Checkpoint, ModelSpec, ParamPath, TensorData, Tuning};
use sprint_stage_api::{ErrorClass, Foreseen, StageContext, StageError};

use crate::errors::{Put, stamped, store_error, with_causes};

const BASE: &str = "base.safetensors";
const TRAINED: &str = "trained.safetensors";
/// The tokenizer's file, in pretrained models and in ours.
pub(crate) const TOKENIZER: &str = "tokenizer.json";
/// What is known about the model.
pub(crate) const META: &str = "model.json";
const VERSION: u32 = 1;

/// What is known about a model beside its weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelMeta {
    version: u32,
    /// The trained shape.
    pub(crate) spec: ModelSpec,
    /// The pretrained shape, which `base.safetensors` is read with.
    base: ModelSpec,
    /// What was trained; decides which weights are private.
    pub(crate) tuning: Tuning,
    /// The task it was trained for.
    pub(crate) task: String,
}

/// Pretrained weights as a folder of Hugging Face's files has them.
pub(crate) struct Pretrained {
    pub(crate) checkpoint: Checkpoint,
    weights: Vec<u8>,
    tokenizer: Option<Vec<u8>>,
}

impl Pretrained {
    /// `tokenizer.json`, for who has texts to encode.
    pub(crate) fn tokenizer(&self) -> Result<&[u8], StageError> {
        let missing =
            || StageError::permanent(format!("inputs.model has no {TOKENIZER}, so params.head_start cannot be encoded"));
        self.tokenizer.as_deref().ok_or_else(missing)
    }
}

/// Reads `config.json` and `model.safetensors` from the files on `port`.
pub(crate) fn pretrained(ctx: &StageContext<'_>, port: &str) -> Result<Pretrained, StageError> {
    let manifest = ctx.store().read_artifact(&ctx.input(port)?.id).map_err(store_error)?;
    let read = |name: &str| {
        if manifest.file(name).is_none() {
            let has: Vec<_> = manifest.files().iter().map(sprint_artifacts::FileEntry::name).take(12).collect();
            return Err(StageError::permanent(format!("inputs.{port} has no {name}; it has {}", has.join(", "))));
        }
        ctx.store().read_file(&manifest, name).map_err(store_error)
    };
    let fault =
        |name: &str, e: &dyn std::error::Error| StageError::permanent(format!("inputs.{port}: {name}: {}", with_causes(e)));
    let spec = ModelSpec::from_hf_config(&read("config.json")?).map_err(|e| fault("config.json", &e))?;
    let weights = read("model.safetensors")?;
    let checkpoint =
        Checkpoint::from_safetensors("model.safetensors", &weights, spec).map_err(|e| fault("model.safetensors", &e))?;
    let tokenizer = manifest.file(TOKENIZER).is_some().then(|| read(TOKENIZER)).transpose()?;
    Ok(Pretrained { checkpoint, weights, tokenizer })
}

/// What is known of a model before it is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ModelFacts {
    pub(crate) spec: ModelSpec,
    pub(crate) tuning: Tuning,
}

/// The facts of a model that is there, or foreseen.
pub(crate) fn facts(store: &Store, foreseen: &Foreseen) -> Option<ModelFacts> {
    match foreseen {
        Foreseen::Facts(facts) => serde_json::from_value(facts.clone()).ok(),
        Foreseen::Artifact(id) => {
            let json = store.read_file(&store.read_artifact(id).ok()?, META).ok()?;
            let ModelMeta { spec, tuning, .. } = serde_json::from_slice(&json).ok()?;
            Some(ModelFacts { spec, tuning })
        }
    }
}

/// Stores a model.
pub(crate) fn store(
    to: &impl Put,
    pretrained: Pretrained,
    spec: ModelSpec,
    trained: &BTreeMap<ParamPath, TensorData>,
    tuning: Tuning,
    task: &str,
    private: bool,
) -> Result<ArtifactId, StageError> {
    let encoded = |e: &dyn std::error::Error| StageError::permanent(format!("encoding the model: {}", with_causes(e)));
    let meta = ModelMeta { version: VERSION, spec, base: pretrained.checkpoint.spec().clone(), tuning, task: task.to_owned() };
    let json = serde_json::to_vec_pretty(&meta).map_err(|e| encoded(&e))?;
    let trained = params_to_safetensors(trained).map_err(|e| encoded(&e))?;
    let builder =
        Manifest::builder("model@1", Secrecy::Secret).bytes(META, json).bytes(BASE, pretrained.weights).bytes(TRAINED, trained);
    let builder = pretrained.tokenizer.into_iter().fold(builder, |builder, file| builder.bytes(TOKENIZER, file));
    to.put(stamped(builder, private))
}

/// Reads a stored model: its metadata, and every parameter of its spec.
pub(crate) fn load(store: &Store, id: &ArtifactId) -> Result<(ModelMeta, Checkpoint), StageError> {
    let manifest = store.read_artifact(id).map_err(store_error)?;
    read_with(|name| store.read_file(&manifest, name).map_err(store_error))
}

/// The same from anywhere that gives files by name.
pub(crate) fn read_with(read: impl Fn(&str) -> Result<Vec<u8>, StageError>) -> Result<(ModelMeta, Checkpoint), StageError> {
    let damaged = |name: &str, e: &dyn std::error::Error| {
        StageError::new(ErrorClass::Permanent, format!("not a model of this program: {name}: {}", with_causes(e)))
    };
    let meta: ModelMeta = serde_json::from_slice(&read(META)?).map_err(|e| damaged(META, &e))?;
    if meta.version != VERSION {
        return Err(StageError::permanent(format!("{META} has version {}, this program reads {VERSION}", meta.version)));
    }
    let base = Checkpoint::from_safetensors(BASE, &read(BASE)?, meta.base.clone()).map_err(|e| damaged(BASE, &e))?;
    let (_, mut params) = base.into_parts();
    params.extend(params_from_safetensors(TRAINED, &read(TRAINED)?).map_err(|e| damaged(TRAINED, &e))?);
    let wanted = meta.spec.parameters().into_iter().filter_map(|p| params.remove_entry(&p.path)).collect();
    let checkpoint = Checkpoint::from_params(TRAINED, meta.spec.clone(), wanted).map_err(|e| damaged(TRAINED, &e))?;
    checkpoint.require_complete().map_err(|e| damaged(TRAINED, &e))?;
    Ok((meta, checkpoint))
}
