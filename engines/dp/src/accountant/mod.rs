//! Accountants: upper bounds on ε at δ for a list of Poisson-subsampled Gaussian steps.
//!
//! Neighbouring relation: add or remove one record (both directions are accounted and the larger ε reported). Sensitivity 1, noise
//! deviation σ. Segments with different (q, σ) compose, so re-runs and re-calibrated remainders are one claim.
//!
//! - [`pld`]: connect-the-dots privacy-loss distributions, the accountant that claims are made with.
//! - [`rdp`]: Rényi DP, looser, valid at every δ.
//! - [`prv`]: Gopi, Lee and Wutschitz's discretisation, an independent cross-check with a lower bound.
//! - `gaussian`: the closed form where every segment has q = 1.

pub(crate) mod gaussian;
pub(crate) mod moment;
pub mod pld;
pub mod prv;
pub mod rdp;
mod single_step;
mod spa;

use crate::budget::{BudgetError, Delta, NoiseMultiplier, SamplingRate, Steps};
use serde::{Deserialize, Serialize};

/// A run of equal steps: `steps` times a Gaussian of multiplier `sigma` on a Poisson sample at rate `q`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// Sampling rate of each step.
    pub q: SamplingRate,
    /// Noise multiplier of each step.
    pub sigma: NoiseMultiplier,
    /// How many steps.
    pub steps: Steps,
}

/// Why an accountant gives no number.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AccountantError {
    /// A budget field outside its domain.
    #[error(transparent)]
    Budget(#[from] BudgetError),
    /// No segment was given.
    #[error("no segments: give at least one (q, sigma, steps)")]
    Empty,
    /// The accountant could not bound ε for these parameters.
    #[error("the {accountant} accountant gives no finite epsilon here: raise sigma, raise delta or take fewer steps")]
    Diverged {
        /// Which accountant.
        accountant: &'static str,
    },
    /// No σ in the supported range meets the target.
    #[error("no sigma in [{low}, {high}] meets epsilon = {epsilon}: raise epsilon or delta, or lower q or steps")]
    Unreachable {
        /// The asked ε.
        epsilon: f64,
        /// Smallest supported σ.
        low: f64,
        /// Largest supported σ.
        high: f64,
    },
}

/// Every accountant's ε for the same steps and δ.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpsilonReport {
    /// PLD upper bound: the claim.
    pub pld: f64,
    /// RDP upper bound.
    pub rdp: f64,
    /// The Rényi order that attains `rdp`.
    pub rdp_order: f64,
    /// PRV's certified interval.
    pub prv: prv::PrvEpsilon,
    /// The exact ε where every q is 1.
    pub exact: Option<f64>,
}

/// The smallest σ the numeric accountants accept; below it one step already spends ε > 100.
pub const SIGMA_MIN: f64 = 0.05;
/// The largest σ the numeric accountants accept.
pub const SIGMA_MAX: f64 = 1e6;

pub(crate) fn check_sigma(sigma: f64) -> Result<(), BudgetError> {
    if (SIGMA_MIN..=SIGMA_MAX).contains(&sigma) {
        Ok(())
    } else {
        Err(BudgetError {
            field: "sigma",
            value: sigma,
            fix: "give a noise multiplier sigma between 0.05 and 1e6; the accountants do not cover others",
        })
    }
}

pub(crate) fn check(segments: &[Segment]) -> Result<(), AccountantError> {
    if segments.is_empty() {
        return Err(AccountantError::Empty);
    }
    for segment in segments {
        check_sigma(segment.sigma.get())?;
        if segment.q.get() < 1e-9 {
            return Err(AccountantError::Budget(BudgetError {
                field: "q",
                value: segment.q.get(),
                fix: "give a sampling rate q of at least 1e-9; the accountants do not cover smaller ones",
            }));
        }
    }
    Ok(())
}

/// Merges equal (q, σ) and folds all q = 1 segments into one Gaussian step of σ = (Σ Tₖ/σₖ²)^{−1/2}.
///
/// The second value is that μ = 1/σ, 0 if no segment has q = 1.
pub(crate) fn normalise(segments: &[Segment]) -> (Vec<(f64, f64, u64)>, f64) {
    let mut precision = 0.0;
    let mut merged: std::collections::BTreeMap<(u64, u64), u64> = std::collections::BTreeMap::new();
    for s in segments {
        if s.q.get() == 1.0 {
            precision += s.steps.get() as f64 / (s.sigma.get() * s.sigma.get());
        } else {
            let steps = merged.entry((s.q.get().to_bits(), s.sigma.get().to_bits())).or_default();
            *steps = steps.saturating_add(s.steps.get());
        }
    }
    let list = merged.into_iter().map(|((q, sigma), steps)| (f64::from_bits(q), f64::from_bits(sigma), steps));
    (list.collect(), precision.sqrt())
}

/// The exact ε if every segment has q = 1.
pub fn exact(segments: &[Segment], delta: Delta) -> Option<f64> {
    let (rest, mu) = normalise(segments);
    (rest.is_empty() && mu > 0.0).then(|| gaussian::epsilon(mu, delta.get()))
}

/// ε at `delta` by every accountant.
///
/// Domain: σ in [0.05, 10⁶], q in [10⁻⁹, 1], any number of steps. Where the privacy-loss distribution cannot be formed `pld` falls back to
/// the RDP bound, which is also an upper bound. Never rounds down.
pub fn epsilon_all(segments: &[Segment], delta: Delta) -> Result<EpsilonReport, AccountantError> {
    let rdp = rdp::epsilon(segments, delta)?;
    let pld = match pld::epsilon(segments, delta) {
        Ok(value) => value.min(rdp.epsilon),
        Err(AccountantError::Diverged { .. }) => rdp.epsilon,
        Err(other) => return Err(other),
    };
    let prv = prv::epsilon(segments, delta, rdp.epsilon)?;
    Ok(EpsilonReport { pld, rdp: rdp.epsilon, rdp_order: rdp.order, prv, exact: exact(segments, delta) })
}
