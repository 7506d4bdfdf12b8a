//! Models with strong random weights, and every way to run them.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::path::Path;
use std::sync::Arc;

use sprint_clear::float::{self, Margin, calibrate};
use sprint_model::{
    Architecture, Batch, Calibration, Checkpoint, Example, HeadSpec, LoraSpec, ModelSpec, ParamKind, Pooling, TargetModules,
    WeightPolicy,
};
use sprint_mpc_core::{
    InMemory, Options, Output, PrivateWeights, Program, PublicWeights, ReplicatedCost, ReplicatedProgram, ReplicatedReport,
    RunReport, ThreeInMemory, compile, encode_inputs, share_weights_in_three,
};

/// Frozen `A`, as the trainer leaves it.
pub(crate) const POLICY: WeightPolicy = WeightPolicy::PublicBase { public_a: true };

/// A pretrained encoder with a random head and random low-rank updates.
pub(crate) fn quickstart(change: impl Fn(&mut ModelSpec)) -> Checkpoint {
    let base = Checkpoint::open(Path::new("../../workflows/quickstart/bert-tiny-5k"))
        .expect("the quickstart's encoder is in the repository");
    let mut spec = base.spec().clone();
    spec.lora = Some(LoraSpec::new(8, 16.0, TargetModules::default()));
    spec.head = Some(HeadSpec { outputs: 2, pooling: Pooling::First, dense: false, dropout: 0.0 });
    change(&mut spec);
    let extra = Checkpoint::random(spec.clone(), 7).expect("a valid spec").into_parts().1;
    let missing: Vec<_> = base.clone().with_spec(spec.clone()).expect("the encoder fits").missing();
    let extra = extra.into_iter().filter(|(path, _)| missing.contains(path)).collect();
    base.with_spec(spec).expect("the encoder fits").with_params("random", extra).expect("the rest fits")
}

/// A model of one small layer.
pub(crate) fn tiny(change: impl FnOnce(&mut ModelSpec)) -> ModelSpec {
    let mut spec = ModelSpec {
        architecture: Architecture::Bert,
        layers: 1,
        hidden: 24,
        heads: 2,
        intermediate: 48,
        vocab: 90,
        positions: 32,
        token_types: 2,
        pad_token: 0,
        head: Some(HeadSpec { outputs: 2, pooling: Pooling::First, dense: false, dropout: 0.0 }),
        lora: Some(LoraSpec::new(4, 4.0, TargetModules::default())),
        ..ModelSpec::bert_tiny()
    };
    change(&mut spec);
    spec
}

/// Random weights, scaled so that each dense layer keeps the size of what it reads, as trained ones do: functions then see arguments
/// of size 1, not the 0.05 of an initialisation.
pub(crate) fn strong(spec: ModelSpec) -> Checkpoint {
    let (spec, mut params) = Checkpoint::random(spec, 11).expect("a valid spec").into_parts();
    for p in spec.parameters().into_iter().filter(|p| p.kind == ParamKind::Weight) {
        let gain = 50.0 / (*p.shape.last().expect("a matrix") as f32).sqrt();
        let tensor = params.get_mut(&p.path).expect("random models are complete");
        tensor.data_mut().iter_mut().for_each(|w| *w *= gain);
    }
    Checkpoint::from_params("strong", spec, params).expect("the same shapes")
}

/// Fills words from a fixed seed (Steele, Lea and Flood's SplitMix64): the tests are the same in every run.
fn seeded(mut state: u64) -> impl FnMut(&mut [u64]) {
    move |words| {
        for word in words {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            *word = mixed ^ (mixed >> 31);
        }
    }
}

/// Examples of these lengths, token types alternating where the model has any.
pub(crate) fn examples(spec: &ModelSpec, lengths: &[usize]) -> Vec<Example> {
    let id = |row: usize, i: usize| (5 + (row * 977 + i * 131 + i * i * 17) % (spec.vocab - 5)) as u32;
    let example = |(row, len): (usize, &usize)| Example {
        ids: (0..*len).map(|i| id(row, i)).collect(),
        type_ids: (0..*len).map(|i| u8::from(spec.token_types > 1 && 2 * i >= *len)).collect(),
        label: None,
    };
    lengths.iter().enumerate().map(example).collect()
}

/// Ranges of `model` on batches of other examples of these lengths.
pub(crate) fn calibration(model: &Checkpoint, tokens: usize, samples: &[&[usize]]) -> Calibration {
    let batches = samples.iter().map(|lengths| {
        let mut examples = examples(model.spec(), lengths);
        examples.iter_mut().for_each(|e| e.ids.reverse());
        Batch::new(&examples, tokens, model.spec().pad_token).expect("a batch")
    });
    calibrate(model, &batches.collect::<Vec<_>>(), Margin::default()).expect("runs")
}

/// One batch through the float oracle, the simulation on ring integers, and two parties with a dealer.
pub(crate) struct Runs {
    pub(crate) program: Arc<Program>,
    pub(crate) float: Vec<Vec<f32>>,
    pub(crate) fixed: Vec<Vec<f32>>,
    pub(crate) mpc: RunReport,
}

type All = (Arc<Program>, Vec<Vec<f32>>, [Result<RunReport, String>; 2]);

