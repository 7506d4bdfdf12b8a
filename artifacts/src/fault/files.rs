//! The layer itself: counts operations, and makes the chosen one go wrong.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ledger::{Ledger, PowerCut};
use crate::files::{DurableFile, Files, OsFiles};

/// What happens at the chosen operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies: the operation happens by half (a write) or not at all, and no later one happens.
    Crash,
    /// The operation fails once with this error number.
    Once(i32),
    /// The operation and every later one fail with this error number.
    Always(i32),
}

#[derive(Debug, Default)]
struct State {
    plan: Option<(u64, Fault)>,
    operations: u64,
    crashed: bool,
    trace: Vec<String>,
    ledger: Ledger,
}

/// How an operation shall go.
enum Course {
    Go,
    Half(io::Error),
    Fail(io::Error),
}

impl State {
    fn next(&mut self, what: &str, path: &Path) -> Course {
        let crash = || io::Error::other("the process has crashed (injected)");
        if self.crashed {
            return Course::Fail(crash());
        }
        let now = self.operations;
        self.operations += 1;
        self.trace.push(format!("{what} {}", path.display()));
        match self.plan {
            Some((at, Fault::Crash)) if now == at => {
                self.crashed = true;
                Course::Half(crash())
            }
            Some((at, Fault::Once(errno))) if now == at => Course::Half(io::Error::from_raw_os_error(errno)),
            Some((at, Fault::Always(errno))) if now >= at => Course::Half(io::Error::from_raw_os_error(errno)),
            _ => Course::Go,
        }
    }

    /// As [`next`](Self::next), for an operation that happens or does not.
    fn whole(&mut self, what: &str, path: &Path) -> io::Result<()> {
        match self.next(what, path) {
            Course::Go => Ok(()),
            Course::Half(e) | Course::Fail(e) => Err(e),
        }
    }
}

/// A [`Files`] that injects faults.
#[derive(Clone, Debug, Default)]
pub struct FaultFiles {
    state: Arc<Mutex<State>>,
}

impl FaultFiles {
    /// A layer that only counts.
    pub fn counting() -> Self {
        Self::default()
    }

    /// A layer in which operation number `at` (from 0) goes wrong.
    pub fn failing(at: u64, fault: Fault) -> Self {
        let files = Self::default();
        files.state().plan = Some((at, fault));
        files
    }

    /// How many operations there were.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The operations, for messages of failing tests.
    pub fn trace(&self) -> Vec<String> {
        self.state().trace.clone()
    }

    /// Whether the injected crash has happened.
    pub fn has_crashed(&self) -> bool {
        self.state().crashed
    }

    /// Cuts the power: what was not forced to the disk is lost, all of it or a random part.
    pub fn cut_power(&self, cut: PowerCut) -> io::Result<()> {
        let mut state = self.state();
        state.crashed = true;
        state.ledger.cut(cut)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct FaultFile {
    inner: Box<dyn DurableFile>,
    path: PathBuf,
    inode: u64,
    length: u64,
    state: Arc<Mutex<State>>,
}

impl FaultFile {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for FaultFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let course = self.state().next("write", &self.path);
        match course {
            Course::Go => {
                let count = self.inner.write(bytes)?;
                self.length += count as u64;
                Ok(count)
            }
            Course::Half(error) => {
                self.inner.write_all(&bytes[..bytes.len() / 2])?;
                Err(error)
            }
            Course::Fail(error) => Err(error),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl DurableFile for FaultFile {
    fn sync(&mut self) -> io::Result<()> {
        let (inode, length) = (self.inode, self.length);
        let mut state = self.state();
        state.whole("fsync", &self.path)?;
        // The simulated disk is enough; a real fsync would only make the tests slow.
        state.ledger.synced(inode, length);
        Ok(())
    }
}

impl Files for FaultFiles {
    fn create_new(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DurableFile>> {
        let mut state = self.state();
        state.whole("create", path)?;
        let inner = OsFiles.create_new(path, mode)?;
        let inode = std::fs::metadata(path)?.ino();
        state.ledger.created(path, inode);
        Ok(Box::new(FaultFile { inner, path: path.to_owned(), inode, length: 0, state: Arc::clone(&self.state) }))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        let mut state = self.state();
        state.whole("open", path)?;
        let inner = OsFiles.open_append(path)?;
        let meta = std::fs::metadata(path)?;
        state.ledger.opened(meta.ino(), meta.len());
        let (inode, length) = (meta.ino(), meta.len());
        Ok(Box::new(FaultFile { inner, path: path.to_owned(), inode, length, state: Arc::clone(&self.state) }))
    }

    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        let mut state = self.state();
        state.whole("truncate", path)?;
        let file = File::options().write(true).open(path)?;
        file.set_len(length)?;
        state.ledger.synced(file.metadata()?.ino(), length);
        Ok(())
    }

    fn rename_no_replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.whole("rename", to)?;
        OsFiles.rename_no_replace(from, to)?;
        state.ledger.renamed(from, to);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.whole("remove", path)?;
        let before = std::fs::metadata(path)?;
        let bytes = std::fs::read(path)?;
        OsFiles.remove_file(path)?;
        state.ledger.removed(path, &before, bytes);
        Ok(())
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        let mut state = self.state();
        state.whole("mkdir", path)?;
        OsFiles.create_dir(path, mode)?;
        state.ledger.made_dir(path);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.whole("fsync", path)?;
        state.ledger.synced_dir(path);
        Ok(())
    }
}
