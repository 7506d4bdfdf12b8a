//! What happened, durably: an append-only list of events and its fold.

mod log;
mod status;

pub use log::JournalError;
pub(crate) use log::{Journal, events, fold};
pub use status::{IllegalEvent, OpenLease, RunState, StageRecord, StageStatus, next_status};