impl Runs {
    pub(crate) fn of(model: &Checkpoint, options: &Options, lengths: &[usize]) -> Result<Self, String> {
        let (program, float, [fixed, mpc]) = Self::all(model, options, lengths)?;
        Ok(Self { program, float, fixed: fixed?.logits, mpc: mpc? })
    }

    /// What the simulation and the parties answer, each.
    pub(crate) fn both(model: &Checkpoint, options: &Options, lengths: &[usize]) -> [Result<RunReport, String>; 2] {
        Self::all(model, options, lengths).expect("compiles").2
    }

    fn all(model: &Checkpoint, options: &Options, lengths: &[usize]) -> Result<All, String> {
        let examples = examples(model.spec(), lengths);
        let batch = Batch::new(&examples, options.tokens, model.spec().pad_token).expect("a batch");
        let program = Arc::new(compile(model.spec(), options).map_err(|e| e.to_string())?);
        let public = Arc::new(PublicWeights::prepare(&program, model).map_err(|e| e.to_string())?);
        let private = PrivateWeights::share(&program, model, &mut seeded(1)).expect("private weights");
        let runner = InMemory::new(Arc::clone(&program), public, private);
        let embedded = float::embed_only(model, &batch).expect("embeds");
        let input = encode_inputs(&program, &batch, embedded.data()).expect("encodes");
        let fixed = runner.simulate(&input).map_err(|e| e.to_string());
        let fixed = fixed.map(|logits| RunReport { logits, ..RunReport::default() });
        let mpc = runner.run(&input, [[1; 32], [2; 32]], &mut seeded(2)).map_err(|e| e.to_string());
        let float = clear(model, options, &batch);
        // The weights serve programs of other lengths.
        let longer = Options { tokens: 3 * options.tokens, ..options.clone() };
        let longer = Arc::new(compile(model.spec(), &longer).map_err(|e| e.to_string())?);
        runner.reshaped(longer).map_err(|e| e.to_string())?;
        Ok((program, float, [fixed, mpc]))
    }

    /// Largest differences to the float model, of the simulation and of the parties.
    pub(crate) fn distances(&self) -> [f32; 2] {
        [&self.fixed, &self.mpc.logits].map(|x| distance(&self.float, x))
    }

    /// Holds the measured cost against the declared one.
    pub(crate) fn assert_cost(&self, name: &str) {
        let cost = self.program.cost();
        assert_eq!(self.mpc.rounds, cost.rounds, "{name}: rounds");
        assert_eq!(self.mpc.online_bytes, [cost.online_bytes; 2], "{name}: online bytes");
        assert_eq!(self.mpc.dealer_bytes, cost.dealer_bytes, "{name}: dealer bytes");
    }
}

/// One batch through the float oracle and three servers.
pub(crate) struct Three {
    pub(crate) cost: ReplicatedCost,
    pub(crate) float: Vec<Vec<f32>>,
    pub(crate) mpc: ReplicatedReport,
}

impl Three {
    pub(crate) fn of(model: &Checkpoint, options: &Options, lengths: &[usize], seed: u8) -> Result<Self, String> {
        let examples = examples(model.spec(), lengths);
        let batch = Batch::new(&examples, options.tokens, model.spec().pad_token).expect("a batch");
        let program = Arc::new(compile(model.spec(), options).map_err(|e| e.to_string())?);
        let plan = Arc::new(ReplicatedProgram::new(Arc::clone(&program)).map_err(|e| e.to_string())?);
        let public = Arc::new(PublicWeights::prepare(&program, model).map_err(|e| e.to_string())?);
        let mut mask = seeded(u64::from(seed));
        let private = PrivateWeights::share(&program, model, &mut mask).map_err(|e| e.to_string())?;
        let private = share_weights_in_three(private, &mut mask);
        let runner = ThreeInMemory::new(Arc::clone(&plan), public, private).map_err(|e| e.to_string())?;
        let embedded = float::embed_only(model, &batch).expect("embeds");
        let input = encode_inputs(&program, &batch, embedded.data()).expect("encodes");
        let mpc = runner.run(&input, [seed; 32], &mut mask).map_err(|e| e.to_string())?;
        Ok(Self { cost: plan.cost(), float: clear(model, options, &batch), mpc })
    }

    /// Largest difference to the float model.
    pub(crate) fn distance(&self) -> f32 {
        distance(&self.float, &self.mpc.logits)
    }

    /// Holds the measured cost against the declared one.
    pub(crate) fn assert_cost(&self, name: &str) {
        assert_eq!(self.mpc.rounds, self.cost.rounds, "{name}: rounds");
        assert_eq!(self.mpc.online_bytes, self.cost.online_bytes, "{name}: online bytes");
    }
}

/// What the float model answers.
fn clear(model: &Checkpoint, options: &Options, batch: &Batch) -> Vec<Vec<f32>> {
    match options.output {
        Output::Logits => float::run_logits(model, batch).expect("runs"),
        Output::Hidden => {
            let hidden = float::run_hidden(model, batch).expect("runs");
            hidden.data().chunks_exact(options.tokens * model.spec().hidden).map(<[f32]>::to_vec).collect()
        }
    }
}

/// Largest `|a - b|`; infinite where the shapes differ.
pub(crate) fn distance(a: &[Vec<f32>], b: &[Vec<f32>]) -> f32 {
    if a.iter().map(Vec::len).ne(b.iter().map(Vec::len)) {
        return f32::INFINITY;
    }
    a.iter().flatten().zip(b.iter().flatten()).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max)
}
