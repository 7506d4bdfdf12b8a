//! The stage on small tables in every format, with the quickstart's own encoder.

use std::path::Path;
use std::sync::Arc;

use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::parser::parse_message_type;
use serde_json::{Value, json};
use sprint_artifacts::{Manifest, Secrecy};
use sprint_model::{Example, Label};
use sprint_stage_api::{Stage, StageError, StageOutputs};

use super::Tokenize;
use crate::dataset::{self, DatasetMeta, Split};
use crate::glue::Metric;
use crate::testing::Bench;

const TSV: &str = "label\ttext\nspam\tWin a \"prize\nham\tSee you at noon\n1\tWin a \"prize\n0\tlunch?\n";

/// A bench whose ports hold these files and the quickstart's tokenizer.
fn bench(files: &[(&str, &[u8])]) -> Bench {
    let mut bench = Bench::new();
    let mut data = Manifest::builder("files@1", Secrecy::Secret);
    for (name, bytes) in files {
        data = data.bytes(*name, bytes.to_vec());
    }
    let model = Path::new("../workflows/quickstart/bert-tiny-5k");
    let encoder = Manifest::builder("files@1", Secrecy::Public)
        .path("config.json", model.join("config.json"))
        .path("tokenizer.json", model.join("tokenizer.json"));
    let (data, _) = bench.store().put_artifact(data).expect("stores");
    let (encoder, _) = bench.store().put_artifact(encoder).expect("stores");
    bench.connect("data", &[], data);
    bench.connect("model", &[], encoder);
    bench
}

fn run(files: &[(&str, &[u8])], params: &Value) -> Result<(DatasetMeta, Vec<Example>, Vec<Example>), StageError> {
    let bench = bench(files);
    let outputs: StageOutputs = bench.run(&Tokenize::new(), params)?;
    let id = outputs.get("dataset").expect("an output");
    let (meta, train) = dataset::load(bench.store(), id, Split::Train).expect("reads");
    let (_, validation) = dataset::load(bench.store(), id, Split::Validation).expect("reads");
    Ok((meta, train, validation))
}

fn mail() -> Value {
    json!({"text": "text", "label": "label", "classes": ["ham", "spam"], "holdout": {"rows": 1}})
}

fn classes(examples: &[Example]) -> Vec<u32> {
    examples.iter().map(|e| if let Some(Label::Class(c)) = e.label { c } else { panic!("a class") }).collect()
}

#[test]
fn a_tsv_file_becomes_token_ids_and_classes() {
    let (meta, train, validation) = run(&[("m.tsv", TSV.as_bytes())], &mail()).expect("runs");
    assert_eq!(classes(&train), [1, 0, 1]);
    assert_eq!(classes(&validation), [0]);
    assert_eq!((train[0].ids[0], *train[0].ids.last().expect("tokens")), (2, 3), "[CLS] … [SEP]");
    assert_eq!(train[0].ids, train[2].ids, "a label by name and by number is one label, a text is a text");
    assert_eq!((meta.positive, meta.metrics.clone()), (1, vec![Metric::Accuracy, Metric::F1]));
    let split = &meta.splits["train"];
    assert_eq!((split.rows, split.labels.clone()), (3, vec![1, 2]));
    assert_eq!(split.lengths.iter().sum::<usize>(), 3);
    assert_eq!(split.tokens, train.iter().map(|e| e.ids.len()).sum::<usize>());
}

