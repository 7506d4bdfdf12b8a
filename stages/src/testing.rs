//! What a stage's test needs around it: a store, checkpoints in memory, and events kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::Value;
use sprint_artifacts::{ArtifactId, Manifest, Store, StoreOptions};
use sprint_stage_api::{
    Ancestor, CheckpointAccess, ContextParts, EventSink, InputArtifact, Inputs, LeaseTerms, Stage, StageContext, StageError,
    StageEvent, StageOutputs,
};

/// A store in a temporary folder and everything else a stage touches.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
    store: Store,
    checkpoints: Bundles,
    pub(crate) events: Events,
    pub(crate) env: BTreeMap<String, String>,
    pub(crate) inputs: Inputs,
    pub(crate) ancestors: Vec<Ancestor>,
    pub(crate) axes: BTreeMap<String, String>,
}

/// Checkpoints in memory, ledgers in a folder.
struct Bundles {
    latest: Mutex<Option<Vec<u8>>>,
    ledgers: PathBuf,
}

/// Events in order.
#[derive(Default)]
pub(crate) struct Events(Mutex<Vec<StageEvent>>);

impl Events {
    pub(crate) fn lines(&self) -> Vec<String> {
        let events = self.0.lock().expect("no test panics while it holds the lock");
        events.iter().filter_map(|e| if let StageEvent::Log { line } = e { Some(line.clone()) } else { None }).collect()
    }

    pub(crate) fn count(&self) -> usize {
        self.0.lock().expect("no test panics while it holds the lock").len()
    }
}

impl EventSink for Events {
    fn emit(&self, event: StageEvent) {
        self.0.lock().expect("no test panics while it holds the lock").push(event);
    }
}

impl CheckpointAccess for Bundles {
    fn latest(&self) -> Result<Option<Vec<u8>>, StageError> {
        Ok(self.latest.lock().expect("no test panics while it holds the lock").clone())
    }

    fn offer(&self, bundle: &[u8]) -> Result<(), StageError> {
        *self.latest.lock().expect("no test panics while it holds the lock") = Some(bundle.to_vec());
        Ok(())
    }

    fn ledger_dir(&self) -> &Path {
        &self.ledgers
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(dir.path().join("store"), StoreOptions::read_write()).expect("a store");
        let ledgers = dir.path().join("ledgers");
        for folder in ["ledgers", "scratch", "base"] {
            std::fs::create_dir(dir.path().join(folder)).expect("a folder");
        }
        Self {
            store,
            checkpoints: Bundles { latest: Mutex::new(None), ledgers },
            events: Events::default(),
            env: BTreeMap::new(),
            inputs: Inputs::new(),
            ancestors: Vec::new(),
            axes: BTreeMap::new(),
            dir,
        }
    }

    /// The folder that stands for the workflow's.
    pub(crate) fn base(&self) -> PathBuf {
        self.dir.path().join("base")
    }

    /// The folder of ledgers and partial downloads.
    pub(crate) fn ledgers(&self) -> &Path {
        &self.checkpoints.ledgers
    }

    /// Checkpoints in memory.
    pub(crate) fn checkpoints(&self) -> &dyn CheckpointAccess {
        &self.checkpoints
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Connects an artifact to a port.
    pub(crate) fn connect(&mut self, port: &str, axes: &[(&str, &str)], id: ArtifactId) {
        let axes = axes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.inputs.entry(port.to_owned()).or_default().push(InputArtifact { axes, id });
    }

    /// Normalises, pins and runs.
    pub(crate) fn run(&self, stage: &dyn Stage, params: &Value) -> Result<StageOutputs, StageError> {
        let params = stage.normalise(params).expect("valid parameters");
        let params = stage.pin(&params, &self.base()).expect("files that can be read");
        self.run_normalised(stage, &params)
    }

    /// Runs with parameters as they are.
    pub(crate) fn run_normalised(&self, stage: &dyn Stage, params: &Value) -> Result<StageOutputs, StageError> {
        self.run_until(stage, params, &|| false)
    }

    /// Runs until `cancelled` says so.
    pub(crate) fn run_until(
        &self,
        stage: &dyn Stage,
        params: &Value,
        cancelled: &(dyn Fn() -> bool + Send + Sync),
    ) -> Result<StageOutputs, StageError> {
        stage.run(&StageContext::new(ContextParts {
            run: "20261122-101530-1a2b3c4d",
            stage: "stage".to_owned(),
            lease: LeaseTerms::default(),
            store: &self.store,
            params,
            inputs: &self.inputs,
            ancestors: &self.ancestors,
            scratch: self.dir.path().join("scratch"),
            attempt: 1,
            axes: &self.axes,
            events: &self.events,
            checkpoints: &self.checkpoints,
            cancelled,
            env: &self.env,
            base: self.base(),
            cpus: 2,
        }))
    }

    /// The manifest and files of an output.
    pub(crate) fn output(&self, outputs: &StageOutputs, port: &str) -> (Manifest, BTreeMap<String, Vec<u8>>) {
        let manifest = self.store.read_artifact(outputs.get(port).expect("the port has an output")).expect("stored");
        let read = |name: &str| self.store.read_file(&manifest, name).expect("stored");
        let files = manifest.files().iter().map(|f| (f.name().to_owned(), read(f.name()))).collect();
        (manifest, files)
    }
}
