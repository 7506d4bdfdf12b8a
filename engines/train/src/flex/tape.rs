//! burn's CPU tensors, on a tape and off it.

use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::ops::{Backward, NodeGuard, OpsKind};
use burn::backend::flex::{FlexTensor, Layout};
use burn::backend::ops::FloatTensorOps;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};
use burn::tensor::{Shape, Tensor, TensorData};

/// A tensor on a tape.
type Taped = FloatTensor<Autodiff<Flex>>;

/// The values of a tensor of the CPU backend in row-major order, and its place on the tape.
pub(super) fn open<const D: usize>(t: &Tensor<D>) -> (FlexTensor, NodeGuard) {
    let taped: Taped = t.clone().try_into_primitive::<Autodiff<Flex>>().expect("the caller has checked the backend");
    let (values, node) = taped.into_parts();
    (values.to_contiguous(), node)
}

/// The values of a tensor of the CPU backend that is on no tape.
pub(crate) fn buffer<const D: usize>(t: &Tensor<D>) -> FlexTensor {
    open(t).0
}

/// Puts `output` on the tape, where it depends on `parents` through `operation`.
pub(super) fn close<const N: usize, const D: usize, B: Backward<Flex, N>>(
    operation: B,
    parents: [NodeGuard; N],
    state: B::State,
    output: FlexTensor,
) -> Tensor<D> {
    let taped = match operation.prepare::<NoCheckpointing>(parents).compute_bound().stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(state, output),
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    };
    Tensor::from_primitive::<Autodiff<Flex>>(taped)
}

/// A tensor of the given values.
pub(super) fn filled<const D: usize>(values: Vec<f32>, shape: [usize; D]) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(values, shape))
}

/// The values of a tensor that is contiguous.
pub(super) fn values(t: &FlexTensor) -> &[f32] {
    t.as_slice().expect("contiguous and f32")
}

/// The same values under another shape and other strides.
pub(super) fn view<const D: usize>(t: &FlexTensor, shape: [usize; D], strides: [usize; D], start: usize) -> FlexTensor {
    let strides = strides.iter().map(|s| s.cast_signed()).collect();
    let start = t.layout().start_offset() + start;
    FlexTensor::from_arc(t.data_arc(), Layout::new(Shape::from(shape.to_vec()), strides, start), t.dtype())
}

/// `a·b` over the last two dimensions.
pub(super) fn product(a: FlexTensor, b: FlexTensor) -> FlexTensor {
    Flex::float_matmul(a, b)
}
