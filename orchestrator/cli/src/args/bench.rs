//! `bench mpc` and `bench train`.

use std::num::NonZeroUsize;

use clap::{Args, Subcommand, ValueEnum};

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
    /// The functions of `exact` from the least dealer material, in more rounds and bytes.
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
    /// All but the embeddings, which the client looks up, of a fully tuned model without low-rank updates.
    #[value(alias = "private")]
    All,
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

/// What reads the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum HeadName {
    /// The published encoders' and the baseline's: the first token, a dense layer, then the classes.
    Published,
    /// One layer on the mean of the tokens, which is what `finetune` trains unless told otherwise.
    Linear,
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
    /// The name of a published shape (`roberta-base`, `minilm-l6`), whose weights are random, or a model directory.
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
    /// What reads the encoder.
    #[arg(long, value_enum, default_value = "published")]
    pub(crate) head: HeadName,
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
