//! `run` and `resume`.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;

use sprint_artifacts::{RunId, Store, StoreOptions};
use sprint_orchestrator::{
    Engine, Interrupt, KeptLease, LocalExecutor, PlacedExecutor, RunError, RunOptions, RunRemote, RunReport, Selector,
    SlurmExecutor, Workflow, resumable,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::artifacts::store_failure;
use super::remote;
use super::workflow::load;
use crate::args::{ResumeArgs, RunArgs};
use crate::context;
use crate::failure::{Code, Failure, chain};
use crate::registry::registry;
use crate::ui::{Account, Screen, metrics, out};

/// A run to drive.
pub(super) struct Job {
    pub(super) store: Arc<Store>,
    pub(super) workflow: Arc<Workflow>,
    pub(super) options: RunOptions,
    /// The run to continue; a new one, or the unfinished one of the same workflow, if none.
    pub(super) id: Option<RunId>,
    /// Where results are kept for other machines.
    pub(super) remote: Option<RunRemote>,
}

pub(super) fn run(args: RunArgs) -> Result<Code, Failure> {
    let workflow = Arc::new(load(&args.workflow, &registry())?);
    let only = selectors(&args.only)?;
    let store = open(&args.store.store)?;
    let options =
        RunOptions { only, jobs: args.jobs.map(NonZeroUsize::get), keep_going: args.keep_going, ..RunOptions::default() };
    let remote = remote::open(workflow.remote(), &args.remote)?;
    Job { store, workflow, options, id: None, remote }.show(args.workflow.json)
}

pub(super) fn resume(args: &ResumeArgs) -> Result<Code, Failure> {
    let id = args.run.as_deref().map(run_id).transpose()?;
    let store = open(&args.store.store)?;
    let found =
        resumable(&store, id.as_ref()).map_err(|e| Failure::from_error(Code::USAGE, &e).help("`sprint-flow run` starts one"));
    let (id, request) = found.map(|(dir, request)| (dir.id().clone(), request))?;
    let workflow = Workflow::from_inputs(request.workflow.clone(), &registry()).map_err(Failure::Workflow)?;
    let options = RunOptions {
        only: selectors(&request.only)?,
        jobs: args.jobs.map(NonZeroUsize::get),
        keep_going: args.keep_going,
        salt: request.salt,
        ..RunOptions::default()
    };
    let remote = remote::open(workflow.remote(), &args.remote)?;
    Job { store, workflow: Arc::new(workflow), options, id: Some(id), remote }.show(args.json)
}

/// Opens a store for writing; it is made if need be.
pub(super) fn open(root: &Path) -> Result<Arc<Store>, Failure> {
    Store::open(root, StoreOptions::read_write()).map(Arc::new).map_err(|e| store_failure(&e))
}

/// Reads `--only`.
pub(super) fn selectors(texts: &[String]) -> Result<Vec<Selector>, Failure> {
    texts.iter().map(|text| text.parse().map_err(|e| Failure::usage(format!("--only: {e}")))).collect()
}

/// Reads the name of a run.
pub(super) fn run_id(text: &str) -> Result<RunId, Failure> {
    text.parse()
        .map_err(|_| Failure::usage(format!("run `{text}`: not the name of a run")).help("`sprint-flow status` names the newest"))
}

impl Job {
    /// Drives the run and shows it: events in JSON, or progress, a summary, and the metrics it made.
    fn show(self, json: bool) -> Result<Code, Failure> {
        let mut account = Account::default();
        let mut screen = Screen::new(json);
        let report = self.drive(|event| {
            account.see(event);
            screen.see(event);
        })?;
        drop(screen);
        tell_failures(&report);
        if !json {
            account.tell(&report);
            let files = report.finished.outputs.values().filter_map(|output| output.path.as_ref());
            for table in files.filter_map(|path| metrics(&serde_json::from_slice(&std::fs::read(path).ok()?).ok()?)) {
                out::line(format_args!("\n{table}"))?;
            }
        }
        Ok(Code::new(report.exit.code()))
    }

    /// Drives the run to its end, stopping gracefully at SIGINT and SIGTERM.
    pub(super) fn drive(self, mut see: impl FnMut(&sprint_orchestrator::RunEvent)) -> Result<RunReport, Failure> {
        let system = |e: std::io::Error| Failure::new(Code::FAILED, format!("the operating system refused: {e}"));
        let program = context::this_program().map_err(system)?;
        let root = std::path::absolute(self.store.root()).map_err(system)?;
        let local = Arc::new(LocalExecutor::new(program, vec!["stage-worker".into()]));
        let slurm = Arc::new(SlurmExecutor::new(root, context::slurm().map_err(system)?));
        let executor = Arc::new(PlacedExecutor::new(local).with("slurm", slurm));
        let engine = Engine::new(self.store, executor, context::host()).with_remote(self.remote);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
        let result = runtime.block_on(async {
            let interrupts = interrupts().map_err(system)?;
            let (sender, mut events) = mpsc::unbounded_channel();
            let run = async {
                match &self.id {
                    Some(id) => engine.resume(id, self.workflow, &self.options, sender, interrupts).await,
                    None => engine.run(self.workflow, &self.options, sender, interrupts).await,
                }
            };
            let watch = async {
                while let Some(event) = events.recv().await {
                    see(&event);
                }
            };
            let (result, ()) = tokio::join!(run, watch);
            result.map_err(|e| run_failure(&e))
        });
        // A store being read by a thread that is no longer waited for does no harm.
        runtime.shutdown_background();
        result
    }
}

/// SIGINT and SIGTERM as wishes to stop.
fn interrupts() -> std::io::Result<mpsc::UnboundedReceiver<Interrupt>> {
    let (sender, receiver) = mpsc::unbounded_channel();
    for (kind, wish) in [(SignalKind::interrupt(), Interrupt::Interrupt), (SignalKind::terminate(), Interrupt::Terminate)] {
        let (mut signals, sender) = (signal(kind)?, sender.clone());
        tokio::spawn(async move { while signals.recv().await.is_some() && sender.send(wish).is_ok() {} });
    }
    Ok(receiver)
}

fn run_failure(error: &RunError) -> Failure {
    use sprint_artifacts::runs::RunError as RunDirError;
    let failure = Failure::from_error(Code::new(error.exit().code()), error);
    match error {
        RunError::Run { source: RunDirError::Locked { .. }, .. } => {
            failure.help("wait for it, or stop it; `sprint-flow status` shows how far it is")
        }
        _ => failure,
    }
}

/// What failed and what may still be running, with the way out, on standard error in every mode.
fn tell_failures(report: &RunReport) {
    for failed in &report.failures {
        let error = &failed.failure.error;
        out::note(format_args!("error: {}: {}", failed.stage, chain(error)));
        if let Some(help) = &error.help {
            out::note(format_args!("  help: {help}"));
        }
        if let Some(log) = &failed.log {
            out::note(format_args!("  log: {}", log.display()));
        }
    }
    for (stage, error) in &report.unpushed {
        out::note(format_args!("error: {stage}: its result is here, but not on the remote: {}", error.message));
        if let Some(help) = &error.help {
            out::note(format_args!("  help: {help}"));
        }
    }
    for KeptLease { run, stage, error } in &report.kept_leases {
        out::note(format_args!("error: {stage} of run {run} may still hold machines: {}", error.message));
        out::note("  help: the next `sprint-flow run` on this store tries again to give them back");
    }
}
