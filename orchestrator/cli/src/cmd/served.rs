//! Fine-tuned models named on the command line.

use std::path::Path;

use sprint_mpc_core::Mode;
use sprint_stages::DeployedModel;

use super::artifacts;
use super::bench::mpc::mode;
use crate::args::ServedArgs;
use crate::failure::{Code, Failure};

/// The gates that `--mode` names, for a model whose artifact brings no calibrated ranges.
pub(super) fn gates(args: &ServedArgs) -> Result<Mode, Failure> {
    let mode = mode(args.mode)?;
    if mode == Mode::Calibrated {
        return Err(Failure::usage("--mode calibrated: the model's artifact has no calibrated ranges".to_owned())
            .help("--mode exact needs none"));
    }
    Ok(mode)
}

/// The model that `--model` names.
pub(super) fn find(args: &ServedArgs) -> Result<DeployedModel, Failure> {
    let folder = Path::new(&args.model);
    let found = if folder.is_dir() {
        if !DeployedModel::is_in(folder) {
            return Err(Failure::usage(format!("--model {}: no fine-tuned model in this folder", args.model))
                .help("`sprint-flow artifacts get DIGEST --out DIR` makes one of what `finetune` made"));
        }
        DeployedModel::from_folder(folder)
    } else {
        let store = artifacts::open(&args.store.store)?;
        DeployedModel::from_store(&store, &artifacts::find(&store, &args.model)?)
    };
    found.map_err(|e| Failure::new(Code::USAGE, format!("--model {}: {}", args.model, e.message)))
}
