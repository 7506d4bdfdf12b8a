//! What a stage is given and what it gives back.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sprint_artifacts::encode::Value;
use sprint_artifacts::{ArtifactId, ManifestBuilder, Store};

use crate::{EventSink, StageError, StageEvent};

/// One artifact on an input port. `axes` are the matrix coordinates of its producer, which a gathered input becomes a table by; on a
/// port that does not gather they are empty, because they are not in the action key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputArtifact {
    /// The producer's coordinates, such as `task=sst2, epsilon=8`.
    pub axes: BTreeMap<String, String>,
    /// The artifact.
    pub id: ArtifactId,
}

/// The metadata entry of an artifact for which no privacy claim holds: `false`. Absent otherwise.
pub const PRIVATE: &str = "private";

/// A stage instance that the one being run depends on, directly or through others.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ancestor {
    /// Its stage's name in the workflow.
    pub stage: String,
    /// Its coordinates.
    pub axes: BTreeMap<String, String>,
    /// Wall seconds of the attempt that made its result, whenever that was; `None` if its record does not say.
    pub seconds: Option<f64>,
}

/// All inputs by port name; a port without `gather` has exactly one artifact.
pub type Inputs = BTreeMap<String, Vec<InputArtifact>>;

/// Where a ledger's lines are kept beside the file, for the day that this machine is lost.
pub trait LedgerMirror: Send + Sync {
    /// Tells that `line` was durably appended at `offset`. Once it returns, no loss of this machine loses the line; an error means that
    /// nothing may follow from it.
    fn appended(&self, ledger: &str, offset: u64, line: &[u8]) -> Result<(), StageError>;
}

/// Progress inside a stage that survives a crash: bundles bound to the action key, so any later attempt of the same action,
/// in whichever run, finds them.
pub trait CheckpointAccess: Send + Sync {
    /// The newest complete bundle, verified; falls back to the older one if the newest is torn.
    fn latest(&self) -> Result<Option<Vec<u8>>, StageError>;
    /// Offers a bundle; returns once it is durable.
    fn offer(&self, bundle: &[u8]) -> Result<(), StageError>;
    /// A directory private to this action key that outlives attempts: append-only ledgers live here, never bulk data. A ledger is
    /// a file of lines whose name ends in `.ledger`.
    fn ledger_dir(&self) -> &Path;
    /// Who else must know of a ledger's lines before anything follows from them, if the action may be continued elsewhere.
    fn ledger_mirror(&self) -> Option<Arc<dyn LedgerMirror>> {
        None
    }
    /// The time between bundles that the workflow wishes for (`checkpoint: {every: 10m}`); the stage decides at its own steps.
    fn every(&self) -> Option<Duration> {
        None
    }
}

/// How long what a stage holds outside may be held, and what it may cost.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaseTerms {
    /// Given up after so many seconds in any case.
    pub ttl_s: Option<u64>,
    /// Given up after so many seconds without use.
    pub idle_s: Option<u64>,
    /// Dollars.
    pub max_usd: Option<f64>,
}

/// Everything a stage may touch.
pub struct StageContext<'a> {
    parts: ContextParts<'a>,
}

/// What a [`StageContext`] is made from.
pub struct ContextParts<'a> {
    /// The run.
    pub run: &'a str,
    /// The stage instance, such as `parties[net=lan]`.
    pub stage: String,
    /// How long what it holds outside may be held.
    pub lease: LeaseTerms,
    /// The artifact store.
    pub store: &'a Store,
    /// Normalised parameters.
    pub params: &'a serde_json::Value,
    /// Inputs by port.
    pub inputs: &'a Inputs,
    /// Every instance this one depends on. Not in the action key: what is made from it may differ between machines, as times do.
    pub ancestors: &'a [Ancestor],
    /// A directory for this attempt alone, removed afterwards.
    pub scratch: PathBuf,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// This instance's matrix coordinates.
    pub axes: &'a BTreeMap<String, String>,
    /// Where events go.
    pub events: &'a dyn EventSink,
    /// Checkpoints and ledgers of this action key.
    pub checkpoints: &'a dyn CheckpointAccess,
    /// Whether the run is being cancelled.
    pub cancelled: &'a (dyn Fn() -> bool + Send + Sync),
    /// The declared part of the environment (`HF_ENDPOINT`, proxies), read once at the composition root.
    pub env: &'a BTreeMap<String, String>,
    /// The directory relative paths in the workflow are resolved against.
    pub base: PathBuf,
    /// Threads this stage may use.
    pub cpus: usize,
}

impl<'a> StageContext<'a> {
    /// Assembles a context; done by executors and tests.
    pub fn new(parts: ContextParts<'a>) -> Self {
        Self { parts }
    }

