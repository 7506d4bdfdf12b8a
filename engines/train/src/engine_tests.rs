//! The burn engine against the f64 reference, untracked and on a tape.

use burn::tensor::{Tensor, TensorData};
use sprint_model::conformance::{Subject, Values, assert_conforms, assert_embeds};
use sprint_model::{Batch, Checkpoint};

use super::{BurnEngine, Param, ParamSet};
use crate::device::{Backend, BackendKind};
use crate::eval::upload;
use crate::per_sample::read;

/// Every backend of this build.
fn backends() -> Vec<Backend> {
    [BackendKind::Flex, BackendKind::Wgpu, BackendKind::Tch].into_iter().filter_map(|kind| Backend::open(kind).ok()).collect()
}

struct Burn {
    backend: Backend,
    /// Whether every parameter is a tracked leaf, so that the operations' recording forms run.
    tracked: bool,
}

impl Burn {
    fn params(&self, checkpoint: &Checkpoint) -> ParamSet {
        let mut params = upload(checkpoint, &self.backend);
        if self.tracked {
            for (path, tensor) in checkpoint.params() {
                params.insert(path.clone(), Param::upload(tensor.shape(), tensor.data(), &self.backend).tracked());
            }
        }
        params
    }

    fn put<const D: usize>(&self, x: &Values<D>) -> Tensor<D> {
        let values: Vec<f32> = x.data.iter().map(|v| *v as f32).collect();
        Tensor::from_data(TensorData::new(values, x.shape), self.backend.device())
    }
}

fn get<const D: usize>(x: &Tensor<D>) -> Values<D> {
    Values::new(x.dims(), read(x.clone()).into_iter().map(f64::from).collect())
}

impl Subject for Burn {
    type Act = Tensor<3>;
    type Heads = Tensor<4>;
    type Engine<'a> = BurnEngine<'a>;

    fn engine<'a>(&self, checkpoint: &'a Checkpoint, batch: &'a Batch) -> BurnEngine<'a> {
        BurnEngine::new(&self.backend, self.params(checkpoint), batch, None)
    }

    fn put_act(&self, _: &mut BurnEngine<'_>, x: &Values<3>) -> Tensor<3> {
        self.put(x)
    }

    fn put_heads(&self, _: &mut BurnEngine<'_>, x: &Values<4>) -> Tensor<4> {
        self.put(x)
    }

    fn get_act(&self, _: &mut BurnEngine<'_>, x: &Tensor<3>) -> Values<3> {
        get(x)
    }

    fn get_heads(&self, _: &mut BurnEngine<'_>, x: &Tensor<4>) -> Values<4> {
        get(x)
    }

    /// Inputs are rounded to f32 (2⁻²⁴ of at most 8) and every operation rounds a few times; GPUs add fast `exp` and `tanh`. The row sum that
    /// 2ReLU divides by may be as small as ε = 0.01, which multiplies the error by up to its inverse.
    fn tolerance(&self, case: &str) -> Option<f64> {
        Some(match case {
            "layer_norm.small" => 4e-5,
            _ if case.contains("2relu") => 2e-4,
            _ if case.contains(": ") => 4e-5,
            _ => 1e-5,
        })
    }
}

#[test]
fn every_operation_and_model_equals_f64_within_rounding() {
    for backend in backends() {
        for tracked in [false, true] {
            let subject = Burn { backend: backend.clone(), tracked };
            assert_conforms(&subject);
            assert_embeds(&subject, 1e-5);
        }
    }
}
