//! Opening a store.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::error::io_error;
use super::writer::WriterDir;
use super::{DurableDirs, Layout, StoreError};
use crate::digest::Digest;
use crate::files::{Files, OsFiles};
use crate::index::{Index, IndexStatus, Opener, open_sled};
use crate::secrecy::Secrecy;

/// The text of the VERSION file.
const VERSION: &str = "sprint-flow store 1\n";
/// How long an opener waits for a garbage collection to end.
const COLLECTION_WAIT: Duration = Duration::from_secs(30);

/// What a store is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading; takes no lock, creates nothing, moves nothing.
    Read,
    /// Reading and writing; excludes a garbage collection.
    Write,
}

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    access: Access,
    index: bool,
    index_limit: Duration,
    index_opener: Opener,
    files: Arc<dyn Files>,
}

impl StoreOptions {
    /// For reading and writing, with the index.
    pub fn read_write() -> Self {
        Self {
            access: Access::Write,
            index: true,
            index_limit: Duration::from_secs(2),
            index_opener: open_sled,
            files: Arc::new(OsFiles),
        }
    }

    /// For reading, without the index.
    pub fn read_only() -> Self {
        Self { access: Access::Read, index: false, ..Self::read_write() }
    }

    /// Whether to use the index; answers are the same without it. Worker processes of a run do without.
    #[must_use]
    pub const fn index(mut self, index: bool) -> Self {
        self.index = index;
        self
    }

    /// How long any call may wait for the index before it does without.
    #[must_use]
    pub const fn index_limit(mut self, limit: Duration) -> Self {
        self.index_limit = limit;
        self
    }

    /// Another database behind the index: one that hangs, panics or lies.
    #[cfg(test)]
    pub(crate) fn index_opener(mut self, opener: Opener) -> Self {
        self.index_opener = opener;
        self
    }

    /// The file layer, for fault injection.
    #[must_use]
    pub fn files(mut self, files: Arc<dyn Files>) -> Self {
        self.files = files;
        self
    }
}

impl Default for StoreOptions {
    fn default() -> Self {
        Self::read_write()
    }
}

/// What identifies the state of a file that has been verified: any write changes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(meta: &fs::Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            length: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// The verified blobs of one process.
pub(super) type Verified = BTreeMap<(Secrecy, Digest), Stamp>;

/// The content-addressed store of blobs, artifacts and result records; shared between threads by reference.
///
/// Several processes may have it open at once.
#[derive(Debug)]
pub struct Store {
    pub(crate) layout: Layout,
    pub(crate) files: Arc<dyn Files>,
    pub(crate) dirs: DurableDirs,
    access: Access,
    index_options: Option<(Duration, Opener)>,
    opened_index: OnceLock<Index>,
    verified: Mutex<Verified>,
    writer: Mutex<Option<Arc<WriterDir>>>,
    _gc_lock: Option<File>,
}

impl Store {
    /// Opens the store at `root`; for writing, it is created if need be.
    pub fn open(root: impl Into<PathBuf>, options: StoreOptions) -> Result<Self, StoreError> {
        let layout = Layout::new(root.into());
        let dirs = DurableDirs::new(layout.root().to_owned());
        let gc_lock = match options.access {
            Access::Read => None,
            Access::Write => {
                if !layout.root().is_dir() {
                    let above = layout.root().parent().unwrap_or(Path::new(""));
                    fs::create_dir_all(above).map_err(io_error("create the folder", above))?;
                    dirs.ensure(&*options.files, layout.root(), 0o755)?;
                }
                Some(lock_shared(&layout)?)
            }
        };
        Self::assemble(layout, dirs, gc_lock, options)
    }

