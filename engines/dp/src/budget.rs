//! The numbers of a privacy claim as validated types: ε, δ, σ, q, steps and the clipping norm.
//!
//! A value of one of these types is inside its domain by construction, in code and when read from a file; an error names the
//! field, repeats the value and says what to give instead.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A budget field outside its domain: which field, the value given and the fix.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field} = {value} is outside its domain: {fix}")]
#[non_exhaustive]
pub struct BudgetError {
    /// The field as the command line and the configuration spell it (`epsilon`, `delta`, `sigma`, `q`, `steps`, `clip`).
    pub field: &'static str,
    /// The rejected value.
    pub value: f64,
    /// What to give instead.
    pub fix: &'static str,
}

macro_rules! real {
    ($(#[$doc:meta])* $name:ident, $field:literal, $fix:literal, $ok:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
        #[serde(try_from = "f64", into = "f64")]
        pub struct $name(f64);

        impl $name {
            /// Accepts a value inside the domain, or says what is wrong with it.
            pub fn new(value: f64) -> Result<Self, BudgetError> {
                let inside: fn(f64) -> bool = $ok;
                if inside(value) {
                    Ok(Self(value))
                } else {
                    Err(BudgetError { field: $field, value, fix: $fix })
                }
            }

            /// The number itself.
            pub fn get(self) -> f64 {
                self.0
            }
        }

        impl TryFrom<f64> for $name {
            type Error = BudgetError;
            fn try_from(value: f64) -> Result<Self, BudgetError> {
                Self::new(value)
            }
        }

        impl From<$name> for f64 {
            fn from(value: $name) -> f64 {
                value.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

real!(
    /// ε > 0, the bound on the privacy loss that a target or a limit asks for.
    Epsilon,
    "epsilon",
    "give a finite epsilon above 0, for example 8",
    |v| v.is_finite() && v > 0.0
);
real!(
    /// δ in (0, 1), the probability left to larger losses; far below 1/N for a meaningful claim.
    Delta,
    "delta",
    "give a delta strictly between 0 and 1, for example 1e-6",
    |v| v > 1e-100 && v < 1.0
);
real!(
    /// σ > 0, the standard deviation of the noise in units of the clipping norm.
    NoiseMultiplier,
    "sigma",
    "give a finite noise multiplier sigma above 0, for example 0.8",
    |v| v.is_finite() && v > 0.0
);
real!(
    /// q in (0, 1], the probability with which each record enters a batch.
    SamplingRate,
    "q",
    "give a sampling rate q above 0 and at most 1: expected batch size / number of records",
    |v| v > 0.0 && v <= 1.0
);
real!(
    /// C > 0, the bound on one example's contribution in the L2 norm.
    ClipNorm,
    "clip",
    "give a finite clipping norm above 0, for example 1.0",
    |v: f64| v.is_finite() && (1e-30..=1e30).contains(&v)
);

impl SamplingRate {
    /// The smallest multiple of 2⁻⁶⁴ that a Poisson sampler comparing 64-bit words can realise and that is at least `expected/records`.
    ///
    /// The sampler's rate ⌊q·2⁶⁴⌋/2⁶⁴ never exceeds the accounted `q`; `q` itself is the quotient rounded up to the next f64.
    pub fn from_batch(expected_batch: u64, records: u64) -> Result<Self, BudgetError> {
        if expected_batch == 0 || expected_batch > records {
            return Err(BudgetError {
                field: "batch_size",
                value: expected_batch as f64,
                fix: "give a logical batch size of at least 1 and at most the number of records",
            });
        }
        let quotient = expected_batch as f64 / records as f64;
        if expected_batch == records {
            return Self::new(1.0);
        }
        let exact = (quotient * records as f64) == expected_batch as f64 && records.is_power_of_two();
        Self::new(if exact { quotient } else { quotient.next_up().min(1.0) })
    }
}

/// A positive number of noisy steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Steps(u64);

impl Steps {
    /// Accepts 1 to 10¹² steps.
    pub fn new(value: u64) -> Result<Self, BudgetError> {
        if (1..=1_000_000_000_000).contains(&value) {
            Ok(Self(value))
        } else {
            Err(BudgetError {
                field: "steps",
                value: value as f64,
                fix: "give a number of steps of at least 1 (and at most 1e12)",
            })
        }
    }

    /// The count itself.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl TryFrom<u64> for Steps {
    type Error = BudgetError;
    fn try_from(value: u64) -> Result<Self, BudgetError> {
        Self::new(value)
    }
}

impl From<Steps> for u64 {
    fn from(value: Steps) -> u64 {
        value.0
    }
}

impl fmt::Display for Steps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_outside_the_domain_are_refused_by_name() {
        for (field, error) in [
            ("epsilon", Epsilon::new(0.0).unwrap_err()),
            ("delta", Delta::new(1.0).unwrap_err()),
            ("sigma", NoiseMultiplier::new(-1.0).unwrap_err()),
            ("q", SamplingRate::new(1.5).unwrap_err()),
            ("steps", Steps::new(0).unwrap_err()),
            ("clip", ClipNorm::new(f64::NAN).unwrap_err()),
        ] {
            assert_eq!(error.field, field);
            assert!(error.to_string().contains(field) && error.to_string().contains("give a"));
        }
        for nan in [f64::NAN, f64::INFINITY, -0.0] {
            assert!(Epsilon::new(nan).is_err() && Delta::new(nan).is_err() && NoiseMultiplier::new(nan).is_err());
            assert!(SamplingRate::new(nan).is_err());
        }
    }

    #[test]
    fn deserialising_runs_the_same_validation() {
        assert!(serde_json::from_str::<SamplingRate>("0.25").is_ok());
        let error = serde_json::from_str::<SamplingRate>("1.25").unwrap_err().to_string();
        assert!(error.contains("q = 1.25"), "{error}");
        assert!(serde_json::from_str::<Steps>("0").is_err());
        assert!(serde_json::from_str::<Delta>("1").is_err());
    }

    #[test]
    fn sampling_rate_of_a_batch_is_never_below_the_true_quotient() {
        for (batch, records) in [(2048_u64, 67_349_u64), (1, 3), (1, 1024), (7, 7), (999_999, 1_000_000)] {
            let q = SamplingRate::from_batch(batch, records).unwrap().get();
            // q is dyadic: q·records ≥ batch is checked exactly in 128-bit integers after scaling by 2⁶⁴ (floor keeps it conservative).
            let scaled = (q * 2f64.powi(63)) as u128;
            assert!(scaled * u128::from(records) >= (u128::from(batch) << 63) - u128::from(records));
            assert!(q * (records as f64) < batch as f64 * (1.0 + 1e-15) + 1e-9);
        }
        assert!(SamplingRate::from_batch(8, 7).is_err() && SamplingRate::from_batch(0, 7).is_err());
    }
}
