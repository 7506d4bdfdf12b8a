//! The model before the first step: pretrained parameters where there are some, initial values elsewhere.

use std::collections::BTreeMap;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use sprint_model::{Checkpoint, CheckpointError, ModelSpec, ParamKind, Parameter, Part, TensorData};

use crate::init::{AInit, gaussian};

/// Standard deviation of a new head's weights, BERT's `initializer_range`.
const HEAD_DEVIATION: f64 = 0.02;

/// `base` under `spec`, with initial values for every parameter it lacks: LoRA's `A` by `a_init`, `B` 0, a head's weights N(0, 0.02²) and its
/// biases 0. A function of the seed and of each parameter's name, so adding one module does not change another's start.
///
/// A pretrained head is taken over only where its shape is that of the new head.
pub(crate) fn start(base: &Checkpoint, spec: &ModelSpec, a_init: AInit, seed: u64) -> Result<Checkpoint, CheckpointError> {
    let (_, mut params) = base.clone().into_parts();
    let mut wanted = BTreeMap::new();
    for parameter in spec.parameters() {
        let fits = params.get(&parameter.path).is_some_and(|t| t.shape() == parameter.shape);
        if !fits && matches!(parameter.part, Part::Head | Part::LoraA | Part::LoraB) {
            let tensor = TensorData::new(parameter.shape.clone(), initial(&parameter, a_init, seed));
            params.insert(parameter.path.clone(), tensor.expect("as many values as the shape has"));
        }
        if let Some(tensor) = params.remove(&parameter.path) {
            wanted.insert(parameter.path, tensor);
        }
    }
    Checkpoint::from_params("base model", spec.clone(), wanted)
}

fn initial(parameter: &Parameter, a_init: AInit, seed: u64) -> Vec<f32> {
    let mut rng = stream(parameter, seed);
    match (parameter.part, parameter.kind) {
        (Part::LoraA, _) => a_init.draw(parameter.shape[0], parameter.shape[1], &mut rng),
        (Part::Head, ParamKind::Weight) => gaussian(parameter.len(), HEAD_DEVIATION, &mut rng),
        _ => vec![0.0; parameter.len()],
    }
}

/// One stream a parameter: the seed and the name, folded into a ChaCha key.
fn stream(parameter: &Parameter, seed: u64) -> ChaCha20Rng {
    let mut key = [0_u8; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    for (i, byte) in parameter.path.as_str().bytes().enumerate() {
        let at = 8 + i % 24;
        key[at] = key[at].wrapping_mul(31).wrapping_add(byte).wrapping_add((i / 24) as u8);
    }
    ChaCha20Rng::from_seed(key)
}

#[cfg(test)]
mod tests {
    use super::start;
    use crate::init::AInit;
    use sprint_model::{Checkpoint, HeadSpec, LoraSpec, ModelSpec, ParamPath, Part, Pooling, TargetModules};

    #[test]
    fn the_update_starts_at_zero_and_the_base_is_untouched() {
        let base = Checkpoint::random(ModelSpec::bert_tiny_5k(), 1).expect("valid");
        let spec = ModelSpec {
            lora: Some(LoraSpec::new(4, 4.0, TargetModules::default())),
            head: Some(HeadSpec { outputs: 2, pooling: Pooling::Mean, dense: true, dropout: 0.0 }),
            ..ModelSpec::bert_tiny_5k()
        };
        let model = start(&base, &spec, AInit::Normal, 3).expect("complete");
        model.require_complete().expect("every parameter has a value");
        for parameter in spec.parameters() {
            let values = model.get(&parameter.path).expect("complete").data();
            match parameter.part {
                Part::LoraB => assert!(values.iter().all(|v| *v == 0.0)),
                Part::LoraA => assert!(values.iter().any(|v| *v != 0.0)),
                Part::Encoder | Part::Embeddings => {
                    assert_eq!(Some(values), base.get(&parameter.path).map(sprint_model::TensorData::data));
                }
                Part::Head => {}
            }
        }
        let other = start(&base, &spec, AInit::Normal, 4).expect("complete");
        let a = ParamPath::new("encoder.layer.0.attention.self.query.lora_A");
        let b = ParamPath::new("encoder.layer.0.attention.self.key.lora_A");
        assert_ne!(model.get(&a).expect("there").data(), other.get(&a).expect("there").data());
        assert_ne!(model.get(&a).expect("there").data(), model.get(&b).expect("there").data());
    }
}
