use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::*;
use crate::manifest::{ArtifactId, Manifest};

fn open(root: &Path) -> Store {
    Store::open(root, StoreOptions::read_write().index(false)).expect("the store opens")
}

fn put(store: &Store, secrecy: Secrecy, files: &[(&str, &[u8])]) -> (ArtifactId, Manifest) {
    let builder = Manifest::builder("dataset@1", secrecy);
    let builder = files.iter().fold(builder, |b, (name, bytes)| b.bytes(*name, *bytes));
    store.put_artifact(builder).expect("it is stored")
}

/// Every file below a folder.
fn walk(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

fn flip(path: &Path, at: usize, bit: u8) {
    let mut bytes = fs::read(path).expect("readable");
    bytes[at] ^= 1 << bit;
    fs::set_permissions(path, Permissions::from_mode(0o600)).expect("ours");
    fs::write(path, bytes).expect("writable");
}

#[test]
fn what_is_put_is_what_is_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    let big: Vec<u8> = (0..700_000_u32).map(|i| (i % 251) as u8).collect();
    let (id, manifest) = put(&store, Secrecy::Public, &[("a", b"alpha"), ("d/big", &big), ("empty", b"")]);
    assert_eq!(id, manifest.id());
    for again in [&store, &open(dir.path()), &Store::open(dir.path(), StoreOptions::read_only()).expect("opens")] {
        let read = again.read_artifact(&id).expect("it is there");
        assert_eq!(read, manifest);
        assert_eq!(again.read_file(&read, "a").expect("read"), b"alpha");
        assert_eq!(again.read_file(&read, "d/big").expect("read"), big);
        assert_eq!(again.read_file(&read, "empty").expect("read"), b"");
        assert_eq!(fs::read(again.verified_path(&id, "a").expect("verified")).expect("read"), b"alpha");
        assert!(again.verify_artifact(&id).expect("checked").is_present());
        assert!(matches!(again.read_file(&read, "b"), Err(StoreError::NoSuchFile { .. })));
    }
    assert!(walk(&dir.path().join("tmp")).iter().all(|p| p.extension().is_some_and(|e| e == "lock")));
}

#[test]
fn equal_bytes_are_stored_once() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    let a = store.put_bytes(Secrecy::Public, b"same").expect("put");
    let source = dir.path().join("source");
    fs::write(&source, b"same").expect("write");
    assert_eq!(store.put_file(Secrecy::Public, &source).expect("put"), a);
    let mut writer = store.blob_writer(Secrecy::Public).expect("writer");
    writer.write_all(b"sa").expect("write");
    writer.write_all(b"me").expect("write");
    assert_eq!(writer.finish().expect("finish"), a);
    assert_eq!(walk(&dir.path().join("blobs")).len(), 1);
}

#[test]
fn private_blobs_lie_apart_and_only_their_owner_can_read_them() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    let labels = [Secrecy::Party(0), Secrecy::Party(1), Secrecy::Secret];
    for secrecy in labels {
        let (id, _) = put(&store, secrecy, &[("share", b"the same bytes")]);
        let path = store.verified_path(&id, "share").expect("verified");
        assert!(path.starts_with(dir.path().join("private").join(secrecy.to_string())), "{}", path.display());
        assert_eq!(fs::metadata(&path).expect("there").mode() & 0o777, 0o400);
        for folder in path.ancestors().skip(1).take_while(|p| *p != dir.path().join("private")) {
            assert_eq!(fs::metadata(folder).expect("there").mode() & 0o777, 0o700, "{}", folder.display());
        }
        assert_eq!(store.read_artifact(&id).expect("read").secrecy(), secrecy);
    }
    assert_eq!(walk(&dir.path().join("blobs")), Vec::<PathBuf>::new());
}

#[test]
fn a_blob_of_one_label_does_not_enter_an_artifact_of_another() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    let secret = store.put_bytes(Secrecy::Party(0), b"share").expect("put");
    let mixed = store.put_artifact(Manifest::builder("dataset@1", Secrecy::Public).blob("x", secret));
    assert!(matches!(mixed, Err(StoreError::Label { .. })));
    let other = store.put_artifact(Manifest::builder("dataset@1", Secrecy::Party(1)).blob("x", secret));
    assert!(matches!(other, Err(StoreError::Label { .. })));
}

