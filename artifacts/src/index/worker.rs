//! The thread that owns the database, and the handle that never waits for it longer than the limit.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::memory::{self, Memory, Opener};
use super::{IndexError, IndexStatus, Summary, seal};
use crate::records::ResultId;

/// What the thread is asked.
enum Request {
    Remember(ResultId, Summary),
    Summaries(Vec<ResultId>, Sender<BTreeMap<ResultId, Summary>>),
    Status(Sender<IndexStatus>),
    Close(Sender<()>),
}

/// A handle to the index of one store.
#[derive(Debug)]
pub(crate) struct Index {
    /// `None` once the index has been given up.
    sender: Mutex<Option<Sender<Request>>>,
    limit: Duration,
}

impl Index {
    /// Begins to open the index in `dir`; does not wait for it.
    pub(crate) fn open(dir: &Path, limit: Duration, opener: Opener) -> Self {
        let (sender, receiver) = channel();
        let paths = Paths::of(dir);
        let thread = std::thread::Builder::new().name("index".to_owned());
        let spawned = thread.spawn(move || Worker { paths, opener }.run(&receiver));
        if let Err(error) = &spawned {
            tracing::warn!(%error, "no thread for the index");
        }
        Self { sender: Mutex::new(spawned.is_ok().then_some(sender)), limit }
    }

    /// Remembers what a record says; returns at once.
    pub(crate) fn remember(&self, id: ResultId, summary: Summary) {
        let mut sender = self.sender();
        let sent = sender.as_ref().is_some_and(|s| s.send(Request::Remember(id, summary)).is_ok());
        if !sent {
            *sender = None;
        }
    }

    /// What is remembered of these records; those that are not are absent.
    pub(crate) fn summaries(&self, ids: impl Iterator<Item = ResultId>) -> BTreeMap<ResultId, Summary> {
        let ids = ids.collect();
        self.ask(|reply| Request::Summaries(ids, reply)).unwrap_or_default()
    }

    /// How it is doing.
    pub(crate) fn status(&self) -> IndexStatus {
        self.ask(Request::Status).unwrap_or(IndexStatus::Abandoned)
    }

    /// Asks the thread and waits for the answer up to the limit; after that the index is given up.
    fn ask<T>(&self, request: impl FnOnce(Sender<T>) -> Request) -> Option<T> {
        let mut sender = self.sender();
        let (reply, answer) = channel();
        sender.as_ref()?.send(request(reply)).ok();
        let answer = answer.recv_timeout(self.limit);
        if let Err(error) = &answer {
            tracing::warn!(%error, "the index is given up; records are read from their files");
            *sender = None;
        }
        answer.ok()
    }

    fn sender(&self) -> MutexGuard<'_, Option<Sender<Request>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        // Waits so that the seal is written before the process ends; without a seal the next one starts afresh.
        let _ = self.ask(Request::Close);
    }
}

/// Where the index and its companions lie.
struct Paths {
    dir: PathBuf,
    seal: PathBuf,
    lock: PathBuf,
}

impl Paths {
    fn of(dir: &Path) -> Self {
        let beside = |suffix: &str| {
            let mut path = dir.as_os_str().to_owned();
            path.push(suffix);
            PathBuf::from(path)
        };
        Self { dir: dir.to_owned(), seal: beside(".seal"), lock: beside(".lock") }
    }
}

struct Worker {
    paths: Paths,
    opener: Opener,
}

/// The database, while it works, and whether it may be built again.
struct Open {
    memory: Option<Box<dyn Memory>>,
    rebuilds_left: u32,
    status: IndexStatus,
    _lock: Option<File>,
}

impl Worker {
    fn run(&self, requests: &Receiver<Request>) {
        let mut open = self.begin();
        // Ends when it is asked to close, or when the handle has given up and dropped its sender.
        while let Ok(request) = requests.recv() {
            match request {
                Request::Remember(id, summary) => {
                    self.with(&mut open, |memory| memory::store(memory, &id, &summary));
                }
                Request::Summaries(ids, reply) => {
                    let found = self.with(&mut open, |memory| load_all(memory, &ids));
                    let _ = reply.send(found.unwrap_or_default());
                }
                Request::Status(reply) => drop(reply.send(open.status)),
                Request::Close(reply) => {
                    self.close(open);
                    let _ = reply.send(());
                    return;
                }
            }
        }
    }

