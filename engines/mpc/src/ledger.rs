//! The one-time-material ledger: which indexes of a dealer batch have been burnt, and which model each seed of weight masks belongs to.
//!
//! **Invariant.** Before a party sends a byte that depends on the material of index `i`, a record `[lo, hi)` with `lo ≤ i < hi` is on disk.
//! A record never begins below the largest `hi` so far, so no index is handed out twice: not after a crash (the record is there), and not
//! after a machine is restored from an old image (both parties start at the larger of their two watermarks).
//!
//! ```text
//! file    "SFLEDG01" (record | bond)*
//! record  batch[32] lo u64 hi u64 check[16]         check = first half of BLAKE3(batch ‖ lo ‖ hi), little-endian
//! bond    mask[32] model[16] check[16]              check = first half of BLAKE3 under a context of its own; model = half of its digest
//! ```
//!
//! Masks of private weights outlive an inference, but not a model: `mask`, a hash of their seed, is bound to one model before the first byte
//! that depends on it is sent, and refused to every other.
//!
//! A record cut short at the end of the file was never acknowledged and is removed; any other damage refuses the file.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::{BatchId, Digest};

const MAGIC: &[u8; 8] = b"SFLEDG01";
const RECORD: usize = 32 + 8 + 8 + 16;

/// Half of a model's digest.
pub(crate) type Half = [u8; 16];

/// The half of a digest that bonds keep.
pub(crate) fn half(model: Digest) -> Half {
    let (half, _) = model.as_bytes().split_first_chunk().expect("a digest has 32 bytes");
    *half
}

/// An open ledger; no other process can open the same file meanwhile.
#[derive(Debug)]
pub struct Ledger {
    file: File,
    path: PathBuf,
    watermarks: BTreeMap<BatchId, u64>,
    bonds: BTreeMap<[u8; 32], Half>,
    /// After a failed write nobody knows what is on disk.
    poisoned: bool,
}

/// Why a ledger cannot be opened or a range cannot be burnt.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The file system's answer.
    #[error("ledger {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// As reported.
        source: io::Error,
    },
    /// Another process holds it.
    #[error("ledger {} is in use by another process", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// Not a ledger, or damaged before its end.
    #[error("ledger {} is damaged at byte {offset}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: usize,
    },
    /// The range begins below the watermark.
    #[error("index {lo} of batch {batch:?} lies below the watermark {watermark}: its material was used before")]
    Reused {
        /// The supply.
        batch: BatchId,
        /// The range's start.
        lo: u64,
        /// The next index that is free.
        watermark: u64,
    },
    /// The masks of private weights were used with another model: opening this one under them would show the difference.
    #[error("ledger {}: the masks of private weights in this material were used with another model: make new material", path.display())]
    Bound {
        /// The file.
        path: PathBuf,
    },
    /// The range is empty.
    #[error("the range {lo}..{hi} is empty")]
    Empty {
        /// Start.
        lo: u64,
        /// End.
        hi: u64,
    },
    /// An earlier write failed.
    #[error("ledger {} failed to write before and must be opened again", path.display())]
    Poisoned {
        /// The file.
        path: PathBuf,
    },
}

