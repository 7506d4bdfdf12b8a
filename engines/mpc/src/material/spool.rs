//! Material that memory does not hold, in files without a name.
//!
//! A segment is created, readable by its owner alone, and unlinked at once: nothing is left behind by any death of the process. A segment
//! whose last chunk has been taken is written again from its start: its pages are there already, and the next inference's material goes where
//! the last one's was. The space returns with the process.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::Arc;

use crate::error::RoleError;

/// A segment takes chunks until it has this many bytes.
const SEGMENT: u64 = 64 << 20;

/// Writes chunks, one after another.
#[derive(Debug)]
pub(crate) struct Spool {
    folder: PathBuf,
    /// The one that is written is the last.
    segments: Vec<Arc<File>>,
    /// How much of it is written.
    end: u64,
}

/// Where a chunk lies.
#[derive(Debug)]
pub(super) struct Slot {
    segment: Arc<File>,
    offset: u64,
    pub(super) len: usize,
}

impl Spool {
    pub(crate) fn new(folder: PathBuf) -> Self {
        Self { folder, segments: Vec::new(), end: SEGMENT }
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<Slot, RoleError> {
        let failed = |source| RoleError::File { path: self.folder.clone(), source };
        if self.end >= SEGMENT {
            // Chunks hold their segment: one that nobody holds has been taken to its end.
            let segment = match self.segments.iter().position(|s| Arc::strong_count(s) == 1) {
                Some(at) => self.segments.remove(at),
                None => Arc::new(self.create().map_err(failed)?),
            };
            self.segments.push(segment);
            self.end = 0;
        }
        let segment = self.segments.last().expect("one was pushed when the first chunk came").clone();
        segment.write_all_at(bytes, self.end).map_err(failed)?;
        let slot = Slot { segment, offset: self.end, len: bytes.len() };
        self.end += bytes.len() as u64;
        Ok(slot)
    }

    fn create(&self) -> io::Result<File> {
        let mut name = [0; 16];
        getrandom::fill(&mut name)?;
        let path = self.folder.join(format!("spool-{}", hex::encode(name)));
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    }
}

impl Slot {
    /// The chunk, in the place of what `memory` held: new pages for every chunk, and zeroing them, would cost as much as reading.
    pub(super) fn read(&self, memory: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut bytes = memory;
        bytes.resize(self.len, 0);
        self.segment.read_exact_at(&mut bytes, self.offset)?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_come_back_and_no_file_has_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(dir.path().to_owned());
        let slots: Vec<Slot> = (0..5_u8).map(|i| spool.write(&vec![i; 20 << 20]).unwrap()).collect();
        assert!(!Arc::ptr_eq(&slots[0].segment, &slots[4].segment));
        assert!(Arc::ptr_eq(&slots[0].segment, &slots[3].segment));
        for (i, slot) in slots.iter().enumerate() {
            assert!(slot.read(vec![1; i]).unwrap() == vec![i as u8; 20 << 20]);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_segment_is_written_again_once_all_its_chunks_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::new(dir.path().to_owned());
        let first: Vec<Slot> = (0..4_u8).map(|i| spool.write(&vec![i; 16 << 20]).unwrap()).collect();
        let second = spool.write(&vec![9; 64 << 20]).unwrap();
        assert!(!Arc::ptr_eq(&first[0].segment, &second.segment));
        let kept = first.into_iter().next().unwrap();
        let third = spool.write(&vec![7; 64 << 20]).unwrap();
        assert_eq!(spool.segments.len(), 3, "a segment with a chunk in it is not written again");
        drop(kept);
        let fourth = spool.write(&[8; 5]).unwrap();
        assert_eq!((spool.segments.len(), fourth.offset), (3, 0));
        assert!(
            second.read(Vec::new()).unwrap() == vec![9; 64 << 20] && third.read(vec![3; 65 << 20]).unwrap() == vec![7; 64 << 20]
        );
        assert_eq!(fourth.read(Vec::new()).unwrap(), [8; 5]);
    }
}
