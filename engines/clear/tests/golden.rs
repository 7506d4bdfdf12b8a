//! The oracle against hidden states computed by Hugging Face transformers 4.31 in float32.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use sprint_clear::float::{PooledRow, pooled_rows};
use sprint_model::{Batch, Checkpoint, Encoded, TextEncoder};

/// Largest difference of a hidden state's component from transformers', both in f32.
const TOLERANCE: f32 = 1e-4;

#[derive(Deserialize)]
struct Golden {
    max_length: usize,
    rows: Vec<Row>,
}

#[derive(Deserialize)]
struct Row {
    text: String,
    pair: Option<String>,
    ids: Vec<u32>,
    type_ids: Vec<u8>,
    cls: Vec<f32>,
    mean: Vec<f32>,
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Token ids equal, and hidden states within the tolerance, of every row by itself and of all rows padded together.
fn assert_golden(golden: &str, model: &Path) {
    let golden: Golden = serde_json::from_str(golden).expect("golden rows");
    assert!(!golden.rows.is_empty());
    let checkpoint = Checkpoint::open(model).expect("a checkpoint");
    let spec = checkpoint.spec();
    let encoder = TextEncoder::load(&model.join("tokenizer.json"), spec, golden.max_length).expect("a tokenizer");
    let mut examples = Vec::new();
    for row in &golden.rows {
        let encoded = encoder.encode(&row.text, row.pair.as_deref()).expect("token ids");
        assert_eq!(encoded, Encoded { ids: row.ids.clone(), type_ids: row.type_ids.clone() }, "{:?}", row.text);
        examples.push(encoded.into_example(None));
    }
    let together = Batch::padded_to_longest(&examples, spec.pad_token).expect("a batch");
    let together = pooled_rows(&checkpoint, &together).expect("hidden states");
    let mut worst = 0.0_f32;
    for ((row, example), together) in golden.rows.iter().zip(&examples).zip(&together) {
        let alone = Batch::padded_to_longest(std::slice::from_ref(example), spec.pad_token).expect("a batch");
        let PooledRow { cls, mean } = &pooled_rows(&checkpoint, &alone).expect("hidden states")[0];
        assert_eq!((cls, mean), (&together.cls, &together.mean), "padding changes {:?}", row.text);
        worst = worst.max(largest_difference(cls, &row.cls)).max(largest_difference(mean, &row.mean));
    }
    println!("{}: largest difference {worst:e}", model.display());
    assert!(worst <= TOLERANCE, "{}: {worst:e}", model.display());
}

#[test]
fn the_quickstarts_encoder_equals_transformers() {
    assert_golden(include_str!("hf_bert-tiny-5k.json"), Path::new("../../workflows/quickstart/bert-tiny-5k"));
}

#[test]
fn hub_encoders_equal_transformers_where_they_are_at_hand() {
    let Some(shared) = std::env::var_os("SPRINT_FLOW_SHARED").map(PathBuf::from) else {
        println!("skipped: SPRINT_FLOW_SHARED does not name a folder with golden/ and hub/models/");
        return;
    };
    for (golden, model) in [
        ("bert-tiny-5k", "sprint-flow/bert-tiny-5k"),
        ("bert-tiny-splade", "sprint-flow/bert-tiny-splade"),
        ("minilm-l6-h384", "sentence-transformers/all-MiniLM-L6-v2"),
        ("roberta-minilm-l3", "sprint-flow/roberta-minilm-l3"),
    ] {
        let golden = std::fs::read_to_string(shared.join(format!("golden/hf_{golden}.json"))).expect("golden rows");
        assert_golden(&golden, &shared.join("hub/models").join(model));
    }
}
