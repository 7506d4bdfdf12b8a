//! A fine-tuned model served under MPC from the command line: texts given at once, one by one and from material made ahead.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Stdio};

use serde_json::{Value, json};
use sprint_clear::float::run_logits;
use sprint_model::{Batch, TextEncoder};
use sprint_stages::DeployedModel;
use tempfile::TempDir;

use crate::binary::{Ended, command, finish, quickstart, sprint_flow};

/// Logits under MPC differ from the float model's by less; the model's caps keep logits themselves below 3.
const TOLERANCE: f64 = 1e-2;
const TEXTS: [&str; 3] =
    ["free money! click here to claim your prize now", "the meeting on monday is moved to ten, see you there", "re: patch"];

/// A model trained by a workflow of its own.
struct Served {
    folder: TempDir,
    /// Its artifact.
    digest: String,
}

impl Served {
    fn new() -> Self {
        Self::with("{logits: 3}")
    }

    /// Trained, and deployed, with these soft caps.
    fn with(caps: &str) -> Self {
        let text = format!(
            "sprint-flow: 1
name: served
stages:
  mail: {{kind: download, params: {{source: 'file:{mail}'}}}}
  encoder: {{kind: download, params: {{source: 'file:{encoder}'}}}}
  tokenize:
    kind: tokenize
    inputs: {{data: mail.files, model: encoder.files}}
    params: {{name: spam, text: text, label: label, classes: [ham, spam], holdout: {{fraction: 0.2}}, max_length: 32, max_train_rows: 240, max_validation_rows: 40}}
  finetune:
    kind: finetune
    inputs: {{dataset: tokenize.dataset, model: encoder.files}}
    params: {{epsilon: '8', delta: 1e-5, method: fa-lora, rank: 4, pooling: mean, batch: 24, epochs: 1, functions: {{caps: {caps}}}}}
",
            mail = quickstart("mail_spam.tsv").display(),
            encoder = quickstart("bert-tiny-5k").display(),
        );
        let folder = tempfile::tempdir().expect("a folder");
        let at = |name: &str| folder.path().join(name).display().to_string();
        fs::write(folder.path().join("served.yaml"), text).expect("written");
        let events = sprint_flow(&["run", &at("served.yaml"), "--store", &at("store"), "--json"]).expect(0).json_lines();
        let digest =
            events.last().expect("an event")["outputs"]["finetune.model"]["digest"].as_str().expect("a digest").to_owned();
        sprint_flow(&["artifacts", "get", &digest, "--out", &at("model"), "--store", &at("store")]).expect(0);
        Self { folder, digest }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn at(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    /// `infer` of the model in the folder, for machines.
    fn infer(&self, more: &[&str]) -> Ended {
        sprint_flow(&[&["infer", "--model", &self.at("model"), "--max-length", "32", "--json"], more].concat())
    }

    /// What the float oracle makes of each text, padded or not.
    fn clear(&self, texts: &[&str]) -> Vec<Vec<f32>> {
        let model = DeployedModel::from_folder(&self.path("model")).expect("a model");
        let spec = model.checkpoint.spec();
        let encoder = TextEncoder::from_bytes(&model.tokenizer.expect("a tokenizer"), spec, 32).expect("a tokenizer");
        let logits = |text: &&str| {
            let example = encoder.encode(text, None).expect("tokens").into_example(None);
            let batch = Batch::padded_to_longest(&[example], spec.pad_token).expect("a batch");
            run_logits(&model.checkpoint, &batch).expect("runs").remove(0)
        };
        texts.iter().map(logits).collect()
    }
}

/// Fails the test unless `answer` is that to text number `row` with about these logits.
#[track_caller]
fn assert_answers(answer: &Value, row: usize, clear: &[f32]) {
    assert_eq!((&answer["text"], &answer["refused"]), (&json!(row), &Value::Null), "{answer}");
    let logits: Vec<f64> = answer["logits"].as_array().expect("logits").iter().map(|v| v.as_f64().expect("a number")).collect();
    assert_eq!(logits.len(), clear.len(), "{answer}");
    for (a, b) in logits.iter().zip(clear) {
        assert!((a - f64::from(*b)).abs() < TOLERANCE, "{answer} but in the clear {clear:?}");
    }
    let largest = u8::from(logits[1] > logits[0]);
    assert_eq!(answer["label"], largest, "{answer}");
}

#[test]
fn given_texts_get_the_clear_models_logits_and_a_bill() {
    let served = Served::new();
    let input = served.path("texts.jsonl");
    fs::write(&input, format!("{}\n", json!({"text": TEXTS[2]}))).expect("written");
    let input = input.display().to_string();
    let ended = served.infer(&["--text", TEXTS[0], "--text", TEXTS[1], "--input", &input, "--batch", "2"]).expect(0);
    let lines = ended.json_lines();
    let (cost, answers) = lines.split_last().expect("a last line");
    assert_eq!(answers.len(), 3);
    for (row, (answer, clear)) in answers.iter().zip(served.clear(&TEXTS)).enumerate() {
        assert_answers(answer, row, &clear);
        assert_eq!(answer["padded"].as_u64().expect("a length") % 16, 0, "lengths are told in steps only: {answer}");
    }
    assert_eq!((&cost["event"], &cost["mode"]), (&json!("cost"), &json!("exact")));
    assert!(cost["rounds"].as_u64().expect("a number") > 10 && cost["dealer_bytes"][1].as_u64().expect("a number") > 0, "{cost}");
    for secret in TEXTS {
        assert!(!ended.stderr.contains(secret) && !ended.stdout.contains(secret), "a text was printed");
    }
    let store = served.at("store");
    let told = sprint_flow(&["infer", "--model", &served.digest[..12], "--store", &store, "--text", TEXTS[2]]).expect(0);
    assert!(
        told.stdout.starts_with("text 1: class ") && told.stderr.contains("1 inferences of"),
        "{} {}",
        told.stdout,
        told.stderr
    );
}

/// A conversation: writes a line, waits for the answer to it.
fn ask(to: &mut ChildStdin, from: &mut impl BufRead, line: &str) -> Value {
    writeln!(to, "{line}").expect("the program reads");
    let mut answer = String::new();
    from.read_line(&mut answer).expect("the program answers");
    serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer}"))
}

#[test]
fn standard_input_is_answered_line_by_line_by_one_session() {
    let served = Served::new();
    let clear = served.clear(&TEXTS);
    let args = ["infer", "--model", &served.at("model"), "--max-length", "32", "--json", "--input", "-"];
    let mut child = command(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut to = child.stdin.take().expect("a pipe");
    let mut from = BufReader::new(child.stdout.take().expect("a pipe"));
    for (row, (text, clear)) in TEXTS.iter().zip(&clear).enumerate() {
        let answer = ask(&mut to, &mut from, &json!({"text": text}).to_string());
        assert_answers(&answer, row, clear);
        assert_eq!(answer["padded"], 32, "every text has the same length to the parties");
    }
    let refused = ask(&mut to, &mut from, "{\"txt\": 1}");
    assert_eq!((&refused["text"], &refused["refused"], &refused["logits"]), (&json!(3), &json!("unreadable"), &Value::Null));
    assert_answers(&ask(&mut to, &mut from, &json!({"text": TEXTS[1], "pair": null}).to_string()), 4, &clear[1]);
    drop(to);
    let mut cost = String::new();
    from.read_line(&mut cost).expect("a last line");
    let cost: Value = serde_json::from_str(&cost).expect("JSON");
    assert_eq!((&cost["event"], &cost["inferences"]), (&json!("cost"), &json!(4)));
    finish(child).expect(4);
}

#[test]
fn lines_that_wait_are_answered_together_by_the_shortest_program_that_holds_them() {
    let served = Served::new();
    let long = "word ".repeat(40);
    let texts = [TEXTS[0], TEXTS[1], TEXTS[2], &long, TEXTS[2]];
    let args = ["infer", "--model", &served.at("model"), "--max-length", "32", "--json", "--text", "-"];
    let more = ["--length-multiple", "16", "--batch", "8"];
    let child = command(&[&args[..], &more].concat()).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("starts");
    let mut to = child.stdin.take().expect("a pipe");
    // All lines are in the pipe before the session is up.
    to.write_all(format!("{}\n", texts.join("\n\n")).as_bytes()).expect("the pipe holds them");
    drop(to);
    let lines = finish(child).expect(0).json_lines();
    let (cost, answers) = lines.split_last().expect("a last line");
    for (row, (answer, clear)) in answers.iter().zip(served.clear(&texts)).enumerate() {
        assert_answers(answer, row, &clear);
    }
    assert_eq!(answers.len(), texts.len());
    assert!(cost["inferences"].as_u64().expect("a number") < texts.len() as u64, "a batch of 8 holds more than one text: {cost}");
}

fn materials(folder: &Path) -> Vec<PathBuf> {
    let all = ["party-0", "party-1"].iter().flat_map(|party| fs::read_dir(folder.join(party)).expect("a folder"));
    let paths = all.map(|entry| entry.expect("an entry").path());
    paths.filter(|p| p.extension().is_some_and(|e| e == "material")).collect()
}

#[test]
fn material_made_ahead_answers_once_and_never_again_not_even_put_back() {
    let served = Served::new();
    let folder = served.path("material");
    let (model, out) = (served.at("model"), folder.display().to_string());
    let made = ["dealer", "precompute", "--model", &model, "--seq", "32", "--count", "2", "--out", &out, "--json"];
    let made = sprint_flow(&made).expect(0).json();
    assert_eq!((&made["count"], &made["seq"], &made["mode"]), (&json!(2), &json!(32), &json!("exact")));
    let copies: Vec<(PathBuf, Vec<u8>)> =
        materials(&folder).into_iter().map(|p| (p.clone(), fs::read(p).expect("read"))).collect();
    assert_eq!(copies.len(), 4, "two inferences for two parties");

    // One text in each of two sessions.
    for (text, clear) in TEXTS.iter().zip(served.clear(&TEXTS[..2])) {
        let lines = served.infer(&["--material", &out, "--text", text]).expect(0).json_lines();
        assert_answers(&lines[0], 0, &clear);
        assert_eq!(lines[1]["offline_s"], 0.0, "there is no dealer: {}", lines[1]);
    }
    assert_eq!(materials(&folder), Vec::<PathBuf>::new(), "what was used is deleted");

    let again = served.infer(&["--material", &out, "--text", TEXTS[2]]).expect(1);
    assert!(again.stderr.contains("the batch has none, or it has been used") && again.stdout.is_empty(), "{}", again.stderr);
    for (path, bytes) in &copies {
        fs::write(path, bytes).expect("written");
    }
    let again = served.infer(&["--material", &out, "--text", TEXTS[2]]).expect(1);
    assert!(again.stderr.contains("the batch has none, or it has been used") && again.stdout.is_empty(), "{}", again.stderr);
    assert_eq!(materials(&folder), Vec::<PathBuf>::new(), "what the ledger says is burnt is deleted");
}

#[test]
fn calibrated_gates_answer_in_their_ranges_and_refuse_what_leaves_them() {
    // The pretrained encoder's scores spread too far for public ceilings; capped ones do not, whatever the text.
    let served = Served::with("{logits: 3, attention: 2.5}");
    let (model, ranges) = (served.at("model"), served.at("ranges.json"));
    let told = served.infer(&["--mode", "calibrated", "--text", TEXTS[0]]).expect(2);
    assert!(told.stderr.contains("--calibration") && told.stderr.contains("sprint-flow calibrate"), "{}", told.stderr);
    let measured = ["calibrate", "--model", &model, "--max-length", "32", "--out", &ranges, "--json"];
    assert!(sprint_flow(&measured).expect(0).json()["on"]["random_tokens"].is_object());
    let undeclared = ["calibrate", "--model", &model, "--out", &ranges, "--input", "texts.jsonl"];
    assert!(sprint_flow(&undeclared).expect(2).stderr.contains("--data"), "whose texts they are must be said");

    // What is measured here is whatever the ranges of random tokens hold; three short mails are in them or refused, never wrong.
    let texts: Vec<&str> = TEXTS.iter().flat_map(|t| ["--text", *t]).collect();
    let calibrated = ["--mode", "calibrated", "--calibration", &ranges];
    let lines = served.infer(&[&calibrated[..], &texts].concat()).expect(0).json_lines();
    for (row, clear) in served.clear(&TEXTS).iter().enumerate() {
        assert_answers(&lines[row], row, clear);
    }
    let exact = served.infer(&texts).expect(0).json_lines();
    let rounds = |lines: &[Value]| lines[3]["rounds"].as_u64().expect("a number");
    assert!(rounds(&lines) < rounds(&exact), "{} {}", lines[3], exact[3]);

    let (out, precompute) = (served.at("material"), ["dealer", "precompute", "--model", &model, "--seq", "32"]);
    sprint_flow(&[&precompute[..], &calibrated, &["--out", &out]].concat()).expect(0);
    let lines = served.infer(&["--material", &out, "--text", TEXTS[1]]).expect(0).json_lines();
    assert_answers(&lines[0], 0, &served.clear(&TEXTS[1..2])[0]);
    assert_eq!(lines[1]["mode"], "calibrated", "what material is for is known from it");

    let mut narrow: Value = serde_json::from_slice(&fs::read(&ranges).expect("read")).expect("JSON");
    for layer in narrow["ranges"]["layers"].as_array_mut().expect("layers") {
        layer["activation"] = json!({"low": -0.25, "high": 0.25});
    }
    fs::write(&ranges, narrow.to_string()).expect("written");
    let ended = served.infer(&[&calibrated[..], &["--text", TEXTS[0]]].concat()).expect(4);
    let answer = &ended.json_lines()[0];
    assert_eq!((&answer["refused"], &answer["logits"], &answer["label"]), (&json!("out_of_range"), &Value::Null, &Value::Null));

    narrow["model"] = json!("b3:00");
    fs::write(&ranges, narrow.to_string()).expect("written");
    let told = served.infer(&[&calibrated[..], &["--text", TEXTS[0]]].concat()).expect(2);
    assert!(told.stderr.contains("ranges of another model"), "{}", told.stderr);
}
