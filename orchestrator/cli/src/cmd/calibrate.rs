//! `calibrate`: the ranges of a fine-tuned model, as a file.

use serde_json::json;
use sprint_model::Example;
use sprint_stages::{CalibratedOn, ModelRanges, random_texts};

use super::embed::read_lines;
use super::served;
use crate::args::{CalibrateArgs, Ownership};
use crate::failure::{Code, Failure};
use crate::ui::out;

pub(super) fn run(args: &CalibrateArgs) -> Result<Code, Failure> {
    if !(0.0..=2.0).contains(&args.margin) {
        return Err(Failure::usage(format!("--margin {}: a fraction of a width, from 0 to 2", args.margin)));
    }
    let model = served::find(&args.model, &args.store.store)?;
    let tokens = args.max_length.get().min(model.checkpoint.spec().max_tokens());
    let encoder = served::tokenizer(&args.model, &model, args.tokenizer.as_deref(), tokens);
    let (on, texts) = if let (Some(input), Some(owner)) = (&args.input, args.data) {
        let encoder = encoder?;
        let tokenised = read_lines(input)?.into_iter().enumerate().map(|(i, line)| {
            let encoded = encoder.encode(&line.text, line.pair.as_deref());
            encoded.map(|e| e.into_example(None)).map_err(|e| Failure::usage(format!("text {}: {e}", i + 1)))
        });
        let on = match owner {
            Ownership::Public => CalibratedOn::PublicTexts,
            Ownership::Private => CalibratedOn::PrivateTexts,
        };
        (on, tokenised.collect::<Result<Vec<Example>, _>>()?)
    } else {
        // Without a tokenizer there are no special tokens around the random ones.
        let texts = random_texts(model.checkpoint.spec(), encoder.ok().as_ref(), tokens, args.examples.get(), args.seed);
        (CalibratedOn::RandomTokens { seed: args.seed }, texts)
    };
    let measured = ModelRanges::measure(&model.checkpoint, on, &texts, tokens, args.margin);
    let measured = measured.map_err(|e| Failure::new(Code::FAILED, e.message))?;
    std::fs::write(&args.out, measured.to_json())
        .map_err(|e| Failure::new(Code::FAILED, format!("--out {}: {e}", args.out.display())))?;
    if args.json {
        return out::line(json!({"file": args.out, "on": on, "texts": texts.len(), "tokens": tokens})).map(|()| Code::DONE);
    }
    out::line(format_args!("ranges over {} texts of up to {tokens} tokens: {on}", texts.len()))?;
    out::line(args.out.display())?;
    Ok(Code::DONE)
}
