//! Fine-tuned models named on the command line, and what they are served with.

use std::path::Path;

use sprint_model::{Calibration, TextEncoder};
use sprint_mpc_core::Mode;
use sprint_stages::{DeployedModel, ModelRanges};

use super::artifacts::{self, store_failure};
use super::bench::mpc::mode;
use crate::args::ServedArgs;
use crate::failure::{Code, Failure};

/// The gates that a model is served with.
#[derive(Debug, Clone)]
pub(super) struct Gates {
    pub(super) mode: Mode,
    /// The public ranges that [`Mode::Calibrated`] relies on.
    pub(super) calibration: Option<Calibration>,
}

/// The gates that `--mode` and `--calibration` name, for `model`.
pub(super) fn gates(args: &ServedArgs, model: &DeployedModel) -> Result<Gates, Failure> {
    let mode = mode(args.mode)?;
    match (mode, &args.calibration) {
        (Mode::Calibrated, Some(named)) => {
            let found = ranges(named, args)?;
            found.check(&model.checkpoint).map_err(|e| refusal(&format!("--calibration {named}"), e))?;
            Ok(Gates { mode, calibration: Some(found.calibration().clone()) })
        }
        (Mode::Calibrated, None) => Err(Failure::usage("--mode calibrated needs the model's ranges: --calibration FILE|DIGEST")
            .help("`sprint-flow calibrate` measures them; --mode exact needs none")),
        (_, Some(_)) => Err(Failure::usage("--calibration is for --mode calibrated")),
        (_, None) => Ok(Gates { mode, calibration: None }),
    }
}

fn refusal(what: &str, e: sprint_stage_api::StageError) -> Failure {
    let failure = Failure::usage(format!("{what}: {}", e.message));
    e.help.into_iter().fold(failure, Failure::help)
}

/// Ranges in a file, or in the store.
fn ranges(named: &str, args: &ServedArgs) -> Result<ModelRanges, Failure> {
    const FILE: &str = "calibration.json";
    let what = format!("--calibration {named}");
    let path = Path::new(named);
    let path = if path.is_dir() { path.join(FILE) } else { path.to_owned() };
    let bytes = if path.is_file() {
        std::fs::read(&path).map_err(|e| Failure::usage(format!("{what}: {e}")))?
    } else {
        let store = artifacts::open(&args.store.store)?;
        let manifest = store.read_artifact(&artifacts::find(&store, named)?).map_err(|e| store_failure(&e))?;
        if manifest.file(FILE).is_none() {
            return Err(Failure::usage(format!("{what}: this artifact has no {FILE}")));
        }
        store.read_file(&manifest, FILE).map_err(|e| store_failure(&e))?
    };
    ModelRanges::from_json(&bytes).map_err(|e| refusal(&what, e))
}

/// The model that `--model` names: an artifact of `store`, or a folder.
pub(super) fn find(named: &str, store: &Path) -> Result<DeployedModel, Failure> {
    let folder = Path::new(named);
    let found = if folder.is_dir() {
        if !DeployedModel::is_in(folder) {
            return Err(Failure::usage(format!("--model {named}: no fine-tuned model in this folder"))
                .help("`sprint-flow artifacts get DIGEST --out DIR` makes one of what `finetune` made"));
        }
        DeployedModel::from_folder(folder)
    } else {
        let store = artifacts::open(store)?;
        DeployedModel::from_store(&store, &artifacts::find(&store, named)?)
    };
    found.map_err(|e| Failure::new(Code::USAGE, format!("--model {named}: {}", e.message)))
}

/// The tokenizer of `model`: its own, unless `given` names a file.
pub(super) fn tokenizer(
    named: &str,
    model: &DeployedModel,
    given: Option<&Path>,
    max_length: usize,
) -> Result<TextEncoder, Failure> {
    let json = match (given, &model.tokenizer) {
        (Some(path), _) => std::fs::read(path).map_err(|e| Failure::usage(format!("--tokenizer {}: {e}", path.display())))?,
        (None, Some(json)) => json.clone(),
        (None, None) => {
            return Err(Failure::usage(format!("--model {named}: it has no tokenizer.json"))
                .help("--tokenizer names the pretrained model's"));
        }
    };
    TextEncoder::from_bytes(&json, model.checkpoint.spec(), max_length).map_err(|e| Failure::from_error(Code::USAGE, &e))
}
