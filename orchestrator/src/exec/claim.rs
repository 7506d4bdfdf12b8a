//! Claims: two runs on one store do not work on one action at the same time.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use sprint_artifacts::{ActionKey, Store};
use sprint_stage_api::StageError;

use super::attempt::io_error;

/// The right to work on an action, from before its result is looked up for the last time until after it is committed. Kept by the run's
/// process, and given up when it ends in whatever way.
#[derive(Debug)]
pub(super) struct Claim {
    _lock: File,
}

impl Claim {
    /// Takes the claim; `None` if another run has it.
    pub(super) fn take(store: &Store, key: ActionKey) -> Result<Option<Self>, StageError> {
        let path = ledger_dir(store, key)?.with_extension("claim");
        let lock =
            File::options().create(true).truncate(false).write(true).open(&path).map_err(|e| io_error("open", &path, &e))?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Self { _lock: lock })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(io_error("lock", &path, &e)),
        }
    }
}

/// The folder of an action's ledgers, which outlives attempts and runs; locks stand beside it.
pub(super) fn ledger_dir(store: &Store, key: ActionKey) -> Result<PathBuf, StageError> {
    let path = store.root().join("private").join("secret").join("ledgers").join(key.to_hex());
    create_private(&path)?;
    Ok(path)
}

pub(super) fn create_private(path: &Path) -> Result<(), StageError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| io_error("create", path, &e))
}
