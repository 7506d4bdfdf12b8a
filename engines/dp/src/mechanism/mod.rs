//! The mechanism: per-example clipping to an integer grid, an exact integer sum, and discrete Gaussian noise.

mod discrete_gaussian;
mod fixed_exp;
mod grid;
mod transfer;

pub use discrete_gaussian::DeviationError;
pub use grid::{GridBits, GridConfig, GridMechanism, MechanismError, NoisyMean, NoisySum};
pub(crate) use transfer::within;
pub use transfer::{Claim, claim};
