//! Why a fine-tuning run stops.

use std::io;

use sprint_dp::accountant::AccountantError;
use sprint_dp::budget::BudgetError;
use sprint_dp::ledger::LedgerError;
use sprint_dp::mechanism::MechanismError;
use sprint_dp::randomness::EntropyError;
use sprint_dp::report::ReportError;
use sprint_model::{BatchError, CheckpointError};
use thiserror::Error;

use crate::device::BackendMissing;
use crate::engine::EngineError;
use crate::eval::EvalError;
use crate::snapshot::SnapshotError;
use crate::validate::ConfigError;

/// Why a run stopped.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The request.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A private run was not given a ledger.
    #[error("a private run needs a ledger to charge its steps to")]
    NoLedger,
    /// The backend is not in this build.
    #[error(transparent)]
    Backend(#[from] BackendMissing),
    /// The base model.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A forward or backward pass.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A forward pass over public tokens.
    #[error(transparent)]
    Eval(#[from] EvalError),
    /// Examples that form no batch.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// Calibration or accounting.
    #[error(transparent)]
    Accountant(#[from] AccountantError),
    /// A budget field.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// The ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The report would not match the run.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The mechanism.
    #[error(transparent)]
    Mechanism(#[from] MechanismError),
    /// The operating system's randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// A snapshot to continue from.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A snapshot could not be kept.
    #[error("a snapshot could not be kept: {0}")]
    KeepSnapshot(#[source] io::Error),
    /// Threads could not be started.
    #[error("worker threads could not be started: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
    /// The configuration could not be digested.
    #[error("the configuration could not be encoded: {0}")]
    Encode(#[from] serde_json::Error),
    /// The parameters became infinite or NaN; the learning rate is too large.
    #[error("the parameters are no longer finite after step {step}; lower learning_rate")]
    Diverged {
        /// Counted from 0.
        step: u64,
    },
    /// The observer asked to stop.
    #[error("cancelled")]
    Cancelled,
}
