//! `infer`: texts classified under MPC. This process is the client: it tokenises, embeds and shares its input, and alone learns the logits.

mod sharing;
mod show;
mod stream;

use std::path::{Path, PathBuf};
use std::time::Instant;

use sprint_clear::float::embed_only;
use sprint_model::{Batch, Encoded, Example};
use sprint_mpc::{FleetMeter, GateSession, GateSetup, Limits, ProgramSize, SessionOptions};
use sprint_stages::{DeployedModel, InferencePlan};

use super::bench::mpc::link;
use super::dealer::MadeFor;
use super::embed::{Line, read_lines};
use super::served::{self, Gates};
use crate::args::InferArgs;
use crate::context;
use crate::failure::{Code, Failure};
use sharing::Sharing;
use show::{Answer, Verdict};

/// Padded lengths are multiples of this unless the user says otherwise.
const LENGTH_MULTIPLE: usize = 16;

pub(super) fn run(args: &InferArgs) -> Result<Code, Failure> {
    let model = served::find(&args.served.model, &args.served.store.store)?;
    if let Some(format) = stream::asked(args)? {
        return stream::run(args, &model, format);
    }
    let mut lines: Vec<Line> = args.text.iter().map(|text| Line { text: text.clone(), pair: None }).collect();
    if let Some(path) = &args.input {
        lines.extend(read_lines(path)?);
    }
    let made_for = args.material.as_deref().map(MadeFor::read).transpose()?;
    let examples = tokenise(args, &model, &lines, made_for.as_ref())?;
    let (gates, plan) = plan(args, &model, &examples, made_for.as_ref())?;
    let folder = folder()?;
    let requests = plan.jobs.iter().map(|job| job.program).collect();
    let options = options(args, &model, &gates, plan.sizes.clone(), folder.path(), (requests, None))?;
    let (answers, meter) = serve(&options, &model, &examples, &plan)?;
    for (row, answer) in answers.iter().enumerate() {
        show::answer(args, row, answer)?;
    }
    show::cost(args, gates.mode, &meter)?;
    Ok(show::code(answers.iter().filter(|a| a.is_refused()).count()))
}

fn failed(error: &dyn std::error::Error) -> Failure {
    Failure::from_error(Code::FAILED, error)
}

/// A folder for shares and ledgers that goes with the session.
fn folder() -> Result<tempfile::TempDir, Failure> {
    tempfile::Builder::new().prefix("sprint-flow-infer-").tempdir().map_err(|e| failed(&e))
}

/// The most tokens that are kept of a text.
fn most_tokens(args: &InferArgs, made_for: Option<&MadeFor>) -> usize {
    made_for.map_or(args.max_length.get(), |made| made.size.tokens.min(args.max_length.get()))
}

fn tokenise(
    args: &InferArgs,
    model: &DeployedModel,
    lines: &[Line],
    made_for: Option<&MadeFor>,
) -> Result<Vec<Example>, Failure> {
    let encoder = served::tokenizer(&args.served.model, model, args.tokenizer.as_deref(), most_tokens(args, made_for))?;
    let encode = |(i, line): (usize, &Line)| {
        let tokens: Result<Encoded, _> = encoder.encode(&line.text, line.pair.as_deref());
        tokens.map(|t| t.into_example(None)).map_err(|e| Failure::usage(format!("text {}: {e}", i + 1)))
    };
    lines.iter().enumerate().map(encode).collect()
}

/// The gates of the session: those that material was made for, if there is some.
fn gates(args: &InferArgs, model: &DeployedModel, made_for: Option<&MadeFor>) -> Result<Gates, Failure> {
    let Some(MadeFor { policy, mode, calibration, .. }) = made_for else { return served::gates(&args.served, model) };
    if *policy != model.policy {
        return Err(Failure::usage("--material: made for a model that was tuned in another way".to_owned()));
    }
    Ok(Gates { mode: *mode, calibration: calibration.clone() })
}

/// Batches by padded length, or all of the one shape that material was made for.
fn plan(
    args: &InferArgs,
    model: &DeployedModel,
    examples: &[Example],
    made_for: Option<&MadeFor>,
) -> Result<(Gates, InferencePlan), Failure> {
    let most = model.checkpoint.spec().max_tokens();
    let gates = gates(args, model, made_for)?;
    let Some(MadeFor { size, .. }) = made_for else {
        let multiple = args.length_multiple.map_or(LENGTH_MULTIPLE, std::num::NonZeroUsize::get);
        return Ok((gates, InferencePlan::new(examples, examples.len(), args.served.batch.get(), multiple, most)));
    };
    let plan = InferencePlan::new(examples, examples.len(), size.batch, size.tokens, most);
    if plan.sizes.iter().any(|s| s != size) {
        return Err(Failure::usage(format!("--material: made for {} tokens, more than the model takes", size.tokens)));
    }
    Ok((gates, plan))
}

fn options(
    args: &InferArgs,
    model: &DeployedModel,
    gates: &Gates,
    sizes: Vec<ProgramSize>,
    folder: &Path,
    (plan, standing): (Vec<u32>, Option<u32>),
) -> Result<SessionOptions, Failure> {
    let Gates { mode, calibration } = gates.clone();
    let Sharing { files, third, digest } = match &args.material {
        Some(material) => sharing::kept(model, gates, material)?,
        None => sharing::fresh(model, gates, folder)?,
    };
    let spec = model.checkpoint.spec().clone();
    // Of material made ahead, what is burnt must be known to the next process, too.
    let ledgers: PathBuf = args.material.as_deref().unwrap_or(folder).to_owned();
    Ok(SessionOptions {
        binary: context::this_program().map_err(|e| failed(&e))?,
        args: vec!["mpc-role".to_owned()],
        setup: GateSetup { spec, policy: model.policy, mode, calibration, sizes, model: digest },
        files,
        third,
        ledgers,
        link: link(args.net),
        dealer_link: sprint_mpc::LinkShape::LOOPBACK,
        limits: Limits::default(),
        plan,
        standing,
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
        let (logits, online_s) = ask(&mut session, model, job.program, &batch)?;
        for (row, logits) in job.rows.iter().zip(logits) {
            let verdict = logits.map_or(Verdict::OutOfRange, Verdict::Logits);
            answers[*row] = Some(Answer { verdict, tokens: examples[*row].ids.len(), padded: batch.tokens(), online_s });
        }
    }
    let meter = session.finish().map_err(|e| failed(&e))?;
    Ok((answers.into_iter().flatten().collect(), meter))
}

/// One inference and its online seconds, material at hand.
fn ask(
    session: &mut GateSession,
    model: &DeployedModel,
    program: u32,
    batch: &Batch,
) -> Result<(Vec<Option<Vec<f32>>>, f64), Failure> {
    let embedded = embed_only(&model.checkpoint, batch).map_err(|e| failed(&e))?;
    session.prepare(program).map_err(|e| failed(&e))?;
    let asked = Instant::now();
    let logits = session.answer(program, batch, embedded.data()).map_err(|e| failed(&e))?;
    Ok((logits, asked.elapsed().as_secs_f64()))
}
