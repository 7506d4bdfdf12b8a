//! How fast this machine trains: a fixed number of steps on random weights and random tokens.

use sprint_dp::budget::{ClipNorm, NoiseMultiplier, SamplingRate};
use sprint_dp::ledger::{Ledger, MemorySink, RunId, RunTerms};
use sprint_dp::mechanism::{GridBits, GridConfig, GridMechanism, Strategy};
use sprint_dp::randomness::RandomSource;
use sprint_model::{Checkpoint, Example, Label, ModelSpec, Pooling};

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::config::TrainConfig;
use crate::device::Backend;
use crate::error::TrainError;
use crate::run::Run;

/// The process's clocks, handed in by the composition root.
pub trait Meter {
    /// Seconds on a monotonic clock.
    fn wall_s(&self) -> f64;
    /// Processor seconds of this process, all threads.
    fn cpu_s(&self) -> f64;
    /// The largest resident set so far, in bytes.
    fn peak_rss(&self) -> u64;
}

/// What to measure.
#[derive(Debug, Clone, PartialEq)]
pub struct BenchRequest {
    /// The encoder's shape; weights are random.
    pub base: ModelSpec,
    /// The recipe. `microbatch`, `threads`, `device` and `tuning` matter for speed; with `privacy: null` gradients are summed without clipping.
    pub config: TrainConfig,
    /// Tokens of each example; the examples are one logical batch.
    pub lengths: Vec<usize>,
    /// Measured steps, each over all examples; one more, not measured, comes first.
    pub steps: usize,
}

/// What was measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BenchResult {
    /// Examples a second.
    pub samples_per_s: f64,
    /// Processor seconds an example.
    pub cpu_s_per_sample: f64,
    /// Real tokens (no padding) a second.
    pub tokens_per_s: f64,
    /// Bytes.
    pub peak_rss: u64,
    /// burn's backend.
    pub backend: String,
    /// Workers.
    pub threads: usize,
    /// Trained parameters.
    pub trained_parameters: usize,
    /// Examples of a step.
    pub batch: usize,
    /// Multiply-adds of the frozen matrices alone, as many as are computed forward and backward to the activations, a second and counted as two operations:
    /// what to hold against the machine's matrix-product peak.
    pub gflops: f64,
    /// What plain f32 matrix products of a layer's size reach here, all workers at once: 10⁹ operations a processor second of one worker.
    pub gemm_peak_gflops: f64,
    /// The frozen matrices' operations a processor second over that peak: 1 would be a step that is nothing but those products.
    pub gemm_share: f64,
}

/// Trains random weights for `request.steps` steps through the trainer's own gradient, clipping, noise and optimiser.
pub fn bench_train(request: &BenchRequest, meter: &dyn Meter) -> Result<BenchResult, TrainError> {
    let config = TrainConfig { batch_size: request.lengths.len(), ..request.config.clone() };
    let examples = random_examples(&request.base, &request.lengths);
    let (spec, layout) = config.validate(&request.base, &examples, 2)?;
    let model = Checkpoint::random(spec.clone(), 1).map_err(sprint_model::CheckpointError::from)?;
    let mut run = Run::prepare(&examples, &config, &model, layout, Backend::open(config.device)?)?;
    let mut noisy = config.privacy.map(|p| Noise::new(p.clip, &run)).transpose()?;
    let batch: Vec<usize> = (0..examples.len()).collect();
    let mut step = |run: &mut Run<'_>| -> Result<(), TrainError> {
        let (mean, variance) = match &mut noisy {
            Some(noise) => noise.step(run, &batch, &config)?,
            None => (run.summed(&batch, &config)?.0.iter().map(|g| (g / batch.len() as f64) as f32).collect(), 0.0),
        };
        run.apply(&mean, config.learning_rate, variance);
        Ok(())
    };
    step(&mut run)?;
    let (wall, cpu) = (meter.wall_s(), meter.cpu_s());
    for _ in 0..request.steps.max(1) {
        step(&mut run)?;
    }
    let (wall, cpu) = (meter.wall_s() - wall, meter.cpu_s() - cpu);
    let peak = gemm_peak(&run, &spec, meter)?;
    let samples = (request.steps.max(1) * examples.len()) as f64;
    let tokens = (request.steps.max(1) * request.lengths.iter().sum::<usize>()) as f64;
    let operations = 2.0 * (request.steps.max(1) * multiply_adds(&spec, &request.lengths)) as f64;
    Ok(BenchResult {
        samples_per_s: samples / wall,
        cpu_s_per_sample: cpu / samples,
        tokens_per_s: tokens / wall,
        peak_rss: meter.peak_rss(),
        backend: config.device.name().to_owned(),
        threads: run.threads(),
        trained_parameters: run.dim(),
        batch: examples.len(),
        gflops: operations / wall / 1e9,
        gemm_peak_gflops: peak,
        gemm_share: operations / cpu / 1e9 / peak,
    })
}

