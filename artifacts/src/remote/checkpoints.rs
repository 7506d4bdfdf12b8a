//! Checkpoints on a remote: sealed, the newest two of each action, taken up by whichever machine goes on with it.

use std::io;
use std::path::Path;

use zeroize::Zeroizing;

use super::ledger::complete_lines;
use super::{Body, Creation, Remote, RemoteError, Sealed, names};
use crate::cas::{Store, io_error, open_plain};
use crate::records::ActionKey;
use crate::runs::CheckpointStore;

/// How many are kept, as in the store.
const KEEP: usize = 2;

/// What came of pushing a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckpointUpload {
    /// The newest one is there now.
    Pushed {
        /// Its number.
        sequence: u64,
        /// Its length, before sealing.
        bytes: u64,
    },
    /// The newest one was there.
    Already,
    /// The action has none.
    None,
    /// Without the owner's key it stays on this machine.
    Stays,
}

/// What was brought from a remote before an action goes on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restored {
    /// The number of the checkpoint that was newer than this machine's own.
    pub checkpoint: Option<u64>,
    /// Bytes of ledger lines that this machine did not have.
    pub ledger_bytes: u64,
    /// Whether there are checkpoints that cannot be opened here.
    pub locked: bool,
}

impl Remote {
    /// Pushes the newest checkpoint of an action, sealed, and removes all but the newest two.
    pub fn push_checkpoint(&self, store: &Store, key: ActionKey) -> Result<CheckpointUpload, RemoteError> {
        let Some((sequence, digest, path)) = CheckpointStore::for_key(store, key).newest()? else {
            return Ok(CheckpointUpload::None);
        };
        let Some(sealer) = &self.sealer else { return Ok(CheckpointUpload::Stays) };
        let name = names::checkpoint(&key, sequence, &digest);
        if self.objects.exists(&name)? {
            return Ok(CheckpointUpload::Already);
        }
        let mut plain = match open_plain(&path) {
            // The next one pushed it out while this one was being looked at.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(CheckpointUpload::Already),
            other => other.map_err(io_error("open", &path))?,
        };
        let bytes = plain.metadata().map_err(io_error("inspect", &path))?.len();
        let sealed = Sealed::make(store, &**sealer, &name, &mut plain)?;
        if self.objects.create(&name, sealed.body())? == Creation::Other {
            // Sealing is randomised: the same checkpoint, sent by an upload whose answer got lost.
            return Ok(CheckpointUpload::Already);
        }
        self.prune_checkpoints(&key, KEEP)?;
        Ok(CheckpointUpload::Pushed { sequence, bytes })
    }

    /// Removes an action's checkpoints: it has its result.
    pub fn discard_checkpoints(&self, key: &ActionKey) -> Result<(), RemoteError> {
        self.prune_checkpoints(key, 0)
    }

    fn prune_checkpoints(&self, key: &ActionKey, keep: usize) -> Result<(), RemoteError> {
        let names = self.objects.list(&names::checkpoints(key))?;
        for old in names.iter().rev().skip(keep) {
            self.objects.remove(old)?;
        }
        Ok(())
    }

    /// Brings this machine up to date before it goes on with an action: every ledger line that any machine charged, then the newest
    /// checkpoint. Ledgers lie in `ledgers` by name.
    pub fn restore(&self, store: &Store, key: ActionKey, ledgers: &Path) -> Result<Restored, RemoteError> {
        let mut restored = Restored { ledger_bytes: self.restore_ledgers(&key, ledgers)?, ..Restored::default() };
        let own = CheckpointStore::for_key(store, key);
        let newest_here = own.newest()?.map_or(0, |(sequence, ..)| sequence);
        let names = self.objects.list(&names::checkpoints(&key))?;
        for name in names.iter().rev() {
            let Some((sequence, digest)) = names::parse_checkpoint(&key, name) else { continue };
            if sequence <= newest_here {
                break;
            }
            let Some(sealer) = self.sealer.as_ref().filter(|s| s.can_open()) else {
                restored.locked = true;
                break;
            };
            let mut bytes = Zeroizing::new(Vec::new());
            match self.open_object(Some(store), &**sealer, name, &mut *bytes) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(error @ RemoteError::Seal { .. }) => {
                    tracing::error!(name, %error, "a checkpoint of the remote is damaged; the one before is used");
                    continue;
                }
                Err(error) => return Err(error),
            }
            match own.import(sequence, &digest, bytes) {
                Ok(_) => {
                    restored.checkpoint = Some(sequence);
                    break;
                }
                Err(crate::runs::CheckpointError::Verify { .. }) => {
                    tracing::error!(name, "a checkpoint of the remote is damaged; the one before is used");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(restored)
    }

    /// Pushes what this machine's ledgers hold beyond the remote's, whole lines only.
    pub fn push_ledger_base(&self, key: &ActionKey, name: &str, bytes: &[u8]) -> Result<(), RemoteError> {
        let lines = complete_lines(bytes);
        if lines.is_empty() {
            return Ok(());
        }
        let object = names::base(key, name, lines.len() as u64);
        match self.objects.create(&object, Body::Bytes(lines))? {
            Creation::New | Creation::Same => Ok(()),
            Creation::Other => Err(RemoteError::Diverged { name: name.to_owned(), offset: lines.len() as u64 }),
        }
    }
}
