use std::collections::BTreeMap;
use std::path::Path;

use super::memory::{Inverter, Memory};
use super::*;
use crate::manifest::{ArtifactId, Manifest};
use crate::records::ResultRecord;
use crate::runs::{CheckpointBuilder, CheckpointStore};
use crate::scratch::scratch;
use crate::secrecy::Secrecy;
use crate::{ActionKey, Check, Store, StoreOptions, Value};

fn open(dir: &Path) -> Store {
    Store::open(dir.join("store"), StoreOptions::read_write().index(false)).expect("a store")
}

fn remote(memory: &Memory) -> Remote {
    Remote::new(Box::new(memory.clone()), None)
}

fn sealing(memory: &Memory, opens: bool) -> Remote {
    Remote::new(Box::new(memory.clone()), Some(Box::new(Inverter { opens })))
}

fn put(store: &Store, secrecy: Secrecy, text: &str) -> ArtifactId {
    let builder = Manifest::builder("thing@1", secrecy).bytes("a", text).bytes("b", "the same in all");
    store.put_artifact(builder).expect("stored").0
}

fn result(store: &Store, outputs: &[(&str, Secrecy, &str)]) -> ResultRecord {
    let outputs = outputs.iter().map(|(name, secrecy, text)| ((*name).to_owned(), put(store, *secrecy, text)));
    let record = ResultRecord {
        kind: "kind@1".to_owned(),
        stage: "stage".to_owned(),
        preimage: Value::map([("kind", "kind".into())]),
        outputs: outputs.collect(),
        run: "20261122-101530-1a2b3c4d".to_owned(),
        attempt: 1,
        started_unix_ms: 1,
        finished_unix_ms: 2,
        host: "here".to_owned(),
        log: None,
        metrics: BTreeMap::new(),
        private: true,
    };
    store.commit_result(&record).expect("committed");
    record
}

const CANARY: &str = "only the owner may read this";

#[test]
fn a_public_result_is_found_by_another_machine_byte_for_byte() {
    let (here, there, memory) = (scratch(), scratch(), Memory::default());
    let (a, b) = (open(here.path()), open(there.path()));
    let record = result(&a, &[("x", Secrecy::Public, "one"), ("y", Secrecy::Public, "two")]);
    let pushed = remote(&memory).push(&a, &record).expect("pushed");
    assert_eq!((pushed.objects, &pushed.verdict), (3 + 2 + 1, &Verdict::First), "three blobs, two manifests, one record");
    let again = remote(&memory).push(&a, &record).expect("pushed");
    assert_eq!((again.objects, again.verdict), (0, Verdict::Already));
    assert_eq!(remote(&memory).pull(&b, &record.key()).expect("pulled"), Some(record.clone()));
    for id in record.outputs.values() {
        assert!(b.has_artifact(id, Check::Full).expect("looked").is_present());
    }
    assert_eq!(b.find_results(&record.key()).expect("found").records.len(), 1);
}

#[test]
fn of_sixteen_writers_of_one_action_one_is_first_and_the_others_are_kept_beside_it() {
    let memory = Memory::default();
    let verdicts: Vec<Verdict> = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..16)
            .map(|n| {
                let memory = memory.clone();
                scope.spawn(move || {
                    let dir = scratch();
                    let store = open(dir.path());
                    let record = result(&store, &[("x", Secrecy::Public, &format!("value {n}"))]);
                    let remote = remote(&memory);
                    let verdict = remote.push(&store, &record).expect("pushed").verdict;
                    // One that lost the race between looking and creating says so, and its record follows at the next push.
                    if let Verdict::Differs { .. } = verdict {
                        let again = remote.push(&store, &record).expect("pushed");
                        assert!(matches!(again.verdict, Verdict::Differs { .. }));
                    }
                    verdict
                })
            })
            .collect();
        writers.into_iter().map(|w| w.join().expect("no panic")).collect()
    });
    assert_eq!(verdicts.iter().filter(|v| **v == Verdict::First).count(), 1, "{verdicts:?}");
    let names = memory.names();
    assert_eq!(names.iter().filter(|n| n.ends_with("/first")).count(), 1);
    assert_eq!(names.iter().filter(|n| n.contains("/alt/")).count(), 15);
}

#[test]
fn an_answer_lost_after_the_commit_is_a_success_at_the_next_try() {
    let (dir, memory) = (scratch(), Memory::default());
    let store = open(dir.path());
    let record = result(&store, &[("x", Secrecy::Public, "one")]);
    let mut tries = 0;
    let pushed = loop {
        memory.faults.lock().expect("no panic").lost_answers = 1;
        match remote(&memory).push(&store, &record) {
            Ok(pushed) => break pushed,
            Err(error) => assert!(error.is_unavailable(), "{error}"),
        }
        tries += 1;
        assert!(tries < 10, "every try creates one object more");
    };
    assert_eq!((tries, pushed.verdict), (4, Verdict::Already));
}

