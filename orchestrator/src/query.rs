//! Questions about runs and artifacts, answered from journals and records; nothing here changes anything.

use std::path::PathBuf;

use serde::Serialize;
use sprint_artifacts::runs::{LogError, RunError as RunDirError};
use sprint_artifacts::{ArtifactId, Owner, RecordError, RunDir, RunId, Secrecy, Store, StoreError};

use crate::event::{RunEvent, RunFinished};
use crate::exec::log_path;
use crate::journal::{JournalError, StageRecord, events, fold};
use crate::workflow::InstanceId;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueryError {
    /// The run's folder.
    #[error(transparent)]
    Run(#[from] RunDirError),
    /// The run's journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The result records.
    #[error("the store's results cannot be read")]
    Record(#[from] RecordError),
    /// The blobs.
    #[error("the store cannot be read")]
    Store(#[from] StoreError),
    /// There is no run yet.
    #[error("the store has no runs")]
    NoRuns,
    /// The stage has no log in this run.
    #[error("run {run} has no log of {stage}{}", .attempt.map(|a| format!(", attempt {a}")).unwrap_or_default())]
    NoLog {
        /// The run.
        run: RunId,
        /// The stage.
        stage: InstanceId,
        /// The attempt asked for.
        attempt: Option<u32>,
        /// Stages that have one.
        known: Vec<String>,
    },
    /// No artifact, or more than one, begins like this.
    #[error("{found} artifacts begin with `{prefix}`")]
    Ambiguous {
        /// What was given.
        prefix: String,
        /// How many there are.
        found: usize,
    },
}

impl From<LogError> for QueryError {
    fn from(error: LogError) -> Self {
        Self::Journal(error.into())
    }
}

/// A run, as `status` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct RunView {
    /// The run.
    pub run: RunId,
    /// The workflow's name.
    pub workflow: String,
    /// `running`, `succeeded`, `failed`, `partial`, `interrupted`, or `crashed` if its process vanished.
    pub state: &'static str,
    /// Who drives it now.
    pub owner: Option<Owner>,
    /// When the first process took it, in milliseconds since 1970.
    pub started_unix_ms: Option<u64>,
    /// When something was last journalled.
    pub updated_unix_ms: Option<u64>,
    /// Instances selected.
    pub total: usize,
    /// Instances that something happened to.
    pub stages: Vec<StageView>,
    /// The last event, if it came that far.
    pub finished: Option<RunFinished>,
}

/// An instance, as `status` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct StageView {
    /// The instance.
    pub id: InstanceId,
    /// Where it stands.
    pub record: StageRecord,
}

fn run_or_newest<'s>(store: &'s Store, id: Option<&RunId>) -> Result<RunDir<'s>, QueryError> {
    match id {
        Some(id) => Ok(store.run(id)?),
        None => Ok(store.run(store.runs()?.first().ok_or(QueryError::NoRuns)?)?),
    }
}

/// The state of a run; the newest if none is named.
pub fn status(store: &Store, id: Option<&RunId>) -> Result<RunView, QueryError> {
    let run = run_or_newest(store, id)?;
    let replay = run.read_journal()?;
    let state = fold(&replay)?;
    let times: Vec<u64> = events(&replay)?.into_iter().map(|(at, _)| at).collect();
    let owner = run.holder();
    let word = match (&state.finished, &owner) {
        (_, Some(_)) => "running",
        (Some(end), None) => match end.status {
            crate::event::RunStatus::Succeeded => "succeeded",
            crate::event::RunStatus::Failed => "failed",
            crate::event::RunStatus::Partial => "partial",
            crate::event::RunStatus::Interrupted => "interrupted",
        },
        (None, None) => "crashed",
    };
    Ok(RunView {
        run: run.id().clone(),
        workflow: state.workflow,
        state: word,
        owner,
        started_unix_ms: times.first().copied(),
        updated_unix_ms: times.last().copied(),
        total: state.total,
        stages: state.stages.into_iter().map(|(id, record)| StageView { id, record }).collect(),
        finished: state.finished,
    })
}

