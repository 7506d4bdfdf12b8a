//! BERT and RoBERTa encoders with classification heads and LoRA, defined once over the [`Engine`] trait.
//!
//! Every other engine crate is an interpreter of this definition: the f32 oracle and the fixed-point simulation
//! (`sprint-clear`), the trainer (`sprint-train`) and the compiler to a gate program (`sprint-mpc-core`). An approximation is a
//! [`Func`], so training uses the function that is deployed.

mod calibration;
pub mod checkpoint;
mod config;
pub mod conformance;
mod encoder;
mod engine;
mod func;
mod layer;
mod params;
mod path;
mod spec;
mod targets;
mod text;
mod validate;

pub use calibration::{Calibration, CalibrationError, LayerRanges, Range, ScoreRange};
pub use checkpoint::{Checkpoint, CheckpointError, TensorData};
pub use config::{ConfigError, MAX_CONFIG_BYTES};
pub use encoder::{
    attention, classify, dense, embed, encode, encode_and_classify, encode_from_and_classify, encode_layers, logits,
    self_attention,
};
pub use engine::{EmbeddingEngine, Engine};
pub use func::Func;
pub use layer::{Embedding, LayerNorm, Linear, Lora};
pub use params::{ParamKind, Parameter, Part, Tuning, WeightPolicy};
pub use path::{ParamPath, Visibility};
pub use spec::{Activation, Architecture, HeadSpec, LoraSpec, ModelSpec, Pooling, SoftCaps, Softmax, TargetModules};
pub use targets::{Pattern, TargetError};
pub use text::{
    Batch, BatchError, Bucket, Encoded, Example, Label, MAX_TOKENIZER_BYTES, TextEncoder, TextError, buckets_by_length,
};
pub use validate::{Problem, SpecError};
