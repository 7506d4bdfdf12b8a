//! Putting bytes into the store: hashed while written, durable before visible, never replacing.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroize;

use super::error::{io_error, write_error};
use super::writer::WriterDir;
use super::{BlobRef, Store, StoreError};
use crate::digest::{Digest, Hasher};
use crate::files::DurableFile;
use crate::manifest::{ArtifactId, FileEntry, Manifest, ManifestBuilder, Source};
use crate::secrecy::Secrecy;

/// Bytes gathered before they go to the file in one write.
const BUFFER: usize = 256 * 1024;

/// A blob being written; it exists once [`finish`](BlobWriter::finish) has returned. Dropped before, it leaves nothing.
pub struct BlobWriter<'a> {
    store: &'a Store,
    secrecy: Secrecy,
    path: PathBuf,
    file: Option<Box<dyn DurableFile>>,
    buffer: Vec<u8>,
    hasher: Hasher,
    expected: Option<u64>,
    installed: bool,
    _dir: Arc<WriterDir>,
}

impl BlobWriter<'_> {
    /// Tells how long the blob will be, so that a full disk can say how many bytes it lacks.
    #[must_use]
    pub const fn expect_size(mut self, size: u64) -> Self {
        self.expected = Some(size);
        self
    }

    /// Makes the blob durable, then visible, and names it.
    pub fn finish(mut self) -> Result<BlobRef, StoreError> {
        self.spill().map_err(|e| self.write_error(e))?;
        let mut file = self.file.take().expect("the file is taken here only");
        file.sync().map_err(|e| self.write_error(e))?;
        drop(file);
        let blob = BlobRef { digest: self.hasher.finish(), size: self.hasher.length(), secrecy: self.secrecy };
        self.installed = self.store.install_blob(&self.path, &blob)?;
        Ok(blob)
    }

    /// Writes the buffer out; only what has been written is hashed.
    fn spill(&mut self) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.write_all(&self.buffer)?;
            self.hasher.update(&self.buffer);
            self.clear();
        }
        Ok(())
    }

    fn clear(&mut self) {
        if !self.secrecy.is_public() {
            self.buffer.zeroize();
        }
        self.buffer.clear();
    }

    fn write_error(&self, source: io::Error) -> StoreError {
        let done = self.hasher.length();
        let needed = self.expected.map_or(self.buffer.len() as u64, |all| all.saturating_sub(done));
        write_error("write", &self.path, needed, source)
    }
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.capacity() == 0 {
            // Reserved at once: growing would leave unwiped copies of secrets behind.
            self.buffer.reserve_exact(BUFFER);
        }
        if self.buffer.len() == BUFFER {
            self.spill()?;
        }
        let count = bytes.len().min(BUFFER - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        self.clear();
        if !self.installed {
            // Rubbish; if it cannot be removed now, the next sweep does.
            let _ = self.store.files.remove_file(&self.path);
        }
    }
}

