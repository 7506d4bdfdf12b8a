//! Steps with one defect each, for showing that the audit has the power to find it.

use super::step::{AuditError, ClaimedStep, GridStep, StepUnderTest};
use crate::budget::{ClipNorm, NoiseMultiplier};
use crate::mechanism::GridConfig;
use serde::{Deserialize, Serialize};

/// The defects an audit must catch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Defect {
    /// The noise has half the claimed deviation.
    SigmaHalved,
    /// Gradients are not clipped.
    NoClipping,
    /// Every step adds the same noise.
    NoiseReused,
    /// The sum is divided by the realised batch instead of the expected one.
    WrongDivisor,
    /// The noise comes from a seed that anyone can guess.
    PublicSeed,
}

impl Defect {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::SigmaHalved, Self::NoClipping, Self::NoiseReused, Self::WrongDivisor, Self::PublicSeed];
}

/// The library's step with a defect planted in it; it claims to be sound.
#[derive(Debug)]
pub struct PlantedStep {
    claimed: ClaimedStep,
    inner: GridStep,
    defect: Defect,
}

impl PlantedStep {
    /// Plants `defect` in a step that claims `config`.
    pub fn new(defect: Defect, config: GridConfig, dimension: usize, expected_batch: u64) -> Result<Self, AuditError> {
        let claimed = ClaimedStep { clip: config.clip, sigma: config.sigma, expected_batch, dimension };
        let scaled = |clip: f64, sigma: f64| -> GridConfig {
            GridConfig {
                clip: ClipNorm::new(config.clip.get() * clip).unwrap_or(config.clip),
                sigma: NoiseMultiplier::new(config.sigma.get() * sigma).unwrap_or(config.sigma),
                ..config
            }
        };
        let (used, seed) = match defect {
            Defect::SigmaHalved => (scaled(1.0, 0.5), None),
            // The same noise deviation, but a ball a thousand times larger.
            Defect::NoClipping => (scaled(1000.0, 0.001), None),
            Defect::NoiseReused | Defect::WrongDivisor => (config, None),
            Defect::PublicSeed => (config, Some(0)),
        };
        Ok(Self { claimed, inner: GridStep::with_seed(used, dimension, expected_batch, seed)?, defect })
    }
}

impl StepUnderTest for PlantedStep {
    fn claimed(&self) -> ClaimedStep {
        self.claimed
    }

    fn step(&mut self, gradients: &[Vec<f32>]) -> Result<Vec<f32>, AuditError> {
        if self.defect == Defect::NoiseReused {
            self.inner.rewind()?;
        }
        let divisor = match self.defect {
            Defect::WrongDivisor => gradients.len().max(1) as u64,
            _ => self.claimed.expected_batch,
        };
        Ok(self.inner.noisy_sum(gradients)?.mean(divisor).values().to_vec())
    }

    fn restart(&mut self) -> Result<(), AuditError> {
        self.inner.restart()
    }
}
