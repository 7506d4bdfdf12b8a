//! The kinds of stage this binary knows.

use std::sync::Arc;

use sprint_stage_api::Registry;
use sprint_stages::{CloudFleet, RoleProgram};

use crate::context;

/// The kinds of stage this binary knows. MPC roles are this very program, even after it was replaced on the disk.
pub(crate) fn registry() -> Registry {
    let program = RoleProgram { binary: context::this_program().ok(), ..RoleProgram::default() };
    sprint_stages::registry_with(program, cloud())
}

#[cfg(feature = "aws")]
#[expect(clippy::unnecessary_wraps, reason = "without the feature there is none")]
fn cloud() -> Option<Arc<dyn CloudFleet>> {
    Some(Arc::new(crate::cloud::Amazon))
}

#[cfg(not(feature = "aws"))]
fn cloud() -> Option<Arc<dyn CloudFleet>> {
    None
}
