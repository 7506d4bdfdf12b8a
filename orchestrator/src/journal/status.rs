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

#[cfg(test)]
mod tests {
    use super::*;
    use sprint_artifacts::{ActionKey, Digest, ResultId};
    use sprint_stage_api::StageError;

    fn id() -> InstanceId {
        "tune[epsilon=8]".parse().expect("an instance")
    }

    fn key() -> ActionKey {
        ActionKey::new(Digest::of(b"key"))
    }

    fn started(attempt: u32, lease: bool) -> RunEvent {
        let intent = LeaseIntent {
            kind: "provision".to_owned(),
            version: 1,
            params: serde_json::json!({}),
            inputs: BTreeMap::new(),
            base: "/w".into(),
        };
        RunEvent::StageStarted { stage: id(), key: key(), attempt, lease: lease.then(|| Box::new(intent)) }
    }

    fn committed(attempt: u32) -> RunEvent {
        let result = ResultId::new(Digest::of(b"record"));
        RunEvent::StageCommitted { stage: id(), key: key(), attempt, result, outputs: BTreeMap::new(), seconds: 1.5 }
    }

    fn failed(attempt: u32) -> RunEvent {
        RunEvent::StageFailed { stage: id(), attempt, failure: Failure::of(StageError::permanent("no")), log: None }
    }

    fn session() -> RunEvent {
        RunEvent::RunStarted { run: "r".to_owned(), workflow: "w".to_owned(), total: 1, resumed: false }
    }

    fn fold(events: &[RunEvent]) -> Result<RunState, IllegalEvent> {
        let mut state = RunState::default();
        events.iter().try_for_each(|e| state.apply(e))?;
        Ok(state)
    }

    #[test]
    fn nothing_follows_a_final_state_within_a_session() {
        let hit = RunEvent::StageHit { stage: id(), key: None, outputs: BTreeMap::new() };
        let ends = [vec![started(1, false), committed(1)], vec![hit.clone()], vec![started(1, false), failed(1)]];
        for end in ends {
            for next in [started(2, false), committed(2), failed(2), hit.clone()] {
                let events: Vec<RunEvent> = [session()].into_iter().chain(end.clone()).chain([next]).collect();
                assert!(fold(&events).is_err(), "{events:#?}");
            }
        }
        assert!(fold(&[session(), committed(1)]).is_err(), "nothing commits that was not started");
    }

    #[test]
    fn attempts_count_on_over_sessions() {
        let state = fold(&[session(), started(1, false), session(), started(2, false), committed(2)]).expect("legal");
        let record = &state.stages[&id()];
        assert_eq!((record.status, record.attempts, record.seconds), (StageStatus::Committed, 2, Some(1.5)));
        assert_eq!(state.sessions, 2);
    }

    #[test]
    fn a_lease_is_open_from_its_intent_until_it_is_given_back() {
        let mut events = vec![session(), started(1, true)];
        assert_eq!(fold(&events).expect("legal").leases[&id()].attempt, 1, "a crash right after the intent may have taken it");
        events.extend([committed(1), session()]);
        assert!(fold(&events).expect("legal").leases.contains_key(&id()));
        events.push(RunEvent::LeaseReleased { stage: id() });
        assert!(fold(&events).expect("legal").leases.is_empty());
    }

    #[test]
    fn events_read_back_as_written() {
        for event in [session(), started(3, true), committed(3), failed(3)] {
            let text = serde_json::to_string(&event).expect("plain data");
            assert_eq!(serde_json::from_str::<RunEvent>(&text).expect("reads back"), event, "{text}");
        }
    }
}
