//! What is alive.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::GcError;
use crate::cas::Store;
use crate::digest::Digest;
use crate::manifest::ArtifactId;
use crate::records::{ActionKey, StoredResult};
use crate::secrecy::Secrecy;

/// The outcome of marking.
#[derive(Debug, Default)]
pub(super) struct Marked {
    /// The blobs that a root reaches.
    pub(super) live: BTreeSet<(Secrecy, Digest)>,
    /// The artifacts that are roots.
    pub(super) roots: BTreeSet<ArtifactId>,
    /// Records that neither are among the newest of their action nor belong to an unfinished run.
    pub(super) stale: Vec<PathBuf>,
    /// The actions that have a result.
    pub(super) done: BTreeSet<ActionKey>,
}

/// Marks everything that pins, unfinished runs and the newest `keep` results of each action reach.
pub(super) fn mark(store: &Store, keep: usize) -> Result<Marked, GcError> {
    let mut marked = Marked::default();
    marked.roots.extend(store.pins()?.into_values());
    let unfinished = unfinished_runs(store)?;
    let mut by_key: BTreeMap<ActionKey, Vec<StoredResult>> = BTreeMap::new();
    for found in store.all_results()?.records {
        by_key.entry(found.record.key()).or_default().push(found);
    }
    for (key, newest_first) in by_key {
        marked.done.insert(key);
        for (age, found) in newest_first.iter().enumerate() {
            if age < keep || unfinished.contains(&found.record.run) {
                marked.roots.extend(found.record.outputs.values().copied().chain(found.record.log));
            } else {
                marked.stale.push(store.record_path(&key, &found.id));
            }
        }
    }
    for id in &marked.roots {
        match store.read_artifact(id) {
            Ok(manifest) => {
                let label = manifest.secrecy();
                marked.live.insert((label, *id.digest()));
                marked.live.extend(manifest.files().iter().map(|f| (label, *f.digest())));
            }
            // A root that is gone or damaged keeps nothing alive; its record is a miss.
            Err(e) if e.is_missing() || e.is_integrity() => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(marked)
}

fn unfinished_runs(store: &Store) -> Result<BTreeSet<String>, GcError> {
    let mut unfinished = BTreeSet::new();
    for id in store.runs()? {
        if !store.run(&id)?.is_finished() {
            unfinished.insert(id.to_string());
        }
    }
    Ok(unfinished)
}
