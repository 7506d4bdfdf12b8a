//! The table against values worked by hand.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sprint_artifacts::Secrecy;
use sprint_mpc::MeasuredLink;
use sprint_stage_api::{Ancestor, Stage, StageError};

use super::Metrics;
use crate::cost::MpcCost;
use crate::predictions;
use crate::privacy::{PrivacyClaim, PrivacyDocument};
use crate::testing::Bench;

const LABELS: [f64; 4] = [1.0, 0.0, 1.0, 0.0];
const LOGITS: [[f32; 2]; 4] = [[0.0, 1.0], [2.0, 0.0], [1.0, 0.5], [0.0, 0.25]];

fn claim(epsilon: f64) -> PrivacyDocument {
    let claim = PrivacyClaim {
        epsilon: Some(epsilon),
        delta: Some(1e-6),
        sigma: Some(0.75),
        q: Some(0.03),
        steps: Some(320),
        accountant: Some("pld".to_owned()),
        private: true,
    };
    PrivacyDocument::new(claim, Value::Null)
}

fn cost() -> MpcCost {
    MpcCost {
        version: MpcCost::VERSION,
        mode: "exact".to_owned(),
        refused: 0,
        messages: 2,
        inferences: 2,
        rounds: 71,
        online_bytes_sent: vec![2000, 2400],
        dealer_bytes: vec![32, 8000],
        online_s: 1.0,
        offline_s: 3.0,
        wall_s: 5.0,
        link: Some(MeasuredLink { rtt_ms: 40.25, mbit: 399.0 }),
        cpu_s: BTreeMap::new(),
        peak_rss: BTreeMap::new(),
        by_layer: Value::Null,
        by_gate: Value::Null,
    }
}

fn table(bench: &Bench) -> Result<(Value, BTreeMap<String, Vec<u8>>), StageError> {
    let outputs = bench.run(&Metrics::new(), &json!({}))?;
    let (manifest, files) = bench.output(&outputs, "table");
    assert_eq!(manifest.secrecy(), Secrecy::Public);
    Ok((serde_json::from_slice(&files["table.json"]).expect("JSON"), files))
}

fn connect(bench: &mut Bench, epsilon: &str, shift: f32) {
    let axes = [("task", "mail"), ("epsilon", epsilon)];
    let clear = predictions::example("f32", &[0, 1, 2, 3], &LABELS, &LOGITS).store(bench.store()).expect("stores");
    let mpc = [[LOGITS[1][0] + shift, 0.0], [LOGITS[3][0], LOGITS[3][1]]];
    let mpc = predictions::example("mpc", &[1, 3], &[0.0, 0.0], &mpc).store(bench.store()).expect("stores");
    let report = claim(7.99).store(bench.store()).expect("stores");
    let cost = cost().store(bench.store()).expect("stores");
    bench.connect("clear", &axes, clear);
    bench.connect("mpc", &axes, mpc);
    bench.connect("reports", &axes, report);
    bench.connect("costs", &axes, cost);
}

#[test]
fn a_row_holds_what_the_contract_promises() {
    let mut bench = Bench::new();
    connect(&mut bench, "8", 0.125);
    let (table, files) = table(&bench).expect("runs");
    let row = &table["rows"][0];
    assert_eq!(table["version"], 1);
    assert_eq!(row["axes"], json!({"task": "mail", "epsilon": "8"}));
    // Predicted 1, 0, 0, 1 against 1, 0, 1, 0: two of four right, one true positive, one false, one missed.
    assert_eq!(row["clear"], json!({"n": 4, "accuracy": 0.5, "f1": 0.5}));
    assert_eq!(row["mpc"], json!({"n": 2, "accuracy": 0.5, "f1": 0.0}));
    assert_eq!(row["label_agreement"], 1.0);
    assert_eq!(row["max_logit_diff"], 0.125);
    assert_eq!(row["privacy"]["epsilon"], 7.99);
    assert_eq!(row["privacy"]["private"], true);
    assert_eq!(row["mpc_cost"]["rounds"], 71);
    assert_eq!(row["mpc_cost"]["online_bytes_sent"], json!([1000, 1200]));
    assert_eq!(row["mpc_cost"]["offline_s"], 1.5);
    assert_eq!(row["mpc_cost"]["link"], json!({"rtt_ms": 40.25, "mbit": 399.0}));
    let text = String::from_utf8(files["table.md"].clone()).expect("UTF-8");
    assert!(text.contains("| 0.5000 |") && text.contains("7.990") && text.lines().count() == 3, "{text}");
    assert!(text.contains("| 0.500 | 2.500 | 40.2 | 399 |"), "{text}");
    let svg = String::from_utf8(files["accuracy.svg"].clone()).expect("UTF-8");
    assert!(svg.starts_with("<svg") && svg.contains("epsilon") && svg.contains("mail"), "{svg}");
}

#[test]
fn rows_are_joined_on_the_axes_they_share() {
    let mut bench = Bench::new();
    connect(&mut bench, "8", 0.0);
    connect(&mut bench, "1", 0.5);
    let (table, _) = table(&bench).expect("runs");
    let diffs: Vec<_> = table["rows"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|r| (r["axes"]["epsilon"].clone(), r["max_logit_diff"].clone()))
        .collect();
    assert_eq!(diffs, [(json!("1"), json!(0.5)), (json!("8"), json!(0.0))]);
}

