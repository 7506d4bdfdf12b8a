use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::*;
use crate::cas::{Store, StoreOptions};
use crate::records::ActionKey;
use crate::scratch::scratch;

fn open(root: &Path) -> Store {
    Store::open(root, StoreOptions::read_write().index(false)).expect("the store opens")
}

fn key(n: u32) -> ActionKey {
    ActionKey::of(&n.into())
}

fn builder(step: u64) -> CheckpointBuilder {
    CheckpointBuilder::new(step).bytes("model", vec![step as u8; 3000]).bytes("rng", step.to_le_bytes())
}

fn files(root: &Path, key: &ActionKey) -> Vec<PathBuf> {
    let dir = root.join("private/secret/checkpoints").join(key.to_hex());
    let mut files: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.sort();
    files
}

#[test]
fn the_newest_checkpoint_comes_back_and_two_are_kept() {
    let dir = scratch();
    let store = open(dir.path());
    let checkpoints = CheckpointStore::for_key(&store, key(1));
    assert!(checkpoints.latest().expect("read").is_none());
    for step in [10, 20, 30, 20] {
        checkpoints.offer(&builder(step)).expect("offered");
        let latest = checkpoints.latest().expect("read").expect("there");
        assert_eq!(latest.step(), step);
        assert_eq!(latest.file("model"), Some(&vec![step as u8; 3000][..]));
        assert_eq!(latest.file("rng"), Some(&step.to_le_bytes()[..]));
        assert_eq!(latest.file("none"), None);
        assert_eq!(latest.names().collect::<Vec<_>>(), ["model", "rng"]);
    }
    let left = files(dir.path(), &key(1));
    assert_eq!(left.len(), 2);
    for path in left {
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o400);
        assert_eq!(fs::metadata(path.parent().expect("a folder")).expect("there").mode() & 0o777, 0o700);
    }
    checkpoints.discard().expect("discarded");
    assert!(checkpoints.latest().expect("read").is_none());
}

#[test]
fn as_many_checkpoints_are_kept_as_asked_for_and_never_none() {
    let dir = scratch();
    let store = open(dir.path());
    for (keep, left) in [(3, 3), (0, 1), (1, 1), (2, 2)] {
        let checkpoints = CheckpointStore::for_key(&store, key(1)).keeping(keep);
        for step in 0..5 {
            checkpoints.offer(&builder(step)).expect("offered");
        }
        assert_eq!(files(dir.path(), &key(1)).len(), left, "keep {keep}");
        assert_eq!(checkpoints.latest().expect("read").expect("there").step(), 4);
    }
}

#[test]
fn a_checkpoint_belongs_to_one_action() {
    let dir = scratch();
    let store = open(dir.path());
    CheckpointStore::for_key(&store, key(1)).offer(&builder(10)).expect("offered");
    assert!(CheckpointStore::for_key(&store, key(2)).latest().expect("read").is_none());
    let from = files(dir.path(), &key(1)).remove(0);
    let to = dir.path().join("private/secret/checkpoints").join(key(2).to_hex());
    fs::create_dir_all(&to).expect("created");
    fs::copy(&from, to.join(from.file_name().expect("a name"))).expect("copied");
    let moved = CheckpointStore::for_key(&store, key(2)).latest();
    assert!(matches!(moved, Err(CheckpointError::Key { .. })));
}

/// A way of damaging a file.
type Damage = fn(&mut Vec<u8>, usize);

#[test]
fn a_torn_or_flipped_newest_checkpoint_falls_back_to_the_older() {
    let length = {
        let dir = scratch();
        let store = open(dir.path());
        CheckpointStore::for_key(&store, key(1)).offer(&builder(20)).expect("offered");
        fs::metadata(&files(dir.path(), &key(1))[0]).expect("there").len() as usize
    };
    let damages: [Damage; 2] = [|b, at| b.truncate(at), |b, at| b[at] ^= 1 << (at % 8)];
    for damage in damages {
        for at in (0..length).step_by(311).chain([length - 1]) {
            let dir = scratch();
            let store = open(dir.path());
            let checkpoints = CheckpointStore::for_key(&store, key(1));
            checkpoints.offer(&builder(10)).expect("offered");
            checkpoints.offer(&builder(20)).expect("offered");
            let newest = files(dir.path(), &key(1)).remove(1);
            let mut bytes = fs::read(&newest).expect("there");
            damage(&mut bytes, at);
            fs::set_permissions(&newest, Permissions::from_mode(0o600)).expect("ours");
            fs::write(&newest, bytes).expect("written");
            let latest = checkpoints.latest().expect("read").expect("the older one");
            assert_eq!((latest.step(), latest.passed_over()), (10, &[newest.clone()][..]), "byte {at}");
            assert!(!newest.exists());
            checkpoints.offer(&builder(20)).expect("offered again");
            assert_eq!(checkpoints.latest().expect("read").map(|c| c.step()), Some(20));
        }
    }
}

#[test]
fn a_checkpoint_does_not_print_and_has_no_two_files_of_one_name() {
    let dir = scratch();
    let store = open(dir.path());
    let checkpoints = CheckpointStore::for_key(&store, key(1));
    let builder = CheckpointBuilder::new(1).bytes("k", *b"canary-7391");
    assert!(!format!("{builder:?}").contains("canary"));
    checkpoints.offer(&builder).expect("offered");
    assert!(!format!("{:?}", checkpoints.latest()).contains("canary"));
    let twice = CheckpointBuilder::new(1).bytes("k", *b"a").bytes("k", *b"b");
    assert!(matches!(checkpoints.offer(&twice), Err(CheckpointError::Repeated { .. })));
    assert_eq!(checkpoints.latest().expect("read").expect("there").file("k"), Some(&b"canary-7391"[..]));
}
