//! How the learning rate moves over a run.

use serde::{Deserialize, Serialize};

/// The shape of the decay after warm-up; `x ∈ [0, 1)` is the fraction of the remaining steps that are done.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Decay {
    /// 1.
    None,
    /// `1 - x`.
    #[default]
    Linear,
    /// `(1 + cos πx)/2`.
    Cosine,
    /// `gammaᵗ` after `t` steps.
    Exponential {
        /// Factor of one step, in (0, 1].
        gamma: f64,
    },
}

/// A learning-rate schedule: a linear warm-up, then a decay.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Schedule {
    /// The decay.
    pub decay: Decay,
    /// Fraction of all steps during which the rate rises linearly, in [0, 1).
    pub warm_up: f64,
}

impl Schedule {
    /// The factor on the learning rate at `step` of `steps`, in [0, 1].
    ///
    /// # Domain
    /// `step < steps`.
    pub fn factor(&self, step: u64, steps: u64) -> f64 {
        let warm_up = (self.warm_up * steps as f64).ceil() as u64;
        if step < warm_up {
            return (step + 1) as f64 / (warm_up + 1) as f64;
        }
        let done = step - warm_up;
        let x = done as f64 / (steps - warm_up).max(1) as f64;
        match self.decay {
            Decay::None => 1.0,
            Decay::Linear => 1.0 - x,
            Decay::Cosine => f64::midpoint(1.0, (std::f64::consts::PI * x).cos()),
            Decay::Exponential { gamma } => gamma.powf(done as f64),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Decay, Schedule};

    #[test]
    fn every_decay_starts_at_one_and_never_rises() {
        for decay in [Decay::None, Decay::Linear, Decay::Cosine, Decay::Exponential { gamma: 0.9 }] {
            let schedule = Schedule { decay, warm_up: 0.0 };
            assert_eq!(schedule.factor(0, 20), 1.0);
            assert!((1..20).all(|t| schedule.factor(t, 20) <= schedule.factor(t - 1, 20) && schedule.factor(t, 20) > 0.0));
        }
    }

    #[test]
    fn warm_up_rises_to_one_and_then_the_decay_starts() {
        let schedule = Schedule { decay: Decay::Cosine, warm_up: 0.25 };
        assert!((1..=5).all(|t| schedule.factor(t, 20) > schedule.factor(t - 1, 20)));
        assert_eq!(schedule.factor(5, 20), 1.0);
    }

    #[test]
    fn the_closed_forms_hold() {
        let at = |decay, t| Schedule { decay, warm_up: 0.0 }.factor(t, 10);
        assert!((at(Decay::Linear, 3) - 0.7).abs() < 1e-12);
        assert!((at(Decay::Cosine, 5) - 0.5).abs() < 1e-12);
        assert!((at(Decay::Exponential { gamma: 0.5 }, 3) - 0.125).abs() < 1e-12);
    }
}
