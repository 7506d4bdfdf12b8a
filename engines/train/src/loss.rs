//! Losses, summed over examples: a mean would mix examples into one another's gradients.

use burn::tensor::{Int, Tensor, TensorData, activation};
use sprint_model::Label;

use crate::device::Backend;

/// `losses[i]`, `[batch]`: cross-entropy `-log softmax(logits)[class]` with several outputs, `½(logit - score)²` with one.
///
/// # Shapes
/// `logits` is `[batch, 1, outputs]`. The caller has checked that labels are of the head's kind and inside it.
pub(crate) fn per_example(logits: &Tensor<3>, labels: &[Option<Label>], backend: &Backend) -> Tensor<1> {
    let [batch, _, outputs] = logits.dims();
    if outputs == 1 {
        let wanted = labels.iter().map(|l| if let Some(Label::Score(v)) = l { *v } else { f32::NAN }).collect();
        let wanted = Tensor::<1>::from_data(TensorData::new(wanted, [batch]), backend.device());
        return (logits.clone().reshape([batch]) - wanted).square().mul_scalar(0.5);
    }
    let classes: Vec<i64> = labels.iter().map(|l| if let Some(Label::Class(c)) = l { i64::from(*c) } else { 0 }).collect();
    let classes = Tensor::<2, Int>::from_data(TensorData::new(classes, [batch, 1]), backend.device());
    let logp = activation::log_softmax(logits.clone().reshape([batch, outputs]), 1);
    logp.gather(1, classes).reshape([batch]).neg()
}
