//! The mechanism: per-example clipping to an integer grid, an exact integer sum, and discrete Gaussian noise, independent from step to step or
//! correlated by a banded strategy.

mod discrete_gaussian;
mod fixed_exp;
mod grid;
mod memory;
mod strategy;
mod transfer;

pub use discrete_gaussian::DeviationError;
pub use grid::{GridBits, GridConfig, GridMechanism, MechanismError, NoisyMean, NoisySum};
pub use strategy::{Strategy, StrategyError};
pub(crate) use transfer::within;
pub use transfer::{Claim, claim};