#[test]
fn all_formats_give_the_same_examples() {
    let csv = "text,label\n\"Win a \"\"prize\",spam\nSee you at noon,ham\n\"Win a \"\"prize\",1\nlunch?,0\n";
    let jsonl = "{\"text\":\"Win a \\\"prize\",\"label\":\"spam\"}\n\n{\"label\":\"ham\",\"text\":\"See you at noon\"}\n\
                 {\"text\":\"Win a \\\"prize\",\"label\":1}\n{\"text\":\"lunch?\",\"label\":0}\n";
    let parquet = parquet_file(&["Win a \"prize", "See you at noon", "Win a \"prize", "lunch?"], &[1, 0, 1, 0]);
    let headless = "spam\tWin a \"prize\nham\tSee you at noon\n1\tWin a \"prize\n0\tlunch?\n";
    let (_, train, validation) = run(&[("m.tsv", TSV.as_bytes())], &mail()).expect("runs");
    let files: [(&str, &[u8]); 3] = [("m.csv", csv.as_bytes()), ("m.jsonl", jsonl.as_bytes()), ("m.parquet", &parquet)];
    for file in files {
        let (_, t, v) = run(&[file], &mail()).unwrap_or_else(|e| panic!("{}: {e}", file.0));
        assert_eq!((&t, &v), (&train, &validation), "{}", file.0);
    }
    let params =
        json!({"text": "1", "label": "0", "header": false, "format": "tsv", "classes": ["ham", "spam"], "holdout": {"rows": 1}});
    let (_, t, v) = run(&[("mail.data", headless.as_bytes())], &params).expect("runs");
    assert_eq!((t, v), (train, validation));
}

fn parquet_file(texts: &[&str], labels: &[i64]) -> Vec<u8> {
    let schema = parse_message_type("message m { required int64 idx; required binary text (UTF8); required int64 label; }");
    let mut bytes = Vec::new();
    let properties = Arc::new(WriterProperties::builder().build());
    let mut file = SerializedFileWriter::new(&mut bytes, Arc::new(schema.expect("a schema")), properties).expect("begins");
    let mut group = file.next_row_group().expect("a group");
    let idx: Vec<i64> = (0..labels.len() as i64).collect();
    let texts: Vec<ByteArray> = texts.iter().map(|t| ByteArray::from(*t)).collect();
    for column in 0..3 {
        let mut writer = group.next_column().expect("a column").expect("three columns");
        match column {
            0 => writer.typed::<Int64Type>().write_batch(&idx, None, None).map(drop),
            1 => writer.typed::<ByteArrayType>().write_batch(&texts, None, None).map(drop),
            _ => writer.typed::<Int64Type>().write_batch(labels, None, None).map(drop),
        }
        .expect("writes");
        writer.close().expect("closes");
    }
    group.close().expect("closes");
    file.close().expect("closes");
    bytes
}

#[test]
fn pairs_carry_their_token_types() {
    let rte = "sentence1\tsentence2\tlabel\nIt rains.\tIt is wet.\t0\nIt rains.\tIt is dry.\t1\n";
    let files: [(&str, &[u8]); 2] = [("train.tsv", rte.as_bytes()), ("validation.tsv", rte.as_bytes())];
    let (meta, train, validation) = run(&files, &json!({"task": "rte"})).expect("runs");
    assert_eq!((meta.task.as_str(), meta.classes.len(), validation.len()), ("rte", 2, 2));
    let first = &train[0];
    let middle = first.ids.iter().position(|id| *id == 3).expect("[SEP]");
    assert!(first.type_ids[..=middle].iter().all(|t| *t == 0) && first.type_ids[middle + 1..].iter().all(|t| *t == 1));
}

#[test]
fn scores_are_kept_as_numbers() {
    let stsb = "sentence1\tsentence2\tlabel\na\tb\t2.5\nc\td\t5\n";
    let files: [(&str, &[u8]); 2] = [("train.tsv", stsb.as_bytes()), ("validation.tsv", stsb.as_bytes())];
    let (meta, train, _) = run(&files, &json!({"task": "stsb"})).expect("runs");
    assert_eq!(train[0].label, Some(Label::Score(2.5)));
    assert_eq!((meta.outputs(), meta.metrics), (1, vec![Metric::Pearson, Metric::Spearman]));
}

#[test]
fn every_bad_row_is_told_with_its_line_and_the_fix() {
    let bad = "label\ttext\nspam\tfine\nspan\toops\nham\t\nham\ta\tb\n7\tx\nham\tfine too\n";
    let error = run(&[("m.tsv", bad.as_bytes())], &mail()).expect_err("four bad rows");
    for part in [
        "4 rows",
        "m.tsv:3: label \"span\" is not a class",
        "m.tsv:4: the text is empty",
        "m.tsv:5: 3 columns in place of 2",
        "m.tsv:6: label \"7\"",
    ] {
        assert!(error.message.contains(part), "{part}: {error}");
    }
    assert_eq!(error.help.as_deref(), Some("labels must be one of ham, spam, or a number from 0 to 1"));
}

