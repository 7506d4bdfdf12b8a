//! A head that starts from public texts of each class, before anything private is seen.
//!
//! Where the head starts at random, the first gradients of the encoder point nowhere, and a private run pays noise while it finds out which way
//! is up. A sentence encoder knows much of it: with `m_c` the mean feature of the texts that describe class `c` and `m̄` the mean of those,
//!
//! ```text
//! w_c = s·(m_c - m̄),   b_c = -⟨w_c, m_c + m̄⟩/2,
//! ```
//!
//! the nearest mean, as a linear head; `s` gives the texts' own class the wanted margin over another on average. The texts are the recipe's, not the
//! data's: the start costs no privacy.

use std::collections::BTreeMap;

use sprint_model::{Checkpoint, Example, HeadSpec, Label, ModelSpec, ParamPath, Pooling, TensorData};

use crate::device::Backend;
use crate::error::TrainError;
use crate::eval::Evaluator;

/// `model` with the nearest mean of `texts`, which `margin` scales, as its head.
///
/// # Domain
/// The head has one layer and at least two outputs, each with a text; the texts were checked as examples are.
pub(crate) fn described(model: Checkpoint, texts: &[Example], margin: f64, backend: &Backend) -> Result<Checkpoint, TrainError> {
    let spec = model.spec().clone();
    let Some(head) = &spec.head else { return Ok(model) };
    let means = class_means(&model, head, texts, backend)?;
    let params = nearest_mean(&spec, head, &means, margin);
    Ok(model.with_params("described head", params)?)
}

fn class_means(model: &Checkpoint, head: &HeadSpec, texts: &[Example], backend: &Backend) -> Result<Vec<Vec<f64>>, TrainError> {
    let states = Evaluator::new(model, backend.clone()).hidden_states(texts)?;
    let mut sums = vec![vec![0.0_f64; model.spec().hidden]; head.outputs];
    let mut counts = vec![0.0_f64; head.outputs];
    for (text, state) in texts.iter().zip(&states) {
        let Some(Label::Class(class)) = text.label else { continue };
        let feature = match head.pooling {
            Pooling::First => &state.cls,
            Pooling::Mean => &state.mean,
        };
        counts[class as usize] += 1.0;
        sums[class as usize].iter_mut().zip(feature).for_each(|(s, v)| *s += f64::from(*v));
    }
    sums.iter_mut().zip(&counts).for_each(|(sum, n)| sum.iter_mut().for_each(|s| *s /= n.max(1.0)));
    Ok(sums)
}

fn nearest_mean(spec: &ModelSpec, head: &HeadSpec, means: &[Vec<f64>], margin: f64) -> BTreeMap<ParamPath, TensorData> {
    let k = means.len() as f64;
    let centre: Vec<f64> = (0..spec.hidden).map(|c| means.iter().map(|m| m[c]).sum::<f64>() / k).collect();
    let away: Vec<Vec<f64>> = means.iter().map(|m| m.iter().zip(&centre).map(|(m, c)| m - c).collect()).collect();
    // Σ_{c≠d} ‖m_c - m_d‖² = 2k·Σ_c ‖m_c - m̄‖², and the margin of c's texts over d is s·‖m_c - m_d‖²/2.
    let spread = away.iter().flatten().map(|v| v * v).sum::<f64>() / (k - 1.0).max(1.0);
    let scale = if spread > 0.0 { margin / spread } else { 0.0 };
    let weight = away.iter().flatten().map(|v| (scale * v) as f32).collect();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let bias = away.iter().map(|a| (-scale * (dot(a, &centre) + dot(a, a) / 2.0)) as f32).collect();
    let (_, out) = spec.head_linears(head);
    let tensor = |shape: Vec<usize>, values| TensorData::new(shape, values).expect("one value an entry");
    let mut params = BTreeMap::from([(out.weight(), tensor(vec![head.outputs, spec.hidden], weight))]);
    params.extend(out.bias().map(|path| (path, tensor(vec![head.outputs], bias))));
    params
}

#[cfg(test)]
mod tests {
    use super::described;
    use crate::device::{Backend, BackendKind};
    use crate::eval::predict;
    use sprint_model::{Checkpoint, Example, HeadSpec, Label, ModelSpec, Pooling};

    fn text(class: u32, i: u32) -> Example {
        let ids = vec![2, 100 + 700 * class, 3_000 + 41 * i, 3];
        Example { type_ids: vec![0; ids.len()], ids, label: Some(Label::Class(class)) }
    }

    #[test]
    fn the_head_gives_the_texts_to_their_class_by_the_margin() {
        for (outputs, pooling) in [(2, Pooling::Mean), (3, Pooling::First)] {
            let spec =
                ModelSpec { head: Some(HeadSpec { outputs, pooling, dense: false, dropout: 0.0 }), ..ModelSpec::bert_tiny_5k() };
            let model = Checkpoint::random(spec, 5).expect("valid");
            let texts: Vec<Example> = (0..outputs as u32).flat_map(|class| (0..7).map(move |i| text(class, i))).collect();
            let backend = Backend::open(BackendKind::Flex).expect("built");
            let model = described(model, &texts, 2.5, &backend).expect("evaluates");
            let logits = predict(&model, &texts, backend).expect("evaluates");
            let mut margin = 0.0;
            for (text, logits) in texts.iter().zip(&logits) {
                let Some(Label::Class(class)) = text.label else { unreachable!("each has a class") };
                let own = f64::from(logits[class as usize]);
                margin += logits.iter().map(|other| own - f64::from(*other)).sum::<f64>() / (outputs - 1) as f64;
            }
            let margin = margin / texts.len() as f64;
            assert!((margin - 2.5).abs() < 1e-3, "{margin} with {outputs} classes");
        }
    }
}
