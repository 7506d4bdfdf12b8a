//! A fine-tuned model outside a workflow: what serving it needs.

use std::path::Path;

use sprint_artifacts::{ArtifactId, Store};
use sprint_model::{Checkpoint, WeightPolicy};
use sprint_stage_api::StageError;

use crate::errors::store_error;
use crate::model::{self, ModelMeta, TOKENIZER};

/// A model that the stage `finetune` made.
#[derive(Debug)]
pub struct DeployedModel {
    /// Every parameter, the pretrained ones and the trained ones.
    pub checkpoint: Checkpoint,
    /// Which of them the parties of a private inference must not see: those that training changed.
    pub policy: WeightPolicy,
    /// What it was trained for.
    pub task: String,
    /// The `tokenizer.json` it was trained with, if the pretrained model had one.
    pub tokenizer: Option<Vec<u8>>,
}

impl DeployedModel {
    /// The artifact `id`.
    pub fn from_store(store: &Store, id: &ArtifactId) -> Result<Self, StageError> {
        let manifest = store.read_artifact(id).map_err(store_error)?;
        let tokenizer = manifest.file(TOKENIZER).map(|_| store.read_file(&manifest, TOKENIZER).map_err(store_error));
        Ok(Self::of(model::load(store, id)?, tokenizer.transpose()?))
    }

    /// The files of such an artifact, as `artifacts get` lays them out in a folder.
    pub fn from_folder(folder: &Path) -> Result<Self, StageError> {
        let read = |name: &str| {
            let path = folder.join(name);
            std::fs::read(&path).map_err(|e| StageError::permanent(format!("{}: {e}", path.display())))
        };
        let tokenizer = folder.join(TOKENIZER).exists().then(|| read(TOKENIZER)).transpose()?;
        Ok(Self::of(model::read_with(read)?, tokenizer))
    }

    /// Whether a folder holds the files of a fine-tuned model, rather than of a pretrained one.
    pub fn is_in(folder: &Path) -> bool {
        folder.join(model::META).exists()
    }

    fn of((meta, checkpoint): (ModelMeta, Checkpoint), tokenizer: Option<Vec<u8>>) -> Self {
        Self { checkpoint, policy: WeightPolicy::for_tuning(meta.tuning), task: meta.task, tokenizer }
    }
}
