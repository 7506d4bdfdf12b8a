//! The command line.

mod bench;
mod inference;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sprint_artifacts::remote::RemoteUrl;

pub(crate) use self::bench::{
    BenchCommand, BenchMpcArgs, BenchTrainArgs, GateMode, HeadName, Lengths, LinkName, TrainMode, WeightsName,
};
pub(crate) use self::inference::{
    CalibrateArgs, DealerCommand, EmbedArgs, EngineName, InferArgs, Ownership, PrecomputeArgs, ServedArgs,
};

/// Runs workflows that fine-tune transformers under differential privacy and serve them under secure multi-party computation.
#[derive(Debug, Parser)]
#[command(name = "sprint-flow", bin_name = "sprint-flow", version, propagate_version = true, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Log more on standard error (-v, -vv); SPRINT_FLOW_LOG takes a filter.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a workflow: what is cached is reused, what was interrupted continues.
    Run(RunArgs),
    /// Show what a run would do, and why.
    Plan(PlanArgs),
    /// Draw a workflow's stages and what flows between them.
    Graph(GraphArgs),
    /// Check a workflow and report every mistake with its place.
    Validate(WorkflowArgs),
    /// Show the state of the newest run, or of the one named.
    Status(StatusArgs),
    /// Continue an interrupted run with the plan it started with.
    Resume(ResumeArgs),
    /// Print the log of a stage.
    Logs(LogsArgs),
    /// List, fetch and verify artifacts.
    #[command(subcommand)]
    Artifacts(ArtifactsCommand),
    /// Delete what nothing refers to any more (a dry run unless --apply).
    Gc(GcArgs),
    /// Print the JSON Schema of workflow files, for editors.
    Schema,
    /// Print a completion script.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Privacy accounting: what a mechanism costs, what noise a budget needs, and whether an implementation keeps its promise.
    #[command(subcommand)]
    Privacy(PrivacyCommand),
    /// Classify texts with a fine-tuned model under MPC, by three processes on this machine.
    Infer(InferArgs),
    /// Measure, in the clear, the public ranges that mode `calibrated` relies on.
    Calibrate(CalibrateArgs),
    /// Make one-time material ahead of time.
    #[command(subcommand)]
    Dealer(DealerCommand),
    /// Print hidden states of texts, by any engine.
    Embed(EmbedArgs),
    /// Measure an engine on this machine.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// The key that secrets on a remote are sealed to.
    #[cfg(feature = "aws")]
    #[command(subcommand)]
    Remote(RemoteCommand),
    /// Machines that runs have launched: list them, end them.
    #[cfg(feature = "aws")]
    #[command(subcommand)]
    Cloud(CloudCommand),
    /// Show what this machine has, and the least that an AWS account must allow.
    #[cfg(feature = "aws")]
    Doctor(DoctorArgs),
    /// Runs one stage attempt for the orchestrator.
    #[command(hide = true)]
    StageWorker,
    /// One stage attempt as a job of a cluster; the folder has the request.
    #[command(hide = true)]
    StageJob {
        /// The attempt's folder.
        folder: PathBuf,
        /// The job's number.
        job: String,
    },
    /// Runs one role of an MPC inference.
    #[command(hide = true)]
    MpcRole {
        /// The role.
        role: String,
    },
}

/// Where artifacts are kept.
#[derive(Debug, Clone, Args)]
pub(crate) struct StoreArgs {
    /// The artifact store.
    #[arg(long, default_value = "store", env = "SPRINT_FLOW_STORE", value_name = "DIR")]
    pub(crate) store: PathBuf,
}

/// Which workflow, with which values.
#[derive(Debug, Clone, Args)]
pub(crate) struct WorkflowArgs {
    /// The workflow.
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Set a parameter of the workflow; VALUE is YAML (`tasks=[rte]`).
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub(crate) set: Vec<String>,
    /// Print JSON for machines.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `graph`.
#[derive(Debug, Clone, Args)]
pub(crate) struct GraphArgs {
    /// The workflow.
    #[command(flatten)]
    pub(crate) workflow: WorkflowArgs,
    /// The language.
    #[arg(long, value_enum, default_value = "mermaid", value_name = "FORMAT")]
    pub(crate) format: GraphFormat,
}

/// Languages of graphs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GraphFormat {
    /// For Markdown.
    Mermaid,
    /// For Graphviz.
    Dot,
}

