use super::{Basis, orthonormal, within_public_directions};
use std::collections::BTreeMap;

use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;
use sprint_model::{
    Batch, Checkpoint, Example, HeadSpec, Label, LoraSpec, ModelSpec, ParamPath, Part, Pooling, TargetModules, TensorData, Tuning,
};

use crate::device::{Backend, BackendKind};
use crate::error::TrainError;
use crate::eval::upload;
use crate::init::gaussian;
use crate::layout::Layout;
use crate::merged::Merging;
use crate::per_sample::{Differentiable, Granularity};

const RANK: usize = 3;
const WIDTH: usize = 5;

/// A two-layer model of 16 channels whose updates are zero. Dropout before `A` keeps layers from being merged; nothing is dropped here.
fn model(dropout: f64) -> Checkpoint {
    let spec = ModelSpec {
        hidden: 16,
        intermediate: 24,
        vocab: 50,
        positions: 16,
        hidden_dropout: 0.0,
        head: Some(HeadSpec { outputs: 2, pooling: Pooling::Mean, dense: false, dropout: 0.0 }),
        lora: Some(LoraSpec { dropout, ..LoraSpec::new(RANK, 6.0, TargetModules::default()) }),
        ..ModelSpec::bert_tiny_5k()
    };
    let model = Checkpoint::random(spec.clone(), 11).expect("valid");
    let updates = spec.parameters().into_iter().filter(|p| p.part == Part::LoraB);
    let zero = |shape: Vec<usize>, len| TensorData::new(shape, vec![0.0; len]).expect("as many values as the shape has");
    let zeros: BTreeMap<ParamPath, TensorData> = updates.map(|p| (p.path.clone(), zero(p.shape.clone(), p.len()))).collect();
    model.with_params("updates at zero", zeros).expect("the same shapes")
}

fn examples(count: u32, salt: u32) -> Vec<Example> {
    let example = |i: u32| {
        let ids: Vec<u32> = (0..3 + i % 6).map(|t| 5 + (i * 31 + t * 7 + salt) % 45).collect();
        Example { type_ids: vec![0; ids.len()], ids, label: Some(Label::Class(i % 2)) }
    };
    (0..count).map(example).collect()
}

fn layout(model: &Checkpoint) -> Layout {
    Layout::new(model.spec(), Tuning::Lora { freeze_a: true }, &[]).expect("nothing is named")
}

/// Per-example gradients at `theta`, in the layout's order: `[examples][dim]`.
fn gradients(model: &Checkpoint, layout: &Layout, theta: &[f32], examples: &[Example], backend: &Backend) -> Vec<Vec<f32>> {
    let (frozen, merging) = (upload(model, backend), Merging::new(model.spec(), layout, backend));
    let spec = model.spec();
    let differentiable = Differentiable { spec, backend, frozen: &frozen, layout, merging: &merging, lower: None };
    let batch = Batch::new(examples, 9, 0).expect("a batch");
    let rows: Vec<usize> = (0..examples.len()).collect();
    let point = differentiable.at(theta);
    let gradients = differentiable.gradients(&point, &batch, &rows, Granularity::PerExample, None).expect("complete");
    let row = |i: usize| {
        let parts = gradients.blocks().map(|b| b.chunks_exact(b.len() / examples.len()).nth(i).expect("a row an example"));
        let mut row: Vec<f32> = parts.flatten().copied().collect();
        merging.straighten(layout, &mut row);
        row
    };
    rows.iter().map(|i| row(*i)).collect()
}

/// `Uᵀ·G`.
fn projected(basis: &Basis, gradient: &[f32], rank: usize) -> Vec<f32> {
    let mut out = vec![0.0; basis.width * rank];
    for (u, row) in basis.values.chunks_exact(basis.width).zip(gradient.chunks_exact(rank)) {
        for (to, u) in out.chunks_exact_mut(rank).zip(u) {
            to.iter_mut().zip(row).for_each(|(to, g)| *to += u * g);
        }
    }
    out
}

