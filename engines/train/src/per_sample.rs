//! Exact per-example gradients in one backward pass.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};
use sprint_model::{Batch, ModelSpec, encode_from_and_classify, logits};

use crate::device::Backend;
use crate::dropout::DropoutMasks;
use crate::engine::{BurnEngine, EngineError, Param, ParamSet};
use crate::layout::Layout;
use crate::loss;
use crate::lower::LowerStates;
use crate::merged::{Merged, Merging};

/// Whether gradients are wanted one by one or summed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Granularity {
    /// `∂loss_i/∂θ` for each example.
    PerExample,
    /// `Σ_i ∂loss_i/∂θ`, cheaper: what a run without privacy needs.
    Sum,
}

/// Gradients of a physical batch.
#[derive(Debug)]
pub(crate) struct Gradients {
    /// As burn has them: a vector would be a copy.
    blocks: Vec<TensorData>,
    /// Examples, or 1 for a sum.
    pub(crate) rows: usize,
    /// The loss of each example.
    pub(crate) losses: Vec<f32>,
}

impl Gradients {
    /// One block a trained parameter, in the layout's order, `[rows, len]` row-major; each row transposed where [`Merging`] says so.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &[f32]> {
        self.blocks.iter().map(|block| block.as_slice::<f32>().expect("the trainer's tensors are f32"))
    }
}

/// A model with frozen parameters on a device, differentiable in those of a layout.
pub(crate) struct Differentiable<'a> {
    pub(crate) spec: &'a ModelSpec,
    pub(crate) backend: &'a Backend,
    pub(crate) frozen: &'a ParamSet,
    pub(crate) layout: &'a Layout,
    /// Which dense layers are computed merged.
    pub(crate) merging: &'a Merging,
    /// What the layers below every trained one make of the examples, where it is kept.
    pub(crate) lower: Option<&'a LowerStates>,
}

/// The trained parameters of one step, merged once for all its physical batches.
pub(crate) struct Point<'a> {
    theta: &'a [f32],
    merged: Arc<Merged>,
}

impl Differentiable<'_> {
    /// The point `theta`.
    pub(crate) fn at<'a>(&self, theta: &'a [f32]) -> Point<'a> {
        let updates = self.layout.slices(theta).enumerate().filter(|(at, _)| self.merging.is_transposed(*at));
        let updates = updates.map(|(_, (p, values))| (p.path.clone(), Param::upload(&p.shape, values, self.backend)));
        Point { theta, merged: Arc::new(self.merging.merge(self.frozen, &updates.collect())) }
    }

    /// Gradients at `point` of the losses of `batch`, whose examples have the indices `examples` in the data; `dropout` is (seed, step).
    pub(crate) fn gradients(
        &self,
        point: &Point<'_>,
        batch: &Batch,
        examples: &[usize],
        granularity: Granularity,
        dropout: Option<(u64, u64)>,
    ) -> Result<Gradients, EngineError> {
        let copies = (granularity == Granularity::PerExample).then_some(batch.size());
        let (params, leaves) = self.leaves(point, copies);
        let masks = dropout.map(|(seed, step)| DropoutMasks::new(seed, step, examples));
        let mut engine = BurnEngine::new(self.backend, params, batch, masks);
        let logits = match self.lower {
            Some(lower) => {
                let input = lower.batch(examples, batch.tokens(), self.backend);
                encode_from_and_classify(&mut engine, self.spec, lower.layer(), &input)?
            }
            None => logits(&mut engine, self.spec)?,
        };
        let losses = loss::per_example(&logits, batch.labels(), self.backend);
        let mut tape = losses.clone().sum().backward();
        let mut blocks = Vec::with_capacity(leaves.len());
        for (leaf, parameter) in leaves.iter().zip(self.layout.parameters()) {
            let block = leaf.gradient(&mut tape).ok_or_else(|| EngineError::NoGradient(parameter.path.clone()))?;
            blocks.push(block);
        }
        Ok(Gradients { blocks, rows: copies.unwrap_or(1), losses: read(losses) })
    }

    /// The frozen parameters and one tracked leaf for each trained one.
    fn leaves(&self, point: &Point<'_>, copies: Option<usize>) -> (ParamSet, Vec<Param>) {
        let mut params = self.frozen.clone();
        params.merge(point.merged.clone(), copies.is_none());
        let mut leaves = Vec::with_capacity(self.layout.parameters().len());
        for (at, (parameter, values)) in self.layout.slices(point.theta).enumerate() {
            let param = if self.merging.is_transposed(at) {
                // The values are in the merged weight; this is where the gradient goes.
                Param::Matrices(Tensor::zeros([1, 1, 1], self.backend.device()))
            } else {
                // Uploaded for this tape alone: burn would join the tapes of workers that share a leaf.
                let param = Param::upload(&parameter.shape, values, self.backend);
                // Expanded before it is tracked: a broadcast of a tracked leaf would sum over examples.
                copies.filter(|n| *n > 1).map_or(param.clone(), |n| param.per_example(n))
            };
            let param = param.tracked();
            let basis = self.merging.basis(&parameter.path).filter(|_| !self.merging.is_transposed(at));
            params.insert(parameter.path.clone(), basis.map_or(param.clone(), |basis| param.clone().expanded(basis)));
            leaves.push(param);
        }
        (params, leaves)
    }
}

