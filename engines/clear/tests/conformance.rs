//! The oracle against the f64 reference.

use sprint_clear::float::{FloatAct, FloatEngine, FloatHeads, embed_only, run_hidden, run_logits};
use sprint_model::conformance::{Subject, Values, assert_conforms, assert_embeds, variants};
use sprint_model::{Batch, Checkpoint, Example, HeadSpec, ModelSpec, Pooling};

struct Float;

impl Subject for Float {
    type Act = FloatAct;
    type Heads = FloatHeads;
    type Engine<'a> = FloatEngine<'a>;

    fn engine<'a>(&self, checkpoint: &'a Checkpoint, batch: &'a Batch) -> FloatEngine<'a> {
        FloatEngine::new(checkpoint, batch).expect("the fixture's batch fits its model")
    }

    fn put_act(&self, _: &mut FloatEngine<'_>, x: &Values<3>) -> FloatAct {
        FloatAct::new(x.shape, x.data.iter().map(|&x| x as f32).collect()).expect("values of the shape")
    }

    fn put_heads(&self, _: &mut FloatEngine<'_>, x: &Values<4>) -> FloatHeads {
        FloatHeads::new(x.shape, x.data.iter().map(|&x| x as f32).collect()).expect("values of the shape")
    }

    fn get_act(&self, _: &mut FloatEngine<'_>, x: &FloatAct) -> Values<3> {
        Values::new(x.shape(), x.data().iter().map(|&x| f64::from(x)).collect())
    }

    fn get_heads(&self, _: &mut FloatEngine<'_>, x: &FloatHeads) -> Values<4> {
        Values::new(x.shape(), x.data().iter().map(|&x| f64::from(x)).collect())
    }

    /// Inputs are rounded to f32 (2⁻²⁴ of at most 8) and every operation rounds a few times; a model composes some fifty, and the row sum that
    /// 2ReLU divides by may be as small as ε = 0.01, which multiplies the error by up to its inverse.
    fn tolerance(&self, case: &str) -> Option<f64> {
        Some(match case {
            "layer_norm.small" => 2e-5,
            _ if case.contains("2relu") => 1e-4,
            _ if case.contains(": ") => 2e-5,
            _ => 4e-6,
        })
    }
}

#[test]
fn every_operation_and_model_equals_f64_within_rounding() {
    let measured = assert_conforms(&Float);
    let worst = measured.iter().max_by(|a, b| a.error.total_cmp(&b.error)).expect("cases");
    println!("{} cases; the largest error is {:e} in {}", measured.len(), worst.error, worst.case);
    assert_embeds(&Float, 2e-6);
}

#[test]
fn no_row_depends_on_padding_or_on_the_rows_beside_it() {
    for fixture in variants() {
        let (checkpoint, batch) = (&fixture.checkpoint, &fixture.batch);
        let pad = checkpoint.spec().pad_token;
        let together = run_logits(checkpoint, batch).expect("logits");
        let hidden = run_hidden(checkpoint, batch).expect("hidden states");
        for (row, &length) in batch.lengths().iter().enumerate() {
            let start = row * batch.tokens();
            let example = Example {
                ids: batch.ids()[start..start + length].to_vec(),
                type_ids: batch.type_ids()[start..start + length].to_vec(),
                label: None,
            };
            for tokens in length..=10 {
                let alone = Batch::new([&example], tokens, pad).expect("a batch");
                assert_eq!(run_logits(checkpoint, &alone).expect("logits")[0], together[row], "{}", fixture.name);
                let alone = run_hidden(checkpoint, &alone).expect("hidden states");
                (0..length).for_each(|token| assert_eq!(alone.token(0, token), hidden.token(row, token)));
            }
        }
    }
}

#[test]
fn a_model_without_its_head_and_a_batch_of_another_model_are_errors() {
    let head = HeadSpec { outputs: 2, pooling: Pooling::Mean, dense: false, dropout: 0.0 };
    let base = ModelSpec { layers: 1, vocab: 50, ..ModelSpec::bert_tiny() };
    let headed = Checkpoint::random(base.clone(), 1).expect("a spec").with_spec(ModelSpec { head: Some(head), ..base });
    let headed = headed.expect("the same encoder");
    let example = Example { ids: vec![1, 2], type_ids: vec![0, 0], label: None };
    let batch = Batch::padded_to_longest(std::slice::from_ref(&example), 0).expect("a batch");
    let error = run_logits(&headed, &batch).expect_err("the head is not trained").to_string();
    assert!(error.contains("classifier.weight") && error.contains("head"), "{error}");
    assert_eq!(run_hidden(&headed, &batch).expect("the encoder is complete").shape(), [1, 2, 128]);
    let foreign = Batch::padded_to_longest(&[Example { ids: vec![1, 50], ..example }], 0).expect("a batch");
    assert!(embed_only(&headed, &foreign).is_err());
}
