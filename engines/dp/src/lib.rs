//! Differential-privacy mathematics for SPRINT's fine-tuning: budgets, accountants, calibration, the noisy mechanism, the
//! crash-safe ledger and the audit. No tensors, no clock, no environment; f64 throughout, rounding only upwards.

pub mod accountant;
pub mod audit;
pub mod budget;
pub mod calibrate;
pub mod ledger;
pub mod mechanism;
pub mod randomness;
pub mod report;
pub mod sample;
mod special;
