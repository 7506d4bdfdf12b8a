//! Random weights, for runs whose figures do not depend on the weights.

use std::collections::BTreeMap;

use super::{Checkpoint, TensorData};
use crate::{ModelSpec, ParamKind, Parameter, SpecError};

/// Standard deviation of an untrained weight, BERT's `initializer_range`.
const INITIALIZER_RANGE: f32 = 0.02;

const DOMAIN: &str = "sprint-flow 2026 random checkpoint";

impl Checkpoint {
    /// A complete checkpoint of random weights, a function of spec and seed: `N(0, 0.02²)` for tables and matrices (both matrices of a
    /// low-rank update included, so that the update is not zero), `γ = 1`, all biases 0.
    ///
    /// For measuring speed and cost. It is not an initial value for training: there `B` must be 0.
    pub fn random(spec: ModelSpec, seed: u64) -> Result<Self, SpecError> {
        spec.validate()?;
        let params: BTreeMap<_, _> =
            spec.parameters().into_iter().map(|parameter| (parameter.path.clone(), initial(&parameter, seed))).collect();
        Ok(Self { spec, params })
    }
}

fn initial(parameter: &Parameter, seed: u64) -> TensorData {
    match parameter.kind {
        ParamKind::NormGain => TensorData::filled(parameter.shape.clone(), 1.0),
        ParamKind::Bias | ParamKind::NormShift => TensorData::filled(parameter.shape.clone(), 0.0),
        ParamKind::Table | ParamKind::Weight => {
            let mut tensor = TensorData::filled(parameter.shape.clone(), 0.0);
            fill_normal(tensor.data_mut(), parameter.path.as_str(), seed);
            tensor
        }
    }
}

/// Fills with `N(0, 0.02²)`, by Box and Muller, from BLAKE3's output stream under the parameter's name.
fn fill_normal(values: &mut [f32], name: &str, seed: u64) {
    let mut stream = blake3::Hasher::new_derive_key(DOMAIN).update(&seed.to_le_bytes()).update(name.as_bytes()).finalize_xof();
    let mut block = [0_u8; 8192];
    for chunk in values.chunks_mut(block.len() / 4) {
        stream.fill(&mut block);
        for (pair, bytes) in chunk.chunks_mut(2).zip(block.as_chunks::<8>().0) {
            let word = u64::from_le_bytes(*bytes);
            // Both in (0, 1), so that the logarithm is finite.
            let u = ((word >> 40) as f32 + 0.5) / (1_u32 << 24) as f32;
            let v = ((word & 0xff_ffff) as f32 + 0.5) / (1_u32 << 24) as f32;
            let radius = INITIALIZER_RANGE * (-2.0 * u.ln()).sqrt();
            let (sin, cos) = (std::f32::consts::TAU * v).sin_cos();
            for (value, factor) in pair.iter_mut().zip([cos, sin]) {
                *value = radius * factor;
            }
        }
    }
}
