//! Whole models: float, the simulation on ring integers, and two parties with a dealer.

mod harness;

use harness::{POLICY, Runs, quickstart};
use sprint_mpc_core::{Mode, Options};

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
    check(&Runs::of(&quickstart(|_| {}), &Options::new(Mode::Exact, POLICY, 3, 32), &[32, 9, 21]).expect("runs"), "exact");
}

#[test]
fn the_lean_mode_is_as_exact_from_a_quarter_of_the_material() {
    let options = [Mode::Exact, Mode::Lean].map(|mode| Options::new(mode, POLICY, 3, 32));
    let [exact, lean] = options.map(|options| Runs::of(&quickstart(|_| {}), &options, &[32, 9, 21]).expect("runs"));
    check(&lean, "lean");
    let dealt = [exact, lean].map(|runs| runs.program.cost().dealer_bytes.iter().sum::<u64>());
    assert!(4 * dealt[1] < dealt[0], "{dealt:?}");
}
