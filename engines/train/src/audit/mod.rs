//! The audit of the whole trainer: [`crate::train`] itself, from configuration and examples to released parameters, with canaries among the examples.
//!
//! With plain gradient descent at a constant rate `lr` the released parameters are the released gradients: `g̃ₜ = (θₜ - θₜ₊₁)/lr`. So the audit
//! needs no access to the trainer's inside: it reads the snapshots and the result of ordinary runs.
//!
//! Two data sets are trained on. In the first every example's gradient overflows, so that each counts as 0 and every released coordinate is noise
//! alone: its deviation, its independence and its freshness are tested there. In the second each of m canaries is present with probability ½, and
//! has a class of its own: its gradient lies almost entirely in its class's row of the head. Scores `Σₜ⟨g̃ₜ, cᵢ⟩` say how far one example moves
//! the model (at most C) and feed the one-run bound on ε (Steinke, Nasr and Jagielski 2023).

mod checks;
mod planted;
mod world;

pub use checks::{TrainerAudit, TrainerAuditConfig, audit_trainer};