impl Ledger {
    /// Opens or creates the file, takes its lock, drops an unfinished last record.
    pub fn open(path: &Path) -> Result<Self, LedgerError> {
        let failed = |source| LedgerError::Io { path: path.to_owned(), source };
        let mut file = options().open(path).map_err(failed)?;
        file.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => LedgerError::Locked { path: path.to_owned() },
            TryLockError::Error(source) => failed(source),
        })?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let (watermarks, bonds, good) = parse(&bytes).map_err(|offset| LedgerError::Damaged { path: path.to_owned(), offset })?;
        if good < bytes.len() {
            file.set_len(good as u64).map_err(failed)?;
        }
        file.seek(SeekFrom::Start(good as u64)).map_err(failed)?;
        if good == 0 {
            file.write_all(MAGIC).map_err(failed)?;
        }
        file.sync_all().map_err(failed)?;
        if let Some(parent) = path.parent() {
            let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
            File::open(parent).and_then(|dir| dir.sync_all()).map_err(failed)?;
        }
        Ok(Self { file, path: path.to_owned(), watermarks, bonds, poisoned: false })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The first index of `batch` that is still free.
    pub fn watermark(&self, batch: BatchId) -> u64 {
        self.watermarks.get(&batch).copied().unwrap_or(0)
    }

    /// Records that the material of `range` is spent; returns once that is durable.
    pub fn burn(&mut self, batch: BatchId, range: Range<u64>) -> Result<(), LedgerError> {
        if range.is_empty() {
            return Err(LedgerError::Empty { lo: range.start, hi: range.end });
        }
        let watermark = self.watermark(batch);
        if range.start < watermark {
            return Err(LedgerError::Reused { batch, lo: range.start, watermark });
        }
        self.append(&encode(batch, &range))?;
        self.watermarks.insert(batch, range.end);
        Ok(())
    }

    /// The model that masks are bound to.
    pub(crate) fn bond(&self, mask: &[u8; 32]) -> Option<Half> {
        self.bonds.get(mask).copied()
    }

    /// Binds masks to a model, once and for all; returns once that is durable.
    pub(crate) fn bind(&mut self, mask: [u8; 32], model: Half) -> Result<(), LedgerError> {
        match self.bond(&mask) {
            Some(bound) if bound == model => return Ok(()),
            Some(_) => return Err(LedgerError::Bound { path: self.path.clone() }),
            None => {}
        }
        self.append(&encode_bond(&mask, &model))?;
        self.bonds.insert(mask, model);
        Ok(())
    }

    fn append(&mut self, record: &[u8; RECORD]) -> Result<(), LedgerError> {
        if self.poisoned {
            return Err(LedgerError::Poisoned { path: self.path.clone() });
        }
        let written = self.file.write_all(record).and_then(|()| self.file.sync_data());
        written.map_err(|source| {
            self.poisoned = true;
            LedgerError::Io { path: self.path.clone(), source }
        })
    }
}

#[cfg(unix)]
fn options() -> OpenOptions {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    options
}

fn encode(batch: BatchId, range: &Range<u64>) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..32].copy_from_slice(batch.as_bytes());
    record[32..40].copy_from_slice(&range.start.to_le_bytes());
    record[40..48].copy_from_slice(&range.end.to_le_bytes());
    let check = blake3::hash(&record[..48]);
    record[48..].copy_from_slice(&check.as_bytes()[..16]);
    record
}

fn decode(record: &[u8]) -> Option<(BatchId, Range<u64>)> {
    let (body, check) = record.split_at_checked(48)?;
    if blake3::hash(body).as_bytes()[..16] != *check {
        return None;
    }
    let word = |at: usize| Some(u64::from_le_bytes(body.get(at..at + 8)?.try_into().ok()?));
    Some((BatchId::new(body.get(..32)?.try_into().ok()?), word(32)?..word(40)?))
}

fn encode_bond(mask: &[u8; 32], model: &Half) -> [u8; RECORD] {
    let mut record = [0; RECORD];
    record[..32].copy_from_slice(mask);
    record[32..48].copy_from_slice(model);
    let check = blake3::derive_key("sprint-flow ledger bond v1", &record[..48]);
    record[48..].copy_from_slice(&check[..16]);
    record
}

fn decode_bond(record: &[u8]) -> Option<([u8; 32], Half)> {
    let (mask, model) = (record.get(..32)?.try_into().ok()?, record.get(32..48)?.try_into().ok()?);
    (encode_bond(&mask, &model) == *record).then_some((mask, model))
}

/// What a ledger says, and the length of its sound prefix.
type Parsed = (BTreeMap<BatchId, u64>, BTreeMap<[u8; 32], Half>, usize);

