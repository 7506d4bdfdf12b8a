//! Why there is no index; never why there is no answer.

use std::io;
use std::path::PathBuf;

use serde::Serialize;

/// Why the index cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// Another process uses it.
    #[error("another process uses the index")]
    Busy,
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
    /// The database reports an error.
    #[error("the database fails: {0}")]
    Database(String),
    /// The database panicked.
    #[error("the database panicked")]
    Panicked,
    /// A value is not what was stored under its key.
    #[error("the database returned a wrong value")]
    WrongValue,
}

/// How the index is doing; for `doctor`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum IndexStatus {
    /// Not asked for, or not needed so far.
    Unused,
    /// What an earlier process left is in use.
    Reused,
    /// It was absent or damaged and is being filled again.
    Rebuilt,
    /// Another process uses it; this one reads the files.
    Busy,
    /// It failed or took too long; this process reads the files.
    Abandoned,
}
