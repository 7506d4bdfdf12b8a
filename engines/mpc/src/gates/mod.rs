//! Real programs: the gate programs of `sprint-mpc-core` behind [`crate::Workload`].

mod model;
mod precompute;
mod session;
mod setup;
mod workload;

pub(crate) use model::{Holder, Weights};
pub use model::{ModelFiles, SharedModel, write_private};
pub use precompute::precompute_material;
pub use session::{GateError, GateSession, SessionOptions};
pub use setup::{GateSetup, ProgramSize};
pub(crate) use workload::GateConfig;
pub use workload::gate_role_main;