    /// The run, for naming what is held outside.
    pub fn run(&self) -> &str {
        self.parts.run
    }

    /// The stage instance, for naming what is held outside.
    pub fn stage(&self) -> &str {
        &self.parts.stage
    }

    /// How long what it holds outside may be held, and what it may cost.
    pub fn lease(&self) -> LeaseTerms {
        self.parts.lease
    }

    /// The artifact store.
    pub fn store(&self) -> &Store {
        self.parts.store
    }

    /// Normalised parameters.
    pub fn params(&self) -> &serde_json::Value {
        self.parts.params
    }

    /// Parameters as the stage's own type.
    pub fn params_as<T: serde::de::DeserializeOwned>(&self) -> Result<T, StageError> {
        serde_json::from_value(self.parts.params.clone()).map_err(|e| StageError::permanent(format!("params: {e}")))
    }

    /// The one artifact on `port`.
    pub fn input(&self, port: &str) -> Result<&InputArtifact, StageError> {
        self.optional_input(port).ok_or_else(|| StageError::permanent(format!("inputs.{port}: nothing is connected")))
    }

    /// The one artifact on an optional `port`.
    pub fn optional_input(&self, port: &str) -> Option<&InputArtifact> {
        self.parts.inputs.get(port).and_then(|all| all.first())
    }

    /// All artifacts on a gathering `port`, in the order of their axes.
    pub fn gathered(&self, port: &str) -> &[InputArtifact] {
        self.parts.inputs.get(port).map_or(&[], Vec::as_slice)
    }

    /// Every instance this one depends on, in the workflow's order.
    pub fn ancestors(&self) -> &[Ancestor] {
        self.parts.ancestors
    }

    /// Stores an artifact. It is stamped `private: false` if any input is: what is made from a model whose noise can be reproduced
    /// carries no privacy claim either.
    pub fn put(&self, builder: ManifestBuilder) -> Result<ArtifactId, StageError> {
        let mut builder = builder;
        for input in self.parts.inputs.values().flatten() {
            let manifest = self.parts.store.read_artifact(&input.id).map_err(|e| StageError::of_store(&e))?;
            if manifest.meta().get(PRIVATE) == Some(&Value::Bool(false)) {
                builder = builder.meta(PRIVATE, false);
            }
        }
        Ok(self.parts.store.put_artifact(builder).map_err(|e| StageError::of_store(&e))?.0)
    }

    /// A directory for this attempt alone.
    pub fn scratch(&self) -> &Path {
        &self.parts.scratch
    }

    /// Which attempt this is, from 1.
    pub fn attempt(&self) -> u32 {
        self.parts.attempt
    }

    /// This instance's matrix coordinates.
    pub fn axes(&self) -> &BTreeMap<String, String> {
        self.parts.axes
    }

    /// Checkpoints and ledgers of this action.
    pub fn checkpoints(&self) -> &dyn CheckpointAccess {
        self.parts.checkpoints
    }

    /// Whether the run is being cancelled; long loops ask at every step.
    pub fn is_cancelled(&self) -> bool {
        (self.parts.cancelled)()
    }

    /// A declared environment variable.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.parts.env.get(name).map(String::as_str)
    }

    /// The directory relative paths are resolved against.
    pub fn base(&self) -> &Path {
        &self.parts.base
    }

    /// Threads this stage may use.
    pub fn cpus(&self) -> usize {
        self.parts.cpus
    }

    /// Reports an event.
    pub fn emit(&self, event: StageEvent) {
        self.parts.events.emit(event);
    }

    /// Reports progress.
    pub fn progress(&self, done: u64, total: Option<u64>, unit: &str, note: Option<String>) {
        self.emit(StageEvent::Progress { done, total, unit: unit.to_owned(), note });
    }

    /// Writes a line to the stage's log.
    pub fn log(&self, line: impl Into<String>) {
        self.emit(StageEvent::Log { line: line.into() });
    }
}

/// Outputs by port name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StageOutputs {
    by_port: BTreeMap<String, ArtifactId>,
}

impl StageOutputs {
    /// No outputs yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the artifact of `port`.
    #[must_use]
    pub fn with(mut self, port: &str, id: ArtifactId) -> Self {
        self.by_port.insert(port.to_owned(), id);
        self
    }

    /// The artifact of `port`.
    pub fn get(&self, port: &str) -> Option<&ArtifactId> {
        self.by_port.get(port)
    }

    /// All outputs in port order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &ArtifactId)> {
        self.by_port.iter().map(|(k, v)| (k.as_str(), v))
    }
}

impl FromIterator<(String, ArtifactId)> for StageOutputs {
    fn from_iter<I: IntoIterator<Item = (String, ArtifactId)>>(iter: I) -> Self {
        Self { by_port: iter.into_iter().collect() }
    }
}
