//! Mechanics with one defect each. Private to the audit: nothing else can name them.

use sprint_dp::audit::Defect;
use sprint_dp::budget::{ClipNorm, NoiseMultiplier};
use sprint_dp::ledger::{Charge, Ledger, LedgerSink, MemorySink, RunId, RunTerms};
use sprint_dp::mechanism::GridConfig;
use sprint_dp::randomness::{EntropyError, RandomSource};

use crate::budget::Noisy;
use crate::error::TrainError;
use crate::mechanics::Mechanics;

/// The trainer's mechanics with `Defect` planted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Planted(pub(super) Defect);

impl Mechanics for Planted {
    fn source(&self, seed: Option<u64>) -> Result<RandomSource, EntropyError> {
        match (self.0, seed) {
            (Defect::PublicSeed, _) => Ok(RandomSource::reproducible(0)),
            (_, Some(seed)) => Ok(RandomSource::reproducible(seed)),
            (_, None) => RandomSource::private(),
        }
    }

    fn grid(&self, claimed: GridConfig) -> GridConfig {
        let scaled = |clip: f64, sigma: f64| GridConfig {
            clip: ClipNorm::new(claimed.clip.get() * clip).unwrap_or(claimed.clip),
            sigma: NoiseMultiplier::new(claimed.sigma.get() * sigma).unwrap_or(claimed.sigma),
            ..claimed
        };
        match self.0 {
            Defect::SigmaHalved => scaled(1.0, 0.5),
            // The same deviation of the noise around a ball that holds every gradient of the audit's models.
            Defect::NoClipping => scaled(5.0, 0.2),
            _ => claimed,
        }
    }

    fn charge(&mut self, noisy: &mut Noisy, source: &RandomSource, step: u64) -> Result<Charge, TrainError> {
        let charge = noisy.ledger.charge(step)?;
        if self.0 != Defect::NoiseReused {
            return Ok(charge);
        }
        // A ledger that starts anew at every step grants the first step's noise again.
        let sink: Box<dyn LedgerSink + Send> = Box::new(MemorySink::default());
        let mut forgetful = Ledger::open(sink, "audit")?;
        let run = RunId::new("audit").expect("a printable name");
        let (q, planned) = (noisy.plan.q(), noisy.plan.steps().get());
        let terms = RunTerms { run, q, config: noisy.grid, dimension: noisy.mechanism.dimension(), planned };
        forgetful.begin_run(terms, source)?;
        Ok(forgetful.charge(0)?)
    }

    fn divisor(&self, expected: u64, realised: usize) -> u64 {
        if self.0 == Defect::WrongDivisor { realised.max(1) as u64 } else { expected }
    }
}
