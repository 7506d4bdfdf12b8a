//! A run from request to report: which run it is, its lock and journal, the dispatcher, and what came of it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sprint_artifacts::runs::RunError as RunDirError;
use sprint_artifacts::{ArtifactId, Owner, RunDir, RunId, Secrecy, Store};
use sprint_stage_api::{ErrorClass, StageError};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::dispatcher::{Dispatcher, Setting};
use super::executor::Executor;
use super::lease::{KeptLease, reap};
use super::limits::Capacity;
use super::node::{Node, Phase};
use super::remote::RunRemote;
use super::retry::Failure;
use crate::event::{OutputRef, RunEvent, RunFinished, RunStatus, StageCounts};
use crate::exit::ExitCode;
use crate::journal::{Journal, JournalError};
use crate::plan::{NothingSelected, select};
use crate::resume::{RequestError, RunRequest, continued_by, unfinished};
use crate::workflow::{InstanceId, Selector, Workflow};

/// What the composition root knows about the world, so that this crate need not ask.
#[derive(Clone)]
pub struct Host {
    /// Milliseconds since 1970.
    pub now_unix_ms: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// A random number, to tell apart runs that begin in the same second.
    pub random: u32,
    /// The machine's name.
    pub name: String,
    /// This process.
    pub pid: u32,
    /// Processor threads.
    pub cpus: usize,
    /// The variables that stages may ask for (`HF_ENDPOINT`, proxies).
    pub env: Arc<BTreeMap<String, String>>,
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("name", &self.name).field("pid", &self.pid).field("cpus", &self.cpus).finish_non_exhaustive()
    }
}

/// A wish to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interrupt {
    /// SIGINT.
    Interrupt,
    /// SIGTERM.
    Terminate,
}

/// How to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunOptions {
    /// Only these and what they need.
    pub only: Vec<Selector>,
    /// At most this many attempts at once.
    pub jobs: Option<usize>,
    /// Whether instances that do not depend on a failed one go on.
    pub keep_going: bool,
    /// Part of every key; another salt shares no results.
    pub salt: String,
    /// How long stages may take to save their progress when the run is stopped.
    pub grace: Duration,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { only: Vec::new(), jobs: None, keep_going: false, salt: String::new(), grace: Duration::from_secs(10) }
    }
}

