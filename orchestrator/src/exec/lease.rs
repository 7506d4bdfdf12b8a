//! Leases: what a stage holds outside (machines) is given back once its last consumer has ended, and by the next run if this one
//! dies first.

use std::collections::BTreeMap;
use std::sync::Arc;

use sprint_artifacts::{RunDir, Store};
use sprint_stage_api::{LeaseTerms, StageError};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::dispatcher::{Dispatcher, Timer};
use super::executor::{Executor, Intent, IntentId, Operation, Outcome, Report};
use super::node::Phase;
use super::{Host, log_path};
use crate::event::RunEvent;
use crate::journal::{Journal, JournalError, OpenLease};
use crate::workflow::{InstanceId, Placement, Resources};

/// How often giving back is tried.
const TRIES: u32 = 3;

/// The leases of this run, by instance.
#[derive(Debug, Default)]
pub(super) struct Leases {
    held: BTreeMap<usize, Held>,
    releasing: BTreeMap<IntentId, usize>,
    /// What could not be given back.
    pub(super) kept: Vec<KeptLease>,
}

#[derive(Debug)]
struct Held {
    attempt: u32,
    tries: u32,
    /// Until when it is kept for a look after a failure.
    keep_until: Option<Instant>,
}

/// Something a stage still holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptLease {
    /// The run that took it.
    pub run: String,
    /// The instance.
    pub stage: InstanceId,
    /// Why it could not be given back.
    pub error: StageError,
}

impl Leases {
    pub(super) fn hold(&mut self, index: usize, attempt: u32) {
        self.held.insert(index, Held { attempt, tries: 0, keep_until: None });
    }

    pub(super) fn is_releasing(&self, id: &IntentId) -> bool {
        self.releasing.contains_key(id)
    }

    /// Whether everything was given back or given up.
    pub(super) fn are_settled(&self) -> bool {
        self.held.is_empty() && self.releasing.is_empty()
    }
}

impl Dispatcher {
    /// Begins to give back what nobody uses any more.
    pub(super) fn release_leases(&mut self) -> Result<(), JournalError> {
        let ended = |index: &usize| {
            let instance = &self.set.workflow.instances()[*index];
            self.nodes[*index].phase.is_over() && instance.consumers.iter().all(|c| self.nodes[*c].phase.is_over())
        };
        let ready: Vec<usize> = self.leases.held.keys().filter(|i| ended(i)).copied().collect();
        let idle = |index: &usize| !self.leases.releasing.values().any(|i| i == index);
        let ready: Vec<usize> = ready.into_iter().filter(idle).collect();
        for index in ready {
            if !self.is_kept_for_a_look(index)? {
                self.release(index)?;
            }
        }
        Ok(())
    }

    /// Whether what an instance holds stays up for a while because something that used it failed (`keep_on_failure`). Stopping the run
    /// ends that.
    fn is_kept_for_a_look(&mut self, index: usize) -> Result<bool, JournalError> {
        let instance = &self.set.workflow.instances()[index];
        let terms = self.set.workflow.stage_of(instance).lease();
        let Some(keep) = terms.and_then(|l| l.keep_on_failure).filter(|_| self.stopping.is_none()) else { return Ok(false) };
        if !instance.consumers.iter().any(|c| self.nodes[*c].phase == Phase::Failed) {
            return Ok(false);
        }
        let held = self.leases.held.get_mut(&index).expect("only held leases are released");
        if let Some(until) = held.keep_until {
            return Ok(Instant::now() < until);
        }
        let until = Instant::now() + keep;
        held.keep_until = Some(until);
        self.timers.insert((until, Timer::GiveBack(index)));
        let line =
            format!("kept for a look for {keep:?}, because a stage that uses it failed; stopping the run gives it back at once");
        self.emit(RunEvent::StageLog { stage: self.id(index), line })?;
        Ok(true)
    }

