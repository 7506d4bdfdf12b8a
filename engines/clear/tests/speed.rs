//! The oracle is fast enough to be compared with on models of full size.

use std::time::{Duration, Instant};

use sprint_clear::float::run_hidden;
use sprint_model::{Batch, Checkpoint, Example, ModelSpec};

/// Generous by ten, for machines that are busy with other things; the figure on two idle cores is in the printed line.
const LIMIT: Duration = Duration::from_secs(20);

#[test]
fn roberta_base_on_128_tokens_takes_seconds_at_most() {
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
    assert!(run < LIMIT, "{run:?}");
}
