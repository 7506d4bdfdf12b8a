//! Real programs: the gate programs of `sprint-mpc-core` behind [`crate::Workload`].

mod model;
mod session;
mod setup;
mod workload;

pub use model::{ModelFiles, SharedModel, write_private};
pub use session::{GateError, GateSession, SessionOptions};
pub use setup::{GateSetup, ProgramSize};
pub use workload::gate_role_main;
