//! The stage on a few hundred synthetic messages with the quickstart's own encoder.

use std::path::Path;

use serde_json::{Value, json};
use sprint_artifacts::{Manifest, Secrecy};
use sprint_dp::accountant::pld;
use sprint_model::{Example, Label};
use sprint_stage_api::{ErrorClass, Stage};

use super::Finetune;
use crate::dataset::{self, TaskMeta};
use crate::glue::Metric;
use crate::model;
use crate::privacy::PrivacyDocument;
use crate::testing::Bench;

/// Messages whose class is one of their tokens.
fn examples(count: u32) -> Vec<Example> {
    let one = |i: u32| {
        let class = i % 2;
        let ids = vec![2, 100 + 50 * class, 300 + i % 40, 3];
        Example { type_ids: vec![0; ids.len()], ids, label: Some(Label::Class(class)) }
    };
    (0..count).map(one).collect()
}

pub(crate) fn bench() -> Bench {
    bench_on(&examples(240))
}

fn bench_on(train: &[Example]) -> Bench {
    let mut bench = Bench::new();
    let task = TaskMeta {
        task: "toy".to_owned(),
        classes: vec!["ham".to_owned(), "spam".to_owned()],
        positive: 1,
        metrics: vec![Metric::Accuracy, Metric::F1],
        max_length: 16,
        vocab: 5500,
    };
    let (dataset, _) = dataset::store(bench.store(), task, train, &examples(40)).expect("stores");
    let folder = Path::new("../workflows/quickstart/bert-tiny-5k");
    let files = Manifest::builder("files@1", Secrecy::Secret)
        .path("config.json", folder.join("config.json"))
        .path("model.safetensors", folder.join("model.safetensors"))
        .path("tokenizer.json", folder.join("tokenizer.json"));
    let (files, _) = bench.store().put_artifact(files).expect("stores");
    bench.connect("dataset", &[], dataset);
    bench.connect("model", &[], files);
    bench
}

pub(crate) fn recipe() -> Value {
    json!({"epsilon": 8, "delta": 1e-5, "rank": 2, "batch": 60, "epochs": 3, "lr": 0.01, "checkpoint_steps": 4})
}

fn document(bench: &Bench, outputs: &sprint_stage_api::StageOutputs) -> PrivacyDocument {
    PrivacyDocument::load(bench.store(), outputs.get("report").expect("an output")).expect("reads")
}

#[test]
fn a_private_run_claims_what_its_ledger_was_charged() {
    let bench = bench();
    let stage = Finetune::new();
    let outputs = bench.run(&stage, &recipe()).expect("trains");
    let document = document(&bench, &outputs);
    let claim = &document.claim;
    assert!(claim.private);
    assert_eq!(claim.steps, Some(12), "three passes of 240 in steps of 60");
    let (q, sigma, epsilon) = (claim.q.expect("q"), claim.sigma.expect("σ"), claim.epsilon.expect("ε"));
    assert!((q - 0.25).abs() < 1e-9 && sigma > 0.3, "{claim:?}");
    assert!(epsilon <= 8.0 && epsilon > 7.0, "σ is calibrated to the budget: {epsilon}");
    let segments: Vec<sprint_dp::accountant::Segment> =
        serde_json::from_value(document.report["segments"].clone()).expect("segments");
    let delta = sprint_dp::budget::Delta::new(1e-5).expect("valid");
    let again = pld::epsilon(&segments, delta).expect("accounts");
    assert!(again <= epsilon * 1.001 && epsilon <= again * 1.05 + 1e-3, "{again} against {epsilon}");
    let ledger = std::fs::read_to_string(bench.ledgers().join("privacy.ledger")).expect("a ledger");
    assert_eq!(ledger.lines().filter(|l| l.contains("\"charge\"")).count(), 12);
    let (meta, checkpoint) = model::load(bench.store(), outputs.get("model").expect("an output")).expect("reads");
    assert_eq!((meta.task.as_str(), checkpoint.spec().head.as_ref().map(|h| h.outputs)), ("toy", Some(2)));
}

