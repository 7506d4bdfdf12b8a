//! MPC inference as processes: network, sessions, dealer streaming, the one-time-material ledger and meters.
//!
//! Two parties and a dealer run as three processes; a client shares its input to the parties and alone learns the output. The protocol
//! itself is in `sprint-mpc-core`, as synchronous machines without sockets; this crate moves their frames.
//!
//! Architecture Invariant: only `net` and `dealer` see tokio. No length is taken from a peer; each is compared with the program's before
//! the bytes are read. An index of one-time material is on disk as burnt before the first byte that depends on it is sent.

#[cfg(test)]
extern crate self as sprint_mpc;

mod bench;
mod client;
mod dealer;
mod digest;
mod error;
mod gates;
mod hello;
mod ledger;
mod local;
mod material;
mod meter;
mod net;
mod party;
mod precompute;
mod predict;
mod request;
mod role;
mod roles;
mod three;
#[cfg(test)]
#[allow(dead_code, unreachable_pub, reason = "shared with the process tests, which use more of it")]
#[path = "../tests/toy/mod.rs"]
mod toy;
mod workload;
#[cfg(test)]
mod world;

pub use bench::{BenchInput, BenchOptions, BenchReport, ByParty, ByRole, Spread, bench_mpc};
pub use digest::{BatchId, CertPin, Digest, SessionId};
pub use error::{Field, RoleError};
pub use gates::{
    GateError, GateSession, GateSetup, ModelFiles, ProgramSize, SessionOptions, SharedModel, gate_role_main, precompute_material,
    write_private,
};
pub use hello::Binding;
pub use ledger::{Ledger, LedgerError};
pub use local::{ClientSide, FleetError, FleetMeter, FleetOptions, LocalFleet, RolePlace};
pub use meter::{CostMismatch, InferenceMeter, RoleMeter, Share};
pub use net::{Class, Identity, IdentityError, IdentityPem, Kind, LinkShape, MeasuredLink, NetError, Traffic, Wait, What};
pub use precompute::{MaterialBatch, Precomputed, precompute};
pub use predict::{PredictedShare, Prediction};
pub use request::SharedInput;
pub use role::Role;
pub use roles::{Event, Limits, WorkloadFactory, role_main};
pub use workload::{Dealing, Evaluation, Opening, PartyInput, ProgramShape, RoundShape, Workload};
