//! `infer-mpc@1`: classifies held-out messages under multi-party computation by three processes.
//!
//! **Consumes correlations.** Material is made afresh by the dealer for every launch; each index is burnt on disk before the
//! first byte that depends on it is sent. An attempt that died starts again with fresh material.

mod forecast;
mod placement;
mod plan;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sprint_artifacts::{Secrecy, Store};
use sprint_clear::float::embed_only;
use sprint_model::{Checkpoint, Example};
use sprint_mpc::{
    Class, FleetError, FleetMeter, GateError, GateSession, GateSetup, Limits, LinkShape, MeasuredLink, ModelFiles, RoleMeter,
    SessionOptions, write_private,
};
use sprint_mpc_core::Mode;
use sprint_stage_api::{
    CachePolicy, Effect, ErrorClass, Forecast, ForeseenInputs, InputPort, OutputPort, ParamProblem, Stage, StageContext,
    StageError, StageEvent, StageOutputs, StageSpec,
};

use crate::cost::MpcCost;
use crate::dataset::{self, Split};
use crate::errors::{store_error, with_causes};
use crate::fleet::Hosts;
use crate::params::{self, Params};
use crate::predictions::Predictions;
use crate::share::{self, PUBLIC_FILE, SHARE_FILE, SharedMeta};
use placement::Placement;
pub use plan::{InferenceJob, InferencePlan};

/// Parameters of `infer-mpc@1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct InferMpcParams {
    /// How many validation examples, spread evenly over the split; all of them if there are fewer.
    #[serde(default = "default_samples")]
    #[schemars(range(min = 1))]
    samples: usize,
    /// Examples in one inference.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 64))]
    batch: usize,
    /// Lengths are padded to multiples of this; a smaller one costs less, and tells the parties more about lengths.
    #[serde(default = "default_multiple")]
    #[schemars(range(min = 1, max = 512))]
    length_multiple: usize,
    /// What becomes of the stage when an example leaves a calibrated range, so that its answer is refused.
    #[serde(default)]
    refused: Refused,
    /// The link between the parties.
    #[serde(default)]
    net: Net,
    /// Another link than those with a name; files of `configs/network` hold some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    link: Option<LinkParams>,
}

/// What to do about examples whose answers are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Refused {
    /// The stage fails and names them.
    #[default]
    Fail,
    /// The others are reported, and how many were refused.
    LeaveOut,
}

/// A link imitated in user space.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LinkParams {
    /// Round-trip time, milliseconds.
    #[schemars(range(min = 0.0, max = 60000.0))]
    rtt_ms: f64,
    /// Megabits a second in each direction; as fast as it goes if absent.
    #[serde(default)]
    mbit: Option<f64>,
}

/// The link between the parties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Net {
    /// The bare loopback interface.
    #[default]
    Loopback,
    /// 1 Gbit/s and 1 ms, imitated.
    Lan,
    /// 200 Mbit/s and 80 ms, imitated.
    Wan,
    /// The same by what it stands for: between Europe and the east of America.
    #[serde(rename = "wan-eu-us")]
    WanEuUs,
    /// 400 Mbit/s and 40 ms, imitated.
    #[serde(rename = "wan-1")]
    Wan1,
    /// 100 Mbit/s and 80 ms, imitated.
    #[serde(rename = "wan-2")]
    Wan2,
}

impl Net {
    const fn shape(self) -> LinkShape {
        match self {
            Self::Loopback => LinkShape::LOOPBACK,
            Self::Lan => LinkShape::LAN,
            Self::Wan | Self::WanEuUs => LinkShape::WAN,
            Self::Wan1 => LinkShape::WAN_1,
            Self::Wan2 => LinkShape::WAN_2,
        }
    }
}

const fn default_samples() -> usize {
    200
}

const fn one() -> usize {
    1
}

const fn default_multiple() -> usize {
    16
}

impl Params for InferMpcParams {
    fn check(&self, problems: &mut Vec<ParamProblem>) {
        if self.link.is_some_and(|l| l.mbit.is_some_and(|m| !(m > 0.0 && m.is_finite()))) {
            problems.push(ParamProblem::new(&["link", "mbit"], "a rate is a positive number of megabits a second"));
        }
        if self.link.is_some() && self.net != Net::Loopback {
            problems.push(ParamProblem::new(&["link"], "`net` names another link").help("leave one of the two out"));
        }
    }
}

