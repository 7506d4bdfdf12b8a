//! Pushing a committed result: its artifacts first, then the record that names them.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::{Body, Creation, Remote, RemoteError, Sealer, names};
use crate::cas::{Store, StoreError, io_error, open_plain};
use crate::digest::Digest;
use crate::manifest::{ArtifactId, Manifest, PublicArtifact, SecretArtifact};
use crate::records::{ResultId, ResultRecord};
use crate::secrecy::Secrecy;

/// What came of pushing a result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// Objects that were created.
    pub objects: u64,
    /// Their bytes, before sealing.
    pub bytes: u64,
    /// What became of the record.
    pub verdict: Verdict,
}

/// What became of a pushed record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is the first of its action.
    First,
    /// The action has a first record with the same outputs.
    Already,
    /// The action has a first record with other outputs: the stage is not deterministic, or one of the machines is wrong.
    Differs {
        /// The first one.
        first: ResultId,
    },
    /// It stayed, because this output may not leave the machine.
    Stays {
        /// The output.
        output: String,
        /// Its label.
        secrecy: Secrecy,
    },
}

impl Remote {
    /// Pushes a result and what it made. Idempotent; after a crash it is simply called again.
    pub fn push(&self, store: &Store, record: &ResultRecord) -> Result<Pushed, RemoteError> {
        let key = record.key();
        let mut pushed = Pushed { objects: 0, bytes: 0, verdict: Verdict::First };
        let logs = record.log.iter().map(|id| ("log", id));
        let outputs = record.outputs.iter().map(|(name, id)| (name.as_str(), id)).chain(logs);
        let named: Vec<(String, Manifest)> =
            outputs.map(|(name, id)| Ok((name.to_owned(), store.read_artifact(id)?))).collect::<Result<_, StoreError>>()?;
        if let Some((output, manifest)) = named.iter().find(|(_, manifest)| !self.may_take(manifest.secrecy())) {
            pushed.verdict = Verdict::Stays { output: output.clone(), secrecy: manifest.secrecy() };
            return Ok(pushed);
        }
        if let Some(verdict) = self.compare(record)? {
            pushed.verdict = verdict;
            if pushed.verdict == Verdict::Already {
                return Ok(pushed);
            }
        }
        for (_, manifest) in named {
            self.push_artifact(store, manifest, &mut pushed)?;
        }
        let bytes = record.to_bytes()?;
        let name = match pushed.verdict {
            Verdict::Differs { .. } => names::alternative(&key, &ResultId::new(Digest::of(&bytes))),
            _ => names::first(&key),
        };
        if self.objects.create(&name, Body::Bytes(&bytes))? == Creation::New {
            pushed.objects += 1;
            pushed.bytes += bytes.len() as u64;
        } else if matches!(pushed.verdict, Verdict::First) {
            // Somebody was first since the comparison above; or this very call was, and its answer got lost.
            pushed.verdict = self.compare(record)?.unwrap_or(Verdict::Already);
        }
        Ok(pushed)
    }

    fn may_take(&self, secrecy: Secrecy) -> bool {
        match secrecy {
            Secrecy::Public => true,
            Secrecy::Secret => self.seals(),
            Secrecy::Party(_) => false,
        }
    }

    /// How the remote's first record of this action relates to ours, if there is a usable one.
    fn compare(&self, record: &ResultRecord) -> Result<Option<Verdict>, RemoteError> {
        let Some((first, theirs)) = self.first_record(&record.key())? else { return Ok(None) };
        Ok(Some(if theirs.outputs == record.outputs { Verdict::Already } else { Verdict::Differs { first } }))
    }

    /// The first record of an action; one that is damaged is as good as none, and is reported.
    pub(super) fn first_record(&self, key: &crate::records::ActionKey) -> Result<Option<(ResultId, ResultRecord)>, RemoteError> {
        let name = names::first(key);
        let mut bytes = Vec::new();
        if !self.objects.read(&name, &mut bytes)? {
            return Ok(None);
        }
        match ResultRecord::from_bytes(&bytes) {
            Ok(record) if record.key() == *key => Ok(Some((ResultId::new(Digest::of(&bytes)), record))),
            Ok(_) => {
                tracing::error!(name, "a result record of the remote belongs to another action");
                Ok(None)
            }
            Err(error) => {
                tracing::error!(name, %error, "a result record of the remote is damaged");
                Ok(None)
            }
        }
    }

    fn push_artifact(&self, store: &Store, manifest: Manifest, pushed: &mut Pushed) -> Result<(), RemoteError> {
        match (manifest.secrecy(), &self.sealer) {
            (Secrecy::Secret, Some(sealer)) => self.push_sealed(store, &SecretArtifact::try_from(manifest)?, &**sealer, pushed),
            _ => self.push_public(store, &PublicArtifact::try_from(manifest)?, pushed),
        }
    }

