//! Writing records and finding them again.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::{ActionKey, RecordError, ResultId, ResultRecord};
use crate::cas::{Check, Presence, Store, StoreError, io_error};
use crate::digest::Digest;
use crate::encode::MAX_BYTES;
use crate::index::Summary;

/// A record that lies in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct StoredResult {
    /// Its name.
    pub id: ResultId,
    /// What it says.
    pub record: ResultRecord,
}

/// A record file that cannot be used.
#[derive(Debug)]
pub struct Damaged {
    /// The file.
    pub path: PathBuf,
    /// Where it is now, if it could be moved to the quarantine.
    pub quarantined: Option<PathBuf>,
    /// What is wrong with it.
    pub error: RecordError,
}

/// The answer of a look-up: the good records, newest first, and the files that turned out damaged.
#[derive(Debug, Default)]
pub struct Lookup {
    /// The good records, newest first.
    pub records: Vec<StoredResult>,
    /// The files that turned out damaged.
    pub damaged: Vec<Damaged>,
}

impl Lookup {
    /// The newest good record.
    pub fn newest(&self) -> Option<&StoredResult> {
        self.records.first()
    }

    fn sort(&mut self) {
        self.records.sort_by(|a, b| {
            let key = |r: &StoredResult| (r.record.finished_unix_ms, r.record.attempt, r.id);
            key(b).cmp(&key(a))
        });
    }
}

impl Store {
    /// Writes a record durably, after checking that everything it names is in the store.
    pub fn commit_result(&self, record: &ResultRecord) -> Result<ResultId, RecordError> {
        self.require_write()?;
        let logs = record.log.iter().map(|id| ("log", id));
        for (name, id) in record.outputs.iter().map(|(name, id)| (name.as_str(), id)).chain(logs) {
            if self.has_artifact(id, Check::Cheap)? != Presence::Present {
                return Err(RecordError::OutputMissing { name: name.to_owned(), id: *id });
            }
        }
        let bytes = record.to_bytes()?;
        let id = ResultId::new(Digest::of(&bytes));
        let path = self.record_path(&record.key(), &id);
        self.publish(&path, &bytes, 0o444, 0o755)?;
        if let Some(index) = self.index_if_open() {
            index.remember(id, Summary::of(record));
        }
        Ok(id)
    }

    /// The records of an action, newest first.
    pub fn find_results(&self, key: &ActionKey) -> Result<Lookup, RecordError> {
        let mut lookup = Lookup::default();
        for id in self.result_ids(key)? {
            self.collect(key, id, &mut lookup)?;
        }
        lookup.sort();
        Ok(lookup)
    }

    /// The records of a kind of stage, newest first: what a new action of that kind can be compared with.
    pub fn results_of_kind(&self, kind: &str) -> Result<Lookup, RecordError> {
        self.select_results(|summary| summary.kind == kind)
    }

    /// The records of a stage instance of a kind if there are any, else those of the kind; newest first.
    pub fn nearest_results(&self, kind: &str, stage: &str) -> Result<Lookup, RecordError> {
        let mut lookup = self.results_of_kind(kind)?;
        if lookup.records.iter().any(|r| r.record.stage == stage) {
            lookup.records.retain(|r| r.record.stage == stage);
        }
        Ok(lookup)
    }

    /// Every record, newest first.
    pub fn all_results(&self) -> Result<Lookup, RecordError> {
        self.select_results(|_| true)
    }

    /// The records that made this artifact, newest first.
    pub fn results_with_output(&self, id: &crate::manifest::ArtifactId) -> Result<Lookup, RecordError> {
        self.select_results(|summary| summary.outputs.contains(id))
    }

