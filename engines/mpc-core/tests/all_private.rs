//! Encoders whose weights are all private: nothing of the model is public but its embeddings, and the answers are those of the float model.
//!
//! The tolerances are those of public encoders: 2e-3 for a model of a published shape, 4e-3 for tiny ones with strong weights (`variants.rs`).

mod harness;

use std::sync::Arc;

use harness::{Runs, Three, calibration, quickstart, strong, tiny};
use sprint_model::{
    Activation, Architecture, Calibration, HeadSpec, LayerRanges, LoraSpec, ModelSpec, Pooling, Range, ScoreRange, SoftCaps,
    Softmax, TargetModules, WeightPolicy,
};
use sprint_mpc_core::{Mode, Options, Output, ReplicatedProgram, compile};

const POLICY: WeightPolicy = WeightPolicy::AllPrivate;
const TOLERANCE: f32 = 2e-3;
const SMALL: f32 = 4e-3;
const LENGTHS: [usize; 3] = [12, 5, 9];

fn options(mode: Mode) -> Options {
    Options::new(mode, POLICY, LENGTHS.len(), 12)
}

/// As full fine-tuning leaves it: no low-rank update.
fn tuned() -> sprint_model::Checkpoint {
    quickstart(|spec| spec.lora = None)
}

#[test]
fn a_fully_tuned_model_gives_the_float_models_logits_in_every_mode_and_costs_what_it_says() {
    let lengths = [32, 9, 21];
    let model = tuned();
    let ranges = calibration(&model, 32, &[&lengths, &[32, 30, 12], &[8, 17, 28]]);
    for mode in [Mode::Exact, Mode::Calibrated, Mode::Lean] {
        let options = Options::new(mode, POLICY, 3, 32).with_calibration(Some(ranges.clone()));
        let runs = Runs::of(&model, &options, &lengths).expect("runs");
        let ([fixed, mpc], cost) = (runs.distances(), runs.program.cost());
        println!("{mode}: fixed {fixed:.2e} mpc {mpc:.2e}, {} rounds, dealt {:?}", cost.rounds, cost.dealer_bytes);
        assert!(fixed < TOLERANCE && mpc < TOLERANCE, "{mode}: off by {fixed} in the simulation, by {mpc} between parties");
        runs.assert_cost("all private");
        let opened = runs.program.weight_frame_bytes();
        assert_eq!(runs.mpc.weight_frames.each_ref().map(Vec::len), [opened; 2], "{mode}: opened once a session");
    }
}

#[test]
fn three_servers_hide_every_weight_too() {
    let three = Three::of(&tuned(), &Options::new(Mode::ThreeServer, POLICY, 3, 32), &[32, 9, 21], 4).expect("runs");
    println!("off by {:.2e}, {} rounds, {:?}", three.distance(), three.cost.rounds, three.cost.online_bytes);
    assert!(three.distance() < TOLERANCE, "off by {}", three.distance());
    three.assert_cost("all private");
}

/// Heads, families, functions and low-rank updates, each a small model.
fn cases() -> Vec<(String, ModelSpec)> {
    let mut cases = Vec::new();
    for (architecture, pooling, dense) in [
        (Architecture::Bert, Pooling::Mean, true),
        (Architecture::Roberta, Pooling::First, true),
        (Architecture::Bert, Pooling::First, false),
    ] {
        let spec = tiny(|s| {
            s.architecture = architecture;
            s.pad_token = u32::from(architecture == Architecture::Roberta);
            s.token_types = if architecture == Architecture::Bert { 2 } else { 1 };
            s.layers = 2;
            s.lora = None;
            s.head = Some(HeadSpec { outputs: 3, pooling, dense, dropout: 0.0 });
        });
        cases.push((format!("{architecture:?} {pooling:?} {dense}"), spec));
    }
    for activation in [Activation::Relu, Activation::GeluTanh, Activation::Quad] {
        cases.push((format!("{activation:?}"), tiny(|s| (s.activation, s.lora) = (activation, None))));
    }
    for softmax in [
        Softmax::Scaled { temperature: 2.0 },
        Softmax::TwoRelu { eps: 0.01 },
        Softmax::TwoQuad { c: 5.0 },
        Softmax::ScoresOverLength,
    ] {
        cases.push((format!("{softmax:?}"), tiny(|s| (s.softmax, s.lora) = (softmax, None))));
    }
    let caps = SoftCaps { attention: Some(5.0), logits: Some(30.0), embedding: Some(30.0) };
    cases.push(("caps".into(), tiny(|s| (s.caps, s.lora) = (caps, None))));
    let all = TargetModules::default();
    let more = TargetModules { intermediate: true, output: true, ..all };
    let lora = Some(LoraSpec::new(4, 8.0, more));
    cases.push(("low-rank updates".into(), tiny(|s| s.lora = lora)));
    cases
}

