//! The sweep.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::mark::{Marked, mark};
use crate::cas::{Store, StoreError, StoreOptions, io_error};
use crate::digest::Digest;
use crate::files::{Files, OsFiles};
use crate::records::{ActionKey, RecordError};
use crate::runs::RunError;

/// How to collect.
#[derive(Clone, Debug)]
pub struct GcOptions {
    /// The time now.
    pub now: SystemTime,
    /// How old a file must be to be set aside, and then to be deleted.
    pub grace: Duration,
    /// How many results of each action are roots.
    pub keep_results: usize,
    /// Whether to do it, or only to say what would be done.
    pub apply: bool,
}

impl GcOptions {
    /// A dry run with 24 hours of grace that keeps three results of each action.
    pub const fn dry_run(now: SystemTime) -> Self {
        Self { now, grace: Duration::from_secs(24 * 3600), keep_results: 3, apply: false }
    }
}

/// A file that a collection concerns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Swept {
    /// Where it lies, from the store's root.
    pub path: PathBuf,
    /// Its length.
    pub size: u64,
}

/// What a collection did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct GcReport {
    /// How many artifacts are roots.
    pub roots: usize,
    /// How many blobs they reach.
    pub live: usize,
    /// What was set aside.
    pub set_aside: Vec<Swept>,
    /// What earlier collections had set aside and was deleted.
    pub deleted: Vec<Swept>,
    /// Whether it was done.
    pub applied: bool,
}

