//! `embed`: hidden states of texts, by any engine.

use std::path::Path;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;
use sprint_clear::float::{embed_only, pooled_rows};
use sprint_model::{Batch, Checkpoint, Encoded, Example, WeightPolicy};
use sprint_mpc_core::{InMemory, Mode, Options, Output, PrivateWeights, PublicWeights, compile, encode_inputs, os_randomness};
use sprint_train::{Backend, BackendKind, hidden_states};

use super::model::ModelSource;
use crate::args::{EmbedArgs, EngineName};
use crate::failure::{Code, Failure};
use crate::ui::out;

/// Examples that are computed together; the results do not depend on it.
const BATCH: usize = 16;
/// Bad lines that are told one by one.
const TOLD: usize = 20;

/// A line of the input.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Line {
    pub(super) text: String,
    #[serde(default)]
    pub(super) pair: Option<String>,
}

/// The two representations of one text.
struct Pooled {
    cls: Vec<f32>,
    mean: Vec<f32>,
}

pub(super) fn run(args: &EmbedArgs) -> Result<Code, Failure> {
    let lines = read_lines(&args.input)?;
    let model = ModelSource::find(&args.model, &args.store.store)?;
    let checkpoint = model.checkpoint()?;
    let tokenizer = model.tokenizer(checkpoint.spec(), args.max_length.get())?;
    let encoded = lines.iter().enumerate().map(|(i, line)| {
        let tokens = tokenizer.encode(&line.text, line.pair.as_deref());
        tokens.map_err(|e| Failure::usage(format!("--input {}: text {}: {e}", args.input.display(), i + 1)))
    });
    let encoded = encoded.collect::<Result<Vec<Encoded>, Failure>>()?;
    let mut gates = Gates::default();
    let mut engine = |examples: &[Example]| match args.engine {
        EngineName::F32 => by_oracle(&checkpoint, examples),
        EngineName::Burn => by_trainer(&checkpoint, examples),
        EngineName::Fixed => gates.run(&checkpoint, examples, Interpreter::Simulation),
        EngineName::Mpc => gates.run(&checkpoint, examples, Interpreter::Parties),
    };
    for chunk in encoded.chunks(BATCH) {
        let examples: Vec<Example> = chunk.iter().map(|e| e.clone().into_example(None)).collect();
        for (tokens, pooled) in chunk.iter().zip(engine(&examples)?) {
            show(tokens, &pooled, args.json)?;
        }
    }
    Ok(Code::DONE)
}

fn by_oracle(checkpoint: &Checkpoint, examples: &[Example]) -> Result<Vec<Pooled>, Failure> {
    let batch =
        Batch::padded_to_longest(examples, checkpoint.spec().pad_token).map_err(|e| Failure::from_error(Code::FAILED, &e))?;
    let rows = pooled_rows(checkpoint, &batch).map_err(|e| Failure::from_error(Code::FAILED, &e))?;
    Ok(rows.into_iter().map(|row| Pooled { cls: row.cls, mean: row.mean }).collect())
}

fn by_trainer(checkpoint: &Checkpoint, examples: &[Example]) -> Result<Vec<Pooled>, Failure> {
    let backend = Backend::open(BackendKind::Flex).map_err(|e| Failure::from_error(Code::USAGE, &e))?;
    let rows = hidden_states(checkpoint, examples, backend).map_err(|e| Failure::from_error(Code::FAILED, &e))?;
    Ok(rows.into_iter().map(|row| Pooled { cls: row.cls, mean: row.mean }).collect())
}

/// Who walks the gate program.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Interpreter {
    /// One evaluator on ring integers, bit for bit what the parties compute but for the last place of truncations.
    Simulation,
    /// A dealer and two parties, all in this process: the protocol as it is, hiding nothing from the process itself.
    Parties,
}

/// The model as gate programs: weights are encoded once, for all shapes of batches.
#[derive(Default)]
struct Gates(Option<InMemory>);

