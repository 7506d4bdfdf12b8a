use std::collections::BTreeMap;

use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::*;
use crate::{Architecture, HeadSpec, LoraSpec, Pooling, TargetModules, Tuning};

fn small() -> ModelSpec {
    ModelSpec { layers: 1, hidden: 8, heads: 2, intermediate: 12, vocab: 20, positions: 10, ..ModelSpec::bert_tiny() }
}

fn tuned() -> ModelSpec {
    let lora = LoraSpec::new(2, 4.0, TargetModules::default());
    let head = HeadSpec { outputs: 3, pooling: Pooling::First, dense: true, dropout: 0.0 };
    ModelSpec { lora: Some(lora), head: Some(head), ..small() }
}

type File = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// The tensors of a random checkpoint as a file's.
fn tensors(checkpoint: &Checkpoint, prefix: &str, dtype: Dtype) -> File {
    let encode = |value: &f32| match dtype {
        Dtype::F16 => half::f16::from_f32(*value).to_le_bytes().to_vec(),
        Dtype::BF16 => half::bf16::from_f32(*value).to_le_bytes().to_vec(),
        _ => value.to_le_bytes().to_vec(),
    };
    let tensor = |t: &TensorData| (dtype, t.shape().to_vec(), t.data().iter().flat_map(encode).collect());
    checkpoint.params().iter().map(|(path, t)| (format!("{prefix}{path}"), tensor(t))).collect()
}

fn file(tensors: &File) -> Vec<u8> {
    let view = |(dtype, shape, data): &(Dtype, Vec<usize>, Vec<u8>)| {
        TensorView::new(*dtype, shape.clone(), Box::leak(data.clone().into_boxed_slice())).expect("bytes of the shape")
    };
    safetensors::serialize(tensors.iter().map(|(name, t)| (name.clone(), view(t))), None).expect("a file")
}

fn f32_tensor(shape: &[usize], value: f32) -> (Dtype, Vec<usize>, Vec<u8>) {
    (Dtype::F32, shape.to_vec(), value.to_le_bytes().repeat(shape.iter().product()))
}

fn read(tensors: &File, spec: ModelSpec) -> Result<Checkpoint, CheckpointError> {
    Checkpoint::from_safetensors("model.safetensors", &file(tensors), spec)
}

#[test]
fn prefixes_old_names_and_pretraining_heads_make_no_difference() {
    let base = Checkpoint::random(small(), 1).expect("a spec");
    for prefix in ["", "bert.", "roberta."] {
        let mut found = tensors(&base, prefix, Dtype::F32);
        let (gain, shift) = (format!("{prefix}embeddings.LayerNorm.weight"), format!("{prefix}embeddings.LayerNorm.bias"));
        for (old, new) in [(&gain, "gamma"), (&shift, "beta")] {
            let tensor = found.remove(old).expect("a layer normalisation");
            found.insert(format!("{prefix}embeddings.LayerNorm.{new}"), tensor);
        }
        found.insert(format!("{prefix}embeddings.position_ids"), (Dtype::I64, vec![1, 10], vec![0; 80]));
        found.insert("cls.predictions.bias".to_owned(), f32_tensor(&[20], f32::NAN));
        found.insert("lm_head.dense.weight".to_owned(), f32_tensor(&[8, 8], 1.0));
        let read = read(&found, small()).expect("a checkpoint");
        assert_eq!(read.params(), base.params(), "prefix {prefix:?}");
    }
}

#[test]
fn half_precision_is_read_exactly() {
    let base = Checkpoint::random(small(), 2).expect("a spec");
    for (dtype, round) in [
        (Dtype::F16, (|x| half::f16::from_f32(x).to_f32()) as fn(f32) -> f32),
        (Dtype::BF16, |x| half::bf16::from_f32(x).to_f32()),
    ] {
        let read = read(&tensors(&base, "bert.", dtype), small()).expect("a checkpoint");
        for (path, tensor) in base.params() {
            let expected: Vec<f32> = tensor.data().iter().map(|&x| round(x)).collect();
            assert_eq!(read.get(path).expect("every tensor").data(), expected, "{path} as {dtype:?}");
        }
    }
}

