//! One attempt of a stage, in whatever process it runs: its context, its checkpoints, its scratch folder, its lock.

use std::fs::{self, File, TryLockError};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sprint_artifacts::{ActionKey, CheckpointBuilder, CheckpointStore, Remote, Store, StoreError};
use sprint_stage_api::{
    CheckpointAccess, ContextParts, Effect, ErrorClass, EventSink, LedgerMirror, Registry, Stage, StageContext, StageError,
    StageEvent, StageOutputs, with_causes,
};

use super::claim::{create_private, ledger_dir};
use super::executor::{Operation, Outcome};
use super::protocol::Request;
use super::remote::{Courier, Mirror, remote_error};

/// The name of the one file in a bundle.
const BUNDLE: &str = "bundle";
/// How often a lock held elsewhere, and cancellation meanwhile, are looked at.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// Whether the run is being cancelled.
pub(super) type Cancelled<'a> = &'a (dyn Fn() -> bool + Send + Sync);

/// Runs the request to its end. Never panics, whatever the stage does.
pub(super) fn perform(
    request: &Request,
    registry: &Registry,
    store: &Store,
    remote: Option<&Arc<Remote>>,
    events: &dyn EventSink,
    cancelled: Cancelled<'_>,
) -> Outcome {
    let Some(stage) = registry.get(&request.kind, Some(request.version)) else {
        let message = format!("this program has no stage kind {}@{}", request.kind, request.version);
        return Outcome::Failed(StageError::permanent(message));
    };
    if request.code.as_deref().is_some_and(|code| code != stage.spec().code_digest) {
        let message = format!("this program's {}@{} is another version than the run began with", request.kind, request.version);
        return Outcome::Failed(StageError::permanent(message).help("the program was replaced meanwhile; start the run again"));
    }
    let state = match ActionState::open(store, request.key) {
        Ok(state) => state,
        Err(error) => return Outcome::Failed(error),
    };
    let lock = match state.acquire(events, cancelled) {
        Ok(lock) => lock,
        Err(error) => return Outcome::Failed(error),
    };
    // Randomness that is used once, and machines, are this machine's own affair.
    let goes_on_elsewhere = matches!(stage.spec().effect, Effect::Pure | Effect::SpendsPrivacy);
    // Without the owner's key no checkpoint leaves, so nobody goes on elsewhere.
    let remote = remote.filter(|r| r.seals() && request.operation == Operation::Run && goes_on_elsewhere);
    if let Err(error) = remote.map_or(Ok(()), |remote| state.restore(remote, events)) {
        return Outcome::Failed(error);
    }
    let outcome = std::thread::scope(|scope| {
        let courier = remote.map(|remote| Courier::start(scope, remote, store, request.key, &state.ledger, events));
        let checkpoints = Checkpoints {
            state: &state,
            every: request.checkpoint_every_ms.map(Duration::from_millis),
            keep: request.checkpoint_keep,
            remote,
            courier: courier.as_ref().map(Courier::orders).map(Mutex::new),
        };
        let outcome = with_scratch(store, |scratch| call(&**stage, request, store, &checkpoints, scratch, events, cancelled));
        drop(checkpoints);
        if let Some(courier) = courier {
            courier.finish();
        }
        outcome
    });
    drop(lock);
    match outcome {
        Ok(outputs) => Outcome::Done(outputs.iter().map(|(port, id)| (port.to_owned(), *id)).collect()),
        Err(error) => Outcome::Failed(error),
    }
}

fn call(
    stage: &dyn Stage,
    request: &Request,
    store: &Store,
    checkpoints: &Checkpoints<'_>,
    scratch: &Path,
    events: &dyn EventSink,
    cancelled: Cancelled<'_>,
) -> Result<StageOutputs, StageError> {
    let ctx = StageContext::new(ContextParts {
        run: &request.run,
        stage: request.stage.to_string(),
        lease: request.lease,
        store,
        params: &request.params,
        inputs: &request.inputs,
        ancestors: &request.ancestors,
        scratch: scratch.to_owned(),
        attempt: request.attempt,
        axes: &request.axes,
        events,
        checkpoints,
        cancelled,
        env: &request.env,
        base: request.base.clone(),
        cpus: request.cpus,
    });
    let work = || match &request.operation {
        Operation::Run => stage.run(&ctx),
        Operation::Release { outputs } => {
            let outputs = outputs.iter().map(|(port, id)| (port.clone(), *id)).collect();
            stage.release(&ctx, &outputs).map(|()| StageOutputs::new())
        }
    };
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
        let message = format!("the stage panicked: {}", text.unwrap_or_else(|| "no message".to_owned()));
        Err(StageError::permanent(message).help("this is a fault in the program; its log has the place"))
    })
}

fn with_scratch<T>(store: &Store, work: impl FnOnce(&Path) -> Result<T, StageError>) -> Result<T, StageError> {
    let parent = store.root().join("private").join("scratch");
    create_private(&parent)?;
    remove_abandoned(&parent);
    let scratch = Scratch::create(&parent)?;
    work(&scratch.path)
}

