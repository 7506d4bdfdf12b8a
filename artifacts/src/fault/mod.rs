//! A file layer that fails on purpose: at a chosen operation it crashes, reports an error, or the power goes.
//!
//! It works on a real folder. Beside it, it keeps account of what a disk would still hold after a power cut: a file's bytes
//! up to its last fsync, and the entries of a folder up to its last fsync. [`FaultFiles::cut_power`] turns the folder into
//! that. A kill test cannot show this, because the kernel survives the process.

mod files;
mod ledger;

#[cfg(test)]
mod sweep_tests;
#[cfg(test)]
mod tests;

pub use files::{Fault, FaultFiles};
pub use ledger::PowerCut;