/// The journalled events of a run with their times, oldest first.
pub fn events_of(store: &Store, id: Option<&RunId>) -> Result<Vec<(u64, RunEvent)>, QueryError> {
    Ok(events(&run_or_newest(store, id)?.read_journal()?)?)
}

/// The log file of an attempt; the newest run that has one, and its newest attempt, unless they are named.
pub fn log_file(store: &Store, id: Option<&RunId>, stage: &InstanceId, attempt: Option<u32>) -> Result<PathBuf, QueryError> {
    let runs = match id {
        Some(id) => vec![id.clone()],
        None => store.runs()?,
    };
    let newest = runs.first().cloned().ok_or(QueryError::NoRuns)?;
    let mut known = Vec::new();
    for id in runs {
        let run = store.run(&id)?;
        let folder = log_path(&run.logs(), stage, 1).parent().map(PathBuf::from).unwrap_or_default();
        let attempts = std::fs::read_dir(&folder).into_iter().flatten().flatten().filter_map(|e| {
            let path = e.path();
            let number: u32 = path.file_stem()?.to_str()?.parse().ok()?;
            (path.extension()? == "log").then_some((number, path))
        });
        let found = attempts.filter(|(n, _)| attempt.is_none_or(|a| a == *n)).max();
        if let Some((_, path)) = found {
            return Ok(path);
        }
        let names = std::fs::read_dir(run.logs()).into_iter().flatten().flatten();
        known.extend(names.filter_map(|e| e.file_name().into_string().ok()).map(|n| n.replace("%2F", "/")));
    }
    known.sort();
    known.dedup();
    Err(QueryError::NoLog { run: newest, stage: stage.clone(), attempt, known })
}

/// An artifact, as `artifacts ls` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct ArtifactRow {
    /// The artifact.
    pub digest: ArtifactId,
    /// Its kind.
    pub kind: Option<String>,
    /// Who may hold it.
    pub secrecy: Option<Secrecy>,
    /// Bytes; absent if its manifest is not in the store.
    pub bytes: Option<u64>,
    /// The instance that made it.
    pub stage: String,
    /// The output port.
    pub output: String,
    /// The run.
    pub run: String,
    /// When, in milliseconds since 1970.
    pub finished_unix_ms: u64,
}

/// Every recorded artifact, newest first.
pub fn artifacts(store: &Store) -> Result<Vec<ArtifactRow>, QueryError> {
    let mut rows = Vec::new();
    for result in store.all_results()?.records {
        let record = result.record;
        for (output, id) in &record.outputs {
            let manifest = store.read_artifact(id).ok();
            rows.push(ArtifactRow {
                digest: *id,
                kind: manifest.as_ref().map(|m| m.kind().to_owned()),
                secrecy: manifest.as_ref().map(sprint_artifacts::Manifest::secrecy),
                bytes: manifest.as_ref().map(sprint_artifacts::Manifest::total_size),
                stage: record.stage.clone(),
                output: output.clone(),
                run: record.run.clone(),
                finished_unix_ms: record.finished_unix_ms,
            });
        }
    }
    Ok(rows)
}

/// The one recorded artifact whose digest begins with `prefix` (with or without `b3:`).
pub fn find_artifact(store: &Store, prefix: &str) -> Result<ArtifactId, QueryError> {
    if let Ok(id) = prefix.parse::<ArtifactId>() {
        return Ok(id);
    }
    let hex = prefix.strip_prefix("b3:").unwrap_or(prefix);
    let mut found: Vec<ArtifactId> =
        artifacts(store)?.into_iter().map(|r| r.digest).filter(|d| d.to_hex().starts_with(hex)).collect();
    found.sort();
    found.dedup();
    match found.as_slice() {
        [only] => Ok(*only),
        _ => Err(QueryError::Ambiguous { prefix: prefix.to_owned(), found: found.len() }),
    }
}
