//! The calibrated mode: one-round functions on public ranges, and alarms for what leaves them.

mod harness;

use harness::{POLICY, Runs, calibration, strong};
use sprint_model::{
    Activation, Calibration, HeadSpec, LayerRanges, LoraSpec, ModelSpec, Pooling, Range, ScoreRange, Softmax, TargetModules,
};
use sprint_mpc_core::{Mode, Options, compile};

const TOKENS: usize = 12;
const LENGTHS: [usize; 3] = [12, 5, 9];

fn tiny(change: impl FnOnce(&mut ModelSpec)) -> ModelSpec {
    let mut spec = ModelSpec {
        layers: 2,
        hidden: 24,
        heads: 2,
        intermediate: 48,
        vocab: 90,
        positions: 32,
        head: Some(HeadSpec { outputs: 2, pooling: Pooling::First, dense: false, dropout: 0.0 }),
        lora: Some(LoraSpec::new(4, 4.0, TargetModules::default())),
        softmax: Softmax::Scaled { temperature: 2.0 },
        ..ModelSpec::bert_tiny()
    };
    change(&mut spec);
    spec
}

fn options(calibration: Option<Calibration>) -> Options {
    Options::new(Mode::Calibrated, POLICY, LENGTHS.len(), TOKENS).with_calibration(calibration)
}

/// Two layers of two dozen channels over at most a dozen keys average little of the noise of truncations: 8e-3. A published shape is held to
/// 2e-3 by `examples/roberta.rs` and the benchmark.
#[test]
fn calibrated_functions_are_the_float_models_in_fewer_rounds() {
    for activation in [Activation::Gelu, Activation::GeluTanh] {
        let model = strong(tiny(|s| s.activation = activation));
        let ranges = calibration(&model, TOKENS, &[&LENGTHS, &[12, 12, 12], &[4, 7, 10]]);
        let runs = Runs::of(&model, &options(Some(ranges)), &LENGTHS).expect("in range");
        let [fixed, mpc] = runs.distances();
        println!("{activation:?}: fixed {fixed:.1e}, mpc {mpc:.1e}, {} rounds", runs.mpc.rounds);
        assert!(fixed < 4e-3 && mpc < 8e-3, "{activation:?}: off by {fixed} in the simulation, by {mpc} between parties");
        runs.assert_cost("calibrated");
        let exact = compile(model.spec(), &Options { mode: Mode::Exact, ..options(None) }).expect("compiles").cost();
        // Two levels of the maximum's tree at twelve keys, a round of the exponential and one of GELU; and one for the first layer's queries and keys,
        // whose low-rank updates are extended.
        assert_eq!(runs.mpc.rounds + 2 * (2 * 2 + 1 + 1) + 1, exact.rounds);
    }
}

/// Shrinks every range towards its middle, so that honest values leave it.
fn shrunk(ranges: &Calibration, spec: &ModelSpec, scores: bool, activation: bool) -> Calibration {
    let layers = ranges.layers().iter().cloned().map(|mut layer| {
        if activation {
            layer.activation = layer.activation.widened(-0.4, 0.0);
        }
        for head in layer.heads.iter_mut().filter(|_| scores) {
            head.scores = head.scores.widened(-0.3, 0.0);
            head.log_sums.low = head.log_sums.low.max(head.scores.low);
        }
        layer
    });
    Calibration::new(spec, ranges.examples(), layers.collect()).expect("ranges")
}

#[test]
fn values_out_of_range_are_refused_by_the_simulation_and_by_the_client_of_two_parties() {
    let model = strong(tiny(|_| {}));
    let ranges = calibration(&model, TOKENS, &[&LENGTHS]);
    for (scores, activation) in [(true, false), (false, true)] {
        let narrow = shrunk(&ranges, model.spec(), scores, activation);
        let runs = Runs::both(&model, &options(Some(narrow)), &LENGTHS);
        for refused in runs {
            let text = refused.expect_err("out of range");
            assert!(text.contains("left its calibrated range") && text.contains("mode exact"), "{text}");
        }
    }
}

