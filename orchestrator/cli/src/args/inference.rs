//! `embed`, `infer`, `calibrate` and `dealer`.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{GateMode, LinkName, StoreArgs};

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