    fn push_public(&self, store: &Store, artifact: &PublicArtifact, pushed: &mut Pushed) -> Result<(), RemoteError> {
        for file in artifact.manifest().files() {
            let path = store.verified_file(artifact.manifest(), file.name())?;
            let name = names::blob(file.digest());
            let note = upload_note(store, file.digest())?;
            let body = Body::File { path: &path, size: file.size(), note: Some(&note) };
            let created = self.objects.create(&name, body)?;
            settle(created, name, file.size(), pushed)?;
        }
        let bytes = artifact.manifest().to_bytes();
        let name = names::blob(artifact.id().digest());
        let created = self.objects.create(&name, Body::Bytes(&bytes))?;
        settle(created, name, bytes.len() as u64, pushed)
    }

    /// Sealing is randomised, so an object that is there cannot be compared: whoever pulls it checks it.
    fn push_sealed(
        &self,
        store: &Store,
        artifact: &SecretArtifact,
        sealer: &dyn Sealer,
        pushed: &mut Pushed,
    ) -> Result<(), RemoteError> {
        for file in artifact.manifest().files() {
            let path = store.verified_file(artifact.manifest(), file.name())?;
            let mut plain = open_plain(&path).map_err(io_error("open", &path))?;
            self.create_sealed(store, sealer, &names::sealed(file.digest()), &mut plain, file.size(), pushed)?;
        }
        let bytes = artifact.manifest().to_bytes();
        let name = names::sealed(artifact.id().digest());
        self.create_sealed(store, sealer, &name, &mut &bytes[..], bytes.len() as u64, pushed)
    }

    fn create_sealed(
        &self,
        store: &Store,
        sealer: &dyn Sealer,
        name: &str,
        plain: &mut dyn io::Read,
        size: u64,
        pushed: &mut Pushed,
    ) -> Result<(), RemoteError> {
        if self.objects.exists(name)? {
            return Ok(());
        }
        let sealed = Sealed::make(store, sealer, name, plain)?;
        if self.objects.create(name, sealed.body())? == Creation::New {
            pushed.objects += 1;
            pushed.bytes += size;
        }
        Ok(())
    }

    /// Whether the remote holds this artifact's manifest, as it is or sealed.
    pub fn holds(&self, id: &ArtifactId) -> Result<bool, RemoteError> {
        Ok(self.objects.exists(&names::blob(id.digest()))? || self.objects.exists(&names::sealed(id.digest()))?)
    }
}

fn settle(created: Creation, name: String, size: u64, pushed: &mut Pushed) -> Result<(), RemoteError> {
    match created {
        Creation::New => {
            pushed.objects += 1;
            pushed.bytes += size;
            Ok(())
        }
        Creation::Same => Ok(()),
        Creation::Other => Err(RemoteError::Foreign { name }),
    }
}

/// Where the upload of a blob is noted.
fn upload_note(store: &Store, digest: &Digest) -> Result<PathBuf, StoreError> {
    let dir = store.root().join("uploads");
    store.dirs.ensure(&*store.files, &dir, 0o700)?;
    Ok(dir.join(digest.to_hex()))
}

/// A sealed copy of something secret, in a temporary file that is removed when it is dropped.
pub(super) struct Sealed<'a> {
    store: &'a Store,
    path: PathBuf,
    size: u64,
    _guard: Box<dyn std::any::Any>,
}

impl<'a> Sealed<'a> {
    pub(super) fn make(store: &'a Store, sealer: &dyn Sealer, name: &str, plain: &mut dyn io::Read) -> Result<Self, RemoteError> {
        let (path, guard) = store.temporary(Secrecy::Secret)?;
        let mut sealed = Self { store, path, size: 0, _guard: Box::new(guard) };
        let path = sealed.path.clone();
        let write = |path: &Path| -> Result<File, StoreError> {
            let mut options = File::options();
            options.write(true).create_new(true);
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            options.open(path).map_err(io_error("create", path))
        };
        let mut out = io::BufWriter::new(write(&path)?);
        sealer.seal(plain, &mut out).map_err(|source| RemoteError::Seal { name: name.to_owned(), source })?;
        out.flush().map_err(io_error("write", &path))?;
        sealed.size = out.get_ref().metadata().map_err(io_error("inspect", &path))?.len();
        Ok(sealed)
    }

    pub(super) fn body(&self) -> Body<'_> {
        Body::File { path: &self.path, size: self.size, note: None }
    }
}

impl Drop for Sealed<'_> {
    fn drop(&mut self) {
        // Rubbish; if it cannot be removed now, the next sweep does.
        let _ = self.store.files.remove_file(&self.path);
    }
}
