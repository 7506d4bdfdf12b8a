//! `bench mpc`: real processes, TLS on, one inference after another.

use std::path::PathBuf;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use sprint_model::{Batch, Calibration, Checkpoint, WeightPolicy};
use sprint_mpc_core::Mode;

use crate::gates::{GateError, GateSession, GateSetup, ModelFiles, ProgramSize, SessionOptions, SharedModel};
use crate::local::FleetMeter;
use crate::meter::{InferenceMeter, RoleMeter, Share};
use crate::net::LinkShape;
use crate::roles::Limits;
use crate::{Prediction, RoleError};

/// What to measure.
#[derive(Debug)]
pub struct BenchOptions<'a> {
    /// The program to run roles with; it must call [`crate::gate_role_main`].
    pub binary: PathBuf,
    /// Arguments before the role's name.
    pub args: Vec<String>,
    /// A complete model, head included.
    pub checkpoint: &'a Checkpoint,
    /// Which weights are hidden.
    pub policy: WeightPolicy,
    /// Which gates.
    pub mode: Mode,
    /// The public ranges that [`Mode::Calibrated`] relies on.
    pub calibration: Option<Calibration>,
    /// What the result calls the model.
    pub model: String,
    /// What the result calls the link.
    pub net: String,
    /// The link between the parties, and of the client to both. The dealer's links stay unshaped: its material comes ahead of use.
    pub link: LinkShape,
    /// How many inferences to report. More than one is preceded by one that is not reported.
    pub runs: usize,
    /// An empty folder for shares, ledgers and spools.
    pub folder: PathBuf,
    /// Limits of all roles.
    pub limits: Limits,
}

/// An input and what the clear model makes of it.
#[derive(Debug)]
pub struct BenchInput<'a> {
    /// The batch; its size is the program's.
    pub batch: &'a Batch,
    /// Its clear embedding output, `[batch, tokens, hidden]`.
    pub embedded: &'a [f32],
    /// The float model's logits with the same functions, if known.
    pub logits: Option<&'a [Vec<f32>]>,
}

/// Smallest, middle and largest of some runs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Smallest.
    pub min: f64,
    /// The middle one; of an even number, the mean of the middle two.
    pub median: f64,
    /// Largest.
    pub max: f64,
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = (sorted.len() - 1) / 2;
        let median = if sorted.len() % 2 == 1 { sorted[middle] } else { sorted[middle].midpoint(sorted[middle + 1]) };
        Some(Self { min, median, max })
    }
}

/// One number for each server.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ByRole<T> {
    /// Party 0.
    pub p0: T,
    /// Party 1.
    pub p1: T,
    /// The dealer; nothing where there are three servers.
    pub dealer: T,
    /// The third of three servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p2: Option<T>,
}

/// One number for each party.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct ByParty<T> {
    /// Party 0.
    pub p0: T,
    /// Party 1.
    pub p1: T,
    /// The third of three servers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub p2: Option<T>,
}

/// The result, as `--json` prints it. Per inference unless said otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BenchReport {
    /// The model.
    pub model: String,
    /// Padded tokens.
    pub seq: usize,
    /// Examples.
    pub batch: usize,
    /// Gates.
    pub mode: Mode,
    /// Name of the link.
    pub net: String,
    /// How many inferences.
    pub runs: usize,
    /// From the client's request to the logits, material at hand.
    pub online_s: Spread,
    /// From the order for material to the logits: making, streaming and then the inference.
    pub total_s: Spread,
    /// Rounds of openings.
    pub rounds: u32,
    /// Frames between the parties, session frames included.
    pub flushes: u64,
    /// Bytes each party hands to its socket for the others: openings, headers, TLS.
    pub online_bytes_sent: Vec<u64>,
    /// Bytes each party hands to its socket for the other once in a session, before the first request: TLS, handshake, and the opening of
    /// the private weights. Not in `online_bytes_sent`.
    pub session_bytes_sent: Vec<u64>,
    /// Bytes of material each party takes.
    pub dealer_bytes: Vec<u64>,
    /// Processor seconds after set-up, offline and online.
    pub cpu_s: ByRole<f64>,
    /// Processor seconds between request and output share: of all threads, receiving material of other inferences left out.
    pub cpu_online_s: ByParty<f64>,
    /// Largest resident set of each process's whole life, set-up included.
    pub peak_rss: ByRole<Option<u64>>,
    /// Largest difference to the float model over all runs.
    pub max_logit_diff: Option<f64>,
    /// The link.
    pub link: LinkShape,
    /// By part of the model, party 0, all inferences of the session.
    pub by_layer: Vec<Share>,
    /// By kind of gate, party 0, all inferences of the session.
    pub by_gate: Vec<Share>,
    /// What the program declares, by part and gate also of material: what `--predict` prints without running.
    pub predicted: Prediction,
}

