//! `infer`: texts classified under MPC. This process is the client: it tokenises, embeds and shares its input, and alone learns the logits.

use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::json;
use sprint_clear::float::embed_only;
use sprint_model::{Encoded, Example, TextEncoder};
use sprint_mpc::{FleetMeter, GateSession, GateSetup, InferenceMeter, Limits, ProgramSize, SessionOptions, SharedModel};
use sprint_mpc_core::Mode;
use sprint_stages::{DeployedModel, InferencePlan};

use super::bench::mpc::link;
use super::dealer::MadeFor;
use super::embed::{Line, read_lines};
use super::served;
use crate::args::InferArgs;
use crate::context;
use crate::failure::{Code, Failure};
use crate::ui::{bytes, out, seconds};

/// What one text was answered with.
struct Answer {
    logits: Vec<f32>,
    /// Padded tokens, which the parties see.
    padded: usize,
    /// Of the inference it was in.
    online_s: f64,
}

pub(super) fn run(args: &InferArgs) -> Result<Code, Failure> {
    let mut lines: Vec<Line> = args.text.iter().map(|text| Line { text: text.clone(), pair: None }).collect();
    if let Some(path) = &args.input {
        lines.extend(read_lines(path)?);
    }
    let model = served::find(&args.served)?;
    let made_for = args.material.as_deref().map(MadeFor::read).transpose()?;
    let examples = tokenise(args, &model, &lines, made_for.as_ref())?;
    let (mode, plan) = plan(args, &model, &examples, made_for.as_ref())?;
    let folder = tempfile::Builder::new().prefix("sprint-flow-infer-").tempdir().map_err(|e| failed(&e))?;
    let options = options(args, &model, mode, &plan, folder.path())?;
    let (answers, meter) = serve(&options, &model, &examples, &plan)?;
    for (row, answer) in answers.iter().enumerate() {
        show(args, row, examples[row].ids.len(), answer)?;
    }
    cost(args, mode, &meter)?;
    Ok(Code::DONE)
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::from_error(Code::FAILED, error)
}

fn tokenise(
    args: &InferArgs,
    model: &DeployedModel,
    lines: &[Line],
    made_for: Option<&MadeFor>,
) -> Result<Vec<Example>, Failure> {
    let json = match (&args.tokenizer, &model.tokenizer) {
        (Some(path), _) => std::fs::read(path).map_err(|e| Failure::usage(format!("--tokenizer {}: {e}", path.display())))?,
        (None, Some(json)) => json.clone(),
        (None, None) => {
            return Err(Failure::usage(format!("--model {}: it has no tokenizer.json", args.served.model))
                .help("--tokenizer names the pretrained model's"));
        }
    };
    let spec = model.checkpoint.spec();
    let most = made_for.map_or(args.max_length.get(), |made| made.size.tokens.min(args.max_length.get()));
    let encoder = TextEncoder::from_bytes(&json, spec, most).map_err(|e| Failure::from_error(Code::USAGE, &e))?;
    let encode = |(i, line): (usize, &Line)| {
        let tokens: Result<Encoded, _> = encoder.encode(&line.text, line.pair.as_deref());
        tokens.map(|t| t.into_example(None)).map_err(|e| Failure::usage(format!("text {}: {e}", i + 1)))
    };
    lines.iter().enumerate().map(encode).collect()
}

/// Batches by padded length, or all of the one shape that material was made for.
fn plan(
    args: &InferArgs,
    model: &DeployedModel,
    examples: &[Example],
    made_for: Option<&MadeFor>,
) -> Result<(Mode, InferencePlan), Failure> {
    let most = model.checkpoint.spec().max_tokens();
    let Some(MadeFor { policy, mode, size, .. }) = made_for else {
        let (batch, multiple) = (args.served.batch.get(), args.length_multiple.get());
        return Ok((served::gates(&args.served)?, InferencePlan::new(examples, examples.len(), batch, multiple, most)));
    };
    if *policy != model.policy {
        return Err(Failure::usage("--material: made for a model that was tuned in another way".to_owned()));
    }
    let plan = InferencePlan::new(examples, examples.len(), size.batch, size.tokens, most);
    if plan.sizes.iter().any(|s| s != size) {
        return Err(Failure::usage(format!("--material: made for {} tokens, more than the model takes", size.tokens)));
    }
    Ok((*mode, plan))
}

