//! Differentially private fine-tuning on burn: exact per-example gradients in one backward pass, a trainer whose budget survives
//! crashes, and forward passes of the same model definition.
//!
//! *Security invariants.* Noise and sampling come from `sprint-dp` alone, never from burn's generators; every noisy step is journalled before
//! its noise is drawn; nothing but the trained parameters leaves a private run (no losses, no batch sizes); snapshots hold no keys.

mod audit;
mod basis;
mod bench;
mod budget;
mod centre;
mod config;
mod cut;
mod described;
mod device;
mod dropout;
mod engine;
mod error;
mod eval;
mod flex;
mod functions;
mod init;
mod layout;
mod loss;
mod lower;
mod mechanics;
mod merged;
mod optim;
mod per_sample;
mod run;
mod schedule;
mod snapshot;
mod start;
mod trainer;
mod validate;
mod workers;

pub use audit::{TrainerAudit, TrainerAuditConfig, audit_trainer};
pub use bench::{BenchRequest, BenchResult, Meter, bench_train};
pub use config::{FunctionsConfig, HeadConfig, LoraConfig, PrivacyConfig, Sampling, TrainConfig, TuningConfig};
pub use device::{Backend, BackendKind, BackendMissing};
pub use engine::EngineError;
pub use error::TrainError;
pub use eval::{EvalError, Evaluator, HiddenState, hidden_states, predict};
pub use init::AInit;
pub use layout::Layout;
pub use optim::{Optimiser, OptimiserConfig};
pub use schedule::{Decay, Schedule};
pub use snapshot::SnapshotError;
pub use sprint_dp::report::PrivacyReport;
pub use trainer::{Accounting, HistoryEntry, Progress, TrainInputs, TrainObserver, TrainedModel, Unobserved, train};
pub use validate::{ConfigError, Problem};