#[test]
fn trainings_on_the_same_data_are_composed_in_the_report() {
    let bench = bench();
    let first = document(&bench, &bench.run(&Finetune::new(), &recipe()).expect("trains"));
    let alone = first.trials.expect("a private run");
    assert_eq!((alone.runs, alone.charges), (1, 12));
    // Another action's ledgers are beside this one's: of the same data, and of other data.
    let beside = |name: &str| bench.ledgers().with_file_name(name);
    let ledger = std::fs::read(bench.ledgers().join("privacy.ledger")).expect("a ledger");
    for name in ["first", "elsewhere"] {
        std::fs::create_dir(beside(name)).expect("a folder");
    }
    std::fs::rename(bench.ledgers().join("privacy.ledger"), beside("first").join("privacy.ledger")).expect("moves");
    let other = sprint_dp::ledger::FileSink::open(&beside("elsewhere").join("privacy.ledger")).expect("opens");
    drop(sprint_dp::ledger::Ledger::open(other, "other data").expect("a ledger"));
    let mut faster = recipe();
    faster["lr"] = json!(0.02);
    let second = document(&bench, &bench.run(&Finetune::new(), &faster).expect("trains"));
    let both = second.trials.expect("a private run");
    assert_eq!((both.runs, both.charges), (2, 24));
    let epsilon = |t: &sprint_dp::ledger::Trials| t.claim.expect("private").epsilon;
    assert!(epsilon(&both) > epsilon(&alone) + 1.0, "{} {}", epsilon(&both), epsilon(&alone));
    assert!(second.claim.epsilon.expect("private") <= 8.0, "the model alone costs what was asked for");
    // A damaged ledger must not make the whole look cheaper.
    std::fs::write(beside("elsewhere").join("privacy.ledger"), [&ledger[1..], b"x\n"].concat()).expect("writes");
    faster["lr"] = json!(0.03);
    let third = document(&bench, &bench.run(&Finetune::new(), &faster).expect("trains"));
    assert_eq!(third.trials.expect("a private run").claim, None);
}

/// Stops a training after `steps` more lines of its log than there are; what it leaves to go on from.
fn stopped(bench: &Bench, params: &Value, lines: usize) -> Vec<u8> {
    let before = bench.events.count();
    let cancelled = || bench.events.count() > before + lines;
    let error = bench.run_until(&Finetune::new(), params, &cancelled).expect_err("stopped after a few steps");
    assert_eq!(error.class, ErrorClass::Cancelled);
    bench.checkpoints().latest().expect("reads").expect("a checkpoint is kept before it stops")
}

#[test]
fn a_stopped_run_goes_on_where_it_stopped() {
    let bench = bench();
    let params = Finetune::new().normalise(&recipe()).expect("valid");
    stopped(&bench, &params, 6);
    let outputs = bench.run_normalised(&Finetune::new(), &params).expect("goes on");
    let claim = document(&bench, &outputs).claim;
    assert_eq!(claim.steps, Some(12), "no step is repeated: {claim:?}");
    assert!(claim.private && claim.epsilon.expect("claimed") <= 8.0);
    assert_eq!(bench.output(&outputs, "model").0.meta().get("private"), None);
    assert!(bench.events.lines().iter().any(|l| l.contains("continuing from a checkpoint")));
}

#[test]
fn a_run_from_an_older_checkpoint_charges_every_attempt() {
    let bench = bench();
    let params = Finetune::new().normalise(&recipe()).expect("valid");
    let older = stopped(&bench, &params, 5);
    stopped(&bench, &params, 5);
    // As after a crash: what came after this checkpoint was never kept.
    bench.checkpoints().offer(&older).expect("kept");
    let outputs = bench.run_normalised(&Finetune::new(), &params).expect("goes on");
    let claim = document(&bench, &outputs).claim;
    assert!(claim.steps.expect("charged") > 12, "repeated steps are charged: {claim:?}");
    assert!(claim.private && claim.epsilon.expect("claimed") > 8.0);
}

#[test]
fn a_run_without_privacy_and_a_run_with_a_seed_are_stamped() {
    for params in [json!({"epsilon": "none"}), json!({"epsilon": 8, "seed": 1})] {
        let bench = bench();
        let mut all = recipe();
        all.as_object_mut().expect("a map").extend(params.as_object().expect("a map").clone());
        let outputs = bench.run(&Finetune::new(), &all).expect("trains");
        let claim = document(&bench, &outputs).claim;
        assert!(!claim.private && claim.epsilon.is_none(), "{claim:?}");
        assert!(bench.events.lines().iter().any(|l| l.contains("NOT private")));
        for port in ["model", "report", "history"] {
            assert_eq!(bench.output(&outputs, port).0.meta().get("private"), Some(&false.into()), "{port}");
        }
    }
}

