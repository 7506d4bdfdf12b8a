//! Correlated noise: the banded strategy matrix of BandMF (Choquette-Choo et al., "(Amplified) Banded Matrix Factorization", NeurIPS 2023).
//!
//! Round t releases not the sum Gₜ of its clipped gradients but Yₜ = Σ_{i<b} nᵢ·G_{t−i} + Zₜ, with Zₜ of deviation σC‖n‖₂ per coordinate. Everybody can
//! solve Y for estimates G̃ₜ = (Yₜ − Σ_{i≥1} nᵢ·G̃_{t−i})/n₀ = Gₜ + Σⱼ eⱼ·Z_{t−j}/n₀, where e is the inverse of n/n₀ as a power series. Noise of successive
//! estimates is negatively correlated, so that it partly cancels in their sum, which is what training adds to the parameters.
//!
//! *Accounting.* An example that enters round t moves Yₜ … Y_{t+b−1} by n₀g … n_{b−1}g: by at most C‖n‖ in the L2 norm, in units of the noise 1/σ.
//! The sampler gives each example one round in b ([`crate::sample::PoissonSampler::cyclic`]), so those blocks of b rounds do not overlap for one
//! example, and each of them is one Poisson-subsampled Gaussian mechanism of multiplier σ: given what was released before round t and who else was
//! sampled, the density of the block with the example over the one without is (1−q) + q·Πᵢ exp(…), whose product depends on the block through a single
//! normal variable of shift C‖n‖/σC‖n‖ = 1/σ at most. T rounds thus cost what ⌈T/b⌉ compositions at rate q cost, the paper's amplification for banded
//! matrices. A block that a crash cuts short has a smaller norm: a new process starts with an empty memory, its first rounds add none of the old ones,
//! and the ledger's count of rounds goes on.
//!
//! *Weights.* nᵢ ∝ 1/√(1+i). Of geometric, power-law and square-root weights (4 to 34 bands, 48 to 170 rounds, linear decay of the rate) these leave the
//! least noise in the sums of estimates, in the root mean square over rounds and to within 1 %, where nothing smooths the estimates, and 6 % more than the
//! least where momentum of 0.9 does; single estimates are about twice as noisy as independent noise of the same σ makes them (2.5 times at 34 bands).

use serde::{Deserialize, Serialize};

/// n₀; nᵢ = round(n₀/√(1+i)), so at least 1 and ‖n‖² ≥ b, on which [`super::claim`] relies.
const SCALE: f64 = 256.0;
/// The most bands.
pub(crate) const MOST_BANDS: u32 = 256;

/// The strategy: how many bands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Strategy {
    bands: u32,
}

/// A strategy outside its domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("bands = {bands} is outside its domain: give 1 (independent noise) to {MOST_BANDS}")]
pub struct StrategyError {
    bands: u32,
}

impl Default for Strategy {
    fn default() -> Self {
        Self { bands: 1 }
    }
}

impl Strategy {
    /// Accepts 1 to 256 bands.
    pub fn new(bands: u32) -> Result<Self, StrategyError> {
        if (1..=MOST_BANDS).contains(&bands) { Ok(Self { bands }) } else { Err(StrategyError { bands }) }
    }

    /// b; 1 for independent noise.
    pub fn bands(self) -> u32 {
        self.bands
    }

    /// Whether noise is independent: DP-SGD.
    pub fn is_independent(&self) -> bool {
        self.bands == 1
    }

    /// n₀ … n_{b−1}; \[1\] for independent noise.
    pub fn weights(self) -> Vec<i64> {
        if self.is_independent() {
            return vec![1];
        }
        (1..=self.bands).map(|i| (SCALE / f64::from(i).sqrt()).round() as i64).collect()
    }

    /// ‖n‖₂, rounded up.
    pub(crate) fn norm(self) -> f64 {
        let square: i64 = self.weights().iter().map(|n| n * n).sum();
        if square == 1 { 1.0 } else { (square as f64).sqrt().next_up() }
    }

    /// e₀ … e_{count−1}, the inverse series of n/n₀: what one round's noise does to the estimates from then on.
    fn inverse(self, count: usize) -> Vec<f64> {
        let weights = self.weights();
        let mut inverse = Vec::with_capacity(count);
        for k in 0..count {
            let next = if k == 0 {
                1.0
            } else {
                -weights.iter().skip(1).zip(inverse.iter().rev()).map(|(n, e)| *n as f64 * e).sum::<f64>() / weights[0] as f64
            };
            inverse.push(next);
        }
        inverse
    }

    /// The deviation of the estimates of rounds 0 to `count` − 1 after a start, in units of σC.
    pub fn deviations(self, count: usize) -> Vec<f64> {
        let unit = self.norm() / self.weights()[0] as f64;
        let mut square = 0.0;
        let add = |e: f64| {
            square += e * e;
            unit * f64::sqrt(square)
        };
        self.inverse(count).into_iter().map(add).collect()
    }

    /// The root mean square, over t = 1 … `steps`, of the deviation of the first t estimates' sum, in units of σC.
    pub fn sum_noise(self, steps: usize) -> f64 {
        let unit = self.norm() / self.weights()[0] as f64;
        let (mut prefix, mut square, mut total) = (0.0, 0.0, 0.0);
        for e in self.inverse(steps) {
            prefix += e;
            square += prefix * prefix;
            total += square;
        }
        unit * (total / steps.max(1) as f64).sqrt()
    }
}

impl TryFrom<u32> for Strategy {
    type Error = StrategyError;
    fn try_from(bands: u32) -> Result<Self, StrategyError> {
        Self::new(bands)
    }
}

impl From<Strategy> for u32 {
    fn from(strategy: Strategy) -> Self {
        strategy.bands
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_strategy_bounds_its_noise_and_keeps_what_the_claim_relies_on() {
        for bands in [1, 2, 5, 8, 16, 33, 64, 200, 256] {
            let strategy = Strategy::new(bands).unwrap();
            let weights = strategy.weights();
            assert!(weights.len() == bands as usize && weights.iter().all(|n| *n >= 1));
            assert!(strategy.norm().powi(2) >= f64::from(bands));
            let deviations = strategy.deviations(3000);
            assert!(deviations[0] >= 1.0 && deviations.windows(2).all(|w| w[0] <= w[1]));
            assert!(deviations[2999] < 3.2 && deviations[2999] < deviations[1500] * 1.1, "{bands}: {}", deviations[2999]);
        }
    }

    #[test]
    fn bands_lower_the_noise_of_sums_by_almost_the_root_of_their_number() {
        let plain = Strategy::default().sum_noise(200);
        assert!((plain - (201.0_f64 / 2.0).sqrt()).abs() < 1e-9, "the sum of t independent draws has deviation √t");
        for bands in [2, 4, 8, 16] {
            let gain = plain / Strategy::new(bands).unwrap().sum_noise(200);
            let most = f64::from(bands).sqrt();
            assert!(gain < most && gain > 0.7 * most, "{bands}: {gain}");
        }
    }

    #[test]
    fn domains_are_checked_in_code_and_files() {
        assert!(Strategy::new(0).is_err() && Strategy::new(257).is_err());
        assert!(serde_json::from_str::<Strategy>("300").is_err());
        assert_eq!(serde_json::from_str::<Strategy>("8").unwrap(), Strategy::new(8).unwrap());
        assert_eq!(Strategy::default().weights(), [1]);
    }
}