fn options(
    args: &InferArgs,
    model: &DeployedModel,
    mode: Mode,
    plan: &InferencePlan,
    folder: &Path,
) -> Result<SessionOptions, Failure> {
    let shared = SharedModel::split(&model.checkpoint, model.policy, mode, None).map_err(|e| failed(&e))?;
    let files = shared.write(folder).map_err(|e| failed(&e))?;
    let sizes: Vec<ProgramSize> = plan.sizes.clone();
    let spec = model.checkpoint.spec().clone();
    // Of material made ahead, what is burnt must be known to the next process, too.
    let ledgers: PathBuf = args.material.as_deref().unwrap_or(folder).to_owned();
    Ok(SessionOptions {
        binary: context::this_program().map_err(|e| failed(&e))?,
        args: vec!["mpc-role".to_owned()],
        setup: GateSetup { spec, policy: model.policy, mode, calibration: None, sizes, model: shared.digest },
        files,
        ledgers,
        link: link(args.net),
        dealer_link: sprint_mpc::LinkShape::LOOPBACK,
        limits: Limits::default(),
        plan: plan.jobs.iter().map(|job| job.program).collect(),
        material: args.material.clone(),
    })
}

fn serve(
    options: &SessionOptions,
    model: &DeployedModel,
    examples: &[Example],
    plan: &InferencePlan,
) -> Result<(Vec<Answer>, FleetMeter), Failure> {
    let mut session = GateSession::launch(options).map_err(|e| failed(&e))?;
    let mut answers: Vec<Option<Answer>> = examples.iter().map(|_| None).collect();
    for job in &plan.jobs {
        let batch = plan.batch(job, examples, model.checkpoint.spec().pad_token).map_err(|e| failed(&e))?;
        let embedded = embed_only(&model.checkpoint, &batch).map_err(|e| failed(&e))?;
        session.prepare(job.program).map_err(|e| failed(&e))?;
        let asked = Instant::now();
        let logits = session.infer(job.program, &batch, embedded.data()).map_err(|e| failed(&e))?;
        let online_s = asked.elapsed().as_secs_f64();
        for (row, logits) in job.rows.iter().zip(logits) {
            answers[*row] = Some(Answer { logits, padded: batch.tokens(), online_s });
        }
    }
    let meter = session.finish().map_err(|e| failed(&e))?;
    Ok((answers.into_iter().flatten().collect(), meter))
}

/// The class of the largest logit; none for a regression.
fn label(logits: &[f32]) -> Option<usize> {
    let largest = logits.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map(|(class, _)| class);
    largest.filter(|_| logits.len() > 1)
}

fn show(args: &InferArgs, row: usize, tokens: usize, answer: &Answer) -> Result<(), Failure> {
    let Answer { logits, padded, online_s } = answer;
    let label = label(logits);
    if args.served.json {
        return out::line(
            json!({"text": row, "label": label, "logits": logits, "tokens": tokens, "padded": padded, "online_s": online_s}),
        );
    }
    let values = logits.iter().map(|v| format!("{v:.4}")).collect::<Vec<_>>().join(" ");
    let label = label.map_or_else(|| "score".to_owned(), |class| format!("class {class}"));
    out::line(format_args!("text {}: {label}  ({values})  {tokens} tokens, {}", row + 1, seconds(*online_s)))
}

/// The last line: what the session cost.
fn cost(args: &InferArgs, mode: Mode, meter: &FleetMeter) -> Result<(), Failure> {
    let [p0, p1] = &meter.parties;
    let sums = |f: fn(&InferenceMeter) -> u64| [p0, p1].map(|p| p.inferences.iter().map(f).sum::<u64>());
    let (sent, dealt) = (sums(|m| m.wire_bytes_sent), sums(|m| m.material_bytes));
    let rounds = p0.inferences.iter().map(|m| m.rounds).max().unwrap_or(0);
    let online: f64 = p0.inferences.iter().zip(&p1.inferences).map(|(a, b)| a.online_s.max(b.online_s)).sum();
    let offline: f64 = meter.dealer.offline_s.iter().sum();
    if args.served.json {
        return out::line(json!({"event": "cost", "mode": mode, "inferences": p0.inferences.len(), "rounds": rounds,
            "online_bytes_sent": sent, "dealer_bytes": dealt, "online_s": online, "offline_s": offline,
            "cpu_s": {"p0": p0.cpu_s, "p1": p1.cpu_s, "dealer": meter.dealer.cpu_s}}));
    }
    let (count, sent, dealt) = (p0.inferences.len(), bytes(sent[0]), bytes(dealt[0] + dealt[1]));
    crate::ui::out::note(format_args!(
        "{count} inferences of {rounds} rounds: {sent} sent by each party, {dealt} from the dealer, {} online",
        seconds(online)
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_is_the_largest_logit_and_a_regression_has_none() {
        assert_eq!(label(&[0.1, 3.0, -1.0]), Some(1));
        assert_eq!(label(&[0.7]), None);
    }
}