/// What can go wrong with a collection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GcError {
    /// Somebody has the store open for writing.
    #[error("the store at {} is in use", path.display())]
    InUse {
        /// The store.
        path: PathBuf,
    },
    /// The records cannot be read.
    #[error("the records cannot be read")]
    Record(#[from] RecordError),
    /// The runs cannot be read.
    #[error("the runs cannot be read")]
    Run(#[from] RunError),
    /// The store cannot be read or changed.
    #[error("the store cannot be read or changed")]
    Store(#[from] StoreError),
}

/// Collects the garbage of the store at `root`.
pub fn collect(root: &Path, options: &GcOptions) -> Result<GcReport, GcError> {
    collect_with(root, options, Arc::new(OsFiles))
}

/// As [`collect`], through this file layer.
pub fn collect_with(root: &Path, options: &GcOptions, files: Arc<dyn Files>) -> Result<GcReport, GcError> {
    let store = if options.apply {
        match Store::open_alone(root, files)? {
            Some(store) => store,
            None => return Err(GcError::InUse { path: root.to_owned() }),
        }
    } else {
        Store::open(root, StoreOptions::read_only())?
    };
    let marked = mark(&store, options.keep_results)?;
    let sweep = Sweep { store: &store, options };
    let mut report =
        GcReport { roots: marked.roots.len(), live: marked.live.len(), applied: options.apply, ..GcReport::default() };
    // First what earlier collections set aside, so that nothing is set aside and deleted at once.
    sweep.delete_old(&mut report)?;
    sweep.set_aside_dead(&marked, &mut report)?;
    if options.apply {
        // It remembers records that are gone; it is rebuilt from those that are left.
        let _ = fs::remove_dir_all(store.layout.index());
    }
    Ok(report)
}

struct Sweep<'a> {
    store: &'a Store,
    options: &'a GcOptions,
}

impl Sweep<'_> {
    fn set_aside_dead(&self, marked: &Marked, report: &mut GcReport) -> Result<(), GcError> {
        // Records go before the blobs that they name: a crash in between leaves garbage, not a record without blobs.
        for path in &marked.stale {
            self.set_aside(path, report)?;
        }
        for label in self.store.layout.labels() {
            for shard in list(&self.store.layout.area(label))? {
                for path in list(&shard)? {
                    let digest = path.file_name().and_then(|n| n.to_str()).and_then(|n| Digest::from_hex(n).ok());
                    if digest.is_some_and(|digest| !marked.live.contains(&(label, digest))) {
                        self.set_aside(&path, report)?;
                    }
                }
            }
        }
        self.delete_finished_checkpoints(marked, report)
    }

    /// Checkpoints of actions that have a result serve nothing; being secret they are not set aside but deleted.
    fn delete_finished_checkpoints(&self, marked: &Marked, report: &mut GcReport) -> Result<(), GcError> {
        let dir = self.store.layout.checkpoints();
        for of_key in list(&dir)? {
            let key = of_key.file_name().and_then(|n| n.to_str()).and_then(|n| Digest::from_hex(n).ok());
            if key.is_some_and(|key| marked.done.contains(&ActionKey::new(key))) {
                for path in list(&of_key)? {
                    self.delete(&path, report)?;
                }
            }
        }
        Ok(())
    }

    fn delete_old(&self, report: &mut GcReport) -> Result<(), GcError> {
        for sweep in self.store.sweeps()? {
            let seconds = sweep.file_name().and_then(|n| n.to_str()).and_then(|n| n.parse::<u64>().ok());
            let Some(seconds) = seconds else { continue };
            let since = UNIX_EPOCH.checked_add(Duration::from_secs(seconds)).unwrap_or(self.options.now);
            if self.is_old(since) {
                delete_tree(self, &sweep, report)?;
                if self.options.apply {
                    fs::remove_dir_all(&sweep).map_err(io_error("remove", &sweep))?;
                }
            }
        }
        for path in list(&self.store.layout.corrupt())? {
            self.delete(&path, report)?;
        }
        Ok(())
    }

    /// Whether a time lies further back than the grace period; times in the future do not.
    fn is_old(&self, since: SystemTime) -> bool {
        self.options.now.duration_since(since).is_ok_and(|age| age > self.options.grace)
    }

    fn swept(&self, path: &Path) -> Result<Option<Swept>, GcError> {
        let meta = fs::symlink_metadata(path).map_err(io_error("inspect", path))?;
        let modified = meta.modified().map_err(io_error("inspect", path))?;
        let relative = path.strip_prefix(self.store.root()).unwrap_or(path).to_owned();
        Ok(self.is_old(modified).then_some(Swept { path: relative, size: meta.len() }))
    }

    fn set_aside(&self, path: &Path, report: &mut GcReport) -> Result<(), GcError> {
        let Some(swept) = self.swept(path)? else { return Ok(()) };
        if self.options.apply {
            let seconds = self.options.now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
            let to = self.store.layout.collected().join(seconds.to_string()).join(&swept.path);
            let dir = to.parent().expect("a file lies in a folder");
            let store = self.store;
            store.dirs.ensure(&*store.files, dir, 0o700)?;
            store.files.rename_no_replace(path, &to).map_err(io_error("set aside", path))?;
        }
        report.set_aside.push(swept);
        Ok(())
    }

    fn delete(&self, path: &Path, report: &mut GcReport) -> Result<(), GcError> {
        let Some(swept) = self.swept(path)? else { return Ok(()) };
        if self.options.apply {
            self.store.files.remove_file(path).map_err(io_error("remove", path))?;
        }
        report.deleted.push(swept);
        Ok(())
    }
}

/// Reports every file below a folder as deleted.
fn delete_tree(sweep: &Sweep<'_>, dir: &Path, report: &mut GcReport) -> Result<(), GcError> {
    for path in list(dir)? {
        let meta = fs::symlink_metadata(&path).map_err(io_error("inspect", &path))?;
        if meta.is_dir() {
            delete_tree(sweep, &path, report)?;
        } else {
            let relative = path.strip_prefix(sweep.store.root()).unwrap_or(&path).to_owned();
            report.deleted.push(Swept { path: relative, size: meta.len() });
        }
    }
    Ok(())
}

/// The entries of a folder in order; none if it does not exist.
fn list(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        other => other.map_err(io_error("list", dir))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        paths.push(entry.map_err(io_error("list", dir))?.path());
    }
    paths.sort_unstable();
    Ok(paths)
}
