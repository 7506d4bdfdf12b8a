use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::cas::{Store, StoreOptions};
use crate::encode::Value;
use crate::manifest::{ArtifactId, Manifest};
use crate::scratch::scratch;
use crate::secrecy::Secrecy;

fn open(root: &Path) -> Store {
    Store::open(root, StoreOptions::read_write().index(false)).expect("the store opens")
}

fn artifact(store: &Store, text: &str) -> ArtifactId {
    store.put_artifact(Manifest::builder("text@1", Secrecy::Public).bytes("t", text)).expect("stored").0
}

fn record(store: &Store, kind: &str, epsilon: u32, finished: u64) -> ResultRecord {
    ResultRecord {
        kind: kind.to_owned(),
        stage: format!("{kind}[epsilon={epsilon}]"),
        preimage: Value::map([("kind", kind.into()), ("params", Value::map([("epsilon", epsilon.into())]))]),
        outputs: BTreeMap::from([("out".to_owned(), artifact(store, &format!("{kind} {epsilon}")))]),
        run: "20261122-101530-1a2b3c4d".to_owned(),
        attempt: 1,
        started_unix_ms: finished - 5,
        finished_unix_ms: finished,
        host: "here".to_owned(),
        log: Some(artifact(store, "log")),
        metrics: BTreeMap::from([("accuracy".to_owned(), 0.937_5), ("loss".to_owned(), -1.25e-7)]),
        private: true,
    }
}

#[test]
fn a_record_reads_back_as_itself() {
    let dir = scratch();
    let store = open(dir.path());
    let record = record(&store, "finetune@1", 8, 1000);
    assert_eq!(ResultRecord::from_bytes(&record.to_bytes().expect("finite")).expect("reads back"), record);
    let id = store.commit_result(&record).expect("committed");
    assert_eq!(store.commit_result(&record).expect("committed again"), id);
    let found = open(dir.path()).find_results(&record.key()).expect("found");
    assert_eq!(found.records, [StoredResult { id, record }]);
    assert!(found.damaged.is_empty());
}

#[test]
fn the_newest_result_comes_first() {
    let dir = scratch();
    let store = open(dir.path());
    for finished in [3000, 1000, 2000] {
        store.commit_result(&record(&store, "finetune@1", 8, finished)).expect("committed");
    }
    store.commit_result(&record(&store, "finetune@1", 4, 9000)).expect("committed");
    let key = record(&store, "finetune@1", 8, 1000).key();
    let found = store.find_results(&key).expect("found");
    let times: Vec<_> = found.records.iter().map(|r| r.record.finished_unix_ms).collect();
    assert_eq!(times, [3000, 2000, 1000]);
    assert_eq!(found.newest().map(|r| r.record.finished_unix_ms), Some(3000));
}

#[test]
fn records_are_found_by_kind_by_stage_and_by_output() {
    let dir = scratch();
    let store = open(dir.path());
    for (kind, epsilon, finished) in [("a@1", 1, 10), ("a@1", 2, 20), ("b@1", 1, 30)] {
        store.commit_result(&record(&store, kind, epsilon, finished)).expect("committed");
    }
    let stages = |lookup: Lookup| lookup.records.into_iter().map(|r| r.record.stage).collect::<Vec<_>>();
    assert_eq!(stages(store.results_of_kind("a@1").expect("found")), ["a@1[epsilon=2]", "a@1[epsilon=1]"]);
    assert_eq!(stages(store.nearest_results("a@1", "a@1[epsilon=1]").expect("found")), ["a@1[epsilon=1]"]);
    assert_eq!(store.nearest_results("a@1", "gone").expect("found").records.len(), 2);
    assert_eq!(stages(store.all_results().expect("found")).len(), 3);
    let output = artifact(&store, "b@1 1");
    assert_eq!(stages(store.results_with_output(&output).expect("found")), ["b@1[epsilon=1]"]);
    assert!(store.results_of_kind("c@1").expect("found").records.is_empty());
}

#[test]
fn a_record_is_not_committed_before_what_it_names() {
    let dir = scratch();
    let store = open(dir.path());
    let mut record = record(&store, "a@1", 1, 10);
    record.outputs.insert("ghost".to_owned(), ArtifactId::new(crate::digest::Digest::of(b"ghost")));
    match store.commit_result(&record) {
        Err(RecordError::OutputMissing { name, .. }) => assert_eq!(name, "ghost"),
        other => panic!("{other:?}"),
    }
    assert!(store.find_results(&record.key()).expect("found").records.is_empty());
}

