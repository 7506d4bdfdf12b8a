use std::path::Path;

use super::*;
use crate::cas::{Store, StoreOptions};
use crate::scratch::scratch;

fn open(root: &Path) -> Store {
    Store::open(root, StoreOptions::read_write().index(false)).expect("the store opens")
}

fn owner(pid: u32) -> Owner {
    Owner { pid, host: "here".to_owned(), since_unix_ms: 7 }
}

#[test]
fn run_names_carry_the_date_and_sort_by_time() {
    // 2026-11-22 10:15:30 UTC, a leap day, the first second, and the last one of 2099.
    let rows = [
        (1_795_342_530_000, "20261122-101530-0000002a"),
        (1_709_164_800_000, "20240229-000000-0000002a"),
        (0, "19700101-000000-0000002a"),
        (4_102_444_799_000, "20991231-235959-0000002a"),
    ];
    for (unix_ms, text) in rows {
        assert_eq!(RunId::new(unix_ms, 42).as_str(), text);
        assert_eq!(text.parse::<RunId>().expect("a name"), RunId::new(unix_ms, 42));
    }
    for text in ["", "..", "20261122-101530", "20261122-101530-XYZ45678", "2026112-2101530-0000002a", "a/b-c-d"] {
        assert!(text.parse::<RunId>().is_err(), "{text:?}");
    }
}

#[test]
fn runs_are_listed_newest_first() {
    let dir = scratch();
    let store = open(dir.path());
    assert_eq!(store.runs().expect("listed"), []);
    let ids: Vec<_> = [5_000, 1_000, 9_000].map(|ms| RunId::new(ms, 1)).to_vec();
    for id in &ids {
        store.create_run(id).expect("created");
    }
    std::fs::create_dir(dir.path().join("runs").join("rubbish")).expect("created");
    assert_eq!(store.runs().expect("listed"), [ids[2].clone(), ids[0].clone(), ids[1].clone()]);
    assert!(matches!(store.create_run(&ids[0]), Err(RunError::Exists { .. })));
    assert!(matches!(store.run(&RunId::new(0, 0)), Err(RunError::NoSuchRun { .. })));
}

#[test]
fn a_run_has_one_owner_and_a_second_is_told_which() {
    let dir = scratch();
    let store = open(dir.path());
    let run = store.create_run(&RunId::new(0, 1)).expect("created");
    assert_eq!(run.holder(), None);
    let lock = run.lock(&owner(17)).expect("free");
    match run.lock(&owner(18)) {
        Err(error @ RunError::Locked { .. }) => {
            assert_eq!(error.to_string(), "the run is driven by process 17 on here");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(run.holder(), Some(owner(17)));
    drop(lock);
    assert_eq!(run.holder(), None);
    let _lock = run.lock(&owner(18)).expect("free again");
    assert_eq!(run.holder(), Some(owner(18)));
}

#[test]
fn a_runs_files_are_written_once_and_stay_in_its_folder() {
    let dir = scratch();
    let store = open(dir.path());
    let run = store.create_run(&RunId::new(0, 1)).expect("created");
    assert_eq!(run.read("plan.cbor").expect("read"), None);
    run.write_once("plan.cbor", b"plan").expect("written");
    run.write_once("plan.cbor", b"plan").expect("the same bytes");
    assert!(run.write_once("plan.cbor", b"another plan").is_err());
    assert_eq!(run.read("plan.cbor").expect("read").as_deref(), Some(&b"plan"[..]));
    for name in ["", ".", "..", "../x", "a/b", "a\\b"] {
        assert!(matches!(run.write_once(name, b""), Err(RunError::Name { .. })), "{name:?}");
    }
    assert!(!run.is_finished());
    run.mark_finished().expect("marked");
    run.mark_finished().expect("marked again");
    assert!(run.is_finished());
}
