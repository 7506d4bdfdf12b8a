//! A recipe, and its translation into the trainer's configuration.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sprint_model::{Example, Pooling};
use sprint_stage_api::{ParamProblem, StageError};
use sprint_train::{
    AInit, BackendKind, Decay, FunctionsConfig, HeadConfig, LoraConfig, OptimiserConfig, PrivacyConfig, Sampling, Schedule,
    TrainConfig, TuningConfig,
};

use super::head_start::HeadStart;
use crate::params::Params;

/// Parameters of `finetune@1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FinetuneParams {
    /// The privacy budget ε, or `none` to train without privacy (the result is stamped so).
    epsilon: Budget,
    /// δ, the chance that ε does not hold; far below one over the number of examples.
    #[serde(default = "default_delta")]
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    delta: f64,
    /// ε that must never be exceeded, crashes included; without it, what crashes cost is reported but not bounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    max_epsilon: Option<f64>,
    /// The largest norm of one example's gradient.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    clip: f64,
    /// Bands of correlated noise (BandMF): the noise of so many successive steps partly cancels in their sum, and an example enters at most one of them.
    /// 1 or none is DP-SGD's independent noise. At most examples/batch, and a sixteenth more than steps. Learning rates of AdamW grow with it: single steps are noisier, their sums less so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 256))]
    bands: Option<u32>,
    /// What is trained beside the head.
    #[serde(default)]
    method: Method,
    /// LoRA's inner dimension.
    #[serde(default = "default_rank")]
    #[schemars(range(min = 1, max = 4096))]
    rank: usize,
    /// LoRA's update is scaled by `alpha/rank`; equal to the rank if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    alpha: Option<f64>,
    /// Which layers LoRA updates: `query`, `dense`, `attention.output.dense`, `all-linear`.
    #[serde(default = "default_targets")]
    targets: Vec<String>,
    /// LoRA's rank of single modules, by names as in `targets`: `{value: 64}`.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    rank_pattern: std::collections::BTreeMap<String, usize>,
    /// LoRA's alpha of single modules: `{query: 4, output.dense: 8}`. A module's share of the clipped norm, and what noise does to its weights, grow
    /// with it. A module of another rank and no alpha of its own keeps the `alpha/rank` of the rest, where PEFT keeps alpha.
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    alpha_pattern: std::collections::BTreeMap<String, f64>,
    /// The lowest encoder layer that LoRA updates. The layers below stay public: they need no backward pass, and no private weights in inference.
    #[serde(default)]
    first_layer: usize,
    /// How LoRA's A starts.
    #[serde(default)]
    init: Init,
    /// Modules trained in full beside the rest, by name: `pooler`, `LayerNorm`.
    #[serde(default)]
    modules_to_save: Vec<String>,
    /// Which token states the head reads.
    #[serde(default)]
    pooling: Pool,
    /// Whether the head begins with a dense layer and tanh.
    #[serde(default)]
    dense_head: bool,
    /// Dropout before the head's layers.
    #[serde(default)]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    dropout: f64,
    /// Whether what all encoded texts have in common is taken out of the features first (measured on random tokens, so it costs no
    /// privacy): for a new head, not for a pretrained pooler.
    #[serde(default)]
    centred: bool,
    /// Public words that describe each class, from whose encodings a linear head starts instead of at random; costs no privacy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    head_start: Option<HeadStart>,
    /// Trains LoRA's B within so many directions of each layer's outputs: those in which the texts of `head_start` have gradients. Noise reaches the
    /// trained values alone, so there is less of it; costs no privacy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    public_basis: Option<usize>,
    /// Functions of the model that training and deployment replace: `{activation: …, softmax: …, caps: …, hidden_dropout: …}`.
    #[serde(default)]
    functions: Map<String, Value>,
    /// Leaves examples with fewer tokens (special ones included) out of training: short phrases teach little about whole sentences. Each example is
    /// judged by itself, so the budget holds for those left out as well; the number left stands in the privacy report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    min_tokens: Option<usize>,
    /// Passes over the training data, possibly fractional.
    #[serde(default = "default_epochs")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    epochs: f64,
    /// The expected number of examples in a step.
    #[serde(default = "default_batch")]
    #[schemars(range(min = 1))]
    batch: usize,
    /// The most examples computed at once; memory and speed, not the result.
    #[serde(default = "default_microbatch")]
    #[schemars(range(min = 1))]
    microbatch: usize,
    /// The peak learning rate.
    #[serde(default = "default_lr")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    lr: f64,
    /// Factor on the learning rate for the head.
    #[serde(default = "default_head_rate")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    head_rate: f64,
    /// The optimiser.
    #[serde(default)]
    optimiser: OptimiserName,
    /// Settings of the optimiser: `weight_decay`, `momentum` (sgd), `beta1`, `beta2`, `eps` (adamw), `floor` (dp_adambc).
    #[serde(default)]
    optimiser_options: std::collections::BTreeMap<String, f64>,
    /// The learning rate's course after the warm-up.
    #[serde(default)]
    schedule: Course,
    /// The factor of one step of the exponential schedule.
    #[serde(default = "one")]
    #[schemars(range(max = 1), extend("exclusiveMinimum" = 0))]
    gamma: f64,
    /// The fraction of all steps during which the rate rises.
    #[serde(default)]
    #[schemars(range(min = 0), extend("exclusiveMaximum" = 1))]
    warm_up: f64,
    /// The fraction of the last steps whose parameters are averaged into the model; averaging noise away costs no privacy.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1))]
    average: f64,
    /// Seed of initial values and dropout; public, for neither depends on the data.
    #[serde(default)]
    init_seed: u64,
    /// Makes sampling and noise reproducible, for tests. The result is stamped "not private": whoever knows the seed can
    /// subtract the noise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seed: Option<u64>,
    /// Steps between checkpoints; a crash repeats, and pays for, at most so many.
    #[serde(default = "default_snapshot")]
    #[schemars(range(min = 1))]
    checkpoint_steps: u64,
    /// Where burn computes.
    #[serde(default)]
    device: DeviceName,
}

