//! The remote of a run: results are looked for there before anything is run, and brought there once they are committed; training goes on
//! from there on another machine.

use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use sprint_artifacts::remote::{CheckpointUpload, Pushed, RemoteSpec, Verdict};
use sprint_artifacts::{ActionKey, Remote, RemoteError, ResultRecord, Store};
use sprint_stage_api::{ErrorClass, EventSink, LedgerMirror, StageError, StageEvent, with_causes};

/// How a remote is reached; handed in by the composition root, since only that knows the cloud.
pub type Connect = dyn Fn(&RemoteSpec) -> Result<Remote, String> + Send + Sync;

/// A remote, and how a worker process reaches it again.
#[derive(Debug, Clone)]
pub struct RunRemote {
    /// The open remote.
    pub remote: Arc<Remote>,
    /// What it was opened from.
    pub spec: Arc<RemoteSpec>,
}

/// What a failure of the remote means for the stage concerned.
pub(super) fn remote_error(error: &RemoteError) -> StageError {
    let class = match error {
        RemoteError::Objects(_) => ErrorClass::RemoteUnavailable,
        e if e.is_integrity() => ErrorClass::Integrity,
        _ => ErrorClass::Permanent,
    };
    let failure = StageError::new(class, with_causes(error));
    match error {
        RemoteError::Objects(e) if !error.is_unavailable() => {
            tracing::debug!(error = %e, "the remote refuses");
            failure.help("check the bucket's name, the credentials and their permissions, or run without --remote")
        }
        RemoteError::Objects(_) => {
            failure.help("run again when it is reachable: what was computed is kept; or run without --remote")
        }
        RemoteError::Diverged { .. } => {
            failure.help("stop the run on the other machine; budget spent there cannot be taken back")
        }
        _ => failure,
    }
}

/// Brings a result here if the remote has it; `false` if it has none. A damaged one is reported and counts as none.
pub(super) fn pull(remote: &Remote, store: &Store, key: &ActionKey) -> Result<bool, StageError> {
    match remote.pull(store, key) {
        Ok(found) => Ok(found.is_some()),
        Err(error) if error.is_integrity() => {
            tracing::error!(%key, error = with_causes(&error), "the remote's result is damaged and is not used");
            Ok(false)
        }
        Err(error) => Err(remote_error(&error)),
    }
}

/// Brings a result to the remote; a line for people where there is something to say.
pub(super) fn push(remote: &Remote, store: &Store, record: &ResultRecord) -> Result<(Pushed, Option<String>), StageError> {
    let pushed = remote.push(store, record).map_err(|e| remote_error(&e))?;
    let line = match &pushed.verdict {
        Verdict::First | Verdict::Already => None,
        Verdict::Differs { first } => Some(format!(
            "the remote's first result {first} of this very action has other outputs: the stage is not deterministic"
        )),
        Verdict::Stays { output, secrecy } => {
            let why =
                if remote.seals() { "never leaves its machine" } else { "leaves only sealed, and the remote has no recipient" };
            Some(format!("the result stays on this machine: output `{output}` is labelled {secrecy}, which {why}"))
        }
    };
    Ok((pushed, line))
}

/// Privacy charges are on the remote before their noise is drawn: a machine that is lost takes none with it.
pub(super) struct Mirror {
    pub(super) remote: Arc<Remote>,
    pub(super) key: ActionKey,
}

impl LedgerMirror for Mirror {
    fn appended(&self, ledger: &str, offset: u64, line: &[u8]) -> Result<(), StageError> {
        self.remote.push_ledger_line(&self.key, ledger, offset, line).map_err(|e| remote_error(&e))
    }
}

/// Sends checkpoints from a thread of its own, the newest first, so that training does not wait for the network.
pub(super) struct Courier<'scope> {
    orders: Sender<()>,
    thread: std::thread::ScopedJoinHandle<'scope, ()>,
}

impl<'scope> Courier<'scope> {
    pub(super) fn start<'env>(
        scope: &'scope std::thread::Scope<'scope, 'env>,
        remote: &'env Remote,
        store: &'env Store,
        key: ActionKey,
        ledgers: &'env Path,
        events: &'env dyn EventSink,
    ) -> Self {
        let (orders, inbox) = channel();
        let thread = scope.spawn(move || carry(&inbox, remote, store, key, ledgers, events));
        Self { orders, thread }
    }

    /// A way to say that there is a new checkpoint.
    pub(super) fn orders(&self) -> Sender<()> {
        self.orders.clone()
    }

    /// Waits until the newest one is there.
    pub(super) fn finish(self) {
        drop(self.orders);
        // A thread that panicked has said so; the checkpoint is on this machine's disk in any case.
        let _ = self.thread.join();
    }
}

fn carry(inbox: &Receiver<()>, remote: &Remote, store: &Store, key: ActionKey, ledgers: &Path, events: &dyn EventSink) {
    let say = |line: String| events.emit(StageEvent::Log { line });
    let mut told = false;
    while inbox.recv().is_ok() {
        while inbox.try_recv().is_ok() {}
        match remote.push_checkpoint(store, key) {
            Ok(CheckpointUpload::Pushed { sequence, bytes }) => {
                say(format!("checkpoint {sequence} is on the remote ({bytes} bytes)"));
                shorten(remote, key, ledgers);
            }
            Ok(CheckpointUpload::Stays) if !told => {
                told = true;
                say("checkpoints stay on this machine: the remote has no recipient to seal them to".to_owned());
            }
            Ok(_) => {}
            // The next checkpoint tries again; this one is safe on this machine.
            Err(error) => say(format!("a checkpoint could not be sent: {}", with_causes(&error))),
        }
    }
}

/// Writes ledgers as one object, so that whoever takes over need not read a line at a time. Their lines are there already.
fn shorten(remote: &Remote, key: ActionKey, ledgers: &Path) {
    for entry in std::fs::read_dir(ledgers).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let (true, Ok(bytes)) = (name.ends_with(".ledger"), std::fs::read(entry.path()))
            && let Err(error) = remote.push_ledger_base(&key, &name, &bytes)
        {
            tracing::warn!(name, error = with_causes(&error), "a ledger could not be written as one object");
        }
    }
}
