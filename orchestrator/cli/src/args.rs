//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sprint_artifacts::remote::RemoteUrl;

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

/// Which engine computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineName {
    /// The f32 oracle.
    F32,
    /// The trainer's forward pass.
    Burn,
    /// The gate program on ring integers, in the clear.
    Fixed,
    /// The gate program between two parties and a dealer, in this process.
    Mpc,
}

/// `embed`.
#[derive(Debug, Clone, Args)]
pub(crate) struct EmbedArgs {
    /// A model directory, or `hf://ORG/NAME`.
    #[arg(long, value_name = "DIR|hf://ID")]
    pub(crate) model: String,
    /// Lines of {"text": …, "pair": null|…}.
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) input: PathBuf,
    /// Which engine computes.
    #[arg(long, value_enum, default_value = "f32")]
    pub(crate) engine: EngineName,
    /// Tokens kept of each example, special tokens included.
    #[arg(long, default_value = "128", value_name = "N")]
    pub(crate) max_length: NonZeroUsize,
    /// Where a model from a hub is kept.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Print one JSON object a line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A fine-tuned model and how texts are fitted to it.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServedArgs {
    /// A fine-tuned model: its artifact's digest, or a folder that `artifacts get` made of it.
    #[arg(long, value_name = "DIGEST|DIR")]
    pub(crate) model: String,
    /// The gates.
    #[arg(long, value_enum, default_value = "exact")]
    pub(crate) mode: GateMode,
    /// The ranges of `--mode calibrated`: what `calibrate` wrote, or the digest of what the stage `calibrate` made.
    #[arg(long, value_name = "FILE|DIGEST")]
    pub(crate) calibration: Option<String>,
    /// Texts in one inference.
    #[arg(long, default_value = "1", value_name = "N")]
    pub(crate) batch: NonZeroUsize,
    /// The store of the model's artifact.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Print JSON for machines.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `infer`.
#[derive(Debug, Clone, Args)]
#[command(group(clap::ArgGroup::new("texts").required(true).multiple(true).args(["text", "input"])))]
pub(crate) struct InferArgs {
    /// The model.
    #[command(flatten)]
    pub(crate) served: ServedArgs,
    /// A text; may be given several times. `-` reads one a line from standard input and answers each in turn, in one session.
    #[arg(long, value_name = "TEXT")]
    pub(crate) text: Vec<String>,
    /// Lines of {"text": …, "pair": null|…}; `-` reads them from standard input and answers each in turn, in one session.
    #[arg(long, value_name = "FILE.jsonl")]
    pub(crate) input: Option<PathBuf>,
    /// The `tokenizer.json` of the model, if its artifact has none.
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// Tokens kept of each text, special tokens included.
    #[arg(long, default_value = "128", value_name = "N")]
    pub(crate) max_length: NonZeroUsize,
    /// Lengths are padded to multiples of this; a smaller one costs less, and tells the parties more about lengths. 16 unless given; of standard
    /// input, every text is padded to --max-length unless this is given.
    #[arg(long, value_name = "N")]
    pub(crate) length_multiple: Option<NonZeroUsize>,
    /// The link between the parties.
    #[arg(long, value_enum, default_value = "loopback")]
    pub(crate) net: LinkName,
    /// A folder that `dealer precompute` made; its batch and length are used, and there is no dealer.
    #[arg(long, value_name = "DIR")]
    pub(crate) material: Option<PathBuf>,
}

/// `calibrate`.
#[derive(Debug, Clone, Args)]
pub(crate) struct CalibrateArgs {
    /// A fine-tuned model: its artifact's digest, or a folder that `artifacts get` made of it.
    #[arg(long, value_name = "DIGEST|DIR")]
    pub(crate) model: String,
    /// Texts to measure, lines of {"text": …, "pair": null|…}; random tokens of the vocabulary without it.
    #[arg(long, value_name = "FILE.jsonl", requires = "data")]
    pub(crate) input: Option<PathBuf>,
    /// Whose the texts are: ranges are published.
    #[arg(long, value_enum, requires = "input")]
    pub(crate) data: Option<Ownership>,
    /// The `tokenizer.json` of the model, if its artifact has none.
    #[arg(long, value_name = "FILE")]
    pub(crate) tokenizer: Option<PathBuf>,
    /// The most tokens of a text, in deployment too.
    #[arg(long, default_value = "128", value_name = "N")]
    pub(crate) max_length: NonZeroUsize,
    /// How many random texts.
    #[arg(long, default_value = "64", value_name = "N")]
    pub(crate) examples: NonZeroUsize,
    /// How much wider than what was seen every range is made on either side, as a fraction of its width.
    #[arg(long, default_value = "0.2", value_name = "X")]
    pub(crate) margin: f64,
    /// Which random texts.
    #[arg(long, default_value = "0", value_name = "N")]
    pub(crate) seed: u64,
    /// The file to write; it is public.
    #[arg(long, value_name = "FILE.json")]
    pub(crate) out: PathBuf,
    /// The store of the model's artifact.
    #[command(flatten)]
    pub(crate) store: StoreArgs,
    /// Print JSON for machines.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Whose texts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Ownership {
    /// Anybody may know them.
    Public,
    /// Somebody's: their extremes are released, without a privacy guarantee.
    Private,
}

