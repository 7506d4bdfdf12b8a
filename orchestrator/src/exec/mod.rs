//! Running a workflow: one dispatcher decides, executors act.

mod ask;
mod attempt;
mod claim;
mod commit;
mod dispatcher;
mod engine;
mod executor;
mod in_process;
mod lease;
mod limits;
mod local;
mod node;
mod placed;
mod protocol;
mod remote;
mod retry;
mod schedule;
mod slurm;
mod worker;

pub(crate) use engine::log_path;
pub use engine::{Engine, FailedStage, Host, Interrupt, RunError, RunOptions, RunReport};
pub use executor::{Executor, Intent, IntentId, Operation, Outcome, Report, ReportSender, Stop};
pub use in_process::InProcessExecutor;
pub use lease::KeptLease;
pub use local::LocalExecutor;
pub use placed::PlacedExecutor;
pub use remote::{Connect, RunRemote};
pub use retry::{Failure, RetryOn};
pub use slurm::{Job, SlurmExecutor, SlurmSettings, job_main};
pub use worker::{ORPHANED, worker_main};
