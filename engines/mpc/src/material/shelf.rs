//! Material made ahead of time: one sealed file for each inference and party.
//!
//! ```text
//! folder   batch.json                         what the batch is for; public
//!          party-b/key                        32 bytes, for party b alone
//!          party-b/<index>.material           one inference's material
//!          party-b/weights.seed               the seed of the masks of private weights, laid out the same with index 2^64 - 1; kept
//! file     head  chunk*
//! head     "SFMATER1"  party u8  0 0 0  program u32  index u64  batch[32]  model[32]  programs[32]      (120 bytes, little-endian)
//! chunk    length u32  AES-256-GCM(key of the party, nonce = index u64 ‖ number u32, additional data = head)
//! ```
//!
//! **Invariant.** A key is drawn for one batch, so no nonce repeats under it. A file is deleted once its index is burnt in the ledger, before the
//! first byte that depends on it is sent; a file that outlives that by a crash lies below the ledger's watermark and is deleted at the
//! next start. How much there is to read is decided by the program: a file that is cut short or too long is refused, as is one of another
//! batch, model, set of programs, party or index, or with a changed byte.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sprint_mpc_core::PartyId;
use zeroize::Zeroizing;

use crate::error::RoleError;
use crate::gates::write_private;
use crate::hello::Binding;
use crate::workload::OPENING_SEED;
use crate::{BatchId, Digest};

const MAGIC: &[u8; 8] = b"SFMATER1";
const HEAD: usize = 8 + 4 + 4 + 8 + 3 * 32;
const KEY: usize = 32;
const TAG: usize = 16;
/// No chunk is longer.
const MAX_CHUNK: usize = 64 << 20;
/// The index of the seed that all inferences of a batch have in common.
pub(crate) const SEED_INDEX: u64 = u64::MAX;

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) party: PartyId,
    pub(crate) program: u32,
    pub(crate) index: u64,
    pub(crate) batch: BatchId,
    /// The model, private part aside.
    pub(crate) model: Digest,
    pub(crate) programs: Digest,
}

impl Label {
    fn encode(&self) -> [u8; HEAD] {
        let mut head = [0; HEAD];
        head[..8].copy_from_slice(MAGIC);
        head[8] = self.party.index() as u8;
        head[12..16].copy_from_slice(&self.program.to_le_bytes());
        head[16..24].copy_from_slice(&self.index.to_le_bytes());
        let names = [self.batch.as_bytes(), self.model.as_bytes(), self.programs.as_bytes()];
        for (slot, name) in head[24..].chunks_exact_mut(32).zip(names) {
            slot.copy_from_slice(name);
        }
        head
    }

    /// What differs first between this label and a head as read.
    fn differs(&self, found: &[u8; HEAD]) -> Option<&'static str> {
        let due = self.encode();
        let fields = [
            ("it is no material", 0..8),
            ("it is for the other party", 8..12),
            ("it is for another program", 12..16),
            ("it is for another index", 16..24),
            ("it is of another batch", 24..56),
            ("it is for another model", 56..88),
            ("it is for other programs", 88..HEAD),
        ];
        fields.into_iter().find(|(_, at)| due[at.clone()] != found[at.clone()]).map(|(what, _)| what)
    }
}

/// A party's key of a batch.
pub(crate) struct Seal(LessSafeKey);

impl Seal {
    /// Draws a key and writes it into `folder`, for its owner's eyes only.
    pub(crate) fn create(folder: &Path) -> Result<Self, RoleError> {
        let mut key = Zeroizing::new([0; KEY]);
        getrandom::fill(&mut *key).map_err(|e| RoleError::System(e.to_string()))?;
        let path = folder.join("key");
        write_private(&path, &*key).map_err(|source| RoleError::File { path, source })?;
        Self::of(&key)
    }

    fn open(folder: &Path) -> Result<Self, RoleError> {
        let path = folder.join("key");
        let key = Zeroizing::new(fs::read(&path).map_err(|source| RoleError::File { path: path.clone(), source })?);
        let whole = <&[u8; KEY]>::try_from(&key[..]);
        Self::of(whole.map_err(|_| RoleError::Config(format!("{}: a key has {KEY} bytes", path.display())))?)
    }