#[test]
fn a_thousand_bad_rows_are_twenty_lines() {
    let mut bad = "label\ttext\n".to_owned();
    (0..1000).for_each(|i| bad.push_str(&format!("junk{i}\tx\n")));
    let error = run(&[("m.tsv", bad.as_bytes())], &mail()).expect_err("bad rows");
    assert!(error.message.contains("1000 rows") && error.message.ends_with("and 980 more"), "{error}");
    assert_eq!(error.message.lines().count(), 22);
}

#[test]
fn an_unknown_column_is_answered_with_the_known_ones() {
    let params = json!({"text": "txet", "label": "label", "classes": ["ham", "spam"], "holdout": {"rows": 1}});
    let error = run(&[("m.tsv", TSV.as_bytes())], &params).expect_err("no such column");
    assert!(error.message.contains("label, text"), "{error}");
    assert_eq!(error.help.as_deref(), Some("did you mean \"text\"?"));
}

#[test]
fn text_that_is_not_utf8_is_a_bad_row() {
    let error = run(&[("m.tsv", b"label\ttext\nham\t\xff\xfe\nham\tok\n")], &mail()).expect_err("not UTF-8");
    assert!(error.message.contains("m.tsv:2: not UTF-8"), "{error}");
}

#[test]
fn a_file_that_is_no_parquet_is_named() {
    let error = run(&[("m.parquet", b"PAR1 but not really")], &mail()).expect_err("not parquet");
    assert!(error.message.starts_with("m.parquet: "), "{error}");
}

/// The split is a function of each row alone: removing one row removes it from one side and moves no other.
#[test]
fn holding_out_by_fraction_keeps_neighbouring_data_sets_neighbours() {
    let rows: Vec<String> = (0..400).map(|i| format!("{}\tmessage number {i} of many", i % 2)).collect();
    let table = |rows: &[String]| format!("label\ttext\n{}\n", rows.join("\n"));
    let params = json!({"text": "text", "label": "label", "classes": ["ham", "spam"], "holdout": {"fraction": 0.25}});
    let split = |rows: &[String]| run(&[("m.tsv", table(rows).as_bytes())], &params).expect("runs");
    let (_, train, validation) = split(&rows);
    assert!((60..140).contains(&validation.len()), "{}", validation.len());
    assert_eq!(train.len() + validation.len(), 400);
    let fewer: Vec<String> = rows.iter().enumerate().filter(|(i, _)| *i != 17).map(|(_, r)| r.clone()).collect();
    let (_, train_fewer, validation_fewer) = split(&fewer);
    assert_eq!(train.len() + validation.len() - 1, train_fewer.len() + validation_fewer.len());
    assert!(train_fewer.iter().all(|e| train.contains(e)) && validation_fewer.iter().all(|e| validation.contains(e)));
}

#[test]
fn what_a_data_set_needs_is_asked_for_at_once() {
    let problems = Tokenize::new().normalise(&json!({})).expect_err("says nothing");
    let paths: Vec<_> = problems.iter().map(|p| p.path.join(".")).collect();
    assert_eq!(paths, ["text", "label", "classes", "holdout"]);
    let params = json!({"task": "sst2", "metrics": ["pearson"], "positive": "good", "holdout": {"rows": 3, "fraction": 0.5}});
    let problems = Tokenize::new().normalise(&params).expect_err("three problems");
    let paths: Vec<_> = problems.iter().map(|p| p.path.join(".")).collect();
    assert_eq!(paths, ["metrics", "positive", "holdout"]);
}

#[test]
fn row_limits_cut_each_split() {
    let params = json!({"text": "text", "label": "label", "classes": ["ham", "spam"], "holdout": {"rows": 2}, "max_train_rows": 1, "max_validation_rows": 1});
    let (_, train, validation) = run(&[("m.tsv", TSV.as_bytes())], &params).expect("runs");
    assert_eq!((train.len(), validation.len()), (1, 1));
}
