//! Every function, softmax, cap, head and target that a spec can name, from the spec to two parties' logits.
//!
//! Models are tiny with strong weights ([`harness::strong`]), so that functions are seen on the whole of their useful range. The tolerance of
//! the logits, which are of size 1, against the float model with the same functions: two dozen channels average nothing out, so a
//! channel's error (2^-10 of the context, 2e-4 of a function) reaches the logits as it is, a few of them added: 4e-3. A model of a
//! published shape is held to 2e-3 (`whole_model.rs`).

mod harness;

use harness::{POLICY, Runs, strong, tiny};
use sprint_model::{
    Activation, Architecture, HeadSpec, LoraSpec, ModelSpec, Pattern, Pooling, SoftCaps, Softmax, TargetModules, WeightPolicy,
};
use sprint_mpc_core::{Mode, Options, Output, compile};

const TOLERANCE: f32 = 4e-3;
const LENGTHS: [usize; 3] = [12, 5, 9];
const TOKENS: usize = 12;

fn options() -> Options {
    Options::new(Mode::Exact, POLICY, LENGTHS.len(), TOKENS)
}

fn lean() -> Options {
    Options { mode: Mode::Lean, ..options() }
}

/// Runs each named spec and reports all that are off, not only the first.
fn check(cases: Vec<(String, ModelSpec)>, options: &Options) {
    let mut faults = Vec::new();
    for (name, spec) in cases {
        let runs = match Runs::of(&strong(spec), options, &LENGTHS) {
            Ok(runs) => runs,
            Err(error) => {
                faults.push(format!("{name}: {error}"));
                continue;
            }
        };
        runs.assert_cost(&name);
        let [fixed, mpc] = runs.distances();
        println!("{name}: fixed {fixed:.1e}, mpc {mpc:.1e}, {} rounds", runs.mpc.rounds);
        if !(fixed < TOLERANCE && mpc < TOLERANCE) {
            faults.push(format!("{name}: off by {fixed} in the simulation, by {mpc} between parties"));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_activation_is_the_float_models() {
    use Activation::{BoltGelu, Gelu, GeluTanh, HardGelu, HardSwish, Quad, Relu, Relu6};
    let all = [Relu, Relu6, Gelu, GeluTanh, BoltGelu, HardGelu, HardSwish, Quad];
    let cases = all.map(|activation| (format!("{activation:?}"), tiny(|s| s.activation = activation))).to_vec();
    check(cases.clone(), &options());
    check(cases, &lean());
}

#[test]
fn every_softmax_is_the_float_models() {
    let all = [
        Softmax::Exact,
        Softmax::Shifted { shift: 4.0 },
        Softmax::Scaled { temperature: 2.0 },
        Softmax::TwoRelu { eps: 0.5 },
        Softmax::TwoRelu { eps: 0.01 },
        Softmax::TwoQuad { c: 5.0 },
        Softmax::ReluOverLength,
        Softmax::ScoresOverLength,
    ];
    let cases = all.map(|softmax| (format!("{softmax:?}"), tiny(|s| s.softmax = softmax))).to_vec();
    check(cases.clone(), &options());
    check(cases, &lean());
}

#[test]
fn every_soft_cap_is_the_float_models() {
    let mut cases = Vec::new();
    for cap in [1.0, 5.0, 12.0, 13.0, 30.0, 50.0, 100.0] {
        let caps = SoftCaps { attention: Some(cap), ..SoftCaps::default() };
        cases.push((format!("attention {cap}"), tiny(|s| s.caps = caps)));
        let caps = SoftCaps { logits: Some(cap), ..SoftCaps::default() };
        cases.push((format!("logits {cap}"), tiny(|s| s.caps = caps)));
    }
    cases.push(("embedding 2".into(), tiny(|s| s.caps.embedding = Some(2.0))));
    cases.push(("all".into(), tiny(|s| s.caps = SoftCaps { embedding: Some(30.0), attention: Some(50.0), logits: Some(30.0) })));
    check(cases.clone(), &options());
    check(cases, &lean());
}

#[test]
fn every_head_and_family_is_the_float_models() {
    let mut cases = Vec::new();
    for architecture in [Architecture::Bert, Architecture::Roberta] {
        for pooling in [Pooling::First, Pooling::Mean] {
            for (dense, outputs) in [(false, 1), (true, 1), (true, 3)] {
                let head = HeadSpec { outputs, pooling, dense, dropout: 0.0 };
                let spec = tiny(|s| {
                    s.architecture = architecture;
                    s.pad_token = u32::from(architecture == Architecture::Roberta);
                    s.token_types = if architecture == Architecture::Bert { 2 } else { 1 };
                    s.layers = 2;
                    s.head = Some(head.clone());
                });
                cases.push((format!("{architecture:?} {head:?}"), spec));
            }
        }
    }
    check(cases.clone(), &options());
    check(cases, &lean());
}

#[test]
fn every_lora_target_is_the_float_models() {
    let none = TargetModules::NONE;
    let targets = [
        ("query", TargetModules { query: true, ..none }),
        ("key", TargetModules { key: true, ..none }),
        ("value", TargetModules { value: true, ..none }),
        ("attention_output", TargetModules { attention_output: true, ..none }),
        ("intermediate", TargetModules { intermediate: true, ..none }),
        ("output", TargetModules { output: true, ..none }),
    ];
    let lora = |targets| Some(LoraSpec::new(4, 8.0, targets));
    let mut cases: Vec<_> = targets.map(|(name, targets)| (format!("lora on {name}"), tiny(|s| s.lora = lora(targets)))).to_vec();
    cases.push(("no lora".into(), tiny(|s| s.lora = None)));
    let uneven = LoraSpec {
        rank_pattern: Pattern { value: Some(7), output: Some(2), ..Pattern::default() },
        alpha_pattern: Pattern { value: Some(7.0), intermediate: Some(1.0), ..Pattern::default() },
        ..LoraSpec::new(4, 8.0, TargetModules::default())
    };
    cases.push(("ranks and scales of their own".into(), tiny(|s| s.lora = Some(uneven))));
    check(cases.clone(), &options());
    check(cases.clone(), &lean());
    let private_a = WeightPolicy::PublicBase { public_a: false };
    check(cases, &Options { policy: private_a, ..options() });
}

#[test]
fn hidden_states_of_every_token_come_out_with_and_without_a_head() {
    let hidden = Options { output: Output::Hidden, ..options() };
    let bare = tiny(|s| {
        s.head = None;
        s.lora = None;
    });
    check(vec![("no head".into(), bare), ("a head".into(), tiny(|_| {}))], &hidden);
}

#[test]
fn what_cannot_be_run_is_refused_with_the_field_and_a_fix() {
    let refusal = |spec: &ModelSpec, options: &Options| compile(spec, options).expect_err("refused").to_string();
    let cases = [
        (tiny(|s| s.head = None), options(), "head", "hidden states"),
        (tiny(|s| s.softmax = Softmax::TwoRelu { eps: 1e-6 }), options(), "eps: 1e-6", "at least"),
        (tiny(|s| s.caps.logits = Some(5000.0)), options(), "caps", "choose a cap"),
        (tiny(|_| {}), Options { tokens: 600, ..options() }, "600 tokens", "1 to 512"),
    ];
    for (spec, options, field, fix) in cases {
        let text = refusal(&spec, &options);
        assert!(text.contains(field) && text.contains(fix), "{text}");
    }
}