impl InferMpcParams {
    fn link(&self) -> LinkShape {
        self.link.map_or(self.net.shape(), |l| LinkShape { rtt_ms: l.rtt_ms, mbit: l.mbit })
    }
}

/// How the roles' processes are started.
#[derive(Debug, Clone)]
pub struct RoleProgram {
    /// The program; `None` is the one that runs the stage.
    pub binary: Option<PathBuf>,
    /// Arguments before the role's name.
    pub args: Vec<String>,
}

impl Default for RoleProgram {
    fn default() -> Self {
        Self { binary: None, args: vec!["mpc-role".to_owned()] }
    }
}

/// Logits by validation row; none where the answer was refused.
type Answers = BTreeMap<usize, Option<Vec<f32>>>;

/// The stage.
pub(crate) struct InferMpc {
    spec: StageSpec,
    program: RoleProgram,
}

impl InferMpc {
    pub(crate) fn new(program: RoleProgram) -> Self {
        let input = |name, artifact| InputPort { name, artifact, optional: false, gather: false };
        let output = |name, artifact, secrecy| OutputPort { name, artifact, secrecy };
        let spec = StageSpec {
            kind: "infer-mpc",
            version: 1,
            about: "Classifies held-out examples under multi-party computation by a dealer and two parties, or by three parties.",
            inputs: vec![
                input("public", "shared-model"),
                input("share0", "share-0"),
                input("share1", "share-1"),
                InputPort { name: "share2", artifact: "share-2", optional: true, gather: false },
                input("dataset", "dataset"),
                input("hosts", "hosts"),
            ],
            outputs: vec![output("predictions", "predictions", Secrecy::Secret), output("cost", "mpc-cost", Secrecy::Public)],
            effect: Effect::ConsumesCorrelations,
            cache: CachePolicy::Always,
            code_digest: crate::code::INFER_MPC,
            params_schema: params::schema::<InferMpcParams>(),
        };
        Self { spec, program }
    }
}

impl Stage for InferMpc {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn normalise(&self, params: &Value) -> Result<Value, Vec<ParamProblem>> {
        params::normalise::<InferMpcParams>(params)
    }

    fn forecast(&self, store: &Store, params: &Value, inputs: &ForeseenInputs) -> Forecast {
        forecast::forecast(store, params, inputs).unwrap_or_default()
    }

    fn run(&self, ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
        let params: InferMpcParams = ctx.params_as()?;
        let (shared, client) = share::client(ctx.store(), &ctx.input("public")?.id)?;
        let (meta, examples) = dataset::load(ctx.store(), &ctx.input("dataset")?.id, Split::Validation)?;
        let plan =
            InferencePlan::new(&examples, params.samples, params.batch, params.length_multiple, client.spec().max_tokens());
        ctx.log(format!("{} examples in {} inferences of {} shapes", plan.rows.len(), plan.jobs.len(), plan.sizes.len()));
        let hosts = Hosts::load(ctx.store(), &ctx.input("hosts")?.id)?;
        let mut options = self.options(ctx, &params, &shared, &plan)?;
        if options.third.is_some() {
            hosts.all_local("three servers")?;
        }
        let placement = Placement::prepare(ctx, &hosts, &options.binary, &options.args, options.files.clone())?;
        options.files.clone_from(&placement.files);

        let started = Instant::now();
        let mut session = GateSession::launch_at(&options, &placement.places).map_err(|e| stage_error(&e))?;
        let answers = classify(ctx, &mut session, &client, &examples, &plan)?;
        let meter = session.finish().map_err(|e| stage_error(&e))?;
        let wall_s = started.elapsed().as_secs_f64();
        drop(placement);

        let answered = answered(ctx, params.refused, answers)?;
        let counts = (plan.rows.len() as u64, (plan.rows.len() - answered.len()) as u64);
        let (rows, logits) = answered.into_iter().unzip();
        let predictions = Predictions::new(&meta, "mpc", &examples, rows, logits)?;
        let cost = cost(&meter, shared.mode, counts, wall_s);
        report(ctx, &cost);
        let (predictions, cost) = (predictions.store(ctx)?, cost.store(ctx)?);
        Ok(StageOutputs::new().with("predictions", predictions).with("cost", cost))
    }
}

