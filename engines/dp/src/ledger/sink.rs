//! Where ledger lines are kept: a trait of three operations, the file that implements it, and a memory for tests and non-private runs.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// An append-only store of bytes.
pub trait LedgerSink {
    /// Everything stored so far.
    fn read(&mut self) -> io::Result<Vec<u8>>;
    /// Appends and returns only when the bytes survive a crash of the machine.
    fn append_durably(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Cuts the store to `length` bytes, durably; used once, on a torn tail.
    fn truncate(&mut self, length: u64) -> io::Result<()>;
}

/// A ledger file: locked exclusively while open, synced at every append.
#[derive(Debug)]
pub struct FileSink {
    file: File,
}

impl FileSink {
    /// Opens or creates the file; fails with `WouldBlock` while another process holds it.
    pub fn open(path: &Path) -> io::Result<Self> {
        let fresh = !path.exists();
        let file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
        file.try_lock().map_err(|error| match error {
            std::fs::TryLockError::Error(error) => error,
            std::fs::TryLockError::WouldBlock => {
                io::Error::new(io::ErrorKind::WouldBlock, "another process is charging this ledger")
            }
        })?;
        if fresh {
            file.sync_all()?;
            let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
            File::open(parent)?.sync_all()?;
        }
        Ok(Self { file })
    }
}

impl LedgerSink for FileSink {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.file.seek(SeekFrom::Start(0))?;
        self.file.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn append_durably(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.file.sync_data()
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.file.set_len(length)?;
        self.file.sync_all()
    }
}

/// A ledger in memory: for tests, audits and reproducible runs. Not durable.
#[derive(Clone, Debug, Default)]
pub struct MemorySink {
    bytes: Vec<u8>,
}

impl MemorySink {
    /// A sink that already holds `bytes`.
    pub fn holding(bytes: Vec<u8>) -> Self {
        Self { bytes }
    }

    /// What is stored.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl LedgerSink for MemorySink {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        Ok(self.bytes.clone())
    }

    fn append_durably(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.bytes.truncate(length as usize);
        Ok(())
    }
}

impl<S: LedgerSink + ?Sized> LedgerSink for Box<S> {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        (**self).read()
    }

    fn append_durably(&mut self, bytes: &[u8]) -> io::Result<()> {
        (**self).append_durably(bytes)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        (**self).truncate(length)
    }
}