/// The rate of products `[1024, hidden] × [hidden, intermediate]` in 10⁹ operations a processor second.
fn gemm_peak(run: &Run<'_>, spec: &ModelSpec, meter: &dyn Meter) -> Result<f64, TrainError> {
    const ROWS: usize = 1024;
    const PRODUCTS: usize = 4;
    let (inner, columns) = (spec.hidden, spec.intermediate);
    let product = |(): &mut (), _: usize| -> Result<(), TrainError> {
        let a = Tensor::<2>::ones([ROWS, inner], run.backend().device());
        let b = Tensor::<2>::ones([inner, columns], run.backend().device());
        for _ in 0..PRODUCTS {
            std::hint::black_box(a.clone().matmul(b.clone()).into_data());
        }
        Ok(())
    };
    run.on_workers(1, product)?;
    let before = meter.cpu_s();
    run.on_workers(4, product)?;
    let operations = 2.0 * (ROWS * inner * columns * PRODUCTS * 4 * run.threads()) as f64;
    Ok(operations / (meter.cpu_s() - before) / 1e9)
}

/// Multiply-adds of a step's frozen matrices: the outputs, and the gradients of what they read. The lowest trained layer's queries, keys and values
/// need no such gradient, and where the head reads the first token, all but the last layer's keys and values are of that token alone.
fn multiply_adds(spec: &ModelSpec, lengths: &[usize]) -> usize {
    let lowest = spec.lora.as_ref().map(|lora| lora.targets.first_layer);
    let first_alone = spec.head.as_ref().is_some_and(|head| head.pooling == Pooling::First);
    let layer = |index: usize| -> usize {
        let products = spec.layer_linears(index).into_iter().enumerate().map(|(module, linear)| {
            let [asks, told] = [module == 0, module == 1 || module == 2];
            let rows = if first_alone && index + 1 == spec.layers && !told { lengths.len() } else { lengths.iter().sum() };
            let passes = if Some(index) == lowest && (asks || told) { 1 } else { 2 };
            passes * rows * linear.inputs * linear.outputs
        });
        products.sum()
    };
    (lowest.unwrap_or(0)..spec.layers).map(layer).sum()
}

/// Examples of the given lengths; token ids are a fixed sequence.
fn random_examples(spec: &ModelSpec, lengths: &[usize]) -> Vec<Example> {
    let mut state = 1_u64;
    let mut token = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 33) % spec.vocab as u64) as u32
    };
    let mut example = |(i, length): (usize, &usize)| Example {
        ids: (0..(*length).max(1)).map(|_| token()).collect(),
        type_ids: vec![0; (*length).max(1)],
        label: Some(Label::Class(i as u32 % 2)),
    };
    lengths.iter().enumerate().map(&mut example).collect()
}

/// A mechanism with noise of multiplier 1 and a ledger in memory: measured, not released.
struct Noise {
    mechanism: GridMechanism,
    ledger: Ledger<MemorySink>,
    source: RandomSource,
    steps: u64,
}

