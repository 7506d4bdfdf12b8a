//! The worker's side of a stage attempt: the hidden `stage-worker` command.

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sprint_artifacts::{Store, StoreOptions};
use sprint_stage_api::{EventSink, Registry, StageError, StageEvent, with_causes};

use super::attempt::{perform, store_class};
use super::executor::Outcome;
use super::protocol::{Control, MAX_LINE, Request, Say, VERSION, line};
use super::remote::Connect;

/// How often progress is told at most.
const PROGRESS_EVERY: Duration = Duration::from_millis(50);

/// The exit status of a worker whose orchestrator is gone.
pub const ORPHANED: i32 = 86;

/// Runs the one attempt described on `input`, reports on `output`, and returns the process' exit status. `connect` opens the remote, if
/// the run has one.
///
/// From then on a thread watches `input`. When it ends, the orchestrator is gone, by whatever signal, and the process exits at once:
/// the kernel closes its pipes, so that processes it started by the same rule end too. Nothing is ever left behind.
pub fn worker_main(
    registry: &Registry,
    connect: &Connect,
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
) -> i32 {
    let mut input = BufReader::new(input);
    let out = Output::new(output, PROGRESS_EVERY);
    let request = match read_request(&mut input) {
        Ok(Some(request)) => request,
        Ok(None) => return ORPHANED,
        Err(message) => {
            out.say(&Say::Failed { error: StageError::permanent(message) });
            return 2;
        }
    };
    let cancelled = Arc::new(AtomicBool::new(false));
    watch(input, cancelled.clone());
    out.say_end(serve(&request, registry, connect, &out, &cancelled));
    0
}

/// Works on a request to its end.
pub(super) fn serve(request: &Request, registry: &Registry, connect: &Connect, out: &Output, cancelled: &AtomicBool) -> Outcome {
    let store = match Store::open(&request.store, StoreOptions::read_write().index(false)) {
        Ok(store) => store,
        Err(e) => return Outcome::Failed(StageError::new(store_class(&e), with_causes(&e))),
    };
    match request.remote.as_ref().map(|spec| connect(spec).map(Arc::new)).transpose() {
        Ok(remote) => perform(request, registry, &store, remote.as_ref(), out, &|| cancelled.load(Ordering::Relaxed)),
        Err(message) => Outcome::Failed(StageError::permanent(format!("the remote cannot be opened: {message}"))),
    }
}

fn read_request(input: &mut impl BufRead) -> Result<Option<Request>, String> {
    let mut text = Vec::new();
    let read = input.take(MAX_LINE as u64).read_until(b'\n', &mut text).map_err(|e| format!("cannot read the request: {e}"))?;
    if read == 0 || text.last() != Some(&b'\n') {
        return Ok(None);
    }
    parse_request(&text).map(Some)
}

/// Reads what an orchestrator of the same version wrote.
pub(super) fn parse_request(text: &[u8]) -> Result<Request, String> {
    let request: Request = serde_json::from_slice(text).map_err(|e| format!("the request cannot be read: {e}"))?;
    if request.v != VERSION {
        return Err(format!(
            "the request has version {}, this worker speaks {VERSION}; was the program replaced during the run?",
            request.v
        ));
    }
    Ok(request)
}

fn watch(mut input: impl BufRead + Send + 'static, cancelled: Arc<AtomicBool>) {
    std::thread::spawn(move || {
        let mut text = Vec::new();
        loop {
            text.clear();
            match (&mut input).take(MAX_LINE as u64).read_until(b'\n', &mut text) {
                Ok(n) if n > 0 => {
                    if let Ok(Control::Cancel) = serde_json::from_slice(&text) {
                        cancelled.store(true, Ordering::Relaxed);
                    }
                }
                _ => std::process::exit(ORPHANED),
            }
        }
    });
}

/// The way to the orchestrator. A write that fails means that it is gone; the watcher then ends the process.
pub(super) struct Output {
    pipe: Mutex<Box<dyn Write + Send>>,
    /// How often progress is told at most.
    every: Duration,
    /// When progress was last passed on.
    progress: Mutex<Option<Instant>>,
}

impl Output {
    pub(super) fn new(pipe: impl Write + Send + 'static, every: Duration) -> Self {
        Self { pipe: Mutex::new(Box::new(pipe)), every, progress: Mutex::new(None) }
    }

    pub(super) fn say_end(&self, outcome: Outcome) {
        self.say(&match outcome {
            Outcome::Done(outputs) => Say::Done { outputs },
            Outcome::Failed(error) => Say::Failed { error },
        });
    }

    pub(super) fn say(&self, what: &Say) {
        let mut out = self.pipe.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = out.write_all(&line(what)).and_then(|()| out.flush());
    }

    /// Whether progress was not told for a while; a stage may report each of a million rows.
    fn is_due(&self) -> bool {
        let mut last = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let due = last.is_none_or(|at| at.elapsed() >= self.every);
        if due {
            *last = Some(Instant::now());
        }
        due
    }
}

impl EventSink for Output {
    fn emit(&self, event: StageEvent) {
        match &event {
            // Standard error is the attempt's log file.
            StageEvent::Log { line } => drop(writeln!(std::io::stderr(), "{line}")),
            StageEvent::Progress { done, total, .. } if *total != Some(*done) && !self.is_due() => return,
            _ => {}
        }
        self.say(&Say::Event { report: event });
    }
}
