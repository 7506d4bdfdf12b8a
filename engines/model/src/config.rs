//! Specs from Hugging Face configurations, and of published shapes.

use serde::Deserialize;

use crate::{Activation, Architecture, ModelSpec, SoftCaps, Softmax, SpecError};

/// Largest `config.json` that is read, in bytes.
pub const MAX_CONFIG_BYTES: usize = 1 << 20;

const ACTIVATIONS: [(&str, Activation); 7] = [
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("relu", Activation::Relu),
    ("relu6", Activation::Relu6),
];

/// A Hugging Face configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// Not JSON, or a field is missing or of the wrong type.
    #[error("config.json: {0}")]
    Json(#[from] serde_json::Error),
    /// More bytes than any real configuration has.
    #[error("config.json has {bytes} bytes, more than {MAX_CONFIG_BYTES}")]
    TooLarge {
        /// As found.
        bytes: usize,
    },
    /// A field with a value this program has no implementation of.
    #[error("config.json: {field} is {found:?}; supported: {supported}")]
    Unsupported {
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What is supported.
        supported: String,
    },
    /// Fields that contradict one another or describe nothing.
    #[error("config.json: {0}")]
    Spec(#[from] SpecError),
}

/// The fields that matter. Unknown fields are ignored: the format is not ours and grows. Fields that Hugging Face's classes give a default
/// may be missing; the shape may not.
#[derive(Deserialize)]
struct HfConfig {
    model_type: String,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: Option<usize>,
    layer_norm_eps: Option<f64>,
    hidden_act: Option<String>,
    hidden_dropout_prob: Option<f64>,
    pad_token_id: Option<u32>,
    position_embedding_type: Option<String>,
    is_decoder: Option<bool>,
    add_cross_attention: Option<bool>,
}

impl ModelSpec {
    /// The encoder that a Hugging Face `config.json` describes, without head and low-rank updates.
    ///
    /// Defaults for missing fields are those of `BertConfig` and `RobertaConfig`: `type_vocab_size` 2, `layer_norm_eps` 1e-12,
    /// `hidden_act` gelu, `hidden_dropout_prob` 0.1, `pad_token_id` 0 (BERT) or 1 (RoBERTa).
    pub fn from_hf_config(json: &[u8]) -> Result<Self, ConfigError> {
        if json.len() > MAX_CONFIG_BYTES {
            return Err(ConfigError::TooLarge { bytes: json.len() });
        }
        let config: HfConfig = serde_json::from_slice(json)?;
        let (architecture, pad_token) = match config.model_type.as_str() {
            "bert" => (Architecture::Bert, 0),
            "roberta" => (Architecture::Roberta, 1),
            other => return Err(unsupported("model_type", other, "bert, roberta")),
        };
        reject_variants(&config)?;
        let spec = Self {
            architecture,
            layers: config.num_hidden_layers,
            hidden: config.hidden_size,
            heads: config.num_attention_heads,
            intermediate: config.intermediate_size,
            vocab: config.vocab_size,
            positions: config.max_position_embeddings,
            token_types: config.type_vocab_size.unwrap_or(2),
            layer_norm_eps: config.layer_norm_eps.unwrap_or(1e-12),
            pad_token: config.pad_token_id.unwrap_or(pad_token),
            activation: activation(config.hidden_act.as_deref().unwrap_or("gelu"))?,
            softmax: Softmax::Exact,
            caps: SoftCaps::default(),
            hidden_dropout: config.hidden_dropout_prob.unwrap_or(0.1),
            lora: None,
            head: None,
        };
        spec.validate()?;
        Ok(spec)
    }

    /// roberta-base: 12 layers, 768 channels, 124 million parameters.
    pub fn roberta_base() -> Self {
        Self {
            architecture: Architecture::Roberta,
            vocab: 50_265,
            positions: 514,
            token_types: 1,
            layer_norm_eps: 1e-5,
            pad_token: 1,
            ..Self::bert(12, 768, 12)
        }
    }

    /// roberta-large: 24 layers, 1024 channels.
    pub fn roberta_large() -> Self {
        let large = Self::bert(24, 1024, 16);
        Self {
            layers: large.layers,
            hidden: large.hidden,
            heads: large.heads,
            intermediate: large.intermediate,
            ..Self::roberta_base()
        }
    }

    /// bert-base-uncased: 12 layers, 768 channels.
    pub fn bert_base() -> Self {
        Self::bert(12, 768, 12)
    }

    /// bert-tiny of Turc et al. 2019: 2 layers, 128 channels.
    pub fn bert_tiny() -> Self {
        Self::bert(2, 128, 2)
    }

    /// bert-small of Turc et al. 2019: 4 layers, 512 channels.
    pub fn bert_small() -> Self {
        Self::bert(4, 512, 8)
    }

    /// bert-medium of Turc et al. 2019: 8 layers, 512 channels.
    pub fn bert_medium() -> Self {
        Self::bert(8, 512, 8)
    }

    /// TinyBERT's smaller shape (Jiao et al. 2020): 4 layers, 312 channels.
    pub fn tinybert() -> Self {
        Self { intermediate: 1200, ..Self::bert(4, 312, 12) }
    }

    /// bert-tiny with the quickstart's pruned vocabulary of 5,500 pieces and 128 positions.
    pub fn bert_tiny_5k() -> Self {
        Self { vocab: 5_500, positions: 128, ..Self::bert_tiny() }
    }

    /// all-MiniLM-L6-v2's encoder: 6 layers, 384 channels.
    pub fn minilm_l6() -> Self {
        Self::bert(6, 384, 12)
    }

    /// The names that [`ModelSpec::named`] knows.
    pub const NAMES: [&str; 9] = [
        "roberta-base",
        "roberta-large",
        "bert-base",
        "bert-medium",
        "bert-small",
        "bert-tiny",
        "bert-tiny-5k",
        "minilm-l6",
        "tinybert",
    ];

    /// Every published shape by the name it is known by.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "roberta-base" => Some(Self::roberta_base()),
            "roberta-large" => Some(Self::roberta_large()),
            "bert-small" => Some(Self::bert_small()),
            "bert-medium" => Some(Self::bert_medium()),
            "tinybert" => Some(Self::tinybert()),
            "bert-base" => Some(Self::bert_base()),
            "bert-tiny" => Some(Self::bert_tiny()),
            "bert-tiny-5k" => Some(Self::bert_tiny_5k()),
            "minilm-l6" => Some(Self::minilm_l6()),
            _ => None,
        }
    }

    /// The most tokens of one example: the position table's rows that tokens can reach.
    pub fn max_tokens(&self) -> usize {
        self.positions.saturating_sub(self.embedding().position_offset)
    }

    fn bert(layers: usize, hidden: usize, heads: usize) -> Self {
        Self {
            architecture: Architecture::Bert,
            layers,
            hidden,
            heads,
            intermediate: 4 * hidden,
            vocab: 30_522,
            positions: 512,
            token_types: 2,
            layer_norm_eps: 1e-12,
            pad_token: 0,
            activation: Activation::Gelu,
            softmax: Softmax::Exact,
            caps: SoftCaps::default(),
            hidden_dropout: 0.1,
            lora: None,
            head: None,
        }
    }
}

