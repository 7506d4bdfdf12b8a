//! The dispatcher: one task that decides everything about a run, in one order.
//!
//! Executors, verifications and commits run elsewhere and send messages; the dispatcher takes them one at a time, journals what they
//! mean, and only then acts on it. Every decision is therefore a function of the journal and the messages so far.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sprint_artifacts::remote::Pushed;
use sprint_artifacts::{ActionKey, ResultId, ResultRecord, Store};
use sprint_stage_api::{CachePolicy, ErrorClass, StageError, StageEvent};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use super::ask::{Answer, Asked};
use super::commit::commit;
use super::executor::{Executor, IntentId, Operation, Outcome, Report, ReportSender, Stop};
use super::lease::Leases;
use super::limits::Capacity;
use super::node::{Node, Phase};
use super::remote::{RunRemote, push};
use super::retry::{Failure, next_attempt};
use super::{Host, Interrupt};
use crate::event::RunEvent;
use crate::journal::{Journal, JournalError};
use crate::plan::History;
use crate::workflow::{InstanceId, Workflow};

/// What the dispatcher works with.
pub(super) struct Setting {
    pub(super) workflow: Arc<Workflow>,
    pub(super) store: Arc<Store>,
    pub(super) run: String,
    pub(super) executor: Arc<dyn Executor>,
    pub(super) host: Host,
    pub(super) logs: std::path::PathBuf,
    pub(super) keep_going: bool,
    pub(super) salt: String,
    pub(super) grace: Duration,
    pub(super) remote: Option<RunRemote>,
}

/// What other tasks tell the dispatcher.
pub(super) enum Message {
    /// The store was asked about an instance.
    Evaluated { index: usize, answer: Result<Answer, StageError> },
    /// A result was verified and recorded, or could not be.
    Committed { index: usize, result: Result<(ResultId, Box<ResultRecord>), StageError>, seconds: f64 },
    /// A result was brought to the remote, or could not be.
    Pushed { index: usize, result: Result<(Pushed, Option<String>), StageError> },
}

/// The entry of a record's metrics that says how long the attempt took.
const SECONDS: &str = "seconds";
/// How often the result of another run is looked for.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// Something to do later.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    Retry(usize),
    AskAgain(usize),
    Timeout(usize, IntentId),
    Kill(IntentId),
    /// What an instance holds was looked at long enough.
    GiveBack(usize),
}

pub(super) struct Dispatcher {
    pub(super) set: Setting,
    pub(super) nodes: Vec<Node>,
    pub(super) journal: Journal,
    pub(super) events: mpsc::UnboundedSender<RunEvent>,
    outbox: Vec<RunEvent>,
    pub(super) messages: mpsc::UnboundedSender<Message>,
    inbox: mpsc::UnboundedReceiver<Message>,
    pub(super) reports: ReportSender,
    report_inbox: mpsc::UnboundedReceiver<(IntentId, Report)>,
    pub(super) running: BTreeMap<IntentId, usize>,
    pub(super) capacity: Capacity,
    pub(super) timers: BTreeSet<(Instant, Timer)>,
    pub(super) leases: Leases,
    pub(super) stopping: Option<Interrupt>,
    pub(super) some_failed: bool,
    /// Attempts whose end is in the journal but may not be durable there yet.
    settled: Vec<IntentId>,
    /// Results on their way to the remote.
    pushing: usize,
    /// Results that could not be brought there.
    pub(super) unpushed: Vec<(InstanceId, StageError)>,
    /// The instance that works, or worked, on each key.
    pub(super) leaders: BTreeMap<ActionKey, usize>,
    /// Whether something happened that may let instances move.
    moved: bool,
    turns: Arc<Semaphore>,
    history: Arc<OnceLock<History>>,
}

impl Dispatcher {
    pub(super) fn new(
        set: Setting,
        nodes: Vec<Node>,
        journal: Journal,
        capacity: Capacity,
        events: mpsc::UnboundedSender<RunEvent>,
    ) -> Self {
        let turns = Arc::new(Semaphore::new(set.host.cpus.max(1)));
        let (messages, inbox) = mpsc::unbounded_channel();
        let (reports, report_inbox) = mpsc::unbounded_channel();
        Self {
            set,
            nodes,
            journal,
            events,
            outbox: Vec::new(),
            messages,
            inbox,
            reports,
            report_inbox,
            running: BTreeMap::new(),
            capacity,
            timers: BTreeSet::new(),
            leases: Leases::default(),
            stopping: None,
            some_failed: false,
            settled: Vec::new(),
            pushing: 0,
            unpushed: Vec::new(),
            leaders: BTreeMap::new(),
            moved: true,
            turns,
            history: Arc::default(),
        }
    }

