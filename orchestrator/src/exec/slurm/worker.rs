//! The job's side: the hidden `stage-job` command.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use sprint_stage_api::{ErrorClass, Registry, StageError};

use super::folder::{Ear, JobFolder};
use crate::exec::executor::Outcome;
use crate::exec::protocol::Say;
use crate::exec::remote::Connect;
use crate::exec::worker::{Output, parse_request, serve};

/// How often progress is told at most: it crosses a shared file system.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// A job that has begun.
#[derive(Debug, Clone)]
pub struct Job {
    /// The folder of its attempt.
    pub folder: PathBuf,
    /// Its number, for people.
    pub number: String,
    /// The machine it runs on.
    pub host: String,
    /// Now, in milliseconds since 1970.
    pub now_unix_ms: u64,
}

/// Runs the attempt that a job was submitted for, and returns the process' exit status; `cancelled` is set by whoever hears SIGTERM.
///
/// An attempt whose outcome is there, or that nobody wants any more, is nothing to do: the job was submitted twice, or came too late.
pub fn job_main(registry: &Registry, connect: &Connect, job: &Job, cancelled: &AtomicBool) -> i32 {
    let folder = JobFolder::at(job.folder.clone());
    if folder.end().is_some() || has_outcome(&folder) {
        note("the attempt has come to its end; nothing to do");
        return 0;
    }
    let request = match folder.request() {
        Ok(bytes) => parse_request(&bytes),
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            note("nobody waits for this attempt any more; nothing to do");
            return 0;
        }
        Err(e) => Err(format!("cannot read {}: {e}", job.folder.display())),
    };
    let file = match begin(&folder) {
        Ok(file) => file,
        Err(e) => {
            note(&format!("cannot write to {}: {e}", job.folder.display()));
            return 2;
        }
    };
    let Ok(kept) = file.try_clone() else { return 2 };
    let out = Output::new(file, PROGRESS_EVERY);
    out.say(&Say::Began { unix_ms: job.now_unix_ms, host: job.host.clone(), job: job.number.clone() });
    out.say_end(match request {
        Ok(request) => serve(&request, registry, connect, &out, cancelled),
        Err(message) => Outcome::Failed(StageError::permanent(message)),
    });
    // The node may be gone a moment later.
    i32::from(kept.sync_all().is_err())
}

/// The file for what this start says: the first number that no start has taken.
fn begin(folder: &JobFolder) -> io::Result<File> {
    for start in 0u32.. {
        match File::options().create_new(true).append(true).mode(0o600).open(folder.said(start)) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other,
        }
    }
    Err(io::Error::other("no free number"))
}

/// Whether an earlier start came to an end that was its own: one that was told to stop did not.
fn has_outcome(folder: &JobFolder) -> bool {
    Ear::default().listen(folder).iter().any(|(_, line)| match serde_json::from_slice(line) {
        Ok(Say::Done { .. }) => true,
        Ok(Say::Failed { error }) => error.class != ErrorClass::Cancelled,
        _ => false,
    })
}

/// Standard error is the attempt's log.
fn note(line: &str) {
    use std::io::Write;
    let _ = writeln!(io::stderr(), "{line}");
}
