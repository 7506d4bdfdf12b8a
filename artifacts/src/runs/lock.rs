//! One owner at a time: a lock that ends with its process, and says whose it is.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::RunError;

/// Who drives a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Owner {
    /// The process.
    pub pid: u32,
    /// Its machine.
    pub host: String,
    /// When it took the run, in milliseconds since 1970.
    pub since_unix_ms: u64,
}

/// The right to drive a run; given up when dropped, or when the process ends in whatever way.
#[derive(Debug)]
pub struct RunLock {
    _file: File,
}

impl RunLock {
    pub(super) fn take(path: &Path, owner: &Owner) -> Result<Self, RunError> {
        let io = |op| move |source| RunError::Io { op, path: path.to_owned(), source };
        let mut options = File::options();
        let mut file = options.create(true).truncate(false).read(true).write(true).open(path).map_err(io("open"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(RunError::Locked { owner: read_owner(path) }),
            Err(TryLockError::Error(source)) => return Err(io("lock")(source)),
        }
        let text = serde_json::to_vec(owner).expect("an owner is plain data");
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(&text)).map_err(io("write"))?;
        Ok(Self { _file: file })
    }

    /// The owner, while there is one.
    pub(super) fn holder(path: &Path) -> Option<Owner> {
        let file = File::open(path).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => read_owner(path),
            _ => None,
        }
    }
}

/// What the lock file says; `None` while its owner is only just writing it.
fn read_owner(path: &Path) -> Option<Owner> {
    let mut text = String::new();
    File::open(path).ok()?.take(4096).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}
