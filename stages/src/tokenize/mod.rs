//! `tokenize@1`: labelled texts in TSV, CSV, JSONL or Parquet become token ids of one model.

mod params;
mod table;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use serde_json::Value;
use sprint_artifacts::{Digest, Manifest, Secrecy};
use sprint_model::{Example, Label, ModelSpec, TextEncoder};
use sprint_stage_api::{
    CachePolicy, Effect, InputPort, OutputPort, ParamProblem, Stage, StageContext, StageError, StageOutputs, StageSpec,
};

use crate::dataset::{self, Split, SplitMeta, TaskMeta};
use crate::errors::{store_error, with_causes};
use crate::params as parameters;
use params::{Resolved, Splitting, TokenizeParams};
use table::{BadRow, Cell, Layout, Row, TableError};

/// Bad rows that are told one by one.
const MAX_TOLD: usize = 20;

/// The stage.
pub(crate) struct Tokenize {
    spec: StageSpec,
}

impl Tokenize {
    pub(crate) fn new() -> Self {
        let input = |name| InputPort { name, artifact: "files", optional: false, gather: false };
        let spec = StageSpec {
            kind: "tokenize",
            version: 1,
            about: "Turns labelled texts into token ids, split into training and validation examples.",
            inputs: vec![input("data"), input("model")],
            outputs: vec![OutputPort { name: "dataset", artifact: "dataset", secrecy: Secrecy::Secret }],
            effect: Effect::Pure,
            cache: CachePolicy::Always,
            code_digest: crate::code::TOKENIZE,
            params_schema: parameters::schema::<TokenizeParams>(),
        };
        Self { spec }
    }
}

impl Stage for Tokenize {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn normalise(&self, params: &Value) -> Result<Value, Vec<ParamProblem>> {
        parameters::normalise::<TokenizeParams>(params)
    }

    fn run(&self, ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
        let params: TokenizeParams = ctx.params_as()?;
        let task = params
            .resolve()
            .map_err(|p| StageError::permanent(p.iter().map(|p| p.message.as_str()).collect::<Vec<_>>().join("; ")))?;
        let (encoder, spec) = encoder(ctx, params.max_length)?;
        let rows = read_rows(ctx, &params, &task)?;
        let encode = |split: Split, rows: Vec<Labelled>| encode_rows(ctx, &encoder, split, rows);
        let train = encode(Split::Train, cut(rows.train, params.max_train_rows))?;
        let validation = encode(Split::Validation, cut(rows.validation, params.max_validation_rows))?;
        for (split, examples) in [(Split::Train, &train), (Split::Validation, &validation)] {
            if examples.is_empty() {
                let error = StageError::permanent(format!("the {} split has no rows", split.name()));
                return Err(error.help("check train:, validation: and holdout:"));
            }
        }
        let Resolved { task, classes, positive, metrics, .. } = task;
        let about = TaskMeta { task, classes, positive, metrics, max_length: params.max_length, vocab: spec.vocab };
        let (id, meta) = dataset::store(ctx.store(), about, &train, &validation)?;
        for (name, split) in &meta.splits {
            ctx.log(summary(name, split, params.max_length));
        }
        Ok(StageOutputs::new().with("dataset", id))
    }
}

fn summary(name: &str, split: &SplitMeta, max_length: usize) -> String {
    let mean = split.tokens as f64 / split.rows.max(1) as f64;
    let SplitMeta { rows, longest, at_limit, labels, .. } = split;
    format!(
        "{name}: {rows} rows, {mean:.1} tokens on average, longest {longest}, {at_limit} at max_length {max_length}; rows by class {labels:?}"
    )
}

/// The tokenizer of the model on port `model`.
fn encoder(ctx: &StageContext<'_>, max_length: usize) -> Result<(TextEncoder, ModelSpec), StageError> {
    let manifest = ctx.store().read_artifact(&ctx.input("model")?.id).map_err(store_error)?;
    let read = |name: &str| {
        if manifest.file(name).is_none() {
            let has: Vec<_> = manifest.files().iter().map(sprint_artifacts::FileEntry::name).take(12).collect();
            return Err(StageError::permanent(format!("inputs.model has no {name}; it has {}", has.join(", "))));
        }
        ctx.store().read_file(&manifest, name).map_err(store_error)
    };
    let spec = ModelSpec::from_hf_config(&read("config.json")?)
        .map_err(|e| StageError::permanent(format!("config.json: {}", with_causes(&e))))?;
    let encoder = TextEncoder::from_bytes(&read("tokenizer.json")?, &spec, max_length);
    Ok((encoder.map_err(|e| StageError::permanent(format!("tokenizer.json: {}", with_causes(&e))))?, spec))
}

