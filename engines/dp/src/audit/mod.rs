//! Auditing: statistics that can refute a privacy claim, and the mechanism tests that catch a broken step.
//!
//! A lower bound on ε can refute a claim, never prove it. The tests here treat a step as a black box ([`StepUnderTest`]) that takes
//! per-example gradients and releases a noisy mean, so that the real trainer's step and each [`Defect`] run through the same checks.

mod checks;
mod one_run;
mod planted;
pub mod statistics;
mod step;

pub use checks::{AuditConfig, AuditOutcome, Check, audit};
pub use one_run::{OneRun, OneRunConfig, guess, one_run, one_run_bound};
pub use planted::{Defect, PlantedStep};
pub use step::{AuditError, ClaimedStep, GridStep, StepUnderTest};