impl fmt::Debug for BlobWriter<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlobWriter")
            .field("secrecy", &self.secrecy)
            .field("length", &self.hasher.length())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Begins a blob with this label.
    pub fn blob_writer(&self, secrecy: Secrecy) -> Result<BlobWriter<'_>, StoreError> {
        let (path, dir) = self.temporary(secrecy)?;
        let file = self.files.create_new(&path, secrecy.file_mode()).map_err(io_error("create", &path))?;
        Ok(BlobWriter {
            store: self,
            secrecy,
            path,
            file: Some(file),
            buffer: Vec::new(),
            hasher: Hasher::new(),
            expected: None,
            installed: false,
            _dir: dir,
        })
    }

    /// Stores these bytes.
    pub fn put_bytes(&self, secrecy: Secrecy, bytes: &[u8]) -> Result<BlobRef, StoreError> {
        let mut writer = self.blob_writer(secrecy)?.expect_size(bytes.len() as u64);
        writer.write_all(bytes).map_err(|e| writer.write_error(e))?;
        writer.finish()
    }

    /// Stores a copy of the file at `path`.
    pub fn put_file(&self, secrecy: Secrecy, path: &Path) -> Result<BlobRef, StoreError> {
        let mut file = File::open(path).map_err(io_error("open", path))?;
        let meta = file.metadata().map_err(io_error("inspect", path))?;
        if !meta.is_file() {
            return Err(StoreError::NotAFile { path: path.to_owned() });
        }
        let mut writer = self.blob_writer(secrecy)?.expect_size(meta.len());
        let mut chunk = zeroize::Zeroizing::new(vec![0_u8; BUFFER]);
        loop {
            let count = match file.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => count,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(io_error("read", path)(e)),
            };
            writer.write_all(&chunk[..count]).map_err(|e| writer.write_error(e))?;
        }
        writer.finish()
    }

    /// Stores an artifact: its files, then the manifest that names them.
    pub fn put_artifact(&self, builder: ManifestBuilder) -> Result<(ArtifactId, Manifest), StoreError> {
        let ManifestBuilder { kind, secrecy, files, meta } = builder;
        let mut entries = Vec::with_capacity(files.len());
        for (name, source, executable) in files {
            let blob = match source {
                Source::Bytes(bytes) => self.put_bytes(secrecy, &bytes)?,
                Source::Path(path) => self.put_file(secrecy, &path)?,
                Source::Blob(blob) if blob.secrecy != secrecy => {
                    return Err(StoreError::Label { name, expected: secrecy, found: blob.secrecy });
                }
                Source::Blob(blob) => self.require_blob(blob)?,
            };
            entries.push(FileEntry { name, size: blob.size, executable, digest: blob.digest });
        }
        let manifest = Manifest::new(kind, secrecy, entries, meta)?;
        let blob = self.put_bytes(secrecy, &manifest.to_bytes())?;
        Ok((ArtifactId::new(blob.digest), manifest))
    }

    /// The blob, if it is there with the length it should have.
    fn require_blob(&self, blob: BlobRef) -> Result<BlobRef, StoreError> {
        let path = self.layout.blob(blob.secrecy, &blob.digest);
        match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() && meta.len() == blob.size => Ok(blob),
            _ => Err(StoreError::MissingBlob { digest: blob.digest, secrecy: blob.secrecy }),
        }
    }

    /// Gives the durable file at `from` its name as a blob; whether it was needed, or the blob was there already.
    fn install_blob(&self, from: &Path, blob: &BlobRef) -> Result<bool, StoreError> {
        let to = self.layout.blob(blob.secrecy, &blob.digest);
        let dir = to.parent().expect("a blob lies in a folder");
        self.dirs.ensure(&*self.files, dir, blob.secrecy.dir_mode())?;
        let installed = loop {
            match self.files.rename_no_replace(from, &to) {
                Ok(()) => break true,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                    // The same bytes are there already, unless they rotted: then ours take their place.
                    match self.verify_blob(blob.secrecy, &blob.digest, Some(blob.size)) {
                        Ok(()) => break false,
                        Err(StoreError::Corrupt(m)) if m.quarantined.is_some() => {}
                        Err(StoreError::MissingBlob { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                Err(e) => return Err(write_error("name", &to, 0, e)),
            }
        };
        // Also when another process gave it its name: that one may have died before it forced the folder down.
        self.files.sync_dir(dir).map_err(io_error("force to the disk", dir))?;
        Ok(installed)
    }

    /// Writes a small file durably under a name that must be new, or already have these very bytes.
    pub(crate) fn publish(&self, path: &Path, bytes: &[u8], mode: u32, dir_mode: u32) -> Result<Digest, StoreError> {
        let (temporary, _dir) = self.temporary(Secrecy::Public)?;
        let dir = path.parent().expect("a published file lies in a folder");
        self.dirs.ensure(&*self.files, dir, dir_mode)?;
        let outcome = self.publish_through(&temporary, path, bytes, mode);
        if outcome.is_err() {
            let _ = self.files.remove_file(&temporary);
        }
        outcome?;
        self.files.sync_dir(dir).map_err(io_error("force to the disk", dir))?;
        Ok(Digest::of(bytes))
    }

    fn publish_through(&self, temporary: &Path, path: &Path, bytes: &[u8], mode: u32) -> Result<(), StoreError> {
        let error = |e| write_error("write", path, bytes.len() as u64, e);
        let mut file = self.files.create_new(temporary, mode).map_err(error)?;
        file.write_all(bytes).map_err(error)?;
        file.sync().map_err(error)?;
        match self.files.rename_no_replace(temporary, path) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let same = fs::read(path).is_ok_and(|found| found == bytes);
                let _ = self.files.remove_file(temporary);
                if same { Ok(()) } else { Err(write_error("name", path, 0, e)) }
            }
            other => other.map_err(|e| write_error("name", path, 0, e)),
        }
    }
}
