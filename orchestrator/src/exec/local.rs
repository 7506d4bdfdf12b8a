//! An executor on this machine: every attempt in a child process of its own.
//!
//! A stage that is killed, runs out of memory or corrupts itself is a failed attempt, not a failed run. The child leads a process
//! group, so that it can be ended with everything it started; when this process dies, the child sees the end of its standard
//! input and exits. No secret is in its arguments or environment.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use sprint_stage_api::{ErrorClass, StageError, StageEvent};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use super::executor::{Executor, Intent, IntentId, Outcome, Report, ReportSender, Stop};
use super::protocol::{Control, MAX_LINE, Request, Say, line};

/// How long a worker that has said its result may take to exit.
const EXIT_WAIT: Duration = Duration::from_secs(5);
/// How long the end of a dead worker's output is waited for: something it started may hold the pipe.
const DRAIN_WAIT: Duration = Duration::from_secs(1);

/// The longest line of foreign output that is passed on.
const LOG_LINE: usize = 4096;

/// Runs attempts in child processes: `program args…`, the request on standard input.
#[derive(Clone)]
pub struct LocalExecutor {
    program: PathBuf,
    args: Vec<OsString>,
    running: Arc<Mutex<BTreeMap<IntentId, mpsc::UnboundedSender<Stop>>>>,
}

impl LocalExecutor {
    /// Children run `program args…`, which must end up in [`worker_main`](super::worker_main).
    pub fn new(program: PathBuf, args: Vec<OsString>) -> Self {
        Self { program, args, running: Arc::default() }
    }

    fn command(&self, intent: &Intent) -> Result<Command, StageError> {
        let log = open_log(&intent.log)?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.args)
            // So that one can see which store a process works on.
            .env("SPRINT_FLOW_STORE", &intent.store)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true);
        // The declared environment may hold tokens: it goes through the pipe alone. Libraries look for proxies by themselves.
        for name in intent.env.keys().filter(|n| !n.to_ascii_lowercase().ends_with("_proxy")) {
            command.env_remove(name);
        }
        Ok(command)
    }
}

fn open_log(path: &Path) -> Result<File, StageError> {
    let open = || {
        fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
        File::options().create(true).append(true).open(path)
    };
    open().map_err(|e| StageError::permanent(format!("cannot open the log {}: {e}", path.display())))
}

impl Executor for LocalExecutor {
    fn submit(&self, intent: Intent, reports: ReportSender) -> Result<(), StageError> {
        let mut child = self
            .command(&intent)?
            .spawn()
            .map_err(|e| StageError::transient(format!("cannot start a stage process ({}): {e}", self.program.display())))?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(StageError::permanent("the stage process has no pipes"));
        };
        let (control, orders) = mpsc::unbounded_channel();
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(intent.id.clone(), control);
        let running = self.running.clone();
        let request = line(&Request::of(&intent));
        tokio::spawn(async move {
            let id = intent.id;
            let supervised = Supervised { group: child.id(), child, reports: reports.clone(), id: id.clone(), orders };
            let outcome = supervised.run(stdin, stdout, request).await;
            running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
            let _ = reports.send((id, Report::Ended(outcome)));
        });
        Ok(())
    }

    fn cancel(&self, id: &IntentId, how: Stop) {
        if let Some(control) = self.running.lock().unwrap_or_else(PoisonError::into_inner).get(id) {
            let _ = control.send(how);
        }
    }
}

struct Supervised {
    child: Child,
    group: Option<u32>,
    id: IntentId,
    reports: ReportSender,
    orders: mpsc::UnboundedReceiver<Stop>,
}

/// What a worker's output amounts to.
#[derive(Default)]
struct Heard {
    outcome: Option<Outcome>,
}