    fn of(key: &[u8; KEY]) -> Result<Self, RoleError> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| RoleError::System("the cipher takes no key".into()))?;
        Ok(Self(LessSafeKey::new(key)))
    }
}

fn nonce(index: u64, number: u32) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&index.to_le_bytes());
    bytes[8..].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

/// One inference's file while it is made.
pub(crate) struct Sheet<'a> {
    seal: &'a Seal,
    label: Label,
    head: [u8; HEAD],
    path: PathBuf,
    file: File,
    number: u32,
}

impl<'a> Sheet<'a> {
    pub(crate) fn create(folder: &Path, seal: &'a Seal, label: Label) -> Result<Self, RoleError> {
        use std::os::unix::fs::OpenOptionsExt as _;
        let path = path_of(folder, label.index);
        let head = label.encode();
        let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let made = made.and_then(|mut file| file.write_all(&head).map(|()| file));
        match made {
            Ok(file) => Ok(Self { seal, label, head, path, file, number: 0 }),
            Err(source) => Err(RoleError::File { path, source }),
        }
    }

    pub(crate) fn write(&mut self, mut chunk: Vec<u8>) -> Result<(), RoleError> {
        if chunk.len() > MAX_CHUNK {
            let what = format!("a chunk of {} bytes", chunk.len());
            return Err(RoleError::Material { inference: self.label.index, what });
        }
        let (at, len) = (nonce(self.label.index, self.number), chunk.len() as u32);
        let sealed = self.seal.0.seal_in_place_append_tag(at, Aad::from(&self.head), &mut chunk);
        sealed.map_err(|_| RoleError::System("the cipher takes no more".into()))?;
        self.number += 1;
        let written = self.file.write_all(&len.to_le_bytes()).and_then(|()| self.file.write_all(&chunk));
        written.map_err(|source| RoleError::File { path: self.path.clone(), source })
    }

    /// Returns once the file is durable.
    pub(crate) fn finish(self) -> Result<(), RoleError> {
        self.file.sync_all().map_err(|source| RoleError::File { path: self.path, source })
    }
}

fn path_of(folder: &Path, index: u64) -> PathBuf {
    if index == SEED_INDEX {
        return folder.join("weights.seed");
    }
    folder.join(format!("{index:08}.material"))
}

/// A party's part of a batch.
pub(crate) struct Shelf {
    folder: PathBuf,
    seal: Seal,
    party: PartyId,
    batch: BatchId,
    model: Digest,
    programs: Digest,
    /// Files opened when their index was ordered: the reader comes later, perhaps after the burn has deleted the name.
    held: Mutex<BTreeMap<u64, File>>,
}

impl Shelf {
    /// `model` is what the material is bound to, the private part of the model aside.
    pub(crate) fn open(folder: &Path, party: PartyId, binding: &Binding, model: Digest) -> Result<Self, RoleError> {
        let seal = Seal::open(folder)?;
        Ok(Self {
            folder: folder.to_owned(),
            seal,
            party,
            batch: binding.batch,
            model,
            programs: binding.program,
            held: Mutex::default(),
        })
    }

    /// Opens the file of an index that has just been ordered. One that cannot be opened is reported when it is read.
    pub(crate) fn hold(&self, index: u64) {
        if let Ok(file) = File::open(path_of(&self.folder, index)) {
            self.held().insert(index, file);
        }
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<u64, File>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The material of one inference, `due` bytes of it, for reading.
    pub(crate) fn read(&self, index: u64, program: u32, due: u64) -> Result<Pages<'_>, RoleError> {
        let held = self.held().remove(&index);
        self.pages(held, index, program, due)
    }

