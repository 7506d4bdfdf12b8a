//! The account of what a disk would hold after a power cut.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// What a power cut takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerCut {
    /// Everything that was not forced to the disk.
    TakesAll,
    /// A part of it, chosen by this seed: disks write what they like, when they like.
    TakesSome(u64),
}

/// A change to a folder that has not been forced to the disk.
#[derive(Debug)]
enum Pending {
    Created(PathBuf),
    MadeDir(PathBuf),
    Renamed { from: PathBuf, to: PathBuf },
    Removed { path: PathBuf, mode: u32, bytes: Vec<u8> },
}

impl Pending {
    /// The path whose entry changes.
    fn entry(&self) -> &Path {
        match self {
            Self::Created(path) | Self::MadeDir(path) | Self::Removed { path, .. } => path,
            Self::Renamed { to, .. } => to,
        }
    }

    /// Undoes the change, as far as what it concerns is still there.
    fn undo(self) -> io::Result<()> {
        let undone = match self {
            Self::Created(path) => fs::remove_file(path),
            Self::MadeDir(path) => fs::remove_dir_all(path),
            // Where the folder it came from is gone too, so is the file.
            Self::Renamed { from, to } => fs::rename(&to, from).or_else(|_| fs::remove_file(to)),
            Self::Removed { path, mode, bytes } => {
                fs::write(&path, bytes).and_then(|()| fs::set_permissions(path, Permissions::from_mode(mode)))
            }
        };
        match undone {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// The lengths to which files, and the changes by which folders, differ from the disk.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    synced_lengths: BTreeMap<u64, u64>,
    pending: Vec<Pending>,
    roots: Vec<PathBuf>,
}

impl Ledger {
    pub(super) fn created(&mut self, path: &Path, inode: u64) {
        self.synced_lengths.insert(inode, 0);
        self.note_root(path);
        self.pending.push(Pending::Created(path.to_owned()));
    }

    /// A file that was there before: its bytes are taken to be on the disk.
    pub(super) fn opened(&mut self, inode: u64, length: u64) {
        self.synced_lengths.entry(inode).or_insert(length);
    }

    pub(super) fn synced(&mut self, inode: u64, length: u64) {
        self.synced_lengths.insert(inode, length);
    }

    pub(super) fn renamed(&mut self, from: &Path, to: &Path) {
        self.note_root(to);
        self.pending.push(Pending::Renamed { from: from.to_owned(), to: to.to_owned() });
    }

    pub(super) fn removed(&mut self, path: &Path, before: &Metadata, mut bytes: Vec<u8>) {
        // The inode may be given to another file, which must not inherit this one's length.
        if let Some(length) = self.synced_lengths.remove(&before.ino()) {
            bytes.truncate(length as usize);
        }
        self.pending.push(Pending::Removed { path: path.to_owned(), mode: before.mode(), bytes });
    }

    pub(super) fn made_dir(&mut self, path: &Path) {
        self.pending.push(Pending::MadeDir(path.to_owned()));
    }

    pub(super) fn synced_dir(&mut self, dir: &Path) {
        self.pending.retain(|change| change.entry().parent() != Some(dir));
    }

    /// Remembers where tracked files lie.
    fn note_root(&mut self, path: &Path) {
        if let Some(dir) = path.parent()
            && !self.roots.iter().any(|root| root == dir)
        {
            self.roots.push(dir.to_owned());
        }
    }

    /// Turns the folder into what the disk would hold.
    pub(super) fn cut(&mut self, cut: PowerCut) -> io::Result<()> {
        let mut random = match cut {
            PowerCut::TakesAll => None,
            PowerCut::TakesSome(seed) => Some(SplitMix(seed)),
        };
        self.cut_contents(&mut random)?;
        for change in std::mem::take(&mut self.pending).into_iter().rev() {
            if random.as_mut().is_none_or(|r| r.below(2) == 0) {
                change.undo()?;
            }
        }
        Ok(())
    }

    fn cut_contents(&self, random: &mut Option<SplitMix>) -> io::Result<()> {
        for entry in self.roots.iter().filter_map(|dir| fs::read_dir(dir).ok()).flatten().flatten() {
            let meta = fs::symlink_metadata(entry.path())?;
            let Some(synced) = self.synced_lengths.get(&meta.ino()).filter(|_| meta.is_file()) else { continue };
            let unsynced = meta.len().saturating_sub(*synced);
            if unsynced > 0 {
                let kept = random.as_mut().map_or(0, |r| r.below(unsynced + 1));
                fs::set_permissions(entry.path(), Permissions::from_mode(0o600))?;
                File::options().write(true).open(entry.path())?.set_len(synced + kept)?;
                fs::set_permissions(entry.path(), meta.permissions())?;
            }
        }
        Ok(())
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): chooses what a power cut takes; reproducible from its seed.
struct SplitMix(u64);

impl SplitMix {
    /// A number below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound.max(1)
    }
}