/// Where results are kept for other machines; what is given here goes before the workflow's `remote:`.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct RemoteArgs {
    /// Look for results there too, and bring them there.
    #[arg(long, env = "SPRINT_FLOW_REMOTE", value_name = "s3://BUCKET/PREFIX")]
    pub(crate) remote: Option<RemoteUrl>,
    /// The address of a service other than AWS that speaks S3; AWS_ENDPOINT_URL is read too.
    #[arg(long, env = "SPRINT_FLOW_REMOTE_ENDPOINT", value_name = "URL")]
    pub(crate) remote_endpoint: Option<String>,
    /// Seal secrets to this age public key; without one they stay on this machine.
    #[arg(long, env = "SPRINT_FLOW_RECIPIENT", value_name = "age1…", value_delimiter = ',')]
    pub(crate) recipient: Vec<String>,
    /// The file with the age secret key that opens what was sealed.
    #[arg(long, env = "SPRINT_FLOW_IDENTITY", value_name = "FILE")]
    pub(crate) identity: Option<PathBuf>,
}

/// `run`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RunArgs {
    /// The workflow.
    #[command(flatten)]
    pub(crate) workflow: WorkflowArgs,
    /// The store.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// The remote.
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    /// Run only these stages and what they need, such as `finetune[task=sst2]`.
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) only: Vec<String>,
    /// At most this many stages at once.
    #[arg(short, long, value_name = "N")]
    pub(crate) jobs: Option<NonZeroUsize>,
    /// Go on with stages that do not depend on a failed one.
    #[arg(long)]
    pub(crate) keep_going: bool,
}

/// `plan`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlanArgs {
    /// The workflow.
    #[command(flatten)]
    pub(crate) workflow: WorkflowArgs,
    /// The store.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// The remote.
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    /// Plan only these stages and what they need.
    #[arg(long, value_name = "SELECTOR")]
    pub(crate) only: Vec<String>,
    /// Exit with 3 if there is work to do.
    #[arg(long)]
    pub(crate) detailed_exitcode: bool,
}