    fn release(&mut self, index: usize) -> Result<(), JournalError> {
        let stage = self.id(index);
        let held = self.leases.held.get_mut(&index).expect("only held leases are released");
        held.tries += 1;
        let attempt = held.attempt;
        let Some(lease) = self.journal.state().leases.get(&stage).cloned() else {
            self.leases.held.remove(&index);
            return Ok(());
        };
        let mut intent = release_intent(&self.set.run, &stage, lease, &self.set.store, &self.set.host, &self.set.logs);
        if self.nodes[index].phase == Phase::Ran {
            intent.operation = Operation::Release { outputs: self.nodes[index].artifacts.clone() };
        }
        debug_assert_eq!(intent.attempt, attempt);
        self.emit(RunEvent::LeaseReleasing { stage })?;
        self.flush()?;
        let id = intent.id.clone();
        self.leases.releasing.insert(id.clone(), index);
        if let Err(error) = self.set.executor.submit(intent, self.reports.clone()) {
            let _ = self.reports.send((id, Report::Ended(Outcome::Failed(error))));
        }
        Ok(())
    }

    pub(super) fn on_released(&mut self, id: &IntentId, outcome: Outcome) -> Result<(), JournalError> {
        let Some(index) = self.leases.releasing.remove(id) else { return Ok(()) };
        let stage = self.id(index);
        match outcome {
            Outcome::Failed(error) => {
                let tries = self.leases.held.get(&index).map_or(TRIES, |h| h.tries);
                if tries < TRIES {
                    return Ok(());
                }
                self.leases.held.remove(&index);
                self.leases.kept.push(KeptLease { run: self.set.run.clone(), stage: stage.clone(), error: error.clone() });
                self.emit(RunEvent::LeaseKept { stage, error })
            }
            Outcome::Done(_) => {
                self.leases.held.remove(&index);
                self.emit(RunEvent::LeaseReleased { stage })
            }
        }
    }
}

fn release_intent(
    run: &str,
    stage: &InstanceId,
    lease: OpenLease,
    store: &Arc<Store>,
    host: &Host,
    logs: &std::path::Path,
) -> Intent {
    let operation = Operation::Release { outputs: lease.outputs };
    Intent {
        id: IntentId::new(run, stage, lease.attempt, &operation),
        run: run.to_owned(),
        stage: stage.clone(),
        operation,
        kind: lease.intent.kind,
        version: lease.intent.version,
        key: lease.key,
        params: Arc::new(lease.intent.params),
        inputs: lease.intent.inputs,
        ancestors: Vec::new(),
        attempt: lease.attempt,
        axes: stage.axes().iter().cloned().collect(),
        env: host.env.clone(),
        base: lease.intent.base,
        cpus: 1,
        placement: Placement::Local,
        resources: Resources::default(),
        timeout: None,
        code: "",
        store: store.root().to_owned(),
        log: log_path(logs, stage, lease.attempt).with_extension("release.log"),
        checkpoint_every_ms: None,
        checkpoint_keep: 1,
        // What was taken is given back whatever its terms were.
        lease: LeaseTerms::default(),
        remote: None,
    }
}

/// Gives back what a run that is not being driven any more still holds. Its lock must be held.
pub(super) async fn reap(
    run: &RunDir<'_>,
    journal: &mut Journal,
    store: &Arc<Store>,
    executor: &Arc<dyn Executor>,
    host: &Host,
) -> Result<Vec<KeptLease>, JournalError> {
    let mut kept = Vec::new();
    for (stage, lease) in journal.state().leases.clone() {
        let mut last = None;
        for _ in 0..TRIES {
            let intent = release_intent(run.id().as_str(), &stage, lease.clone(), store, host, &run.logs());
            last = release_now(executor, intent).await.err();
            if last.is_none() {
                break;
            }
        }
        match last {
            None => journal.record(&RunEvent::LeaseReleased { stage })?,
            Some(error) => kept.push(KeptLease { run: run.id().as_str().to_owned(), stage, error }),
        }
    }
    journal.flush((host.now_unix_ms)())?;
    Ok(kept)
}

async fn release_now(executor: &Arc<dyn Executor>, intent: Intent) -> Result<(), StageError> {
    let (reports, mut inbox) = mpsc::unbounded_channel();
    executor.submit(intent, reports)?;
    while let Some((_, report)) = inbox.recv().await {
        match report {
            Report::Began { .. } | Report::Event(_) => {}
            Report::Ended(Outcome::Failed(error)) => return Err(error),
            Report::Ended(_) => return Ok(()),
        }
    }
    Err(StageError::transient("the executor gave no answer"))
}
