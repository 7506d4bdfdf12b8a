//! The folder of a run.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{AppendLog, LogError, Owner, Replay, RunId, RunIdError, RunLock};
use crate::cas::{Store, StoreError};

/// What can go wrong with a run's folder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// Another process drives the run.
    #[error("the run is driven by {}", owner_text(.owner.as_ref()))]
    Locked {
        /// Which; `None` if it has not said so yet.
        owner: Option<Owner>,
    },
    /// There is no such run.
    #[error("there is no run {id}")]
    NoSuchRun {
        /// The run.
        id: RunId,
    },
    /// A run of this name exists already.
    #[error("run {id} exists already")]
    Exists {
        /// The run.
        id: RunId,
    },
    /// The text is not the name of a run.
    #[error(transparent)]
    Id(#[from] RunIdError),
    /// A file name that would leave the run's folder.
    #[error("{name:?} is not a plain file name")]
    Name {
        /// The name.
        name: String,
    },
    /// The operating system refused.
    #[error("cannot {op} {}", path.display())]
    Io {
        /// What was tried, in the infinitive.
        op: &'static str,
        /// On which file.
        path: PathBuf,
        /// The reason given.
        #[source]
        source: io::Error,
    },
    /// The store cannot do what the run needs.
    #[error("the run's folder cannot be used")]
    Store(#[from] StoreError),
}

fn owner_text(owner: Option<&Owner>) -> String {
    owner.map_or_else(|| "another process".to_owned(), |o| format!("process {} on {}", o.pid, o.host))
}

/// The folder of a run.
#[derive(Clone, Debug)]
pub struct RunDir<'a> {
    store: &'a Store,
    id: RunId,
    path: PathBuf,
}

impl Store {
    /// Creates the folder of a new run.
    pub fn create_run(&self, id: &RunId) -> Result<RunDir<'_>, RunError> {
        self.require_write()?;
        let run = self.run_dir(id);
        if run.path.exists() {
            return Err(RunError::Exists { id: id.clone() });
        }
        self.dirs.ensure(&*self.files, &run.path.join("logs"), 0o755)?;
        Ok(run)
    }

    /// The folder of a run that exists.
    pub fn run(&self, id: &RunId) -> Result<RunDir<'_>, RunError> {
        let run = self.run_dir(id);
        if run.path.is_dir() { Ok(run) } else { Err(RunError::NoSuchRun { id: id.clone() }) }
    }

    /// The runs, newest first.
    pub fn runs(&self) -> Result<Vec<RunId>, RunError> {
        let dir = self.layout.runs();
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(|source| RunError::Io { op: "list", path: dir, source })?,
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let mut runs: Vec<RunId> = names.filter_map(|name| name.parse().ok()).collect();
        runs.sort_unstable_by(|a, b| b.cmp(a));
        Ok(runs)
    }

    fn run_dir(&self, id: &RunId) -> RunDir<'_> {
        RunDir { store: self, id: id.clone(), path: self.layout.runs().join(id.as_str()) }
    }
}

impl RunDir<'_> {
    /// The run's name.
    pub const fn id(&self) -> &RunId {
        &self.id
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder for what stages print.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Takes the run for this process, or says who has it.
    pub fn lock(&self, owner: &Owner) -> Result<RunLock, RunError> {
        RunLock::take(&self.path.join("lock"), owner)
    }

    /// Who drives the run at this moment.
    pub fn holder(&self) -> Option<Owner> {
        RunLock::holder(&self.path.join("lock"))
    }

    /// Writes a file of the run durably; it must be new or have these very bytes.
    pub fn write_once(&self, name: &str, bytes: &[u8]) -> Result<(), RunError> {
        let path = self.file(name)?;
        self.store.publish(&path, bytes, 0o444, 0o755)?;
        Ok(())
    }

    /// Reads a file of the run; `None` if there is none.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, RunError> {
        let path = self.file(name)?;
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(RunError::Io { op: "read", path, source }),
        }
    }

    /// Says that nothing is left to do: the run no longer keeps artifacts from garbage collection.
    pub fn mark_finished(&self) -> Result<(), RunError> {
        self.write_once("finished", b"")
    }

    /// Whether nothing is left to do.
    pub fn is_finished(&self) -> bool {
        self.path.join("finished").exists()
    }

    /// Opens the run's journal for appending, repaired and replayed. Hold the [`lock`](Self::lock).
    pub fn open_journal(&self) -> Result<(AppendLog, Replay), LogError> {
        AppendLog::open(&**self.store.files(), &self.journal_path(), self.id.as_str())
    }

    /// Reads the run's journal, changing nothing.
    pub fn read_journal(&self) -> Result<Replay, LogError> {
        Replay::read(&self.journal_path(), self.id.as_str())
    }

    fn journal_path(&self) -> PathBuf {
        self.path.join("journal.log")
    }

    fn file(&self, name: &str) -> Result<PathBuf, RunError> {
        let plain = !name.is_empty() && !name.contains(['/', '\\', '\0']) && name != "." && name != "..";
        if plain { Ok(self.path.join(name)) } else { Err(RunError::Name { name: name.to_owned() }) }
    }
}
