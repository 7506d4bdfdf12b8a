//! The file layer: every change that the store makes to the disk goes through [`Files`].
//!
//! Production uses [`OsFiles`]. Tests use [`fault::FaultFiles`](crate::fault::FaultFiles), which fails, crashes or cuts the
//! power at a chosen operation. Reading needs no such layer: whatever is read is checked against its digest.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// A file open for writing, durable only after [`sync`](DurableFile::sync).
pub trait DurableFile: Write + Send {
    /// Forces the bytes to the disk (fsync). After a failure the contents are unknown: the file must be abandoned.
    fn sync(&mut self) -> io::Result<()>;
}

/// The changes that the store makes to a disk.
///
/// A change to a folder (a new entry, a rename, a removal) is durable only after [`sync_dir`](Files::sync_dir) of it.
pub trait Files: fmt::Debug + Send + Sync {
    /// Creates a file that must not exist, with this mode, open for writing.
    fn create_new(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DurableFile>>;
    /// Opens an existing file for writing at its end.
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DurableFile>>;
    /// Cuts a file to `length` bytes and forces that to the disk.
    fn truncate(&self, path: &Path, length: u64) -> io::Result<()>;
    /// Renames without ever replacing: an existing `to` gives [`io::ErrorKind::AlreadyExists`].
    fn rename_no_replace(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Creates a folder with this mode; its parent must exist.
    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()>;
    /// Forces a folder's entries to the disk (fsync).
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
}

/// The operating system's files.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsFiles;

impl DurableFile for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Files for OsFiles {
    fn create_new(&self, path: &Path, mode: u32) -> io::Result<Box<dyn DurableFile>> {
        Ok(Box::new(OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?))
    }

    fn open_append(&self, path: &Path) -> io::Result<Box<dyn DurableFile>> {
        Ok(Box::new(OpenOptions::new().append(true).open(path)?))
    }

    fn truncate(&self, path: &Path, length: u64) -> io::Result<()> {
        let file = OpenOptions::new().write(true).open(path)?;
        file.set_len(length)?;
        file.sync_all()
    }

    fn rename_no_replace(&self, from: &Path, to: &Path) -> io::Result<()> {
        use rustix::fs::{CWD, RenameFlags, renameat_with};
        match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
            // File systems without the flag: a hard link never replaces either.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                fs::hard_link(from, to)?;
                fs::remove_file(from)
            }
            other => other.map_err(io::Error::from),
        }
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn create_dir(&self, path: &Path, mode: u32) -> io::Result<()> {
        DirBuilder::new().mode(mode).create(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}
