//! Share, infer in the clear and under MPC, and compare. The roles are this test binary again, told to run one test alone.

use std::process::ExitCode;

use serde_json::{Value, json};
use sprint_artifacts::{Manifest, Secrecy};
use sprint_stage_api::{ErrorClass, Stage, StageOutputs};

use super::InferMpc;
use crate::RoleProgram;
use crate::calibrate::Calibrate;
use crate::cost::MpcCost;
use crate::finetune::Finetune;
use crate::finetune::tests::{bench, recipe};
use crate::infer_clear::InferClear;
use crate::metrics::Metrics;
use crate::predictions::Predictions;
use crate::provision::Provision;
use crate::share::Share;
use crate::share_three::ShareThree;
use crate::testing::Bench;

/// Two filters: the test that is a role's main function, and the role's name, which is no test's.
fn roles() -> RoleProgram {
    let binary = std::env::current_exe().expect("a test binary");
    let args = ["--exact", "--quiet", "--nocapture", "infer_mpc::tests::role_process"].map(str::to_owned).to_vec();
    RoleProgram { binary: Some(binary), args }
}

/// Not a claim of its own: the body of a role's process, and nothing at all when the other tests run.
#[test]
fn role_process() {
    let role = std::env::args().next_back().unwrap_or_default();
    if let Some(code) = crate::mpc_role(&role, std::io::stdin(), std::io::stdout()) {
        std::process::exit(i32::from(code != ExitCode::SUCCESS));
    }
}

/// Trains, shares and connects everything that the private inference reads.
fn shared() -> (Bench, StageOutputs) {
    shared_by(&recipe())
}

/// The same with capped scores: those of the pretrained encoder spread too far for public ceilings.
fn shared_with_caps() -> Bench {
    let mut recipe = recipe();
    recipe["functions"] = json!({"caps": {"attention": 2.5}});
    shared_by(&recipe).0
}

fn shared_by(recipe: &Value) -> (Bench, StageOutputs) {
    let mut bench = bench();
    let trained = bench.run(&Finetune::new(), recipe).expect("trains");
    bench.inputs.remove("model");
    bench.connect("model", &[], *trained.get("model").expect("an output"));
    let shared = bench.run(&Share::new(), &json!({})).expect("shares");
    for port in ["public", "share0", "share1"] {
        bench.connect(port, &[], *shared.get(port).expect("an output"));
    }
    let hosts = bench.run(&Provision::new(None), &json!({})).expect("provides");
    bench.connect("hosts", &[], *hosts.get("hosts").expect("an output"));
    (bench, trained)
}

#[test]
fn the_private_answers_are_the_clear_ones() {
    let (mut bench, trained) = shared();
    let clear = bench.run(&InferClear::new(), &json!({})).expect("infers");
    let params = json!({"samples": 7, "batch": 2});
    let private = bench.run(&InferMpc::new(roles()), &params).expect("infers");
    let read =
        |outputs: &StageOutputs| Predictions::load(bench.store(), outputs.get("predictions").expect("an output")).expect("reads");
    assert_eq!((read(&clear).rows.len(), read(&private).rows.len()), (40, 7));
    let cost = MpcCost::load(bench.store(), private.get("cost").expect("an output")).expect("reads");
    assert_eq!((cost.messages, cost.inferences), (7, 4), "a batch that is not full is filled up");
    assert!(cost.rounds > 10 && cost.online_bytes_sent.iter().all(|b| *b > 0), "{cost:?}");

    let outputs = [
        ("clear", &clear, "predictions"),
        ("mpc", &private, "predictions"),
        ("reports", &trained, "report"),
        ("costs", &private, "cost"),
    ];
    for (port, outputs, name) in outputs {
        bench.connect(port, &[("epsilon", "8")], *outputs.get(name).expect("an output"));
    }
    let table = bench.run(&Metrics::new(), &json!({})).expect("gathers");
    let table: Value = serde_json::from_slice(&bench.output(&table, "table").1["table.json"]).expect("JSON");
    let row = &table["rows"][0];
    assert_eq!(row["label_agreement"], 1.0, "{row}");
    assert!(row["max_logit_diff"].as_f64().expect("a number") < 1e-2, "{row}");
    assert!(row["mpc_cost"]["rounds"].as_u64().expect("a number") > 10);
}

