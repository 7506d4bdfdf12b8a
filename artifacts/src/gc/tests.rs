use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::*;
use crate::cas::{Presence, Store, StoreOptions};
use crate::encode::Value;
use crate::manifest::{ArtifactId, Manifest};
use crate::records::ResultRecord;
use crate::runs::{CheckpointBuilder, CheckpointStore, RunId};
use crate::scratch::scratch;
use crate::secrecy::Secrecy;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn open(root: &Path) -> Store {
    Store::open(root, StoreOptions::read_write().index(false)).expect("the store opens")
}

fn artifact(store: &Store, secrecy: Secrecy, text: &str) -> ArtifactId {
    store.put_artifact(Manifest::builder("text@1", secrecy).bytes("t", text)).expect("stored").0
}

fn commit(store: &Store, key: u32, finished: u64, run: &RunId, output: ArtifactId) -> ResultRecord {
    let record = ResultRecord {
        kind: "a@1".to_owned(),
        stage: "a".to_owned(),
        preimage: key.into(),
        outputs: BTreeMap::from([("out".to_owned(), output)]),
        run: run.to_string(),
        attempt: 1,
        started_unix_ms: 0,
        finished_unix_ms: finished,
        host: "here".to_owned(),
        log: None,
        metrics: BTreeMap::new(),
        private: true,
    };
    store.commit_result(&record).expect("committed");
    record
}

/// A collection that happens `days` from now.
fn options(days: u32, apply: bool) -> GcOptions {
    let now = SystemTime::now() + DAY * days;
    GcOptions { apply, keep_results: 1, ..GcOptions::dry_run(now) }
}

fn present(store: &Store, id: &ArtifactId) -> bool {
    store.verify_artifact(id).expect("checked").is_present()
}

/// Whether the manifest still lies in its place; asking the store would bring it back.
fn in_place(root: &Path, id: &ArtifactId) -> bool {
    let hex = id.to_hex();
    ["blobs/b3", "private/secret/b3"].iter().any(|area| root.join(area).join(&hex[..2]).join(&hex).exists())
}

struct Scene {
    dir: tempfile::TempDir,
    newest: ArtifactId,
    older: ArtifactId,
    pinned: ArtifactId,
    orphan: ArtifactId,
    secret_orphan: ArtifactId,
    of_unfinished: [ArtifactId; 2],
}

fn scene() -> Scene {
    let dir = scratch();
    let store = open(dir.path());
    let public = |text| artifact(&store, Secrecy::Public, text);
    let (finished, unfinished) = (RunId::new(0, 1), RunId::new(0, 2));
    store.create_run(&finished).expect("created").mark_finished().expect("marked");
    store.create_run(&unfinished).expect("created");
    let (newest, older, pinned, orphan) = (public("newest"), public("older"), public("pinned"), public("orphan"));
    let of_unfinished = [public("first"), public("second")];
    let secret_orphan = artifact(&store, Secrecy::Secret, "secret orphan");
    commit(&store, 1, 10, &finished, older);
    commit(&store, 1, 20, &finished, newest);
    commit(&store, 2, 10, &unfinished, of_unfinished[0]);
    commit(&store, 2, 20, &unfinished, of_unfinished[1]);
    store.pin("keep", &pinned).expect("pinned");
    Scene { dir, newest, older, pinned, orphan, secret_orphan, of_unfinished }
}

#[test]
fn roots_live_and_the_rest_is_set_aside() {
    let s = scene();
    let report = collect(s.dir.path(), &options(2, true)).expect("collected");
    assert_eq!((report.roots, report.live), (4, 8));
    for id in [s.newest, s.pinned, s.of_unfinished[0], s.of_unfinished[1]] {
        assert!(in_place(s.dir.path(), &id));
    }
    for id in [s.older, s.orphan, s.secret_orphan] {
        assert!(!in_place(s.dir.path(), &id));
    }
    // Two blobs for each of three artifacts, and the older record.
    assert_eq!(report.set_aside.len(), 7);
    let store = open(s.dir.path());
    let found = store.all_results().expect("found");
    assert_eq!((found.records.len(), found.damaged.len()), (3, 0));
}