#[test]
fn a_manifest_in_the_folder_of_another_label_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    let (id, _) = put(&store, Secrecy::Party(0), &[("share", b"bytes")]);
    let from = store.layout.blob(Secrecy::Party(0), id.digest());
    let to = store.layout.blob(Secrecy::Public, id.digest());
    fs::create_dir_all(to.parent().expect("a folder")).expect("created");
    fs::rename(from, to).expect("renamed");
    assert!(matches!(store.read_artifact(&id), Err(StoreError::Label { .. })));
}

/// A way of reading an artifact.
type Reader = fn(&Store, &ArtifactId, &Path) -> Result<(), StoreError>;

/// Flips one bit of each blob in turn and says what the store must never do: serve it.
#[test]
fn a_flipped_bit_in_any_blob_is_caught_by_every_way_of_reading() {
    let payload: Vec<u8> = (0..5000_u32).map(|i| (i * 7 % 256) as u8).collect();
    let readers: [(&str, Reader); 4] = [
        ("read_file", |s, id, _| {
            let manifest = s.read_artifact(id)?;
            manifest.files().iter().try_for_each(|f| s.read_file(&manifest, f.name()).map(drop))
        }),
        ("verified_path", |s, id, _| {
            let manifest = s.read_artifact(id)?;
            manifest.files().iter().try_for_each(|f| s.verified_path(id, f.name()).map(drop))
        }),
        ("materialise", |s, id, to| s.materialise(id, to).map(drop)),
        ("verify_artifact", |s, id, _| match s.verify_artifact(id)? {
            Presence::Corrupt(mut all) => Err(StoreError::Corrupt(Box::new(all.remove(0)))),
            Presence::Present | Presence::Missing(_) => Ok(()),
        }),
    ];
    for secrecy in [Secrecy::Public, Secrecy::Party(1), Secrecy::Secret] {
        for (name, read) in readers {
            for victim in 0..3 {
                let dir = tempfile::tempdir().expect("a folder");
                let root = dir.path().join("store");
                let store = open(&root);
                let (id, _) = put(&store, secrecy, &[("a", b"alpha"), ("b", &payload)]);
                read(&store, &id, &dir.path().join("good")).expect("whole");
                let blobs = walk(store.layout.area(secrecy).as_path());
                assert_eq!(blobs.len(), 3);
                let length = fs::metadata(&blobs[victim]).expect("there").len() as usize;
                flip(&blobs[victim], length / 2, 3);
                // The same process, which has verified the blob before, and a new one.
                let seen = open(&root);
                for store in [&store, &seen] {
                    match read(store, &id, &dir.path().join("bad")) {
                        Err(StoreError::Corrupt(m)) => {
                            assert_eq!(blobs[victim].file_name().and_then(|n| n.to_str()), Some(&*m.expected.to_hex()));
                            assert_ne!(m.actual, m.expected);
                            let quarantined = m.quarantined.expect("moved away");
                            assert!(quarantined.exists() && !blobs[victim].exists());
                        }
                        // The second store finds it gone.
                        Err(e) => assert!(e.is_missing(), "{name}: {e}"),
                        Ok(()) if name == "verify_artifact" => assert!(!blobs[victim].exists()),
                        Ok(()) => panic!("{name} served a damaged blob ({secrecy}, {victim})"),
                    }
                }
                // Producing it again cures it.
                put(&store, secrecy, &[("a", b"alpha"), ("b", &payload)]);
                read(&store, &id, &dir.path().join("again")).expect("whole again");
            }
        }
    }
}

#[test]
fn putting_again_replaces_a_blob_that_has_rotted() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    let blob = store.put_bytes(Secrecy::Public, b"precious").expect("put");
    let path = store.layout.blob(Secrecy::Public, blob.digest());
    flip(&path, 0, 0);
    store.put_bytes(Secrecy::Public, b"precious").expect("put again");
    assert_eq!(fs::read(path).expect("there"), b"precious");
    assert_eq!(walk(&dir.path().join("quarantine")).len(), 1);
}

