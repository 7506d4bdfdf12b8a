//! Layers as data: shapes and parameter paths, no weights.

use serde::{Deserialize, Serialize};

use crate::ParamPath;

/// A dense layer `y = x·Wᵀ + b`. Weight at `path.weight` of shape `[outputs, inputs]`, bias at `path.bias`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Linear {
    /// The module's path.
    pub path: ParamPath,
    /// Channels read.
    pub inputs: usize,
    /// Channels written.
    pub outputs: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// The low-rank update, if the layer has one.
    pub lora: Option<Lora>,
}

/// A low-rank update `y += (alpha/rank)·B·A·x` (Hu et al. 2021). `A` at `path.lora_A` of shape `[rank, inputs]`, `B` at
/// `path.lora_B` of shape `[outputs, rank]`, no biases.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Lora {
    /// The inner dimension.
    pub rank: usize,
    /// `alpha/rank`.
    pub scale: f64,
    /// Dropout on the input of `A` while training.
    pub dropout: f64,
}

/// A layer normalisation over `width` channels. `γ` at `path.weight`, `β` at `path.bias`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerNorm {
    /// The module's path (`embeddings.LayerNorm`).
    pub path: ParamPath,
    /// Channels.
    pub width: usize,
    /// Added to the variance.
    pub eps: f64,
}

/// Word, position and token-type tables at `embeddings.{word,position,token_type}_embeddings.weight`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Embedding {
    /// The module's path (`embeddings`).
    pub path: ParamPath,
    /// Channels.
    pub hidden: usize,
    /// Added to a token's index to get its position row: 0 for BERT, `pad_token_id + 1` for RoBERTa.
    pub position_offset: usize,
}

impl Linear {
    /// The path of `A·x` as a layer of its own: weight at `path.lora_A`.
    #[must_use]
    pub fn lora_a(&self, lora: &Lora) -> Self {
        Self { path: self.path.join("lora_A"), inputs: self.inputs, outputs: lora.rank, bias: false, lora: None }
    }

    /// The path of `B·u` as a layer of its own: weight at `path.lora_B`.
    #[must_use]
    pub fn lora_b(&self, lora: &Lora) -> Self {
        Self { path: self.path.join("lora_B"), inputs: lora.rank, outputs: self.outputs, bias: false, lora: None }
    }

    /// The path of the weight. `lora_A` and `lora_B` are themselves weights.
    pub fn weight(&self) -> ParamPath {
        let name = self.path.as_str();
        if name.ends_with(".lora_A") || name.ends_with(".lora_B") { self.path.clone() } else { self.path.join("weight") }
    }

    /// The path of the bias, if there is one.
    pub fn bias(&self) -> Option<ParamPath> {
        self.bias.then(|| self.path.join("bias"))
    }
}

impl LayerNorm {
    /// The path of `γ`.
    pub fn weight(&self) -> ParamPath {
        self.path.join("weight")
    }

    /// The path of `β`.
    pub fn bias(&self) -> ParamPath {
        self.path.join("bias")
    }
}

impl Embedding {
    /// The path of the word table.
    pub fn word_weight(&self) -> ParamPath {
        self.path.join("word_embeddings.weight")
    }

    /// The path of the position table.
    pub fn position_weight(&self) -> ParamPath {
        self.path.join("position_embeddings.weight")
    }

    /// The path of the token-type table.
    pub fn token_type_weight(&self) -> ParamPath {
        self.path.join("token_type_embeddings.weight")
    }
}
