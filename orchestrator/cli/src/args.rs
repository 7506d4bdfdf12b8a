//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Runs workflows that fine-tune transformers under differential privacy and serve them under secure multi-party computation.
#[derive(Debug, Parser)]
#[command(name = "sprint-flow", version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Log more on standard error (-v, -vv); SPRINT_FLOW_LOG takes a filter.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a workflow: what is cached is reused, what was interrupted continues.
    Run(RunArgs),
    /// Show what a run would do, and why.
    Plan(PlanArgs),
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
    /// Print hidden states of texts, by any engine.
    Embed(EmbedArgs),
    /// Measure an engine on this machine.
    #[command(subcommand)]
    Bench(BenchCommand),
    /// Runs one stage attempt for the orchestrator.
    #[command(hide = true)]
    StageWorker,
    /// Runs one role of an MPC inference.
    #[command(hide = true)]
    MpcRole,
}

/// Where artifacts are kept.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// The artifact store.
    #[arg(long, default_value = "store", env = "SPRINT_FLOW_STORE", value_name = "DIR")]
    pub store: PathBuf,
}

/// Which workflow, with which values.
#[derive(Debug, Clone, Args)]
pub struct WorkflowArgs {
    /// The workflow.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Set a parameter of the workflow; VALUE is YAML (`tasks=[rte]`).
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Print JSON for machines.
    #[arg(long)]
    pub json: bool,
}

/// `run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// The workflow.
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Run only these stages and what they need, such as `finetune[task=sst2]`.
    #[arg(long, value_name = "SELECTOR")]
    pub only: Vec<String>,
    /// At most this many stages at once.
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Go on with stages that do not depend on a failed one.
    #[arg(long)]
    pub keep_going: bool,
}

/// `plan`.
#[derive(Debug, Clone, Args)]
pub struct PlanArgs {
    /// The workflow.
    #[command(flatten)]
    pub workflow: WorkflowArgs,
    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Plan only these stages and what they need.
    #[arg(long, value_name = "SELECTOR")]
    pub only: Vec<String>,
    /// Exit with 3 if there is work to do.
    #[arg(long)]
    pub detailed_exitcode: bool,
}

/// `status`.
#[derive(Debug, Clone, Args)]
pub struct StatusArgs {
    /// The run; the newest if none is named.
    pub run: Option<String>,
    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Print JSON for machines.
    #[arg(long)]
    pub json: bool,
}

/// `resume`.
#[derive(Debug, Clone, Args)]
pub struct ResumeArgs {
    /// The run; the newest unfinished one if none is named.
    pub run: Option<String>,
    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// At most this many stages at once.
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Go on with stages that do not depend on a failed one.
    #[arg(long)]
    pub keep_going: bool,
    /// Print JSON for machines.
    #[arg(long)]
    pub json: bool,
}

/// `logs`.
#[derive(Debug, Clone, Args)]
pub struct LogsArgs {
    /// The stage, such as `finetune[task=sst2,epsilon=8]`.
    pub stage: String,
    /// The run; the newest if none is named.
    #[arg(long)]
    pub run: Option<String>,
    /// The attempt; the newest if none is named.
    #[arg(long)]
    pub attempt: Option<u32>,
    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Print JSON for machines.
    #[arg(long)]
    pub json: bool,
}

/// `artifacts`.
#[derive(Debug, Subcommand)]
pub enum ArtifactsCommand {
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
pub struct GcArgs {
    /// The store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Delete, rather than say what would be deleted.
    #[arg(long)]
    pub apply: bool,
    /// Print JSON for machines.
    #[arg(long)]
    pub json: bool,
}

/// `privacy`.
#[derive(Debug, Subcommand)]
pub enum PrivacyCommand {
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
}

/// Which engine computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineName {
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
pub struct EmbedArgs {
    /// A model directory, or `hf://ORG/NAME`.
    #[arg(long, value_name = "DIR|hf://ID")]
    pub model: String,
    /// Lines of {"text": …, "pair": null|…}.
    #[arg(long, value_name = "FILE.jsonl")]
    pub input: PathBuf,
    /// Which engine computes.
    #[arg(long, value_enum, default_value = "f32")]
    pub engine: EngineName,
    /// Tokens kept of each example, special tokens included.
    #[arg(long, default_value_t = 128, value_name = "N")]
    pub max_length: usize,
    /// Print one JSON object a line.
    #[arg(long)]
    pub json: bool,
}

/// `bench`.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// Private inference by three processes on this machine.
    Mpc(BenchMpcArgs),
    /// Training steps, private or not.
    Train(BenchTrainArgs),
}

/// `bench mpc`.
#[derive(Debug, Clone, Args)]
pub struct BenchMpcArgs {
    /// `roberta-base` with random weights, or a model directory.
    #[arg(long, default_value = "roberta-base")]
    pub model: String,
    /// Tokens.
    #[arg(long, default_value_t = 128)]
    pub seq: usize,
    /// Examples per inference.
    #[arg(long, default_value_t = 1)]
    pub batch: usize,
    /// Gates: `exact`, `calibrated`, `lean`, `three-server`.
    #[arg(long, default_value = "exact")]
    pub mode: String,
    /// Link between the parties: `loopback`, `lan`, `wan`.
    #[arg(long, default_value = "loopback")]
    pub net: String,
    /// Which weights are secret: `lora` (LoRA-B and head) or `private` (all).
    #[arg(long, default_value = "lora")]
    pub weights: String,
    /// Timed runs, after one that warms up.
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// Print JSON for machines.
    #[arg(long)]
    pub json: bool,
}

/// `bench train`.
#[derive(Debug, Clone, Args)]
pub struct BenchTrainArgs {
    /// `roberta-base` with random weights, or a model directory.
    #[arg(long, default_value = "roberta-base")]
    pub model: String,
    /// Tokens.
    #[arg(long, default_value_t = 128)]
    pub seq: usize,
    /// Examples per physical batch.
    #[arg(long, default_value_t = 32)]
    pub microbatch: usize,
    /// `private` or `nonprivate`.
    #[arg(long, default_value = "private")]
    pub mode: String,
    /// `fixed` (every example has `--seq` tokens) or `sst2` (lengths as in SST-2's training phrases).
    #[arg(long, default_value = "fixed")]
    pub lengths: String,
    /// Print JSON for machines.
    #[arg(long)]
    pub json: bool,
}