#[test]
fn errors_name_file_tensor_and_both_shapes() {
    let base = tensors(&Checkpoint::random(small(), 3).expect("a spec"), "bert.", Dtype::F32);
    let query = "bert.encoder.layer.0.attention.self.query.weight";
    let changed = |change: &dyn Fn(&mut File)| {
        let mut tensors = base.clone();
        change(&mut tensors);
        read(&tensors, small()).expect_err("not a checkpoint of this spec").to_string()
    };
    let cases = [
        (changed(&|t| drop(t.remove(query))), "query.weight of shape [8, 8] is missing"),
        (changed(&|t| drop(t.insert(query.to_owned(), f32_tensor(&[8, 4], 0.0)))), "shape [8, 4] where the model has [8, 8]"),
        (changed(&|t| drop(t.insert("bert.encoder.layer.1.x".to_owned(), f32_tensor(&[1], 0.0)))), "no parameter of the model"),
        (changed(&|t| drop(t.insert(query[5..].to_owned(), f32_tensor(&[8, 8], 0.0)))), "occurs twice"),
        (changed(&|t| drop(t.insert(query.to_owned(), (Dtype::F64, vec![8, 8], vec![0; 512])))), "type F64"),
        (changed(&|t| drop(t.insert(query.to_owned(), f32_tensor(&[8, 8], f32::NAN)))), "value NaN at element 0"),
        (changed(&|t| drop(t.insert(query.to_owned(), f32_tensor(&[8, 8], f32::INFINITY)))), "value inf at element 0"),
        (changed(&|t| drop(t.insert("pooler.dense.weight".to_owned(), f32_tensor(&[8, 7], 0.0)))), "pooler.dense.weight"),
        (changed(&|t| drop(t.insert("classifier.bias".to_owned(), f32_tensor(&[2], f32::NAN)))), "classifier.bias"),
    ];
    for (found, expected) in cases {
        assert!(found.contains(expected) && found.contains("model.safetensors"), "{expected:?} is not in {found:?}");
    }
}

#[test]
fn a_pretrained_head_is_kept_and_must_fit_the_spec_that_uses_it() {
    let mut found = tensors(&Checkpoint::random(small(), 4).expect("a spec"), "bert.", Dtype::F32);
    found.insert("bert.pooler.dense.weight".to_owned(), f32_tensor(&[8, 8], 0.5));
    found.insert("classifier.weight".to_owned(), f32_tensor(&[5, 8], 0.5));
    let kept = read(&found, small()).expect("a checkpoint");
    assert!(kept.get(&ParamPath::new("pooler.dense.weight")).is_some());
    assert!(kept.get(&ParamPath::new("classifier.weight")).is_some());
    assert!(matches!(kept.with_spec(tuned()), Err(CheckpointError::Shape { .. })), "five classes are not three");
}

#[test]
fn trained_parameters_round_trip_onto_their_base_with_stable_bytes() {
    let whole = Checkpoint::random(tuned(), 5).expect("a spec");
    let trained = tuned().trained_parameters(Tuning::Lora { freeze_a: false });
    let trained: BTreeMap<_, _> = trained.into_iter().map(|p| (p.path.clone(), whole.params()[&p.path].clone())).collect();
    let bytes = params_to_safetensors(&trained).expect("a file");
    assert_eq!(bytes, params_to_safetensors(trained.iter().rev()).expect("a file"), "order of insertion shows");
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("trained.safetensors");
    save_params(&path, &trained).expect("written");
    let read = load_params(&path).expect("read");
    assert_eq!(read, trained);

    let base: BTreeMap<_, _> = whole.params().iter().filter(|(path, _)| !trained.contains_key(path)).collect();
    let base = base.into_iter().map(|(path, tensor)| (path.clone(), tensor.clone())).collect();
    let base = Checkpoint::from_params("base", tuned(), base).expect("an encoder");
    assert_eq!(
        base.missing(),
        tuned().trained_parameters(Tuning::Lora { freeze_a: false }).into_iter().map(|p| p.path).collect::<Vec<_>>()
    );
    let error = base.require_complete().expect_err("nothing is trained yet").to_string();
    assert!(error.contains("query.lora_A of shape [2, 8]"), "{error}");
    let merged = base.with_params("trained", read).expect("they fit");
    merged.require_complete().expect("nothing is missing");
    assert_eq!(merged.params(), whole.params());
}

