//! A server's programs and weights.

use std::sync::Arc;

use sprint_mpc_core::{Mode, PrivateWeights, PublicWeights, ReplicatedProgram, Server};

use crate::Digest;
use crate::error::RoleError;
use crate::gates::{GateConfig, Holder, Weights};

/// What a server evaluates.
pub(crate) struct Loaded {
    pub(crate) plans: Vec<Arc<ReplicatedProgram>>,
    pub(crate) public: Arc<PublicWeights>,
    pub(crate) private: Arc<PrivateWeights>,
    /// Digest of the model the roles must agree on.
    pub(crate) model: Digest,
    /// Digest of all programs.
    pub(crate) program: Digest,
}

/// Reads a server's part of the configuration, compiles its programs and reads its weights.
pub(crate) fn load(me: Server, config: &serde_json::Value) -> Result<Loaded, RoleError> {
    let GateConfig { setup, files } = serde_json::from_value(config.clone()).map_err(|e| RoleError::Config(e.to_string()))?;
    if setup.mode != Mode::ThreeServer {
        return Err(RoleError::Config(format!("three servers were started for gates of mode {}", setup.mode)));
    }
    let compiled = setup.compile().map_err(|e| RoleError::Config(e.to_string()))?;
    let files = files.ok_or_else(|| RoleError::Config(format!("party {} has no model files", me.index())))?;
    let weights = Weights::load(Holder::of_three(me), &setup, &compiled.programs[0], &files)?;
    let (public, private) = (Arc::new(weights.public), Arc::new(weights.private));
    Ok(Loaded { plans: compiled.plans, public, private, model: setup.model, program: compiled.digest })
}