/// `dealer`.
#[derive(Debug, Subcommand)]
pub(crate) enum DealerCommand {
    /// Write material for inferences to come, sealed, into a folder for each party.
    Precompute(PrecomputeArgs),
}

/// `dealer precompute`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PrecomputeArgs {
    /// The model.
    #[command(flatten)]
    pub(crate) served: ServedArgs,
    /// Padded tokens of each text.
    #[arg(long, default_value = "128", value_name = "N")]
    pub(crate) seq: NonZeroUsize,
    /// How many inferences.
    #[arg(long, default_value = "1", value_name = "N")]
    pub(crate) count: NonZeroUsize,
    /// An empty or missing folder; it gets `party-0` and `party-1`, each for that party alone.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
}

/// `bench`.
#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Private inference by three processes on this machine.
    Mpc(BenchMpcArgs),
    /// Training steps, private or not.
    Train(BenchTrainArgs),
}

/// Which gates a private inference is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GateMode {
    /// Every function to the precision of the ring.
    Exact,
    /// Ranges fitted to the model's data.
    Calibrated,
    /// The approximations the model was trained with.
    Lean,
    /// A third online server in the place of the dealer.
    ThreeServer,
}

/// A link between the parties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LinkName {
    /// This machine's own, unshaped.
    Loopback,
    /// A local network.
    Lan,
    /// A wide-area network.
    Wan,
}

/// Which weights the parties must not learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WeightsName {
    /// LoRA's B and the head; the base is public.
    Lora,
    /// All.
    Private,
}

/// Whether a training step is private.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TrainMode {
    /// Per-example clipping and noise.
    Private,
    /// Neither.
    Nonprivate,
}

/// How long examples are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lengths {
    /// Every example has `--seq` tokens.
    Fixed,
    /// As in SST-2's training phrases.
    Sst2,
}

/// `bench mpc`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchMpcArgs {
    /// `roberta-base` with random weights, or a model directory.
    #[arg(long, default_value = "roberta-base")]
    pub(crate) model: String,
    /// Tokens.
    #[arg(long, default_value = "128", value_name = "N")]
    pub(crate) seq: NonZeroUsize,
    /// Examples per inference.
    #[arg(long, default_value = "1", value_name = "N")]
    pub(crate) batch: NonZeroUsize,
    /// The gates.
    #[arg(long, value_enum, default_value = "exact")]
    pub(crate) mode: GateMode,
    /// The link between the parties.
    #[arg(long, value_enum, default_value = "loopback")]
    pub(crate) net: LinkName,
    /// Which weights are secret.
    #[arg(long, value_enum, default_value = "lora")]
    pub(crate) weights: WeightsName,
    /// Timed runs, after one that warms up.
    #[arg(long, default_value = "3", value_name = "N")]
    pub(crate) runs: NonZeroUsize,
    /// Print what the program declares that it costs, and run nothing.
    #[arg(long)]
    pub(crate) predict: bool,
    /// Print JSON for machines.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `bench train`.
#[derive(Debug, Clone, Args)]
pub(crate) struct BenchTrainArgs {
    /// `roberta-base` with random weights, or a model directory.
    #[arg(long, default_value = "roberta-base")]
    pub(crate) model: String,
    /// Tokens.
    #[arg(long, default_value = "128", value_name = "N")]
    pub(crate) seq: NonZeroUsize,
    /// Examples per physical batch.
    #[arg(long, default_value = "32", value_name = "N")]
    pub(crate) microbatch: NonZeroUsize,
    /// Whether examples are clipped and noise is added.
    #[arg(long, value_enum, default_value = "private")]
    pub(crate) mode: TrainMode,
    /// How long the examples are.
    #[arg(long, value_enum, default_value = "fixed")]
    pub(crate) lengths: Lengths,
    /// Examples in a step; twice the physical batch unless given, 16 times with `--lengths sst2`.
    #[arg(long, value_name = "N")]
    pub(crate) batch: Option<NonZeroUsize>,
    /// Timed steps, after one that warms up.
    #[arg(long, default_value = "1", value_name = "N")]
    pub(crate) steps: NonZeroUsize,
    /// Print JSON for machines.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Shows a value as the command line spells it.
macro_rules! spelled {
    ($($name:ident),*) => {$(
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.to_possible_value().expect("no value is skipped").get_name())
            }
        }
    )*};
}

spelled!(GateMode, LinkName);