impl Supervised {
    async fn run(mut self, mut stdin: ChildStdin, stdout: ChildStdout, request: Vec<u8>) -> Outcome {
        let mut lines = BufReader::new(stdout);
        let mut buffer = Vec::new();
        let mut heard = Heard::default();
        let mut stopped = false;
        let (pen, mut ink) = mpsc::unbounded_channel::<Vec<u8>>();
        let _ = pen.send(request);
        // On its own, because a worker that does not read must not keep this from stopping it. A worker that dies while it is
        // written to shows in its exit status.
        let writer = tokio::spawn(async move {
            while let Some(bytes) = ink.recv().await {
                if stdin.write_all(&bytes).await.is_err() {
                    break;
                }
            }
        });
        let mut open = true;
        let status = loop {
            tokio::select! {
                read = read_line(&mut lines, &mut buffer), if open => match read {
                    Some(()) => self.hear(&mut buffer, &mut heard),
                    None => open = false,
                },
                order = self.orders.recv() => match order {
                    Some(Stop::Gracefully) => {
                        stopped = true;
                        let _ = pen.send(line(&Control::Cancel));
                    }
                    Some(Stop::Now) => { stopped = true; self.kill() }
                    None => self.kill(),
                },
                () = tokio::time::sleep(EXIT_WAIT), if heard.outcome.is_some() => self.kill(),
                status = self.child.wait() => break status,
            }
        };
        self.kill();
        let drain = async {
            while open && read_line(&mut lines, &mut buffer).await.is_some() {
                self.hear(&mut buffer, &mut heard);
            }
        };
        let _ = tokio::time::timeout(DRAIN_WAIT, drain).await;
        writer.abort();
        heard.outcome.take().unwrap_or_else(|| Outcome::Failed(died(status, stopped)))
    }

    fn hear(&self, buffer: &mut Vec<u8>, heard: &mut Heard) {
        let text = std::mem::take(buffer);
        match serde_json::from_slice::<Say>(&text) {
            Ok(Say::Event { report }) => self.report(report),
            Ok(Say::Done { outputs }) => heard.outcome = Some(Outcome::Done(outputs)),
            Ok(Say::Failed { error }) => heard.outcome = Some(Outcome::Failed(error)),
            // A library that prints to standard output.
            Ok(Say::Began { .. }) | Err(_) => {
                let shown = &text[..text.len().min(LOG_LINE)];
                self.report(StageEvent::Log { line: String::from_utf8_lossy(shown).trim_end().to_owned() });
            }
        }
    }

    fn report(&self, event: StageEvent) {
        let _ = self.reports.send((self.id.clone(), Report::Event(event)));
    }

    /// Ends the whole group: the worker and what it started. A group that is gone is none the worse for it.
    fn kill(&self) {
        if let Some(pid) = self.group.and_then(|g| i32::try_from(g).ok()).and_then(Pid::from_raw) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// The next line, `None` at the end of the output. A line that is too long is cut; what is left of it counts as further lines.
async fn read_line(lines: &mut BufReader<ChildStdout>, buffer: &mut Vec<u8>) -> Option<()> {
    let limit = (MAX_LINE - buffer.len()) as u64;
    let read = lines.take(limit).read_until(b'\n', buffer).await;
    match read {
        Ok(0) | Err(_) if buffer.is_empty() => None,
        _ => Some(()),
    }
}

fn died(status: std::io::Result<ExitStatus>, stopped: bool) -> StageError {
    if stopped {
        return StageError::new(ErrorClass::Cancelled, "stopped");
    }
    match status {
        Ok(status) => match (status.signal(), status.code()) {
            (Some(signal), _) => StageError::transient(format!("the stage process was killed by signal {signal}"))
                .help("signal 9 without your doing usually means that the machine ran out of memory"),
            (None, Some(super::ORPHANED)) => StageError::transient("the stage process lost its orchestrator"),
            (None, code) => {
                StageError::permanent(format!("the stage process ended with status {} and no result", code.unwrap_or(-1)))
                    .help("its log has what it printed last")
            }
        },
        Err(e) => StageError::transient(format!("the stage process cannot be waited for: {e}")),
    }
}
