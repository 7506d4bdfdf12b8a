//! `dealer precompute`: one-time material ahead of time.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sprint_model::{Calibration, WeightPolicy};
use sprint_mpc::{Digest, GateSetup, ProgramSize, precompute_material};
use sprint_mpc_core::Mode;

use super::served::{self, Gates};
use crate::args::{DealerCommand, PrecomputeArgs};
use crate::failure::{Code, Failure};
use crate::ui::{bytes, out, seconds};

/// What the client of such material must know: the programs it was made for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct MadeFor {
    version: u32,
    pub(super) policy: WeightPolicy,
    pub(super) mode: Mode,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) calibration: Option<Calibration>,
    pub(super) size: ProgramSize,
}

const VERSION: u32 = 1;
const ABOUT: &str = "programs.json";

impl MadeFor {
    /// Reads what the material in a folder was made for.
    pub(super) fn read(folder: &Path) -> Result<Self, Failure> {
        let path = folder.join(ABOUT);
        let wrong = |e: &dyn std::fmt::Display| {
            Failure::usage(format!("--material {}: {e}", path.display()))
                .help("`sprint-flow dealer precompute` makes such folders")
        };
        let found: Self = serde_json::from_slice(&std::fs::read(&path).map_err(|e| wrong(&e))?).map_err(|e| wrong(&e))?;
        if found.version != VERSION {
            return Err(wrong(&format!("version {} where this program reads {VERSION}", found.version)));
        }
        Ok(found)
    }
}

pub(super) fn run(command: &DealerCommand) -> Result<Code, Failure> {
    match command {
        DealerCommand::Precompute(args) => precompute(args),
    }
}

fn precompute(args: &PrecomputeArgs) -> Result<Code, Failure> {
    let model = served::find(&args.served.model, &args.served.store.store)?;
    let Gates { mode, calibration } = served::gates(&args.served, &model)?;
    let size = ProgramSize { batch: args.served.batch.get(), tokens: args.seq.get() };
    let (spec, policy) = (model.checkpoint.spec().clone(), model.policy);
    // The dealer knows no sharing of the private part: material is good for any.
    let (sizes, any) = (vec![size], Digest::new([0; 32]));
    let setup = GateSetup { spec, policy, mode, calibration, sizes, model: any };
    let failed = |e: &dyn std::error::Error| Failure::from_error(Code::FAILED, e);
    let plan = vec![0; args.count.get()];
    let made = precompute_material(&args.out, &setup, &model.checkpoint, &plan).map_err(|e| failed(&e))?;
    let about = MadeFor { version: VERSION, policy, mode, calibration: setup.calibration, size };
    let text = serde_json::to_vec_pretty(&about).expect("names and numbers");
    std::fs::write(args.out.join(ABOUT), text).map_err(|e| failed(&e))?;
    if args.served.json {
        out::line(
            json!({"folder": args.out, "batch_id": made.batch.batch, "mode": mode, "seq": size.tokens, "batch": size.batch,
            "count": plan.len(), "bytes": made.batch.bytes, "seconds": made.seconds}),
        )?;
    } else {
        let [b0, b1] = made.batch.bytes.map(bytes);
        let time = seconds(made.seconds);
        out::line(format_args!("material for {} inferences in {time}: {b0} for party 0, {b1} for party 1", plan.len()))?;
        out::line(format_args!("{}", args.out.display()))?;
    }
    Ok(Code::DONE)
}
