//! The stages: what each kind of step in a workflow does.
//!
//! Every kind has a module of its own with its parameters, ports and effect; [`registry`] is the only thing a binary needs, and
//! [`mpc_role`] what its hidden command `mpc-role` calls.

mod calibrate;
mod cost;
mod dataset;
mod deployed;
mod download;
mod errors;
mod finetune;
mod fleet;
mod glue;
mod infer_clear;
mod infer_mpc;
mod metrics;
mod model;
mod params;
mod predictions;
mod privacy;
mod provision;
mod registry;
mod share;
mod share_three;
#[cfg(test)]
mod testing;
mod tokenize;

pub use calibrate::{CalibratedOn, ModelRanges, model_name, random_texts};
pub use deployed::DeployedModel;
pub use fleet::{CloudFleet, CloudImage, CloudMachine, CloudRequest};
pub use infer_mpc::{InferenceJob, InferencePlan, RoleProgram};
pub use registry::{mpc_role, registry, registry_with};

/// Digests over each kind's source closure and locked dependencies, made by `build.rs`.
mod code {
    include!(concat!(env!("OUT_DIR"), "/code.rs"));
}
