use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::*;
use crate::cas::{Store, StoreOptions};
use crate::digest::Digest;
use crate::encode::Value;
use crate::manifest::{ArtifactId, Manifest};
use crate::records::{ResultRecord, StoredResult};
use crate::scratch::scratch;
use crate::secrecy::Secrecy;

const RECORDS: u32 = 24;
const LIMIT: Duration = Duration::from_secs(2);

/// With the index, and without real fsyncs: thousands of them would take minutes.
fn options() -> StoreOptions {
    let files = std::sync::Arc::new(crate::fault::FaultFiles::counting());
    StoreOptions::read_write().index_limit(LIMIT).files(files)
}

fn open(root: &Path) -> Store {
    Store::open(root, options()).expect("the store opens")
}

fn commit(store: &Store, n: u32) {
    let builder = Manifest::builder("text@1", Secrecy::Public).bytes("t", n.to_le_bytes());
    let (output, _) = store.put_artifact(builder).expect("stored");
    let record = ResultRecord {
        kind: format!("kind-{}@1", n % 3),
        stage: format!("stage {n}"),
        preimage: n.into(),
        outputs: BTreeMap::from([("out".to_owned(), output)]),
        run: "20261122-101530-1a2b3c4d".to_owned(),
        attempt: 1,
        started_unix_ms: 0,
        finished_unix_ms: u64::from(n),
        host: "here".to_owned(),
        log: None,
        metrics: BTreeMap::new(),
        private: true,
    };
    store.commit_result(&record).expect("committed");
}

/// A store with records and a closed index that knows them all.
fn filled() -> tempfile::TempDir {
    let dir = scratch();
    let store = open(dir.path());
    (0..RECORDS).for_each(|n| commit(&store, n));
    answers(&store);
    drop(store);
    dir
}

type Answers = Vec<Vec<StoredResult>>;

/// What a store says; the index may only change how fast.
fn answers(store: &Store) -> Answers {
    let some_output = ArtifactId::new(*output_digest(store));
    let mut answers: Answers =
        ["kind-0@1", "kind-1@1", "kind-2@1", "kind-3@1"].map(|kind| store.results_of_kind(kind).expect("found").records).into();
    answers.push(store.all_results().expect("found").records);
    answers.push(store.results_with_output(&some_output).expect("found").records);
    answers.push(store.find_results(&crate::records::ActionKey::of(&Value::from(3_u32))).expect("found").records);
    answers
}

fn output_digest(store: &Store) -> &'static Digest {
    let key = crate::records::ActionKey::of(&Value::from(5_u32));
    let found = store.find_results(&key).expect("found");
    Box::leak(Box::new(*found.records[0].record.outputs["out"].digest()))
}

/// What the files say.
fn truth(root: &Path) -> Answers {
    answers(&Store::open(root, StoreOptions::read_only()).expect("opens"))
}

