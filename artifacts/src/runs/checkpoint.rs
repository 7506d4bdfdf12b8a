//! Checkpoints: the state of an unfinished action, bound to its key, secret, and whole or not at all.
//!
//! ```text
//! private/secret/checkpoints/<64 hex of the action key>/<sequence, 10 digits>-<64 hex of the file's digest>
//! file = magic (25 bytes) | header length u32 LE | header (canonical CBOR: key, step, files) | the files' bytes
//! ```
//!
//! The file's own name holds its digest, so a torn one is recognised and the one before it used instead. Two are kept.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::cas::{Store, StoreError, io_error, open_plain, write_error};
use crate::digest::{Digest, Hasher};
use crate::encode::{DecodeError, FieldError, Fields, Value};
use crate::records::ActionKey;
use crate::secrecy::Secrecy;

const MAGIC: &[u8] = b"sprint-flow checkpoint 1\n";
const KEEP: usize = 2;
const LABEL: Secrecy = Secrecy::Secret;

/// What can go wrong with a checkpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The store cannot do what the checkpoint needs.
    #[error("the checkpoint cannot be stored or read")]
    Store(#[from] StoreError),
    /// Read back right after it was written, it had other bytes.
    #[error("the checkpoint was written as {expected} but reads back as {actual}")]
    Verify {
        /// The digest of what was written.
        expected: Digest,
        /// The digest of what was read.
        actual: Digest,
    },
    /// The bytes hash right but are not a checkpoint.
    #[error("the checkpoint's header is not canonically encoded")]
    Decode(#[from] DecodeError),
    /// The bytes hash right but are not a checkpoint of this action.
    #[error("the checkpoint's header has the wrong structure")]
    Structure(#[from] FieldError),
    /// It belongs to another action.
    #[error("the checkpoint belongs to action {found}, not {expected}")]
    Key {
        /// The action asked about.
        expected: ActionKey,
        /// The action that it belongs to.
        found: ActionKey,
    },
    /// Two of its files have one name.
    #[error("the checkpoint has two files named {name:?}")]
    Repeated {
        /// The name.
        name: String,
    },
}

/// The checkpoints of one action.
#[derive(Debug)]
pub struct CheckpointStore<'a> {
    store: &'a Store,
    key: ActionKey,
    dir: PathBuf,
    keep: usize,
}

/// The contents of a checkpoint in the making.
#[derive(Default)]
#[must_use = "a checkpoint exists once CheckpointStore::offer has returned"]
pub struct CheckpointBuilder {
    step: u64,
    files: Vec<(String, Zeroizing<Vec<u8>>)>,
}

impl CheckpointBuilder {
    /// Begins a checkpoint of the state after `step` steps.
    pub const fn new(step: u64) -> Self {
        Self { step, files: Vec::new() }
    }

    /// Adds a file with these bytes, which are wiped after use.
    pub fn bytes(mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) -> Self {
        self.files.push((name.into(), Zeroizing::new(bytes.into())));
        self
    }

    fn header(&self, key: &ActionKey) -> Result<Vec<u8>, CheckpointError> {
        let mut names = std::collections::BTreeSet::new();
        if let Some((name, _)) = self.files.iter().find(|(name, _)| !names.insert(name)) {
            return Err(CheckpointError::Repeated { name: name.clone() });
        }
        let entry = |(name, bytes): &(String, Zeroizing<Vec<u8>>)| {
            Value::map([("name", name.as_str().into()), ("size", (bytes.len() as u64).into())])
        };
        let value = Value::map([
            ("key", (*key.digest()).into()),
            ("step", self.step.into()),
            ("files", Value::Array(self.files.iter().map(entry).collect())),
        ]);
        Ok(value.to_bytes())
    }
}

/// A checkpoint, verified.
pub struct Checkpoint {
    step: u64,
    body: Zeroizing<Vec<u8>>,
    files: Vec<(String, Range<usize>)>,
    passed_over: Vec<PathBuf>,
}

impl Checkpoint {
    /// How many steps its state has taken.
    pub const fn step(&self) -> u64 {
        self.step
    }

    /// The bytes of a file.
    pub fn file(&self, name: &str) -> Option<&[u8]> {
        self.files.iter().find(|(n, _)| n == name).map(|(_, range)| &self.body[range.clone()])
    }

    /// The names of its files.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.files.iter().map(|(name, _)| name.as_str())
    }

    /// Newer checkpoints that turned out damaged.
    pub fn passed_over(&self) -> &[PathBuf] {
        &self.passed_over
    }
}

