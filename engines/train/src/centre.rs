//! Features with their common part taken out, before anything private is seen.
//!
//! The pooled states of a pretrained encoder share a large common vector μ (of bert-tiny-5k, ‖μ‖ = 9.3 where ‖h‖ = 10.1). The gradient of a
//! linear head is `(p - y)·h`, so clipping spends most of the norm on μ, and its curvature limits the learning rate. The last layer
//! normalisation's shift β is replaced by `β - μ̂`, which the head's bias could undo: the same family of functions, better conditioned. μ̂ is the
//! mean over sequences of random tokens: a function of the public model alone, so it costs no privacy. On real mail it removes 88 % of ‖μ‖².

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};
use sprint_model::{Checkpoint, Example, Pooling, TensorData};

use crate::device::Backend;
use crate::error::TrainError;
use crate::eval::Evaluator;

const SEQUENCES: usize = 256;
const TOKENS: usize = 64;

/// `model` with `β - μ̂` in its last layer normalisation, μ̂ pooled as the head pools.
pub(crate) fn centred(model: Checkpoint, pooling: Pooling, seed: u64, backend: &Backend) -> Result<Checkpoint, TrainError> {
    let spec = model.spec().clone();
    let tokens = TOKENS.min(spec.max_tokens());
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    let mut sequence = |_| Example {
        ids: (0..tokens).map(|_| ((u64::from(rng.next_u32()) * spec.vocab as u64) >> 32) as u32).collect(),
        type_ids: vec![0; tokens],
        label: None,
    };
    let sequences: Vec<Example> = (0..SEQUENCES).map(&mut sequence).collect();
    let states = Evaluator::new(&model, backend.clone()).hidden_states(&sequences)?;
    let mut mean = vec![0.0_f64; spec.hidden];
    for state in &states {
        let pooled = match pooling {
            Pooling::First => &state.cls,
            Pooling::Mean => &state.mean,
        };
        mean.iter_mut().zip(pooled).for_each(|(m, v)| *m += f64::from(*v) / SEQUENCES as f64);
    }
    let path = spec.norm(spec.layer_path(spec.layers - 1).join("output.LayerNorm")).bias();
    let shift: Vec<f32> = model.get(&path).map_or_else(|| vec![0.0; spec.hidden], |beta| beta.data().to_vec());
    let shift = shift.iter().zip(&mean).map(|(b, m)| (f64::from(*b) - m) as f32).collect();
    let tensor = TensorData::new(vec![spec.hidden], shift).expect("one value a channel");
    Ok(model.with_params("centred features", [(path, tensor)].into())?)
}

#[cfg(test)]
mod tests {
    use super::centred;
    use crate::device::{Backend, BackendKind};
    use crate::eval::hidden_states;
    use sprint_model::{Checkpoint, Example, ModelSpec, Pooling};

    #[test]
    fn pooled_states_lose_their_common_part_and_nothing_else() {
        let model = Checkpoint::random(ModelSpec::bert_tiny_5k(), 8).expect("valid");
        let backend = Backend::open(BackendKind::Flex).expect("built");
        let moved = centred(model.clone(), Pooling::Mean, 1, &backend).expect("evaluates");
        let example =
            |i: u32| Example { ids: (0..20).map(|t| (i * 37 + t * 101) % 5_500).collect(), type_ids: vec![0; 20], label: None };
        let examples: Vec<Example> = (0..30).map(example).collect();
        let before = hidden_states(&model, &examples, backend.clone()).expect("evaluates");
        let after = hidden_states(&moved, &examples, backend).expect("evaluates");
        let difference = |i: usize, c: usize| before[i].mean[c] - after[i].mean[c];
        for i in 1..30 {
            assert!((0..128).all(|c| (difference(i, c) - difference(0, c)).abs() < 1e-5), "one constant vector is subtracted");
        }
        let norm = |states: &[crate::HiddenState]| {
            (0..128).map(|c| (states.iter().map(|s| s.mean[c]).sum::<f32>() / 30.0).powi(2)).sum::<f32>()
        };
        assert!(norm(&after) < 0.2 * norm(&before), "{} of {}", norm(&after), norm(&before));
    }
}
