//! A small workflow on the quickstart's files: what is cached, what reruns and why, and what damage does.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use crate::binary::{Ended, quickstart, sprint_flow};

/// A workflow and its store in a folder of their own.
struct Toy {
    folder: TempDir,
}

impl Toy {
    fn new() -> Self {
        let text = format!(
            "sprint-flow: 1
name: toy
params: {{max_length: 64}}
stages:
  mails: {{kind: download, params: {{source: \"file:{}\"}}}}
  encoder: {{kind: download, params: {{source: \"file:{}\"}}}}
  tokens:
    kind: tokenize
    inputs: {{data: mails.files, model: encoder.files}}
    params:
      name: mail_spam
      text: text
      label: label
      classes: [ham, spam]
      holdout: {{fraction: 0.2}}
      max_length: \"${{params.max_length}}\"
      max_train_rows: 200
      max_validation_rows: 50
",
            quickstart("mail_spam.tsv").display(),
            quickstart("bert-tiny-5k").display(),
        );
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("toy.yaml"), text).expect("written");
        Self { folder }
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn call(&self, command: &str, more: &[&str]) -> Ended {
        let (file, store) = (self.folder.path().join("toy.yaml"), self.store());
        let mut args = vec![command.to_owned()];
        args.extend(["run", "plan"].contains(&command).then(|| file.display().to_string()));
        args.extend(["--store".to_owned(), store.display().to_string()]);
        args.extend(more.iter().map(|s| (*s).to_owned()));
        sprint_flow(&args)
    }

    /// Runs and returns the last event, which is what the contract promises.
    #[track_caller]
    fn run(&self) -> Value {
        let events = self.call("run", &["--json"]).expect(0).json_lines();
        let end = events.last().expect("an event").clone();
        assert_eq!((&end["event"], &end["status"]), (&"run_finished".into(), &"succeeded".into()));
        end
    }

    #[track_caller]
    fn plan(&self, more: &[&str], code: i32) -> Value {
        self.call("plan", &[&["--json"], more].concat()).expect(code).json()
    }
}

fn counts(end: &Value) -> [u64; 3] {
    ["total", "ran", "hit"].map(|name| end["stages"][name].as_u64().expect("a number"))
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for path in entries.map(|e| e.expect("an entry").path()) {
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

fn overwrite(path: &Path, change: impl Fn(&mut Vec<u8>)) {
    use std::os::unix::fs::PermissionsExt;
    let mut bytes = fs::read(path).expect("read");
    change(&mut bytes);
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).expect("permitted");
    fs::write(path, bytes).expect("written");
}

#[test]
fn a_second_run_runs_nothing_and_gives_the_same_outputs() {
    let toy = Toy::new();
    let first = toy.run();
    assert_eq!(counts(&first), [3, 3, 0]);
    assert!(
        first["seconds"].is_number()
            && first["outputs"]["tokens.dataset"]["digest"].as_str().is_some_and(|d| d.starts_with("b3:"))
    );
    let second = toy.run();
    assert_eq!(counts(&second), [3, 0, 3]);
    assert_eq!(first["outputs"], second["outputs"]);
    println!("a run with nothing to do took {} s", second["seconds"]);
    let status = toy.call("status", &["--json"]).expect(0).json();
    assert_eq!((&status["state"], &status["run"]), (&"succeeded".into(), &second["run"]));
    assert_eq!(status["stages"].as_array().expect("a list").len(), 3);
    assert!(toy.call("logs", &["tokens"]).expect(0).stdout.contains("train: "));
    assert_eq!(toy.call("artifacts", &["ls"]).code, Some(2), "options come after the subcommand");
}

#[test]
fn people_see_stages_outputs_and_times_on_standard_error_only() {
    let toy = Toy::new();
    let ended = toy.call("run", &[]).expect(0);
    assert!(ended.stdout.is_empty(), "{}", ended.stdout);
    for word in ["mails", "encoder", "tokens.dataset", "3 ran, 0 cached", "succeeded"] {
        assert!(ended.stderr.contains(word), "{word}: {}", ended.stderr);
    }
}

#[test]
fn a_plan_says_what_would_run_and_why_and_changes_nothing() {
    let toy = Toy::new();
    let plan = toy.plan(&["--detailed-exitcode"], 3);
    let states: Vec<_> = plan["stages"].as_array().expect("a list").iter().map(|s| s["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["miss", "miss", "blocked"]);
    assert!(!toy.store().exists(), "a plan made a store");
    toy.run();
    toy.plan(&["--detailed-exitcode"], 0);
    let plan = toy.plan(&["--set", "max_length=32"], 0);
    assert_eq!(plan["stages"][2]["why"], serde_json::json!(["params.max_length 64→32"]));
    assert_eq!(plan["stages"][2]["state"], "miss");
    let told = toy.call("plan", &["--set", "max_length=32"]).expect(0).stdout;
    assert!(told.contains("params.max_length 64→32") && told.contains("1 to run"), "{told}");
}

#[test]
fn whatever_becomes_of_the_index_the_answers_are_the_same() {
    let toy = Toy::new();
    let first = toy.run();
    let change: [(&str, fn(&Path)); 3] = [
        ("delete", |p| fs::remove_file(p).expect("removed")),
        ("truncate", |p| overwrite(p, |b| b.truncate(b.len() / 2))),
        ("flip", |p| overwrite(p, |b| b.iter_mut().step_by(61).for_each(|x| *x ^= 0x40))),
    ];
    for (name, damage) in change {
        let files: Vec<_> = files_below(&toy.store()).into_iter().filter(|p| p.to_string_lossy().contains("index")).collect();
        files.iter().for_each(|p| damage(p));
        let again = toy.run();
        assert_eq!((counts(&again), &again["outputs"]), ([3, 0, 3], &first["outputs"]), "{name} of {} files", files.len());
    }
}

#[test]
fn a_flipped_bit_is_found_and_the_artifact_is_made_anew() {
    let toy = Toy::new();
    let first = toy.run();
    let dataset = first["outputs"]["tokens.dataset"]["digest"].as_str().expect("a digest").to_owned();
    let store = toy.store().display().to_string();
    sprint_flow(&["artifacts", "verify", "--store", &store]).expect(0);
    let listed = sprint_flow(&["artifacts", "ls", "--store", &store, "--json"]).expect(0).json_lines();
    assert_eq!(listed.len(), 3, "{listed:?}");
    let out = toy.folder.path().join("copy");
    let got = ["artifacts", "get", &dataset, "--out", &out.display().to_string(), "--store", &store, "--json"];
    let copied = sprint_flow(&got).expect(0).json();
    let file = Path::new(copied["files"].as_array().expect("a list").last().expect("a file").as_str().expect("a path"));
    let bytes = fs::read(file).expect("read");
    let same = |p: &PathBuf| fs::read(p).is_ok_and(|b| b == bytes);
    let blob = files_below(&toy.store()).into_iter().find(same).expect("the blob with these bytes");
    overwrite(&blob, |b| b[0] ^= 1);
    let told = sprint_flow(&["artifacts", "verify", "--store", &store]).expect(6);
    assert!(told.stdout.contains("damaged") && told.stdout.contains(&dataset), "{}", told.stdout);
    let again = toy.run();
    assert_eq!((counts(&again), &again["outputs"]), ([3, 1, 2], &first["outputs"]));
    sprint_flow(&["artifacts", "verify", "--store", &store]).expect(0);
}

#[test]
fn a_collection_after_a_run_spares_what_it_made() {
    let toy = Toy::new();
    toy.run();
    let report = toy.call("gc", &["--json"]).expect(0).json();
    assert_eq!((&report["applied"], report["roots"].as_u64().is_some_and(|n| n >= 3)), (&false.into(), true), "{report}");
    toy.call("gc", &["--apply"]).expect(0);
    assert_eq!(counts(&toy.run()), [3, 0, 3]);
}
