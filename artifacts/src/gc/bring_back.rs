//! What a collection has set aside comes back when it is asked for.

use std::fs;
use std::io;
use std::path::PathBuf;

use crate::cas::{Access, Store, StoreError, io_error};
use crate::digest::Digest;
use crate::secrecy::Secrecy;

impl Store {
    /// Moves a collected blob back to its place; whether there was one. Only a store open for writing moves anything.
    pub(crate) fn bring_back(&self, secrecy: Secrecy, digest: &Digest) -> Result<bool, StoreError> {
        if self.access() == Access::Read {
            return Ok(false);
        }
        let to = self.layout.blob(secrecy, digest);
        let relative = to.strip_prefix(self.root()).expect("a blob lies in the store");
        let dir = to.parent().expect("a blob lies in a folder");
        for sweep in self.sweeps()? {
            let from = sweep.join(relative);
            if !from.is_file() {
                continue;
            }
            self.dirs.ensure(&*self.files, dir, secrecy.dir_mode())?;
            match self.files.rename_no_replace(&from, &to) {
                // Another process was faster.
                Err(e) if matches!(e.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {}
                other => other.map_err(io_error("bring back", &from))?,
            }
            self.files.sync_dir(dir).map_err(io_error("force to the disk", dir))?;
            return Ok(true);
        }
        Ok(false)
    }

    /// The folders of earlier collections, `quarantine/gc/<seconds since 1970>`.
    pub(super) fn sweeps(&self) -> Result<Vec<PathBuf>, StoreError> {
        let dir = self.layout.collected();
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(io_error("list", &dir))?,
        };
        let mut sweeps: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        sweeps.sort_unstable();
        Ok(sweeps)
    }
}