#[test]
fn a_cut_or_grown_blob_is_caught_even_by_the_cheap_check() {
    for change in [|b: &mut Vec<u8>| b.truncate(3), |b: &mut Vec<u8>| b.push(0), Vec::clear] {
        let dir = tempfile::tempdir().expect("a folder");
        let store = open(dir.path());
        let (id, manifest) = put(&store, Secrecy::Public, &[("a", b"alpha")]);
        let path = store.layout.blob(Secrecy::Public, manifest.files()[0].digest());
        let mut bytes = fs::read(&path).expect("there");
        change(&mut bytes);
        fs::remove_file(&path).expect("removed");
        fs::write(&path, &bytes).expect("written");
        match store.has_artifact(&id, Check::Cheap).expect("checked") {
            Presence::Corrupt(m) => {
                assert_eq!((m[0].expected_size, m[0].actual_size), (Some(5), bytes.len() as u64));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_missing_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    let (id, manifest) = put(&store, Secrecy::Public, &[("a", b"alpha"), ("b", b"beta")]);
    fs::remove_file(store.layout.blob(Secrecy::Public, manifest.files()[1].digest())).expect("removed");
    for check in [Check::Cheap, Check::Full] {
        assert_eq!(store.has_artifact(&id, check).expect("checked"), Presence::Missing(vec!["b".to_owned()]));
    }
    fs::remove_file(store.layout.blob(Secrecy::Public, id.digest())).expect("removed");
    assert_eq!(store.has_artifact(&id, Check::Full).expect("checked"), Presence::Missing(vec![String::new()]));
    assert!(matches!(store.read_artifact(&id), Err(StoreError::MissingArtifact { .. })));
}

#[test]
fn a_link_in_place_of_a_blob_is_not_followed() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(&dir.path().join("store"));
    let (id, manifest) = put(&store, Secrecy::Public, &[("a", b"alpha")]);
    let path = store.layout.blob(Secrecy::Public, manifest.files()[0].digest());
    let outside = dir.path().join("outside");
    fs::rename(&path, &outside).expect("moved");
    std::os::unix::fs::symlink(&outside, &path).expect("linked");
    assert!(store.verified_path(&id, "a").is_err());
    assert!(store.read_file(&manifest, "a").is_err());
}

#[test]
fn an_unfinished_blob_leaves_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    let mut writer = store.blob_writer(Secrecy::Public).expect("writer");
    writer.write_all(&vec![1; 600_000]).expect("write");
    drop(writer);
    drop(store);
    let left: Vec<_> = walk(dir.path()).into_iter().filter_map(|p| p.file_name().map(ToOwned::to_owned)).collect();
    assert_eq!(left, ["VERSION", "gc.lock", "sweep.lock"]);
}

#[test]
fn the_folder_of_a_dead_writer_is_swept_and_that_of_a_living_one_is_not() {
    let dir = tempfile::tempdir().expect("a folder");
    let alive = open(dir.path());
    let mut writer = alive.blob_writer(Secrecy::Public).expect("writer");
    let dead = dir.path().join("tmp").join("1-0");
    fs::create_dir_all(&dead).expect("created");
    fs::write(dead.join("0"), b"half a blob").expect("written");
    let other = open(dir.path());
    other.put_bytes(Secrecy::Public, b"x").expect("put");
    assert!(!dead.exists());
    writer.write_all(b"still alive").expect("write");
    assert_eq!(writer.finish().expect("finish").size(), 11);
}

#[test]
fn a_reader_changes_nothing() {
    let dir = tempfile::tempdir().expect("a folder");
    let missing = Store::open(dir.path().join("none"), StoreOptions::read_only());
    assert!(matches!(missing, Err(StoreError::NoStore { .. })));
    assert!(!dir.path().join("none").exists());
    let (id, manifest) = put(&open(dir.path()), Secrecy::Public, &[("a", b"alpha")]);
    let reader = Store::open(dir.path(), StoreOptions::read_only()).expect("opens");
    assert!(matches!(reader.put_bytes(Secrecy::Public, b"x"), Err(StoreError::ReadOnly { .. })));
    let path = reader.layout.blob(Secrecy::Public, manifest.files()[0].digest());
    flip(&path, 0, 0);
    match reader.verified_path(&id, "a") {
        Err(StoreError::Corrupt(m)) => assert_eq!(m.quarantined, None),
        other => panic!("{other:?}"),
    }
    assert!(path.exists());
}

#[test]
fn a_store_of_another_layout_is_left_alone() {
    let dir = tempfile::tempdir().expect("a folder");
    fs::write(dir.path().join("VERSION"), "sprint-flow store 99\n").expect("written");
    let opened = Store::open(dir.path(), StoreOptions::read_write());
    assert!(matches!(opened, Err(StoreError::Version { found, .. }) if found.contains("99")));
}

#[test]
fn materialised_files_are_copies_with_the_right_modes() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(&dir.path().join("store"));
    let builder = Manifest::builder("tool@1", Secrecy::Public).bytes("bin/x", *b"#!").executable().bytes("doc", *b"text");
    let (id, _) = store.put_artifact(builder).expect("stored");
    let (secret, _) = put(&store, Secrecy::Secret, &[("k", b"key")]);
    let out = dir.path().join("out");
    store.materialise(&id, &out).expect("laid out");
    store.materialise(&id, &out).expect("laid out again");
    let mode = |p: &str| fs::metadata(dir.path().join(p)).expect("there").mode() & 0o777;
    assert_eq!((mode("out/bin/x"), mode("out/doc")), (0o555, 0o444));
    store.materialise(&secret, &dir.path().join("hidden")).expect("laid out");
    assert_eq!((mode("hidden"), mode("hidden/k")), (0o700, 0o400));
    // Whatever happens to the copy, the store keeps its bytes.
    flip(&out.join("doc"), 0, 0);
    assert!(store.verify_artifact(&id).expect("checked").is_present());
}

