//! Runs: one folder each, one owner at a time, and append-only logs that survive a power cut.
//!
//! ```text
//! runs/20261122-101530-1a2b3c4d/
//!   lock          locked by the process that drives the run; names it
//!   workflow.yaml, plan.cbor, …   written once, durably
//!   journal.log   an AppendLog
//!   finished      exists once nothing is left to do: the run is no longer a root for garbage collection
//!   logs/         what stages print
//! ```

mod checkpoint;
mod dir;
mod frame;
mod id;
mod lock;
mod log;

#[cfg(test)]
mod checkpoint_tests;
#[cfg(test)]
mod log_tests;
#[cfg(test)]
mod tests;

pub use checkpoint::{Checkpoint, CheckpointBuilder, CheckpointError, CheckpointStore};
pub use dir::{RunDir, RunError};
pub use frame::MAX_PAYLOAD;
pub use id::{RunId, RunIdError};
pub use lock::{Owner, RunLock};
pub use log::{AppendLog, LogError, Replay, Torn};
