//! Whole models: float, the simulation on ring integers, and two parties with a dealer.

use std::path::PathBuf;
use std::sync::Arc;

use sprint_clear::float;
use sprint_model::{Batch, Checkpoint, Example, HeadSpec, LoraSpec, ModelSpec, Pooling, TargetModules, WeightPolicy};
use sprint_mpc_core::{
    InMemory, Mode, Options, PrivateWeights, Program, PublicWeights, RunReport, compile, encode_inputs, os_randomness,
};

/// A pretrained encoder with a random head and random low-rank updates.
fn model(change: impl Fn(&mut ModelSpec)) -> Checkpoint {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../workflows/quickstart/bert-tiny-5k");
    let base = Checkpoint::open(&folder).expect("the quickstart's encoder is in the repository");
    let mut spec = base.spec().clone();
    spec.lora = Some(LoraSpec { rank: 8, alpha: 16.0, dropout: 0.0, targets: TargetModules::default() });
    spec.head = Some(HeadSpec { outputs: 2, pooling: Pooling::First, dense: false, dropout: 0.0 });
    change(&mut spec);
    let extra = Checkpoint::random(spec.clone(), 7).expect("a valid spec").into_parts().1;
    let missing: Vec<_> = base.clone().with_spec(spec.clone()).expect("the encoder fits").missing();
    let extra = extra.into_iter().filter(|(path, _)| missing.contains(path)).collect();
    base.with_spec(spec).expect("the encoder fits").with_params("random", extra).expect("the rest fits")
}

fn examples(lengths: &[usize]) -> Vec<Example> {
    let id = |row: usize, i: usize| 5 + ((row * 977 + i * 131 + i * i * 17) % 5400) as u32;
    let ids = |row: usize, len: usize| {
        (0..len)
            .map(|i| {
                if i == 0 {
                    2
                } else if i + 1 == len {
                    3
                } else {
                    id(row, i)
                }
            })
            .collect()
    };
    lengths.iter().enumerate().map(|(row, len)| Example { ids: ids(row, *len), type_ids: vec![0; *len], label: None }).collect()
}

struct Runs {
    program: Arc<Program>,
    float: Vec<Vec<f32>>,
    fixed: Vec<Vec<f32>>,
    mpc: RunReport,
}

fn run(model: &Checkpoint, lengths: &[usize], tokens: usize) -> Runs {
    let examples = examples(lengths);
    let batch = Batch::new(&examples, tokens, model.spec().pad_token).expect("a batch");
    let policy = WeightPolicy::PublicBase { public_a: true };
    let options = Options::new(Mode::Exact, policy, lengths.len(), tokens);
    let program = Arc::new(compile(model.spec(), &options).expect("compiles"));
    let public = Arc::new(PublicWeights::prepare(&program, model).expect("public weights"));
    let private = PrivateWeights::share(&program, model, &mut os_randomness).expect("private weights");
    let runner = InMemory::new(Arc::clone(&program), public, private);
    let embedded = float::embed_only(model, &batch).expect("embeds");
    let input = encode_inputs(&program, &batch, embedded.data()).expect("encodes");
    let fixed = runner.simulate(&input).expect("in range");
    let mpc = runner.run(&input, [[1; 32], [2; 32]], &mut os_randomness).expect("runs");
    Runs { program, float: float::run_logits(model, &batch).expect("runs"), fixed, mpc }
}

fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    a.iter().flatten().zip(b.iter().flatten()).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}

#[test]
fn two_parties_agree_with_the_float_model_and_cost_what_the_program_says() {
    let model = model(|_| {});
    let runs = run(&model, &[32, 9, 21], 32);
    let (fixed, mpc) = (distance(&runs.float, &runs.fixed), distance(&runs.float, &runs.mpc.logits));
    let cost = runs.program.cost();
    println!(
        "fixed {fixed:.2e} mpc {mpc:.2e} rounds {} online {} dealer {:?}",
        cost.rounds, cost.online_bytes, cost.dealer_bytes
    );
    assert!(fixed < 2e-3, "the simulation is off by {fixed}");
    assert!(mpc < 2e-3, "the parties are off by {mpc}: {:?} against {:?}", runs.mpc.logits, runs.float);
    assert_eq!(runs.mpc.rounds, cost.rounds);
    assert_eq!(runs.mpc.online_bytes, [cost.online_bytes; 2]);
    assert_eq!(runs.mpc.dealer_bytes, cost.dealer_bytes);
}