/// A failed instance.
#[derive(Debug, Clone, PartialEq)]
pub struct FailedStage {
    /// The instance.
    pub stage: InstanceId,
    /// How it failed.
    pub failure: Failure,
    /// The log of its last attempt, if one began.
    pub log: Option<PathBuf>,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct RunReport {
    /// The last event.
    pub finished: RunFinished,
    /// How the process ends.
    pub exit: ExitCode,
    /// What failed, in the order of instances.
    pub failures: Vec<FailedStage>,
    /// What may still be running elsewhere.
    pub kept_leases: Vec<KeptLease>,
    /// Results that are here but could not be brought to the remote; the next run tries again.
    pub unpushed: Vec<(InstanceId, StageError)>,
}

/// Why a run did not come to an end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// `--only` selects nothing.
    #[error(transparent)]
    Nothing(#[from] NothingSelected),
    /// The run's folder or lock: [`RunDirError::Locked`] names who drives it.
    #[error("run {id}: {source}")]
    Run {
        /// The run.
        id: String,
        /// Why.
        source: RunDirError,
    },
    /// What the run was asked to do cannot be read.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The store cannot list its runs.
    #[error("the store's runs cannot be read")]
    Runs(#[source] RunDirError),
    /// The journal cannot be written or read; what was done is in the store, and the next run finds it.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

impl RunError {
    /// How the process ends.
    pub fn exit(&self) -> ExitCode {
        use sprint_artifacts::runs::LogError;
        match self {
            Self::Nothing(_) | Self::Request(_) => ExitCode::Usage,
            Self::Run { source: RunDirError::Locked { .. }, .. } => ExitCode::Locked,
            Self::Journal(JournalError::Log(LogError::DiskFull { .. })) => ExitCode::Refused,
            Self::Journal(JournalError::Log(LogError::Io { .. } | LogError::Poisoned { .. }))
            | Self::Run { .. }
            | Self::Runs(_) => ExitCode::StageFailed,
            Self::Journal(_) => ExitCode::Integrity,
        }
    }
}

/// The file of a run that shows the workflow as it was understood.
const RESOLVED: &str = "resolved.yaml";

/// Runs workflows on one store.
#[derive(Clone)]
pub struct Engine {
    store: Arc<Store>,
    executor: Arc<dyn Executor>,
    host: Host,
    remote: Option<RunRemote>,
}

impl Engine {
    /// Runs on `store`, attempts by `executor`.
    pub fn new(store: Arc<Store>, executor: Arc<dyn Executor>, host: Host) -> Self {
        Self { store, executor, host, remote: None }
    }

    /// Looks for results on a remote too, and brings them there.
    #[must_use]
    pub fn with_remote(mut self, remote: Option<RunRemote>) -> Self {
        self.remote = remote;
        self
    }

    /// Runs a workflow. An unfinished run of the same workflow is continued: what it finished is found, what it had begun goes on
    /// from its checkpoints.
    pub async fn run(
        &self,
        workflow: Arc<Workflow>,
        options: &RunOptions,
        events: mpsc::UnboundedSender<RunEvent>,
        interrupts: mpsc::UnboundedReceiver<Interrupt>,
    ) -> Result<RunReport, RunError> {
        let selectors = options.only.iter().map(ToString::to_string).collect();
        let request = RunRequest::new(workflow.inputs().clone(), selectors, options.salt.clone());
        select(&workflow, &options.only)?;
        let run = if let Some(run) = continued_by(&self.store, &request).map_err(RunError::Runs)? {
            run
        } else {
            let id = RunId::new((self.host.now_unix_ms)(), self.host.random);
            self.store.create_run(&id).map_err(|source| RunError::Run { id: id.to_string(), source })?
        };
        self.drive(&run, &request, workflow, options, events, interrupts).await
    }

    /// Continues the run `id`, finished or not. `workflow`, and the selection and salt of `options`, are those of its
    /// [`RunRequest`]: [`resumable`](crate::resumable) finds it and [`Workflow::from_inputs`] reads it, whatever became of the files since.
    pub async fn resume(
        &self,
        id: &RunId,
        workflow: Arc<Workflow>,
        options: &RunOptions,
        events: mpsc::UnboundedSender<RunEvent>,
        interrupts: mpsc::UnboundedReceiver<Interrupt>,
    ) -> Result<RunReport, RunError> {
        let run = self.store.run(id).map_err(|source| RunError::Run { id: id.to_string(), source })?;
        let request = RunRequest::read(&run)?;
        self.drive(&run, &request, workflow, options, events, interrupts).await
    }

    fn owner(&self) -> Owner {
        Owner { pid: self.host.pid, host: self.host.name.clone(), since_unix_ms: (self.host.now_unix_ms)() }
    }

    async fn drive(
        &self,
        run: &RunDir<'_>,
        request: &RunRequest,
        workflow: Arc<Workflow>,
        options: &RunOptions,
        events: mpsc::UnboundedSender<RunEvent>,
        mut interrupts: mpsc::UnboundedReceiver<Interrupt>,
    ) -> Result<RunReport, RunError> {
        let began = Instant::now();
        let wrap = |source| RunError::Run { id: run.id().to_string(), source };
        let _lock = run.lock(&self.owner()).map_err(wrap)?;
        request.write(run).map_err(wrap)?;
        if run.read(RESOLVED).map_err(wrap)?.is_none() {
            run.write_once(RESOLVED, workflow.resolved().as_bytes()).map_err(wrap)?;
        }
        let mut journal = Journal::open(run)?;
        let mut kept = self.reap_others(run.id()).await?;
        kept.extend(reap(run, &mut journal, &self.store, &self.executor, &self.host).await?);
        let selected = select(&workflow, &options.only)?;
        let resumed = journal.state().sessions > 0;
        let nodes = workflow.instances().iter().enumerate().map(|(index, instance)| {
            let attempts = journal.state().stages.get(instance.id()).map_or(0, |s| s.attempts);
            Node::new(selected.contains(&index), instance.before().collect(), attempts)
        });
        let nodes = nodes.collect();
        let setting = Setting {
            workflow: workflow.clone(),
            store: self.store.clone(),
            run: run.id().to_string(),
            executor: self.executor.clone(),
            host: self.host.clone(),
            logs: run.logs(),
            keep_going: options.keep_going,
            salt: options.salt.clone(),
            grace: options.grace,
            remote: self.remote.clone(),
        };
        let capacity = Capacity::new(workflow.limits(), self.host.cpus, options.jobs);
        let mut dispatcher = Dispatcher::new(setting, nodes, journal, capacity, events);
        let (run_id, name) = (run.id().to_string(), workflow.name().to_owned());
        dispatcher.emit(RunEvent::RunStarted { run: run_id, workflow: name, total: selected.len(), resumed })?;
        dispatcher.run(&mut interrupts).await?;
        let mut report = Outcome { dispatcher: &dispatcher, workflow: &workflow, run: run.id() }.report(began.elapsed(), options);
        report.kept_leases.extend(kept);
        if report.exit == ExitCode::Done && !report.unpushed.is_empty() {
            report.exit = ExitCode::RemoteUnavailable;
        }
        if !report.kept_leases.is_empty() {
            report.exit = ExitCode::CloudResources;
        }
        dispatcher.emit(RunEvent::RunFinished(report.finished.clone()))?;
        dispatcher.flush()?;
        if report.exit == ExitCode::Done {
            run.mark_finished().map_err(wrap)?;
        }
        Ok(report)
    }

    /// Gives back what runs hold that nobody drives any more.
    async fn reap_others(&self, own: &RunId) -> Result<Vec<KeptLease>, RunError> {
        let mut kept = Vec::new();
        for run in unfinished(&self.store).map_err(RunError::Runs)? {
            // A look first: most runs hold nothing, and a damaged journal of another run must not stop this one.
            let holds = run.read_journal().ok().and_then(|r| crate::journal::fold(&r).ok()).is_some_and(|s| !s.leases.is_empty());
            if run.id() == own || !holds {
                continue;
            }
            let Ok(_lock) = run.lock(&self.owner()) else { continue };
            if let Ok(mut journal) = Journal::open(&run) {
                kept.extend(reap(&run, &mut journal, &self.store, &self.executor, &self.host).await?);
            }
        }
        Ok(kept)
    }
}

/// Where the log of an attempt is.
pub(crate) fn log_path(logs: &Path, stage: &InstanceId, attempt: u32) -> PathBuf {
    logs.join(stage.to_string().replace('/', "%2F")).join(format!("{attempt}.log"))
}

struct Outcome<'a> {
    dispatcher: &'a Dispatcher,
    workflow: &'a Workflow,
    run: &'a RunId,
}

impl Outcome<'_> {
    fn report(&self, took: Duration, options: &RunOptions) -> RunReport {
        let failures = self.failures();
        let counts = self.counts();
        let interrupted = self.dispatcher.stopping.filter(|_| counts.blocked > 0 || counts.failed > 0);
        let (status, exit) = match (interrupted, failures.first()) {
            (Some(Interrupt::Interrupt), _) => (RunStatus::Interrupted, ExitCode::Interrupted),
            (Some(Interrupt::Terminate), _) => (RunStatus::Interrupted, ExitCode::Terminated),
            (None, None) => (RunStatus::Succeeded, ExitCode::Done),
            (None, Some(_)) if options.keep_going && counts.ran + counts.hit > 0 => (RunStatus::Partial, ExitCode::Partial),
            (None, Some(first)) => {
                (RunStatus::Failed, ExitCode::of_failure(worst(&failures).unwrap_or(first.failure.error.class)))
            }
        };
        let finished = RunFinished {
            run: self.run.to_string(),
            status,
            seconds: took.as_secs_f64(),
            stages: counts,
            outputs: self.outputs(),
        };
        let kept_leases = self.dispatcher.leases.kept.clone();
        RunReport { finished, exit, failures, kept_leases, unpushed: self.dispatcher.unpushed.clone() }
    }

    fn failures(&self) -> Vec<FailedStage> {
        let nodes = self.dispatcher.nodes.iter().zip(self.workflow.instances());
        let failed = nodes.filter_map(|(node, instance)| {
            let failure = node.failure.clone()?;
            let log = node.attempt.is_some().then(|| log_path(&self.dispatcher.set.logs, instance.id(), node.attempts));
            Some(FailedStage { stage: instance.id().clone(), failure, log })
        });
        failed.collect()
    }

    fn counts(&self) -> StageCounts {
        let mut counts = StageCounts::default();
        for node in &self.dispatcher.nodes {
            let field = match node.phase {
                Phase::Skipped => continue,
                Phase::Hit | Phase::Unneeded => &mut counts.hit,
                Phase::Ran => &mut counts.ran,
                Phase::Failed => &mut counts.failed,
                _ => &mut counts.blocked,
            };
            *field += 1;
            counts.total += 1;
        }
        counts
    }

    fn outputs(&self) -> BTreeMap<String, OutputRef> {
        let mut outputs = BTreeMap::new();
        for (node, instance) in self.dispatcher.nodes.iter().zip(self.workflow.instances()) {
            let consumed = instance.consumers.iter().any(|c| self.dispatcher.nodes[*c].phase != Phase::Skipped);
            if consumed || !node.phase.has_artifacts() {
                continue;
            }
            for (output, id) in &node.artifacts {
                let path = file_of(&self.dispatcher.set.store, id);
                outputs.insert(format!("{}.{output}", instance.id()), OutputRef { digest: *id, path });
            }
        }
        outputs
    }
}

/// The class that decides the exit code: damage and refusal are told apart from plain failure even if they came later.
fn worst(failures: &[FailedStage]) -> Option<ErrorClass> {
    let classes = || failures.iter().map(|f| f.failure.error.class);
    [ErrorClass::Integrity, ErrorClass::Refused].into_iter().find(|c| classes().any(|x| x == *c))
}

/// The one file of a public artifact, or its one `.json`.
fn file_of(store: &Store, id: &ArtifactId) -> Option<PathBuf> {
    let manifest = store.read_artifact(id).ok().filter(|m| m.secrecy() == Secrecy::Public)?;
    let name = match manifest.files() {
        [only] => only.name(),
        many => {
            let is_json = |name: &&str| Path::new(name).extension().is_some_and(|e| e == "json");
            let mut json = many.iter().map(sprint_artifacts::FileEntry::name).filter(is_json);
            json.next().filter(|_| json.next().is_none())?
        }
    };
    let path = store.verified_file(&manifest, name).ok()?;
    Some(std::path::absolute(&path).unwrap_or(path))
}
