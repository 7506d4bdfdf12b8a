//! Texts from standard input, answered as they come by one session.
//!
//! Nobody knows how many there will be. Where all are padded to one length, the parties order the material of the next inferences while one is
//! answered and while standard input is silent; with buckets of lengths it is made when the text is there.

use std::io::BufRead as _;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};

use sprint_model::{Batch, Example, TextEncoder};
use sprint_mpc::{GateSession, ProgramSize};
use sprint_stages::DeployedModel;

use super::show::{self, Answer, Verdict};
use super::{ask, failed, folder, gates, most_tokens, options};
use crate::args::InferArgs;
use crate::cmd::dealer::MadeFor;
use crate::cmd::embed::Line;
use crate::cmd::served;
use crate::failure::{Code, Failure};
use crate::ui::out;

/// Lines read before they are answered.
const AHEAD: usize = 256;

/// How standard input is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// A text a line.
    Text,
    /// A JSON object a line.
    Json,
}

/// Whether texts come from standard input; nothing else may be given then.
pub(super) fn asked(args: &InferArgs) -> Result<Option<Format>, Failure> {
    let text = args.text.iter().any(|text| text == "-");
    let lines = args.input.as_deref() == Some(Path::new("-"));
    match (text, lines) {
        (false, false) => Ok(None),
        (true, false) if args.text.len() == 1 && args.input.is_none() => Ok(Some(Format::Text)),
        (false, true) if args.text.is_empty() => Ok(Some(Format::Json)),
        _ => Err(Failure::usage("`-` is standard input, which cannot be read beside other texts".to_owned())),
    }
}

pub(super) fn run(args: &InferArgs, model: &DeployedModel, format: Format) -> Result<Code, Failure> {
    let made_for = args.material.as_deref().map(MadeFor::read).transpose()?;
    let encoder = served::tokenizer(&args.served.model, model, args.tokenizer.as_deref(), most_tokens(args, made_for.as_ref()))?;
    let gates = gates(args, model, made_for.as_ref())?;
    let sizes = sizes(args, made_for.as_ref());
    let standing = (sizes.len() == 1 && made_for.is_none()).then_some(0);
    let folder = folder()?;
    let options = options(args, model, &gates, sizes.clone(), folder.path(), (Vec::new(), standing))?;
    let session = GateSession::launch(&options).map_err(|e| failed(&e))?;
    let lengths = sizes.iter().map(|s| s.tokens.to_string()).collect::<Vec<_>>().join(", ");
    out::note(format_args!("ready: texts are padded to {lengths} tokens; the end of standard input ends the session"));
    let mut server = Server { args, model, encoder, format, sizes, session, next: 0, refused: 0 };
    let lines = read();
    while let Some(group) = take(&lines, server.sizes[0].batch) {
        server.answer(group)?;
    }
    let Server { session, refused, .. } = server;
    let meter = session.finish().map_err(|e| failed(&e))?;
    show::cost(args, gates.mode, &meter)?;
    Ok(show::code(refused))
}

/// The shape that material was made for; else one length, or every multiple of the one that was asked for, ascending.
fn sizes(args: &InferArgs, made_for: Option<&MadeFor>) -> Vec<ProgramSize> {
    if let Some(made) = made_for {
        return vec![made.size];
    }
    let (batch, most) = (args.served.batch.get(), args.max_length.get());
    let step = args.length_multiple.map_or(most, |n| n.get().min(most));
    (1..=most.div_ceil(step)).map(|n| ProgramSize { batch, tokens: (n * step).min(most) }).collect()
}

/// Standard input, line by line, read by a thread of its own so that it is known which lines wait.
fn read() -> Receiver<std::io::Result<String>> {
    let (sender, lines) = sync_channel(AHEAD);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// The next lines, at most `most`: waits for one and takes what else is there. Empty lines are passed over; `None` at the end.
fn take(lines: &Receiver<std::io::Result<String>>, most: usize) -> Option<Vec<std::io::Result<String>>> {
    let is_text = |line: &std::io::Result<String>| line.as_ref().map_or(true, |l| !l.trim().is_empty());
    let mut group = Vec::new();
    while group.is_empty() {
        group.extend(Some(lines.recv().ok()?).filter(is_text));
    }
    while group.len() < most
        && let Ok(line) = lines.try_recv()
    {
        group.extend(Some(line).filter(is_text));
    }
    Some(group)
}

struct Server<'a> {
    args: &'a InferArgs,
    model: &'a DeployedModel,
    encoder: TextEncoder,
    format: Format,
    sizes: Vec<ProgramSize>,
    session: GateSession,
    /// The number of the next text.
    next: usize,
    refused: usize,
}

impl Server<'_> {
    fn answer(&mut self, group: Vec<std::io::Result<String>>) -> Result<(), Failure> {
        let read: Vec<Result<Example, String>> = group.into_iter().map(|line| self.tokenise(line)).collect();
        let examples: Vec<&Example> = read.iter().filter_map(|r| r.as_ref().ok()).collect();
        let mut found = self.classify(&examples)?.into_iter();
        for one in read {
            let answer = match one {
                Ok(_) => found.next().expect("an answer for every example"),
                Err(why) => Answer::unreadable(why),
            };
            self.refused += usize::from(answer.is_refused());
            show::answer(self.args, self.next, &answer)?;
            self.next += 1;
        }
        Ok(())
    }

    fn tokenise(&self, line: std::io::Result<String>) -> Result<Example, String> {
        let line = line.map_err(|e| format!("standard input: {e}"))?;
        let Line { text, pair } = match self.format {
            Format::Text => Line { text: line, pair: None },
            Format::Json => serde_json::from_str(&line).map_err(|e| e.to_string())?,
        };
        self.encoder.encode(&text, pair.as_deref()).map(|t| t.into_example(None)).map_err(|e| e.to_string())
    }

    /// One inference, with the smallest program that holds all of `examples`.
    fn classify(&mut self, examples: &[&Example]) -> Result<Vec<Answer>, Failure> {
        let Some(longest) = examples.iter().map(|e| e.ids.len()).max() else { return Ok(Vec::new()) };
        let program = self.sizes.iter().position(|s| s.tokens >= longest).expect("texts are cut to the longest program");
        let ProgramSize { batch, tokens } = self.sizes[program];
        // A batch that is not full repeats its last example.
        let filled = examples.iter().chain(examples.last().into_iter().cycle()).take(batch).copied();
        let batch = Batch::new(filled, tokens, self.model.checkpoint.spec().pad_token).map_err(|e| failed(&e))?;
        let (logits, online_s) = ask(&mut self.session, self.model, program as u32, &batch)?;
        let answer = |(example, logits): (&&Example, Option<Vec<f32>>)| Answer {
            verdict: logits.map_or(Verdict::OutOfRange, Verdict::Logits),
            tokens: example.ids.len(),
            padded: tokens,
            online_s,
        };
        Ok(examples.iter().zip(logits).map(answer).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_what_waits_and_no_more_than_a_batch() {
        let (sender, lines) = sync_channel(9);
        for line in ["", "a", " ", "b", "c"] {
            sender.send(Ok(line.to_owned())).expect("room");
        }
        drop(sender);
        let texts = |group: Vec<std::io::Result<String>>| group.into_iter().map(|l| l.expect("a line")).collect::<Vec<_>>();
        assert_eq!(take(&lines, 2).map(texts), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(take(&lines, 2).map(texts), Some(vec!["c".to_owned()]));
        assert!(take(&lines, 2).is_none());
    }
}
