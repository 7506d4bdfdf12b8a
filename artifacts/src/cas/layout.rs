//! Where everything lies below the store's root.

use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::secrecy::Secrecy;

/// The paths of one store.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(crate) const fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn version(&self) -> PathBuf {
        self.root.join("VERSION")
    }

    pub(crate) fn gc_lock(&self) -> PathBuf {
        self.root.join("gc.lock")
    }

    /// The folder of everything private.
    pub(crate) fn private(&self) -> PathBuf {
        self.root.join("private")
    }

    /// The folder of the blobs with this label.
    pub(crate) fn area(&self, secrecy: Secrecy) -> PathBuf {
        match secrecy {
            Secrecy::Public => self.root.join("blobs").join("b3"),
            other => self.private().join(other.to_string()).join("b3"),
        }
    }

    pub(crate) fn blob(&self, secrecy: Secrecy, digest: &Digest) -> PathBuf {
        let hex = digest.to_hex();
        self.area(secrecy).join(&hex[..2]).join(hex)
    }

    pub(crate) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(crate) fn corrupt(&self) -> PathBuf {
        self.root.join("quarantine").join("corrupt")
    }

    pub(crate) fn collected(&self) -> PathBuf {
        self.root.join("quarantine").join("gc")
    }

    pub(crate) fn results(&self) -> PathBuf {
        self.root.join("results")
    }

    /// The folder of the records of one action key.
    pub(crate) fn results_of(&self, key: &Digest) -> PathBuf {
        let hex = key.to_hex();
        self.results().join(&hex[..2]).join(hex)
    }

    /// The folder of the checkpoints of all actions.
    pub(crate) fn checkpoints(&self) -> PathBuf {
        self.private().join(Secrecy::Secret.to_string()).join("checkpoints")
    }

    /// The folder of the checkpoints of one action key.
    pub(crate) fn checkpoints_of(&self, key: &Digest) -> PathBuf {
        self.checkpoints().join(key.to_hex())
    }

    pub(crate) fn runs(&self) -> PathBuf {
        self.root.join("runs")
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.root.join("pins")
    }

    pub(crate) fn index(&self) -> PathBuf {
        self.root.join("index.sled")
    }

    /// The labels whose folders exist.
    pub(crate) fn labels(&self) -> Vec<Secrecy> {
        let private = std::fs::read_dir(self.private()).into_iter().flatten().flatten();
        let mut labels: Vec<_> = private
            .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()))
            .filter(|label: &Secrecy| !label.is_public())
            .collect();
        labels.sort_unstable();
        labels.insert(0, Secrecy::Public);
        labels
    }
}
