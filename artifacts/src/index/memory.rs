//! What the index needs of a database, and the tags that make its values checkable.

use std::path::Path;

use super::{IndexError, Summary};
use crate::records::ResultId;

/// A map from record digests to bytes.
pub(crate) trait Memory {
    fn get(&self, key: &[u8; 32]) -> Result<Option<Vec<u8>>, IndexError>;
    fn put(&self, key: &[u8; 32], value: &[u8]) -> Result<(), IndexError>;
    fn flush(&self) -> Result<(), IndexError>;
}

/// Opens the database in a folder; replaced in tests by ones that hang, panic and lie.
pub(crate) type Opener = fn(&Path) -> Result<Box<dyn Memory>, IndexError>;

const TAG: usize = 32;

fn tag(id: &ResultId, bytes: &[u8]) -> [u8; TAG] {
    let key = blake3::derive_key("sprint-flow index value v1", id.digest().as_bytes());
    *blake3::keyed_hash(&key, bytes).as_bytes()
}

pub(super) fn store(memory: &dyn Memory, id: &ResultId, summary: &Summary) -> Result<(), IndexError> {
    let bytes = summary.to_bytes();
    memory.put(id.digest().as_bytes(), &[&tag(id, &bytes)[..], &bytes].concat())
}

pub(super) fn load(memory: &dyn Memory, id: &ResultId) -> Result<Option<Summary>, IndexError> {
    let Some(value) = memory.get(id.digest().as_bytes())? else { return Ok(None) };
    let (found, bytes) = value.split_at_checked(TAG).ok_or(IndexError::WrongValue)?;
    if tag(id, bytes) != found {
        return Err(IndexError::WrongValue);
    }
    Summary::from_bytes(bytes).map(Some).ok_or(IndexError::WrongValue)
}
