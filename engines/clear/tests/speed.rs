//! The oracle on a model of full size; the printed line has the time it took.

use std::time::Instant;

use sprint_clear::float::run_hidden;
use sprint_model::{Batch, Checkpoint, Example, ModelSpec};

#[test]
fn roberta_base_on_128_tokens_has_finite_states() {
    let made = Instant::now();
    let checkpoint = Checkpoint::random(ModelSpec::roberta_base(), 1).expect("a spec");
    let made = made.elapsed();
    let example = Example { ids: (2..130).collect(), type_ids: vec![0; 128], label: None };
    let batch = Batch::padded_to_longest(&[example], 1).expect("a batch");
    let run = Instant::now();
    let hidden = run_hidden(&checkpoint, &batch).expect("hidden states");
    let run = run.elapsed();
    println!("roberta-base, 128 tokens: {run:?} (random weights in {made:?})");
    assert!(hidden.data().iter().all(|x| x.is_finite()));
}