impl fmt::Debug for Checkpoint {
    // Its contents are secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint").field("step", &self.step).field("files", &self.files).finish_non_exhaustive()
    }
}

impl fmt::Debug for CheckpointBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointBuilder").field("step", &self.step).finish_non_exhaustive()
    }
}

impl<'a> CheckpointStore<'a> {
    /// The checkpoints of the action with this key.
    pub fn for_key(store: &'a Store, key: ActionKey) -> Self {
        Self { store, key, dir: store.layout.checkpoints_of(key.digest()), keep: KEEP }
    }

    /// The same, but `keep` checkpoints stay instead of two; at least one does.
    #[must_use]
    pub fn keeping(self, keep: usize) -> Self {
        Self { keep: keep.max(1), ..self }
    }

    /// Stores a checkpoint: written, forced to the disk, read back, and only then visible. Older ones than the newest
    /// two, or as many as [`Self::keeping`] says, are removed.
    pub fn offer(&self, builder: &CheckpointBuilder) -> Result<(), CheckpointError> {
        let header = builder.header(&self.key)?;
        let (temporary, _guard) = self.store.temporary(LABEL)?;
        self.store.dirs.ensure(&*self.store.files, &self.dir, LABEL.dir_mode())?;
        let outcome = self.write(&temporary, &header, builder);
        if outcome.is_err() {
            let _ = self.store.files.remove_file(&temporary);
        }
        outcome?;
        self.store.files.sync_dir(&self.dir).map_err(io_error("force to the disk", &self.dir))?;
        self.prune(self.keep);
        Ok(())
    }

    fn write(&self, temporary: &Path, header: &[u8], builder: &CheckpointBuilder) -> Result<(), CheckpointError> {
        let body: u64 = builder.files.iter().map(|(_, bytes)| bytes.len() as u64).sum();
        let needed = body + header.len() as u64;
        let failed = |e| write_error("write", temporary, needed, e);
        let mut file = self.store.files.create_new(temporary, LABEL.file_mode()).map_err(failed)?;
        let mut hasher = Hasher::new();
        let mut write = |bytes: &[u8]| -> Result<(), StoreError> {
            file.write_all(bytes).map_err(failed)?;
            hasher.update(bytes);
            Ok(())
        };
        write(&[MAGIC, &(header.len() as u32).to_le_bytes(), header].concat())?;
        for (_, bytes) in &builder.files {
            write(bytes)?;
        }
        file.sync().map_err(failed)?;
        drop(file);
        let expected = hasher.finish();
        let read_back = open_plain(temporary).and_then(|mut file| crate::cas::hash(&mut file));
        let actual = read_back.map_err(io_error("read back", temporary))?.finish();
        if actual != expected {
            return Err(CheckpointError::Verify { expected, actual });
        }
        let sequence = self.list()?.first().map_or(1, |(sequence, ..)| sequence + 1);
        let to = self.dir.join(format!("{sequence:010}-{}", expected.to_hex()));
        self.store.files.rename_no_replace(temporary, &to).map_err(|e| write_error("name", &to, 0, e))?;
        Ok(())
    }

