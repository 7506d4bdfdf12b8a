//! First-order optimisers on one flat parameter vector.
//!
//! `g` is the estimate of the mean gradient: in a private run the noisy clipped sum over the expected batch size. Weight decay is
//! decoupled (Loshchilov and Hutter 2019) in every optimiser, so that it neither passes through Adam's normalisation nor changes the
//! variance that DP-AdamBC subtracts.

use serde::{Deserialize, Serialize};

/// Which optimiser.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum OptimiserConfig {
    /// `u ← momentum·u + g`, `θ ← θ - lr·u`.
    Sgd {
        /// In [0, 1).
        #[serde(default)]
        momentum: f64,
        /// Decoupled decay.
        #[serde(default)]
        weight_decay: f64,
    },
    /// AdamW: `θ ← θ - lr·m̂/(√v̂ + eps)`.
    Adamw {
        /// Decay of the first moment.
        #[serde(default = "default_beta1")]
        beta1: f64,
        /// Decay of the second moment.
        #[serde(default = "default_beta2")]
        beta2: f64,
        /// Added to `√v̂`.
        #[serde(default = "default_eps")]
        eps: f64,
        /// Decoupled decay.
        #[serde(default)]
        weight_decay: f64,
    },
    /// DP-AdamBC (Tang et al., AAAI 2024): `θ ← θ - lr·m̂/√max(v̂ - Φ, floor·Φ)`, where `Φ = (σC/B)²` is the variance that the noise adds
    /// to `g` and so to `v̂` (its mean over the steps in `v̂`, where steps differ). The floor is relative to Φ: an absolute one changes meaning with σ, C and B.
    DpAdambc {
        /// Decay of the first moment.
        #[serde(default = "default_beta1")]
        beta1: f64,
        /// Decay of the second moment.
        #[serde(default = "default_beta2")]
        beta2: f64,
        /// κ in `κ·Φ`, > 0.
        #[serde(default = "default_floor")]
        floor: f64,
        /// Decoupled decay.
        #[serde(default)]
        weight_decay: f64,
    },
}

fn default_beta1() -> f64 {
    0.9
}

fn default_beta2() -> f64 {
    0.999
}

fn default_eps() -> f64 {
    1e-8
}

fn default_floor() -> f64 {
    0.1
}

impl Default for OptimiserConfig {
    fn default() -> Self {
        Self::Adamw { beta1: default_beta1(), beta2: default_beta2(), eps: default_eps(), weight_decay: 0.0 }
    }
}

fn power(base: f64, exponent: u64) -> f64 {
    base.powi(i32::try_from(exponent).unwrap_or(i32::MAX))
}

/// The smallest variance DP-AdamBC divides by when there is no noise, that is outside private runs.
const NOISELESS_FLOOR: f64 = 1e-16;

/// An optimiser and its state.
#[derive(Debug, Clone, PartialEq)]
pub struct Optimiser {
    config: OptimiserConfig,
    rates: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    steps: u64,
    /// DP-AdamBC: the noise's share of the second moment before bias correction; `None` before the first step.
    noise: Option<f64>,
}

impl Optimiser {
    /// A fresh optimiser; `rates` holds each parameter's factor on the learning rate.
    pub fn new(config: OptimiserConfig, rates: Vec<f32>) -> Self {
        let dim = rates.len();
        let second = if matches!(config, OptimiserConfig::Sgd { .. }) { 0 } else { dim };
        Self { config, rates, first: vec![0.0; dim], second: vec![0.0; second], steps: 0, noise: None }
    }

    /// Takes one step on `theta` along the gradient `g` at the rate `lr`; `noise_variance` is Φ.
    ///
    /// # Shapes
    /// `theta` and `g` have the optimiser's dimension.
    pub fn step(&mut self, theta: &mut [f32], g: &[f32], lr: f64, noise_variance: f64) {
        assert_eq!(theta.len(), g.len(), "one gradient entry a parameter");
        assert_eq!(theta.len(), self.first.len(), "the optimiser was made for these parameters");
        self.steps += 1;
        match self.config {
            OptimiserConfig::Sgd { momentum, weight_decay } => {
                for (((p, g), u), rate) in theta.iter_mut().zip(g).zip(&mut self.first).zip(&self.rates) {
                    let lr = lr * f64::from(*rate);
                    let velocity = momentum * f64::from(*u) + f64::from(*g);
                    *u = velocity as f32;
                    *p = (f64::from(*p) * (1.0 - lr * weight_decay) - lr * velocity) as f32;
                }
            }
            OptimiserConfig::Adamw { beta1, beta2, eps, weight_decay } => {
                self.adam(theta, g, lr, (beta1, beta2), weight_decay, |v| v.sqrt() + eps);
            }
            OptimiserConfig::DpAdambc { beta1, beta2, floor, weight_decay } => {
                let (before, now) = (power(beta2, self.steps - 1), power(beta2, self.steps));
                // A snapshot without it is of a run whose steps all had the same noise.
                let noise = beta2 * self.noise.unwrap_or(noise_variance * (1.0 - before)) + (1.0 - beta2) * noise_variance;
                self.noise = Some(noise);
                let noise = noise / (1.0 - now);
                let least = (floor * noise).max(NOISELESS_FLOOR);
                self.adam(theta, g, lr, (beta1, beta2), weight_decay, |v| (v - noise).max(least).sqrt());
            }
        }
    }