/// A row whose label is understood.
struct Labelled {
    file: usize,
    place: u64,
    text: String,
    pair: Option<String>,
    label: Label,
}

struct Rows {
    train: Vec<Labelled>,
    validation: Vec<Labelled>,
}

/// Bad rows of all files: the first few in words, all in number.
#[derive(Default)]
struct BadRows {
    told: Vec<String>,
    count: usize,
}

impl BadRows {
    fn add(&mut self, file: &str, bad: &BadRow) {
        self.count += 1;
        if self.told.len() < MAX_TOLD {
            self.told.push(format!("{file}:{}: {}", bad.place, bad.message));
        }
    }

    fn into_result(self, help: String) -> Result<(), StageError> {
        if self.count == 0 {
            return Ok(());
        }
        let more = self.count - self.told.len();
        let more = if more == 0 { String::new() } else { format!("\nand {more} more") };
        let message = format!("{} rows cannot be used:\n{}{more}", self.count, self.told.join("\n"));
        Err(StageError::permanent(message).help(help))
    }
}

fn read_rows(ctx: &StageContext<'_>, params: &TokenizeParams, task: &Resolved) -> Result<Rows, StageError> {
    let folder = ctx.scratch().join("data");
    let manifest = ctx.store().materialise(&ctx.input("data")?.id, &folder).map_err(store_error)?;
    let layout = Layout { format: params.format, header: params.header, columns: task.columns.clone() };
    let validation_prefix = match &task.splitting {
        Splitting::Files(prefix) => Some(prefix.as_str()),
        _ => None,
    };
    let begins = |name: &str, prefix: &str| name.starts_with(prefix) || base_name(name).starts_with(prefix);
    let (mut train, mut validation, mut bad) = (Vec::new(), Vec::new(), BadRows::default());
    let data: Vec<(PathBuf, String)> = data_files(&manifest, &folder, params.format.is_some());
    let mut used = 0;
    for (file, (path, name)) in data.iter().enumerate() {
        let rows = if validation_prefix.is_some_and(|p| begins(name, p)) {
            &mut validation
        } else if begins(name, &task.train) {
            &mut train
        } else {
            continue;
        };
        used += 1;
        let mut each = |row: Result<Row, BadRow>| match row.and_then(|row| labelled(row, file, &task.classes)) {
            Ok(row) => rows.push(row),
            Err(wrong) => bad.add(name, &wrong),
        };
        table::read(path, name, &layout, &mut each).map_err(|e| table_error(name, e))?;
        ctx.progress(rows.len() as u64, None, "rows", Some(name.clone()));
    }
    if used == 0 {
        let names: Vec<_> = manifest.files().iter().map(sprint_artifacts::FileEntry::name).take(12).collect();
        return Err(StageError::permanent(format!("no file begins with {:?}; there are {}", task.train, names.join(", "))));
    }
    bad.into_result(label_help(&task.classes))?;
    match task.splitting {
        Splitting::Files(_) => {}
        Splitting::Fraction(fraction) => {
            let (held, kept) = train.into_iter().partition(|row| is_held_out(row, fraction));
            (validation, train) = (held, kept);
        }
        Splitting::Last(rows) => validation = train.split_off(train.len().saturating_sub(rows)),
    }
    Ok(Rows { train, validation })
}

fn label_help(classes: &[String]) -> String {
    if classes.is_empty() {
        "labels must be finite numbers".to_owned()
    } else {
        format!("labels must be one of {}, or a number from 0 to {}", classes.join(", "), classes.len() - 1)
    }
}

