//! What a user asks of a fine-tuning run.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sprint_model::{
    Activation, HeadSpec, LoraSpec, ModelSpec, Pattern, Pooling, SoftCaps, Softmax, TargetError, TargetModules, Tuning,
};

use crate::device::BackendKind;
use crate::init::AInit;
use crate::optim::OptimiserConfig;
use crate::schedule::Schedule;
use crate::validate::Problem;

/// Everything that decides a run beside the data and the base model.
///
/// Values are as written by the user; [`TrainConfig::validate`] says everything that is wrong with them at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainConfig {
    /// Which parameters are trained.
    pub tuning: TuningConfig,
    /// The head.
    pub head: HeadConfig,
    /// Modules trained in full beside the tuning, by name: `classifier`, `pooler`, `LayerNorm`, `layer.1.output`.
    pub modules_to_save: Vec<String>,
    /// Functions of the model that training and deployment replace.
    pub functions: FunctionsConfig,
    /// The privacy target; `null` trains without privacy.
    pub privacy: Option<PrivacyConfig>,
    /// How logical batches are drawn.
    pub sampling: Sampling,
    /// The expected logical batch B, which is also the divisor of every gradient sum.
    pub batch_size: usize,
    /// Passes over the data, possibly fractional.
    pub epochs: f64,
    /// The most examples in one physical batch; changes memory and speed, not the result.
    pub microbatch: usize,
    /// The peak learning rate.
    pub learning_rate: f64,
    /// Factor on it for the head. Noise in a low-rank update disturbs every layer after it, noise in a linear head only the logits: the head
    /// bears a larger one.
    pub head_rate: f64,
    /// The optimiser.
    pub optimiser: OptimiserConfig,
    /// The learning rate's course.
    pub schedule: Schedule,
    /// The fraction of the last steps whose parameters are averaged into the result (Polyak and Juditsky 1992); 0 keeps the last alone. Averaging
    /// released noise away costs no privacy.
    pub average: f64,
    /// Seed of initial values and dropout. Public: neither depends on the data.
    pub init_seed: u64,
    /// Makes sampling and noise reproducible for tests. The result is stamped "not private": whoever knows the seed can subtract the noise.
    pub seed: Option<u64>,
    /// Where burn computes.
    pub device: BackendKind,
    /// Threads, each with a physical batch of its own; 0 is one a core.
    pub threads: usize,
    /// Steps between snapshots; 0 takes none.
    pub snapshot_every: u64,
}

impl Default for TrainConfig {
    fn default() -> Self {
        Self {
            tuning: TuningConfig::default(),
            head: HeadConfig::default(),
            modules_to_save: Vec::new(),
            functions: FunctionsConfig::default(),
            privacy: Some(PrivacyConfig::default()),
            sampling: Sampling::Poisson,
            batch_size: 256,
            epochs: 3.0,
            microbatch: 32,
            learning_rate: 2e-3,
            head_rate: 1.0,
            optimiser: OptimiserConfig::default(),
            schedule: Schedule::default(),
            average: 0.0,
            init_seed: 0,
            seed: None,
            device: BackendKind::Flex,
            threads: 0,
            snapshot_every: 10,
        }
    }
}

/// Which parameters are trained; the head always is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum TuningConfig {
    /// The head alone.
    Head,
    /// Low-rank updates (Hu et al. 2021).
    Lora(LoraConfig),
    /// Everything.
    Full,
}

impl TuningConfig {
    /// The width of the subspaces in which `B` is trained, if not the whole.
    pub(crate) fn public_basis(&self) -> Option<usize> {
        match self {
            Self::Lora(lora) => lora.public_basis,
            Self::Head | Self::Full => None,
        }
    }
}

impl Default for TuningConfig {
    fn default() -> Self {
        Self::Lora(LoraConfig::default())
    }
}

/// Low-rank updates.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LoraConfig {
    /// The inner dimension.
    pub rank: usize,
    /// The update is scaled by `alpha/rank`; `null` means `alpha = rank`.
    pub alpha: Option<f64>,
    /// Dropout on the update's input.
    pub dropout: f64,
    /// Module names: `query`, `dense`, `attention.output.dense`, `all-linear`.
    pub targets: Vec<String>,
    /// Modules with another rank, by name.
    pub rank_pattern: BTreeMap<String, usize>,
    /// Modules with another `alpha`, by name. A module of another rank and no `alpha` of its own keeps the scale of the rest, where PEFT keeps `alpha`.
    pub alpha_pattern: BTreeMap<String, f64>,
    /// The lowest encoder layer that is updated.
    pub first_layer: usize,
    /// How `A` starts.
    pub a_init: AInit,
    /// Whether `A` keeps its initial value (frozen-A LoRA, Sun et al. 2024).
    pub freeze_a: bool,
    /// Trains each `B` within so many directions in which the public texts have gradients; `null` trains all of it.
    pub public_basis: Option<usize>,
}

impl Default for LoraConfig {
    fn default() -> Self {
        Self {
            rank: 16,
            alpha: None,
            dropout: 0.0,
            targets: vec!["all-linear".to_owned()],
            rank_pattern: BTreeMap::new(),
            alpha_pattern: BTreeMap::new(),
            first_layer: 0,
            a_init: AInit::default(),
            freeze_a: true,
            public_basis: None,
        }
    }
}

