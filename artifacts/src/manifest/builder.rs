//! A manifest in the making: files by content, before their digests are known.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use zeroize::Zeroizing;

use crate::cas::BlobRef;
use crate::encode::Value;
use crate::secrecy::Secrecy;

/// Where the bytes of a file come from.
pub(crate) enum Source {
    /// Memory, wiped after use because the artifact may be secret.
    Bytes(Zeroizing<Vec<u8>>),
    /// A file outside the store; it is copied.
    Path(PathBuf),
    /// A blob already in the store under the same label.
    Blob(BlobRef),
}

/// The files, label and metadata of an artifact that [`Store::put_artifact`](crate::cas::Store::put_artifact) will store.
///
/// Names are checked when it is stored.
#[must_use = "an artifact exists once Store::put_artifact has stored it"]
pub struct ManifestBuilder {
    pub(crate) kind: String,
    pub(crate) secrecy: Secrecy,
    pub(crate) files: Vec<(String, Source, bool)>,
    pub(crate) meta: BTreeMap<String, Value>,
}

impl ManifestBuilder {
    pub(super) const fn new(kind: String, secrecy: Secrecy) -> Self {
        Self { kind, secrecy, files: Vec::new(), meta: BTreeMap::new() }
    }

    /// Adds a file with these bytes.
    pub fn bytes(self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        self.source(name, Source::Bytes(Zeroizing::new(bytes.into())))
    }

    /// Adds a copy of the file at `path`.
    pub fn path(self, name: impl Into<String>, path: impl Into<PathBuf>) -> Self {
        self.source(name, Source::Path(path.into()))
    }

    /// Adds a blob that the store already holds.
    pub fn blob(self, name: impl Into<String>, blob: BlobRef) -> Self {
        self.source(name, Source::Blob(blob))
    }

    fn source(mut self, name: impl Into<String>, source: Source) -> Self {
        self.files.push((name.into(), source, false));
        self
    }

    /// Marks the file added last as a program.
    pub fn executable(mut self) -> Self {
        if let Some(last) = self.files.last_mut() {
            last.2 = true;
        }
        self
    }

    /// Sets a metadata entry.
    pub fn meta(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.meta.insert(key.into(), value.into());
        self
    }
}

impl fmt::Debug for ManifestBuilder {
    // Contents may be secret: names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.files.iter().map(|(name, ..)| name).collect();
        f.debug_struct("ManifestBuilder")
            .field("kind", &self.kind)
            .field("secrecy", &self.secrecy)
            .field("files", &names)
            .finish_non_exhaustive()
    }
}
