//! An executor on a Slurm cluster: every attempt a job, known by a name that follows from the attempt.
//!
//! ```text
//! submit ─► folder in the store ─► sbatch --job-name=N --dependency=singleton ─► sprint-flow stage-job FOLDER
//!                 ▲                                                                   │ what it says, its outcome
//!                 └───────────────────────────────────────────────────────────────────┘
//! ```
//!
//! The job and the orchestrator share nothing but the store's folder, so a job outlives its orchestrator, and the next one takes it up
//! under its name. An attempt never works twice at once: a second job of the name waits for the first (`singleton`) and then finds the
//! outcome. No secret is in a job's arguments, script or environment, where `scontrol` would show it: the request, which may hold a hub's
//! token, is a file that only the user can read, and it is gone when the attempt is.

mod client;
mod folder;
mod job;
mod script;
mod state;
mod worker;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sprint_artifacts::Digest;
use sprint_stage_api::StageError;
use tokio::sync::mpsc;

use self::client::{Commands, Queue};
use self::folder::JobFolder;
use self::job::Attempt;
pub use self::worker::{Job, job_main};
use super::executor::{Executor, Intent, IntentId, Report, ReportSender, Stop};

/// How this cluster is reached, and what its jobs run.
#[derive(Debug, Clone)]
pub struct SlurmSettings {
    /// The command that a job runs, followed by the folder of its attempt and its number. Nodes must find it under the same path.
    pub program: Vec<OsString>,
    /// Variables that a job's script sets; nothing else of this process' environment reaches it.
    pub env: BTreeMap<String, OsString>,
    /// The folder of `sbatch`, `squeue`, `scancel` and `sacct`, if they are not in the search path.
    pub commands: Option<PathBuf>,
    /// How often the queue is asked.
    pub poll: Duration,
}

/// Runs attempts as Slurm jobs that work on the store at `store`.
#[derive(Clone)]
pub struct SlurmExecutor {
    settings: Arc<SlurmSettings>,
    store: PathBuf,
    queue: Arc<Queue>,
    running: Arc<Mutex<BTreeMap<IntentId, mpsc::UnboundedSender<Stop>>>>,
}

impl SlurmExecutor {
    /// An executor for the store whose folder, under this absolute path, all nodes share.
    pub fn new(store: PathBuf, settings: SlurmSettings) -> Self {
        let queue = Queue::new(Commands::new(settings.commands.clone()), settings.poll);
        Self { settings: Arc::new(settings), store, queue: Arc::new(queue), running: Arc::default() }
    }

    /// `sf-<hash>-<stage>-<attempt>`: the same for the same attempt of the same store, whoever asks.
    fn name(&self, id: &IntentId) -> String {
        let identity = format!("{}\0{id}", self.store.display());
        let hash = Digest::derived("sprint-flow slurm job name v1", identity.as_bytes()).to_hex();
        let text = id.to_string();
        let stage = text.split('/').nth(1).and_then(|s| s.split(['[', '#']).next()).unwrap_or_default();
        let attempt = text.rsplit('#').next().unwrap_or_default();
        let plain =
            |s: &str| s.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')).take(40).collect::<String>();
        format!("sf-{}-{}-{}", &hash[..20], plain(stage), plain(attempt))
    }

    fn folder(&self, id: &IntentId) -> JobFolder {
        JobFolder::at(jobs(&self.store).join(self.name(id)))
    }
}

/// The folder of all attempts that are jobs.
fn jobs(store: &Path) -> PathBuf {
    store.join("private").join("jobs")
}

impl Executor for SlurmExecutor {
    fn submit(&self, mut intent: Intent, reports: ReportSender) -> Result<(), StageError> {
        // A job begins in a folder of its own.
        if let Ok(below) = intent.log.strip_prefix(&intent.store) {
            intent.log = self.store.join(below);
        }
        intent.store.clone_from(&self.store);
        let (control, orders) = mpsc::unbounded_channel();
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(intent.id.clone(), control);
        let name = self.name(&intent.id);
        let earlier =
            (1..intent.attempt).map(|n| self.name(&IntentId::new(&intent.run, &intent.stage, n, &intent.operation))).collect();
        let attempt =
            Attempt::new(&self.settings, self.queue.clone(), self.folder(&intent.id), name, earlier, reports.clone(), orders);
        let running = self.running.clone();
        tokio::spawn(async move {
            let id = intent.id.clone();
            let outcome = attempt.run(intent).await;
            running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            let _ = reports.send((id, Report::Ended(outcome)));
        });
        Ok(())
    }

    fn knows(&self, intent: &Intent) -> bool {
        self.folder(&intent.id).is_open_for(&intent.key)
    }

    fn cancel(&self, id: &IntentId, how: Stop) {
        if let Some(control) = self.running.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
            let _ = control.send(how);
        }
    }

    fn forget(&self, id: &IntentId) {
        self.folder(id).remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::executor::Operation;

    #[test]
    fn a_job_s_name_follows_from_store_run_instance_and_attempt() {
        let settings = SlurmSettings { program: Vec::new(), env: BTreeMap::new(), commands: None, poll: Duration::from_secs(1) };
        let executor = |store: &str| SlurmExecutor::new(store.into(), settings.clone());
        let id = |stage: &str, attempt| IntentId::new("run-1", &stage.parse().expect("an instance"), attempt, &Operation::Run);
        let a = executor("/s").name(&id("tune[task=a/b,epsilon=8]", 2));
        assert!(a.starts_with("sf-") && a.ends_with("-tune-2"), "{a}");
        assert_eq!(a, executor("/s").name(&id("tune[task=a/b,epsilon=8]", 2)), "the same for the same attempt");
        for other in
            [executor("/t").name(&id("tune[task=a/b,epsilon=8]", 2)), executor("/s").name(&id("tune[task=a/c,epsilon=8]", 2))]
        {
            assert_ne!(a, other);
        }
        assert!(a.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_'), "no shell or Slurm would mind {a}");
    }
}
