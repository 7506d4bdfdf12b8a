//! Small models and batches with nothing zero, nothing one and nothing equal.

use crate::{
    Activation, Architecture, Batch, Checkpoint, Example, HeadSpec, LoraSpec, ModelSpec, ParamKind, Pooling, SoftCaps, Softmax,
    TargetModules, TensorData,
};

/// A checkpoint and a batch of three texts of different lengths, one of them a single token.
#[derive(Debug)]
pub struct Fixture {
    /// What is special about the model.
    pub name: &'static str,
    /// Complete weights.
    pub checkpoint: Checkpoint,
    /// Lengths 5, 1 and 7, padded to 8.
    pub batch: Batch,
}

impl Fixture {
    /// The fixture of a spec; a function of the spec alone.
    pub fn new(name: &'static str, spec: ModelSpec) -> Self {
        let mut noise = Noise::new(7);
        let mut example = |length: usize| Example {
            ids: (0..length).map(|_| noise.below(spec.vocab) as u32).collect(),
            type_ids: (0..length).map(|_| noise.below(spec.token_types) as u8).collect(),
            label: None,
        };
        let examples = [5, 1, 7].map(&mut example);
        let batch = Batch::new(&examples, 8, spec.pad_token).expect("three texts of at most 8 tokens");
        Self { name, checkpoint: weights(spec), batch }
    }
}

/// Weights of the scale at which activations stay near 1; gains near 1 and small biases, none of them exact.
fn weights(spec: ModelSpec) -> Checkpoint {
    let mut noise = Noise::new(11);
    let tensor = |shape: Vec<usize>, kind, noise: &mut Noise| {
        let scale = match kind {
            ParamKind::Weight => (3.0 / shape[1] as f64).sqrt(),
            ParamKind::Table => 1.0,
            ParamKind::Bias | ParamKind::NormGain | ParamKind::NormShift => 0.25,
        };
        let centre = if kind == ParamKind::NormGain { 1.0 } else { 0.0 };
        let data = (0..shape.iter().product()).map(|_| (centre + scale * noise.unit()) as f32).collect();
        TensorData::new(shape, data).expect("as many values as the shape has")
    };
    let params = spec.parameters().into_iter().map(|p| {
        let values = tensor(p.shape, p.kind, &mut noise);
        (p.path, values)
    });
    let params = params.collect();
    Checkpoint::from_params("fixture", spec, params).expect("a tensor for every parameter")
}

/// Small specs that together use every softmax, activation, cap, pooling, head and architecture.
pub fn variants() -> Vec<Fixture> {
    let lora = LoraSpec { dropout: 0.1, ..LoraSpec::new(2, 3.0, TargetModules::default()) };
    let head = HeadSpec { outputs: 3, pooling: Pooling::First, dense: true, dropout: 0.1 };
    let bert = ModelSpec {
        architecture: Architecture::Bert,
        layers: 2,
        hidden: 16,
        heads: 4,
        intermediate: 24,
        vocab: 40,
        positions: 12,
        token_types: 2,
        layer_norm_eps: 1e-12,
        pad_token: 0,
        activation: Activation::Gelu,
        softmax: Softmax::Exact,
        caps: SoftCaps::default(),
        hidden_dropout: 0.1,
        lora: None,
        head: None,
    };
    let with_head = ModelSpec { head: Some(head.clone()), ..bert.clone() };
    let tuned = ModelSpec { lora: Some(lora), ..with_head.clone() };
    let query_value = TargetModules { query: true, value: true, ..TargetModules::NONE };
    let mean = HeadSpec { pooling: Pooling::Mean, dense: false, outputs: 1, ..head };
    let one = |activation, softmax| ModelSpec { layers: 1, activation, softmax, ..with_head.clone() };
    let caps = SoftCaps { embedding: Some(3.0), attention: Some(4.0), logits: Some(2.0) };
    vec![
        Fixture::new("bert without head", bert),
        Fixture::new("bert with lora", tuned.clone()),
        Fixture::new(
            "roberta with lora on query and value, mean pooling and one output",
            ModelSpec {
                architecture: Architecture::Roberta,
                pad_token: 1,
                token_types: 1,
                lora: Some(LoraSpec { targets: query_value, ..lora }),
                head: Some(mean),
                ..tuned.clone()
            },
        ),
        Fixture::new("roberta with a dense head", ModelSpec { architecture: Architecture::Roberta, pad_token: 1, ..tuned }),
        Fixture::new("soft caps", ModelSpec { caps, ..one(Activation::Gelu, Softmax::Exact) }),
        Fixture::new("relu, shifted softmax", one(Activation::Relu, Softmax::Shifted { shift: 8.0 })),
        Fixture::new("relu6, scaled softmax", one(Activation::Relu6, Softmax::Scaled { temperature: 2.5 })),
        Fixture::new("gelu_tanh, 2relu", one(Activation::GeluTanh, Softmax::TwoRelu { eps: 0.01 })),
        Fixture::new("bolt_gelu, 2quad", one(Activation::BoltGelu, Softmax::TwoQuad { c: 5.0 })),
        Fixture::new("hard_gelu, relu over length", one(Activation::HardGelu, Softmax::ReluOverLength)),
        Fixture::new("hard_swish, scores over length", one(Activation::HardSwish, Softmax::ScoresOverLength)),
        Fixture::new("quad, exact softmax", one(Activation::Quad, Softmax::Exact)),
    ]
}

/// A stream of test values (SplitMix64; Steele, Lea and Flood 2014). Not for anything secret.
#[derive(Debug)]
pub struct Noise(u64);

impl Noise {
    /// The stream of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[-1, 1)`.
    pub fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
    }

    /// Uniform in `[lo, hi)`.
    pub fn between(&mut self, lo: f64, hi: f64) -> f64 {
        lo + (hi - lo) * 0.5 * (self.unit() + 1.0)
    }

    /// Uniform below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.word() % bound as u64) as usize
    }
}
