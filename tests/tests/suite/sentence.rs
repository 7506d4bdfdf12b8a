//! The product's whole sentence, small: tokenise, train privately, share, classify in the clear and under MPC, gather the table; and the
//! same with each kind of process killed on the way.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::binary::{Ended, finish, quickstart, sprint_flow, start};

const PATIENCE: Duration = Duration::from_secs(300);

struct Sentence {
    folder: TempDir,
}

impl Sentence {
    fn new() -> Self {
        let text = format!(
            "sprint-flow: 1
name: sentence
params: {{epochs: 1.0, samples: 24}}
matrix: {{epsilon: ['8']}}
stages:
  mail: {{kind: download, params: {{source: 'file:{mail}'}}}}
  encoder: {{kind: download, params: {{source: 'file:{encoder}'}}}}
  tokenize:
    kind: tokenize
    inputs: {{data: mail.files, model: encoder.files}}
    params: {{name: spam, text: text, label: label, classes: [ham, spam], holdout: {{fraction: 0.2}}, max_length: 32, max_train_rows: 240, max_validation_rows: 40}}
  finetune:
    kind: finetune
    over: [epsilon]
    inputs: {{dataset: tokenize.dataset, model: encoder.files}}
    params: {{epsilon: '${{matrix.epsilon}}', delta: 1e-5, method: fa-lora, rank: 4, pooling: mean, batch: 24, epochs: '${{params.epochs}}', checkpoint_steps: 2, functions: {{caps: {{logits: 3}}}}}}
  clear: {{kind: infer-clear, over: [epsilon], inputs: {{model: finetune.model, dataset: tokenize.dataset}}}}
  parties: {{kind: provision, params: {{fleet: local}}}}
  share: {{kind: share, over: [epsilon], inputs: {{model: finetune.model}}}}
  private:
    kind: infer-mpc
    over: [epsilon]
    inputs: {{public: share.public, share0: share.share0, share1: share.share1, dataset: tokenize.dataset, hosts: parties.hosts}}
    params: {{samples: '${{params.samples}}'}}
  metrics:
    kind: metrics
    inputs: {{clear: {{gather: clear.predictions}}, mpc: {{gather: private.predictions}}, reports: {{gather: finetune.report}}, costs: {{gather: private.cost}}}}
",
            mail = quickstart("mail_spam.tsv").display(),
            encoder = quickstart("bert-tiny-5k").display(),
        );
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("sentence.yaml"), text).expect("written");
        Self { folder }
    }

    fn store(&self) -> PathBuf {
        self.folder.path().join("store")
    }

    fn args(&self, more: &[&str]) -> Vec<String> {
        let (file, store) = (self.folder.path().join("sentence.yaml"), self.store());
        let mut args = vec!["run".to_owned(), file.display().to_string(), "--store".to_owned(), store.display().to_string()];
        args.push("--json".to_owned());
        args.extend(more.iter().map(|s| (*s).to_owned()));
        args
    }

    /// Runs to the end and returns the last event.
    #[track_caller]
    fn run(&self, more: &[&str]) -> Value {
        let events = sprint_flow(&self.args(more)).expect(0).json_lines();
        let end = events.last().expect("an event").clone();
        assert_eq!((&end["event"], &end["status"]), (&"run_finished".into(), &"succeeded".into()));
        end
    }

    /// Starts a run, kills what `choose` picks among the store's processes (the orchestrator's pid is given), and waits for the end of the
    /// orchestrator and of everything it started.
    fn run_and_kill(&self, more: &[&str], choose: impl Fn(u32, &[(u32, String)]) -> Option<u32>) -> Ended {
        let child = start(&self.args(more));
        let begin = Instant::now();
        let victim = loop {
            if let Some(pid) = choose(child.id(), &processes(&self.store())) {
                break pid;
            }
            assert!(begin.elapsed() < PATIENCE, "timed out before there was a process to kill");
            std::thread::sleep(Duration::from_millis(5));
        };
        // A role may end between being seen and being killed: then the run is as good as undisturbed.
        let _ = Command::new("kill").args(["-KILL", &victim.to_string()]).stderr(Stdio::null()).status().expect("kill runs");
        let ended = finish(child);
        let begin = Instant::now();
        while !processes(&self.store()).is_empty() {
            assert!(begin.elapsed() < PATIENCE, "left behind: {:?}", processes(&self.store()));
            std::thread::sleep(Duration::from_millis(20));
        }
        ended
    }
}

/// Processes whose environment or command line names the store, with their command lines.
fn processes(store: &Path) -> Vec<(u32, String)> {
    let store = store.display().to_string();
    let read = |pid: u32, what: &str| {
        let bytes = fs::read(Path::new("/proc").join(pid.to_string()).join(what)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ")
    };
    let entries = fs::read_dir("/proc").expect("proc").flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str().and_then(|n| n.parse().ok()));
    let of_store = |pid: u32| {
        let line = read(pid, "cmdline");
        (read(pid, "environ").contains(&store) || line.contains(&store)).then_some((pid, line))
    };
    pids.filter_map(of_store).collect()
}

fn table(end: &Value) -> Value {
    let path = end["outputs"]["metrics.table"]["path"].as_str().expect("a public artifact has a path");
    serde_json::from_slice(&fs::read(path).expect("there")).expect("JSON")
}