    fn begin(&self) -> Open {
        let closed = |status, lock| Open { memory: None, rebuilds_left: 1, status, _lock: lock };
        let mut open = match take_lock(&self.paths.lock) {
            Ok(lock) => closed(IndexStatus::Abandoned, Some(lock)),
            Err(IndexError::Busy) => return closed(IndexStatus::Busy, None),
            Err(error) => {
                tracing::warn!(%error, "no index");
                return closed(IndexStatus::Abandoned, None);
            }
        };
        let intact = seal::is_intact(&self.paths.dir, &self.paths.seal);
        // Unsealed while open: whatever happens to this process, the next one will not trust what it left.
        let unsealed = remove(&self.paths.seal, |p| fs::remove_file(p));
        if !intact || unsealed.is_err() {
            self.rebuild(&mut open);
            return open;
        }
        match self.open_database() {
            Ok(memory) => {
                open.memory = Some(memory);
                open.status = IndexStatus::Reused;
            }
            Err(error) => {
                tracing::warn!(%error, "the index cannot be opened and is built again");
                open.rebuilds_left -= 1;
                self.rebuild(&mut open);
            }
        }
        open
    }

    fn open_database(&self) -> Result<Box<dyn Memory>, IndexError> {
        guarded(|| (self.opener)(&self.paths.dir))
    }

    /// Starts with an empty database; it is filled as records are read.
    fn rebuild(&self, open: &mut Open) {
        drop_guarded(open.memory.take());
        let opened = remove(&self.paths.dir, |p| fs::remove_dir_all(p)).and_then(|()| self.open_database());
        match opened {
            Ok(memory) => {
                open.memory = Some(memory);
                open.status = IndexStatus::Rebuilt;
            }
            Err(error) => {
                tracing::warn!(%error, "the index cannot be built; records are read from their files");
                open.status = IndexStatus::Abandoned;
            }
        }
    }

    /// Calls the database; on a failure builds it again once, then does without.
    fn with<T>(&self, open: &mut Open, call: impl FnOnce(&dyn Memory) -> Result<T, IndexError>) -> Option<T> {
        let memory = open.memory.as_deref()?;
        match guarded(|| call(memory)) {
            Ok(value) => Some(value),
            Err(error) => {
                tracing::warn!(%error, "the index failed");
                if let Some(left) = open.rebuilds_left.checked_sub(1) {
                    open.rebuilds_left = left;
                    self.rebuild(open);
                } else {
                    drop_guarded(open.memory.take());
                    open.status = IndexStatus::Abandoned;
                }
                None
            }
        }
    }

    fn close(&self, mut open: Open) {
        if self.with(&mut open, |memory| memory.flush()).is_none() || open.memory.is_none() {
            return;
        }
        if drop_guarded(open.memory.take())
            && let Err(error) = seal::write(&self.paths.dir, &self.paths.seal)
        {
            tracing::debug!(%error, "the index stays unsealed and will be built again");
        }
    }
}

fn load_all(memory: &dyn Memory, ids: &[ResultId]) -> Result<BTreeMap<ResultId, Summary>, IndexError> {
    let mut found = BTreeMap::new();
    for id in ids {
        if let Some(summary) = memory::load(memory, id)? {
            found.insert(*id, summary);
        }
    }
    Ok(found)
}

fn take_lock(path: &Path) -> Result<File, IndexError> {
    let io = |op| move |source| IndexError::Io { op, path: path.to_owned(), source };
    let mut options = File::options();
    let file = options.create(true).truncate(false).write(true).open(path).map_err(io("open"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(IndexError::Busy),
        Err(TryLockError::Error(source)) => Err(io("lock")(source)),
    }
}

/// Removes something that need not exist.
fn remove(path: &Path, by: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), IndexError> {
    match by(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| IndexError::Io { op: "remove", path: path.to_owned(), source }),
    }
}

/// Calls into the database. It is dropped after any panic, so no broken invariant of it is ever used again.
fn guarded<T>(call: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or(Err(IndexError::Panicked))
}

/// Closes the database; whether it did so without a panic.
fn drop_guarded(memory: Option<Box<dyn Memory>>) -> bool {
    catch_unwind(AssertUnwindSafe(|| drop(memory))).is_ok()
}