fn reject_variants(config: &HfConfig) -> Result<(), ConfigError> {
    match config.position_embedding_type.as_deref() {
        None | Some("absolute") => {}
        Some(other) => return Err(unsupported("position_embedding_type", other, "absolute")),
    }
    for (field, value) in [("is_decoder", config.is_decoder), ("add_cross_attention", config.add_cross_attention)] {
        if value == Some(true) {
            return Err(unsupported(field, "true", "false"));
        }
    }
    Ok(())
}

fn activation(name: &str) -> Result<Activation, ConfigError> {
    let known = ACTIVATIONS.iter().find(|(known, _)| *known == name).map(|(_, activation)| *activation);
    known.ok_or_else(|| unsupported("hidden_act", name, &ACTIVATIONS.map(|(name, _)| name).join(", ")))
}

fn unsupported(field: &'static str, found: &str, supported: &str) -> ConfigError {
    ConfigError::Unsupported { field, found: found.to_owned(), supported: supported.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROBERTA_BASE: &str = r#"{"model_type": "roberta", "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
        "intermediate_size": 3072, "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1,
        "layer_norm_eps": 1e-05, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "pad_token_id": 1, "new_field": {"a": []}}"#;

    #[test]
    fn roberta_base_is_read_as_its_shape() {
        let spec = ModelSpec::from_hf_config(ROBERTA_BASE.as_bytes()).expect("supported");
        assert_eq!(spec, ModelSpec::roberta_base());
        assert_eq!(spec.max_tokens(), 512);
    }

    #[test]
    fn what_is_not_implemented_is_refused_by_name() {
        for (from, to, field) in [
            (r#""roberta""#, r#""gpt2""#, "model_type"),
            (r#""gelu""#, r#""silu""#, "hidden_act"),
            (r#""new_field""#, r#""is_decoder": true, "x""#, "is_decoder"),
            (r#""new_field""#, r#""position_embedding_type": "relative_key", "x""#, "position_embedding_type"),
        ] {
            let error = ModelSpec::from_hf_config(ROBERTA_BASE.replace(from, to).as_bytes()).expect_err("not implemented");
            assert!(matches!(&error, ConfigError::Unsupported { field: f, .. } if *f == field), "{error}");
        }
    }

    #[test]
    fn hostile_sizes_and_broken_json_are_errors() {
        let huge = ROBERTA_BASE.replace(r#""num_hidden_layers": 12"#, r#""num_hidden_layers": 1000000000000"#);
        assert!(matches!(ModelSpec::from_hf_config(huge.as_bytes()), Err(ConfigError::Spec(_))));
        let negative = ROBERTA_BASE.replace("514", "-1");
        assert!(matches!(ModelSpec::from_hf_config(negative.as_bytes()), Err(ConfigError::Json(_))));
        for end in 0..ROBERTA_BASE.len() {
            assert!(ModelSpec::from_hf_config(&ROBERTA_BASE.as_bytes()[..end]).is_err());
        }
        let missing = ROBERTA_BASE.replace("hidden_size", "hidden_syze");
        let error = ModelSpec::from_hf_config(missing.as_bytes()).expect_err("the shape is not defaulted");
        assert!(error.to_string().contains("hidden_size"), "{error}");
    }
}