/// The private logits of what a recipe trains are those in the clear.
fn expect_the_clear_logits(changes: &Value) {
    let mut recipe = recipe();
    for (key, value) in changes.as_object().expect("an object") {
        recipe[key] = value.clone();
    }
    let (bench, _) = shared_by(&recipe);
    let read = |stage: &dyn Stage, params: &Value| {
        let outputs = bench.run(stage, params).expect("infers");
        Predictions::load(bench.store(), outputs.get("predictions").expect("an output")).expect("reads")
    };
    let clear = read(&InferClear::new(), &json!({}));
    let private = read(&InferMpc::new(roles()), &json!({"samples": 4, "batch": 2}));
    assert_eq!(private.rows.len(), 4);
    for (row, logits) in private.rows.iter().zip(&private.logits) {
        let at = clear.rows.iter().position(|r| r == row).expect("a row of the split");
        for (a, b) in clear.logits[at].iter().zip(logits) {
            assert!((a - b).abs() < 1e-2, "{changes}: {a} in the clear, {b} under MPC");
        }
    }
}

#[test]
fn a_model_trained_in_full_is_shared_and_inferred() {
    expect_the_clear_logits(&json!({"method": "full", "lr": 1e-3}));
}

#[test]
fn updates_with_ranks_and_scales_of_their_own_are_shared_and_inferred() {
    let patterns = json!({"rank_pattern": {"value": 6}, "alpha_pattern": {"dense": 0.5}});
    expect_the_clear_logits(&patterns);
}

#[test]
fn lean_answers_are_the_exact_ones_from_a_third_of_the_material() {
    let mut bench = shared_with_caps();
    let infer = |bench: &Bench| {
        let outputs = bench.run(&InferMpc::new(roles()), &json!({"samples": 4, "batch": 2})).expect("infers");
        let predictions = Predictions::load(bench.store(), outputs.get("predictions").expect("an output")).expect("reads");
        (predictions, MpcCost::load(bench.store(), outputs.get("cost").expect("an output")).expect("reads"))
    };
    let (exact, exact_cost) = infer(&bench);
    let shared = bench.run(&Share::new(), &json!({"mode": "lean"})).expect("shares");
    for port in ["public", "share0", "share1"] {
        bench.inputs.remove(port);
        bench.connect(port, &[], *shared.get(port).expect("an output"));
    }
    let (lean, cost) = infer(&bench);
    assert_eq!((cost.mode.as_str(), cost.refused, cost.messages), ("lean", 0, 4));
    let [dealt, exact_dealt] = [&cost, &exact_cost].map(|c| c.dealer_bytes.iter().sum::<u64>());
    // The soft cap of the scores costs what it does in exact.
    assert!(3 * dealt < exact_dealt, "{dealt} bytes, exact {exact_dealt}");
    for (a, b) in exact.logits.iter().flatten().zip(lean.logits.iter().flatten()) {
        assert!((a - b).abs() < 2e-2, "{a} {b}");
    }
}