#[test]
fn many_threads_and_stores_may_put_the_same_blobs() {
    let dir = tempfile::tempdir().expect("a folder");
    let stores: Vec<_> = (0..3).map(|_| open(dir.path())).collect();
    std::thread::scope(|scope| {
        for store in stores.iter().chain(&stores) {
            scope.spawn(move || {
                for i in 0..40_u32 {
                    let secrecy = if i % 2 == 0 { Secrecy::Public } else { Secrecy::Secret };
                    store.put_bytes(secrecy, &i.to_le_bytes()).expect("put");
                }
            });
        }
    });
    assert_eq!(walk(&dir.path().join("blobs")).len(), 20);
    assert_eq!(walk(&dir.path().join("private")).len(), 20);
}

#[test]
fn a_secret_does_not_print() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    let builder = Manifest::builder("keys@1", Secrecy::Secret).bytes("k", *b"canary-7391");
    assert!(!format!("{builder:?}").contains("canary"));
    let mut writer = store.blob_writer(Secrecy::Secret).expect("writer");
    writer.write_all(b"canary-7391").expect("write");
    assert!(!format!("{writer:?}").contains("canary"));
}

#[test]
fn two_thousand_artifacts_are_planned_for() {
    let dir = tempfile::tempdir().expect("a folder");
    let files = std::sync::Arc::new(crate::fault::FaultFiles::counting());
    let options = StoreOptions::read_write().index(false).files(files);
    let store = Store::open(dir.path(), options).expect("opens");
    let ids: Vec<_> =
        (0..2000_u32).map(|n| put(&store, Secrecy::Public, &[("a", &n.to_le_bytes()), ("b", &[n as u8; 2000])]).0).collect();
    let fresh = open(dir.path());
    let begin = std::time::Instant::now();
    let answers = fresh.has_artifacts(&ids, Check::Cheap).expect("checked");
    let took = begin.elapsed();
    assert!(answers.len() == 2000 && answers.values().all(Presence::is_present));
    println!("2000 artifacts, cheap: {took:?}");
    let begin = std::time::Instant::now();
    assert!(fresh.has_artifacts(&ids, Check::Full).expect("checked").values().all(Presence::is_present));
    println!("2000 artifacts, full: {:?}", begin.elapsed());
}

#[test]
fn sixty_four_megabytes_are_verified() {
    let dir = tempfile::tempdir().expect("a folder");
    let store = open(dir.path());
    let blob: Vec<u8> = (0..16_u32 << 20).map(|i| ((i * 31) >> 7) as u8).collect();
    let mut builder = Manifest::builder("model@1", Secrecy::Public);
    for n in 0..4_u8 {
        builder = builder.bytes(format!("part-{n}"), [&[n], &blob[..]].concat());
    }
    let (id, _) = store.put_artifact(builder).expect("stored");
    let fresh = open(dir.path());
    let begin = std::time::Instant::now();
    assert!(fresh.verify_artifact(&id).expect("checked").is_present());
    println!("64 MiB, full: {:?}", begin.elapsed());
}
