//! The database behind the index. Nothing outside this file names sled.

use std::path::Path;

use super::IndexError;
use super::memory::Memory;

/// Its cache; the index of ten thousand records is smaller.
const CACHE_BYTES: u64 = 16 << 20;

struct SledMemory(sled::Db);

impl From<sled::Error> for IndexError {
    fn from(error: sled::Error) -> Self {
        Self::Database(error.to_string())
    }
}

/// Opens or creates the database in `path`.
pub(crate) fn open(path: &Path) -> Result<Box<dyn Memory>, IndexError> {
    let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    Ok(Box::new(SledMemory(config.open()?)))
}

impl Memory for SledMemory {
    fn get(&self, key: &[u8; 32]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(self.0.get(key)?.map(|value| value.to_vec()))
    }

    fn put(&self, key: &[u8; 32], value: &[u8]) -> Result<(), IndexError> {
        self.0.insert(key, value)?;
        Ok(())
    }

    fn flush(&self) -> Result<(), IndexError> {
        self.0.flush()?;
        Ok(())
    }
}