    fn adam(&mut self, theta: &mut [f32], g: &[f32], lr: f64, betas: (f64, f64), decay: f64, denominator: impl Fn(f64) -> f64) {
        let (beta1, beta2) = betas;
        let (correct1, correct2) = (1.0 - power(beta1, self.steps), 1.0 - power(beta2, self.steps));
        let moments = self.first.iter_mut().zip(&mut self.second);
        for (((p, g), (m, v)), rate) in theta.iter_mut().zip(g).zip(moments).zip(&self.rates) {
            let (g, lr) = (f64::from(*g), lr * f64::from(*rate));
            let first = beta1 * f64::from(*m) + (1.0 - beta1) * g;
            let second = beta2 * f64::from(*v) + (1.0 - beta2) * g * g;
            (*m, *v) = (first as f32, second as f32);
            let update = first / correct1 / denominator(second / correct2);
            *p = (f64::from(*p) * (1.0 - lr * decay) - lr * update) as f32;
        }
    }

    /// Steps taken.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// First and second moments, as a snapshot stores them.
    pub(crate) fn moments(&self) -> (&[f32], &[f32]) {
        (&self.first, &self.second)
    }

    /// The noise's share of the second moment, as a snapshot stores it.
    pub(crate) fn noise(&self) -> Option<f64> {
        self.noise
    }