/// Runs the benchmark on one input. Must not be called from inside an asynchronous runtime.
pub fn bench_mpc(options: &BenchOptions<'_>, input: &BenchInput<'_>) -> Result<BenchReport, GateError> {
    if options.runs == 0 {
        return Err(RoleError::Config("a benchmark needs at least one run".into()).into());
    }
    let shared = SharedModel::split(options.checkpoint, options.policy, options.mode, options.calibration.as_ref())?;
    let files = shared.write(&options.folder).map_err(|source| RoleError::File { path: options.folder.clone(), source })?;
    let size = ProgramSize { batch: input.batch.size(), tokens: input.batch.tokens() };
    let setup = GateSetup {
        spec: options.checkpoint.spec().clone(),
        policy: options.policy,
        mode: options.mode,
        calibration: options.calibration.clone(),
        sizes: vec![size],
        model: shared.digest,
    };
    let third = shared.third.is_some().then(|| ModelFiles::of_third(&options.folder));
    drop(shared);
    let predicted = setup.predict(0, options.link)?;
    let mut session = GateSession::launch(&SessionOptions {
        binary: options.binary.clone(),
        args: options.args.clone(),
        setup,
        files,
        third,
        ledgers: options.folder.clone(),
        link: options.link,
        dealer_link: LinkShape::LOOPBACK,
        limits: options.limits,
        plan: Vec::new(),
        standing: None,
        material: None,
    })?;
    let warm_up = usize::from(options.runs > 1);
    let mut times = Times::default();
    for run in 0..options.runs + warm_up {
        let (online, total, diff) = one(&mut session, input)?;
        times.diff = match (times.diff, diff) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
        if run >= warm_up {
            times.online.push(online);
            times.total.push(total);
        }
    }
    let meter = session.finish()?;
    report(options, size, &times, warm_up, &meter, predicted)
}

#[derive(Default)]
struct Times {
    online: Vec<f64>,
    total: Vec<f64>,
    diff: Option<f64>,
}

fn one(session: &mut GateSession, input: &BenchInput<'_>) -> Result<(f64, f64, Option<f64>), GateError> {
    let started = Instant::now();
    session.prepare(0)?;
    let ready = Instant::now();
    let logits = session.infer(0, input.batch, input.embedded)?;
    let (online, total) = (ready.elapsed().as_secs_f64(), started.elapsed().as_secs_f64());
    Ok((online, total, input.logits.map(|clear| largest_difference(&logits, clear))))
}

/// Largest `|a - b|`; infinite where shapes differ or a value is not a number, for neither may pass for agreement.
pub(crate) fn largest_difference(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    if a.len() != b.len() || a.iter().zip(b).any(|(a, b)| a.len() != b.len()) {
        return f64::INFINITY;
    }
    let differences = a.iter().flatten().zip(b.iter().flatten()).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
    differences.fold(0.0, |worst, d| if d.is_nan() { f64::INFINITY } else { worst.max(d) })
}

fn report(
    options: &BenchOptions<'_>,
    size: ProgramSize,
    times: &Times,
    warm_up: usize,
    meter: &FleetMeter,
    predicted: Prediction,
) -> Result<BenchReport, GateError> {
    let no_run = || RoleError::Config("no run was measured".into());
    let ([p0, p1], third) = (&meter.parties, meter.third.as_ref());
    let measured = |role: &RoleMeter| role.inferences.iter().skip(warm_up).cloned().collect::<Vec<InferenceMeter>>();
    let all_parties = || [p0, p1].into_iter().chain(third);
    let runs: Vec<Vec<InferenceMeter>> = all_parties().map(measured).collect();
    let last = runs.iter().map(|r| r.last().ok_or_else(no_run)).collect::<Result<Vec<_>, _>>()?;
    let all = (options.runs + warm_up) as f64;
    let per_run = |role: &RoleMeter| (role.cpu_s - role.setup_cpu_s) / all;
    let cpu_online = |runs: &[InferenceMeter]| runs.iter().map(|m| m.cpu_online_s).sum::<f64>() / runs.len() as f64;
    Ok(BenchReport {
        model: options.model.clone(),
        seq: size.tokens,
        batch: size.batch,
        mode: options.mode,
        net: options.net.clone(),
        runs: options.runs,
        online_s: Spread::of(&times.online).ok_or_else(no_run)?,
        total_s: Spread::of(&times.total).ok_or_else(no_run)?,
        rounds: last[0].rounds,
        flushes: last[0].flushes,
        online_bytes_sent: last.iter().map(|m| m.wire_bytes_sent).collect(),
        session_bytes_sent: all_parties().map(|p| p.session_bytes_sent).collect(),
        dealer_bytes: last.iter().map(|m| m.material_bytes).collect(),
        cpu_s: ByRole { p0: per_run(p0), p1: per_run(p1), dealer: per_run(&meter.dealer), p2: third.map(per_run) },
        cpu_online_s: ByParty { p0: cpu_online(&runs[0]), p1: cpu_online(&runs[1]), p2: runs.get(2).map(|r| cpu_online(r)) },
        peak_rss: ByRole { p0: p0.peak_rss, p1: p1.peak_rss, dealer: meter.dealer.peak_rss, p2: third.map(|t| t.peak_rss) },
        max_logit_diff: times.diff,
        link: options.link,
        by_layer: p0.by_part.clone(),
        by_gate: p0.by_gate.clone(),
        predicted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_orders_its_values() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { min: 1.0, median: 2.0, max: 3.0 }));
        assert_eq!(Spread::of(&[4.0, 1.0]), Some(Spread { min: 1.0, median: 2.5, max: 4.0 }));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn neither_nan_nor_another_shape_passes_for_agreement() {
        let a = vec![vec![1.0, 2.0]];
        assert_eq!(largest_difference(&a, &[vec![1.5, 2.0]]), 0.5);
        assert_eq!(largest_difference(&a, &[vec![f32::NAN, 2.0]]), f64::INFINITY);
        assert_eq!(largest_difference(&a, &[vec![1.0]]), f64::INFINITY);
    }
}
