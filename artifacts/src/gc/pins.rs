//! Pins: artifacts that are kept because somebody said so.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use crate::cas::{Store, StoreError, io_error};
use crate::manifest::ArtifactId;

/// What can go wrong with a pin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// The name is not letters, digits, `-`, `_` and `.`, or begins with `.`.
    #[error("{name:?} is not a pin name: letters, digits, \"-\", \"_\" and \".\" are allowed")]
    Name {
        /// The name.
        name: String,
    },
    /// The name stands for another artifact.
    #[error("pin {name:?} stands for artifact {id} already")]
    Taken {
        /// The name.
        name: String,
        /// The artifact that it stands for.
        id: ArtifactId,
    },
    /// There is no such pin.
    #[error("there is no pin {name:?}")]
    NoSuchPin {
        /// The name.
        name: String,
    },
    /// The store cannot do what the pin needs.
    #[error("the pin cannot be changed")]
    Store(#[from] StoreError),
}

impl Store {
    /// Keeps an artifact, which must be there, under a name.
    pub fn pin(&self, name: &str, id: &ArtifactId) -> Result<(), PinError> {
        check_name(name)?;
        self.require_write()?;
        self.read_artifact(id)?;
        match self.pins()?.get(name) {
            Some(found) if found == id => Ok(()),
            Some(found) => Err(PinError::Taken { name: name.to_owned(), id: *found }),
            None => {
                let path = self.layout.pins().join(name);
                self.publish(&path, format!("{id}\n").as_bytes(), 0o444, 0o755)?;
                Ok(())
            }
        }
    }

    /// Keeps an artifact no longer.
    pub fn unpin(&self, name: &str) -> Result<(), PinError> {
        check_name(name)?;
        self.require_write()?;
        let (dir, path) = (self.layout.pins(), self.layout.pins().join(name));
        match self.files.remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(PinError::NoSuchPin { name: name.to_owned() }),
            other => {
                other.map_err(io_error("remove", &path))?;
                Ok(self.files.sync_dir(&dir).map_err(io_error("force to the disk", &dir))?)
            }
        }
    }

    /// The pins by name. A pin file that cannot be read is an error: ignoring it would let its artifact be collected.
    pub fn pins(&self) -> Result<BTreeMap<String, ArtifactId>, StoreError> {
        let dir = self.layout.pins();
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            other => other.map_err(io_error("list", &dir))?,
        };
        let mut pins = BTreeMap::new();
        for entry in entries {
            let path = entry.map_err(io_error("list", &dir))?.path();
            let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
            let invalid = |e| io_error("read", &path)(io::Error::new(io::ErrorKind::InvalidData, e));
            let id = text.trim_end().parse().map_err(invalid)?;
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            pins.insert(name, id);
        }
        Ok(pins)
    }
}

fn check_name(name: &str) -> Result<(), PinError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if !name.is_empty() && name.len() <= 128 && !name.starts_with('.') && name.bytes().all(allowed) {
        Ok(())
    } else {
        Err(PinError::Name { name: name.to_owned() })
    }
}
