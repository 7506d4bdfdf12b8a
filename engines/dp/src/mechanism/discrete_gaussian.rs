//! A fixed-deviation sampler of the discrete Gaussian N_ℤ(0, s²), P(y) ∝ e^{−y²/2s²}, in integers.
//!
//! Write |y| = i·W + j with W = 2ʷ, W ≤ s/64 < 2W, and j in [0, W). With x = y²/2s²,
//! e^{−x} = e^{−(iW)²/2s²} · e^{−t}, t = (2iWj + j²)/2s²: draw the row i from a table of cumulative weights, j and the sign uniformly, accept with
//! probability e^{−t} (0.99 on average; t is about y/64s), and reject −0.
//!
//! *Exactness.* 1/2s² is represented as R/2¹⁴⁰W² rounded down, which **defines** the deviation (never below s; above by less than 2⁻¹²⁶
//! relative). Rows end where e^{−x} < 2⁻¹³⁰; weights carry an absolute error below 2⁻¹¹⁷ and cumulative bounds below 2⁻¹²⁷; the acceptance
//! test compares lazily, first against 1 − t in f64 with a margin that covers its rounding, then e^{−t} in f64 with a 10⁻¹³ margin,
//! and in the remaining 10⁻¹³ of cases e^{−t} to 2⁻¹¹⁷ in integers. The output's total-variation distance from N_ℤ is therefore below 2⁻¹⁰⁰ per
//! draw: 2⁴⁰ draws add less than 2⁻⁶⁰ to δ.
//!
//! Not constant-time: row lookup and rejection depend on the drawn value. Timing is outside the release's threat model.

use super::fixed_exp::{ARGUMENT_BITS, RESULT_BITS, exp_neg, mul_shift};
use crate::randomness::Stream;

/// Guide entries, as a power of two.
const GUIDE_BITS: u32 = 11;
/// Fraction bits of the representation of W²/2s².
const RATE_BITS: u32 = 140;

/// Tables for one deviation; building them takes about a millisecond.
#[derive(Clone, Debug)]
pub(crate) struct DiscreteGaussian {
    width_bits: u32,
    /// ⌊2¹⁴⁰·W²/2s²⌋.
    rate: u128,
    /// 1/2s².
    half_precision: f64,
    /// ⌈P(row ≤ i)·2¹²⁸⌉ − 1, so that a 128-bit word above the last entry is impossible.
    cumulative: Vec<u128>,
    /// The high halves, for the first comparison.
    high: Vec<u64>,
    guide: Vec<u16>,
}

/// The deviation is outside the sampler's range.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("the noise deviation of {deviation} grid steps is outside [64, 2^45]: change sigma or the grid's bits")]
pub struct DeviationError {
    deviation: f64,
}

impl DiscreteGaussian {
    /// Tables for deviation `s`, 64 ≤ s ≤ 2⁴⁵, taken as the exact rational that the f64 is.
    pub(crate) fn new(s: f64) -> Result<Self, DeviationError> {
        if !(64.0..=2f64.powi(45)).contains(&s) {
            return Err(DeviationError { deviation: s });
        }
        let width_bits = (s / 64.0).log2().floor() as u32;
        let rate = rate(s, width_bits);
        let mut weights = Vec::new();
        for i in 0_u128.. {
            let argument = mul_shift(rate, i * i, RATE_BITS - ARGUMENT_BITS);
            let weight = exp_neg(argument) >> 8;
            if weight == 0 || argument >> ARGUMENT_BITS >= 91 {
                break;
            }
            weights.push(weight);
        }
        let total: u128 = weights.iter().sum();
        let mut running = 0_u128;
        let mut cumulative: Vec<u128> = weights
            .iter()
            .map(|w| {
                running += w;
                share(running, total)
            })
            .collect();
        if let Some(last) = cumulative.last_mut() {
            *last = u128::MAX;
        }
        let high: Vec<u64> = cumulative.iter().map(|c| (c >> 64) as u64).collect();
        let guide = (0..1_u64 << GUIDE_BITS).map(|g| high.partition_point(|h| *h < g << (64 - GUIDE_BITS)) as u16).collect();
        Ok(Self { width_bits, rate, half_precision: 0.5 / (s * s), cumulative, high, guide })
    }