impl Param {
    /// `U·R` of a matrix `R`, or of an example's each.
    fn expanded(self, basis: &Tensor<2>) -> Self {
        match self {
            Self::Matrix(r) => Self::Matrix(basis.clone().matmul(r)),
            Self::Matrices(r) => {
                let ([examples, ..], [rows, width]) = (r.dims(), basis.dims());
                Self::Matrices(basis.clone().unsqueeze_dim::<3>(0).expand([examples, rows, width]).matmul(r))
            }
            vector @ (Self::Vector(_) | Self::Vectors(_)) => vector,
        }
    }

    /// The gradient of a tracked leaf, if the loss depends on it.
    fn gradient(&self, tape: &mut burn::tensor::Gradients) -> Option<TensorData> {
        fn of<const D: usize>(leaf: &Tensor<D>, tape: &mut burn::tensor::Gradients) -> Option<TensorData> {
            leaf.grad_remove(tape).map(Tensor::into_data)
        }
        match self {
            Self::Matrix(t) => of(t, tape),
            Self::Matrices(t) | Self::Vectors(t) => of(t, tape),
            Self::Vector(t) => of(t, tape),
        }
    }
}

/// A tensor's values in row-major order.
pub(crate) fn read<const D: usize>(t: Tensor<D>) -> Vec<f32> {
    let data: TensorData = t.into_data();
    data.try_into_vec::<f32>().expect("the trainer's tensors are f32")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::BackendKind;
    use crate::eval::upload;
    use sprint_model::{
        Activation, Checkpoint, Example, HeadSpec, Label, LoraSpec, ParamPath, Pattern, Pooling, SoftCaps, Softmax,
        TargetModules, Tuning,
    };

    struct World {
        spec: ModelSpec,
        backend: Backend,
        frozen: ParamSet,
        layout: Layout,
        merging: Merging,
        theta: Vec<f32>,
        examples: Vec<Example>,
    }

    /// A two-layer model of 16 channels with random weights, the LoRA ones included, and examples of 3 to 9 tokens.
    fn world(tuning: Tuning, also: &[&str], change: impl Fn(&mut ModelSpec)) -> World {
        let mut spec = ModelSpec { hidden: 16, intermediate: 24, vocab: 50, positions: 16, ..ModelSpec::bert_tiny_5k() };
        spec.hidden_dropout = 0.0;
        spec.lora = Some(LoraSpec::new(3, 6.0, TargetModules::default()));
        spec.head = Some(HeadSpec { outputs: 3, pooling: Pooling::Mean, dense: true, dropout: 0.0 });
        change(&mut spec);
        let mut checkpoint = Checkpoint::random(spec.clone(), 11).expect("the spec is valid");
        // Weights of 0.02 leave gradients too small to compare: ten times as large.
        let louder =
            checkpoint.params().iter().filter(|(path, t)| t.shape().len() == 2 && !path.as_str().starts_with("embeddings"));
        let louder: Vec<_> = louder.map(|(path, t)| (path.clone(), t.clone())).collect();
        let louder = louder.into_iter().map(|(path, mut t)| {
            t.data_mut().iter_mut().for_each(|v| *v *= 10.0);
            (path, t)
        });
        checkpoint = checkpoint.with_params("test", louder.collect()).expect("shapes are kept");
        let also: Vec<String> = also.iter().map(|s| (*s).to_owned()).collect();
        let layout = Layout::new(&spec, tuning, &also).expect("names match");
        let theta = layout.parameters().iter().flat_map(|p| checkpoint.get(&p.path).expect("complete").data().to_vec()).collect();
        let backend = Backend::open(BackendKind::Flex).expect("always built");
        let example = |i: usize| Example {
            ids: (0..3 + (i * 5) % 7).map(|t| ((i * 13 + t * 7) % 50) as u32).collect(),
            type_ids: (0..3 + (i * 5) % 7).map(|t| u8::from(t > 3)).collect(),
            label: Some(if spec.head.as_ref().is_some_and(|h| h.outputs == 1) {
                Label::Score(i as f32 - 1.5)
            } else {
                Label::Class(i as u32 % 3)
            }),
        };
        let examples = (0..5).map(example).collect();
        let merging = Merging::new(&spec, &layout, &backend);
        World { frozen: upload(&checkpoint, &backend), spec, backend, layout, merging, theta, examples }
    }

    impl World {
        fn model<'a>(&'a self, merging: &'a Merging) -> Differentiable<'a> {
            let World { spec, backend, frozen, layout, .. } = self;
            Differentiable { spec, backend, frozen, layout, merging, lower: None }
        }

        fn gradients(&self, rows: &[usize], tokens: usize, how: Granularity, dropout: Option<(u64, u64)>) -> Gradients {
            self.gradients_merging(&self.merging, rows, tokens, how, dropout)
        }

        fn gradients_merging(
            &self,
            merging: &Merging,
            rows: &[usize],
            tokens: usize,
            how: Granularity,
            dropout: Option<(u64, u64)>,
        ) -> Gradients {
            let batch = Batch::new(rows.iter().map(|r| &self.examples[*r]), tokens, self.spec.pad_token).expect("a batch");
            let model = self.model(merging);
            model.gradients(&model.at(&self.theta), &batch, rows, how, dropout).expect("a complete model")
        }

        fn row(&self, gradients: &Gradients, row: usize) -> Vec<f32> {
            self.row_merging(&self.merging, gradients, row)
        }

        fn row_merging(&self, merging: &Merging, gradients: &Gradients, row: usize) -> Vec<f32> {
            let slice =
                |block: &[f32]| block[row * block.len() / gradients.rows..(row + 1) * block.len() / gradients.rows].to_vec();
            let mut out: Vec<f32> = gradients.blocks().flat_map(slice).collect();
            assert_eq!(out.len(), self.layout.dim());
            merging.straighten(&self.layout, &mut out);
            out
        }
    }

    /// Largest difference relative to the largest entry.
    fn distance(a: &[f32], b: &[f32]) -> f32 {
        assert_eq!(a.len(), b.len());
        let largest = a.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        assert!(largest > 0.0, "a zero gradient compares nothing");
        a.iter().zip(b).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs())) / largest
    }

    const ALL: [usize; 5] = [0, 1, 2, 3, 4];

    #[test]
    fn batched_leaves_equal_a_loop_over_single_examples() {
        for (tuning, also) in [
            (Tuning::Lora { freeze_a: false }, &["LayerNorm", "layer.0.output.dense.bias"][..]),
            (Tuning::Lora { freeze_a: true }, &[]),
            (Tuning::Head, &[]),
        ] {
            let w = world(tuning, also, |_| ());
            let together = w.gradients(&ALL, 9, Granularity::PerExample, None);
            for i in ALL {
                let alone = w.gradients(&[i], w.examples[i].ids.len(), Granularity::PerExample, None);
                assert!(distance(&w.row(&together, i), &w.row(&alone, 0)) < 2e-5, "{tuning:?} example {i}");
                assert!((together.losses[i] - alone.losses[0]).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn merged_layers_give_the_gradients_of_the_layers_as_they_are_written() {
        let targets = [&["all-linear"][..], &["query", "value", "intermediate"], &["key"]];
        for (pooling, names) in [Pooling::Mean, Pooling::First].into_iter().flat_map(|p| targets.map(|names| (p, names))) {
            expect_the_same_merged(&format!("{names:?}, {pooling:?}"), |spec| {
                spec.lora.as_mut().expect("set").targets = TargetModules::from_names(names).expect("known");
                spec.head.as_mut().expect("set").pooling = pooling;
            });
        }
        expect_the_same_merged("patterns", |spec| {
            let lora = spec.lora.as_mut().expect("set");
            lora.rank_pattern = Pattern { value: Some(5), attention_output: Some(1), ..Pattern::default() };
            lora.alpha_pattern = Pattern { query: Some(1.0), value: Some(20.0), ..Pattern::default() };
        });
        // Queries, keys and values are one layer also where attention is not one operation.
        expect_the_same_merged("soft cap", |spec| spec.caps.attention = Some(2.0));
        expect_the_same_merged("another softmax", |spec| spec.softmax = Softmax::TwoQuad { c: 5.0 });
    }

    fn expect_the_same_merged(name: &str, change: impl Fn(&mut ModelSpec)) {
        let w = world(Tuning::Lora { freeze_a: true }, &[], change);
        let merged = (0..w.layout.parameters().len()).filter(|at| w.merging.is_transposed(*at)).count();
        assert_eq!(merged, w.layout.parameters().iter().filter(|p| p.part == sprint_model::Part::LoraB).count());
        for how in [Granularity::PerExample, Granularity::Sum] {
            let got = w.gradients(&ALL, 9, how, None);
            let written = Merging::default();
            let wanted = w.gradients_merging(&written, &ALL, 9, how, None);
            for row in 0..got.rows {
                let distance = distance(&w.row_merging(&written, &wanted, row), &w.row(&got, row));
                assert!(distance < 2e-5, "{name}, {how:?}: {distance} in row {row}");
            }
            assert!(got.losses.iter().zip(&wanted.losses).all(|(a, b)| (a - b).abs() < 1e-5), "{name}");
        }
    }

    #[test]
    fn dropout_before_a_and_what_is_trained_beside_b_are_not_merged() {
        let none = |w: &World| (0..w.layout.parameters().len()).all(|at| !w.merging.is_transposed(at));
        assert!(none(&world(Tuning::Lora { freeze_a: false }, &[], |_| ())));
        assert!(none(&world(Tuning::Lora { freeze_a: true }, &[], |spec| {
            spec.lora.as_mut().expect("set").dropout = 0.1;
        })));
        assert!(none(&world(Tuning::Lora { freeze_a: true }, &["encoder"], |_| ())));
    }

    #[test]
    fn the_cut_into_physical_batches_and_their_padding_change_nothing() {
        let w = world(Tuning::Lora { freeze_a: false }, &[], |_| ());
        let whole = w.gradients(&ALL, 9, Granularity::PerExample, None);
        for (rows, tokens) in [(&ALL[..2], 15), (&ALL[2..], 16), (&ALL[1..4], 10)] {
            let part = w.gradients(rows, tokens, Granularity::PerExample, None);
            for (at, i) in rows.iter().enumerate() {
                assert!(distance(&w.row(&whole, *i), &w.row(&part, at)) < 2e-5, "example {i} in {rows:?} at {tokens} tokens");
            }
        }
    }

    #[test]
    fn the_sum_without_privacy_is_the_sum_of_the_examples() {
        for tuning in [Tuning::Lora { freeze_a: false }, Tuning::Full] {
            let w = world(tuning, &[], |_| ());
            let sum = w.gradients(&ALL, 9, Granularity::Sum, None);
            let mut expected = vec![0.0; w.layout.dim()];
            for i in ALL {
                let alone = w.gradients(&[i], 9, Granularity::PerExample, None);
                expected.iter_mut().zip(w.row(&alone, 0)).for_each(|(e, g)| *e += g);
            }
            assert!(distance(&expected, &w.row(&sum, 0)) < 5e-5, "{tuning:?}");
        }
    }

    #[test]
    fn dropout_depends_on_the_example_and_the_step_only() {
        let w = world(Tuning::Lora { freeze_a: true }, &[], |spec| {
            spec.hidden_dropout = 0.2;
            spec.lora = spec.lora.map(|l| LoraSpec { dropout: 0.3, ..l });
        });
        let whole = w.gradients(&ALL, 9, Granularity::PerExample, Some((3, 1)));
        let part = w.gradients(&ALL[3..], 16, Granularity::PerExample, Some((3, 1)));
        let later = w.gradients(&ALL, 9, Granularity::PerExample, Some((3, 2)));
        assert!(distance(&w.row(&whole, 4), &w.row(&part, 1)) < 2e-5);
        assert!(distance(&w.row(&whole, 4), &w.row(&later, 4)) > 1e-2);
    }

    /// Central differences of the loss in f32: the truncation error is O(h²) and the rounding error ε·loss/h ≈ 1e-7/2e-2.
    fn check_differences(w: &World, name: &str) {
        let h = 2e-2;
        let exact = w.row(&w.gradients(&[2], 9, Granularity::PerExample, None), 0);
        let scale = exact.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        let mut checked = 0;
        for (at, gradient) in exact.iter().enumerate().step_by(exact.len() / 40 + 1) {
            let loss = |delta: f32| {
                let mut theta = w.theta.clone();
                theta[at] += delta;
                let batch = Batch::new([&w.examples[2]], 9, 0).expect("a batch");
                let model = w.model(&w.merging);
                model.gradients(&model.at(&theta), &batch, &[2], Granularity::Sum, None).expect("complete").losses[0]
            };
            let numeric = (loss(h) - loss(-h)) / (2.0 * h);
            assert!((numeric - gradient).abs() <= 2e-2 * scale + 1e-4, "{name} at {at}: {numeric} and {gradient}");
            checked += 1;
        }
        assert!(checked > 20);
    }

    #[test]
    fn gradients_are_finite_differences_of_the_loss() {
        let tuning = Tuning::Lora { freeze_a: false };
        check_differences(&world(tuning, &["LayerNorm"], |_| ()), "exact softmax, gelu");
        check_differences(
            &world(tuning, &[], |spec| {
                spec.head = Some(HeadSpec { outputs: 1, pooling: Pooling::First, dense: false, dropout: 0.0 });
            }),
            "regression",
        );
        for softmax in [
            Softmax::Shifted { shift: 4.0 },
            Softmax::Scaled { temperature: 2.0 },
            Softmax::TwoRelu { eps: 0.05 },
            Softmax::TwoQuad { c: 5.0 },
            Softmax::ReluOverLength,
            Softmax::ScoresOverLength,
        ] {
            check_differences(&world(tuning, &[], |spec| spec.softmax = softmax), &format!("{softmax:?}"));
        }
        for activation in
            [Activation::GeluTanh, Activation::BoltGelu, Activation::HardGelu, Activation::HardSwish, Activation::Quad]
        {
            check_differences(&world(tuning, &[], |spec| spec.activation = activation), &format!("{activation:?}"));
        }
        let caps = SoftCaps { embedding: Some(2.0), attention: Some(3.0), logits: Some(1.5) };
        check_differences(&world(tuning, &[], |spec| spec.caps = caps), "soft caps");
    }

    #[test]
    fn full_tuning_differentiates_the_embedding_tables() {
        let w = world(Tuning::Full, &[], |_| ());
        let g = w.row(&w.gradients(&[0], 3, Granularity::PerExample, None), 0);
        let word = ParamPath::new("embeddings.word_embeddings.weight");
        let (_, rows) = w.layout.slices(&g).find(|(p, _)| p.path == word).expect("full tuning trains it");
        for (id, row) in rows.chunks_exact(16).enumerate() {
            let used = w.examples[0].ids.contains(&(id as u32));
            assert_eq!(row.iter().any(|v| *v != 0.0), used, "row {id}");
        }
    }
}
