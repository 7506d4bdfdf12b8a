//! `bench mpc`: private inference by three processes on this machine.

use serde_json::json;
use sprint_clear::float::{Margin, calibrate, embed_only, run_logits};
use sprint_model::{Batch, Calibration, Checkpoint, Example, ModelSpec, WeightPolicy};
use sprint_mpc::{BenchInput, BenchOptions, BenchReport, GateSetup, Limits, LinkShape, PredictedShare, ProgramSize, bench_mpc};
use sprint_mpc_core::Mode;
use sprint_train::TrainConfig;

use super::{Subject, published_head, token_ids};
use crate::args::{BenchMpcArgs, GateMode, LinkName, WeightsName};
use crate::context;
use crate::failure::{Code, Failure};
use crate::ui::{bytes, grid, out, seconds};

pub(super) fn run(args: &BenchMpcArgs) -> Result<Code, Failure> {
    let mode = mode(args.mode)?;
    let subject = Subject::find(&args.model)?;
    let spec = deployed(subject.spec(), args.weights)?;
    let batch = batch(&spec, args.seq.get(), args.batch.get())?;
    let checkpoint = subject.completed(spec)?;
    let calibration = (mode == Mode::Calibrated).then(|| ranges(&checkpoint, args.seq.get())).transpose()?;
    if args.predict {
        return predict(args, checkpoint.spec().clone(), mode, calibration);
    }
    let clear = |e: sprint_clear::float::FloatError| Failure::from_error(Code::FAILED, &e);
    let embedded = embed_only(&checkpoint, &batch).map_err(clear)?;
    let logits = run_logits(&checkpoint, &batch).map_err(clear)?;
    let io = |e: std::io::Error| Failure::new(Code::FAILED, format!("the operating system refused: {e}"));
    let folder = tempfile::Builder::new().prefix("sprint-flow-bench-").tempdir().map_err(io)?;
    let options = BenchOptions {
        binary: context::this_program().map_err(io)?,
        args: vec!["mpc-role".to_owned()],
        checkpoint: &checkpoint,
        policy: policy(args.weights),
        mode,
        calibration,
        model: args.model.clone(),
        net: args.net.to_string(),
        link: link(args.net),
        runs: args.runs.get(),
        folder: folder.path().to_owned(),
        limits: Limits::default(),
    };
    let input = BenchInput { batch: &batch, embedded: embedded.data(), logits: Some(&logits) };
    let report = bench_mpc(&options, &input).map_err(|e| Failure::from_error(Code::FAILED, &e))?;
    if args.json {
        out::line(serde_json::to_string(&report).expect("a report is names and numbers"))?;
    } else {
        show(&report)?;
    }
    Ok(Code::DONE)
}

/// Prints the program's own account.
fn predict(args: &BenchMpcArgs, spec: ModelSpec, mode: Mode, calibration: Option<Calibration>) -> Result<Code, Failure> {
    let size = ProgramSize { batch: args.batch.get(), tokens: args.seq.get() };
    let (policy, model) = (policy(args.weights), sprint_mpc::Digest::new([0; 32]));
    let setup = GateSetup { spec, policy, mode, calibration, sizes: vec![size], model };
    let found = setup.predict(0, link(args.net)).map_err(|e| Failure::from_error(Code::FAILED, &e))?;
    if args.json {
        let about = json!({"model": args.model, "seq": size.tokens, "batch": size.batch, "mode": mode, "net": args.net.to_string(),
            "link": link(args.net), "predicted": found});
        out::line(about)?;
        return Ok(Code::DONE);
    }
    let list = |of: &[u64]| of.iter().copied().map(bytes).collect::<Vec<_>>().join(" / ");
    let (sent, dealt) = (list(&found.online_bytes_sent), list(&found.dealer_bytes));
    out::line(format_args!(
        "{} rounds, {sent} sent by the parties, {dealt} from the dealer, {} on the link",
        found.rounds,
        seconds(found.link_s)
    ))?;
    let row = |s: &PredictedShare| vec![s.name.clone(), s.rounds.to_string(), bytes(s.bytes_sent), bytes(s.dealer_bytes)];
    let rows: Vec<_> = found.by_gate.iter().chain(&found.by_layer).map(row).collect();
    out::line(grid(&["", "rounds", "sent", "from the dealer"], &rows))?;
    Ok(Code::DONE)
}

fn policy(weights: WeightsName) -> WeightPolicy {
    match weights {
        WeightsName::Lora => WeightPolicy::PublicBase { public_a: true },
        WeightsName::All => WeightPolicy::AllPrivate,
    }
}

/// The link of that name.
pub(in crate::cmd) fn link(name: LinkName) -> LinkShape {
    match name {
        LinkName::Loopback => LinkShape::LOOPBACK,
        LinkName::Lan => LinkShape::LAN,
        LinkName::Wan => LinkShape::WAN,
    }
}