#[test]
fn a_coarser_result_belongs_to_every_row_it_agrees_with() {
    let mut bench = Bench::new();
    let clear = predictions::example("f32", &[0, 1, 2, 3], &LABELS, &LOGITS).store(bench.store()).expect("stores");
    let mpc = predictions::example("mpc", &[1], &[0.0], &[LOGITS[1]]).store(bench.store()).expect("stores");
    bench.connect("clear", &[("task", "mail")], clear);
    for net in ["lan", "wan"] {
        bench.connect("mpc", &[("task", "mail"), ("net", net)], mpc);
    }
    let (table, files) = table(&bench).expect("runs");
    assert_eq!(table["rows"].as_array().expect("rows").len(), 2);
    assert_eq!(table["rows"][0]["privacy"], Value::Null);
    assert!(!files.contains_key("accuracy.svg"), "there is no epsilon axis to draw");
}

#[test]
fn clear_results_alone_make_a_table() {
    let mut bench = Bench::new();
    let clear = predictions::example("f32", &[0, 1], &LABELS[..2], &LOGITS[..2]).store(bench.store()).expect("stores");
    bench.connect("clear", &[], clear);
    let (table, _) = table(&bench).expect("runs");
    assert_eq!(table["rows"][0]["mpc"], Value::Null);
    assert_eq!(table["rows"][0]["clear"]["accuracy"], 1.0);
}

#[test]
fn a_private_row_without_a_clear_one_is_an_error() {
    let mut bench = Bench::new();
    let clear = predictions::example("f32", &[0], &LABELS[..1], &LOGITS[..1]).store(bench.store()).expect("stores");
    let mpc = predictions::example("mpc", &[1], &[0.0], &[LOGITS[1]]).store(bench.store()).expect("stores");
    bench.connect("clear", &[], clear);
    bench.connect("mpc", &[], mpc);
    let error = table(&bench).expect_err("row 1 is missing");
    assert!(error.message.contains("row 1"), "{error}");
}

#[test]
fn a_run_without_privacy_claims_none() {
    let mut bench = Bench::new();
    connect(&mut bench, "none", 0.0);
    let none = PrivacyClaim { epsilon: None, delta: None, sigma: None, q: None, steps: None, accountant: None, private: false };
    let report = PrivacyDocument::new(none, Value::Null).store(bench.store()).expect("stores");
    bench.inputs.remove("reports");
    bench.connect("reports", &[("task", "mail"), ("epsilon", "none")], report);
    let (table, files) = table(&bench).expect("runs");
    assert_eq!(table["rows"][0]["privacy"]["private"], false);
    assert_eq!(table["rows"][0]["privacy"]["epsilon"], Value::Null);
    assert!(String::from_utf8_lossy(&files["table.md"]).contains("no privacy claim"));
    let outputs = bench.run(&Metrics::new(), &json!({})).expect("runs");
    assert_eq!(bench.output(&outputs, "table").0.meta().get("private"), Some(&false.into()), "what is made from it says so too");
}

#[test]
fn a_row_says_how_long_the_stages_it_came_from_took() {
    let mut bench = Bench::new();
    connect(&mut bench, "8", 0.0);
    connect(&mut bench, "1", 0.0);
    let ancestor = |stage: &str, epsilon: Option<&str>, seconds| Ancestor {
        stage: stage.to_owned(),
        axes: epsilon.map(|e| ("epsilon".to_owned(), e.to_owned())).into_iter().collect(),
        seconds,
    };
    bench.ancestors = vec![
        ancestor("mail", None, Some(0.25)),
        ancestor("finetune", Some("1"), Some(40.0)),
        ancestor("finetune", Some("8"), Some(42.0)),
        ancestor("private", Some("8"), None),
    ];
    let (table, files) = table(&bench).expect("runs");
    assert_eq!(table["rows"][0]["seconds"], json!({"mail": 0.25, "finetune": 40.0}));
    assert_eq!(table["rows"][1]["seconds"], json!({"mail": 0.25, "finetune": 42.0, "private": null}));
    let text = String::from_utf8(files["table.md"].clone()).expect("UTF-8");
    assert!(text.contains("| 8 | mail |  | 0.2 | 42.0 | – |"), "{text}");
}

#[test]
fn parameters_have_defaults() {
    let params = Metrics::new().normalise(&Value::Null).expect("all optional");
    assert_eq!(params["plot_by"], "epsilon");
}

#[test]
fn the_picture_of_costs_has_a_line_for_each_network_over_the_batch_size() {
    let mut bench = Bench::new();
    let clear = predictions::example("f32", &[0, 1, 2, 3], &LABELS, &LOGITS).store(bench.store()).expect("stores");
    bench.connect("clear", &[("model", "tiny")], clear);
    for (net, batch, seconds) in [("lan", "1", 0.5), ("lan", "4", 0.25), ("wan", "1", 8.0), ("wan", "4", 2.5)] {
        let axes = [("model", "tiny"), ("net", net), ("batch", batch)];
        let mpc = predictions::example("mpc", &[1], &[0.0], &[LOGITS[1]]).store(bench.store()).expect("stores");
        let cost = MpcCost { online_s: seconds * 2.0, ..cost() }.store(bench.store()).expect("stores");
        bench.connect("mpc", &axes, mpc);
        bench.connect("costs", &axes, cost);
    }
    let params = json!({"plot": "seconds", "plot_by": "batch", "title": "Cost"});
    let outputs = bench.run(&Metrics::new(), &params).expect("runs");
    let (_, files) = bench.output(&outputs, "table");
    let svg = String::from_utf8(files["seconds.svg"].clone()).expect("UTF-8");
    assert!(svg.contains("tiny lan") && svg.contains("tiny wan") && svg.contains("seconds a message"), "{svg}");
    assert!(!files.contains_key("accuracy.svg"));
}
