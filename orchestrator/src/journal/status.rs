//! The state of a run as a fold over its journal.

use std::collections::BTreeMap;

use serde::Serialize;
use sprint_artifacts::ArtifactId;

use crate::event::{LeaseIntent, RunEvent, RunFinished};
use crate::exec::Failure;
use crate::workflow::InstanceId;

/// Where an instance stands.
///
/// ```text
/// Pending ─► Hit | Blocked | Failed
///    └─────► Running ─► Committed | Failed | Interrupted
///               ▲ └───► Waiting ─► Hit | Failed | Interrupted
///               └──────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StageStatus {
    /// Nothing happened yet in this session.
    #[default]
    Pending,
    /// An earlier result stands in, or nobody needed one.
    Hit,
    /// An attempt is under way (or was, when the process died).
    Running,
    /// An attempt failed; the next one is to come.
    Waiting,
    /// The result is durable.
    Committed,
    /// Failed for good.
    Failed,
    /// Stopped with the run.
    Interrupted,
    /// Cannot run because others failed.
    Blocked,
}

/// An event that cannot follow the state it met: a fault in the scheduler or a damaged journal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{event}` cannot follow {status:?}{}", .stage.as_ref().map(|s| format!(" of {s}")).unwrap_or_default())]
pub struct IllegalEvent {
    /// The instance, if it is about one.
    pub stage: Option<InstanceId>,
    /// Its status.
    pub status: StageStatus,
    /// The event.
    pub event: &'static str,
}

/// The status of an instance after an event about it.
pub fn next_status(status: StageStatus, event: &RunEvent) -> Result<StageStatus, IllegalEvent> {
    use StageStatus::{Blocked, Committed, Failed, Hit, Interrupted, Pending, Running, Waiting};
    let (name, next) = match (event, status) {
        (RunEvent::StageHit { .. }, Pending | Waiting) => ("stage_hit", Some(Hit)),
        (RunEvent::StageHit { .. }, _) => ("stage_hit", None),
        (RunEvent::StageStarted { .. }, Pending | Waiting) => ("stage_started", Some(Running)),
        (RunEvent::StageStarted { .. }, _) => ("stage_started", None),
        (RunEvent::StageCommitted { .. }, Running) => ("stage_committed", Some(Committed)),
        (RunEvent::StageCommitted { .. }, _) => ("stage_committed", None),
        (RunEvent::StageRetrying { .. }, Running) => ("stage_retrying", Some(Waiting)),
        (RunEvent::StageRetrying { .. }, _) => ("stage_retrying", None),
        (RunEvent::StageFailed { .. }, Pending | Running | Waiting) => ("stage_failed", Some(Failed)),
        (RunEvent::StageFailed { .. }, _) => ("stage_failed", None),
        (RunEvent::StageInterrupted { .. }, Running | Waiting) => ("stage_interrupted", Some(Interrupted)),
        (RunEvent::StageInterrupted { .. }, _) => ("stage_interrupted", None),
        (RunEvent::StageBlocked { .. }, Pending) => ("stage_blocked", Some(Blocked)),
        (RunEvent::StageBlocked { .. }, _) => ("stage_blocked", None),
        _ => ("event", Some(status)),
    };
    next.ok_or_else(|| IllegalEvent { stage: event.stage().cloned(), status, event: name })
}

/// What is known about one instance.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct StageRecord {
    /// Where it stands.
    pub status: StageStatus,
    /// Attempts begun in this run, by whichever process.
    pub attempts: u32,
    /// Its artifacts, once it has them.
    pub outputs: BTreeMap<String, ArtifactId>,
    /// How long the committed attempt took.
    pub seconds: Option<f64>,
    /// How it failed last.
    pub failure: Option<Failure>,
}

/// A lease that was intended and not given back.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenLease {
    /// What releasing it needs.
    pub intent: LeaseIntent,
    /// The key of the action that holds it.
    pub key: sprint_artifacts::ActionKey,
    /// The attempt that took it.
    pub attempt: u32,
    /// The outputs, if the attempt came that far.
    pub outputs: BTreeMap<String, ArtifactId>,
}

/// The state of a run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunState {
    /// The workflow's name.
    pub workflow: String,
    /// Processes that have driven it.
    pub sessions: u32,
    /// Instances selected.
    pub total: usize,
    /// Instances that something happened to.
    pub stages: BTreeMap<InstanceId, StageRecord>,
    /// Leases not given back.
    pub leases: BTreeMap<InstanceId, OpenLease>,
    /// The last end, unless a process took it up again.
    pub finished: Option<RunFinished>,
}

impl RunState {
    /// The state after `event`.
    pub fn apply(&mut self, event: &RunEvent) -> Result<(), IllegalEvent> {
        match event {
            RunEvent::RunStarted { workflow, total, .. } => {
                self.workflow.clone_from(workflow);
                self.total = *total;
                self.sessions += 1;
                self.finished = None;
                for record in self.stages.values_mut() {
                    record.status = StageStatus::Pending;
                }
            }
            RunEvent::RunFinished(end) => self.finished = Some(end.clone()),
            RunEvent::LeaseReleased { stage } => {
                self.leases.remove(stage);
            }
            _ => {}
        }
        if let Some(stage) = event.stage() {
            let mut record = self.stages.get(stage).cloned().unwrap_or_default();
            record.status = next_status(record.status, event)?;
            record.learn(event);
            self.stages.insert(stage.clone(), record);
            self.learn_lease(event);
        }
        Ok(())
    }

    fn learn_lease(&mut self, event: &RunEvent) {
        match event {
            RunEvent::StageStarted { stage, key, attempt, lease: Some(intent) } => {
                let lease = OpenLease { intent: (**intent).clone(), key: *key, attempt: *attempt, outputs: BTreeMap::new() };
                self.leases.insert(stage.clone(), lease);
            }
            RunEvent::StageCommitted { stage, outputs, .. } => {
                if let Some(lease) = self.leases.get_mut(stage) {
                    lease.outputs.clone_from(outputs);
                }
            }
            _ => {}
        }
    }
}

impl StageRecord {
    fn learn(&mut self, event: &RunEvent) {
        match event {
            RunEvent::StageStarted { attempt, .. } => self.attempts = self.attempts.max(*attempt),
            RunEvent::StageHit { outputs, .. } => self.outputs.clone_from(outputs),
            RunEvent::StageCommitted { outputs, seconds, .. } => {
                self.outputs.clone_from(outputs);
                self.seconds = Some(*seconds);
                self.failure = None;
            }
            RunEvent::StageRetrying { failure, .. } | RunEvent::StageFailed { failure, .. } => {
                self.failure = Some(failure.clone());
            }
            _ => {}
        }
    }
}
