//! What a run was asked to do, kept beside its journal, and which unfinished run a request continues.

use serde::{Deserialize, Serialize};
use sprint_artifacts::runs::RunError as RunDirError;
use sprint_artifacts::{Digest, RunDir, RunId, Store, Value};

use crate::workflow::WorkflowInputs;

const FILE: &str = "request.json";
const VERSION: u32 = 1;

/// What a run was asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRequest {
    v: u32,
    /// The workflow as it was read then.
    pub workflow: WorkflowInputs,
    /// The selection.
    pub only: Vec<String>,
    /// The salt of its keys.
    pub salt: String,
}

/// Why a run's request cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// The run's folder cannot be used.
    #[error(transparent)]
    Run(#[from] RunDirError),
    /// It says nothing about what was asked: the process died before it could.
    #[error("run {id} never began")]
    Absent {
        /// The run.
        id: RunId,
    },
    /// It cannot be read.
    #[error("the request of run {id} cannot be read")]
    Damaged {
        /// The run.
        id: RunId,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// There is no unfinished run.
    #[error("no run is unfinished")]
    NothingToResume,
}

impl RunRequest {
    pub(crate) fn new(workflow: WorkflowInputs, only: Vec<String>, salt: String) -> Self {
        Self { v: VERSION, workflow, only, salt }
    }

    /// Equal for requests that are the same run if the first was not finished.
    pub(crate) fn digest(&self) -> Digest {
        let only = self.only.iter().map(|s| s.as_str().into()).collect();
        let value = Value::map([
            ("workflow", Value::from(self.workflow.digest())),
            ("only", Value::Array(only)),
            ("salt", self.salt.as_str().into()),
        ]);
        Digest::derived("sprint-flow run-request v1", &value.to_bytes())
    }

    pub(crate) fn write(&self, run: &RunDir<'_>) -> Result<(), RunDirError> {
        run.write_once("workflow.yaml", self.workflow.text.as_bytes())?;
        run.write_once(FILE, &serde_json::to_vec_pretty(self).expect("a request is plain data"))
    }

    /// What the run was asked to do.
    pub fn read(run: &RunDir<'_>) -> Result<Self, RequestError> {
        let id = || run.id().clone();
        let bytes = run.read(FILE)?.ok_or_else(|| RequestError::Absent { id: id() })?;
        serde_json::from_slice(&bytes).map_err(|source| RequestError::Damaged { id: id(), source })
    }
}

/// Unfinished runs, newest first.
pub(crate) fn unfinished(store: &Store) -> Result<Vec<RunDir<'_>>, RunDirError> {
    let runs = store.runs()?.into_iter().map(|id| store.run(&id)).collect::<Result<Vec<_>, _>>()?;
    Ok(runs.into_iter().filter(|r| !r.is_finished()).collect())
}

/// The newest unfinished run that was asked for the same.
pub(crate) fn continued_by<'s>(store: &'s Store, request: &RunRequest) -> Result<Option<RunDir<'s>>, RunDirError> {
    let wanted = request.digest();
    let same = |run: &RunDir<'_>| RunRequest::read(run).is_ok_and(|r| r.digest() == wanted);
    Ok(unfinished(store)?.into_iter().find(same))
}

/// The run to resume: the one named, else the newest unfinished one.
pub fn resumable<'s>(store: &'s Store, id: Option<&RunId>) -> Result<(RunDir<'s>, RunRequest), RequestError> {
    if let Some(id) = id {
        let run = store.run(id)?;
        let request = RunRequest::read(&run)?;
        return Ok((run, request));
    }
    for run in unfinished(store)? {
        if let Ok(request) = RunRequest::read(&run) {
            return Ok((run, request));
        }
    }
    Err(RequestError::NothingToResume)
}