#[test]
fn a_dry_run_changes_nothing_and_foretells_the_real_one() {
    let s = scene();
    let foretold = collect(s.dir.path(), &options(2, false)).expect("collected");
    for id in [s.newest, s.older, s.pinned, s.orphan, s.secret_orphan] {
        assert!(in_place(s.dir.path(), &id));
    }
    let done = collect(s.dir.path(), &options(2, true)).expect("collected");
    assert_eq!(GcReport { applied: true, ..foretold }, done);
}

#[test]
fn what_is_younger_than_the_grace_period_is_spared() {
    let s = scene();
    for days in [0, 1] {
        let now = options(days, true);
        let report = collect(s.dir.path(), &GcOptions { now: now.now - Duration::from_secs(60), ..now }).expect("collected");
        assert_eq!(report.set_aside, []);
    }
    assert!(in_place(s.dir.path(), &s.orphan));
}

#[test]
fn what_was_set_aside_comes_back_when_asked_for() {
    let s = scene();
    collect(s.dir.path(), &options(2, true)).expect("collected");
    let store = open(s.dir.path());
    assert!(present(&store, &s.orphan));
    assert!(present(&store, &s.secret_orphan));
    assert_eq!(store.read_artifact(&s.secret_orphan).expect("back").secrecy(), Secrecy::Secret);
    assert!(in_place(s.dir.path(), &s.orphan) && in_place(s.dir.path(), &s.secret_orphan));
}

#[test]
fn what_was_set_aside_is_deleted_by_a_later_collection() {
    let s = scene();
    collect(s.dir.path(), &options(2, true)).expect("collected");
    let soon = collect(s.dir.path(), &options(2, true)).expect("collected");
    assert_eq!(soon.deleted, []);
    let later = collect(s.dir.path(), &options(4, true)).expect("collected");
    assert_eq!(later.deleted.len(), 7);
    let store = open(s.dir.path());
    assert!(matches!(store.verify_artifact(&s.orphan).expect("checked"), Presence::Missing(_)));
    assert!(present(&store, &s.newest));
}

#[test]
fn a_collection_and_a_writer_exclude_each_other() {
    let s = scene();
    let writer = open(s.dir.path());
    assert!(matches!(collect(s.dir.path(), &options(2, true)), Err(GcError::InUse { .. })));
    collect(s.dir.path(), &options(2, false)).expect("a dry run only reads");
    let _reader = Store::open(s.dir.path(), StoreOptions::read_only()).expect("opens");
    drop(writer);
    collect(s.dir.path(), &options(2, true)).expect("collected");
}

#[test]
fn pins_keep_and_unpinning_lets_go() {
    let s = scene();
    let store = open(s.dir.path());
    store.pin("keep", &s.pinned).expect("the same pin");
    assert!(matches!(store.pin("keep", &s.newest), Err(PinError::Taken { .. })));
    for name in ["", ".hidden", "a/b", "..", "a b"] {
        assert!(matches!(store.pin(name, &s.pinned), Err(PinError::Name { .. })), "{name:?}");
    }
    assert!(matches!(store.pin("ghost", &ArtifactId::new(crate::digest::Digest::of(b"?"))), Err(PinError::Store(_))));
    assert_eq!(store.pins().expect("listed"), BTreeMap::from([("keep".to_owned(), s.pinned)]));
    store.unpin("keep").expect("unpinned");
    assert!(matches!(store.unpin("keep"), Err(PinError::NoSuchPin { .. })));
    drop(store);
    collect(s.dir.path(), &options(2, true)).expect("collected");
    assert!(!in_place(s.dir.path(), &s.pinned));
}

#[test]
fn a_pin_that_cannot_be_read_stops_the_collection() {
    let s = scene();
    fs::write(s.dir.path().join("pins").join("broken"), "b3:zz").expect("written");
    assert!(collect(s.dir.path(), &options(2, true)).is_err());
    assert!(in_place(s.dir.path(), &s.orphan));
}

#[test]
fn checkpoints_go_once_their_action_has_a_result() {
    let s = scene();
    let store = open(s.dir.path());
    let keys = [1_u32, 77].map(|n| crate::records::ActionKey::of(&Value::from(n)));
    for key in keys {
        CheckpointStore::for_key(&store, key).offer(&CheckpointBuilder::new(1).bytes("m", *b"x")).expect("offered");
    }
    drop(store);
    collect(s.dir.path(), &options(2, true)).expect("collected");
    let store = open(s.dir.path());
    let left = keys.map(|key| CheckpointStore::for_key(&store, key).latest().expect("read").is_some());
    assert_eq!(left, [false, true]);
}