#[test]
fn the_sentence_runs_once_and_its_table_agrees_with_itself() {
    let sentence = Sentence::new();
    let end = sentence.run(&[]);
    assert_eq!((end["stages"]["total"].as_u64(), end["stages"]["ran"].as_u64()), (Some(9), Some(9)));
    let table = table(&end);
    let row = &table["rows"][0];
    assert_eq!((&row["clear"]["n"], &row["mpc"]["n"]), (&40.into(), &24.into()));
    assert!(row["label_agreement"].as_f64().expect("a number") >= 0.95, "{row}");
    assert!(row["max_logit_diff"].as_f64().expect("a number") <= 1e-2, "{row}");
    assert!(row["mpc_cost"]["rounds"].as_u64().expect("a number") > 10, "{row}");
    for stage in ["mail", "encoder", "tokenize", "finetune", "clear", "parties", "share", "private"] {
        assert!(row["seconds"][stage].as_f64().expect("a number") > 0.0, "{stage}: {row}");
    }
    let privacy = &row["privacy"];
    let number = |name: &str| privacy[name].to_string();
    let asked = ["privacy", "epsilon", "--q", &number("q"), "--sigma", &number("sigma"), "--steps", &number("steps")];
    let told = sprint_flow(&[&asked[..], &["--delta", &number("delta"), "--json"]].concat()).expect(0).json();
    let (claimed, told) = (privacy["epsilon"].as_f64().expect("a claim"), told["epsilon"]["pld"].as_f64().expect("a number"));
    assert!((claimed - told).abs() <= 1e-3 * told && claimed <= 8.0, "claimed {claimed}, accounted {told}");
    assert_eq!(processes(&sentence.store()), [], "a process is left");

    let end = sentence.run(&[]);
    assert_eq!((end["stages"]["ran"].as_u64(), end["stages"]["hit"].as_u64()), (Some(0), Some(9)));
    assert_eq!(self::table(&end), table);
}

#[test]
fn whichever_process_is_killed_the_same_command_finishes() {
    let sentence = Sentence::new();
    let of =
        |name: &'static str| move |all: &[(u32, String)]| all.iter().find(|(_, line)| line.contains(name)).map(|(pid, _)| *pid);
    // Killed once it has written a checkpoint: what follows is a resume from the middle.
    let checkpoints = sentence.store().join("private/secret/checkpoints");
    let trainer = |_: u32, all: &[(u32, String)]| checkpoints.is_dir().then(|| of("stage-worker")(all)).flatten();
    sentence.run_and_kill(&["--set", "epochs=20"], trainer).expect(0);
    for (samples, name) in ["mpc-role party-0", "mpc-role party-1", "mpc-role dealer"].into_iter().enumerate() {
        let samples = format!("samples={}", 25 + samples);
        sentence.run_and_kill(&["--set", "epochs=20", "--set", &samples], |_, all| of(name)(all)).expect(0);
    }
    let again = ["--set", "epochs=20", "--set", "samples=30"];
    let orchestrator = |own: u32, all: &[(u32, String)]| of("mpc-role party-1")(all).map(|_| own);
    let ended = sentence.run_and_kill(&again, orchestrator);
    assert_eq!(ended.code, None, "it was killed");
    let row = &table(&sentence.run(&again))["rows"][0];
    assert_eq!(row["mpc"]["n"], 30);
    assert!(row["label_agreement"].as_f64().expect("a number") >= 0.95, "{row}");
    assert!(row["privacy"]["steps"].as_u64().expect("a number") >= 200, "what was repeated is charged: {row}");
}

#[test]
fn a_plan_foresees_what_the_private_inference_then_costs() {
    let sentence = Sentence::new();
    let plan = || {
        let (file, store) = (sentence.folder.path().join("sentence.yaml"), sentence.store());
        let plan = sprint_flow(&["plan", &file.display().to_string(), "--store", &store.display().to_string(), "--json"]);
        let plan = plan.expect(0).json();
        let stages = plan["stages"].as_array().expect("a list");
        stages.iter().find(|s| s["kind"] == "infer-mpc").expect("a private inference")["cost"].clone()
    };
    assert_eq!(plan(), Value::Null, "nothing is known of texts that were never read");
    sentence.run(&["--only", "tokenize"]);
    // Neither model nor shares are there: their shapes follow from the encoder, the data set and the parameters.
    let foreseen = plan();
    let row = table(&sentence.run(&[]))["rows"][0].clone();
    let (cost, messages) = (&row["mpc_cost"], row["mpc"]["n"].as_f64().expect("a number"));
    for name in ["messages", "inferences", "rounds", "mode"] {
        assert_eq!(cost[name], foreseen[name], "{name}");
    }
    for (name, tolerance) in [("dealer_bytes", 1e-4), ("online_bytes_sent", 2e-2)] {
        for party in 0..2 {
            let [measured, declared] = [cost, &foreseen].map(|c| c[name][party].as_f64().expect("a number"));
            // The table has means over messages, rounded to bytes.
            let off = (measured * messages - declared).abs();
            assert!(off <= tolerance * declared + messages, "{name} of party {party}: {measured} a message, {declared} foreseen");
        }
    }
}