    fn pages(&self, held: Option<File>, index: u64, program: u32, due: u64) -> Result<Pages<'_>, RoleError> {
        let path = path_of(&self.folder, index);
        let refuse = |what: String| RoleError::Material { inference: index, what: format!("{}: {what}", path.display()) };
        let mut file = held.map_or_else(|| File::open(&path), Ok).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => refuse("the batch has none, or it has been used".into()),
            _ => RoleError::File { path: path.clone(), source: e },
        })?;
        let mut head = [0; HEAD];
        file.read_exact(&mut head).map_err(|_| refuse("it is cut short".into()))?;
        let Self { party, batch, model, programs, .. } = *self;
        if let Some(what) = (Label { party, program, index, batch, model, programs }).differs(&head) {
            return Err(refuse(what.into()));
        }
        Ok(Pages { seal: &self.seal, head, path, file, index, number: 0, left: due })
    }

    /// The seed of the masks of private weights.
    pub(crate) fn seed(&self) -> Result<Zeroizing<[u8; OPENING_SEED]>, RoleError> {
        let mut pages = self.pages(None, SEED_INDEX, 0, OPENING_SEED as u64)?;
        let seed = Zeroizing::new(pages.next()?.unwrap_or_default());
        let seed = <[u8; OPENING_SEED]>::try_from(&seed[..]).map_err(|_| pages.refuse("a seed has another length"))?;
        pages.next()?;
        Ok(Zeroizing::new(seed))
    }

    /// Whether the material of one inference is there and what is asked for.
    pub(crate) fn check(&self, index: u64, program: u32) -> Result<(), RoleError> {
        self.pages(None, index, program, 0).map(drop)
    }

    /// Deletes the file of a burnt index; readers that have it open read on.
    pub(crate) fn delete(&self, index: u64) -> Result<(), RoleError> {
        remove(&path_of(&self.folder, index))
    }

    /// Deletes the files of all indexes below `watermark`: they were burnt before a crash.
    pub(crate) fn sweep(&self, watermark: u64) -> Result<(), RoleError> {
        let failed = |source| RoleError::File { path: self.folder.clone(), source };
        for entry in fs::read_dir(&self.folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let name = path.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_suffix(".material"));
            if name.and_then(|n| n.parse::<u64>().ok()).is_some_and(|index| index < watermark) {
                remove(&path)?;
            }
        }
        Ok(())
    }
}

fn remove(path: &Path) -> Result<(), RoleError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(RoleError::File { path: path.to_owned(), source }),
        _ => Ok(()),
    }
}

/// A file while it is read.
pub(crate) struct Pages<'a> {
    seal: &'a Seal,
    head: [u8; HEAD],
    path: PathBuf,
    file: File,
    index: u64,
    number: u32,
    left: u64,
}