    /// Takes over the state of a snapshot; `None` if it has another shape.
    pub(crate) fn restore(mut self, first: Vec<f32>, second: Vec<f32>, noise: Option<f64>, steps: u64) -> Option<Self> {
        let fits = first.len() == self.first.len() && second.len() == self.second.len();
        (self.first, self.second, self.noise, self.steps) = (first, second, noise, steps);
        fits.then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::{Optimiser, OptimiserConfig};

    const ADAMW: OptimiserConfig = OptimiserConfig::Adamw { beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1 };

    /// The published recurrences, written out a second time in f64 for one coordinate.
    #[test]
    fn adamw_follows_its_recurrence() {
        let (mut theta, mut optimiser) = (vec![0.7_f32], Optimiser::new(ADAMW, vec![1.0]));
        let (mut p, mut m, mut v) = (0.7_f64, 0.0_f64, 0.0_f64);
        for (t, g) in [0.3_f64, -1.2, 0.05, 2.0].into_iter().enumerate() {
            optimiser.step(&mut theta, &[g as f32], 0.01, 0.0);
            m = 0.9 * m + 0.1 * g;
            v = 0.999 * v + 0.001 * g * g;
            let k = t as i32 + 1;
            p -= 0.01 * 0.1 * p;
            p -= 0.01 * (m / (1.0 - 0.9_f64.powi(k))) / ((v / (1.0 - 0.999_f64.powi(k))).sqrt() + 1e-8);
            assert!((f64::from(theta[0]) - p).abs() < 1e-5, "step {k}: {} and {p}", theta[0]);
        }
    }

    #[test]
    fn sgd_with_momentum_follows_its_recurrence() {
        let config = OptimiserConfig::Sgd { momentum: 0.5, weight_decay: 0.0 };
        let (mut theta, mut optimiser) = (vec![1.0_f32], Optimiser::new(config, vec![1.0]));
        optimiser.step(&mut theta, &[1.0], 0.1, 0.0);
        optimiser.step(&mut theta, &[1.0], 0.1, 0.0);
        assert!((theta[0] - (1.0 - 0.1 - 0.15)).abs() < 1e-6);
    }

    /// With gradients `s + noise` of variance Φ, the corrected second moment is near `s²`, so the step is near `lr`.
    #[test]
    fn dp_adambc_subtracts_the_noise_variance() {
        let config = OptimiserConfig::DpAdambc { beta1: 0.9, beta2: 0.999, floor: 0.01, weight_decay: 0.0 };
        let phi = 4.0;
        let run = |variance: f64| {
            let (mut theta, mut optimiser) = (vec![0.0_f32], Optimiser::new(config, vec![1.0]));
            for t in 0..4000 {
                let noise = if t % 2 == 0 { 2.0 } else { -2.0 };
                optimiser.step(&mut theta, &[1.0 + noise], 1e-3, variance);
            }
            f64::from(theta[0])
        };
        let (corrected, uncorrected) = (run(phi), run(0.0));
        assert!((corrected + 4.0).abs() < 0.3, "about 4000 steps of 1e-3: {corrected}");
        assert!((uncorrected + 4.0 / 5_f64.sqrt()).abs() < 0.2, "shrunk by the noise: {uncorrected}");
    }

    /// Steps whose noise differs: what is taken out is the mean over the steps in the second moment, here of alternating variances 1 and 9.
    #[test]
    fn dp_adambc_subtracts_the_mean_of_varying_noise() {
        let config = OptimiserConfig::DpAdambc { beta1: 0.9, beta2: 0.999, floor: 0.01, weight_decay: 0.0 };
        let (mut theta, mut optimiser) = (vec![0.0_f32], Optimiser::new(config, vec![1.0]));
        for t in 0..4000 {
            let deviation = if t % 4 < 2 { 1.0 } else { 3.0 };
            let noise = if t % 2 == 0 { deviation } else { -deviation };
            optimiser.step(&mut theta, &[1.0 + noise], 1e-3, f64::from(deviation * deviation));
        }
        assert!((theta[0] + 4.0).abs() < 0.3, "about 4000 steps of 1e-3: {}", theta[0]);
        // A snapshot of old without the share goes on as if its steps had had the noise of the next.
        let (first, second) = optimiser.moments();
        let old = Optimiser::new(config, vec![1.0]).restore(first.to_vec(), second.to_vec(), None, 4000).expect("same shape");
        let (mut a, mut b) = (theta.clone(), theta);
        optimiser.step(&mut a, &[1.0], 1e-3, 5.0);
        { old }.step(&mut b, &[1.0], 1e-3, 5.0);
        assert!((a[0] - b[0]).abs() < 1e-4);
    }

    #[test]
    fn dp_adambc_never_divides_by_less_than_its_floor() {
        let config = OptimiserConfig::DpAdambc { beta1: 0.0, beta2: 0.0, floor: 0.25, weight_decay: 0.0 };
        let (mut theta, mut optimiser) = (vec![0.0_f32], Optimiser::new(config, vec![1.0]));
        optimiser.step(&mut theta, &[0.1], 1.0, 4.0);
        assert!((f64::from(theta[0]) + 0.1).abs() < 1e-6, "0.1 / √(0.25·4)");
    }

    #[test]
    fn each_parameter_moves_at_its_own_rate() {
        for config in [ADAMW, OptimiserConfig::Sgd { momentum: 0.9, weight_decay: 0.1 }] {
            let (mut optimiser, mut theta) = (Optimiser::new(config, vec![1.0, 3.0]), vec![0.5, 0.5]);
            let (mut alone, mut other) = (Optimiser::new(config, vec![1.0]), vec![0.5]);
            for _ in 0..5 {
                optimiser.step(&mut theta, &[0.2, 0.2], 0.01, 0.0);
                alone.step(&mut other, &[0.2], 0.03, 0.0);
            }
            assert!((theta[1] - other[0]).abs() < 1e-7 && theta[0] > theta[1], "{config:?}");
        }
    }

    #[test]
    fn a_restored_optimiser_continues_bit_for_bit() {
        let (mut a, mut theta) = (Optimiser::new(ADAMW, vec![1.0; 3]), vec![0.1, -0.2, 0.3]);
        a.step(&mut theta, &[1.0, 2.0, 3.0], 0.01, 0.0);
        let (first, second) = a.moments();
        let fresh = Optimiser::new(ADAMW, vec![1.0; 3]);
        let mut b = fresh.restore(first.to_vec(), second.to_vec(), a.noise(), a.steps()).expect("same shape");
        let mut other = theta.clone();
        a.step(&mut theta, &[0.5, 0.1, -1.0], 0.01, 0.0);
        b.step(&mut other, &[0.5, 0.1, -1.0], 0.01, 0.0);
        assert_eq!((theta, a), (other, b));
    }
}
