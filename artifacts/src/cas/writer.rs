//! Folders for files being written: one for each open store, swept once its owner is dead.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::StoreError;
use super::error::io_error;
use crate::files::Files;
use crate::secrecy::Secrecy;

/// No name is used twice in one process: a writer being dropped still removes what has its name.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// A folder `tmp/<writer>/` of this process's own.
///
/// The lock on `tmp/<writer>.lock` ends with the process, however it dies; whoever can take it may remove the folder.
#[derive(Debug)]
pub(crate) struct WriterDir {
    dir: PathBuf,
    lock_path: PathBuf,
    next: AtomicU64,
    _lock: File,
}

impl WriterDir {
    /// Sweeps dead writers' folders and creates one for this process.
    pub(super) fn create(files: &dyn Files, tmp: &Path) -> Result<Self, StoreError> {
        let sweep_path = tmp.join("sweep.lock");
        let sweep = open_lock(&sweep_path)?;
        // Between creating a lock file and locking it, a sweeper could take it for a dead writer's.
        sweep.lock().map_err(io_error("lock", &sweep_path))?;
        sweep_dead(tmp);
        loop {
            let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let dir = tmp.join(&name);
            match files.create_dir(&dir, 0o700) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
                other => other.map_err(io_error("create the folder", &dir))?,
            }
            let lock_path = tmp.join(format!("{name}.lock"));
            let lock = open_lock(&lock_path)?;
            lock.try_lock().map_err(|e| io_error("lock", &lock_path)(e.into()))?;
            return Ok(Self { dir, lock_path, next: AtomicU64::new(0), _lock: lock });
        }
    }

    /// A path that no other file of this process has, in a folder of its label: even unfinished, two parties' shares do not
    /// lie in one folder.
    pub(super) fn fresh(&self, files: &dyn Files, secrecy: Secrecy) -> Result<PathBuf, StoreError> {
        let dir = self.dir.join(secrecy.to_string());
        match files.create_dir(&dir, 0o700) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => other.map_err(io_error("create the folder", &dir))?,
        }
        Ok(dir.join(self.next.fetch_add(1, Ordering::Relaxed).to_string()))
    }
}

impl Drop for WriterDir {
    fn drop(&mut self) {
        // Only rubbish is left here: what could not be removed now, the next writer sweeps, which looks for folders, so the lock
        // goes first.
        let _ = fs::remove_file(&self.lock_path);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn open_lock(path: &Path) -> Result<File, StoreError> {
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    options.open(path).map_err(io_error("open", path))
}

/// Removes the folders of writers that no longer live. Rubbish is harmless, so failures are left to the next sweep.
fn sweep_dead(tmp: &Path) {
    for entry in fs::read_dir(tmp).into_iter().flatten().flatten() {
        let dir = entry.path();
        if !dir.is_dir() {
            continue;
        }
        let lock_path = dir.with_extension("lock");
        let Ok(lock) = open_lock(&lock_path) else { continue };
        match lock.try_lock() {
            Ok(()) => {
                let _ = fs::remove_dir_all(&dir);
                let _ = fs::remove_file(&lock_path);
            }
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => {}
        }
    }
}