fn index_files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![root.join("index.sled")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { dirs.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

fn seal_again(root: &Path) {
    seal::write(&root.join("index.sled"), &root.join("index.sled.seal")).expect("sealed");
}

/// A small generator for reproducible damage.
fn random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

fn flip_bits(path: &Path, count: u32, seed: &mut u64) {
    let length = fs::metadata(path).expect("there").len();
    let mut bytes = fs::read(path).expect("readable");
    for _ in 0..count {
        let at = random(seed) % length.max(1);
        if let Some(byte) = bytes.get_mut(at as usize) {
            *byte ^= 1 << (random(seed) % 8);
        }
    }
    let mut file = File::options().write(true).open(path).expect("writable");
    file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(&bytes)).expect("written");
}

/// Asserts that the store answers rightly, in bounded time, and still takes records.
fn assert_unharmed(root: &Path, truth: &Answers, what: &str) {
    let begin = Instant::now();
    let store = open(root);
    assert!(answers(&store) == *truth, "{what}: other answers");
    commit(&store, 1000);
    assert_eq!(store.all_results().expect("found").records.len(), RECORDS as usize + 1, "{what}");
    assert_eq!(store.results_of_kind("kind-1@1").expect("found").records.len(), 9, "{what}");
    drop(store);
    // Opening, closing and each of nine answers may wait for the limit once before the index is given up; the rest is for a busy machine.
    assert!(begin.elapsed() < LIMIT * 30, "{what}: took {:?}", begin.elapsed());
}

#[test]
fn a_closed_index_is_used_again_and_answers_like_the_files() {
    let dir = filled();
    let truth = truth(dir.path());
    assert_eq!(truth[4].len(), RECORDS as usize);
    let store = open(dir.path());
    assert_eq!(store.index_status(), IndexStatus::Reused);
    assert!(answers(&store) == truth);
    let known = store.index().expect("asked for").summaries(truth[4].iter().map(|r| r.id));
    assert_eq!(known.len(), RECORDS as usize);
}

#[test]
fn a_deleted_index_is_built_again() {
    for victim in ["index.sled", "index.sled.seal"] {
        let dir = filled();
        let truth = truth(dir.path());
        let path = dir.path().join(victim);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("removed");
        assert_eq!(open(dir.path()).index_status(), IndexStatus::Rebuilt);
        assert_unharmed(dir.path(), &truth, victim);
    }
}

#[test]
fn a_truncated_index_gives_the_same_answers() {
    let dir = filled();
    let count = index_files(dir.path()).len();
    assert!(count >= 2);
    for victim in 0..count {
        for parts in [0, 1, 3] {
            for resealed in [false, true] {
                let dir = filled();
                let truth = truth(dir.path());
                let path = &index_files(dir.path())[victim];
                let length = fs::metadata(path).expect("there").len();
                File::options().write(true).open(path).and_then(|f| f.set_len(length * parts / 4)).expect("cut");
                if resealed {
                    seal_again(dir.path());
                }
                assert_unharmed(dir.path(), &truth, &format!("{} cut to {parts}/4, {resealed}", path.display()));
            }
        }
    }
}

#[test]
fn sixty_four_flipped_bits_give_the_same_answers() {
    for seed in 0..20_u64 {
        let dir = filled();
        let truth = truth(dir.path());
        let mut state = seed;
        for path in index_files(dir.path()) {
            flip_bits(&path, 64, &mut state);
        }
        assert_unharmed(dir.path(), &truth, &format!("seed {seed}"));
    }
}

#[test]
fn flips_that_the_seal_does_not_show_give_the_same_answers() {
    // Seals the damage in, so that sled itself meets it and only tags, guards and the time limit protect the answers.
    for seed in 100..120_u64 {
        let dir = filled();
        let truth = truth(dir.path());
        let mut state = seed;
        let files = index_files(dir.path());
        let victim = &files[random(&mut state) as usize % files.len()];
        flip_bits(victim, 64, &mut state);
        seal_again(dir.path());
        assert_unharmed(dir.path(), &truth, &format!("seed {seed}, {}", victim.display()));
    }
}

#[test]
fn flips_while_it_is_open_give_the_same_answers() {
    for seed in 200..205_u64 {
        let dir = filled();
        let truth = truth(dir.path());
        let store = open(dir.path());
        assert_eq!(store.index_status(), IndexStatus::Reused);
        let mut state = seed;
        for path in index_files(dir.path()) {
            flip_bits(&path, 64, &mut state);
        }
        assert!(answers(&store) == truth, "seed {seed}");
        drop(store);
        assert_unharmed(dir.path(), &truth, &format!("seed {seed}"));
    }
}

#[test]
fn a_second_process_does_without_and_answers_the_same() {
    let dir = filled();
    let truth = truth(dir.path());
    let first = open(dir.path());
    assert_eq!(first.index_status(), IndexStatus::Reused);
    let second = open(dir.path());
    assert_eq!(second.index_status(), IndexStatus::Busy);
    assert!(answers(&second) == truth && answers(&first) == truth);
    commit(&second, 1000);
    assert_eq!(first.all_results().expect("found").records.len(), RECORDS as usize + 1);
}

#[test]
fn a_file_in_place_of_the_index_does_no_harm() {
    let dir = filled();
    let truth = truth(dir.path());
    fs::remove_dir_all(dir.path().join("index.sled")).expect("removed");
    fs::write(dir.path().join("index.sled"), b"rubbish").expect("written");
    assert_unharmed(dir.path(), &truth, "a file");
}

/// Databases that misbehave in the ways that sled has been seen to.
struct Panics;
struct Lies;
struct Fails;

impl Memory for Panics {
    fn get(&self, _: &[u8; 32]) -> Result<Option<Vec<u8>>, IndexError> {
        panic!("injected")
    }
    fn put(&self, _: &[u8; 32], _: &[u8]) -> Result<(), IndexError> {
        panic!("injected")
    }
    fn flush(&self) -> Result<(), IndexError> {
        panic!("injected")
    }
}

impl Drop for Panics {
    fn drop(&mut self) {
        panic!("injected")
    }
}

impl Memory for Lies {
    fn get(&self, _: &[u8; 32]) -> Result<Option<Vec<u8>>, IndexError> {
        // A well-formed value with a right tag, of another record.
        let id = crate::records::ResultId::new(Digest::of(b"another"));
        let stored = std::cell::RefCell::new(Vec::new());
        memory::store(&Capture(&stored), &id, &Summary { kind: "kind-3@1".to_owned(), outputs: vec![] })?;
        Ok(Some(stored.into_inner()))
    }
    fn put(&self, _: &[u8; 32], _: &[u8]) -> Result<(), IndexError> {
        Ok(())
    }
    fn flush(&self) -> Result<(), IndexError> {
        Ok(())
    }
}

struct Capture<'a>(&'a std::cell::RefCell<Vec<u8>>);