    /// The newest whole checkpoint; damaged ones are quarantined and passed over.
    pub fn latest(&self) -> Result<Option<Checkpoint>, CheckpointError> {
        let mut passed_over = Vec::new();
        for (_, digest, path) in self.list()? {
            let bytes = Zeroizing::new(fs::read(&path).map_err(io_error("read", &path))?);
            if Digest::of(&bytes) != digest {
                let quarantined = self.store.set_aside(&path);
                tracing::error!(path = %path.display(), ?quarantined, "a checkpoint is damaged; the one before is used");
                passed_over.push(path);
                continue;
            }
            let mut checkpoint = parse(bytes, &self.key)?;
            checkpoint.passed_over = passed_over;
            return Ok(Some(checkpoint));
        }
        Ok(None)
    }

    /// Sequence, digest and path of the newest, unverified.
    pub(crate) fn newest(&self) -> Result<Option<(u64, Digest, PathBuf)>, CheckpointError> {
        Ok(self.list()?.into_iter().next())
    }

    /// Takes a checkpoint that was offered on another machine, under the same sequence number; verified here.
    pub(crate) fn import(&self, sequence: u64, expected: &Digest, bytes: Zeroizing<Vec<u8>>) -> Result<u64, CheckpointError> {
        let actual = Digest::of(&bytes);
        if actual != *expected {
            return Err(CheckpointError::Verify { expected: *expected, actual });
        }
        let to = self.dir.join(format!("{sequence:010}-{}", expected.to_hex()));
        self.store.dirs.ensure(&*self.store.files, &self.dir, LABEL.dir_mode())?;
        self.store.publish(&to, &bytes, LABEL.file_mode(), LABEL.dir_mode())?;
        Ok(parse(bytes, &self.key)?.step)
    }

    /// Removes all: the action has its result.
    pub fn discard(&self) -> Result<(), CheckpointError> {
        self.store.require_write()?;
        self.prune(0);
        Ok(())
    }

    /// Removes all but the newest `keep`. Old ones are only in the way, so failures are left to the next time.
    fn prune(&self, keep: usize) {
        for (_, _, path) in self.list().unwrap_or_default().into_iter().skip(keep) {
            let _ = self.store.files.remove_file(&path);
        }
    }

    /// Sequence, digest and path of each, newest first.
    fn list(&self) -> Result<Vec<(u64, Digest, PathBuf)>, StoreError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(io_error("list", &self.dir))?,
        };
        let mut found: Vec<_> = entries
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let (sequence, hex) = name.split_once('-')?;
                Some((sequence.parse().ok()?, Digest::from_hex(hex).ok()?, entry.path()))
            })
            .collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        Ok(found)
    }
}

fn parse(bytes: Zeroizing<Vec<u8>>, key: &ActionKey) -> Result<Checkpoint, CheckpointError> {
    let malformed = || FieldError::Type { name: "files", expected: "the files that follow the header" };
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(malformed)?;
    let (length, rest) = rest.split_at_checked(4).ok_or_else(malformed)?;
    let length = u32::from_le_bytes(length.try_into().expect("4 bytes")) as usize;
    let header = rest.get(..length).ok_or_else(malformed)?;
    let mut fields = Fields::of(Value::from_bytes(header)?)?;
    let found = ActionKey::new(fields.digest("key")?);
    if found != *key {
        return Err(CheckpointError::Key { expected: *key, found });
    }
    let step = fields.int("step")?;
    let mut at = MAGIC.len() + 4 + length;
    let mut files = Vec::new();
    for entry in fields.array("files")? {
        let mut entry = Fields::of(entry)?;
        let (name, size) = (entry.text("name")?, entry.int::<usize>("size")?);
        entry.finish()?;
        let end = at.checked_add(size).filter(|end| *end <= bytes.len()).ok_or_else(malformed)?;
        files.push((name, at..end));
        at = end;
    }
    fields.finish()?;
    if at != bytes.len() {
        return Err(malformed().into());
    }
    Ok(Checkpoint { step, body: bytes, files, passed_over: Vec::new() })
}