#[test]
fn a_metric_that_is_no_number_is_refused() {
    let dir = scratch();
    let store = open(dir.path());
    let mut record = record(&store, "a@1", 1, 10);
    record.metrics.insert("nan".to_owned(), f64::NAN);
    assert!(matches!(store.commit_result(&record), Err(RecordError::Metric { name, .. }) if name == "nan"));
}

#[test]
fn a_flipped_bit_anywhere_in_a_record_is_caught_and_the_older_result_remains() {
    let dir = scratch();
    let store = open(dir.path());
    let old = record(&store, "a@1", 1, 10);
    let new = record(&store, "a@1", 1, 20);
    let key = new.key();
    let old_id = store.commit_result(&old).expect("committed");
    let length = new.to_bytes().expect("finite").len();
    for at in (0..length).step_by(17).chain([0, length - 1]) {
        let id = store.commit_result(&new).expect("committed");
        let path = store.record_path(&key, &id);
        let mut bytes = fs::read(&path).expect("there");
        bytes[at] ^= 1 << (at % 8);
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("ours");
        fs::write(&path, &bytes).expect("written");
        let found = store.find_results(&key).expect("found");
        assert_eq!(found.records, [StoredResult { id: old_id, record: old.clone() }], "byte {at}");
        assert_eq!(found.damaged.len(), 1);
        assert_eq!(found.damaged[0].path, path);
        assert!(matches!(found.damaged[0].error, RecordError::Digest { .. }));
        assert!(!path.exists() && found.damaged[0].quarantined.as_ref().is_some_and(|p| p.exists()));
    }
}

#[test]
fn a_record_under_another_key_is_refused() {
    let dir = scratch();
    let store = open(dir.path());
    let record = record(&store, "a@1", 1, 10);
    let id = store.commit_result(&record).expect("committed");
    let other = ActionKey::of(&Value::Null);
    let to = store.record_path(&other, &id);
    fs::create_dir_all(to.parent().expect("a folder")).expect("created");
    fs::copy(store.record_path(&record.key(), &id), &to).expect("copied");
    let found = store.find_results(&other).expect("found");
    assert!(found.records.is_empty());
    assert!(matches!(found.damaged[0].error, RecordError::Key { .. }));
}

#[test]
fn records_that_lie_about_their_key_or_shape_are_refused() {
    let dir = scratch();
    let store = open(dir.path());
    let good = record(&store, "a@1", 1, 10).to_bytes().expect("finite");
    let edit = |name: &str, value: Option<Value>| {
        let Ok(Value::Map(mut map)) = Value::from_bytes(&good) else { panic!("a map") };
        match value {
            Some(value) => drop(map.insert(name.to_owned(), value)),
            None => drop(map.remove(name)),
        }
        ResultRecord::from_bytes(&Value::Map(map).to_bytes())
    };
    assert!(matches!(edit("preimage", Some(Value::Null)), Err(RecordError::Key { .. })));
    assert!(matches!(edit("version", Some(2_u8.into())), Err(RecordError::Version { found: 2, known: 1 })));
    assert!(matches!(edit("extra", Some(Value::Null)), Err(RecordError::Structure(_))));
    assert!(matches!(edit("host", None), Err(RecordError::Structure(_))));
    assert!(matches!(edit("attempt", Some(Value::Int(-1))), Err(RecordError::Structure(_))));
    assert!(matches!(edit("outputs", Some(Value::map([("x", Value::Null)]))), Err(RecordError::Structure(_))));
    assert!(matches!(ResultRecord::from_bytes(b""), Err(RecordError::Decode(_))));
}

#[test]
fn a_record_of_a_later_version_is_left_where_it_is() {
    let dir = scratch();
    let store = open(dir.path());
    let record = record(&store, "a@1", 1, 10);
    let Ok(Value::Map(mut map)) = Value::from_bytes(&record.to_bytes().expect("finite")) else { panic!("a map") };
    map.insert("version".to_owned(), Value::Int(2));
    let bytes = Value::Map(map).to_bytes();
    let path = store.record_path(&record.key(), &ResultId::new(crate::digest::Digest::of(&bytes)));
    fs::create_dir_all(path.parent().expect("a folder")).expect("created");
    fs::write(&path, bytes).expect("written");
    let found = store.find_results(&record.key()).expect("found");
    assert!(matches!(found.damaged[0].error, RecordError::Version { .. }));
    assert!(path.exists());
}