#[test]
fn a_share_never_leaves_and_keeps_its_record_here() {
    let (dir, memory) = (scratch(), Memory::default());
    let store = open(dir.path());
    let record = result(&store, &[("public", Secrecy::Public, "fine"), ("share0", Secrecy::Party(0), CANARY)]);
    let pushed = sealing(&memory, true).push(&store, &record).expect("looked at");
    assert_eq!(pushed.verdict, Verdict::Stays { output: "share0".to_owned(), secrecy: Secrecy::Party(0) });
    assert!(memory.names().is_empty(), "{:?}", memory.names());
    let manifest = store.read_artifact(&record.outputs["share0"]).expect("there");
    assert!(crate::manifest::PublicArtifact::try_from(manifest.clone()).is_err());
    assert!(crate::manifest::SecretArtifact::try_from(manifest).is_err());
}

#[test]
fn a_secret_leaves_sealed_or_not_at_all() {
    let (here, there, memory) = (scratch(), scratch(), Memory::default());
    let (a, b) = (open(here.path()), open(there.path()));
    let record = result(&a, &[("data", Secrecy::Secret, CANARY)]);
    let pushed = remote(&memory).push(&a, &record).expect("looked at");
    assert!(matches!(pushed.verdict, Verdict::Stays { secrecy: Secrecy::Secret, .. }));
    assert!(memory.names().is_empty());

    assert_eq!(sealing(&memory, false).push(&a, &record).expect("pushed").verdict, Verdict::First);
    for (name, bytes) in &*memory.objects.lock().expect("no panic") {
        assert!(!bytes.windows(CANARY.len()).any(|w| w == CANARY.as_bytes()), "{name} shows the secret");
    }
    assert_eq!(sealing(&memory, false).pull(&b, &record.key()).expect("looked"), None, "without the identity it is a miss");
    assert_eq!(sealing(&memory, true).pull(&b, &record.key()).expect("pulled"), Some(record.clone()));
    let manifest = b.read_artifact(&record.outputs["data"]).expect("there");
    assert_eq!((manifest.secrecy(), b.read_file(&manifest, "a").expect("read")), (Secrecy::Secret, CANARY.into()));
}

#[test]
fn damage_of_any_object_is_never_taken_for_a_result() {
    let (here, memory) = (scratch(), Memory::default());
    let a = open(here.path());
    let record = result(&a, &[("x", Secrecy::Public, "one"), ("s", Secrecy::Secret, "two")]);
    sealing(&memory, true).push(&a, &record).expect("pushed");
    for name in memory.names() {
        let good = memory.objects.lock().expect("no panic")[&name].clone();
        for at in [0, good.len() / 2, good.len() - 1] {
            memory.objects.lock().expect("no panic").get_mut(&name).expect("there")[at] ^= 1;
            let there = scratch();
            let b = open(there.path());
            let outcome = sealing(&memory, true).pull(&b, &record.key());
            if let Ok(Some(pulled)) = &outcome {
                // The record itself carries numbers and names that nothing commits to; its outputs are what counts.
                assert!(name.ends_with("/first"), "{name} was damaged and {pulled:?} came of it");
                for id in pulled.outputs.values() {
                    assert!(b.has_artifact(id, Check::Full).expect("looked").is_present());
                }
            }
            memory.objects.lock().expect("no panic").insert(name.clone(), good.clone());
        }
        memory.objects.lock().expect("no panic").remove(&name);
        let there = scratch();
        let gone = sealing(&memory, true).pull(&open(there.path()), &record.key()).expect("a missing object is a miss");
        assert_eq!(gone, None, "{name} is missing");
        memory.objects.lock().expect("no panic").insert(name, good);
    }
}

#[test]
fn a_transfer_cut_short_is_repeated() {
    let (here, there, memory) = (scratch(), scratch(), Memory::default());
    let (a, b) = (open(here.path()), open(there.path()));
    let id = put(&a, Secrecy::Public, "one");
    let manifest = a.read_artifact(&id).expect("there");
    let file = manifest.file("a").expect("there");
    let path = a.verified_file(&manifest, "a").expect("there");
    let body = Body::File { path: &path, size: file.size(), note: None };
    memory.create(&names::blob(file.digest()), body).expect("created");
    memory.faults.lock().expect("no panic").cut_reads = 1;
    assert!(remote(&memory).pull_blob(&b, file.digest(), Secrecy::Public).expect("the second time it is whole"));
}

fn key() -> ActionKey {
    ActionKey::of(&Value::map([("kind", "train".into())]))
}

fn offer(store: &Store, text: &str) {
    CheckpointStore::for_key(store, key()).offer(&CheckpointBuilder::new(7).bytes("bundle", text)).expect("offered");
}

