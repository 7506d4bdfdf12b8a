//! The durable journal of a run: frames of events, replayed into a state.
//!
//! Intents are recorded before the act, completions after the durable record. A frame holds the events of one moment:
//!
//! ```text
//! {"v":1,"at":<unix ms>,"events":[RunEvent, …]}
//! ```

use serde::{Deserialize, Serialize};
use sprint_artifacts::runs::{LogError, Replay};
use sprint_artifacts::{AppendLog, RunDir};

use super::status::{IllegalEvent, RunState};
use crate::event::RunEvent;

const VERSION: u32 = 1;

/// What can go wrong with a journal.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JournalError {
    /// The log cannot be written or read.
    #[error("the run's journal cannot be used")]
    Log(#[from] LogError),
    /// A frame is not what this program writes.
    #[error("frame {sequence} of the run's journal cannot be read")]
    Frame {
        /// Its number.
        sequence: usize,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A later version wrote it.
    #[error("frame {sequence} of the run's journal has version {found}; this program reads version {VERSION}")]
    Version {
        /// Its number.
        sequence: usize,
        /// Its version.
        found: u32,
    },
    /// The events do not make sense in this order.
    #[error("the run's journal contradicts itself")]
    Illegal(#[from] IllegalEvent),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Frame {
    v: u32,
    at: u64,
    events: Vec<RunEvent>,
}

#[derive(Deserialize)]
struct FrameVersion {
    v: u32,
}

/// An open journal and the state it stands for.
#[derive(Debug)]
pub(crate) struct Journal {
    log: AppendLog,
    state: RunState,
    pending: Vec<RunEvent>,
}

impl Journal {
    /// Opens the journal of a run whose lock is held, cutting off a torn tail.
    pub(crate) fn open(run: &RunDir<'_>) -> Result<Self, JournalError> {
        let (log, replay) = run.open_journal()?;
        Ok(Self { log, state: fold(&replay)?, pending: Vec::new() })
    }

    /// The state, events not yet on the disk included.
    pub(crate) fn state(&self) -> &RunState {
        &self.state
    }

    /// Takes an event into the state and, if it is durable, into the next frame.
    pub(crate) fn record(&mut self, event: &RunEvent) -> Result<(), JournalError> {
        self.state.apply(event)?;
        if event.is_durable() {
            self.pending.push(event.clone());
        }
        Ok(())
    }

    /// Whether events wait to be written.
    pub(crate) fn is_dirty(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Writes what was recorded; once it returns, a crash does not undo it.
    pub(crate) fn flush(&mut self, now_unix_ms: u64) -> Result<(), JournalError> {
        if self.pending.is_empty() {
            return Ok(());
        }
        let frame = Frame { v: VERSION, at: now_unix_ms, events: std::mem::take(&mut self.pending) };
        let bytes = serde_json::to_vec(&frame).map_err(|source| JournalError::Frame { sequence: 0, source })?;
        self.log.append(&bytes)?;
        Ok(())
    }
}

/// The state a replayed journal stands for.
pub(crate) fn fold(replay: &Replay) -> Result<RunState, JournalError> {
    let mut state = RunState::default();
    for (_, event) in events(replay)? {
        state.apply(&event)?;
    }
    Ok(state)
}

/// Every event with its time, oldest first.
pub(crate) fn events(replay: &Replay) -> Result<Vec<(u64, RunEvent)>, JournalError> {
    let mut all = Vec::new();
    for (sequence, payload) in replay.payloads.iter().enumerate() {
        let bad = |source| JournalError::Frame { sequence, source };
        let version: FrameVersion = serde_json::from_slice(payload).map_err(bad)?;
        if version.v != VERSION {
            return Err(JournalError::Version { sequence, found: version.v });
        }
        let frame: Frame = serde_json::from_slice(payload).map_err(bad)?;
        all.extend(frame.events.into_iter().map(|e| (frame.at, e)));
    }
    Ok(all)
}
