//! SIGKILL at random moments, one store, never wiped: what broke sled's alpha must not break the store.
//!
//! The child puts artifacts, commits records and appends to a journal in a loop, and prints each thing once the store has
//! acknowledged it. The parent kills it after a random time, and checks everything that was ever printed.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sprint_artifacts::runs::{Owner, RunId};
use sprint_artifacts::{
    ActionKey, ArtifactId, CheckpointBuilder, CheckpointStore, Manifest, Presence, ResultRecord, Secrecy, Store, StoreOptions,
    Value,
};

const KILLS: u64 = 40;

fn main() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("--child") {
        let root = args.next().expect("a folder");
        child(Path::new(&root));
    } else {
        parent();
        println!("test {KILLS}_kills_of_one_store_lose_nothing_acknowledged ... ok");
    }
}

fn run_id() -> RunId {
    RunId::new(0, 1)
}

fn open(root: &Path) -> Store {
    Store::open(root, StoreOptions::read_write()).expect("the store opens after every kill")
}

fn record(n: u64, output: ArtifactId) -> ResultRecord {
    ResultRecord {
        kind: "kill@1".to_owned(),
        stage: format!("kill[n={n}]"),
        preimage: Value::from(n),
        outputs: BTreeMap::from([("out".to_owned(), output)]),
        run: run_id().to_string(),
        attempt: 1,
        started_unix_ms: n,
        finished_unix_ms: n,
        host: "here".to_owned(),
        log: None,
        metrics: BTreeMap::new(),
        private: true,
    }
}

/// Works until it is killed.
fn child(root: &Path) {
    let store = open(root);
    let run = store.run(&run_id()).or_else(|_| store.create_run(&run_id())).expect("a run");
    let owner = Owner { pid: std::process::id(), host: "here".to_owned(), since_unix_ms: 0 };
    let _lock = run.lock(&owner).expect("the dead owner's lock is free");
    let (mut journal, replay) = run.open_journal().expect("the journal opens");
    // Touches the index, so that kills also meet sled at work.
    let known = store.results_of_kind("kill@1").expect("found").records.len();
    say(&format!("begin {} {known}", replay.payloads.len()));
    let checkpoints = CheckpointStore::for_key(&store, ActionKey::of(&Value::from("kill")));
    for n in replay.payloads.len() as u64.. {
        let bytes = n.to_le_bytes().repeat(1 + (n as usize * 37) % 4000);
        let secrecy = [Secrecy::Public, Secrecy::Party(0), Secrecy::Secret][n as usize % 3];
        let builder = Manifest::builder("blob@1", secrecy).bytes("b", bytes).meta("n", n);
        let (id, _) = store.put_artifact(builder).expect("stored");
        say(&format!("artifact {id}"));
        store.commit_result(&record(n, id)).expect("committed");
        say(&format!("record {n}"));
        checkpoints.offer(&CheckpointBuilder::new(n).bytes("state", n.to_le_bytes())).expect("offered");
        say(&format!("checkpoint {n}"));
        journal.append(&n.to_le_bytes()).expect("appended");
        say(&format!("frame {n}"));
    }
}

fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // The parent may be gone; then so is the reason to go on.
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

#[derive(Default)]
struct Acknowledged {
    artifacts: Vec<ArtifactId>,
    records: Vec<u64>,
    frames: u64,
    checkpoint: u64,
}

fn parent() {
    let dir = tempfile::tempdir().expect("a folder");
    let root = dir.path().join("store");
    let mut seed = SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |d| d.as_nanos() as u64);
    println!("seed {seed}");
    let mut done = Acknowledged::default();
    for kill in 0..KILLS {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        kill_once(&root, Duration::from_millis((seed >> 33) % 120), &mut done);
        check(&root, &done, kill);
    }
    assert!(done.frames > KILLS / 4, "the child hardly ran: {} frames", done.frames);
    println!("{KILLS} kills, {} records, {} frames", done.records.len(), done.frames);
}

fn kill_once(root: &Path, after: Duration, done: &mut Acknowledged) {
    let exe = std::env::current_exe().expect("this test");
    let mut child = Command::new(exe).arg("--child").arg(root).stdout(Stdio::piped()).spawn().expect("spawned");
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    // Half of the kills come before the store is open, the others after some work, however busy the machine is.
    let mut seen = Vec::new();
    if after.as_millis().is_multiple_of(2) {
        assert!(lines.next().and_then(Result::ok).is_some_and(|l| l.starts_with("begin")), "the child does not start");
        seen.extend(lines.by_ref().map_while(Result::ok).take(after.as_millis() as usize % 11));
    }
    std::thread::sleep(after);
    child.kill().expect("killed");
    let status = child.wait().expect("waited");
    assert!(!status.success() && status.code().is_none(), "the child ended by itself: {status}");
    for line in seen.into_iter().chain(lines.map_while(Result::ok)) {
        match line.split_once(' ') {
            Some(("artifact", id)) => done.artifacts.push(id.parse().expect("an id")),
            Some(("record", n)) => done.records.push(n.parse().expect("a number")),
            Some(("frame", n)) => done.frames = n.parse::<u64>().expect("a number") + 1,
            Some(("checkpoint", n)) => done.checkpoint = n.parse().expect("a number"),
            _ => {}
        }
    }
}

fn check(root: &Path, done: &Acknowledged, kill: u64) {
    if !root.join("VERSION").exists() {
        assert!(done.artifacts.is_empty(), "kill {kill}: the store is gone");
        return;
    }
    let store = open(root);
    let present = store.has_artifacts(&done.artifacts, sprint_artifacts::Check::Full).expect("checked");
    assert!(present.values().all(Presence::is_present), "kill {kill}: an acknowledged artifact is lost");
    let found = store.results_of_kind("kill@1").expect("found");
    assert!(found.damaged.is_empty(), "kill {kill}: {:?}", found.damaged);
    for n in &done.records {
        assert!(found.records.iter().any(|r| r.record.preimage == Value::from(*n)), "kill {kill}: record {n} is lost");
    }
    if let Ok(run) = store.run(&run_id()) {
        let frames = run.read_journal().expect("the journal reads").payloads.len() as u64;
        assert!(frames >= done.frames, "kill {kill}: {} frames of {} are left", frames, done.frames);
        assert_eq!(run.holder(), None, "kill {kill}: the dead process still holds the run");
    }
    let checkpoints = CheckpointStore::for_key(&store, ActionKey::of(&Value::from("kill")));
    let step = checkpoints.latest().expect("read").map_or(0, |c| c.step());
    assert!(step >= done.checkpoint, "kill {kill}: checkpoint {} is lost", done.checkpoint);
}
