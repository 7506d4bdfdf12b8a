//! Whole models on three servers without a dealer, against the float model with the same functions.
//!
//! Truncation of three words is off by up to one and a half units in the last place where that of two is off by one; the tolerances are those of the
//! other backend (`whole_model.rs`, `variants.rs`).

mod harness;

use harness::{POLICY, Three, quickstart, strong, tiny};
use sprint_model::{
    Activation, Architecture, HeadSpec, LoraSpec, ModelSpec, Pooling, SoftCaps, Softmax, TargetModules, WeightPolicy,
};
use sprint_mpc_core::{Mode, Options, Output};

const TOLERANCE: f32 = 4e-3;
const LENGTHS: [usize; 3] = [12, 5, 9];

fn options() -> Options {
    Options::new(Mode::Exact, POLICY, LENGTHS.len(), 12)
}

/// Runs each named spec and reports all that are off, not only the first.
fn check(cases: Vec<(String, ModelSpec)>, options: &Options, tolerance: f32) {
    let mut faults = Vec::new();
    for (name, spec) in cases {
        match Three::of(&strong(spec), options, &LENGTHS, 1) {
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
fn three_servers_agree_with_the_float_model_and_cost_what_the_program_says() {
    for (change, seed) in [(false, 1), (false, 2), (true, 3)] {
        let model = quickstart(|s| {
            if change {
                s.head = Some(HeadSpec { outputs: 3, pooling: Pooling::Mean, dense: true, dropout: 0.0 });
            }
        });
        let three = Three::of(&model, &Options::new(Mode::Exact, POLICY, 3, 32), &[32, 9, 21], seed).expect("runs");
        println!("off by {:.2e}, {} rounds, {:?}", three.distance(), three.cost.rounds, three.cost.online_bytes);
        assert!(three.distance() < 2e-3, "off by {}: {:?} against {:?}", three.distance(), three.mpc.logits, three.float);
        three.assert_cost("quickstart");
    }
}

#[test]
fn every_activation_and_softmax_is_the_float_models() {
    use Activation::{BoltGelu, Gelu, GeluTanh, HardGelu, HardSwish, Quad, Relu, Relu6};
    let activations = [Relu, Relu6, Gelu, GeluTanh, BoltGelu, HardGelu, HardSwish, Quad];
    let mut cases = activations.map(|activation| (format!("{activation:?}"), tiny(|s| s.activation = activation))).to_vec();
    let all = [
        Softmax::Shifted { shift: 4.0 },
        Softmax::Scaled { temperature: 2.0 },
        Softmax::TwoRelu { eps: 0.5 },
        Softmax::TwoQuad { c: 5.0 },
        Softmax::ReluOverLength,
        Softmax::ScoresOverLength,
    ];
    cases.extend(all.map(|softmax| (format!("{softmax:?}"), tiny(|s| s.softmax = softmax))));
    for cap in [1.0, 12.0, 50.0] {
        cases.push((
            format!("cap {cap}"),
            tiny(|s| s.caps = SoftCaps { attention: Some(cap), logits: Some(cap), embedding: Some(30.0) }),
        ));
    }
    check(cases, &options(), TOLERANCE);
}

#[test]
fn every_head_family_and_lora_target_is_the_float_models() {
    let mut cases = Vec::new();
    for (architecture, pooling, dense, outputs) in [
        (Architecture::Bert, Pooling::Mean, true, 3),
        (Architecture::Roberta, Pooling::First, true, 1),
        (Architecture::Roberta, Pooling::Mean, false, 2),
    ] {
        let spec = tiny(|s| {
            s.architecture = architecture;
            s.pad_token = u32::from(architecture == Architecture::Roberta);
            s.token_types = if architecture == Architecture::Bert { 2 } else { 1 };
            s.layers = 2;
            s.head = Some(HeadSpec { outputs, pooling, dense, dropout: 0.0 });
        });
        cases.push((format!("{architecture:?} {pooling:?} {dense} {outputs}"), spec));
    }
    let all = TargetModules::default();
    let none = TargetModules::NONE;
    for targets in [all, TargetModules { key: true, ..none }, TargetModules { intermediate: true, output: true, ..none }] {
        let lora = Some(LoraSpec::new(4, 8.0, targets));
        cases.push((format!("{targets:?}"), tiny(|s| s.lora = lora)));
    }
    cases.push(("no lora".into(), tiny(|s| s.lora = None)));
    check(cases.clone(), &options(), TOLERANCE);
    // All of a private A's operands are truncated to twelve bits besides, which adds up over six layers.
    check(cases, &Options { policy: WeightPolicy::PublicBase { public_a: false }, ..options() }, 2.0 * TOLERANCE);
    check(vec![("hidden states".into(), tiny(|_| {}))], &Options { output: Output::Hidden, ..options() }, TOLERANCE);
}

#[test]
fn calibrated_programs_are_refused_with_a_fix() {
    let model = strong(tiny(|s| s.softmax = Softmax::Scaled { temperature: 2.0 }));
    let ranges = harness::calibration(&model, 12, &[&LENGTHS]);
    let options = Options { mode: Mode::Calibrated, ..options() }.with_calibration(Some(ranges));
    let error = Three::of(&model, &options, &LENGTHS, 1).err().expect("refused");
    assert!(error.contains("mode calibrated on three servers") && error.contains("use mode exact"), "{error}");
}