fn check(cases: Vec<(String, ModelSpec)>, options: &Options) {
    let mut faults = Vec::new();
    for (name, spec) in cases {
        let model = strong(spec);
        match Runs::of(&model, options, &LENGTHS) {
            Ok(runs) => {
                runs.assert_cost(&name);
                let [fixed, mpc] = runs.distances();
                println!("{} {name}: fixed {fixed:.1e}, mpc {mpc:.1e}, {} rounds", options.mode, runs.mpc.rounds);
                if !(fixed < SMALL && mpc < SMALL) {
                    faults.push(format!("{name}: off by {fixed} in the simulation, by {mpc} between parties"));
                }
            }
            Err(error) => faults.push(format!("{name}: {error}")),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_kind_of_model_is_the_float_models_with_private_weights() {
    check(cases(), &options(Mode::Exact));
    check(cases(), &options(Mode::Lean));
    let hidden = Options { output: Output::Hidden, ..options(Mode::Exact) };
    check(vec![("hidden states".into(), tiny(|s| (s.head, s.lora) = (None, None)))], &hidden);
}

#[test]
fn three_servers_run_every_kind_of_model_with_private_weights() {
    let mut faults = Vec::new();
    for (name, spec) in cases() {
        // Operands of low-rank updates are truncated to twelve bits, by three words (`three_servers.rs`).
        let tolerance = if spec.lora.is_some() { 2.0 * SMALL } else { SMALL };
        match Three::of(&strong(spec), &options(Mode::ThreeServer), &LENGTHS, 1) {
            Ok(three) => {
                three.assert_cost(&name);
                println!("{name}: {:.1e}, {} rounds", three.distance(), three.mpc.rounds);
                if three.distance() >= tolerance || three.distance().is_nan() {
                    faults.push(format!("{name}: off by {}", three.distance()));
                }
            }
            Err(error) => faults.push(format!("{name}: {error}")),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn calibrated_functions_serve_private_weights_and_refuse_what_leaves_their_ranges() {
    let model = strong(tiny(|s| {
        s.layers = 2;
        s.lora = None;
        s.softmax = Softmax::Scaled { temperature: 2.0 };
    }));
    let ranges = calibration(&model, 12, &[&LENGTHS, &[12, 12, 12], &[4, 7, 10]]);
    let runs = Runs::of(&model, &options(Mode::Calibrated).with_calibration(Some(ranges.clone())), &LENGTHS).expect("in range");
    let [fixed, mpc] = runs.distances();
    println!("fixed {fixed:.1e}, mpc {mpc:.1e}, {} rounds", runs.mpc.rounds);
    assert!(fixed < SMALL && mpc < SMALL, "off by {fixed} in the simulation, by {mpc} between parties");
    runs.assert_cost("calibrated");
    for (scores, activation) in [(true, false), (false, true)] {
        let layers = ranges.layers().iter().cloned().map(|mut layer| {
            if activation {
                layer.activation = layer.activation.widened(-0.4, 0.0);
            }
            for head in layer.heads.iter_mut().filter(|_| scores) {
                head.scores = head.scores.widened(-0.3, 0.0);
            }
            layer
        });
        let narrow = Calibration::new(model.spec(), 3, layers.collect()).expect("ranges");
        let both = Runs::both(&model, &options(Mode::Calibrated).with_calibration(Some(narrow)), &LENGTHS);
        for refused in both.map(|run| run.expect_err("out of range")) {
            assert!(refused.contains("left its calibrated range"), "{refused}");
        }
    }
}

/// What hiding everything costs: a round for each operand that is opened, and masks of every product.
#[test]
fn roberta_base_with_private_weights_costs_no_more_than_promised() {
    let spec = ModelSpec {
        head: Some(HeadSpec { outputs: 2, pooling: Pooling::First, dense: false, dropout: 0.0 }),
        ..ModelSpec::roberta_base()
    };
    let head = ScoreRange { scores: Range { low: -2.0, high: 2.0 }, log_sums: Range { low: 3.5, high: 5.5 } };
    let layer = LayerRanges { heads: vec![head; spec.heads], activation: Range { low: -4.0, high: 4.0 } };
    let ranges = Calibration::new(&spec, 1, vec![layer; spec.layers]).expect("ranges");
    let most = [(Mode::Exact, 285, 125, 1680), (Mode::Calibrated, 190, 100, 1250), (Mode::Lean, 710, 270, 300)];
    for (mode, rounds, megabytes, dealt) in most {
        let options = Options::new(mode, POLICY, 1, 128).with_calibration(Some(ranges.clone()));
        let program = compile(&spec, &options).expect("compiles");
        let (cost, once) = (program.cost(), program.weight_frame_bytes());
        let said =
            format!("{mode}: {} rounds, {} sent, {:?} dealt, {once} once", cost.rounds, cost.online_bytes, cost.dealer_bytes);
        println!("{said}");
        assert!(cost.rounds <= rounds && cost.online_bytes <= megabytes * 1_000_000, "{said}");
        assert!(cost.dealer_bytes.iter().sum::<u64>() <= dealt * 1_000_000 && once < 500_000_000, "{said}");
    }
    let program = compile(&spec, &Options::new(Mode::ThreeServer, POLICY, 1, 128)).expect("compiles");
    let cost = ReplicatedProgram::new(Arc::new(program)).expect("a form for three servers").cost();
    let said = format!("three servers: {} rounds, {:?} sent", cost.rounds, cost.online_bytes);
    println!("{said}");
    assert!(cost.rounds <= 570 && cost.online_bytes.iter().all(|sent| *sent <= 600_000_000), "{said}");
}
