//! Material of real programs, made ahead.

use std::path::Path;
use std::sync::Arc;

use sprint_model::Checkpoint;
use sprint_mpc_core::Mode;

use super::model::material_digest;
use super::session::GateError;
use super::setup::GateSetup;
use super::workload::Gates;
use crate::error::RoleError;
use crate::precompute::{Precomputed, precompute};

/// Makes material for one inference with each program of `plan`, numbers of `setup`'s programs, into the empty or missing folder `folder`.
/// Of `checkpoint` only the public part counts: material is bound to its digest, and good for every sharing of the private part.
pub fn precompute_material(
    folder: &Path,
    setup: &GateSetup,
    checkpoint: &Checkpoint,
    plan: &[u32],
) -> Result<Precomputed, GateError> {
    if setup.mode == Mode::ThreeServer {
        return Err(
            RoleError::Config("gates of mode three-server use no dealer, so there is no material to make ahead".into()).into()
        );
    }
    let compiled = setup.compile()?;
    let material = material_digest(checkpoint, setup.policy)?;
    let gates = Arc::new(Gates { model: setup.model, material, compiled, weights: None });
    Ok(precompute(folder, &*gates, plan)?)
}