/// `status`.
#[derive(Debug, Clone, Args)]
pub(crate) struct StatusArgs {
    /// The run; the newest if none is named.
    pub(crate) run: Option<String>,
    /// The store.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Print JSON for machines.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `resume`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ResumeArgs {
    /// The run; the newest unfinished one if none is named.
    pub(crate) run: Option<String>,
    /// The store.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// The remote.
    #[command(flatten)]
    pub(crate) remote: RemoteArgs,
    /// At most this many stages at once.
    #[arg(short, long, value_name = "N")]
    pub(crate) jobs: Option<NonZeroUsize>,
    /// Go on with stages that do not depend on a failed one.
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Print JSON for machines.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `logs`.
#[derive(Debug, Clone, Args)]
pub(crate) struct LogsArgs {
    /// The stage, such as `finetune[task=sst2,epsilon=8]`.
    pub(crate) stage: String,
    /// The run; the newest if none is named.
    #[arg(long)]
    pub(crate) run: Option<String>,
    /// The attempt; the newest if none is named.
    #[arg(long)]
    pub(crate) attempt: Option<u32>,
    /// Go on printing while the run goes on.
    #[arg(short, long, conflicts_with = "json")]
    pub(crate) follow: bool,
    /// The store.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Print JSON for machines.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `artifacts`.
#[derive(Debug, Subcommand)]
pub(crate) enum ArtifactsCommand {
    /// List artifacts, newest first.
    Ls {
        /// The store.
        #[command(flatten)]
        store: StoreArgs,
        /// Print JSON for machines.
        #[arg(long)]
        json: bool,
    },
    /// Copy an artifact's files out of the store, verified.
    Get {
        /// The artifact's digest, or enough of it to be unique.
        digest: String,
        /// Where its files go.
        #[arg(long, short, value_name = "DIR")]
        out: PathBuf,
        /// The store.
        #[command(flatten)]
        store: StoreArgs,
        /// Print JSON for machines.
        #[arg(long)]
        json: bool,
    },
    /// Recompute digests; all artifacts unless one is named. Exit 6 if one is damaged.
    Verify {
        /// The artifact's digest.
        digest: Option<String>,
        /// The store.
        #[command(flatten)]
        store: StoreArgs,
        /// Print JSON for machines.
        #[arg(long)]
        json: bool,
    },
}

/// `gc`.
#[derive(Debug, Clone, Args)]
pub(crate) struct GcArgs {
    /// The store.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Delete, rather than say what would be deleted.
    #[arg(long)]
    pub(crate) apply: bool,
    /// Print JSON for machines.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `remote`.
#[cfg(feature = "aws")]
#[derive(Debug, Subcommand)]
pub(crate) enum RemoteCommand {
    /// Make a key; prints the public half, which `--recipient` takes, and writes the secret half, which `--identity` takes.
    Keygen {
        /// The new file for the secret half. Keep a copy elsewhere: without it nothing that was sealed can be opened.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
}

/// `cloud`.
#[cfg(feature = "aws")]
#[derive(Debug, Subcommand)]
pub(crate) enum CloudCommand {
    /// List machines that may still cost money, of every store and run. Exit 8 if there are any.
    Ls(CloudArgs),
    /// End machines whose lease has expired (a dry run unless --apply), and what stands around them.
    Reap {
        /// Where to look.
        #[command(flatten)]
        cloud: CloudArgs,
        /// Also those that have not expired: runs that use them will fail.
        #[arg(long)]
        all: bool,
        /// End them, rather than say which.
        #[arg(long)]
        apply: bool,
    },
}

/// Where to look for machines.
#[cfg(feature = "aws")]
#[derive(Debug, Clone, Args)]
pub(crate) struct CloudArgs {
    /// A region to look at, once for each; the one of the user's settings if none is given.
    #[arg(long, value_name = "REGION")]
    pub(crate) region: Vec<String>,
    /// The address of a service other than AWS.
    #[arg(long, value_name = "URL")]
    pub(crate) endpoint: Option<String>,
    /// Print JSON for machines.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `doctor`.
#[cfg(feature = "aws")]
#[derive(Debug, Clone, Args)]
pub(crate) struct DoctorArgs {
    /// Print the policy document alone.
    #[arg(long)]
    pub(crate) policy: bool,
    /// Include this remote in the policy.
    #[arg(long, value_name = "s3://BUCKET/PREFIX")]
    pub(crate) remote: Option<RemoteUrl>,
}

/// `privacy`.
#[derive(Debug, Subcommand)]
pub(crate) enum PrivacyCommand {
    /// ε of the Poisson-subsampled Gaussian mechanism by every accountant (add/remove one record).
    #[command(allow_negative_numbers = true)]
    Epsilon {
        /// Sampling rate, 0 < q ≤ 1.
        #[arg(long, value_name = "Q")]
        q: f64,
        /// Noise multiplier: standard deviation over clipping norm, > 0.
        #[arg(long, value_name = "S")]
        sigma: f64,
        /// Number of noisy steps, ≥ 1.
        #[arg(long, value_name = "T")]
        steps: u64,
        /// Bands of correlated noise (BandMF): a record enters at most one step in B, so T steps count as T/B, rounded up. Q is then the rate of the steps
        /// that are a record's turn: B·batch/N.
        #[arg(long, value_name = "B", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
        bands: u32,
        /// δ, 0 < δ < 1.
        #[arg(long, value_name = "D")]
        delta: f64,
        /// Print JSON for machines.
        #[arg(long)]
        json: bool,
    },
    /// The least noise multiplier that keeps a budget, by PLD and by RDP, rounded up.
    #[command(allow_negative_numbers = true)]
    Sigma {
        /// The budget ε, > 0.
        #[arg(long, value_name = "E")]
        epsilon: f64,
        /// δ, 0 < δ < 1.
        #[arg(long, value_name = "D")]
        delta: f64,
        /// Sampling rate, 0 < q ≤ 1.
        #[arg(long, value_name = "Q")]
        q: f64,
        /// Number of noisy steps, ≥ 1.
        #[arg(long, value_name = "T")]
        steps: u64,
        /// Bands of correlated noise (BandMF): a record enters at most one step in B, so T steps count as T/B, rounded up. Q is then the rate of the steps
        /// that are a record's turn: B·batch/N.
        #[arg(long, value_name = "B", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
        bands: u32,
        /// Print JSON for machines.
        #[arg(long)]
        json: bool,
    },
    /// Rényi divergence of one step.
    #[command(allow_negative_numbers = true)]
    Rdp {
        /// Sampling rate, 0 < q ≤ 1.
        #[arg(long, value_name = "Q")]
        q: f64,
        /// Noise multiplier, > 0.
        #[arg(long, value_name = "S")]
        sigma: f64,
        /// Rényi order, > 1.
        #[arg(long, value_name = "A")]
        order: f64,
        /// Print JSON for machines.
        #[arg(long)]
        json: bool,
    },
    /// Try to refute the mechanism's and the trainer's claims; exits 1 if that succeeds.
    Audit {
        /// Plant a defect first, to see that the audit finds it.
        #[arg(long, value_name = "DEFECT")]
        plant: Option<PlantedDefect>,
        /// A quarter of the steps and canaries: finds gross defects only.
        #[arg(long)]
        quick: bool,
        /// Print JSON for machines.
        #[arg(long)]
        json: bool,
    },
}

/// A defect of a private step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PlantedDefect {
    /// The noise has half the claimed deviation.
    SigmaHalved,
    /// Gradients are not clipped.
    NoClipping,
    /// Every step adds the same noise.
    NoiseReused,
    /// The sum is divided by the realised batch.
    WrongDivisor,
    /// The noise comes from a seed anyone can guess.
    PublicSeed,
}
