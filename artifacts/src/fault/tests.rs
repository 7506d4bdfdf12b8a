use std::fs;
use std::io::Write;

use super::*;
use crate::files::Files;
use crate::scratch::scratch;

#[test]
fn the_chosen_operation_fails_and_a_crash_ends_everything() {
    let dir = scratch();
    let path = |name: &str| dir.path().join(name);
    let once = FaultFiles::failing(1, Fault::Once(5));
    once.create_dir(&path("a"), 0o755).expect("operation 0");
    assert_eq!(once.create_dir(&path("b"), 0o755).expect_err("operation 1").raw_os_error(), Some(5));
    once.create_dir(&path("b"), 0o755).expect("operation 2");
    assert_eq!((once.operations(), once.trace().len()), (3, 3));

    let always = FaultFiles::failing(0, Fault::Always(28));
    for _ in 0..3 {
        assert_eq!(always.create_dir(&path("c"), 0o755).expect_err("fails").raw_os_error(), Some(28));
    }

    let crash = FaultFiles::failing(1, Fault::Crash);
    let mut file = crash.create_new(&path("f"), 0o644).expect("operation 0");
    file.write_all(b"12345678").expect_err("operation 1");
    assert_eq!(fs::read(path("f")).expect("there"), b"1234", "the crash comes in the middle of the write");
    assert!(crash.has_crashed());
    file.sync().expect_err("dead");
    crash.create_dir(&path("d"), 0o755).expect_err("dead");
    assert!(!path("d").exists());
}

#[test]
fn a_power_cut_takes_what_was_not_forced_to_the_disk_and_nothing_else() {
    let dir = scratch();
    let path = |name: &str| dir.path().join(name);
    let files = FaultFiles::counting();
    // Durable: bytes forced down, name forced down. Then more bytes that are not.
    let mut durable = files.create_new(&path("durable"), 0o444).expect("created");
    durable.write_all(b"kept").expect("written");
    durable.sync().expect("synced");
    files.sync_dir(dir.path()).expect("synced");
    durable.write_all(b" lost").expect("written");
    // Its bytes forced down, its name not.
    let mut nameless = files.create_new(&path("nameless"), 0o644).expect("created");
    nameless.write_all(b"x").expect("written");
    nameless.sync().expect("synced");
    files.create_dir(&path("folder"), 0o755).expect("created");
    files.cut_power(PowerCut::TakesAll).expect("cut");
    assert_eq!(fs::read(path("durable")).expect("there"), b"kept");
    assert!(!path("nameless").exists() && !path("folder").exists());
}

#[test]
fn a_power_cut_undoes_renames_and_removals_that_were_not_forced_to_the_disk() {
    let dir = scratch();
    let path = |name: &str| dir.path().join(name);
    for synced in [false, true] {
        let files = FaultFiles::counting();
        for name in ["from", "gone"] {
            let mut file = files.create_new(&path(name), 0o644).expect("created");
            file.write_all(b"x").expect("written");
            file.sync().expect("synced");
        }
        files.sync_dir(dir.path()).expect("synced");
        files.rename_no_replace(&path("from"), &path("to")).expect("renamed");
        files.remove_file(&path("gone")).expect("removed");
        if synced {
            files.sync_dir(dir.path()).expect("synced");
        }
        files.cut_power(PowerCut::TakesAll).expect("cut");
        let there: Vec<_> = ["from", "to", "gone"].into_iter().filter(|name| path(name).exists()).collect();
        assert_eq!(there, if synced { vec!["to"] } else { vec!["from", "gone"] });
        for name in there {
            fs::remove_file(path(name)).expect("removed");
        }
    }
}