    /// The records whose summary is wanted. The folders say which records there are, the index what they say, and each
    /// record that is wanted is read and checked: the index can make this slower or faster but never wrong.
    fn select_results(&self, wanted: impl Fn(&Summary) -> bool) -> Result<Lookup, RecordError> {
        let all = self.all_result_ids()?;
        let index = self.index();
        let known = index.map(|index| index.summaries(all.iter().map(|(_, id)| *id))).unwrap_or_default();
        let mut lookup = Lookup::default();
        for (key, id) in all {
            match known.get(&id) {
                Some(summary) if !wanted(summary) => {}
                Some(_) => self.collect(&key, id, &mut lookup)?,
                None => {
                    let before = lookup.records.len();
                    self.collect(&key, id, &mut lookup)?;
                    if let Some(found) = lookup.records.get(before) {
                        let summary = Summary::of(&found.record);
                        if !wanted(&summary) {
                            lookup.records.pop();
                        }
                        if let Some(index) = index {
                            index.remember(id, summary);
                        }
                    }
                }
            }
        }
        lookup.records.retain(|r| wanted(&Summary::of(&r.record)));
        lookup.sort();
        Ok(lookup)
    }

    /// The names of an action's records.
    pub(crate) fn result_ids(&self, key: &ActionKey) -> Result<Vec<ResultId>, StoreError> {
        let dir = self.layout.results_of(key.digest());
        let names = names(&dir)?;
        let digests = names.iter().filter_map(|n| n.strip_suffix(".cbor")).filter_map(|n| Digest::from_hex(n).ok());
        Ok(digests.map(ResultId::new).collect())
    }

    /// The keys and names of all records.
    pub(crate) fn all_result_ids(&self) -> Result<Vec<(ActionKey, ResultId)>, StoreError> {
        let mut all = Vec::new();
        let results = self.layout.results();
        for shard in names(&results)? {
            for name in names(&results.join(shard))? {
                if let Ok(key) = Digest::from_hex(&name).map(ActionKey::new) {
                    all.extend(self.result_ids(&key)?.into_iter().map(|id| (key, id)));
                }
            }
        }
        Ok(all)
    }

    pub(crate) fn record_path(&self, key: &ActionKey, id: &ResultId) -> PathBuf {
        self.layout.results_of(key.digest()).join(format!("{}.cbor", id.to_hex()))
    }

    /// Adds a record to the answer: to the good ones or, quarantined, to the damaged ones.
    fn collect(&self, key: &ActionKey, id: ResultId, lookup: &mut Lookup) -> Result<(), RecordError> {
        let path = self.record_path(key, &id);
        match read_record(&path, key, id) {
            Ok(Some(record)) => lookup.records.push(StoredResult { id, record }),
            Ok(None) => {}
            Err(error @ RecordError::Store(_)) => return Err(error),
            // Written by a later program: not damaged, and to be left where it is.
            Err(error @ RecordError::Version { .. }) => {
                lookup.damaged.push(Damaged { path, quarantined: None, error });
            }
            Err(error) => {
                let quarantined = self.set_aside(&path);
                tracing::error!(path = %path.display(), %error, ?quarantined, "a result record is damaged");
                lookup.damaged.push(Damaged { path, quarantined, error });
            }
        }
        Ok(())
    }
}

/// Reads and checks a record file; `None` if it has just been moved away by another process.
fn read_record(path: &Path, key: &ActionKey, id: ResultId) -> Result<Option<ResultRecord>, RecordError> {
    let mut bytes = Vec::new();
    let opened = fs::File::open(path).and_then(|file| file.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes));
    match opened {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io_error("read", path))?,
    };
    let actual = Digest::of(&bytes);
    if actual != *id.digest() {
        return Err(RecordError::Digest { expected: *id.digest(), actual });
    }
    let record = ResultRecord::from_bytes(&bytes)?;
    if record.key() != *key {
        return Err(RecordError::Key { expected: *key.digest(), actual: *record.key().digest() });
    }
    Ok(Some(record))
}

/// The names in a folder; none if it does not exist.
fn names(dir: &Path) -> Result<Vec<String>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(Vec::new()),
        other => other.map_err(io_error("list", dir))?,
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("list", dir))?;
        names.extend(entry.file_name().into_string());
    }
    names.sort_unstable();
    Ok(names)
}
