//! What a running stage tells while it runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Something a running stage reports. Never holds a secret: events reach logs, the journal and the screen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum StageEvent {
    /// `done` of `total` units are finished.
    Progress {
        /// Units finished.
        done: u64,
        /// Units in all, if known.
        total: Option<u64>,
        /// What a unit is: `bytes`, `rows`, `steps`, `messages`.
        unit: String,
        /// A short present state, such as `epoch 2/5`.
        note: Option<String>,
    },
    /// A line for the stage's log.
    Log {
        /// The line.
        line: String,
    },
    /// Numbers worth keeping with the result (SI units; the name says which: `seconds`, `bytes_sent`).
    Metrics {
        /// Values by name.
        values: BTreeMap<String, f64>,
    },
}

/// Where a stage's events go.
pub trait EventSink: Send + Sync {
    /// Takes one event; never blocks for long and never fails the stage.
    fn emit(&self, event: StageEvent);
}