#[test]
fn short_examples_are_left_out_of_the_training_and_of_its_accounting() {
    let short = |e: Example| Example { ids: e.ids[..3].to_vec(), type_ids: vec![0; 3], ..e };
    let bench = bench_on(&[examples(240), examples(100).into_iter().map(short).collect()].concat());
    let mut recipe = recipe();
    recipe["min_tokens"] = json!(4);
    let claim = document(&bench, &bench.run(&Finetune::new(), &recipe).expect("trains")).claim;
    assert!((claim.q.expect("q") - 0.25).abs() < 1e-9, "60 of 240, not of 340: {claim:?}");
    assert_eq!(claim.steps, Some(12));
    assert!(bench.events.lines().iter().any(|l| l.contains("leaves 240 of 340 examples")));
    recipe["min_tokens"] = json!(5);
    let refused = bench.run(&Finetune::new(), &recipe).expect_err("nothing is left");
    assert!(refused.message.contains("the longest has 4"), "{refused}");
}

#[test]
fn a_recipe_is_checked_before_anything_runs() {
    let wrong =
        json!({"epsilon": "lots", "optimiser": "adam", "targets": ["nothing"], "rnak": 2, "functions": {"activation": "gulu"}});
    let problems = Finetune::new().normalise(&wrong).expect_err("five problems");
    let paths: Vec<_> = problems.iter().map(|p| p.path.join(".")).collect();
    assert!(["epsilon", "optimiser", "rnak"].iter().all(|p| paths.contains(&(*p).to_owned())), "{problems:?}");
    let wrong = json!({"epsilon": 8, "max_epsilon": 4, "targets": ["nothing"], "functions": {"activation": "gulu"}, "optimiser_options": {"beta3": 1}});
    let problems = Finetune::new().normalise(&wrong).expect_err("four problems");
    let paths: Vec<_> = problems.iter().map(|p| p.path.join(".")).collect();
    assert_eq!(paths, ["optimiser_options", "functions", "targets", "max_epsilon"], "{problems:?}");
    for (field, pattern) in [("rank_pattern", json!({"valeu": 8})), ("alpha_pattern", json!({"key": 2.0}))] {
        let wrong = json!({"epsilon": 8, "targets": ["query", "value"], field: pattern});
        let problems = Finetune::new().normalise(&wrong).expect_err("names no target");
        assert_eq!(problems.iter().map(|p| p.path.join(".")).collect::<Vec<_>>(), [field], "{problems:?}");
    }
}

#[test]
fn a_head_starts_from_words_for_every_class_of_the_data_and_no_other() {
    let bench = bench();
    let with = |start: Value| {
        let mut recipe = recipe();
        recipe["head_start"] = start;
        // One step at a rate that moves nothing: what is left is the start.
        (recipe["epsilon"], recipe["epochs"], recipe["lr"]) = (json!("none"), json!(0.25), json!(1e-9));
        recipe
    };
    let templates = json!(["{}", "this is {} ."]);
    let words = json!({"ham": ["dear friend", "meeting"], "spam": ["free offer", "money"]});
    let outputs = bench
        .run(&Finetune::new(), &with(json!({"words": words, "templates": templates, "margin": 2})))
        .expect("starts from words");
    let (_, model) = model::load(bench.store(), outputs.get("model").expect("an output")).expect("reads");
    let json = std::fs::read("../workflows/quickstart/bert-tiny-5k/tokenizer.json").expect("the quickstart's");
    let encoder = sprint_model::TextEncoder::from_bytes(&json, model.spec(), 16).expect("a tokenizer");
    let logits = |text: &str| {
        let example = encoder.encode(text, None).expect("encodes").into_example(None);
        let backend = sprint_train::Backend::open(sprint_train::BackendKind::Flex).expect("built");
        sprint_train::predict(&model, &[example], backend).expect("evaluates").remove(0)
    };
    for (text, class) in [("this is money .", 1), ("free offer", 1), ("this is dear friend .", 0), ("meeting", 0)] {
        let logits = logits(text);
        assert!(logits[class] > logits[1 - class], "{text}: {logits:?}");
    }
    let other = json!({"ham": ["meeting"], "eggs": ["money"]});
    let refused = bench.run(&Finetune::new(), &with(json!({"words": other}))).expect_err("no such class");
    assert!(refused.message.contains("eggs") && refused.message.contains("spam"), "{refused}");
    let wrong = with(json!({"words": {"ham": []}, "templates": ["no blank"], "margin": 1}));
    let problems = Finetune::new().normalise(&wrong).expect_err("three problems");
    let paths: Vec<_> = problems.iter().map(|p| p.path.join(".")).collect();
    assert_eq!(paths, ["head_start.templates", "head_start.words", "head_start.words.ham"], "{problems:?}");
}

#[test]
fn a_budget_may_be_written_as_a_matrix_coordinate() {
    let stage = Finetune::new();
    let normal = |epsilon: Value| stage.normalise(&json!({ "epsilon": epsilon })).expect("valid");
    assert_eq!(normal(json!("8")), normal(json!(8.0)));
    assert_ne!(normal(json!("8")), normal(json!("none")));
}
