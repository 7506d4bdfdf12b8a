//! Where stage attempts run: the contract between the dispatcher, which decides, and executors, which act.
//!
//! An executor is anything that can run `sprint-flow` on the store's folder and be asked again by name: a child process, a Slurm job; a
//! job of AWS Batch or Kubernetes would be another [`Placement`](crate::Placement) and another implementation of [`Executor`].

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sprint_artifacts::remote::RemoteSpec;
use sprint_artifacts::{ActionKey, ArtifactId};
use sprint_stage_api::{Ancestor, Inputs, LeaseTerms, StageError, StageEvent};
use tokio::sync::mpsc;

use crate::workflow::{InstanceId, Placement, Resources};

/// The name of one attempt; the same intent always has the same name, so an executor can find what it was given before.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IntentId(String);

impl IntentId {
    /// `run/stage[axis=value]#attempt`, with `/release` for giving back what the attempt holds.
    pub fn new(run: &str, stage: &InstanceId, attempt: u32, operation: &Operation) -> Self {
        let suffix = match operation {
            Operation::Run => "",
            Operation::Release { .. } => "/release",
        };
        Self(format!("{run}/{stage}#{attempt}{suffix}"))
    }
}

impl fmt::Display for IntentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a stage is asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "do", deny_unknown_fields)]
pub enum Operation {
    /// The work.
    Run,
    /// Giving back what an earlier attempt holds.
    Release {
        /// Its outputs, if it came that far.
        outputs: BTreeMap<String, ArtifactId>,
    },
}

/// One attempt, as it was journalled.
#[derive(Debug, Clone)]
pub struct Intent {
    /// Its name.
    pub id: IntentId,
    /// The run.
    pub run: String,
    /// The instance.
    pub stage: InstanceId,
    /// What to do.
    pub operation: Operation,
    /// The stage's kind.
    pub kind: String,
    /// Its version.
    pub version: u32,
    /// The action's key: checkpoints and ledgers are bound to it.
    pub key: ActionKey,
    /// Normalised parameters.
    pub params: Arc<serde_json::Value>,
    /// Inputs by port.
    pub inputs: Inputs,
    /// Every instance it depends on.
    pub ancestors: Vec<Ancestor>,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// The instance's coordinates.
    pub axes: BTreeMap<String, String>,
    /// The declared environment.
    pub env: Arc<BTreeMap<String, String>>,
    /// The folder that relative paths are resolved against.
    pub base: PathBuf,
    /// Threads it may use.
    pub cpus: usize,
    /// Where it runs.
    pub placement: Placement,
    /// What the workflow says it uses.
    pub resources: Resources,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// The version of the kind's code that its key names; another program must not make this result.
    pub code: &'static str,
    /// The store.
    pub store: PathBuf,
    /// Where the attempt's log goes.
    pub log: PathBuf,
    /// Wished milliseconds between checkpoints.
    pub checkpoint_every_ms: Option<u64>,
    /// How many checkpoints stay.
    pub checkpoint_keep: u32,
    /// How long what it holds outside may be held.
    pub lease: LeaseTerms,
    /// Where its checkpoints go and come from.
    pub remote: Option<Arc<RemoteSpec>>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It made these artifacts (none for a release).
    Done(BTreeMap<String, ArtifactId>),
    /// It failed.
    Failed(StageError),
}

/// What an executor tells about an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Report {
    /// It runs, after it had waited for a machine; told again if it had to begin anew there.
    Began {
        /// When, in milliseconds since 1970 by that machine's clock.
        unix_ms: u64,
        /// The machine.
        host: String,
    },
    /// The stage reported something.
    Event(StageEvent),
    /// It ended; the last report of an attempt.
    Ended(Outcome),
}

/// Where reports go.
pub type ReportSender = mpsc::UnboundedSender<(IntentId, Report)>;

/// How firmly to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Ask the stage to save its progress and end.
    Gracefully,
    /// End it now, with everything it started.
    Now,
}

/// Runs attempts somewhere.
///
/// `knows` is what makes a restarted orchestrator safe: an attempt that outlived its orchestrator is taken up under its name by a second
/// `submit`, never started twice, also where the answer to the first submission was lost.
pub trait Executor: Send + Sync {
    /// Starts an attempt, or takes up one that it knows; reports follow. An error means that nothing was started.
    fn submit(&self, intent: Intent, reports: ReportSender) -> Result<(), StageError>;
    /// Whether this very attempt of this very action was submitted by an earlier process and may still come to a result. An attempt that
    /// dies with its orchestrator is never known.
    fn knows(&self, intent: &Intent) -> bool {
        let _ = intent;
        false
    }
    /// Stops an attempt; its last report still comes.
    fn cancel(&self, id: &IntentId, how: Stop);
    /// The attempt's end is in the journal: what was kept about it may go.
    fn forget(&self, id: &IntentId) {
        let _ = id;
    }
}
