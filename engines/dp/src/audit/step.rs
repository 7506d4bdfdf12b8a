//! What an audit sees of a private step, and the library's own step behind that interface.

use crate::budget::{ClipNorm, NoiseMultiplier, SamplingRate};
use crate::ledger::{Ledger, LedgerError, MemorySink, RunId, RunTerms};
use crate::mechanism::{GridConfig, GridMechanism, MechanismError};
use crate::randomness::{EntropyError, RandomSource};

/// A step failed while it was audited.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AuditError {
    /// The mechanism refused.
    #[error(transparent)]
    Mechanism(#[from] MechanismError),
    /// The ledger refused.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// No randomness.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The step's release has the wrong length.
    #[error("the step released {got} values where it claims {want} coordinates")]
    Shape {
        /// Coordinates claimed.
        want: usize,
        /// Values released.
        got: usize,
    },
    /// An implementation outside this crate failed.
    #[error("the step under test failed: {0}")]
    Step(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// What the step says of itself; the audit measures against it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ClaimedStep {
    /// Clipping norm C.
    pub clip: ClipNorm,
    /// Noise multiplier σ.
    pub sigma: NoiseMultiplier,
    /// The divisor B.
    pub expected_batch: u64,
    /// Coordinates d.
    pub dimension: usize,
}

impl ClaimedStep {
    /// σC/B, the claimed deviation of each released coordinate.
    pub fn deviation(&self) -> f64 {
        self.sigma.get() * self.clip.get() / self.expected_batch as f64
    }
}

/// A private step as a black box.
pub trait StepUnderTest {
    /// What it claims.
    fn claimed(&self) -> ClaimedStep;

    /// One step on the given batch: each row is one example's raw gradient. Releases the noisy mean.
    fn step(&mut self, gradients: &[Vec<f32>]) -> Result<Vec<f32>, AuditError>;

    /// Starts over as a new process of the same run would: step 0, and fresh keys if its keys are fresh.
    fn restart(&mut self) -> Result<(), AuditError>;
}

/// The library's own step: ledger in memory, grid mechanism, the given kind of source.
#[derive(Debug)]
pub struct GridStep {
    claimed: ClaimedStep,
    config: GridConfig,
    seed: Option<u64>,
    mechanism: GridMechanism,
    ledger: Ledger<MemorySink>,
    source: RandomSource,
    next: u64,
}

impl GridStep {
    /// A step with fresh keys.
    pub fn new(config: GridConfig, dimension: usize, expected_batch: u64) -> Result<Self, AuditError> {
        Self::with_seed(config, dimension, expected_batch, None)
    }

    pub(crate) fn with_seed(
        config: GridConfig,
        dimension: usize,
        expected_batch: u64,
        seed: Option<u64>,
    ) -> Result<Self, AuditError> {
        let claimed = ClaimedStep { clip: config.clip, sigma: config.sigma, expected_batch, dimension };
        let source = match seed {
            Some(seed) => RandomSource::reproducible(seed),
            None => RandomSource::private()?,
        };
        let mut step = Self {
            claimed,
            config,
            seed,
            mechanism: GridMechanism::new(config, &[dimension])?,
            ledger: Ledger::open(MemorySink::default(), "audit")?,
            source,
            next: 0,
        };
        step.begin()?;
        Ok(step)
    }

    fn begin(&mut self) -> Result<(), AuditError> {
        self.ledger = Ledger::open(MemorySink::default(), "audit")?;
        let terms = RunTerms {
            run: RunId::new("audit").expect("a printable name"),
            q: SamplingRate::new(1.0).expect("1 is a rate"),
            config: self.config,
            dimension: self.claimed.dimension,
            planned: 1,
        };
        self.ledger.begin_run(terms, &self.source)?;
        self.next = 0;
        Ok(())
    }

    pub(crate) fn noisy_sum(&mut self, gradients: &[Vec<f32>]) -> Result<crate::mechanism::NoisySum, AuditError> {
        for gradient in gradients {
            self.mechanism.accumulate(&[gradient])?;
        }
        let charge = self.ledger.charge(self.next)?;
        self.next += 1;
        Ok(self.mechanism.finish(charge, &self.source)?)
    }

    /// Charges step 0 of a new ledger under the same key: what a step that replays its noise does.
    pub(crate) fn rewind(&mut self) -> Result<(), AuditError> {
        self.begin()
    }
}

impl StepUnderTest for GridStep {
    fn claimed(&self) -> ClaimedStep {
        self.claimed
    }

    fn step(&mut self, gradients: &[Vec<f32>]) -> Result<Vec<f32>, AuditError> {
        let mean = self.noisy_sum(gradients)?.mean(self.claimed.expected_batch);
        Ok(mean.values().to_vec())
    }

    fn restart(&mut self) -> Result<(), AuditError> {
        self.source = match self.seed {
            Some(seed) => RandomSource::reproducible(seed),
            None => RandomSource::private()?,
        };
        self.begin()
    }
}
