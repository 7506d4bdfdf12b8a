//! The hidden commands that child processes run.

use std::io::{stdin, stdout};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sprint_orchestrator::{Job, job_main};
use tokio::signal::unix::{SignalKind, signal};

use crate::context;
use crate::failure::{Code, Failure};
use crate::registry::registry;

/// One stage attempt, as the orchestrator asks on standard input.
pub(super) fn stage() -> Code {
    Code::new(
        u8::try_from(sprint_orchestrator::worker_main(&registry(), &super::remote::connect, stdin(), stdout())).unwrap_or(1),
    )
}

/// One stage attempt as a job of a cluster. SIGTERM is the cluster's, or the orchestrator's, word to save the progress and end.
pub(super) fn job(folder: PathBuf, number: String) -> Result<Code, Failure> {
    let system = |e: std::io::Error| Failure::new(Code::FAILED, format!("the operating system refused: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system)?;
    let cancelled = Arc::new(AtomicBool::new(false));
    let mut terminations = {
        let _inside = runtime.enter();
        signal(SignalKind::terminate()).map_err(system)?
    };
    let heard = cancelled.clone();
    std::thread::spawn(move || {
        runtime.block_on(async {
            while terminations.recv().await.is_some() {
                heard.store(true, Ordering::Relaxed);
            }
        });
    });
    let host = context::host();
    let job = Job { folder, number, now_unix_ms: (host.now_unix_ms)(), host: host.name };
    let status = job_main(&registry(), &super::remote::connect, &job, &cancelled);
    Ok(Code::new(u8::try_from(status).unwrap_or(1)))
}

/// One role of an MPC inference, as the stage or benchmark that started it asks on standard input.
pub(super) fn mpc_role(role: &str) -> Result<ExitCode, Failure> {
    sprint_stages::mpc_role(role, stdin(), stdout())
        .ok_or_else(|| Failure::usage(format!("mpc-role {role}: no such role")).help("party-0, party-1 or dealer"))
}
