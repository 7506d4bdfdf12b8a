//! Models named on the command line: a folder, or a repository of a Hugging Face hub.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use sprint_artifacts::Store;
use sprint_model::{Checkpoint, ModelSpec, TextEncoder};
use sprint_orchestrator::{RunOptions, Workflow, WorkflowInputs};

use super::artifacts::store_failure;
use super::run::{Job, open};
use crate::failure::{Code, Failure};
use crate::registry::registry;
use crate::ui::Screen;

/// The files of a model.
pub(super) enum ModelSource {
    /// A folder with `config.json`, `model.safetensors` and `tokenizer.json`.
    Folder(std::path::PathBuf),
    /// The artifact that the stage `download` made of a hub's repository.
    Downloaded {
        /// Where it is.
        store: Arc<Store>,
        /// Its files.
        manifest: Box<sprint_artifacts::Manifest>,
        /// As the user named it.
        name: String,
    },
}

impl ModelSource {
    /// The model named `text`; one from a hub is downloaded into `store` first, unless it is there.
    pub(super) fn find(text: &str, store: &Path) -> Result<Self, Failure> {
        if text.starts_with("hf://") {
            return download(text, store);
        }
        let folder = Path::new(text);
        if folder.is_dir() {
            return Ok(Self::Folder(folder.to_owned()));
        }
        Err(Failure::usage(format!("--model {text}: no such folder"))
            .help("give a folder with config.json, model.safetensors and tokenizer.json, or hf://ORG/NAME"))
    }

    /// Its tensors.
    pub(super) fn checkpoint(&self) -> Result<Checkpoint, Failure> {
        let wrong = |e: &dyn std::error::Error| Failure::from_error(Code::USAGE, e);
        match self {
            Self::Folder(folder) => Checkpoint::open(folder).map_err(|e| wrong(&e)),
            Self::Downloaded { name, .. } => {
                let spec = ModelSpec::from_hf_config(&self.read("config.json")?).map_err(|e| wrong(&e))?;
                Checkpoint::from_safetensors(name, &self.read("model.safetensors")?, spec).map_err(|e| wrong(&e))
            }
        }
    }

    /// Its tokenizer, cutting texts at `max_length` tokens.
    pub(super) fn tokenizer(&self, spec: &ModelSpec, max_length: usize) -> Result<TextEncoder, Failure> {
        let encoder = match self {
            Self::Folder(folder) => TextEncoder::load(&folder.join("tokenizer.json"), spec, max_length),
            Self::Downloaded { .. } => TextEncoder::from_bytes(&self.read("tokenizer.json")?, spec, max_length),
        };
        encoder.map_err(|e| match e {
            e @ sprint_model::TextError::MaxLength { .. } => Failure::usage(format!("--max-length: {e}")),
            other => Failure::from_error(Code::USAGE, &other),
        })
    }

    fn read(&self, file: &str) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Folder(folder) => {
                let path = folder.join(file);
                std::fs::read(&path).map_err(|e| Failure::usage(format!("--model: cannot read {}: {e}", path.display())))
            }
            Self::Downloaded { store, manifest, name } => match manifest.file(file) {
                Some(_) => store.read_file(manifest, file).map_err(|e| store_failure(&e)),
                None => Err(Failure::usage(format!("--model {name}: the repository has no {file}"))),
            },
        }
    }
}

/// Runs a workflow of one `download` stage, so that a model is fetched, verified and cached as any other artifact is.
fn download(name: &str, store: &Path) -> Result<ModelSource, Failure> {
    let here = std::env::current_dir().map_err(|e| Failure::new(Code::FAILED, format!("no current folder: {e}")))?;
    let stage = json!({"kind": "download", "params": {"source": name}});
    let text = json!({"sprint-flow": 1, "name": "model", "stages": {"model": stage}}).to_string();
    let inputs = WorkflowInputs { file: "--model".into(), base: here, text, sets: Vec::new(), fragments: BTreeMap::new() };
    let workflow = Arc::new(Workflow::from_inputs(inputs, &registry()).map_err(|problems| {
        let told: Vec<_> = problems.iter().map(|p| p.message.clone()).collect();
        Failure::usage(format!("--model {name}: {}", told.join("; ")))
    })?);
    let store = open(store)?;
    let mut screen = Screen::new(false);
    let report = Job { store: store.clone(), workflow, options: RunOptions::default(), id: None, remote: None }
        .drive(|event| screen.see(event))?;
    drop(screen);
    if let Some(failed) = report.failures.first() {
        let error = &failed.failure.error;
        let failure = Failure::new(Code::new(report.exit.code()), format!("--model {name}: {}", error.message));
        return Err(error.help.iter().fold(failure, Failure::help));
    }
    let output = report.finished.outputs.into_values().next();
    let id =
        output.ok_or_else(|| Failure::new(Code::new(report.exit.code()), format!("--model {name}: the download was stopped")))?;
    let manifest = Box::new(store.read_artifact(&id.digest).map_err(|e| store_failure(&e))?);
    Ok(ModelSource::Downloaded { store, manifest, name: name.to_owned() })
}
