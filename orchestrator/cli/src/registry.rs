//! The kinds of stage this binary knows.

use sprint_stage_api::Registry;
use sprint_stages::RoleProgram;

use crate::context;

/// The kinds of stage this binary knows. MPC roles are this very program, even after it was replaced on the disk.
pub(crate) fn registry() -> Registry {
    sprint_stages::registry_with(RoleProgram { binary: context::this_program().ok(), ..RoleProgram::default() })
}
