//! `status`.

use serde_json::json;
use sprint_artifacts::{RunDir, Store};
use sprint_orchestrator::{InstanceId, QueryError, RunRequest, RunView, StageStatus, StageView, Workflow, status};

use super::artifacts::open;
use super::run::run_id;
use crate::args::StatusArgs;
use crate::failure::{Code, Failure};
use crate::registry::registry;
use crate::ui::{grid, out, seconds};

pub(super) fn run(args: &StatusArgs) -> Result<Code, Failure> {
    let id = args.run.as_deref().map(run_id).transpose()?;
    let store = open(&args.store.store)?;
    let view = status(&store, id.as_ref()).map_err(|e| query_failure(&e))?;
    let pending = pending(&store, &view);
    if args.json {
        out::line(as_json(&view, &pending))?;
    } else {
        show(&view, &pending)?;
    }
    Ok(Code::DONE)
}

/// The exit code of an unanswered question: what was asked for is not there (2), a damaged journal (6).
pub(super) fn query_failure(error: &QueryError) -> Failure {
    let code = match error {
        QueryError::Run(_) | QueryError::NoRuns | QueryError::NoLog { .. } | QueryError::Ambiguous { .. } => Code::USAGE,
        QueryError::Journal(_) => Code::INTEGRITY,
        _ => Code::FAILED,
    };
    Failure::from_error(code, error)
}

/// Instances that the run's workflow has and nothing has happened to. Empty where only a selection was asked for: what it takes in is
/// known once its stages report.
fn pending(store: &Store, view: &RunView) -> Vec<String> {
    let request = store.run(&view.run).ok().and_then(|run: RunDir<'_>| RunRequest::read(&run).ok());
    let Some(request) = request.filter(|r| r.only.is_empty()) else { return Vec::new() };
    let Ok(workflow) = Workflow::from_inputs(request.workflow, &registry()) else { return Vec::new() };
    let seen = |id: &InstanceId| view.stages.iter().any(|s| s.id == *id);
    workflow.instances().iter().map(sprint_orchestrator::Instance::id).filter(|id| !seen(id)).map(ToString::to_string).collect()
}

fn as_json(view: &RunView, pending: &[String]) -> serde_json::Value {
    let stage = |StageView { id, record }: &StageView| {
        json!({"id": id, "status": record.status, "attempts": record.attempts, "seconds": record.seconds,
            "outputs": record.outputs, "failure": record.failure})
    };
    let nothing = |id: &String| json!({"id": id, "status": StageStatus::Pending, "attempts": 0, "seconds": null, "outputs": {}, "failure": null});
    let stages: Vec<_> = view.stages.iter().map(stage).chain(pending.iter().map(nothing)).collect();
    json!({"run": view.run.as_str(), "workflow": view.workflow, "state": view.state, "owner": view.owner, "total": view.total,
        "started_unix_ms": view.started_unix_ms, "updated_unix_ms": view.updated_unix_ms, "stages": stages, "finished": view.finished})
}

fn show(view: &RunView, pending: &[String]) -> Result<(), Failure> {
    let owner = view.owner.as_ref().map(|o| format!(" by process {} on {}", o.pid, o.host)).unwrap_or_default();
    out::line(format_args!("run {} of {}: {}{owner}", view.run.as_str(), view.workflow, view.state))?;
    let row = |StageView { id, record }: &StageView| {
        let word = match record.status {
            StageStatus::Pending => "pending",
            StageStatus::Hit => "cached",
            StageStatus::Running if view.owner.is_none() => "was running",
            StageStatus::Running => "running",
            StageStatus::Waiting => "waits for its next attempt",
            StageStatus::Committed => "ran",
            StageStatus::Failed => "failed",
            StageStatus::Interrupted => "stopped",
            StageStatus::Blocked => "not run",
        };
        let attempts = if record.attempts > 1 { format!("{} attempts", record.attempts) } else { String::new() };
        let note = record.failure.as_ref().map_or(attempts, |f| f.error.message.clone());
        vec![id.to_string(), word.to_owned(), record.seconds.map(seconds).unwrap_or_default(), note]
    };
    let later = pending.iter().map(|id| vec![id.clone(), "pending".to_owned(), String::new(), String::new()]);
    out::line(grid(&["stage", "state", "time", ""], &view.stages.iter().map(row).chain(later).collect::<Vec<_>>()))?;
    if matches!(view.state, "crashed" | "interrupted") {
        out::note("`sprint-flow resume` continues it");
    }
    Ok(())
}