/// A folder that its process holds locked while it exists; whatever is not locked was left by a killed one.
struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    fn create(parent: &Path) -> Result<Self, StageError> {
        for n in 0u32.. {
            let path = parent.join(format!("{}-{n}", std::process::id()));
            match fs::create_dir(&path) {
                Ok(()) => {
                    let lock = File::open(&path).map_err(|e| io_error("open", &path, &e))?;
                    lock.lock().map_err(|e| io_error("lock", &path, &e))?;
                    return Ok(Self { path, _lock: lock });
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(io_error("create", &path, &e)),
            }
        }
        Err(StageError::permanent("no free name for a scratch folder"))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Scratch folders hold plain text of private data, so those of killed processes are removed at the first chance.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let path = entry.path();
        // A folder between its creation and its lock is at most this young.
        let young =
            entry.metadata().and_then(|m| m.modified()).is_ok_and(|t| t.elapsed().is_ok_and(|age| age < Duration::from_secs(5)));
        if !young && File::open(&path).is_ok_and(|f| f.try_lock().is_ok()) {
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// What outlives the attempts of one action: its ledger folder and the lock that keeps two processes from working on it at once.
struct ActionState<'a> {
    store: &'a Store,
    key: ActionKey,
    ledger: PathBuf,
}

impl<'a> ActionState<'a> {
    fn open(store: &'a Store, key: ActionKey) -> Result<Self, StageError> {
        Ok(Self { store, key, ledger: ledger_dir(store, key)? })
    }

    /// Brings this machine up to date with what others did on the same action.
    fn restore(&self, remote: &Remote, events: &dyn EventSink) -> Result<(), StageError> {
        let restored = remote.restore(self.store, self.key, &self.ledger).map_err(|e| remote_error(&e))?;
        let say = |line: String| events.emit(StageEvent::Log { line });
        if let Some(sequence) = restored.checkpoint {
            say(format!("checkpoint {sequence} of another machine was taken from the remote"));
        }
        if restored.ledger_bytes > 0 {
            say(format!("{} bytes of privacy charges of another machine were taken from the remote", restored.ledger_bytes));
        }
        if restored.locked {
            say("the remote has checkpoints that cannot be opened without the identity".to_owned());
        }
        Ok(())
    }

    /// Takes the action for this process. Another one has it only while the worker of a dead orchestrator has not noticed yet.
    fn acquire(&self, events: &dyn EventSink, cancelled: Cancelled<'_>) -> Result<File, StageError> {
        let path = self.ledger.with_extension("lock");
        let file =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(|e| io_error("open", &path, &e))?;
        let mut waited = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(e)) => return Err(io_error("lock", &path, &e)),
                Err(TryLockError::WouldBlock) => {}
            }
            if cancelled() {
                return Err(StageError::new(ErrorClass::Cancelled, "cancelled while another process worked on the same action"));
            }
            if !waited {
                events.emit(StageEvent::Log { line: "another process is working on the same action; waiting for it".to_owned() });
            }
            waited = true;
            std::thread::sleep(LOCK_POLL);
        }
    }
}

pub(super) fn io_error(what: &str, path: &Path, error: &std::io::Error) -> StageError {
    let class = match error.kind() {
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorClass::Refused,
        _ => ErrorClass::Permanent,
    };
    StageError::new(class, format!("cannot {what} {}: {error}", path.display()))
}

struct Checkpoints<'a> {
    state: &'a ActionState<'a>,
    every: Option<Duration>,
    keep: u32,
    remote: Option<&'a Arc<Remote>>,
    courier: Option<Mutex<Sender<()>>>,
}

impl CheckpointAccess for Checkpoints<'_> {
    fn latest(&self) -> Result<Option<Vec<u8>>, StageError> {
        let found = CheckpointStore::for_key(self.state.store, self.state.key).latest().map_err(|e| checkpoint_error(&e))?;
        Ok(found.and_then(|c| c.file(BUNDLE).map(<[u8]>::to_vec)))
    }

    fn offer(&self, bundle: &[u8]) -> Result<(), StageError> {
        let builder = CheckpointBuilder::new(0).bytes(BUNDLE, bundle);
        let store = CheckpointStore::for_key(self.state.store, self.state.key).keeping(self.keep as usize);
        store.offer(&builder).map_err(|e| checkpoint_error(&e))?;
        if let Some(courier) = &self.courier {
            // The courier outlives this; without it the checkpoint is safe on this machine.
            let _ = courier.lock().unwrap_or_else(PoisonError::into_inner).send(());
        }
        Ok(())
    }

    fn ledger_mirror(&self) -> Option<Arc<dyn LedgerMirror>> {
        let remote = self.remote?.clone();
        Some(Arc::new(Mirror { remote, key: self.state.key }))
    }

    fn ledger_dir(&self) -> &Path {
        &self.state.ledger
    }

    fn every(&self) -> Option<Duration> {
        self.every
    }
}

fn checkpoint_error(error: &sprint_artifacts::runs::CheckpointError) -> StageError {
    use sprint_artifacts::runs::CheckpointError;
    let class = match error {
        CheckpointError::Store(e) => store_class(e),
        _ => ErrorClass::Integrity,
    };
    StageError::new(class, format!("checkpoint: {}", with_causes(error)))
}

/// What the scheduler may do about a failing store.
pub(super) fn store_class(error: &StoreError) -> ErrorClass {
    match error {
        StoreError::DiskFull { .. } => ErrorClass::Refused,
        e if e.is_integrity() || e.is_missing() => ErrorClass::Integrity,
        _ => ErrorClass::Permanent,
    }
}
