//! The four places at which a private step could quietly be wrong: the key, the grid, the charge and the divisor.

use sprint_dp::ledger::Charge;
use sprint_dp::mechanism::GridConfig;
use sprint_dp::randomness::{EntropyError, RandomSource};

use crate::budget::Noisy;
use crate::error::TrainError;

/// What a private step does there. Every default is the sound choice and [`Sound`] overrides none, so a run is sound unless it is handed
/// another type, and the only other one is private to the audit: no configuration can name it.
pub(crate) trait Mechanics {
    /// Where the run's randomness comes from: the operating system, or a user's seed that stamps the run "not private".
    fn source(&self, seed: Option<u64>) -> Result<RandomSource, EntropyError> {
        seed.map_or_else(RandomSource::private, |seed| Ok(RandomSource::reproducible(seed)))
    }

    /// The grid that clips and adds noise, where `claimed` is what the plan calibrated.
    fn grid(&self, claimed: GridConfig) -> GridConfig {
        claimed
    }

    /// The charge that pays for `step`, durable when it is returned.
    fn charge(&mut self, noisy: &mut Noisy, source: &RandomSource, step: u64) -> Result<Charge, TrainError> {
        let _ = source;
        Ok(noisy.ledger.charge(step)?)
    }

    /// What the noisy sum is divided by: the expected batch, a constant. The realised one is private.
    fn divisor(&self, expected: u64, realised: usize) -> u64 {
        let _ = realised;
        expected
    }
}

/// The sound choice everywhere.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sound;

impl Mechanics for Sound {}
