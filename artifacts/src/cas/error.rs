//! What can go wrong in the store, with what was expected and what was found.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::manifest::{ArtifactId, ManifestError};
use crate::secrecy::Secrecy;

/// Bytes that are not what their name says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The digest that names the bytes.
    pub expected: Digest,
    /// The digest of the bytes.
    pub actual: Digest,
    /// The length that the manifest states, where one does.
    pub expected_size: Option<u64>,
    /// The length of the bytes.
    pub actual_size: u64,
    /// Where the bytes are now; `None` when they could not be moved to the quarantine.
    pub quarantined: Option<PathBuf>,
}

/// Why the store cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
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
    /// The disk (or the quota) is full.
    #[error("the disk is full: {} needs {needed} more bytes, {available} are free", path.display())]
    DiskFull {
        /// The file being written.
        path: PathBuf,
        /// How many bytes were still to be written, as far as known.
        needed: u64,
        /// How many bytes the file system has for us.
        available: u64,
    },
    /// A blob is damaged.
    #[error("blob {} is damaged: its bytes have digest {}{}", .0.expected, .0.actual, size_note(.0))]
    Corrupt(Box<Mismatch>),
    /// A blob is not in the store.
    #[error("blob {digest} ({secrecy}) is not in the store")]
    MissingBlob {
        /// The blob.
        digest: Digest,
        /// Where it should be.
        secrecy: Secrecy,
    },
    /// An artifact is not in the store.
    #[error("artifact {id} is not in the store")]
    MissingArtifact {
        /// The artifact.
        id: ArtifactId,
    },
    /// An artifact has no file of this name.
    #[error("artifact {id} has no file {name:?}")]
    NoSuchFile {
        /// The artifact.
        id: ArtifactId,
        /// The name.
        name: String,
    },
    /// The bytes of a manifest hash right but are no manifest, or its label is not that of its folder.
    #[error("artifact {id} has an invalid manifest")]
    Manifest {
        /// The artifact.
        id: ArtifactId,
        /// Why.
        #[source]
        source: ManifestError,
    },
    /// The artifact to be stored has no valid manifest.
    #[error("the artifact cannot be stored")]
    Invalid(#[from] ManifestError),
    /// A file's label is not the one of the artifact, or of the folder that it lies in.
    #[error("{name} is labelled {found} where {expected} is required")]
    Label {
        /// What.
        name: String,
        /// The label required.
        expected: Secrecy,
        /// The label found.
        found: Secrecy,
    },
    /// The store has another layout.
    #[error("the store at {} has layout {found:?}; this program knows {expected:?}", path.display())]
    Version {
        /// The store.
        path: PathBuf,
        /// What its VERSION file says.
        found: String,
        /// What it should say.
        expected: &'static str,
    },
    /// There is no store here, and this one was opened for reading.
    #[error("there is no store at {}", path.display())]
    NoStore {
        /// The place.
        path: PathBuf,
    },
    /// The store was opened for reading.
    #[error("the store at {} was opened for reading", path.display())]
    ReadOnly {
        /// The store.
        path: PathBuf,
    },
    /// A garbage collection is under way.
    #[error("a garbage collection of {} has been running for {seconds} s", path.display())]
    Collecting {
        /// The store.
        path: PathBuf,
        /// How long it was waited for.
        seconds: u64,
    },
    /// The source of a copy changed while it was copied, or is no plain file.
    #[error("{} is not a plain file", path.display())]
    NotAFile {
        /// The source.
        path: PathBuf,
    },
}

impl StoreError {
    /// Whether the store's contents, not the machine, are at fault.
    pub const fn is_integrity(&self) -> bool {
        matches!(self, Self::Corrupt(_) | Self::Manifest { .. } | Self::Label { .. })
    }

    /// Whether bytes that should be there are absent: computing them again cures it.
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::MissingBlob { .. } | Self::MissingArtifact { .. })
    }
}

fn size_note(mismatch: &Mismatch) -> String {
    match mismatch.expected_size {
        Some(expected) if expected != mismatch.actual_size => {
            format!(" and {} bytes instead of {expected}", mismatch.actual_size)
        }
        _ => String::new(),
    }
}

/// Says what was tried on which file; a full disk becomes [`StoreError::DiskFull`] with `needed` bytes.
pub(crate) fn write_error(op: &'static str, path: &Path, needed: u64, source: io::Error) -> StoreError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StoreError::DiskFull { path: path.to_owned(), needed, available: available(path) }
        }
        _ => StoreError::Io { op, path: path.to_owned(), source },
    }
}

/// Says what was tried on which file.
pub(crate) fn io_error(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| write_error(op, &path, 0, source)
}

/// The bytes free for us on the file system of the nearest existing ancestor of `path`; 0 when unknown.
fn available(path: &Path) -> u64 {
    path.ancestors().find_map(|p| rustix::fs::statvfs(p).ok()).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
}