fn latest(store: &Store) -> Option<String> {
    let found = CheckpointStore::for_key(store, key()).latest().expect("read")?;
    Some(String::from_utf8(found.file("bundle").expect("there").to_vec()).expect("text"))
}

#[test]
fn a_lost_machine_is_continued_elsewhere_from_its_last_checkpoint() {
    let (here, there, memory) = (scratch(), scratch(), Memory::default());
    let (a, b) = (open(here.path()), open(there.path()));
    for n in 1..=4 {
        offer(&a, &format!("{CANARY} {n}"));
        let pushed = sealing(&memory, false).push_checkpoint(&a, key()).expect("pushed");
        assert!(matches!(pushed, CheckpointUpload::Pushed { sequence, .. } if sequence == n));
    }
    assert_eq!(memory.names().len(), 2, "the newest two are kept");
    for bytes in memory.objects.lock().expect("no panic").values() {
        assert!(!bytes.windows(CANARY.len()).any(|w| w == CANARY.as_bytes()));
    }
    drop(here);
    let ledgers = there.path();
    let locked = sealing(&memory, false).restore(&b, key(), ledgers).expect("looked");
    assert!(locked.locked && locked.checkpoint.is_none());
    let restored = sealing(&memory, true).restore(&b, key(), ledgers).expect("restored");
    assert_eq!((restored.checkpoint, latest(&b)), (Some(4), Some(format!("{CANARY} 4"))));
    offer(&b, "five");
    sealing(&memory, true).push_checkpoint(&b, key()).expect("pushed");
    assert!(memory.names().iter().any(|n| n.contains("/0000000005-")), "{:?}", memory.names());
    sealing(&memory, true).discard_checkpoints(&key()).expect("removed");
    assert!(memory.names().is_empty());
}

#[test]
fn a_damaged_checkpoint_gives_way_to_the_one_before() {
    let (here, there, memory) = (scratch(), scratch(), Memory::default());
    let (a, b) = (open(here.path()), open(there.path()));
    for text in ["one", "two"] {
        offer(&a, text);
        sealing(&memory, true).push_checkpoint(&a, key()).expect("pushed");
    }
    let newest = memory.names().pop().expect("two");
    memory.objects.lock().expect("no panic").get_mut(&newest).expect("there")[9] ^= 4;
    let restored = sealing(&memory, true).restore(&b, key(), there.path()).expect("restored");
    assert_eq!((restored.checkpoint, latest(&b).as_deref()), (Some(1), Some("one")));
}

#[test]
fn without_the_owners_key_checkpoints_stay() {
    let (here, memory) = (scratch(), Memory::default());
    let a = open(here.path());
    offer(&a, CANARY);
    assert_eq!(remote(&memory).push_checkpoint(&a, key()).expect("looked"), CheckpointUpload::Stays);
    assert!(memory.names().is_empty());
}

#[test]
fn every_charge_survives_its_machine_and_two_machines_cannot_charge_at_once() {
    let (here, there, memory) = (scratch(), scratch(), Memory::default());
    let (a, b, remote) = (here.path().join("a"), there.path().join("b"), remote(&memory));
    std::fs::create_dir_all(&a).expect("a folder");
    std::fs::create_dir_all(&b).expect("a folder");
    let (mine, other) = (a.join("privacy.ledger"), b.join("privacy.ledger"));
    // Lines from before there was a remote, and an append that never finished.
    std::fs::write(&mine, "open\ncharge 1\ncha").expect("written");
    assert_eq!(remote.restore_ledgers(&key(), &a).expect("pushed"), 0);
    // The torn tail is cut off and replaced.
    remote.push_ledger_line(&key(), "privacy.ledger", 14, b"recovered\n").expect("pushed");
    remote.push_ledger_line(&key(), "privacy.ledger", 24, b"charge 2\n").expect("pushed");
    remote.push_ledger_line(&key(), "privacy.ledger", 24, b"charge 2\n").expect("an answer that got lost");
    // The machine is lost before it wrote the last line down itself.
    assert_eq!(remote.restore_ledgers(&key(), &b).expect("restored"), 33);
    assert_eq!(std::fs::read_to_string(&other).expect("there"), "open\ncharge 1\nrecovered\ncharge 2\n");
    remote.push_ledger_line(&key(), "privacy.ledger", 33, b"charge 3, there\n").expect("pushed");
    // It was not lost after all.
    let refused = remote.push_ledger_line(&key(), "privacy.ledger", 33, b"charge 3, here\n").expect_err("taken");
    assert!(matches!(refused, RemoteError::Diverged { offset: 33, .. }));
    std::fs::write(&mine, "open\ncharge 1\nrecovered\ncharge 2\ncharge 3, here\n").expect("written");
    let refused = remote.restore_ledgers(&key(), &a).expect_err("the two differ");
    assert!(matches!(refused, RemoteError::Diverged { offset: 43, .. }), "{refused}");
}
