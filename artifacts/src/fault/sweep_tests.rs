//! The store under crashes, power cuts and failing disks at every single operation.
//!
//! The workload acknowledges each step to a list the moment the store has returned. Whatever happens then, every
//! acknowledged step must be found whole, nothing that is visible may be damaged, and the workload must be able to finish.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::*;
use crate::cas::{Store, StoreError, StoreOptions};
use crate::digest::{Digest, Hasher};
use crate::encode::Value;
use crate::files::Files;
use crate::manifest::{ArtifactId, Manifest};
use crate::records::{ActionKey, RecordError, ResultId, ResultRecord};
use crate::runs::{
    AppendLog, Checkpoint, CheckpointBuilder, CheckpointError, CheckpointStore, LogError, Replay, RunError, RunId,
};
use crate::scratch::scratch;
use crate::secrecy::Secrecy;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// What the store has acknowledged.
#[derive(Debug, Default)]
struct Acknowledged {
    artifacts: Vec<ArtifactId>,
    results: Vec<(ActionKey, ResultId)>,
    frames: Vec<Vec<u8>>,
    checkpoint: Option<u64>,
    finished: bool,
}

#[derive(Debug)]
enum Failure {
    Store(StoreError),
    Record(RecordError),
    Log(LogError),
    Run(RunError),
    Checkpoint(CheckpointError),
}

macro_rules! failure {
    ($($variant:ident($error:ty)),*) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::$variant(error)
            }
        })*
    };
}
failure!(Store(StoreError), Record(RecordError), Log(LogError), Run(RunError), Checkpoint(CheckpointError));

fn key() -> ActionKey {
    ActionKey::of(&Value::from("action"))
}

fn record(output: ArtifactId, log: ArtifactId) -> ResultRecord {
    ResultRecord {
        kind: "a@1".to_owned(),
        stage: "a".to_owned(),
        preimage: Value::from("action"),
        outputs: BTreeMap::from([("out".to_owned(), output)]),
        run: RunId::new(0, 1).to_string(),
        attempt: 1,
        started_unix_ms: 0,
        finished_unix_ms: 1,
        host: "here".to_owned(),
        log: Some(log),
        metrics: BTreeMap::from([("accuracy".to_owned(), 0.5)]),
        private: true,
    }
}

/// What a small run does with the store. It may be cut off anywhere and begun again.
fn workload(root: &Path, files: &Arc<dyn Files>, done: &mut Acknowledged) -> Result<(), Failure> {
    let store = Store::open(root, StoreOptions::read_write().index(false).files(Arc::clone(files)))?;
    let id = RunId::new(0, 1);
    let run = match store.run(&id) {
        Ok(run) => run,
        Err(_) => store.create_run(&id)?,
    };
    let (mut journal, replay) = run.open_journal()?;
    let append = |journal: &mut AppendLog, text: &str, done: &mut Acknowledged| -> Result<(), LogError> {
        journal.append(text.as_bytes())?;
        done.frames.push(text.as_bytes().to_vec());
        Ok(())
    };
    done.frames = replay.payloads;
    append(&mut journal, "begin", done)?;
    let checkpoints = CheckpointStore::for_key(&store, key());
    for step in 1..=3_u64 {
        checkpoints.offer(&CheckpointBuilder::new(step).bytes("model", vec![step as u8; 100]))?;
        done.checkpoint = Some(step);
    }
    let builder = Manifest::builder("model@1", Secrecy::Public).bytes("weights", vec![7; 5000]).bytes("d/config", *b"{}");
    let (model, _) = store.put_artifact(builder)?;
    done.artifacts.push(model);
    let (share, _) = store.put_artifact(Manifest::builder("share@1", Secrecy::Party(0)).bytes("s", *b"share 0"))?;
    done.artifacts.push(share);
    let (log, _) = store.put_artifact(Manifest::builder("log@1", Secrecy::Public).bytes("log", *b"it ran"))?;
    done.artifacts.push(log);
    let record = record(model, log);
    done.results.push((record.key(), store.commit_result(&record)?));
    append(&mut journal, "committed", done)?;
    checkpoints.discard()?;
    done.checkpoint = None;
    run.mark_finished()?;
    done.finished = true;
    Ok(())
}

/// Opens the store without faults, and without real fsyncs: thousands of them would take minutes.
fn open(root: &Path) -> Store {
    let options = StoreOptions::read_write().index(false).files(Arc::new(FaultFiles::counting()));
    Store::open(root, options).expect("the store opens")
}

