//! Whole models: float, the simulation on ring integers, and two parties with a dealer.

mod harness;

use std::path::Path;

use harness::{POLICY, Runs};
use sprint_model::{Checkpoint, HeadSpec, LoraSpec, ModelSpec, Pooling, TargetModules};
use sprint_mpc_core::{Mode, Options};

/// A pretrained encoder with a random head and random low-rank updates.
fn model(change: impl Fn(&mut ModelSpec)) -> Checkpoint {
    let base = Checkpoint::open(Path::new("../../workflows/quickstart/bert-tiny-5k"))
        .expect("the quickstart's encoder is in the repository");
    let mut spec = base.spec().clone();
    spec.lora = Some(LoraSpec { rank: 8, alpha: 16.0, dropout: 0.0, targets: TargetModules::default() });
    spec.head = Some(HeadSpec { outputs: 2, pooling: Pooling::First, dense: false, dropout: 0.0 });
    change(&mut spec);
    let extra = Checkpoint::random(spec.clone(), 7).expect("a valid spec").into_parts().1;
    let missing: Vec<_> = base.clone().with_spec(spec.clone()).expect("the encoder fits").missing();
    let extra = extra.into_iter().filter(|(path, _)| missing.contains(path)).collect();
    base.with_spec(spec).expect("the encoder fits").with_params("random", extra).expect("the rest fits")
}

const TOLERANCE: f32 = 2e-3;

fn check(runs: &Runs, name: &str) {
    let [fixed, mpc] = runs.distances();
    let cost = runs.program.cost();
    println!(
        "{name}: fixed {fixed:.2e} mpc {mpc:.2e} rounds {} online {} dealer {:?}",
        cost.rounds, cost.online_bytes, cost.dealer_bytes
    );
    assert!(fixed < TOLERANCE, "{name}: the simulation is off by {fixed}");
    assert!(mpc < TOLERANCE, "{name}: the parties are off by {mpc}: {:?} against {:?}", runs.mpc.logits, runs.float);
    runs.assert_cost(name);
}

#[test]
fn two_parties_agree_with_the_float_model_and_cost_what_the_program_says() {
    check(&Runs::of(&model(|_| {}), &Options::new(Mode::Exact, POLICY, 3, 32), &[32, 9, 21]).expect("runs"), "exact");
}