impl Noise {
    fn new(clip: f64, run: &Run<'_>) -> Result<Self, TrainError> {
        let (clip, sigma) = (ClipNorm::new(clip)?, NoiseMultiplier::new(1.0)?);
        let config = GridConfig { clip, sigma, bits: GridBits::default(), strategy: Strategy::default() };
        let lengths: Vec<usize> = run.layout.parameters().iter().map(sprint_model::Parameter::len).collect();
        let source = RandomSource::private()?;
        let mut ledger = Ledger::open(MemorySink::default(), "bench")?;
        let name = RunId::new("bench").expect("a printable name");
        let q = SamplingRate::new(1.0)?;
        ledger.begin_run(RunTerms { run: name, q, config, dimension: run.dim(), planned: 1 }, &source)?;
        Ok(Self { mechanism: GridMechanism::new(config, &lengths)?, ledger, source, steps: 0 })
    }

    fn step(&mut self, run: &Run<'_>, batch: &[usize], config: &TrainConfig) -> Result<(Vec<f32>, f64), TrainError> {
        let charge = self.ledger.charge(self.steps)?;
        self.steps += 1;
        run.accumulate(batch, config, &mut self.mechanism)?;
        let mean = self.mechanism.finish(charge, &self.source)?.mean(batch.len() as u64);
        Ok((run.released(&mean), mean.noise_variance()))
    }
}

#[cfg(test)]
mod tests {
    use super::{BenchRequest, Meter, bench_train, multiply_adds};
    use crate::config::TrainConfig;
    use sprint_model::{HeadSpec, LoraSpec, ModelSpec, Pooling, TargetModules};
    use std::cell::Cell;

    /// One second of wall time and two of processor time between readings of the same clock.
    struct Ticks(Cell<f64>, Cell<f64>);

    impl Meter for Ticks {
        fn wall_s(&self) -> f64 {
            self.0.set(self.0.get() + 1.0);
            self.0.get()
        }

        fn cpu_s(&self) -> f64 {
            self.1.set(self.1.get() + 2.0);
            self.1.get()
        }

        fn peak_rss(&self) -> u64 {
            7
        }
    }

    #[test]
    fn only_what_is_computed_counts() {
        let head = |pooling| Some(HeadSpec { outputs: 2, pooling, dense: false, dropout: 0.0 });
        let lora = Some(LoraSpec::new(2, 2.0, TargetModules::default()));
        let spec = ModelSpec { layers: 2, hidden: 4, intermediate: 8, lora, ..ModelSpec::bert_tiny() };
        // Weights: 3·16 of queries, keys and values, 16 of attention's output, 2·32 of the feed-forward. 7 tokens in 2 examples.
        let below = 7 * (48 + 2 * (16 + 64));
        let mean = ModelSpec { head: head(Pooling::Mean), ..spec.clone() };
        assert_eq!(multiply_adds(&mean, &[5, 2]), below + 7 * 2 * (48 + 16 + 64));
        let first = ModelSpec { head: head(Pooling::First), ..spec };
        assert_eq!(multiply_adds(&first, &[5, 2]), below + 2 * (7 * 32 + 2 * (16 + 16 + 64)));
    }

    #[test]
    fn rates_are_of_the_measured_steps() {
        let base = ModelSpec::bert_tiny_5k();
        for privacy in [TrainConfig::default().privacy, None] {
            let config = TrainConfig { privacy, ..TrainConfig::default() };
            let request = BenchRequest { base: base.clone(), config, lengths: vec![5, 9, 12, 6], steps: 3 };
            // Four examples allow no δ below 1/4 that the default misses, so the request is valid as it is.
            let result = bench_train(&request, &Ticks(Cell::new(0.0), Cell::new(0.0))).expect("a valid request");
            assert_eq!((result.samples_per_s, result.cpu_s_per_sample, result.peak_rss), (12.0, 2.0 / 12.0, 7));
            assert_eq!(result.tokens_per_s, 96.0);
            assert!(result.gemm_peak_gflops > 0.0 && result.gemm_share > 0.0);
        }
    }
}
