//! Is an artifact there, and is it whole?

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Mismatch, Store, StoreError};
use crate::digest::Digest;
use crate::manifest::{ArtifactId, Manifest};
use crate::secrecy::Secrecy;

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// The manifest is verified; its files exist with their lengths. For plans over thousands of artifacts.
    Cheap,
    /// Every byte hashes to its name. Required before an artifact counts as a hit.
    Full,
}

/// Whether an artifact is there.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Presence {
    /// It is there, as far as the check looked.
    Present,
    /// These files are not there; the manifest's own name is the empty one.
    Missing(Vec<String>),
    /// These blobs are damaged; they have been quarantined if the store is open for writing.
    Corrupt(Vec<Mismatch>),
}

impl Presence {
    /// Whether it is there.
    pub const fn is_present(&self) -> bool {
        matches!(self, Self::Present)
    }
}

/// What was found out about one blob.
#[derive(Clone, Debug)]
enum Verdict {
    Good,
    Missing,
    Corrupt(Mismatch),
}

/// A blob to be looked at: label, digest and the length it should have.
type Wanted = (Secrecy, Digest, u64);

impl Store {
    /// Whether an artifact is there.
    pub fn has_artifact(&self, id: &ArtifactId, check: Check) -> Result<Presence, StoreError> {
        let mut all = self.has_artifacts(&[*id], check)?;
        Ok(all.remove(id).expect("an answer for every artifact asked about"))
    }

    /// Whether every byte of an artifact is there and right.
    pub fn verify_artifact(&self, id: &ArtifactId) -> Result<Presence, StoreError> {
        self.has_artifact(id, Check::Full)
    }

    /// Whether each of these artifacts is there; blobs are hashed in parallel, each once.
    pub fn has_artifacts(&self, ids: &[ArtifactId], check: Check) -> Result<BTreeMap<ArtifactId, Presence>, StoreError> {
        let mut manifests = BTreeMap::new();
        let mut answers = BTreeMap::new();
        for id in ids.iter().copied().collect::<BTreeSet<_>>() {
            match self.read_artifact(&id) {
                Ok(manifest) => drop(manifests.insert(id, manifest)),
                Err(StoreError::Corrupt(m)) => drop(answers.insert(id, Presence::Corrupt(vec![*m]))),
                Err(e) if e.is_missing() => drop(answers.insert(id, Presence::Missing(vec![String::new()]))),
                Err(e) => return Err(e),
            }
        }
        let wanted: BTreeSet<Wanted> = manifests.values().flat_map(wanted).collect();
        let verdicts = self.look_at(wanted, check)?;
        for (id, manifest) in manifests {
            answers.insert(id, presence(&manifest, &verdicts));
        }
        Ok(answers)
    }

    fn look_at(&self, wanted: BTreeSet<Wanted>, check: Check) -> Result<BTreeMap<Wanted, Verdict>, StoreError> {
        let wanted: Vec<_> = wanted.into_iter().collect();
        let threads = match check {
            Check::Cheap => 1,
            Check::Full => std::thread::available_parallelism().map_or(1, usize::from).min(wanted.len()),
        };
        let next = AtomicUsize::new(0);
        let verdicts = Mutex::new(BTreeMap::new());
        let work = || -> Result<(), StoreError> {
            while let Some(blob) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                let verdict = self.look_at_one(*blob, check)?;
                verdicts.lock().unwrap_or_else(PoisonError::into_inner).insert(*blob, verdict);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mine = work();
            let joined = others.into_iter().map(|t| t.join().expect("verification does not panic"));
            joined.fold(mine, Result::and)
        })?;
        Ok(verdicts.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn look_at_one(&self, (secrecy, digest, size): Wanted, check: Check) -> Result<Verdict, StoreError> {
        if check == Check::Cheap {
            let path = self.layout.blob(secrecy, &digest);
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_file() && meta.len() == size => return Ok(Verdict::Good),
                // Anything unusual gets the full look, so that both checks say the same about it.
                _ => {}
            }
        }
        match self.verify_blob(secrecy, &digest, Some(size)) {
            Ok(()) => Ok(Verdict::Good),
            Err(StoreError::Corrupt(mismatch)) => Ok(Verdict::Corrupt(*mismatch)),
            Err(e) if e.is_missing() => Ok(Verdict::Missing),
            Err(e) => Err(e),
        }
    }
}

fn wanted(manifest: &Manifest) -> impl Iterator<Item = Wanted> + '_ {
    manifest.files().iter().map(|f| (manifest.secrecy(), *f.digest(), f.size()))
}

fn presence(manifest: &Manifest, verdicts: &BTreeMap<Wanted, Verdict>) -> Presence {
    let mut missing = Vec::new();
    let mut corrupt = Vec::new();
    for (file, blob) in manifest.files().iter().zip(wanted(manifest)) {
        match verdicts.get(&blob) {
            Some(Verdict::Good) => {}
            Some(Verdict::Corrupt(mismatch)) => corrupt.push(mismatch.clone()),
            Some(Verdict::Missing) | None => missing.push(file.name().to_owned()),
        }
    }
    if !corrupt.is_empty() {
        Presence::Corrupt(corrupt)
    } else if !missing.is_empty() {
        Presence::Missing(missing)
    } else {
        Presence::Present
    }
}