#[test]
fn three_servers_answer_without_a_dealer_and_refuse_other_wirings() {
    let mut bench = shared_with_caps();
    let params = json!({"samples": 4, "batch": 2});
    let infer = |bench: &Bench| {
        let outputs = bench.run(&InferMpc::new(roles()), &params).expect("infers");
        let predictions = Predictions::load(bench.store(), outputs.get("predictions").expect("an output")).expect("reads");
        (predictions, MpcCost::load(bench.store(), outputs.get("cost").expect("an output")).expect("reads"))
    };
    let (exact, _) = infer(&bench);
    let shared = bench.run(&ShareThree::new(), &json!({})).expect("shares");
    bench.connect("share2", &[], *shared.get("share2").expect("an output"));
    let refused = bench.run(&InferMpc::new(roles()), &params).expect_err("a model of two parties");
    assert!(refused.message.contains("inputs.share2 is connected"), "{}", refused.message);
    for port in ["public", "share0", "share1"] {
        bench.inputs.remove(port);
        bench.connect(port, &[], *shared.get(port).expect("an output"));
    }
    let (three, cost) = infer(&bench);
    assert_eq!((cost.mode.as_str(), cost.refused, cost.messages), ("three-server", 0, 4));
    assert_eq!((cost.dealer_bytes.as_slice(), cost.online_bytes_sent.len()), (&[0, 0, 0][..], 3));
    for (a, b) in exact.logits.iter().flatten().zip(three.logits.iter().flatten()) {
        assert!((a - b).abs() < 2e-2, "{a} {b}");
    }
    bench.inputs.remove("share2");
    let refused = bench.run(&InferMpc::new(roles()), &params).expect_err("no third share");
    assert!(refused.message.contains("inputs.share2 is not connected"), "{}", refused.message);
}

/// Measures ranges on what is classified, changes them by `change`, and shares the model with them.
fn share_calibrated(bench: &mut Bench, change: impl Fn(&mut Value)) {
    let ranges = bench.run(&Calibrate::new(), &json!({"data": "public", "tokens": 16})).expect("measures");
    let mut json: Value = serde_json::from_slice(&bench.output(&ranges, "ranges").1["calibration.json"]).expect("JSON");
    change(&mut json);
    let changed = Manifest::builder("calibration@1", Secrecy::Public).bytes("calibration.json", json.to_string().into_bytes());
    let (changed, _) = bench.store().put_artifact(changed).expect("stores");
    bench.connect("ranges", &[], changed);
    let shared = bench.run(&Share::new(), &json!({})).expect("shares");
    for port in ["public", "share0", "share1"] {
        bench.inputs.remove(port);
        bench.connect(port, &[], *shared.get(port).expect("an output"));
    }
}

#[test]
fn calibrated_answers_are_the_exact_ones_in_fewer_rounds() {
    let mut bench = shared_with_caps();
    let infer = |bench: &Bench| {
        let outputs = bench.run(&InferMpc::new(roles()), &json!({"samples": 4, "batch": 2})).expect("infers");
        let predictions = Predictions::load(bench.store(), outputs.get("predictions").expect("an output")).expect("reads");
        (predictions, MpcCost::load(bench.store(), outputs.get("cost").expect("an output")).expect("reads"))
    };
    let (exact, exact_cost) = infer(&bench);
    share_calibrated(&mut bench, |_| {});
    let (calibrated, cost) = infer(&bench);
    assert_eq!((cost.mode.as_str(), cost.refused, cost.messages), ("calibrated", 0, 4));
    assert!(cost.rounds < exact_cost.rounds, "{} rounds, exact {}", cost.rounds, exact_cost.rounds);
    for (a, b) in exact.logits.iter().flatten().zip(calibrated.logits.iter().flatten()) {
        assert!((a - b).abs() < 2e-2, "{a} {b}");
    }
}