#[test]
fn gradients_within_a_basis_are_projections_of_the_whole_ones_merged_or_not() {
    let backend = Backend::open(BackendKind::Flex).expect("built");
    for dropout in [0.0, 0.1] {
        let model = model(dropout);
        let whole = layout(&model);
        let within = within_public_directions(whole.clone(), &model, &examples(20, 3), WIDTH, 1, &backend).expect("computes");
        assert_eq!(within.bases().len(), 12);
        assert_eq!(within.dim(), 12 * WIDTH * RANK + 2 * 16 + 2);
        let theta = gaussian(within.dim(), 0.1, &mut ChaCha20Rng::seed_from_u64(2));
        let expanded: Vec<f32> = within.slices(&theta).flat_map(|(p, values)| within.value(p, values).1).collect();
        assert_eq!(expanded.len(), whole.dim());
        let private = examples(4, 17);
        let inside = gradients(&model, &within, &theta, &private, &backend);
        let outside = gradients(&model, &whole, &expanded, &private, &backend);
        for (inside, outside) in inside.iter().zip(&outside) {
            let expected: Vec<f32> = whole
                .slices(outside)
                .flat_map(|(p, g)| within.basis(&p.path).map_or(g.to_vec(), |basis| projected(basis, g, p.shape[1])))
                .collect();
            let norm = expected.iter().map(|v| v * v).sum::<f32>().sqrt();
            let away = expected.iter().zip(inside).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
            assert!(norm > 1e-2 && away < 1e-4 * norm, "{away} of {norm}, dropout {dropout}");
        }
    }
}

#[test]
fn bases_are_orthonormal_and_hold_the_public_gradients() {
    let backend = Backend::open(BackendKind::Flex).expect("built");
    let model = model(0.0);
    let whole = layout(&model);
    let texts = examples(12, 3);
    let share = |width: usize| {
        let within = within_public_directions(whole.clone(), &model, &texts, width, 1, &backend).expect("computes");
        let theta: Vec<f32> =
            whole.parameters().iter().flat_map(|p| model.get(&p.path).expect("complete").data().to_vec()).collect();
        let (mut kept, mut all) = (0.0, 0.0);
        for gradient in gradients(&model, &whole, &theta, &texts, &backend) {
            for (p, g) in whole.slices(&gradient) {
                let Some(basis) = within.basis(&p.path) else { continue };
                for (i, j) in (0..width).flat_map(|i| (0..width).map(move |j| (i, j))) {
                    let dot: f32 = basis.values.chunks_exact(width).map(|u| u[i] * u[j]).sum();
                    assert!((dot - f32::from(u8::from(i == j))).abs() < 1e-4, "columns {i} and {j}: {dot}");
                }
                kept += projected(basis, g, p.shape[1]).iter().map(|v| v * v).sum::<f32>();
                all += g.iter().map(|v| v * v).sum::<f32>();
            }
        }
        kept / all
    };
    let (two, eight) = (share(2), share(8));
    // A random subspace of 2 of 16 to 24 directions would hold a tenth.
    assert!(two > 0.35 && eight > 0.8 && eight < 1.0 + 1e-4, "{two} and {eight}");
}

#[test]
fn updates_with_no_more_outputs_than_the_width_are_trained_whole() {
    let backend = Backend::open(BackendKind::Flex).expect("built");
    let model = model(0.0);
    let within = within_public_directions(layout(&model), &model, &examples(8, 1), 16, 1, &backend).expect("computes");
    let narrowed: Vec<&str> = within.bases().keys().map(ParamPath::as_str).collect();
    assert_eq!(narrowed, [0, 1].map(|l| format!("encoder.layer.{l}.intermediate.dense.lora_B")));
}

#[test]
fn an_update_that_is_not_zero_is_refused() {
    let backend = Backend::open(BackendKind::Flex).expect("built");
    let model = Checkpoint::random(model(0.0).spec().clone(), 3).expect("valid");
    let error = within_public_directions(layout(&model), &model, &examples(8, 1), 4, 1, &backend).expect_err("B is random");
    let TrainError::Config(error) = error else { panic!("{error}") };
    assert_eq!(error.problems[0].field, "tuning.public_basis");
}

#[test]
fn dependent_vectors_are_replaced() {
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    let rows = orthonormal([[3.0, 0.0, 0.0, 4.0], [6.0, 0.0, 0.0, 8.0], [0.0; 4]].concat(), 4, 3, &mut rng);
    for (i, a) in rows.chunks_exact(4).enumerate() {
        for (j, b) in rows.chunks_exact(4).enumerate() {
            let dot: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
            assert!((dot - f32::from(u8::from(i == j))).abs() < 1e-6, "{i}, {j}: {dot}");
        }
    }
}