/// Every file below a folder.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

/// Every visible blob and record hashes to its name, and every record's artifacts are whole.
fn assert_sound(root: &Path, what: &str) {
    for area in ["blobs", "private", "results"] {
        for path in walk(&root.join(area)) {
            let name = path.file_name().and_then(|n| n.to_str()).expect("a name");
            let hex = name.trim_end_matches(".cbor").rsplit('-').next().expect("a digest");
            let mut hasher = Hasher::new();
            std::io::copy(&mut fs::File::open(&path).expect("opens"), &mut hasher).expect("reads");
            assert_eq!(hasher.finish(), Digest::from_hex(hex).expect("a digest"), "{what}: {}", path.display());
        }
    }
    let store = open(root);
    let found = store.all_results().expect("found");
    assert!(found.damaged.is_empty(), "{what}: {:?}", found.damaged);
    for result in found.records {
        for id in result.record.outputs.values().chain(&result.record.log) {
            assert!(store.verify_artifact(id).expect("checked").is_present(), "{what}: a record without its artifact");
        }
    }
}

fn assert_acknowledged(root: &Path, done: &Acknowledged, what: &str) {
    let store = open(root);
    for id in &done.artifacts {
        assert!(store.verify_artifact(id).expect("checked").is_present(), "{what}: artifact {id} is lost");
    }
    for (key, id) in &done.results {
        let found = store.find_results(key).expect("found");
        assert!(found.records.iter().any(|r| r.id == *id), "{what}: record {id} is lost");
    }
    let journal = root.join("runs").join(RunId::new(0, 1).as_str()).join("journal.log");
    let replay = Replay::read(&journal, RunId::new(0, 1).as_str()).expect("the journal reads");
    assert!(replay.payloads.starts_with(&done.frames), "{what}: frames are lost: {replay:?}");
    assert!(replay.payloads.len() <= done.frames.len() + 1, "{what}: frames that nobody wrote: {replay:?}");
    if let Some(step) = done.checkpoint {
        let latest = CheckpointStore::for_key(&store, key()).latest().expect("read");
        // The removal that begins after the last offer may have happened already.
        let discarding = done.frames.iter().any(|f| f == b"committed");
        let found = latest.as_ref().map(Checkpoint::step);
        assert!(found >= Some(step) || discarding, "{what}: checkpoint {step} is lost, {found:?} is the newest");
    }
    assert!(!done.finished || store.run(&RunId::new(0, 1)).expect("there").is_finished(), "{what}");
}

fn assert_finishes(root: &Path, expected: &[ArtifactId], what: &str) {
    let mut done = Acknowledged::default();
    let files: Arc<dyn Files> = Arc::new(FaultFiles::counting());
    workload(root, &files, &mut done).unwrap_or_else(|e| panic!("{what}: does not go on: {e:?}"));
    assert_eq!(done.artifacts, expected, "{what}: other artifacts than the uninterrupted run");
    assert_eq!(done.results.len(), 1);
}

/// Runs the workload with a fault at one operation; what it did, what it acknowledged, and how it ended.
fn with_fault(root: &Path, at: u64, fault: Fault) -> (FaultFiles, Acknowledged, Result<(), Failure>) {
    let faulty = FaultFiles::failing(at, fault);
    let mut done = Acknowledged::default();
    let files: Arc<dyn Files> = Arc::new(faulty.clone());
    let outcome = workload(root, &files, &mut done);
    (faulty, done, outcome)
}

/// The number of operations of an undisturbed workload, and what it produces.
fn undisturbed() -> (u64, Vec<ArtifactId>) {
    let dir = scratch();
    let (files, done, outcome) = with_fault(&dir.path().join("store"), u64::MAX, Fault::Crash);
    outcome.expect("undisturbed");
    assert!(files.operations() > 100, "the sweep would be too small: {}", files.operations());
    (files.operations(), done.artifacts)
}

#[test]
fn a_crash_at_any_operation_loses_nothing_acknowledged() {
    let (operations, expected) = undisturbed();
    for at in 0..operations {
        let dir = scratch();
        let root = dir.path().join("store");
        let (files, done, outcome) = with_fault(&root, at, Fault::Crash);
        let what = format!("crash at {at}, {}", files.trace().last().expect("an operation"));
        assert!(files.has_crashed(), "{what}");
        // Removing old checkpoints is best effort, so the workload may not notice; it does no more after it either way.
        assert!(outcome.is_err() || done.finished, "{what}");
        assert_sound(&root, &what);
        assert_acknowledged(&root, &done, &what);
        assert_finishes(&root, &expected, &what);
    }
}