#[test]
fn the_encoding_of_parameters_does_not_change() {
    let tensor = |shape: Vec<usize>, scale: f32| {
        let data = (0..shape.iter().product::<usize>()).map(|i| scale * i as f32 - 1.0).collect();
        TensorData::new(shape, data).expect("values of the shape")
    };
    let params = BTreeMap::from([
        (ParamPath::new("encoder.layer.0.output.dense.lora_B"), tensor(vec![4, 2], 0.25)),
        (ParamPath::new("classifier.bias"), tensor(vec![3], 0.5)),
    ]);
    let bytes = params_to_safetensors(&params).expect("a file");
    // If these bytes change, so does the digest of every model that was ever published.
    let header = concat!(
        r#"{"classifier.bias":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},"#,
        r#""encoder.layer.0.output.dense.lora_B":{"dtype":"F32","shape":[4,2],"data_offsets":[12,44]}}"#,
    );
    let mut expected = (header.len().next_multiple_of(8) as u64).to_le_bytes().to_vec();
    expected.extend_from_slice(header.as_bytes());
    expected.resize(8 + header.len().next_multiple_of(8), b' ');
    let values = [-1.0, -0.5, 0.0, -1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75_f32];
    expected.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    assert_eq!(bytes, expected);
}

#[test]
fn parameters_of_another_model_are_not_merged() {
    let base = Checkpoint::random(tuned(), 6).expect("a spec");
    let foreign = |path: &str, shape: Vec<usize>, value| {
        let params = BTreeMap::from([(ParamPath::new(path), TensorData::filled(shape, value))]);
        base.clone().with_params("trained", params)
    };
    let lora = "encoder.layer.0.output.dense.lora_B";
    assert!(foreign(lora, vec![8, 2], 0.0).is_ok());
    assert!(matches!(foreign(lora, vec![8, 4], 0.0), Err(CheckpointError::Shape { .. })));
    assert!(matches!(foreign(lora, vec![8, 2], f32::NAN), Err(CheckpointError::NotFinite { .. })));
    assert!(matches!(foreign("encoder.layer.9.output.dense.lora_B", vec![8, 2], 0.0), Err(CheckpointError::Unexpected { .. })));
}

#[test]
fn a_part_of_a_model_lacks_what_it_lacks_and_holds_nothing_of_another_shape() {
    let whole = Checkpoint::random(tuned(), 6).expect("a spec");
    let params =
        |keep: &dyn Fn(&str) -> bool| whole.params().clone().into_iter().filter(|(path, _)| keep(path.as_str())).collect();
    let embeddings =
        Checkpoint::part("shared", tuned(), params(&|path| path.starts_with("embeddings."))).expect("the embeddings");
    assert_eq!(embeddings.params().len() + embeddings.missing().len(), whole.params().len());
    assert!(embeddings.require_complete().is_err());
    assert!(Checkpoint::part("shared", tuned(), params(&|_| false)).expect("nothing").params().is_empty());
    let other = Checkpoint::part("shared", small(), params(&|path| path.ends_with("lora_B")));
    assert!(matches!(other, Err(CheckpointError::Unexpected { .. })));
}