impl Pages<'_> {
    /// The next chunk; `None` at the end, which must be where the program has it.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, RoleError> {
        let mut len = [0; 4];
        if self.left == 0 {
            return match self.file.read(&mut len) {
                Ok(0) => Ok(None),
                _ => Err(self.refuse("it has more than the program takes")),
            };
        }
        self.file.read_exact(&mut len).map_err(|_| self.refuse("it is cut short"))?;
        let len = u32::from_le_bytes(len) as usize;
        if len == 0 || len > MAX_CHUNK || len as u64 > self.left {
            return Err(self.refuse("a chunk has a length that the program does not"));
        }
        let mut chunk = vec![0; len + TAG];
        self.file.read_exact(&mut chunk).map_err(|_| self.refuse("it is cut short"))?;
        let opened = self.seal.0.open_in_place(nonce(self.index, self.number), Aad::from(&self.head), &mut chunk);
        opened.map_err(|_| self.refuse("it was changed, or sealed with another key"))?;
        chunk.truncate(len);
        self.number += 1;
        self.left -= len as u64;
        Ok(Some(chunk))
    }

    fn refuse(&self, what: &str) -> RoleError {
        RoleError::Material { inference: self.index, what: format!("{}: {what}", self.path.display()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SessionId;

    const BINDING: Binding = Binding {
        session: SessionId::new([1; 32]),
        model: Digest::new([2; 32]),
        program: Digest::new([3; 32]),
        batch: BatchId::new([4; 32]),
    };
    const MODEL: Digest = Digest::new([5; 32]);

    fn label(index: u64) -> Label {
        Label { party: PartyId::P1, program: 0, index, batch: BINDING.batch, model: MODEL, programs: BINDING.program }
    }

    /// A folder with the material 0..3, ten bytes in two chunks each.
    fn made() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let seal = Seal::create(dir.path()).unwrap();
        for index in 0..3 {
            let mut sheet = Sheet::create(dir.path(), &seal, label(index)).unwrap();
            sheet.write(vec![index as u8; 4]).unwrap();
            sheet.write(vec![7; 6]).unwrap();
            sheet.finish().unwrap();
        }
        dir
    }

    fn shelf(dir: &Path) -> Shelf {
        Shelf::open(dir, PartyId::P1, &BINDING, MODEL).unwrap()
    }

    fn all(shelf: &Shelf, index: u64, due: u64) -> Result<Vec<u8>, RoleError> {
        let mut pages = shelf.read(index, 0, due)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = pages.next()? {
            bytes.extend(chunk);
        }
        Ok(bytes)
    }

    #[test]
    fn material_comes_back_whole_and_is_gone_once_deleted() {
        let dir = made();
        let shelf = shelf(dir.path());
        assert_eq!(all(&shelf, 2, 10).unwrap(), [2, 2, 2, 2, 7, 7, 7, 7, 7, 7]);
        shelf.delete(2).unwrap();
        assert!(all(&shelf, 2, 10).unwrap_err().to_string().contains("none, or it has been used"));
        shelf.sweep(1).unwrap();
        assert!(all(&shelf, 0, 10).is_err() && all(&shelf, 1, 10).is_ok());
    }

    #[test]
    fn plaintext_is_not_on_disk() {
        let dir = made();
        let bytes = fs::read(path_of(dir.path(), 0)).unwrap();
        assert_eq!(bytes.len(), HEAD + 2 * (4 + TAG) + 10);
        assert!(!bytes.windows(6).any(|w| w == [7; 6]));
    }

    #[test]
    fn material_of_another_batch_model_program_party_or_index_is_refused_by_name() {
        let dir = made();
        let other = Digest::new([9; 32]);
        let open = |party, binding: &Binding, model| Shelf::open(dir.path(), party, binding, model).unwrap();
        let batch = Binding { batch: BatchId::new([9; 32]), ..BINDING };
        let programs = Binding { program: other, ..BINDING };
        fs::copy(path_of(dir.path(), 0), path_of(dir.path(), 9)).unwrap();
        for (shelf, index, why) in [
            (open(PartyId::P0, &BINDING, MODEL), 0, "for the other party"),
            (open(PartyId::P1, &batch, MODEL), 0, "of another batch"),
            (open(PartyId::P1, &BINDING, other), 0, "for another model"),
            (open(PartyId::P1, &programs, MODEL), 0, "for other programs"),
            (open(PartyId::P1, &BINDING, MODEL), 9, "for another index"),
        ] {
            let refused = all(&shelf, index, 10).unwrap_err().to_string();
            assert!(refused.contains(why), "{why}: {refused}");
        }
        let refused = shelf(dir.path()).read(0, 1, 10).err().unwrap().to_string();
        assert!(refused.contains("for another program"), "{refused}");
    }

    /// Whatever byte is changed and wherever the file ends, nothing but the true material ever comes out as the whole.
    #[test]
    fn any_changed_byte_and_any_other_length_is_refused() {
        let dir = made();
        let (shelf, path) = (shelf(dir.path()), path_of(dir.path(), 1));
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x20;
            fs::write(&path, &bad).unwrap();
            assert!(all(&shelf, 1, 10).is_err(), "byte {at}");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(all(&shelf, 1, 10).is_err(), "cut at {at}");
        }
        fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
        assert!(all(&shelf, 1, 10).unwrap_err().to_string().contains("more than the program takes"));
        fs::write(&path, &whole).unwrap();
        assert!(all(&shelf, 1, 9).is_err() && all(&shelf, 1, 11).is_err() && all(&shelf, 1, 10).is_ok());
    }

    #[test]
    fn another_batchs_key_opens_nothing() {
        let dir = made();
        Seal::create(dir.path()).unwrap();
        assert!(all(&shelf(dir.path()), 0, 10).unwrap_err().to_string().contains("another key"));
    }
}
