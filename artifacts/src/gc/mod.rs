//! Garbage collection: what no root reaches is set aside, and deleted by a later collection.
//!
//! Roots are pins, everything that unfinished runs have produced, and the newest results of every action. Reference counts
//! are not kept: a collection derives what is alive from the records. It runs alone (`gc.lock`), only shows what it would do
//! unless told to apply, spares everything younger than the grace period, and what it sets aside comes back by itself when
//! it is asked for.

mod bring_back;
mod collect;
mod mark;
mod pins;

#[cfg(test)]
mod tests;

pub use collect::{GcError, GcOptions, GcReport, Swept, collect, collect_with};
pub use pins::PinError;