#[test]
fn random_weights_are_a_function_of_the_seed_with_the_stated_moments() {
    let spec = ModelSpec { vocab: 20_000, ..small() };
    let a = Checkpoint::random(spec.clone(), 7).expect("a spec");
    assert_eq!(a.params(), Checkpoint::random(spec.clone(), 7).expect("a spec").params());
    let b = Checkpoint::random(spec, 8).expect("a spec");
    let word = ParamPath::new("embeddings.word_embeddings.weight");
    assert_ne!(a.params()[&word], b.params()[&word]);
    let values = a.params()[&word].data();
    let n = values.len() as f64;
    let moment = |power: i32| values.iter().map(|&x| (f64::from(x) / 0.02).powi(power)).sum::<f64>() / n;
    // Five standard errors of each moment of 160,000 normal values.
    for (power, expected, error) in [(1, 0.0, 0.0125), (2, 1.0, 0.018), (3, 0.0, 0.05), (4, 3.0, 0.125)] {
        assert!((moment(power) - expected).abs() < error, "moment {power} is {}", moment(power));
    }
    let gain = ParamPath::new("embeddings.LayerNorm.weight");
    assert!(a.params()[&gain].data().iter().all(|&x| x == 1.0));
    assert!(a.missing().is_empty());
}

#[test]
fn roberta_heads_have_robertas_names() {
    let spec = ModelSpec { architecture: Architecture::Roberta, pad_token: 1, ..tuned() };
    let checkpoint = Checkpoint::random(spec, 9).expect("a spec");
    assert!(checkpoint.get(&ParamPath::new("classifier.out_proj.weight")).is_some());
    assert!(checkpoint.get(&ParamPath::new("classifier.dense.bias")).is_some());
}

#[test]
fn no_truncation_or_mutation_of_a_file_makes_the_reader_panic() {
    let bytes = file(&tensors(&Checkpoint::random(small(), 10).expect("a spec"), "bert.", Dtype::F16));
    let header = 8 + u64::from_le_bytes(*bytes.first_chunk().expect("a header")) as usize;
    let read = |bytes: &[u8]| Checkpoint::from_safetensors("fuzzed", bytes, small());
    assert!(read(&bytes).is_ok());
    for end in (0..bytes.len()).step_by(7).chain(0..64).chain(header - 4..header + 4) {
        assert!(read(&bytes[..end]).is_err(), "{end} bytes of {}", bytes.len());
    }
    let mut state = 1_u64;
    let mut next = |bound: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let mut refused = 0;
    for _ in 0..4_000 {
        let mut mutated = bytes.clone();
        for _ in 0..=next(3) {
            let at = next(header);
            mutated[at] = match next(3) {
                0 => next(256) as u8,
                1 => b"0123456789{}[]\",:-eE"[next(20)],
                _ => mutated[at] ^ (1 << next(8)),
            };
        }
        refused += usize::from(read(&mutated).is_err());
    }
    assert!(refused > 3_000, "only {refused} of 4000 mutated headers were refused");
}

#[test]
fn a_header_that_claims_gigabytes_is_refused_before_it_is_parsed() {
    let mut bytes = u64::MAX.to_le_bytes().to_vec();
    bytes.extend_from_slice(b"{}");
    assert!(matches!(Checkpoint::from_safetensors("hostile", &bytes, small()), Err(CheckpointError::TooLarge { .. })));
    let overflow = br#"{"a":{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,0]}}"#;
    let mut bytes = (overflow.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(overflow);
    assert!(matches!(params_from_safetensors("hostile", &bytes), Err(CheckpointError::Malformed { .. })));
}

#[test]
fn a_missing_folder_is_an_error_with_its_path() {
    let error = Checkpoint::open(Path::new("no/such/model")).expect_err("nothing is there").to_string();
    assert!(error.contains("no/such/model/config.json"), "{error}");
}

#[test]
fn debug_output_shows_no_weights() {
    let tensor = TensorData::filled(vec![2, 3], 0.123);
    assert_eq!(format!("{tensor:?}"), "TensorData { shape: [2, 3], .. }");
    assert!(TensorData::new(vec![2, 2], vec![0.0; 3]).is_none());
    assert!(TensorData::new(vec![usize::MAX, 2], vec![]).is_none());
}
