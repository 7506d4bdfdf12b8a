//! The hidden commands that child processes run.

use std::io::{stdin, stdout};
use std::process::ExitCode;

use crate::failure::{Code, Failure};
use crate::registry::registry;

/// One stage attempt, as the orchestrator asks on standard input.
pub(super) fn stage() -> Code {
    Code::new(
        u8::try_from(sprint_orchestrator::worker_main(&registry(), &super::remote::connect, stdin(), stdout())).unwrap_or(1),
    )
}

/// One role of an MPC inference, as the stage or benchmark that started it asks on standard input.
pub(super) fn mpc_role(role: &str) -> Result<ExitCode, Failure> {
    sprint_stages::mpc_role(role, stdin(), stdout())
        .ok_or_else(|| Failure::usage(format!("mpc-role {role}: no such role")).help("party-0, party-1 or dealer"))
}
