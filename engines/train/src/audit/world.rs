//! The small model, the two data sets and the runs over them.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use sprint_dp::audit::Defect;
use sprint_dp::ledger::{LedgerSink, MemorySink, RunId};
use sprint_model::{Checkpoint, CheckpointError, Example, Label, ModelSpec, ParamPath};

use super::planted::Planted;
use crate::config::{LoraConfig, PrivacyConfig, TrainConfig, TuningConfig};
use crate::error::TrainError;
use crate::layout::Layout;
use crate::mechanics::{Mechanics, Sound};
use crate::optim::OptimiserConfig;
use crate::schedule::{Decay, Schedule};
use crate::snapshot::Snapshot;
use crate::start::start;
use crate::trainer::{Accounting, TrainInputs, TrainObserver, TrainedModel, train_with};

const HIDDEN: usize = 32;
const VOCAB: usize = 512;
/// A token whose embedding overflows: the gradient of an example that holds it is not finite.
const OVERFLOW: u32 = VOCAB as u32 - 1;
const TOKENS: usize = 6;
/// C. A canary's gradient has about three times this norm.
pub(super) const CLIP: f64 = 1.0;

/// What is trained, on what, and how it is broken.
pub(super) struct World {
    pub(super) base: Checkpoint,
    pub(super) examples: Vec<Example>,
    pub(super) outputs: usize,
    pub(super) config: TrainConfig,
    pub(super) plant: Option<Defect>,
}

/// The releases `g̃₀ … g̃_{T-1}` of a run, read off its parameters, and what it says of itself.
pub(super) struct Run {
    pub(super) releases: Vec<Vec<f64>>,
    pub(super) model: TrainedModel,
    /// The snapshot after each step but the last.
    pub(super) snapshots: Vec<Vec<u8>>,
}

/// Two layers of 32 channels with random weights; the embedding of [`OVERFLOW`] is not usable.
pub(super) fn base() -> Result<Checkpoint, TrainError> {
    let spec = ModelSpec { hidden: HIDDEN, intermediate: 64, heads: 2, vocab: VOCAB, positions: 16, ..ModelSpec::bert_tiny_5k() };
    let (spec, mut params) = Checkpoint::random(spec, 17).map_err(CheckpointError::from)?.into_parts();
    if let Some(words) = params.get_mut(&ParamPath::new("embeddings.word_embeddings.weight")) {
        words.data_mut()[OVERFLOW as usize * HIDDEN..].fill(3e38);
    }
    Ok(Checkpoint::from_params("audit", spec, params)?)
}

/// Plain gradient descent, low-rank updates of every dense layer and a linear head: what SPRINT's users train, by the simplest optimiser.
pub(super) fn config(epsilon: f64, delta: f64, batch_size: usize, epochs: f64, bands: u32) -> TrainConfig {
    TrainConfig {
        tuning: TuningConfig::Lora(LoraConfig { rank: 4, ..LoraConfig::default() }),
        privacy: Some(PrivacyConfig { epsilon, delta, clip: CLIP, max_epsilon: None, bands }),
        batch_size,
        epochs,
        learning_rate: 1.0,
        optimiser: OptimiserConfig::Sgd { momentum: 0.0, weight_decay: 0.0 },
        schedule: Schedule { decay: Decay::None, warm_up: 0.0 },
        snapshot_every: 1,
        ..TrainConfig::default()
    }
}

/// `n` examples whose gradients all count as 0.
pub(super) fn overflowing(n: usize) -> Vec<Example> {
    let example =
        |i: usize| Example { ids: vec![OVERFLOW; TOKENS], type_ids: vec![0; TOKENS], label: Some(Label::Class(i as u32 % 2)) };
    (0..n).map(example).collect()
}

/// Canary `class`: tokens of its own, alone in its class.
pub(super) fn canary(class: usize) -> Example {
    let token = |t: usize| ((class * 131 + t * 71 + class * t) % (VOCAB - 1)) as u32;
    Example { ids: (0..TOKENS).map(token).collect(), type_ids: vec![0; TOKENS], label: Some(Label::Class(class as u32)) }
}

/// A ledger in memory that several runs may continue.
#[derive(Clone, Default)]
pub(super) struct SharedLedger(Arc<Mutex<MemorySink>>);

impl LedgerSink for SharedLedger {
    fn read(&mut self) -> io::Result<Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).read()
    }

    fn append_durably(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).append_durably(bytes)
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).truncate(length)
    }
}

#[derive(Default)]
struct Keep(Vec<Vec<u8>>);

impl TrainObserver for Keep {
    fn snapshot(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.push(bytes.to_vec());
        Ok(())
    }
}

impl World {
    /// The trained model's shape and the order of the flat vector.
    pub(super) fn layout(&self) -> Result<(ModelSpec, Layout), TrainError> {
        Ok(self.config.validate(self.base.spec(), &self.examples, self.outputs)?)
    }

    /// Trains, from the start or from a snapshot.
    pub(super) fn run(&self, ledger: &SharedLedger, resume: Option<&[u8]>) -> Result<Run, TrainError> {
        let inputs = TrainInputs { base: &self.base, examples: &self.examples, outputs: self.outputs, described: &[] };
        let run = RunId::new("audit").expect("a printable name");
        let accounting = Accounting { sink: Box::new(ledger.clone()), data_set: "audit".to_owned(), run };
        let mut sound = Sound;
        let mut planted = self.plant.map(Planted);
        let mechanics: &mut dyn Mechanics = planted.as_mut().map_or(&mut sound, |p| p);
        let mut keep = Keep::default();
        let model = train_with(inputs, &self.config, Some(accounting), resume, &mut keep, mechanics)?;
        let mut thetas = vec![match resume {
            Some(bytes) => Snapshot::decode(bytes)?.theta,
            None => self.first_parameters()?,
        }];
        for bytes in &keep.0 {
            thetas.push(Snapshot::decode(bytes)?.theta);
        }
        let last = model.trained.iter().filter_map(|path| model.params.get(path)).flat_map(|t| t.data().to_vec()).collect();
        thetas.push(last);
        let rate = self.config.learning_rate;
        let step = |w: &[Vec<f32>]| w[0].iter().zip(&w[1]).map(|(a, b)| (f64::from(*a) - f64::from(*b)) / rate).collect();
        Ok(Run { releases: thetas.windows(2).map(step).collect(), model, snapshots: keep.0 })
    }

    fn first_parameters(&self) -> Result<Vec<f32>, TrainError> {
        let (spec, layout) = self.layout()?;
        let model = start(&self.base, &spec, self.config.a_init(), self.config.init_seed)?;
        Ok(layout.parameters().iter().filter_map(|p| model.get(&p.path)).flat_map(|t| t.data().to_vec()).collect())
    }
}