impl InferMpc {
    fn options(
        &self,
        ctx: &StageContext<'_>,
        params: &InferMpcParams,
        shared: &SharedMeta,
        plan: &InferencePlan,
    ) -> Result<SessionOptions, StageError> {
        let binary = match &self.program.binary {
            Some(binary) => binary.clone(),
            // The roles are this very program: no other could be of the same version.
            None => std::env::current_exe().map_err(|e| StageError::permanent(format!("this program's own file: {e}")))?,
        };
        let ledgers = ctx.checkpoints().ledger_dir().join("one-time-material");
        fs::create_dir_all(&ledgers).map_err(|e| StageError::transient(format!("{}: {e}", ledgers.display())))?;
        let SharedMeta { spec, policy, mode, calibration, digest, .. } = shared.clone();
        let third = match (mode == Mode::ThreeServer, ctx.optional_input("share2").is_some()) {
            (true, true) => Some(lay_out_party(ctx, 2, "share2")?),
            (false, false) => None,
            (true, false) => {
                let what = "the model was shared among three servers, and inputs.share2 is not connected";
                return Err(
                    StageError::permanent(what).help("connect it to the output share2 of the stage of kind `share-three`")
                );
            }
            (false, true) => {
                let what = format!("inputs.share2 is connected, and the model was shared between two parties (mode {mode})");
                return Err(StageError::permanent(what).help("take all shares and the public part from one `share-three` stage"));
            }
        };
        Ok(SessionOptions {
            binary,
            args: self.program.args.clone(),
            setup: GateSetup { spec, policy, mode, calibration, sizes: plan.sizes.clone(), model: digest },
            files: lay_out(ctx)?,
            third,
            ledgers,
            link: params.link(),
            dealer_link: LinkShape::LOOPBACK,
            limits: Limits { measure_link: true, ..Limits::default() },
            plan: plan.jobs.iter().map(|j| j.program).collect(),
            standing: None,
            material: None,
        })
    }
}

/// Each party's two files in a folder of its own.
fn lay_out(ctx: &StageContext<'_>) -> Result<[ModelFiles; 2], StageError> {
    Ok([lay_out_party(ctx, 0, "share0")?, lay_out_party(ctx, 1, "share1")?])
}

fn lay_out_party(ctx: &StageContext<'_>, number: u8, port: &str) -> Result<ModelFiles, StageError> {
    let public = ctx.store().read_artifact(&ctx.input("public")?.id).map_err(store_error)?;
    let public = ctx.store().read_file(&public, PUBLIC_FILE).map_err(store_error)?;
    let manifest = ctx.store().read_artifact(&ctx.input(port)?.id).map_err(store_error)?;
    if manifest.secrecy() != Secrecy::Party(number) {
        return Err(StageError::permanent(format!("inputs.{port} is labelled {}, not for party {number}", manifest.secrecy())));
    }
    let share = ctx.store().read_file(&manifest, SHARE_FILE).map_err(store_error)?;
    let folder = ctx.scratch().join(format!("party-{number}"));
    write_party(&folder, &public, &share).map_err(|e| StageError::transient(format!("{}: {e}", folder.display())))
}

fn write_party(folder: &Path, public: &[u8], share: &[u8]) -> std::io::Result<ModelFiles> {
    fs::create_dir_all(folder)?;
    let files = ModelFiles { public: folder.join(PUBLIC_FILE), share: folder.join(SHARE_FILE) };
    fs::write(&files.public, public)?;
    write_private(&files.share, share)?;
    Ok(files)
}

/// Runs every inference of the plan.
fn classify(
    ctx: &StageContext<'_>,
    session: &mut GateSession,
    client: &Checkpoint,
    examples: &[Example],
    plan: &InferencePlan,
) -> Result<Answers, StageError> {
    let failed = |e: &dyn std::error::Error| StageError::permanent(with_causes(e));
    let mut answers = BTreeMap::new();
    for job in &plan.jobs {
        if ctx.is_cancelled() {
            return Err(StageError::new(ErrorClass::Cancelled, "cancelled"));
        }
        let batch = plan.batch(job, examples, client.spec().pad_token).map_err(|e| failed(&e))?;
        let embedded = embed_only(client, &batch).map_err(|e| failed(&e))?;
        let logits = session.answer(job.program, &batch, embedded.data()).map_err(|e| stage_error(&e))?;
        answers.extend(job.rows.iter().copied().zip(logits));
        ctx.progress(answers.len() as u64, Some(plan.rows.len() as u64), "messages", Some("under MPC".to_owned()));
    }
    Ok(answers)
}

