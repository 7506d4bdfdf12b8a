//! Pulling a result: the first record of an action, and every artifact that it names, verified byte by byte.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use super::{Remote, RemoteError, names};
use crate::cas::{Check, Presence, Store, StoreError, io_error};
use crate::digest::{Digest, Hasher};
use crate::manifest::{ArtifactId, Manifest};
use crate::records::{ActionKey, ResultRecord};
use crate::secrecy::Secrecy;

/// How often an object that arrives damaged is fetched.
const FETCHES: u32 = 2;

/// Where something is under its digest.
enum Area {
    Open,
    Sealed,
}

impl Remote {
    /// Brings the result of an action into the store; `None` if the remote has none that is whole and can be opened here.
    pub fn pull(&self, store: &Store, key: &ActionKey) -> Result<Option<ResultRecord>, RemoteError> {
        let Some((_, record)) = self.first_record(key)? else { return Ok(None) };
        for id in record.outputs.values().chain(&record.log) {
            if !self.pull_artifact(store, id)? {
                tracing::info!(%key, artifact = %id, "the remote's record names an artifact that it does not have or that cannot be opened here");
                return Ok(None);
            }
        }
        store.commit_result(&record)?;
        Ok(Some(record))
    }

    /// What a pull would bring, without bringing it: the first record of an action, if everything that it names is there. What the files
    /// hold is looked at only when they are pulled.
    pub fn offers(&self, key: &ActionKey) -> Result<Option<ResultRecord>, RemoteError> {
        let Some((_, record)) = self.first_record(key)? else { return Ok(None) };
        for id in record.outputs.values().chain(&record.log) {
            let Some((manifest, secrecy)) = self.pull_manifest(id)? else { return Ok(None) };
            for file in manifest.files() {
                let name = if secrecy.is_public() { names::blob(file.digest()) } else { names::sealed(file.digest()) };
                if !self.objects.exists(&name)? {
                    return Ok(None);
                }
            }
        }
        Ok(Some(record))
    }

    /// Brings an artifact into the store; `false` if the remote does not have all of it.
    fn pull_artifact(&self, store: &Store, id: &ArtifactId) -> Result<bool, RemoteError> {
        if store.has_artifact(id, Check::Full)? == Presence::Present {
            return Ok(true);
        }
        let Some((manifest, secrecy)) = self.pull_manifest(id)? else { return Ok(false) };
        for file in manifest.files() {
            if !self.pull_blob(store, file.digest(), secrecy)? {
                return Ok(false);
            }
        }
        let bytes = manifest.to_bytes();
        let mut writer = store.blob_writer(secrecy)?.expect_size(bytes.len() as u64);
        writer.write_all(&bytes).map_err(io_error("write", store.root()))?;
        writer.finish()?;
        Ok(true)
    }

    fn pull_manifest(&self, id: &ArtifactId) -> Result<Option<(Manifest, Secrecy)>, RemoteError> {
        for (area, secrecy) in [(Area::Open, Secrecy::Public), (Area::Sealed, Secrecy::Secret)] {
            let mut bytes = zeroize::Zeroizing::new(Vec::new());
            if !self.fetch(id.digest(), &area, &mut *bytes, None)? {
                continue;
            }
            let actual = Digest::of(&bytes);
            let name = names::blob(id.digest());
            if actual != *id.digest() {
                return Err(RemoteError::Damaged { name, actual });
            }
            let manifest = Manifest::from_bytes(&bytes).map_err(|source| StoreError::Manifest { id: *id, source })?;
            if manifest.secrecy() != secrecy {
                return Err(StoreError::Label { name, expected: manifest.secrecy(), found: secrecy }.into());
            }
            return Ok(Some((manifest, secrecy)));
        }
        Ok(None)
    }

    pub(super) fn pull_blob(&self, store: &Store, digest: &Digest, secrecy: Secrecy) -> Result<bool, RemoteError> {
        let area = if secrecy.is_public() { Area::Open } else { Area::Sealed };
        let mut actual = *digest;
        for _ in 0..FETCHES {
            let (path, _guard) = store.temporary(secrecy)?;
            let outcome = self.pull_to(store, digest, &area, &path, secrecy);
            // What is left is rubbish; if it cannot be removed now, the next sweep does.
            let _ = store.files.remove_file(&path);
            match outcome? {
                None => return Ok(false),
                Some(found) if found == *digest => return Ok(true),
                Some(found) => actual = found,
            }
        }
        let name = if secrecy.is_public() { names::blob(digest) } else { names::sealed(digest) };
        Err(RemoteError::Damaged { name, actual })
    }

    /// Fetches to `path`, and stores what arrived if it hashes right; the digest of what arrived.
    fn pull_to(
        &self,
        store: &Store,
        digest: &Digest,
        area: &Area,
        path: &std::path::Path,
        secrecy: Secrecy,
    ) -> Result<Option<Digest>, RemoteError> {
        let mut options = File::options();
        options.write(true).create_new(true);
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let file = options.open(path).map_err(io_error("create", path))?;
        let mut sink = Hashing { out: BufWriter::new(file), hasher: Hasher::new() };
        if !self.fetch(digest, area, &mut sink, Some(store))? {
            return Ok(None);
        }
        sink.out.flush().map_err(io_error("write", path))?;
        let found = sink.hasher.finish();
        if found == *digest {
            // Hashed once more on the way in: the store trusts nobody's digest.
            store.put_file(secrecy, path)?;
        }
        Ok(Some(found))
    }

    /// Copies what lies under a digest; `false` if nothing does, or if it cannot be opened here.
    fn fetch(&self, digest: &Digest, area: &Area, into: &mut dyn Write, store: Option<&Store>) -> Result<bool, RemoteError> {
        match area {
            Area::Open => Ok(self.objects.read(&names::blob(digest), into)?),
            Area::Sealed => match &self.sealer {
                Some(sealer) if sealer.can_open() => {
                    let name = names::sealed(digest);
                    self.open_object(store, &**sealer, &name, into)
                }
                _ => Ok(false),
            },
        }
    }

    /// Opens a sealed object; through a temporary file where there is a store, for those too large for memory.
    pub(super) fn open_object(
        &self,
        store: Option<&Store>,
        sealer: &dyn super::Sealer,
        name: &str,
        into: &mut dyn Write,
    ) -> Result<bool, RemoteError> {
        let failed = |source| RemoteError::Seal { name: name.to_owned(), source };
        let Some(store) = store else {
            let mut sealed = Vec::new();
            if !self.objects.read(name, &mut sealed)? {
                return Ok(false);
            }
            sealer.open(&mut &sealed[..], into).map_err(failed)?;
            return Ok(true);
        };
        let (path, _guard) = store.temporary(Secrecy::Secret)?;
        let outcome = (|| {
            let mut file = File::create_new(&path).map_err(io_error("create", &path))?;
            if !self.objects.read(name, &mut file)? {
                return Ok(false);
            }
            let mut sealed = io::BufReader::new(File::open(&path).map_err(io_error("open", &path))?);
            sealer.open(&mut sealed, into).map_err(failed)?;
            Ok(true)
        })();
        let _ = store.files.remove_file(&path);
        outcome
    }
}

/// A writer that hashes.
struct Hashing<W> {
    out: W,
    hasher: Hasher,
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