    /// One draw.
    #[inline]
    pub(crate) fn sample(&self, stream: &mut Stream) -> i64 {
        loop {
            let row = self.row(stream);
            let word = stream.word();
            let negative = word >> 63 == 1;
            let spare_bits = 63 - self.width_bits;
            let j = (word >> spare_bits) & ((1 << self.width_bits) - 1);
            let spare = word & ((1 << spare_bits) - 1);
            let base = (row as u64) << self.width_bits;
            let magnitude = base + j;
            // t ≥ 0 and the spare bits are a uniform number's leading bits.
            let t = (base + magnitude) as f64 * j as f64 * self.half_precision;
            let unit = 1.0 / (1_u64 << spare_bits) as f64;
            let above = (spare + 1) as f64 * unit;
            let accepted = above <= 1.0 - t - 1e-12 || j == 0 || self.settle(row, j, spare, spare_bits, t, stream);
            if accepted && !(negative && magnitude == 0) {
                let value = magnitude as i64;
                return if negative { -value } else { value };
            }
        }
    }

    /// Inverts the row table.
    #[inline]
    fn row(&self, stream: &mut Stream) -> usize {
        let word = stream.word();
        let mut row = usize::from(self.guide[(word >> (64 - GUIDE_BITS)) as usize]);
        while self.high[row] < word {
            row += 1;
        }
        if self.high[row] == word {
            // One word in 2⁵³: the low halves decide.
            let full = (u128::from(word) << 64) | u128::from(stream.word());
            while self.cumulative[row] < full {
                row += 1;
            }
        }
        row
    }

    /// The acceptance test where 1 − t does not decide.
    #[cold]
    fn settle(&self, row: usize, j: u64, spare: u64, spare_bits: u32, t: f64, stream: &mut Stream) -> bool {
        let unit = 1.0 / (1_u64 << spare_bits) as f64;
        let p = (-t).exp();
        if (spare + 1) as f64 * unit <= p * (1.0 - 1e-13) {
            return true;
        }
        if spare as f64 * unit >= p * (1.0 + 1e-13) {
            return false;
        }
        let rest = (u128::from(stream.word()) << 64) | u128::from(stream.word());
        let uniform = (u128::from(spare) << (RESULT_BITS - spare_bits)) | (rest >> (128 - RESULT_BITS + spare_bits));
        uniform < self.acceptance(row, j)
    }

    /// e^{−t}·2¹²⁶.
    fn acceptance(&self, row: usize, j: u64) -> u128 {
        let numerator = ((2 * (row as u128)) << self.width_bits) + u128::from(j);
        let shift = RATE_BITS - ARGUMENT_BITS + 2 * self.width_bits;
        exp_neg(mul_shift(self.rate, numerator * u128::from(j), shift))
    }
}

/// ⌊2¹⁴⁰·4ʷ/2s²⌋ by long division: s = m·2ᵉ exactly, so this is ⌊2^{139+2w−2e}/m²⌋.
fn rate(s: f64, width_bits: u32) -> u128 {
    let bits = s.to_bits();
    let exponent = ((bits >> 52) & 0x7FF) as i32 - 1075;
    let mantissa = u128::from((bits & ((1 << 52) - 1)) | (1 << 52));
    let divisor = mantissa * mantissa;
    let length = RATE_BITS as i32 - 1 + 2 * width_bits as i32 - 2 * exponent;
    let (mut remainder, mut quotient) = (1_u128, 0_u128);
    for _ in 0..length {
        remainder <<= 1;
        quotient <<= 1;
        if remainder >= divisor {
            remainder -= divisor;
            quotient |= 1;
        }
    }
    quotient
}

/// ⌊part·2¹²⁸/total⌋ for part < total < 2¹²⁷, one bit at a time; 2¹²⁸ − 1 for part = total.
fn share(part: u128, total: u128) -> u128 {
    if part >= total {
        return u128::MAX;
    }
    let (mut remainder, mut quotient) = (part, 0_u128);
    for _ in 0..128 {
        remainder <<= 1;
        quotient <<= 1;
        if remainder >= total {
            remainder -= total;
            quotient |= 1;
        }
    }
    quotient
}

#[cfg(test)]
#[path = "discrete_gaussian_tests.rs"]
mod tests;