/// A number, or `none`.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Budget {
    Epsilon(f64),
    None,
}

impl Serialize for Budget {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Epsilon(epsilon) => serializer.serialize_f64(*epsilon),
            Self::None => serializer.serialize_str("none"),
        }
    }
}

impl<'de> Deserialize<'de> for Budget {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        match Value::deserialize(deserializer)? {
            Value::String(text) if text == "none" => Ok(Self::None),
            Value::Number(n) => n.as_f64().map(Self::Epsilon).ok_or_else(|| Error::custom("not a number")),
            other => Err(Error::custom(format!("{other} is neither a number nor \"none\""))),
        }
    }
}

impl JsonSchema for Budget {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Budget".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"const": "none"}]})
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident),+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(rename_all = "snake_case")]
        enum $name { $($(#[$vdoc])* $variant),+ }
    };
}

words! {
    /// What is trained beside the head.
    Method {
        /// Low-rank updates, both factors.
        Lora,
        /// Low-rank updates with A frozen at its random start (Sun et al. 2024): half the noise, and A can stay public.
        #[default]
        #[serde(rename = "fa-lora", alias = "fa_lora")]
        FaLora,
        /// Nothing.
        Head,
        /// Everything.
        Full
    }
}
words! {
    /// How LoRA's A starts.
    Init { Normal, #[default] KaimingUniform, KaimingNormal, XavierUniform, XavierNormal, Orthogonal }
}
words! {
    /// Which token states the head reads.
    Pool {
        /// Their mean.
        #[default]
        Mean,
        /// The first token's.
        First
    }
}
words! {
    /// The optimiser.
    OptimiserName {
        #[default]
        Adamw,
        Sgd,
        /// Adam with the noise's own variance subtracted (Tang et al. 2024).
        DpAdambc
    }
}
words! {
    /// The learning rate's course after the warm-up.
    Course { #[default] Linear, None, Cosine, Exponential }
}
words! {
    /// Where burn computes.
    DeviceName { #[default] Flex, Wgpu, Tch }
}

const fn one() -> f64 {
    1.0
}
const fn default_delta() -> f64 {
    1e-6
}
const fn default_rank() -> usize {
    16
}
fn default_targets() -> Vec<String> {
    vec!["all-linear".to_owned()]
}
const fn default_epochs() -> f64 {
    3.0
}
const fn default_batch() -> usize {
    256
}
const fn default_microbatch() -> usize {
    32
}
const fn default_head_rate() -> f64 {
    1.0
}
const fn default_lr() -> f64 {
    2e-3
}
const fn default_snapshot() -> u64 {
    10
}

impl FinetuneParams {
    /// The trainer's configuration on so many threads.
    pub(super) fn config(&self, threads: usize) -> Result<TrainConfig, Vec<ParamProblem>> {
        let mut problems = Vec::new();
        let optimiser = self.optimiser().unwrap_or_else(|e| {
            problems.push(ParamProblem::new(&["optimiser_options"], e));
            OptimiserConfig::default()
        });
        let functions = serde_json::from_value::<FunctionsConfig>(Value::Object(self.functions.clone())).unwrap_or_else(|e| {
            problems.push(ParamProblem::new(&["functions"], e.to_string()));
            FunctionsConfig::default()
        });
        if let Err(problem) = self.lora(true).spec() {
            problems.push(ParamProblem::new(&[problem.field.trim_start_matches("tuning.")], problem.message));
        }
        if let (Budget::Epsilon(epsilon), Some(max)) = (self.epsilon, self.max_epsilon)
            && max < epsilon
        {
            problems.push(ParamProblem::new(&["max_epsilon"], format!("{max} is below epsilon = {epsilon}")));
        }
        if self.public_basis.is_some() && (self.head_start.is_none() || matches!(self.method, Method::Head | Method::Full)) {
            let message = "needs method lora or fa-lora, and the texts of head_start to find the directions by".to_owned();
            problems.push(ParamProblem::new(&["public_basis"], message));
        }
        if let Some(start) = &self.head_start {
            start.check(&mut problems);
            if self.dense_head {
                problems.push(ParamProblem::new(&["dense_head"], "a head that starts from words has one layer".to_owned()));
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let privacy = match self.epsilon {
            Budget::Epsilon(epsilon) => Some(PrivacyConfig {
                epsilon,
                delta: self.delta,
                clip: self.clip,
                max_epsilon: self.max_epsilon,
                bands: self.bands.unwrap_or(1),
            }),
            Budget::None => None,
        };
        Ok(TrainConfig {
            tuning: self.tuning(),
            head: HeadConfig {
                pooling: self.pooling(),
                dense: self.dense_head,
                dropout: self.dropout,
                centred: self.centred,
                margin: self.head_start.as_ref().map_or(1.0, HeadStart::margin),
            },
            modules_to_save: self.modules_to_save.clone(),
            functions,
            privacy,
            sampling: Sampling::Poisson,
            batch_size: self.batch,
            epochs: self.epochs,
            microbatch: self.microbatch,
            learning_rate: self.lr,
            head_rate: self.head_rate,
            optimiser,
            schedule: Schedule { decay: self.decay(), warm_up: self.warm_up },
            average: self.average,
            init_seed: self.init_seed,
            seed: self.seed,
            device: match self.device {
                DeviceName::Flex => BackendKind::Flex,
                DeviceName::Wgpu => BackendKind::Wgpu,
                DeviceName::Tch => BackendKind::Tch,
            },
            threads,
            snapshot_every: self.checkpoint_steps,
        })
    }

    /// Drops the examples that the recipe leaves out.
    pub(super) fn select(&self, examples: Vec<Example>) -> Result<Vec<Example>, StageError> {
        let Some(least) = self.min_tokens else { return Ok(examples) };
        let longest = examples.iter().map(|e| e.ids.len()).max().unwrap_or(0);
        let left: Vec<Example> = examples.into_iter().filter(|e| e.ids.len() >= least).collect();
        if left.is_empty() {
            let message = format!("params.min_tokens: no training example has {least} tokens; the longest has {longest}");
            return Err(StageError::permanent(message).help("give fewer, or leave it out"));
        }
        Ok(left)
    }

    /// Words that describe the classes.
    pub(super) fn head_start(&self) -> Option<&HeadStart> {
        self.head_start.as_ref()
    }

    /// δ of the budget.
    pub(super) fn delta(&self) -> f64 {
        self.delta
    }

    fn tuning(&self) -> TuningConfig {
        match self.method {
            Method::Lora => TuningConfig::Lora(self.lora(false)),
            Method::FaLora => TuningConfig::Lora(self.lora(true)),
            Method::Head => TuningConfig::Head,
            Method::Full => TuningConfig::Full,
        }
    }

    fn lora(&self, freeze_a: bool) -> LoraConfig {
        let a_init = match self.init {
            Init::Normal => AInit::Normal,
            Init::KaimingUniform => AInit::KaimingUniform,
            Init::KaimingNormal => AInit::KaimingNormal,
            Init::XavierUniform => AInit::XavierUniform,
            Init::XavierNormal => AInit::XavierNormal,
            Init::Orthogonal => AInit::Orthogonal,
        };
        LoraConfig {
            rank: self.rank,
            alpha: self.alpha,
            dropout: 0.0,
            targets: self.targets.clone(),
            rank_pattern: self.rank_pattern.clone(),
            alpha_pattern: self.alpha_pattern.clone(),
            first_layer: self.first_layer,
            a_init,
            freeze_a,
            public_basis: self.public_basis,
        }
    }

    fn pooling(&self) -> Pooling {
        match self.pooling {
            Pool::Mean => Pooling::Mean,
            Pool::First => Pooling::First,
        }
    }

    fn decay(&self) -> Decay {
        match self.schedule {
            Course::Linear => Decay::Linear,
            Course::None => Decay::None,
            Course::Cosine => Decay::Cosine,
            Course::Exponential => Decay::Exponential { gamma: self.gamma },
        }
    }

    fn optimiser(&self) -> Result<OptimiserConfig, String> {
        let mut map = Map::new();
        map.insert("kind".to_owned(), json!(self.optimiser));
        map.extend(self.optimiser_options.iter().map(|(name, value)| (name.clone(), json!(value))));
        serde_json::from_value(Value::Object(map)).map_err(|e| e.to_string())
    }
}

impl Params for FinetuneParams {
    fn check(&self, problems: &mut Vec<ParamProblem>) {
        if let Err(found) = self.config(1) {
            problems.extend(found);
        }
    }
}