fn base_name(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// The files that hold rows: all, where the format is given, or those whose names say one.
fn data_files(manifest: &Manifest, folder: &Path, all: bool) -> Vec<(PathBuf, String)> {
    let names = manifest.files().iter().map(|f| f.name().to_owned());
    names
        .filter(|n| all || manifest.files().len() == 1 || table::Format::of_name(n).is_some())
        .map(|n| (folder.join(&n), n))
        .collect()
}

fn table_error(name: &str, error: TableError) -> StageError {
    let help = match &error {
        TableError::NoColumn { near: Some(near), .. } => Some(format!("did you mean {near:?}?")),
        TableError::NoColumn { .. } => Some("name the columns with text:, pair: and label:, or write header: false".to_owned()),
        TableError::Format => Some("write format: tsv, csv, jsonl or parquet".to_owned()),
        TableError::Unreadable(_) => None,
    };
    let stage = StageError::permanent(format!("{name}: {error}"));
    match help {
        Some(help) => stage.help(help),
        None => stage,
    }
}

fn labelled(row: Row, file: usize, classes: &[String]) -> Result<Labelled, BadRow> {
    let Row { place, text, pair, label } = row;
    let bad = |message: String| BadRow { place, message };
    let label = if classes.is_empty() { score(&label) } else { class(&label, classes) };
    let label = label.map_err(bad)?;
    if text.trim().is_empty() && pair.as_deref().is_none_or(|p| p.trim().is_empty()) {
        return Err(bad("the text is empty".to_owned()));
    }
    Ok(Labelled { file, place, text, pair, label })
}

fn score(cell: &Cell) -> Result<Label, String> {
    let value = match cell {
        Cell::Int(n) => *n as f64,
        Cell::Float(x) => *x,
        Cell::Text(text) => text.trim().parse().map_err(|_| format!("label {cell} is not a number"))?,
    };
    if value.is_finite() { Ok(Label::Score(value as f32)) } else { Err(format!("label {cell} is not a finite number")) }
}

fn class(cell: &Cell, classes: &[String]) -> Result<Label, String> {
    let number = |n: i64| u32::try_from(n).ok().filter(|n| (*n as usize) < classes.len());
    let found = match cell {
        Cell::Int(n) => classes.iter().position(|c| *c == n.to_string()).map(|i| i as u32).or_else(|| number(*n)),
        Cell::Float(x) if x.fract() == 0.0 => number(*x as i64),
        Cell::Float(_) => None,
        Cell::Text(text) => {
            let text = text.trim();
            classes.iter().position(|c| c == text).map(|i| i as u32).or_else(|| number(text.parse().ok()?))
        }
    };
    found.map(Label::Class).ok_or_else(|| format!("label {cell} is not a class"))
}

/// Whether a row's own text decides to hold it out.
fn is_held_out(row: &Labelled, fraction: f64) -> bool {
    let mut text = row.text.clone().into_bytes();
    text.push(0);
    text.extend_from_slice(row.pair.as_deref().unwrap_or_default().as_bytes());
    let digest = Digest::derived("sprint-flow holdout v1", &text);
    let bytes = digest.as_bytes().first_chunk::<8>().expect("a digest has 32 bytes");
    // 2⁶⁴ as f64; the comparison is exact to 2⁻⁵³, the same on every machine.
    (u64::from_le_bytes(*bytes) as f64) < fraction * 18_446_744_073_709_551_616.0
}

fn cut(mut rows: Vec<Labelled>, most: Option<usize>) -> Vec<Labelled> {
    rows.truncate(most.unwrap_or(usize::MAX));
    rows
}

/// Encodes rows in order, on as many threads as the stage may use.
fn encode_rows(
    ctx: &StageContext<'_>,
    encoder: &TextEncoder,
    split: Split,
    rows: Vec<Labelled>,
) -> Result<Vec<Example>, StageError> {
    const CHUNK: usize = 2048;
    let one = |row: &Labelled| match encoder.encode(&row.text, row.pair.as_deref()) {
        Ok(encoded) => Ok(encoded.into_example(Some(row.label))),
        Err(e) => Err(StageError::permanent(format!("file {}, row {}: {}", row.file, row.place, with_causes(&e)))),
    };
    let mut examples = Vec::with_capacity(rows.len());
    for wave in rows.chunks(CHUNK * ctx.cpus().max(1)) {
        if ctx.is_cancelled() {
            return Err(StageError::new(sprint_stage_api::ErrorClass::Cancelled, "cancelled"));
        }
        let parts: Vec<Result<Vec<Example>, StageError>> = std::thread::scope(|scope| {
            let workers: Vec<_> = wave.chunks(CHUNK).map(|part| scope.spawn(|| part.iter().map(one).collect())).collect();
            workers.into_iter().map(|w| w.join().expect("encoding returns errors")).collect()
        });
        for part in parts {
            examples.extend(part?);
        }
        ctx.progress(examples.len() as u64, Some(rows.len() as u64), "rows", Some(split.name().to_owned()));
    }
    Ok(examples)
}
