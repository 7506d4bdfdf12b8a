//! From a workflow file to finished artifacts: reading and checking, planning by content, running durably.
//!
//! ```text
//! Workflow::load ─► Plan::of                    what would run, and why
//!              └──► Engine::run ─► RunEvent…    what runs, and what came of it
//! ```
//!
//! [`Engine`] hands attempts to an [`Executor`]; [`LocalExecutor`] runs each in a child process whose `main` calls [`worker_main`],
//! [`SlurmExecutor`] in a job of a cluster whose `main` calls [`job_main`].

mod config;
mod diagnostic;
mod event;
mod exec;
mod exit;
mod journal;
mod plan;
mod query;
mod resume;
mod workflow;

pub use diagnostic::{Diagnostic, Diagnostics, Source};
pub use event::{LeaseIntent, OutputRef, RunEvent, RunFinished, RunStatus, StageCounts};
pub use exec::{
    Connect, Engine, Executor, FailedStage, Failure, Host, InProcessExecutor, Intent, IntentId, Interrupt, Job, KeptLease,
    LocalExecutor, ORPHANED, Operation, Outcome, PlacedExecutor, Report, ReportSender, RetryOn, RunError, RunOptions, RunRemote,
    RunReport, SlurmExecutor, SlurmSettings, Stop, job_main, worker_main,
};
pub use exit::ExitCode;
pub use journal::{IllegalEvent, JournalError, OpenLease, RunState, StageRecord, StageStatus, next_status};
pub use plan::{Change, History, NothingSelected, Plan, PlanError, PlanState, PlannedStage};
pub use query::{ArtifactRow, QueryError, RunView, StageView, artifacts, events_of, find_artifact, log_file, status};
pub use resume::{RequestError, RunRequest, resumable};
pub use workflow::{
    Axis, Checkpoint, Edge, Instance, InstanceId, Lease, Limits, LoadError, ParseIdError, Placement, Resources, Retry, Selector,
    SlurmOptions, StageDef, Workflow, WorkflowInputs, workflow_schema,
};
