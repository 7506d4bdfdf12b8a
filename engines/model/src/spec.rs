//! The shape of a model: everything but its weights.

use serde::{Deserialize, Serialize};

use crate::targets::MODULES;
use crate::{Embedding, Func, LayerNorm, Linear, Lora, ParamPath, Pattern};

/// Which family's layout and positions a model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Architecture {
    /// BERT: positions from 0, token types, pooler optional.
    Bert,
    /// RoBERTa: positions from `pad_token_id + 1`.
    Roberta,
}

/// The feed-forward activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// [`Func::Relu`].
    Relu,
    /// [`Func::Relu6`].
    Relu6,
    /// [`Func::Gelu`]; also read from SPRINT's name `erf_gelu`.
    #[serde(alias = "erf_gelu")]
    Gelu,
    /// [`Func::GeluTanh`].
    GeluTanh,
    /// [`Func::BoltGelu`].
    BoltGelu,
    /// [`Func::HardGelu`].
    HardGelu,
    /// [`Func::HardSwish`].
    HardSwish,
    /// [`Func::Quad`].
    Quad,
}

impl Activation {
    /// The function.
    pub fn func(self) -> Func {
        match self {
            Self::Relu => Func::Relu,
            Self::Relu6 => Func::Relu6,
            Self::Gelu => Func::Gelu,
            Self::GeluTanh => Func::GeluTanh,
            Self::BoltGelu => Func::BoltGelu,
            Self::HardGelu => Func::HardGelu,
            Self::HardSwish => Func::HardSwish,
            Self::Quad => Func::Quad,
        }
    }
}

/// How attention scores `s` (already divided by `√d`) become weights. SPRINT's names are read too. Its `softmax_nn` (MA-BERT's perceptron over
/// exactly 128 keys) is not here: the weights that it needs were not published with it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Softmax {
    /// `exp(s - max)/Σ`.
    #[serde(alias = "softmax")]
    Exact,
    /// `exp(s - shift)/Σ` with a public shift in place of the maximum (SPRINT's `softmax_max`); scores must stay below `shift`.
    #[serde(alias = "softmax_max")]
    Shifted {
        /// The public bound.
        shift: f64,
    },
    /// `exp(s/temperature - max)/Σ`.
    Scaled {
        /// The temperature.
        temperature: f64,
    },
    /// `(relu(s) + ε)/Σ` (2ReLU, SecureML / MPCFormer).
    #[serde(alias = "2relu", alias = "2RELU", alias = "softmax_2RELU")]
    TwoRelu {
        /// ε.
        eps: f64,
    },
    /// `(s + c)²/Σ` (2Quad, MPCFormer).
    #[serde(alias = "2quad", alias = "2QUAD", alias = "softmax_2QUAD")]
    TwoQuad {
        /// c, 5 in MPCFormer.
        c: f64,
    },
    /// `relu(s)/tokens` (SPRINT's `relurs`: Wortsman et al. 2023), no secret divisor.
    #[serde(alias = "relurs")]
    ReluOverLength,
    /// `s/tokens` (SPRINT's `scaled_attention`, there without the division by `√d`): linear attention.
    #[serde(alias = "scaled_attention")]
    ScoresOverLength,
}

impl Softmax {
    /// Bounds of the numerators' sum over a row, as the model promises them: at least this, and at most this for each key. A maximum's
    /// numerator is 1; a sum that is a public number has no bounds to keep.
    pub fn sum_bounds(self) -> (f64, f64) {
        match self {
            Self::Exact | Self::Scaled { .. } | Self::ReluOverLength | Self::ScoresOverLength => (1.0, 1.0),
            Self::Shifted { .. } => ((-12.0_f64).exp(), 1.0),
            Self::TwoRelu { eps } => (eps, 64.0),
            Self::TwoQuad { .. } => (1.0 / 16.0, 1024.0),
        }
    }
}

/// `c·tanh(x/c)` at three places; `None` leaves the place alone.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SoftCaps {
    /// On the embedding output.
    pub embedding: Option<f64>,
    /// On attention scores, before masking.
    pub attention: Option<f64>,
    /// On the logits.
    pub logits: Option<f64>,
}

/// Which token states a head reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pooling {
    /// The first token's.
    First,
    /// The mean over unmasked tokens.
    Mean,
}

/// The classification (or, with one output, regression) head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeadSpec {
    /// Number of logits; 1 is regression.
    pub outputs: usize,
    /// Which token states it reads.
    pub pooling: Pooling,
    /// Whether a dense layer with tanh comes first: at `pooler.dense` for BERT, `classifier.dense` for RoBERTa.
    pub dense: bool,
    /// Dropout before each of its layers while training.
    pub dropout: f64,
}