impl Gates {
    fn run(&mut self, checkpoint: &Checkpoint, examples: &[Example], interpreter: Interpreter) -> Result<Vec<Pooled>, Failure> {
        let failed = |e: &dyn std::error::Error| Failure::from_error(Code::FAILED, e);
        let batch = Batch::padded_to_longest(examples, checkpoint.spec().pad_token).map_err(|e| failed(&e))?;
        let options = Options {
            output: Output::Hidden,
            ..Options::new(Mode::Exact, WeightPolicy::PublicBase { public_a: true }, batch.size(), batch.tokens())
        };
        let program = Arc::new(compile(checkpoint.spec(), &options).map_err(|e| failed(&e))?);
        let runner = if let Some(runner) = &self.0 {
            runner.reshaped(Arc::clone(&program)).map_err(|e| failed(&e))?
        } else {
            let public = PublicWeights::prepare(&program, checkpoint).map_err(|e| failed(&e))?;
            let private = PrivateWeights::share(&program, checkpoint, &mut os_randomness).map_err(|e| failed(&e))?;
            InMemory::new(Arc::clone(&program), Arc::new(public), private)
        };
        let embedded = embed_only(checkpoint, &batch).map_err(|e| failed(&e))?;
        let input = encode_inputs(&program, &batch, embedded.data()).map_err(|e| failed(&e))?;
        let hidden = match interpreter {
            Interpreter::Simulation => runner.simulate(&input).map_err(|e| failed(&e))?,
            Interpreter::Parties => {
                runner.run(&input, [fresh_seed(), fresh_seed()], &mut os_randomness).map_err(|e| failed(&e))?.logits
            }
        };
        self.0 = Some(runner);
        let width = checkpoint.spec().hidden;
        Ok(hidden.iter().zip(batch.lengths()).map(|(tokens, length)| pooled(tokens, width, *length)).collect())
    }
}

fn fresh_seed() -> [u8; 32] {
    let mut words = [0; 4];
    os_randomness(&mut words);
    std::array::from_fn(|i| words[i / 8].to_le_bytes()[i % 8])
}

/// The first token's state, and the mean over the tokens that are no padding.
fn pooled(tokens: &[f32], width: usize, length: usize) -> Pooled {
    let mean = |c: usize| tokens.iter().skip(c).step_by(width).take(length).map(|v| f64::from(*v)).sum::<f64>() / length as f64;
    Pooled { cls: tokens[..width].to_vec(), mean: (0..width).map(|c| mean(c) as f32).collect() }
}

/// The lines of the input, or every one that is wrong with its number. Empty lines are passed over.
pub(super) fn read_lines(path: &Path) -> Result<Vec<Line>, Failure> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|e| Failure::usage(format!("--input {name}: {e}")))?;
    let mut wrong = Vec::new();
    let mut lines = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        match serde_json::from_str(line) {
            Ok(line) => lines.push(line),
            Err(e) => wrong.push(format!("{name}:{}: column {}: {}", i + 1, e.column(), reason(&e))),
        }
    }
    if wrong.is_empty() {
        return Ok(lines);
    }
    let more = wrong.len().saturating_sub(TOLD);
    wrong.truncate(TOLD);
    let more = if more == 0 { String::new() } else { format!("\nand {more} more") };
    Err(Failure::usage(format!("--input: lines that cannot be read:\n{}{more}", wrong.join("\n")))
        .help(r#"each line looks like {"text": "…"} or {"text": "…", "pair": "…"}"#))
}

/// The message without `at line 1 column 7`: the line is that of the file, not of the JSON.
fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.rsplit_once(" at line ").map_or(text.clone(), |(reason, _)| reason.to_owned())
}

fn show(tokens: &Encoded, pooled: &Pooled, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return out::line(json!({"ids": tokens.ids, "type_ids": tokens.type_ids, "cls": pooled.cls, "mean": pooled.mean}));
    }
    let some = |values: &[f32]| values.iter().take(4).map(|v| format!("{v:.5}")).collect::<Vec<_>>().join(" ");
    let width = pooled.cls.len();
    out::line(format_args!(
        "{:>4} tokens  cls {} …  mean {} …  ({width} values)",
        tokens.ids.len(),
        some(&pooled.cls),
        some(&pooled.mean)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<usize, String> {
        let file = std::env::temp_dir().join(format!("sprint-flow-embed-{}-{}.jsonl", std::process::id(), text.len()));
        std::fs::write(&file, text).unwrap();
        let read = read_lines(&file);
        std::fs::remove_file(&file).unwrap();
        read.map(|lines| lines.len()).map_err(|e| match e {
            Failure::Plain { message, .. } => message,
            _ => unreachable!("reading lines fails plainly"),
        })
    }

    #[test]
    fn lines_with_or_without_a_pair_are_read() {
        assert_eq!(read("{\"text\":\"a\"}\n\n{\"text\":\"b\",\"pair\":null}\n{\"text\":\"c\",\"pair\":\"d\"}"), Ok(3));
    }

    #[test]
    fn every_bad_line_is_named_by_its_number() {
        let message = read("{\"text\":\"a\"}\n{\"txt\":1}\n\n[]\n{\"text\":\n").unwrap_err();
        for (line, why) in [(":2:", "unknown field `txt`"), (":4:", "invalid length 0"), (":5:", "EOF")] {
            let told = message.lines().find(|l| l.contains(line));
            assert!(told.is_some_and(|l| l.contains(why) && !l.contains(" at line ")), "{line} {why}: {message}");
        }
    }
}