impl Memory for Capture<'_> {
    fn get(&self, _: &[u8; 32]) -> Result<Option<Vec<u8>>, IndexError> {
        Ok(None)
    }
    fn put(&self, _: &[u8; 32], value: &[u8]) -> Result<(), IndexError> {
        *self.0.borrow_mut() = value.to_vec();
        Ok(())
    }
    fn flush(&self) -> Result<(), IndexError> {
        Ok(())
    }
}

impl Memory for Fails {
    fn get(&self, _: &[u8; 32]) -> Result<Option<Vec<u8>>, IndexError> {
        Err(IndexError::Database("injected".to_owned()))
    }
    fn put(&self, _: &[u8; 32], _: &[u8]) -> Result<(), IndexError> {
        Err(IndexError::Database("injected".to_owned()))
    }
    fn flush(&self) -> Result<(), IndexError> {
        Err(IndexError::Database("injected".to_owned()))
    }
}

#[test]
fn a_database_that_hangs_panics_fails_or_lies_gives_the_same_answers_in_bounded_time() {
    let openers: [(&str, Opener); 6] = [
        ("hangs", |_| {
            loop {
                std::thread::park();
            }
        }),
        ("panics when opened", |_| panic!("injected")),
        ("fails when opened", |_| Err(IndexError::Database("injected".to_owned()))),
        ("panics when used", |_| Ok(Box::new(Panics))),
        ("fails when used", |_| Ok(Box::new(Fails))),
        ("lies", |_| Ok(Box::new(Lies))),
    ];
    for (what, opener) in openers {
        let dir = filled();
        let truth = truth(dir.path());
        // The others answer or fail at once; waiting for them longer only means that the machine is busy.
        let limit = if what == "hangs" { Duration::from_millis(200) } else { LIMIT };
        let begin = Instant::now();
        let store = Store::open(dir.path(), options().index_limit(limit).index_opener(opener)).expect("opens");
        assert!(answers(&store) == truth, "{what}");
        commit(&store, 1000);
        assert_eq!(store.all_results().expect("found").records.len(), RECORDS as usize + 1, "{what}");
        assert_eq!(store.index_status(), IndexStatus::Abandoned, "{what}");
        drop(store);
        assert!(begin.elapsed() < LIMIT * 30, "{what}: took {:?}", begin.elapsed());
        // What the bad one left is not trusted by a good one.
        if what != "hangs" {
            assert_eq!(open(dir.path()).index_status(), IndexStatus::Rebuilt, "{what}");
        }
    }
}