impl LoraConfig {
    /// The update's shape. The error is about the names of modules.
    pub fn spec(&self) -> Result<LoraSpec, Problem> {
        let about =
            |field: &'static str| move |e: TargetError| Problem { field: format!("tuning.{field}"), message: e.to_string() };
        let targets = TargetModules::from_names(&self.targets).map_err(about("targets"))?.from_layer(self.first_layer);
        let ranks = Pattern::from_names(&self.rank_pattern, targets).map_err(about("rank_pattern"))?;
        let alphas = Pattern::from_names(&self.alpha_pattern, targets).map_err(about("alpha_pattern"))?;
        let alpha = self.alpha.unwrap_or(self.rank as f64);
        let scale = alpha / self.rank as f64;
        let (by_rank, by_alpha) = (ranks.by_module(), alphas.by_module());
        let alpha_pattern: [_; 6] = std::array::from_fn(|i| by_alpha[i].or_else(|| by_rank[i].map(|rank| scale * rank as f64)));
        Ok(LoraSpec {
            dropout: self.dropout,
            rank_pattern: ranks,
            alpha_pattern: alpha_pattern.into(),
            ..LoraSpec::new(self.rank, alpha, targets)
        })
    }
}

/// The head's shape; the task gives the number of outputs.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeadConfig {
    /// Which token states it reads.
    pub pooling: Pooling,
    /// Whether a dense layer with tanh comes first.
    pub dense: bool,
    /// Dropout before each of its layers.
    pub dropout: f64,
    /// Whether the features are centred first, by random tokens: for a new head, not for a pretrained pooler.
    pub centred: bool,
    /// By how many logits a head that starts from public texts gives them to their class rather than another, on average.
    pub margin: f64,
}

impl Default for HeadConfig {
    fn default() -> Self {
        Self { pooling: Pooling::Mean, dense: false, dropout: 0.0, centred: false, margin: 1.0 }
    }
}

/// Replacements of the pretrained model's functions. Absent fields keep what the model has.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FunctionsConfig {
    /// The feed-forward activation.
    pub activation: Option<Activation>,
    /// The attention weights.
    pub softmax: Option<Softmax>,
    /// Soft caps.
    pub caps: Option<SoftCaps>,
    /// Dropout on hidden states while training; 0 if absent, as noise regularises enough.
    pub hidden_dropout: Option<f64>,
}

/// The privacy target. Neighbouring data sets differ by the addition or removal of one example.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PrivacyConfig {
    /// ε.
    pub epsilon: f64,
    /// δ, far below 1/N.
    pub delta: f64,
    /// C, the largest norm of one example's gradient.
    pub clip: f64,
    /// ε that must never be exceeded, crashes included; with `null`, what crashes cost is reported but not bounded.
    pub max_epsilon: Option<f64>,
    /// Bands of the noise's strategy (BandMF): the noise of so many successive steps partly cancels, and an example enters at most one of them. 1 is
    /// DP-SGD's independent noise.
    #[serde(skip_serializing_if = "one_band")]
    pub bands: u32,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn one_band(bands: &u32) -> bool {
    *bands == 1
}

impl Default for PrivacyConfig {
    fn default() -> Self {
        Self { epsilon: 8.0, delta: 1e-6, clip: 1.0, max_epsilon: None, bands: 1 }
    }
}

/// How logical batches are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sampling {
    /// Each example independently with probability B/N: what the accountants assume.
    #[default]
    Poisson,
    /// Successive batches of a shuffled order. Only without privacy.
    Shuffled,
}

impl TrainConfig {
    /// The trained model's shape: `base` with this configuration's functions, low-rank updates and a head of `outputs`.
    ///
    /// The error is about the names of modules.
    pub fn spec(&self, base: &ModelSpec, outputs: usize) -> Result<ModelSpec, Problem> {
        let lora = match &self.tuning {
            TuningConfig::Lora(lora) => Some(lora.spec()?),
            TuningConfig::Head | TuningConfig::Full => None,
        };
        let HeadConfig { pooling, dense, dropout, .. } = self.head;
        Ok(ModelSpec {
            activation: self.functions.activation.unwrap_or(base.activation),
            softmax: self.functions.softmax.unwrap_or(base.softmax),
            caps: self.functions.caps.unwrap_or(base.caps),
            hidden_dropout: self.functions.hidden_dropout.unwrap_or(0.0),
            lora,
            head: Some(HeadSpec { outputs, pooling, dense, dropout }),
            ..base.clone()
        })
    }

    /// What the model crate calls the tuning.
    pub fn tuning(&self) -> Tuning {
        match &self.tuning {
            TuningConfig::Head => Tuning::Head,
            TuningConfig::Lora(lora) => Tuning::Lora { freeze_a: lora.freeze_a },
            TuningConfig::Full => Tuning::Full,
        }
    }

    /// How `A` starts.
    pub(crate) fn a_init(&self) -> AInit {
        match &self.tuning {
            TuningConfig::Lora(lora) => lora.a_init,
            TuningConfig::Head | TuningConfig::Full => AInit::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_of_another_rank_keeps_the_scale_of_the_rest() {
        let config = LoraConfig {
            rank: 8,
            alpha: Some(4.0),
            rank_pattern: [("value".to_owned(), 32), ("key".to_owned(), 2)].into(),
            alpha_pattern: [("key".to_owned(), 6.0), ("dense".to_owned(), 1.0)].into(),
            ..LoraConfig::default()
        };
        let spec = ModelSpec { lora: Some(config.spec().expect("names targets")), ..ModelSpec::bert_tiny() };
        let shapes = spec.layer_linears(0).map(|l| l.lora.map(|lora| (lora.rank, lora.scale)).expect("every layer is a target"));
        assert_eq!(shapes, [(8, 0.5), (2, 3.0), (32, 0.5), (8, 0.125), (8, 0.125), (8, 0.125)]);

        let stray = LoraConfig { targets: vec!["query".to_owned()], ..config };
        assert_eq!(stray.spec().expect_err("key is no target").field, "tuning.rank_pattern");
    }
}