#[test]
fn what_leaves_a_calibrated_range_fails_the_stage_by_name_and_ranges_of_another_model_are_refused() {
    let mut bench = shared_with_caps();
    share_calibrated(&mut bench, |json| {
        for layer in json["ranges"]["layers"].as_array_mut().expect("layers") {
            let [low, high] = ["low", "high"].map(|end| layer["activation"][end].as_f64().expect("a number"));
            layer["activation"] = json!({"low": low + 0.3 * (high - low), "high": high - 0.3 * (high - low)});
        }
    });
    for params in [json!({"samples": 2, "batch": 2}), json!({"samples": 1, "refused": "leave_out"})] {
        let error = bench.run(&InferMpc::new(roles()), &params).expect_err("out of range");
        assert_eq!(error.class, ErrorClass::Permanent, "{error}");
        assert!(error.message.contains("left a calibrated range") && error.message.contains("rows 0"), "{error}");
    }
    let ranges = bench.inputs["ranges"][0].clone();
    let manifest = bench.store().read_artifact(&ranges.id).expect("stored");
    let mut json: Value =
        serde_json::from_slice(&bench.store().read_file(&manifest, "calibration.json").expect("stored")).expect("JSON");
    json["model"] = json!("b3:00");
    let foreign = Manifest::builder("calibration@1", Secrecy::Public).bytes("calibration.json", json.to_string().into_bytes());
    let (foreign, _) = bench.store().put_artifact(foreign).expect("stores");
    bench.inputs.remove("ranges");
    let missing = bench.run(&Share::new(), &json!({"mode": "calibrated"})).expect_err("no ranges");
    assert!(missing.message.contains("needs inputs.ranges"), "{missing}");
    bench.connect("ranges", &[], foreign);
    let refused = bench.run(&Share::new(), &json!({})).expect_err("another model's");
    assert!(refused.message.contains("ranges of another model"), "{refused}");
    bench.run(&Share::new(), &json!({"mode": "exact"})).expect("exact gates read no ranges");
}

#[test]
fn burn_and_the_oracle_agree() {
    let (bench, _) = shared();
    let logits = |engine: &str| {
        let outputs = bench.run(&InferClear::new(), &json!({ "engine": engine })).expect("infers");
        Predictions::load(bench.store(), outputs.get("predictions").expect("an output")).expect("reads").logits
    };
    for (a, b) in logits("f32").iter().flatten().zip(logits("burn").iter().flatten()) {
        assert!((a - b).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn each_share_is_its_partys_alone_and_differs_every_time() {
    let (bench, _) = shared();
    let again = bench.run(&Share::new(), &json!({})).expect("shares");
    for (port, party) in [("share0", 0), ("share1", 1)] {
        let (manifest, files) = bench.output(&again, port);
        assert_eq!(manifest.secrecy(), Secrecy::Party(party));
        let first = bench.store().read_artifact(&bench.inputs[port][0].id).expect("stored");
        assert_ne!(bench.store().read_file(&first, "share").expect("stored"), files["share"]);
    }
    let (public, files) = bench.output(&again, "public");
    assert_eq!(public.secrecy(), Secrecy::Public);
    let names = String::from_utf8_lossy(&files["public.safetensors"][..4096]).into_owned();
    assert!(
        names.contains("lora_A") && !names.contains("lora_B") && !names.contains("classifier"),
        "what was trained is not public"
    );
}

#[test]
fn shares_of_two_sharings_are_refused() {
    let (mut bench, _) = shared();
    let again = bench.run(&Share::new(), &json!({})).expect("shares");
    bench.inputs.remove("share1");
    bench.connect("share1", &[], *again.get("share1").expect("an output"));
    let error = bench.run(&InferMpc::new(roles()), &json!({"samples": 1})).expect_err("not a pair");
    assert_eq!(error.class, ErrorClass::Permanent, "{error}");
    assert!(error.message.contains("party 1 failed: the model here has digest"), "{error}");
}

#[test]
fn a_program_that_is_no_role_is_an_error_and_not_a_hang() {
    let (bench, _) = shared();
    let nothing = RoleProgram { binary: Some("/bin/true".into()), args: Vec::new() };
    let error = bench.run(&InferMpc::new(nothing), &json!({"samples": 1})).expect_err("dies at once");
    assert_eq!(error.class, ErrorClass::Transient, "{error}");
}

#[test]
fn parameters_are_checked() {
    let stage = InferMpc::new(roles());
    let problems = stage.normalise(&json!({"samples": 0, "batch": 65, "net": "moon"})).expect_err("three problems");
    assert_eq!(problems.len(), 3, "{problems:?}");
}