    /// Opens an existing store for writing with nobody else writing; `None` if somebody does.
    pub(crate) fn open_alone(root: &Path, files: Arc<dyn Files>) -> Result<Option<Self>, StoreError> {
        let layout = Layout::new(root.to_owned());
        if !layout.version().exists() {
            return Err(StoreError::NoStore { path: root.to_owned() });
        }
        let dirs = DurableDirs::new(root.to_owned());
        let (lock, path) = open_gc_lock(&layout)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(io_error("lock", &path)(e)),
        }
        let options = StoreOptions::read_write().index(false).files(files);
        Self::assemble(layout, dirs, Some(lock), options).map(Some)
    }

    fn assemble(layout: Layout, dirs: DurableDirs, gc_lock: Option<File>, options: StoreOptions) -> Result<Self, StoreError> {
        let StoreOptions { access, index, index_limit, index_opener, files } = options;
        let store = Self {
            layout,
            files,
            dirs,
            access,
            index_options: index.then_some((index_limit, index_opener)),
            opened_index: OnceLock::new(),
            verified: Mutex::default(),
            writer: Mutex::default(),
            _gc_lock: gc_lock,
        };
        store.check_version()?;
        Ok(store)
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        self.layout.root()
    }

    /// What it was opened for.
    pub const fn access(&self) -> Access {
        self.access
    }

    /// The file layer, for those who write below the store's root.
    pub fn files(&self) -> &Arc<dyn Files> {
        &self.files
    }

    /// Fails unless the store was opened for writing.
    pub(crate) fn require_write(&self) -> Result<(), StoreError> {
        match self.access {
            Access::Write => Ok(()),
            Access::Read => Err(StoreError::ReadOnly { path: self.root().to_owned() }),
        }
    }

    /// The index, opened at the first call; without effect on any answer but its speed.
    pub(crate) fn index(&self) -> Option<&Index> {
        let (limit, opener) = self.index_options?;
        Some(self.opened_index.get_or_init(|| Index::open(&self.layout.index(), limit, opener)))
    }

    /// The index, if some call has opened it.
    pub(crate) fn index_if_open(&self) -> Option<&Index> {
        self.opened_index.get()
    }

    /// How the index is doing; opens it if it is asked for.
    pub fn index_status(&self) -> IndexStatus {
        self.index().map_or(IndexStatus::Unused, Index::status)
    }

    pub(super) fn verified(&self) -> MutexGuard<'_, Verified> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new path on the store's file system for a file being written; the guard keeps its folder alive.
    pub(crate) fn temporary(&self, secrecy: Secrecy) -> Result<(PathBuf, Arc<WriterDir>), StoreError> {
        self.require_write()?;
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let dir = if let Some(dir) = &*writer {
            Arc::clone(dir)
        } else {
            let tmp = self.layout.tmp();
            self.dirs.ensure(&*self.files, &tmp, 0o700)?;
            Arc::clone(writer.insert(Arc::new(WriterDir::create(&*self.files, &tmp)?)))
        };
        Ok((dir.fresh(&*self.files, secrecy)?, dir))
    }

    fn check_version(&self) -> Result<(), StoreError> {
        let path = self.layout.version();
        let found = match fs::read(&path) {
            Ok(found) => String::from_utf8_lossy(&found).into_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound && self.access == Access::Write => {
                return self.create_version(&path);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::NoStore { path: self.root().to_owned() });
            }
            Err(e) => return Err(io_error("read", &path)(e)),
        };
        if found == VERSION {
            return Ok(());
        }
        Err(StoreError::Version { path: self.root().to_owned(), found, expected: VERSION })
    }

    fn create_version(&self, path: &Path) -> Result<(), StoreError> {
        self.publish(path, VERSION.as_bytes(), 0o444, 0o755)?;
        Ok(())
    }
}

/// Takes `gc.lock` shared, waiting for a garbage collection for a while.
fn lock_shared(layout: &Layout) -> Result<File, StoreError> {
    let (file, path) = open_gc_lock(layout)?;
    let begin = Instant::now();
    loop {
        match file.try_lock_shared() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(e)) => return Err(io_error("lock", &path)(e)),
            Err(TryLockError::WouldBlock) if begin.elapsed() < COLLECTION_WAIT => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(TryLockError::WouldBlock) => {
                let path = layout.root().to_owned();
                return Err(StoreError::Collecting { path, seconds: begin.elapsed().as_secs() });
            }
        }
    }
}

fn open_gc_lock(layout: &Layout) -> Result<(File, PathBuf), StoreError> {
    let path = layout.gc_lock();
    let mut options = File::options();
    let file = options.create(true).truncate(false).write(true).open(&path).map_err(io_error("open", &path))?;
    Ok((file, path))
}
