//! Reading: bytes leave the store only after they hash to their name.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::error::io_error;
use super::store::Stamp;
use super::{Access, Mismatch, Store, StoreError};
use crate::digest::{Digest, Hasher};
use crate::manifest::{ArtifactId, FileEntry, Manifest};
use crate::secrecy::Secrecy;

/// Bytes hashed at a time.
const CHUNK: usize = 256 * 1024;
/// The largest manifest that is read.
const MAX_MANIFEST: u64 = crate::encode::MAX_BYTES as u64;

impl Store {
    /// The manifest of an artifact, verified.
    pub fn read_artifact(&self, id: &ArtifactId) -> Result<Manifest, StoreError> {
        let digest = id.digest();
        for secrecy in self.layout.labels() {
            let bytes = match self.read_blob(secrecy, digest, None) {
                Ok(bytes) => bytes,
                Err(StoreError::MissingBlob { .. }) => continue,
                Err(error) => return Err(error),
            };
            let manifest = Manifest::from_bytes(&bytes).map_err(|source| StoreError::Manifest { id: *id, source })?;
            if manifest.secrecy() != secrecy {
                let name = format!("the folder of artifact {id}");
                return Err(StoreError::Label { name, expected: manifest.secrecy(), found: secrecy });
            }
            return Ok(manifest);
        }
        Err(StoreError::MissingArtifact { id: *id })
    }

    /// The bytes of an artifact's file, verified.
    pub fn read_file(&self, manifest: &Manifest, name: &str) -> Result<Vec<u8>, StoreError> {
        let entry = entry(manifest, name)?;
        self.read_blob(manifest.secrecy(), entry.digest(), Some(entry.size()))
    }

    /// The path of an artifact's file, verified now or earlier in this process. Read it, do not write it.
    ///
    /// A verified file is not hashed again while its device, inode, length and times stay the same.
    pub fn verified_path(&self, id: &ArtifactId, name: &str) -> Result<PathBuf, StoreError> {
        let manifest = self.read_artifact(id)?;
        self.verified_file(&manifest, name)
    }

    /// As [`verified_path`](Store::verified_path), for a manifest that has been read.
    pub fn verified_file(&self, manifest: &Manifest, name: &str) -> Result<PathBuf, StoreError> {
        let entry = entry(manifest, name)?;
        self.verify_blob(manifest.secrecy(), entry.digest(), Some(entry.size()))?;
        Ok(self.layout.blob(manifest.secrecy(), entry.digest()))
    }

    /// The bytes of a blob, verified.
    pub(crate) fn read_blob(&self, secrecy: Secrecy, digest: &Digest, size: Option<u64>) -> Result<Vec<u8>, StoreError> {
        let path = self.layout.blob(secrecy, digest);
        let (mut file, meta) = self.open_blob(secrecy, digest)?;
        if size.unwrap_or(meta.len()) != meta.len() || (size.is_none() && meta.len() > MAX_MANIFEST) {
            return Err(self.mismatch(secrecy, *digest, size, &path));
        }
        let mut bytes = Vec::with_capacity(meta.len() as usize);
        file.read_to_end(&mut bytes).map_err(io_error("read", &path))?;
        let actual = Digest::of(&bytes);
        if actual != *digest {
            return Err(self.quarantine(secrecy, *digest, actual, size, bytes.len() as u64, &path));
        }
        self.verified().insert((secrecy, *digest), Stamp::of(&meta));
        Ok(bytes)
    }

    /// Hashes a blob unless this process has done so since it last changed.
    pub(crate) fn verify_blob(&self, secrecy: Secrecy, digest: &Digest, size: Option<u64>) -> Result<(), StoreError> {
        let path = self.layout.blob(secrecy, digest);
        let (mut file, meta) = self.open_blob(secrecy, digest)?;
        let stamp = Stamp::of(&meta);
        let length_is_right = size.is_none_or(|size| size == meta.len());
        if length_is_right && self.verified().get(&(secrecy, *digest)) == Some(&stamp) {
            return Ok(());
        }
        let hasher = hash(&mut file).map_err(io_error("read", &path))?;
        let actual = hasher.finish();
        if actual != *digest || size.is_some_and(|size| size != hasher.length()) {
            return Err(self.quarantine(secrecy, *digest, actual, size, hasher.length(), &path));
        }
        self.verified().insert((secrecy, *digest), stamp);
        Ok(())
    }

    /// Opens a blob; one that garbage collection has set aside comes back first.
    pub(super) fn open_blob(&self, secrecy: Secrecy, digest: &Digest) -> Result<(File, fs::Metadata), StoreError> {
        let path = self.layout.blob(secrecy, digest);
        let missing = || StoreError::MissingBlob { digest: *digest, secrecy };
        let file = match open_plain(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                if !self.bring_back(secrecy, digest)? {
                    return Err(missing());
                }
                open_plain(&path)
            }
            other => other,
        };
        let file = file.map_err(io_error("open", &path))?;
        let meta = file.metadata().map_err(io_error("inspect", &path))?;
        if !meta.is_file() {
            return Err(StoreError::NotAFile { path });
        }
        Ok((file, meta))
    }

    /// The error for a file whose length is wrong; its digest is computed so that the report is complete.
    fn mismatch(&self, secrecy: Secrecy, digest: Digest, size: Option<u64>, path: &Path) -> StoreError {
        match open_plain(path).and_then(|mut file| hash(&mut file)) {
            Ok(hasher) => self.quarantine(secrecy, digest, hasher.finish(), size, hasher.length(), path),
            Err(e) => io_error("read", path)(e),
        }
    }

    /// Moves a damaged blob out of the way and names the damage.
    pub(super) fn quarantine(
        &self,
        secrecy: Secrecy,
        expected: Digest,
        actual: Digest,
        expected_size: Option<u64>,
        actual_size: u64,
        path: &Path,
    ) -> StoreError {
        self.verified().remove(&(secrecy, expected));
        let quarantined = self.set_aside(path);
        tracing::error!(%expected, %actual, ?quarantined, "a blob is damaged");
        StoreError::Corrupt(Box::new(Mismatch { expected, actual, expected_size, actual_size, quarantined }))
    }

    /// Moves a damaged file to `quarantine/corrupt/`; `None` when it could not be moved.
    pub(crate) fn set_aside(&self, path: &Path) -> Option<PathBuf> {
        if self.access() == Access::Read {
            return None;
        }
        let dir = self.layout.corrupt();
        self.dirs.ensure(&*self.files, &dir, 0o700).ok()?;
        let relative = path.strip_prefix(self.root()).ok()?.to_str()?.replace('/', "~");
        (0..1000).find_map(|n| {
            let to = dir.join(format!("{relative}.{n}"));
            self.files.rename_no_replace(path, &to).ok().map(|()| to)
        })
    }
}

fn entry<'m>(manifest: &'m Manifest, name: &str) -> Result<&'m FileEntry, StoreError> {
    manifest.file(name).ok_or_else(|| StoreError::NoSuchFile { id: manifest.id(), name: name.to_owned() })
}

/// Opens for reading without following a symbolic link: a link is never what the store wrote.
pub(crate) fn open_plain(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits() as i32).open(path)
}

/// Hashes what is left of a reader.
pub(crate) fn hash(file: &mut impl Read) -> io::Result<Hasher> {
    let mut hasher = Hasher::new();
    let mut chunk = vec![0_u8; CHUNK];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok(hasher),
            Ok(count) => hasher.update(&chunk[..count]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