#[test]
fn a_power_cut_at_any_operation_loses_nothing_acknowledged() {
    let (operations, expected) = undisturbed();
    for cut in [PowerCut::TakesAll, PowerCut::TakesSome(1), PowerCut::TakesSome(2), PowerCut::TakesSome(3)] {
        for at in 0..=operations {
            let dir = scratch();
            let root = dir.path().join("store");
            let (files, done, _) = with_fault(&root, at, Fault::Crash);
            let what = format!("{cut:?} at {at}, {}", files.trace().last().expect("an operation"));
            files.cut_power(cut).expect("cut");
            assert_sound(&root, &what);
            assert_acknowledged(&root, &done, &what);
            assert_finishes(&root, &expected, &what);
        }
    }
}

#[test]
fn sixty_power_cuts_of_one_store_lose_nothing_acknowledged() {
    let (operations, expected) = undisturbed();
    let dir = scratch();
    let root = dir.path().join("store");
    let (mut artifacts, mut results) = (Vec::new(), Vec::new());
    for round in 0..60_u64 {
        let at = round * 7919 % operations;
        let (files, done, _) = with_fault(&root, at, Fault::Crash);
        let what = format!("round {round}, at {at}");
        files.cut_power(PowerCut::TakesSome(round)).expect("cut");
        assert_sound(&root, &what);
        assert_acknowledged(&root, &done, &what);
        artifacts.extend(done.artifacts);
        results.extend(done.results);
        let ever = Acknowledged { artifacts: artifacts.clone(), results: results.clone(), ..Acknowledged::default() };
        let store = open(&root);
        for id in &ever.artifacts {
            assert!(store.verify_artifact(id).expect("checked").is_present(), "{what}: {id} of an earlier round is lost");
        }
        for (key, id) in &ever.results {
            let found = store.find_results(key).expect("found");
            assert!(found.records.iter().any(|r| r.id == *id), "{what}: {id} of an earlier round is lost");
        }
    }
    assert!(!results.is_empty(), "no round came as far as a record");
    assert_finishes(&root, &expected, "at last");
}

#[test]
fn a_failing_disk_never_looks_like_success() {
    let (operations, expected) = undisturbed();
    for fault in [Fault::Once(EIO), Fault::Always(EIO)] {
        for at in 0..operations {
            let dir = scratch();
            let root = dir.path().join("store");
            let (files, done, outcome) = with_fault(&root, at, fault);
            let failed = files.trace()[at as usize].clone();
            let what = format!("{fault:?} at {at}, {failed}");
            // Only the removal of what is no longer needed may fail unseen.
            assert!(outcome.is_err() || failed.starts_with("remove"), "{what}: success");
            // What was acknowledged beside the failure must be on the disk.
            files.cut_power(PowerCut::TakesAll).expect("cut");
            assert_sound(&root, &what);
            assert_acknowledged(&root, &done, &what);
            assert_finishes(&root, &expected, &what);
        }
    }
}

fn is_disk_full(failure: &Failure) -> Option<u64> {
    match failure {
        Failure::Store(StoreError::DiskFull { needed, .. })
        | Failure::Record(RecordError::Store(StoreError::DiskFull { needed, .. }))
        | Failure::Run(RunError::Store(StoreError::DiskFull { needed, .. }))
        | Failure::Checkpoint(CheckpointError::Store(StoreError::DiskFull { needed, .. }))
        | Failure::Log(LogError::DiskFull { needed, .. }) => Some(*needed),
        _ => None,
    }
}

#[test]
fn a_full_disk_is_named_with_the_bytes_needed_and_the_run_goes_on_once_there_is_room() {
    let (operations, expected) = undisturbed();
    for at in 0..operations {
        let dir = scratch();
        let root = dir.path().join("store");
        let (files, done, outcome) = with_fault(&root, at, Fault::Always(ENOSPC));
        let failed = files.trace()[at as usize].clone();
        let what = format!("full at {at}, {failed}");
        if let Err(failure) = &outcome {
            let needed = is_disk_full(failure).unwrap_or_else(|| panic!("{what}: {failure:?}"));
            assert!(needed > 0 || !failed.starts_with("write"), "{what}: no bytes needed");
        } else {
            assert!(failed.starts_with("remove"), "{what}: success");
        }
        assert_sound(&root, &what);
        assert_acknowledged(&root, &done, &what);
        assert_finishes(&root, &expected, &what);
    }
}