/// Which layers get a low-rank update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TargetModules {
    /// `attention.self.query`.
    pub query: bool,
    /// `attention.self.key`.
    pub key: bool,
    /// `attention.self.value`.
    pub value: bool,
    /// `attention.output.dense`.
    pub attention_output: bool,
    /// `intermediate.dense`.
    pub intermediate: bool,
    /// `output.dense`.
    pub output: bool,
    /// The lowest encoder layer that gets one. Those below stay the public model's: training needs no backward pass through them and private
    /// inference no private weight.
    #[serde(skip_serializing_if = "is_zero")]
    pub first_layer: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

impl Default for TargetModules {
    fn default() -> Self {
        Self { query: true, key: true, value: true, attention_output: true, intermediate: true, output: true, first_layer: 0 }
    }
}

/// The low-rank update of every targeted layer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraSpec {
    /// The inner dimension.
    pub rank: usize,
    /// `alpha`; the update is scaled by `alpha/rank`.
    pub alpha: f64,
    /// Dropout on the update's input while training.
    pub dropout: f64,
    /// Where.
    pub targets: TargetModules,
    /// Modules with another rank.
    #[serde(default, skip_serializing_if = "Pattern::is_empty")]
    pub rank_pattern: Pattern<usize>,
    /// Modules with another `alpha`.
    #[serde(default, skip_serializing_if = "Pattern::is_empty")]
    pub alpha_pattern: Pattern<f64>,
}

impl LoraSpec {
    /// The same update for all of `targets`, without dropout.
    pub fn new(rank: usize, alpha: f64, targets: TargetModules) -> Self {
        Self { rank, alpha, dropout: 0.0, targets, rank_pattern: Pattern::default(), alpha_pattern: Pattern::default() }
    }
}

/// Everything but the weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelSpec {
    /// The family.
    pub architecture: Architecture,
    /// Encoder layers.
    pub layers: usize,
    /// Channels.
    pub hidden: usize,
    /// Attention heads; divides `hidden`.
    pub heads: usize,
    /// Feed-forward channels.
    pub intermediate: usize,
    /// Rows of the word table.
    pub vocab: usize,
    /// Rows of the position table.
    pub positions: usize,
    /// Rows of the token-type table.
    pub token_types: usize,
    /// Added to the variance in every layer normalisation.
    pub layer_norm_eps: f64,
    /// The padding token.
    pub pad_token: u32,
    /// The feed-forward activation.
    pub activation: Activation,
    /// How scores become weights.
    pub softmax: Softmax,
    /// Soft caps.
    pub caps: SoftCaps,
    /// Dropout on hidden states while training.
    pub hidden_dropout: f64,
    /// Low-rank updates, if any.
    pub lora: Option<LoraSpec>,
    /// The head, if any.
    pub head: Option<HeadSpec>,
}

impl ModelSpec {
    /// The embedding tables.
    pub fn embedding(&self) -> Embedding {
        let position_offset = match self.architecture {
            Architecture::Bert => 0,
            Architecture::Roberta => self.pad_token as usize + 1,
        };
        Embedding { path: ParamPath::new("embeddings"), hidden: self.hidden, position_offset }
    }

    /// The layer normalisation at `path`.
    pub fn norm(&self, path: ParamPath) -> LayerNorm {
        LayerNorm { path, width: self.hidden, eps: self.layer_norm_eps }
    }

    /// Encoder layer `index`'s module path.
    pub fn layer_path(&self, index: usize) -> ParamPath {
        ParamPath::new(format!("encoder.layer.{index}"))
    }

    /// The six dense layers of encoder layer `index`: query, key, value, attention output, intermediate, output.
    pub fn layer_linears(&self, index: usize) -> [Linear; 6] {
        let at = self.layer_path(index);
        let (h, f) = (self.hidden, self.intermediate);
        let shapes = [(h, h), (h, h), (h, h), (h, h), (h, f), (f, h)];
        std::array::from_fn(|module| {
            let lora = self.lora.filter(|l| l.targets.by_module()[module] && index >= l.targets.first_layer).map(|l| {
                let rank = l.rank_pattern.by_module()[module].unwrap_or(l.rank);
                let alpha = l.alpha_pattern.by_module()[module].unwrap_or(l.alpha);
                Lora { rank, scale: alpha / rank as f64, dropout: l.dropout }
            });
            let (inputs, outputs) = shapes[module];
            Linear { path: at.join(MODULES[module]), inputs, outputs, bias: true, lora }
        })
    }

    /// The head's layers in order: an optional dense layer, then the projection to the logits.
    pub fn head_linears(&self, head: &HeadSpec) -> (Option<Linear>, Linear) {
        let (dense, out) = match self.architecture {
            Architecture::Bert => ("pooler.dense", "classifier"),
            Architecture::Roberta => ("classifier.dense", "classifier.out_proj"),
        };
        let linear =
            |path: &str, outputs| Linear { path: ParamPath::new(path), inputs: self.hidden, outputs, bias: true, lora: None };
        (head.dense.then(|| linear(dense, self.hidden)), linear(out, head.outputs))
    }
}
