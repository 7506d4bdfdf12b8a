//! Walks a program: as one of two parties, as the dealer, or in the clear.

pub(crate) mod circle;
mod dealer;
pub(crate) mod local;
pub(crate) mod material;
mod monomial;
mod opened;
mod party;
pub(crate) mod private;
pub(crate) mod randomness;
mod simulate;
#[cfg(test)]
mod tests;
pub(crate) mod wiped;

pub use dealer::Dealer;
pub use opened::{OpenedWeights, WeightMasks, WeightOpening};
pub use party::{Inputs, Party};
pub use simulate::{SimulateError, simulate};