    /// Drives the run until nothing is left that could happen.
    pub(super) async fn run(&mut self, interrupts: &mut mpsc::UnboundedReceiver<Interrupt>) -> Result<(), JournalError> {
        let mut interruptible = true;
        loop {
            if std::mem::take(&mut self.moved) {
                self.advance()?;
            }
            self.flush()?;
            if self.is_over() {
                return Ok(());
            }
            let next_timer = self.timers.first().map(|(at, _)| *at);
            let timer = async {
                match next_timer {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(message) = self.inbox.recv() => self.on_message(message)?,
                Some((id, report)) = self.report_inbox.recv() => self.on_report(&id, report)?,
                interrupt = interrupts.recv(), if interruptible => match interrupt {
                    Some(interrupt) => self.stop(interrupt)?,
                    None => interruptible = false,
                },
                () = timer => {}
            }
            self.drain()?;
            self.on_timers();
        }
    }

    /// Takes what else has arrived, so that one frame of the journal holds it all.
    fn drain(&mut self) -> Result<(), JournalError> {
        while let Ok(message) = self.inbox.try_recv() {
            self.on_message(message)?;
        }
        while let Ok((id, report)) = self.report_inbox.try_recv() {
            self.on_report(&id, report)?;
        }
        Ok(())
    }

    pub(super) fn id(&self, index: usize) -> InstanceId {
        self.set.workflow.instances()[index].id().clone()
    }

    /// Journals an event; it is shown once it is durable.
    pub(super) fn emit(&mut self, event: RunEvent) -> Result<(), JournalError> {
        self.journal.record(&event)?;
        self.outbox.push(event);
        Ok(())
    }

    /// Makes what was journalled durable, then shows it.
    pub(super) fn flush(&mut self) -> Result<(), JournalError> {
        if self.journal.is_dirty() {
            self.journal.flush((self.set.host.now_unix_ms)())?;
        }
        for id in self.settled.drain(..) {
            self.set.executor.forget(&id);
        }
        for event in self.outbox.drain(..) {
            // Nobody need listen.
            let _ = self.events.send(event);
        }
        Ok(())
    }

    /// Whether nothing is under way and nothing can start.
    fn is_over(&self) -> bool {
        self.nodes.iter().all(|n| n.phase.is_over()) && self.leases.are_settled() && self.pushing == 0
    }

    /// Does something that takes time on another thread, as many at once as there are processors.
    fn aside(&self, work: impl FnOnce() + Send + 'static) {
        let turns = self.turns.clone();
        tokio::spawn(async move {
            // The semaphore is never closed.
            if let Ok(_turn) = turns.acquire_owned().await {
                let _ = tokio::task::spawn_blocking(work).await;
            }
        });
    }

    /// Asks the store about an instance whose key is known, unless another one with the same key is at it.
    pub(super) fn evaluate(&mut self, index: usize) {
        let keyed = self.nodes[index].keyed.clone().expect("evaluated once its key is known");
        let leader = self.leaders.get(&keyed.key).copied().filter(|leader| *leader != index);
        if leader.is_some_and(|leader| !self.nodes[leader].phase.is_over()) {
            self.nodes[index].phase = Phase::Following;
            return;
        }
        self.leaders.insert(keyed.key, index);
        self.nodes[index].phase = Phase::Evaluating;
        let (workflow, store) = (self.set.workflow.clone(), self.set.store.clone());
        let (run, history, messages) = (self.set.run.clone(), self.history.clone(), self.messages.clone());
        let remote = self.set.remote.as_ref().map(|r| r.remote.clone());
        self.aside(move || {
            let remote = remote.as_deref();
            let asked = Asked { workflow: &workflow, store: &store, run: &run, index, keyed: &keyed, remote };
            let _ = messages.send(Message::Evaluated { index, answer: asked.answer(&history) });
        });
    }

    fn on_message(&mut self, message: Message) -> Result<(), JournalError> {
        self.moved = true;
        match message {
            Message::Evaluated { index, answer } => self.on_answer(index, answer),
            Message::Committed { index, result: Ok((result, record)), seconds } => {
                self.push(index, *record);
                self.on_committed(index, result, seconds)
            }
            Message::Committed { index, result: Err(error), .. } => self.on_failure(index, error),
            Message::Pushed { index, result } => self.on_pushed(index, result),
        }
    }

    fn on_answer(&mut self, index: usize, answer: Result<Answer, StageError>) -> Result<(), JournalError> {
        match answer {
            Ok(Answer::Hit(record)) => self.on_hit(index, *record),
            Ok(Answer::Miss { why, claim }) => {
                let key = self.nodes[index].keyed.as_ref().expect("evaluated with a key").key;
                self.nodes[index].claim = claim;
                self.emit(RunEvent::StageMissed { stage: self.id(index), key, why })?;
                self.want(index);
                Ok(())
            }
            Ok(Answer::Elsewhere) if self.stopping.is_some() => {
                self.nodes[index].phase = Phase::Wanted;
                Ok(())
            }
            Ok(Answer::Elsewhere) => {
                self.nodes[index].phase = Phase::Elsewhere;
                self.timers.insert((Instant::now() + ASK_AGAIN, Timer::AskAgain(index)));
                let line = "another run is working on the same action; waiting for its result".to_owned();
                self.emit(RunEvent::StageLog { stage: self.id(index), line })
            }
            Err(error) => self.fail(index, Failure::of(error)),
        }
    }

    fn on_hit(&mut self, index: usize, record: ResultRecord) -> Result<(), JournalError> {
        let node = &mut self.nodes[index];
        node.phase = Phase::Hit;
        node.identity = Some(crate::plan::Outputs::Artifacts(record.outputs.clone()));
        node.artifacts.clone_from(&record.outputs);
        node.seconds = record.metrics.get(SECONDS).copied();
        let key = Some(record.key());
        self.push(index, record.clone());
        self.emit(RunEvent::StageHit { stage: self.id(index), key, outputs: record.outputs })
    }

    fn on_report(&mut self, id: &IntentId, report: Report) -> Result<(), JournalError> {
        self.moved |= matches!(report, Report::Ended(_));
        if self.leases.is_releasing(id) {
            return match report {
                Report::Began { .. } | Report::Event(_) => Ok(()),
                Report::Ended(outcome) => self.on_released(id, outcome),
            };
        }
        // A report of an attempt that was given up: nothing depends on it any more.
        let Some(&index) = self.running.get(id) else { return Ok(()) };
        match report {
            Report::Began { unix_ms, host } => {
                self.on_began(index, id, unix_ms, host);
                Ok(())
            }
            Report::Event(event) => self.on_stage_event(index, event),
            Report::Ended(outcome) => {
                self.running.remove(id);
                self.timers.retain(|(_, t)| !matches!(t, Timer::Timeout(_, i) | Timer::Kill(i) if i == id));
                self.on_ended(index, outcome)
            }
        }
    }

    /// The attempt has a machine: its time limit runs from now, or from when it began if that was before this process.
    fn on_began(&mut self, index: usize, id: &IntentId, unix_ms: u64, host: String) {
        let ago = Duration::from_millis((self.set.host.now_unix_ms)().saturating_sub(unix_ms));
        let now = Instant::now();
        let Some(attempt) = &mut self.nodes[index].attempt else { return };
        (attempt.began, attempt.began_unix_ms, attempt.host) = (now.checked_sub(ago).unwrap_or(now), unix_ms, host);
        let limit = self.set.workflow.stage_of(&self.set.workflow.instances()[index]).timeout();
        self.timers.retain(|(_, t)| !matches!(t, Timer::Timeout(_, i) if i == id));
        if let Some(limit) = limit {
            self.timers.insert((now + limit.saturating_sub(ago), Timer::Timeout(index, id.clone())));
        }
    }

    fn on_stage_event(&mut self, index: usize, event: StageEvent) -> Result<(), JournalError> {
        let stage = self.id(index);
        match event {
            StageEvent::Progress { done, total, unit, note } => {
                self.emit(RunEvent::StageProgress { stage, done, total, unit, note })
            }
            StageEvent::Log { line } => self.emit(RunEvent::StageLog { stage, line }),
            StageEvent::Metrics { values } => {
                if let Some(attempt) = &mut self.nodes[index].attempt {
                    attempt.metrics.extend(values.iter().filter(|(_, v)| v.is_finite()).map(|(k, v)| (k.clone(), *v)));
                }
                self.emit(RunEvent::StageMetrics { stage, values })
            }
            _ => Ok(()),
        }
    }

    fn on_ended(&mut self, index: usize, outcome: Outcome) -> Result<(), JournalError> {
        if let Some(share) = self.nodes[index].attempt.as_mut().and_then(|a| a.share.take()) {
            self.capacity.release(share);
        }
        match outcome {
            Outcome::Done(outputs) => {
                self.nodes[index].phase = Phase::Committing;
                self.nodes[index].artifacts = outputs;
                self.commit(index);
                Ok(())
            }
            Outcome::Failed(error) => self.on_failure(index, error),
        }
    }

    fn commit(&mut self, index: usize) {
        let (workflow, store, messages) = (self.set.workflow.clone(), self.set.store.clone(), self.messages.clone());
        let node = &self.nodes[index];
        let attempt = node.attempt.as_ref().expect("an attempt has just ended");
        let stage = workflow.stage_of(&workflow.instances()[index]);
        let spec = stage.kind().spec();
        let seconds = attempt.began.elapsed().as_secs_f64();
        let mut metrics = attempt.metrics.clone();
        metrics.insert(SECONDS.to_owned(), seconds);
        let record = ResultRecord {
            kind: format!("{}@{}", spec.kind, spec.version),
            stage: self.id(index).to_string(),
            preimage: node.keyed.as_ref().expect("it ran, so it has a key").preimage.clone(),
            outputs: node.artifacts.clone(),
            run: self.set.run.clone(),
            attempt: node.attempts,
            started_unix_ms: attempt.began_unix_ms,
            finished_unix_ms: (self.set.host.now_unix_ms)(),
            host: attempt.host.clone(),
            log: None,
            metrics,
            private: true,
        };
        let remote = self.set.remote.as_ref().map(|r| r.remote.clone());
        self.aside(move || {
            let spec = workflow.stage_of(&workflow.instances()[index]).kind().spec();
            let result = commit(&store, remote.as_deref(), spec, record);
            let _ = messages.send(Message::Committed { index, result, seconds });
        });
    }

    /// Brings a result to the remote, if there is one and results of this kind stand in elsewhere.
    fn push(&mut self, index: usize, record: ResultRecord) {
        let shared = self.set.workflow.stage_of(&self.set.workflow.instances()[index]).cache() == CachePolicy::Always;
        let Some(RunRemote { remote, .. }) = self.set.remote.clone().filter(|_| shared) else { return };
        self.pushing += 1;
        let (store, messages) = (self.set.store.clone(), self.messages.clone());
        self.aside(move || {
            let result = push(&remote, &store, &record);
            let _ = messages.send(Message::Pushed { index, result });
        });
    }

    fn on_pushed(&mut self, index: usize, result: Result<(Pushed, Option<String>), StageError>) -> Result<(), JournalError> {
        self.pushing -= 1;
        let stage = self.id(index);
        match result {
            Ok((pushed, line)) => {
                if let Some(line) = line {
                    self.emit(RunEvent::StageLog { stage: stage.clone(), line })?;
                }
                if pushed.objects == 0 {
                    return Ok(());
                }
                self.emit(RunEvent::StagePushed { stage, objects: pushed.objects, bytes: pushed.bytes })
            }
            Err(error) => {
                self.unpushed.push((stage.clone(), error.clone()));
                self.emit(RunEvent::StageNotPushed { stage, error })
            }
        }
    }

    fn on_committed(&mut self, index: usize, result: ResultId, seconds: f64) -> Result<(), JournalError> {
        let never = self.set.workflow.stage_of(&self.set.workflow.instances()[index]).cache() == CachePolicy::Never;
        let node = &mut self.nodes[index];
        node.phase = Phase::Ran;
        node.seconds = Some(seconds);
        node.claim = None;
        if !never {
            node.identity = Some(crate::plan::Outputs::Artifacts(node.artifacts.clone()));
        }
        let (key, attempt, outputs) = (node.keyed.as_ref().expect("it ran").key, node.attempts, node.artifacts.clone());
        self.settle_attempt(index);
        self.emit(RunEvent::StageCommitted { stage: self.id(index), key, attempt, result, outputs, seconds })
    }

    /// Notes that the attempt's executor may forget it once the journal is durable.
    fn settle_attempt(&mut self, index: usize) {
        self.settled.push(IntentId::new(&self.set.run, &self.id(index), self.nodes[index].attempts, &Operation::Run));
    }

    fn on_failure(&mut self, index: usize, error: StageError) -> Result<(), JournalError> {
        let workflow = self.set.workflow.clone();
        let definition = workflow.stage_of(&workflow.instances()[index]);
        let timed_out = self.nodes[index].attempt.as_ref().is_some_and(|a| a.timed_out);
        let (stage, attempt) = (self.id(index), self.nodes[index].attempts);
        self.settle_attempt(index);
        if self.stopping.is_some() && matches!(error.class, ErrorClass::Cancelled | ErrorClass::Transient | ErrorClass::Preempted)
        {
            self.nodes[index].phase = Phase::Interrupted;
            return self.emit(RunEvent::StageInterrupted { stage, attempt });
        }
        let failure = match (timed_out, definition.timeout()) {
            (true, Some(limit)) => {
                let message = format!("the attempt took longer than its timeout of {limit:?}");
                Failure { error: StageError::transient(message), timed_out: true }
            }
            _ => Failure::of(error),
        };
        self.nodes[index].failures += 1;
        let wait = next_attempt(definition.retry(), &failure, self.nodes[index].failures);
        match wait.filter(|_| self.stopping.is_none()) {
            Some(wait) => {
                self.nodes[index].phase = Phase::Backoff;
                self.timers.insert((Instant::now() + wait, Timer::Retry(index)));
                self.emit(RunEvent::StageRetrying { stage, attempt, failure, wait_s: wait.as_secs_f64() })
            }
            None => self.fail(index, failure),
        }
    }

    /// Ends an instance as failed.
    pub(super) fn fail(&mut self, index: usize, failure: Failure) -> Result<(), JournalError> {
        self.some_failed = true;
        let node = &mut self.nodes[index];
        node.phase = Phase::Failed;
        node.claim = None;
        node.failure = Some(failure.clone());
        let attempt = if node.attempt.is_some() { node.attempts } else { 0 };
        let stage = self.id(index);
        let log = (attempt > 0).then(|| super::log_path(&self.set.logs, &stage, attempt));
        self.emit(RunEvent::StageFailed { stage, attempt, failure, log })
    }

    fn on_timers(&mut self) {
        let now = Instant::now();
        while let Some((at, timer)) = self.timers.pop_first() {
            if at > now {
                self.timers.insert((at, timer));
                break;
            }
            self.moved = true;
            match timer {
                Timer::Retry(index) => self.nodes[index].phase = Phase::Wanted,
                Timer::AskAgain(index) => self.evaluate(index),
                Timer::Timeout(index, id) => {
                    if let Some(attempt) = &mut self.nodes[index].attempt {
                        attempt.timed_out = true;
                    }
                    self.cancel(&id);
                }
                Timer::Kill(id) => self.set.executor.cancel(&id, Stop::Now),
                // Every pass looks at leases anyway.
                Timer::GiveBack(_) => {}
            }
        }
    }

    /// Asks an attempt to save its progress and end; what is not over after the grace period is killed.
    pub(super) fn cancel(&mut self, id: &IntentId) {
        self.set.executor.cancel(id, Stop::Gracefully);
        self.timers.insert((Instant::now() + self.set.grace, Timer::Kill(id.clone())));
    }

    /// First time: nothing new starts, and what runs may save its progress. Second time: everything ends now.
    fn stop(&mut self, interrupt: Interrupt) -> Result<(), JournalError> {
        self.moved = true;
        let ids: Vec<IntentId> = self.running.keys().cloned().collect();
        if self.stopping.is_some() {
            for id in ids {
                self.set.executor.cancel(&id, Stop::Now);
            }
            return Ok(());
        }
        self.stopping = Some(interrupt);
        self.emit(RunEvent::RunStopping { grace_s: self.set.grace.as_secs_f64() })?;
        for id in ids {
            self.cancel(&id);
        }
        for index in 0..self.nodes.len() {
            if self.nodes[index].phase == Phase::Elsewhere {
                self.timers.retain(|(_, t)| *t != Timer::AskAgain(index));
                self.nodes[index].phase = Phase::Wanted;
            }
            if self.nodes[index].phase == Phase::Backoff {
                self.timers.retain(|(_, t)| *t != Timer::Retry(index));
                self.nodes[index].phase = Phase::Interrupted;
                let (stage, attempt) = (self.id(index), self.nodes[index].attempts);
                self.emit(RunEvent::StageInterrupted { stage, attempt })?;
            }
        }
        Ok(())
    }
}