#[test]
fn calibrated_programs_are_refused_without_ranges_that_fit_the_model() {
    let model = strong(tiny(|_| {}));
    let spec = model.spec();
    let refusal = |ranges: Option<Calibration>| compile(spec, &options(ranges)).expect_err("refused").to_string();
    assert!(refusal(None).contains("calibrate the model"));
    let other = strong(tiny(|s| s.layers = 1));
    assert!(refusal(Some(calibration(&other, TOKENS, &[&LENGTHS]))).contains("ranges of 1 layers"));
}

/// Rows whose scores are far below their head's highest, and scores that spread too far for one series.
#[test]
fn layers_whose_scores_spread_too_far_have_secret_maxima() {
    let model = strong(tiny(|_| {}));
    let ranges = calibration(&model, TOKENS, &[&LENGTHS, &[12, 12, 12], &[4, 7, 10]]);
    let spread = |which: &[usize], down: f64| {
        let mut layers = ranges.layers().to_vec();
        for layer in which {
            let head = &mut layers[*layer].heads[0];
            if down > 0.0 { head.scores.low -= down } else { head.scores.high += 20.0 }
        }
        Calibration::new(model.spec(), 3, layers).expect("ranges")
    };
    let run = |ranges: Calibration| Runs::of(&model, &options(Some(ranges)), &LENGTHS).expect("runs");
    let all = run(ranges.clone());
    for down in [0.0, 60.0] {
        let (one, none) = (run(spread(&[1], down)), run(spread(&[0, 1], down)));
        for runs in [&one, &none] {
            let [fixed, mpc] = runs.distances();
            assert!(fixed < 8e-3 && mpc < 8e-3, "off by {fixed} in the simulation, by {mpc} between parties");
            runs.assert_cost("spread");
        }
        let [all, one, none] = [&all, &one, &none].map(|r| r.mpc.rounds);
        assert!(all < one && one < none, "{all}, {one}, {none} rounds");
    }
}

#[test]
fn ranges_are_part_of_the_programs_digest() {
    let model = strong(tiny(|_| {}));
    let (a, b) = (calibration(&model, TOKENS, &[&LENGTHS]), calibration(&model, TOKENS, &[&[12, 12, 11]]));
    let digest = |ranges: Calibration| compile(model.spec(), &options(Some(ranges))).expect("compiles").digest();
    assert_eq!(digest(a.clone()), digest(a.clone()));
    assert_ne!(digest(a), digest(b));
}

#[test]
fn roberta_base_costs_no_more_than_promised() {
    let spec = ModelSpec {
        lora: Some(LoraSpec::new(16, 16.0, TargetModules::default())),
        head: Some(HeadSpec { outputs: 2, pooling: Pooling::First, dense: false, dropout: 0.0 }),
        ..ModelSpec::roberta_base()
    };
    let head = ScoreRange { scores: Range { low: -2.0, high: 2.0 }, log_sums: Range { low: 3.5, high: 5.5 } };
    let layer = LayerRanges { heads: vec![head; spec.heads], activation: Range { low: -4.0, high: 4.0 } };
    let ranges = Calibration::new(&spec, 1, vec![layer; spec.layers]).expect("ranges");
    let most = [(Mode::Exact, 300, 90, 1860), (Mode::Calibrated, 200, 55, 1350), (Mode::Lean, 720, 225, 295)];
    for (mode, rounds, megabytes, dealt) in most {
        let options = Options::new(mode, POLICY, 1, 128).with_calibration(Some(ranges.clone()));
        let cost = compile(&spec, &options).expect("compiles").cost();
        let said = format!("{mode}: {} rounds, {} bytes sent, {:?} dealt", cost.rounds, cost.online_bytes, cost.dealer_bytes);
        println!("{said}");
        assert!(cost.rounds <= rounds && cost.online_bytes <= megabytes * 1_000_000, "{said}");
        assert!(cost.dealer_bytes.iter().sum::<u64>() <= dealt * 1_000_000, "{said}");
    }
}