/// The gates of that name, if this build has them.
pub(in crate::cmd) fn mode(name: GateMode) -> Result<Mode, Failure> {
    let word = name.to_string().replace('-', "_");
    serde_json::from_value(json!(word))
        .map_err(|_| Failure::usage(format!("--mode {name}: this build lacks these gates")).help("--mode exact is there"))
}

/// Ranges measured on other inputs than the benchmark's, as a deployed model's are.
fn ranges(checkpoint: &Checkpoint, seq: usize) -> Result<Calibration, Failure> {
    const SAMPLES: usize = 8;
    let vocab = checkpoint.spec().vocab;
    let ids = token_ids(vocab, seq * (SAMPLES + 1));
    // The benchmark's own ids are the first of these.
    let rows = ids.chunks(seq).skip(1).enumerate();
    let batches = rows.map(|(row, ids)| {
        let length = if row == 0 { seq.div_ceil(2) } else { seq };
        let ids = (0..length).map(|i| ids[i * (2 * row + 1) % seq]).collect();
        let example = Example { ids, type_ids: vec![0; length], label: None };
        Batch::new(&[example], seq, checkpoint.spec().pad_token)
    });
    let batches = batches.collect::<Result<Vec<_>, _>>().map_err(|e| Failure::from_error(Code::USAGE, &e))?;
    calibrate(checkpoint, &batches, Margin::default()).map_err(|e| Failure::from_error(Code::FAILED, &e))
}

/// The shape that a private inference has: with the published models' head and, where they are what is private, the default recipe's low-rank
/// updates, unless the model brings its own.
fn deployed(base: &ModelSpec, weights: WeightsName) -> Result<ModelSpec, Failure> {
    let recipe = TrainConfig { head: published_head(), ..TrainConfig::default() };
    let recipe = recipe.spec(base, 2).map_err(|e| Failure::usage(e.to_string()))?;
    let lora = recipe.lora.filter(|_| matches!(weights, WeightsName::Lora));
    Ok(ModelSpec { lora: base.lora.or(lora), head: base.head.clone().or(recipe.head), ..base.clone() })
}

fn batch(spec: &ModelSpec, seq: usize, size: usize) -> Result<Batch, Failure> {
    let ids = token_ids(spec.vocab, seq * size);
    let example = |ids: &[u32]| Example { ids: ids.to_vec(), type_ids: vec![0; seq], label: None };
    let examples: Vec<Example> = ids.chunks(seq).map(example).collect();
    let wrong = |e: &sprint_model::BatchError| Failure::usage(format!("--seq {seq}: {e}"));
    let batch = Batch::new(&examples, seq, spec.pad_token).map_err(|e| wrong(&e))?;
    batch.check(spec).map_err(|e| wrong(&e))?;
    Ok(batch)
}

fn show(r: &BenchReport) -> Result<(), Failure> {
    let spread = |s: sprint_mpc::Spread| format!("{} ({} to {})", seconds(s.median), seconds(s.min), seconds(s.max));
    let each = |of: &[u64]| of.iter().copied().map(bytes).collect::<Vec<_>>().join(" / ");
    let memory = |n: Option<u64>| n.map_or_else(|| "unknown".to_owned(), bytes);
    let parties = |p: [String; 2], third: Option<String>| p.into_iter().chain(third).collect::<Vec<_>>().join(" / ");
    let (online, cpu, rss) = (r.cpu_online_s, r.cpu_s, r.peak_rss);
    let three = online.p2.is_some();
    let dealer = |what: String| if three { String::new() } else { format!(", dealer {what}") };
    let online = parties([online.p0, online.p1].map(seconds), online.p2.map(seconds));
    let all = parties([cpu.p0, cpu.p1].map(seconds), cpu.p2.map(seconds));
    let resident = parties([rss.p0, rss.p1].map(memory), rss.p2.map(memory));
    let rows = [
        ("online", spread(r.online_s)),
        ("with the dealer", spread(r.total_s)),
        ("rounds", r.rounds.to_string()),
        ("sent online", each(&r.online_bytes_sent)),
        ("sent once a session", each(&r.session_bytes_sent)),
        ("from the dealer", each(&r.dealer_bytes)),
        ("CPU online", online),
        ("CPU in all", all + &dealer(seconds(cpu.dealer))),
        ("peak memory", resident + &dealer(memory(rss.dealer))),
        ("max |Δlogit|", r.max_logit_diff.map_or_else(|| "unknown".to_owned(), |d| format!("{d:.1e}"))),
    ];
    out::line(format_args!(
        "{}, {} × {} tokens over {}; party 0 / party 1{}",
        r.model,
        r.batch,
        r.seq,
        r.net,
        if three { " / party 2" } else { "" }
    ))?;
    out::line(grid(&["", ""], &rows.map(|(name, value)| vec![name.to_owned(), value])))
}