/// The rows that were answered; that some were not is told, and fails the stage unless they may be left out.
fn answered(ctx: &StageContext<'_>, refused: Refused, answers: Answers) -> Result<Vec<(usize, Vec<f32>)>, StageError> {
    const NAMED: usize = 8;
    let all = answers.len();
    let missing: Vec<String> = answers.iter().filter(|(_, a)| a.is_none()).map(|(row, _)| row.to_string()).collect();
    let answered: Vec<_> = answers.into_iter().filter_map(|(row, a)| Some((row, a?))).collect();
    if missing.is_empty() {
        return Ok(answered);
    }
    let more = if missing.len() > NAMED { ", …" } else { "" };
    let named = missing[..missing.len().min(NAMED)].join(", ");
    let what = format!("{} of {all} examples left a calibrated range and were refused: rows {named}{more}", missing.len());
    if refused == Refused::Fail || answered.is_empty() {
        let help = "calibrate on texts like these or with a wider `margin`, use mode `exact`, or say `refused: leave_out`";
        return Err(StageError::permanent(what).help(help));
    }
    ctx.log(what);
    Ok(answered)
}

/// Failures that another attempt would repeat.
const REFUSALS: [Class; 5] = [Class::Handshake, Class::Protocol, Class::Transcript, Class::IndexReuse, Class::Request];

/// A role that died or a link that broke may work in another attempt, with fresh material; a model without a program will not.
fn stage_error(error: &GateError) -> StageError {
    let class = match error {
        GateError::Fleet(
            FleetError::Died { .. } | FleetError::Silent { .. } | FleetError::Client(_) | FleetError::Spawn { .. },
        ) => ErrorClass::Transient,
        // By its class on the wire: what one side claims and the other refuses will be refused again.
        GateError::Fleet(FleetError::Failed { class, .. }) if REFUSALS.map(|c| c.to_string()).contains(class) => {
            ErrorClass::Permanent
        }
        GateError::Fleet(_) => ErrorClass::Transient,
        _ => ErrorClass::Permanent,
    };
    StageError::new(class, with_causes(error))
}

/// The roles' own accounts, added up.
fn cost(meter: &FleetMeter, mode: Mode, (messages, refused): (u64, u64), wall_s: f64) -> MpcCost {
    let sum = |role: &RoleMeter, f: fn(&sprint_mpc::InferenceMeter) -> u64| role.inferences.iter().map(f).sum::<u64>();
    let [p0, p1] = &meter.parties;
    let each = |f: fn(&sprint_mpc::InferenceMeter) -> u64| meter.servers().map(|p| sum(p, f)).collect::<Vec<_>>();
    let slower = p0.inferences.iter().zip(&p1.inferences).map(|(a, b)| a.online_s.max(b.online_s)).sum();
    let last = meter.third.as_ref().map_or(("dealer", &meter.dealer), |third| ("party-2", third));
    let roles = [("party-0", p0), ("party-1", p1), last];
    MpcCost {
        version: MpcCost::VERSION,
        mode: mode.to_string(),
        messages,
        refused,
        inferences: p0.inferences.len() as u64,
        rounds: p0.inferences.iter().map(|i| u64::from(i.rounds)).max().unwrap_or(0),
        online_bytes_sent: each(|i| i.wire_bytes_sent),
        dealer_bytes: each(|i| i.material_bytes),
        online_s: slower,
        offline_s: meter.dealer.offline_s.iter().sum(),
        wall_s,
        link: p0.link.zip(p1.link).map(|(a, b)| MeasuredLink { rtt_ms: a.rtt_ms.max(b.rtt_ms), mbit: a.mbit.min(b.mbit) }),
        cpu_s: roles.iter().map(|(name, role)| ((*name).to_owned(), role.cpu_s)).collect(),
        peak_rss: roles.iter().map(|(name, role)| ((*name).to_owned(), role.peak_rss)).collect(),
        by_layer: json!(p0.by_part),
        by_gate: json!(p0.by_gate),
    }
}

fn report(ctx: &StageContext<'_>, cost: &MpcCost) {
    let values = [
        ("rounds", cost.rounds as f64),
        ("online_bytes_sent", cost.online_bytes_sent.iter().sum::<u64>() as f64),
        ("dealer_bytes", cost.dealer_bytes.iter().sum::<u64>() as f64),
        ("online_s", cost.online_s),
        ("offline_s", cost.offline_s),
        ("wall_s", cost.wall_s),
    ];
    ctx.emit(StageEvent::Metrics { values: values.into_iter().map(|(name, value)| (name.to_owned(), value)).collect() });
}
