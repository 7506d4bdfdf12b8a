//! What happens during a run: one enum that the screen, `--json`, the journal and the report are all made from.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sprint_artifacts::{ActionKey, ArtifactId, ResultId};
use sprint_stage_api::{InputArtifact, StageError};

use crate::exec::Failure;
use crate::workflow::InstanceId;

/// Something that happened. Never holds a secret.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum RunEvent {
    /// A process took the run; for a run that had begun before, `resumed` is set.
    RunStarted {
        /// The run.
        run: String,
        /// The workflow's name.
        workflow: String,
        /// Instances selected.
        total: usize,
        /// Whether an earlier process had begun it.
        resumed: bool,
    },
    /// An earlier result stands in.
    StageHit {
        /// The instance.
        stage: InstanceId,
        /// Its key; absent if nobody needed it.
        key: Option<ActionKey>,
        /// Its artifacts; empty if nobody needed it.
        outputs: BTreeMap<String, ArtifactId>,
    },
    /// No earlier result stands in.
    StageMissed {
        /// The instance.
        stage: InstanceId,
        /// Its key.
        key: ActionKey,
        /// Why.
        why: Vec<String>,
    },
    /// An attempt is about to begin: journalled before it does.
    StageStarted {
        /// The instance.
        stage: InstanceId,
        /// Its key.
        key: ActionKey,
        /// Which attempt in this run, from 1.
        attempt: u32,
        /// What a later process needs to release what the attempt may hold.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        lease: Option<Box<LeaseIntent>>,
    },
    /// `done` of `total` units are finished.
    StageProgress {
        /// The instance.
        stage: InstanceId,
        /// Units finished.
        done: u64,
        /// Units in all, if known.
        total: Option<u64>,
        /// What a unit is.
        unit: String,
        /// A short present state.
        note: Option<String>,
    },
    /// A line of the stage's log.
    StageLog {
        /// The instance.
        stage: InstanceId,
        /// The line.
        line: String,
    },
    /// Numbers the stage measured.
    StageMetrics {
        /// The instance.
        stage: InstanceId,
        /// Values by name, in SI units.
        values: BTreeMap<String, f64>,
    },
    /// The result record is durable.
    StageCommitted {
        /// The instance.
        stage: InstanceId,
        /// Its key.
        key: ActionKey,
        /// The attempt.
        attempt: u32,
        /// The record.
        result: ResultId,
        /// Its artifacts.
        outputs: BTreeMap<String, ArtifactId>,
        /// How long the attempt took.
        seconds: f64,
    },
    /// The result and its artifacts are on the remote.
    StagePushed {
        /// The instance.
        stage: InstanceId,
        /// Objects that were new there.
        objects: u64,
        /// Their bytes, before sealing.
        bytes: u64,
    },
    /// The result is here but could not be brought to the remote; the next run tries again.
    StageNotPushed {
        /// The instance.
        stage: InstanceId,
        /// Why.
        error: StageError,
    },
    /// An attempt failed and another follows.
    StageRetrying {
        /// The instance.
        stage: InstanceId,
        /// The attempt that failed.
        attempt: u32,
        /// How.
        failure: Failure,
        /// Seconds until the next attempt.
        wait_s: f64,
    },
    /// The instance failed for good.
    StageFailed {
        /// The instance.
        stage: InstanceId,
        /// The last attempt; 0 if none began.
        attempt: u32,
        /// How.
        failure: Failure,
        /// The log of the last attempt.
        log: Option<PathBuf>,
    },
    /// The attempt was cut short because the run is being stopped; a later run continues.
    StageInterrupted {
        /// The instance.
        stage: InstanceId,
        /// The attempt.
        attempt: u32,
    },
    /// The instance cannot run because others failed.
    StageBlocked {
        /// The instance.
        stage: InstanceId,
        /// Which; empty if the run stopped before its turn.
        by: Vec<InstanceId>,
    },
    /// What the instance held is about to be given back.
    LeaseReleasing {
        /// The instance.
        stage: InstanceId,
    },
    /// What the instance held is given back.
    LeaseReleased {
        /// The instance.
        stage: InstanceId,
    },
    /// What the instance held could not be given back.
    LeaseKept {
        /// The instance.
        stage: InstanceId,
        /// Why.
        error: StageError,
    },
    /// The user or the system asked to stop.
    RunStopping {
        /// Seconds that stages have to save their progress.
        grace_s: f64,
    },
    /// The last event of a run.
    RunFinished(RunFinished),
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFinished {
    /// The run.
    pub run: String,
    /// How.
    pub status: RunStatus,
    /// How long this process drove it.
    pub seconds: f64,
    /// How many instances ended how.
    pub stages: StageCounts,
    /// The outputs that no instance consumes, by `stage.output` or `stage[axis=value].output`.
    pub outputs: BTreeMap<String, OutputRef>,
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RunStatus {
    /// Every instance has its result.
    Succeeded,
    /// An instance failed.
    Failed,
    /// Some failed, others were finished (`--keep-going`).
    Partial,
    /// Stopped by a signal; `run` again continues.
    Interrupted,
}

/// How many instances ended how; `total` is the sum of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StageCounts {
    /// Selected.
    pub total: usize,
    /// Not run: an earlier result stood in, or nobody needed one.
    pub hit: usize,
    /// Run and committed.
    pub ran: usize,
    /// Failed.
    pub failed: usize,
    /// Not run because something failed or the run was stopped.
    pub blocked: usize,
}

/// An output of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputRef {
    /// The artifact.
    pub digest: ArtifactId,
    /// Its file in the store, if it is public and has just one (or just one `.json`).
    pub path: Option<PathBuf>,
}

/// What is needed to release a lease when the process that took it is gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseIntent {
    /// The stage's kind.
    pub kind: String,
    /// Its version.
    pub version: u32,
    /// Its normalised parameters.
    pub params: serde_json::Value,
    /// Its inputs.
    pub inputs: BTreeMap<String, Vec<InputArtifact>>,
    /// The folder that relative paths are resolved against.
    pub base: PathBuf,
}

impl RunEvent {
    /// The instance concerned, if it is one.
    pub fn stage(&self) -> Option<&InstanceId> {
        match self {
            Self::StageHit { stage, .. }
            | Self::StageMissed { stage, .. }
            | Self::StageStarted { stage, .. }
            | Self::StageProgress { stage, .. }
            | Self::StageLog { stage, .. }
            | Self::StageMetrics { stage, .. }
            | Self::StageCommitted { stage, .. }
            | Self::StagePushed { stage, .. }
            | Self::StageNotPushed { stage, .. }
            | Self::StageRetrying { stage, .. }
            | Self::StageFailed { stage, .. }
            | Self::StageInterrupted { stage, .. }
            | Self::StageBlocked { stage, .. }
            | Self::LeaseReleasing { stage }
            | Self::LeaseReleased { stage }
            | Self::LeaseKept { stage, .. } => Some(stage),
            Self::RunStarted { .. } | Self::RunStopping { .. } | Self::RunFinished(_) => None,
        }
    }

    /// Whether the journal keeps it. Progress and log lines are for the moment; the rest is the run's history.
    pub fn is_durable(&self) -> bool {
        !matches!(self, Self::StageProgress { .. } | Self::StageLog { .. } | Self::StageMetrics { .. } | Self::StageMissed { .. })
    }
}
