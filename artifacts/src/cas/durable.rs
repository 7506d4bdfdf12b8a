//! Folders whose own entries are on the disk.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::StoreError;
use super::error::io_error;
use crate::files::Files;

/// The folders below one root that this process knows to survive a power cut.
///
/// A folder that exists need not: a process killed between mkdir and fsync leaves one whose entry is only in memory. So the
/// first use of any folder forces the entries of its parents down, whoever created it.
#[derive(Debug)]
pub(crate) struct DurableDirs {
    root: PathBuf,
    known: Mutex<BTreeSet<PathBuf>>,
}

impl DurableDirs {
    pub(crate) const fn new(root: PathBuf) -> Self {
        Self { root, known: Mutex::new(BTreeSet::new()) }
    }

    /// Makes `dir` and its ancestors up to the root exist durably; new ones get `mode`.
    pub(crate) fn ensure(&self, files: &dyn Files, dir: &Path, mode: u32) -> Result<(), StoreError> {
        if self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(dir) {
            return Ok(());
        }
        let parent = dir.parent().filter(|_| dir != self.root);
        if let Some(parent) = parent {
            self.ensure(files, parent, mode)?;
        }
        match files.create_dir(dir, mode) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            other => other.map_err(io_error("create the folder", dir))?,
        }
        let above = parent.or_else(|| dir.parent()).filter(|p| !p.as_os_str().is_empty());
        let above = above.unwrap_or(Path::new("."));
        files.sync_dir(above).map_err(io_error("force to the disk", above))?;
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(dir.to_owned());
        Ok(())
    }
}