/// Watermarks, bonds and the length of the sound prefix, or the offset of damage that no crash explains.
fn parse(bytes: &[u8]) -> Result<Parsed, usize> {
    let (mut watermarks, mut bonds) = (BTreeMap::new(), BTreeMap::new());
    let Some((magic, records)) = bytes.split_at_checked(MAGIC.len()) else {
        return if MAGIC.starts_with(bytes) { Ok((watermarks, bonds, 0)) } else { Err(0) };
    };
    if magic != MAGIC {
        return Err(0);
    }
    for (i, record) in records.chunks(RECORD).enumerate() {
        let offset = MAGIC.len() + i * RECORD;
        if let Some((mask, model)) = decode_bond(record) {
            if bonds.insert(mask, model).is_some() {
                return Err(offset);
            }
            continue;
        }
        let Some((batch, range)) = decode(record) else {
            // Only the last write can be unfinished: short, or, on file systems that grow before they fill, with a tail of zeros.
            let last = offset + RECORD >= bytes.len();
            return if last && (record.len() < RECORD || record.ends_with(&[0; 16])) {
                Ok((watermarks, bonds, offset))
            } else {
                Err(offset)
            };
        };
        let free = watermarks.entry(batch).or_insert(0);
        if range.start < *free || range.is_empty() {
            return Err(offset);
        }
        *free = range.end;
    }
    Ok((watermarks, bonds, bytes.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: BatchId = BatchId::new([1; 32]);
    const B: BatchId = BatchId::new([2; 32]);

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        (dir, path)
    }

    #[test]
    fn a_burnt_range_is_still_burnt_after_reopening() {
        let (_dir, path) = scratch();
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.burn(A, 0..3).unwrap();
        ledger.burn(B, 5..6).unwrap();
        drop(ledger);
        let mut ledger = Ledger::open(&path).unwrap();
        assert_eq!((ledger.watermark(A), ledger.watermark(B)), (3, 6));
        assert!(matches!(ledger.burn(A, 2..4), Err(LedgerError::Reused { lo: 2, watermark: 3, .. })));
        ledger.burn(A, 7..8).unwrap();
        assert_eq!(ledger.watermark(A), 8);
    }

    #[test]
    fn masks_are_bound_to_one_model_for_ever() {
        let (_dir, path) = scratch();
        let mut ledger = Ledger::open(&path).unwrap();
        ledger.bind([7; 32], [1; 16]).unwrap();
        ledger.burn(A, 0..1).unwrap();
        ledger.bind([8; 32], [2; 16]).unwrap();
        drop(ledger);
        let mut ledger = Ledger::open(&path).unwrap();
        assert_eq!((ledger.bond(&[7; 32]), ledger.bond(&[8; 32]), ledger.watermark(A)), (Some([1; 16]), Some([2; 16]), 1));
        let size = std::fs::metadata(&path).unwrap().len();
        ledger.bind([7; 32], [1; 16]).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), size, "what is known is not written again");
        assert!(matches!(ledger.bind([7; 32], [2; 16]), Err(LedgerError::Bound { .. })));
    }

    #[test]
    fn a_second_opener_is_refused() {
        let (_dir, path) = scratch();
        let _first = Ledger::open(&path).unwrap();
        assert!(matches!(Ledger::open(&path), Err(LedgerError::Locked { .. })));
    }

    #[test]
    fn empty_ranges_are_refused() {
        let (_dir, path) = scratch();
        assert!(matches!(Ledger::open(&path).unwrap().burn(A, 4..4), Err(LedgerError::Empty { lo: 4, hi: 4 })));
    }

    /// Every prefix of the file is what a crash could leave: whatever was acknowledged before that length must still be burnt.
    #[test]
    fn a_file_cut_at_any_byte_keeps_every_whole_record() {
        let (_dir, path) = scratch();
        let mut ledger = Ledger::open(&path).unwrap();
        for i in 0..4 {
            ledger.burn(A, i * 2..i * 2 + 2).unwrap();
        }
        drop(ledger);
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..=whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            let mut ledger = Ledger::open(&path).unwrap();
            let records = cut.saturating_sub(MAGIC.len()) / RECORD;
            assert_eq!(ledger.watermark(A), 2 * records as u64, "cut at {cut}");
            ledger.burn(A, 100..101).unwrap();
            drop(ledger);
            assert_eq!(Ledger::open(&path).unwrap().watermark(A), 101, "cut at {cut}");
        }
    }

    /// A flipped bit is never read as a lower watermark: it is refused wherever it is.
    #[test]
    fn a_flipped_bit_is_refused() {
        let (_dir, path) = scratch();
        let mut ledger = Ledger::open(&path).unwrap();
        (0..3).for_each(|i| ledger.burn(A, i..i + 1).unwrap());
        ledger.bind([7; 32], [1; 16]).unwrap();
        drop(ledger);
        let whole = std::fs::read(&path).unwrap();
        for byte in 0..whole.len() {
            let mut bad = whole.clone();
            bad[byte] ^= 0x10;
            std::fs::write(&path, &bad).unwrap();
            assert!(matches!(Ledger::open(&path), Err(LedgerError::Damaged { .. })), "byte {byte}");
        }
    }
}
