//! The integer-grid Gaussian mechanism (dp.md §5, tier 3).
//!
//! With γ = C/2ᵏ, every example's gradient over *all* tensors is scaled to norm at most C, divided by γ and rounded to the nearest integer
//! vector z with Σz² ≤ 4ᵏ **exactly**; the sum of the z is exact in 64-bit integers; the release is γ·(Σz + N_ℤ(0, (σ·2ᵏ)²)) per coordinate. No
//! floating-point value depends on both the data and the noise before the integer sum is complete, so the attacks on
//! floating-point noise (Mironov 2012) have nothing to read.
//!
//! *Why nearest.* Rounding is part of each example's own map, so any rule keeps the guarantee as long as the norm is bounded after it.
//! Nearest is deterministic, moves a coordinate by at most γ/2 = C·2^{−k−1} (below f32's own error on the gradient at k = 26), and needs no
//! secret randomness per coordinate; unbiased rounding would need it and has an unbounded-by-nearest norm growth of γ√d.
//!
//! *Why the norm holds.* An example is scaled to at most (2ᵏ − √d/2 − 1)(1 − 2⁻³⁰) grid steps and rounding adds at most √d/2. The scaled values
//! are f64 with relative error 2⁻⁵², the norm's own error is below d·2⁻⁵². The sum Σz² is then computed exactly (integers below 2⁵³ in
//! f64) and an example that broke the bound would be taken out again and counted; no input does.
//!
//! A NaN or infinite gradient contributes zero and is counted. Counts are secret: they depend on the batch without noise.

use super::discrete_gaussian::{DeviationError, DiscreteGaussian};
use super::memory::Memory;
use super::strategy::Strategy;
use crate::budget::{ClipNorm, NoiseMultiplier};
use crate::ledger::Charge;
use crate::randomness::RandomSource;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize;

/// k, the grid's bits: γ = C/2ᵏ. 16 to 26; 26 is the default and the finest at which Σz² is exact in f64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct GridBits(u8);

impl GridBits {
    /// Accepts 16 to 26.
    pub fn new(bits: u8) -> Result<Self, MechanismError> {
        if (16..=26).contains(&bits) { Ok(Self(bits)) } else { Err(MechanismError::GridBits { bits }) }
    }

    /// k.
    pub fn get(self) -> u8 {
        self.0
    }

    /// 2ᵏ, the clipping norm in grid steps.
    pub fn steps(self) -> f64 {
        (1_u64 << self.0) as f64
    }
}

impl Default for GridBits {
    fn default() -> Self {
        Self(26)
    }
}

impl TryFrom<u8> for GridBits {
    type Error = MechanismError;
    fn try_from(bits: u8) -> Result<Self, MechanismError> {
        Self::new(bits)
    }
}

impl From<GridBits> for u8 {
    fn from(bits: GridBits) -> u8 {
        bits.0
    }
}

/// Clipping norm, noise multiplier and grid of a mechanism.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GridConfig {
    /// C.
    pub clip: ClipNorm,
    /// σ.
    pub sigma: NoiseMultiplier,
    /// k.
    #[serde(default)]
    pub bits: GridBits,
    /// How the noise of successive steps is correlated.
    #[serde(default, skip_serializing_if = "Strategy::is_independent")]
    pub strategy: Strategy,
}

/// Why a mechanism cannot be built or refuses to release.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MechanismError {
    /// The grid is too coarse or too fine.
    #[error("grid bits = {bits} is outside its domain: give 16 to 26")]
    GridBits {
        /// The rejected value.
        bits: u8,
    },
    /// No trainable coordinates, or more than the grid can hold.
    #[error("{dimension} trainable coordinates do not fit a grid of {bits} bits: give at least 1 and at most 2^38, or more bits")]
    Dimension {
        /// Number of coordinates.
        dimension: usize,
        /// k.
        bits: u8,
    },
    /// Slices handed in do not have the shape the mechanism was built for.
    #[error("tensor {tensor} of the microbatch holds {got} values where {want} are expected")]
    Shape {
        /// Index of the tensor.
        tensor: usize,
        /// Values expected.
        want: usize,
        /// Values given.
        got: usize,
    },
    /// The charge was made for other parameters than this mechanism's.
    #[error("the ledger charged {field} = {charged} but the mechanism runs with {actual}: build both from one plan")]
    Charge {
        /// Which field differs.
        field: &'static str,
        /// What was charged.
        charged: String,
        /// What the mechanism has.
        actual: String,
    },
    /// The noise deviation is outside the sampler's range.
    #[error(transparent)]
    Deviation(#[from] DeviationError),
}

/// Adding this to |x| < 2⁵¹ and taking it away again rounds x to the nearest integer (ties to even).
const MAGIC: f64 = 6_755_399_441_055_744.0;
/// Columns handled at a time, so that their sums stay in the first-level cache.
const BLOCK: usize = 1024;
/// Rows whose integers are summed in f64 before they are added to the 64-bit sums: 2²⁶ of them, each at most 2²⁶, are exact.
const ROWS: usize = 1 << 26;
const LANES: usize = 8;

/// Accumulates clipped integer gradients of one step and releases their noisy sum once per ledger charge.
///
/// Shapes: built from the lengths of the trainable tensors; a microbatch of b examples is one slice of b·lenₜ values per tensor t, row-major.
pub struct GridMechanism {
    config: GridConfig,
    tensors: Vec<usize>,
    sums: Vec<i64>,
    memory: Memory,
    noise: DiscreteGaussian,
    /// Largest norm, in grid steps, that may be rounded as it is.
    safe: f64,
    rejected: u64,
}

impl std::fmt::Debug for GridMechanism {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GridMechanism").field("config", &self.config).field("tensors", &self.tensors).finish_non_exhaustive()
    }
}

impl Drop for GridMechanism {
    fn drop(&mut self) {
        self.sums.zeroize();
    }
}

impl GridMechanism {
    /// A mechanism over tensors of the given lengths.
    pub fn new(config: GridConfig, tensors: &[usize]) -> Result<Self, MechanismError> {
        let dimension: usize = tensors.iter().sum();
        let bits = config.bits.get();
        let half_diagonal = (dimension as f64).sqrt() / 2.0;
        if dimension == 0 || dimension > 1 << 38 || half_diagonal > config.bits.steps() / 64.0 {
            return Err(MechanismError::Dimension { dimension, bits });
        }
        let noise = DiscreteGaussian::new(config.sigma.get() * config.bits.steps() * config.strategy.norm())?;
        let safe = (config.bits.steps() - half_diagonal - 1.0) * (1.0 - 2f64.powi(-30));
        Ok(Self {
            config,
            tensors: tensors.to_vec(),
            sums: vec![0; dimension],
            memory: Memory::new(config.strategy),
            noise,
            safe,
            rejected: 0,
        })
    }

    /// The configuration.
    pub fn config(&self) -> GridConfig {
        self.config
    }

    /// Number of coordinates d.
    pub fn dimension(&self) -> usize {
        self.sums.len()
    }

    /// Examples of this step whose gradient was not finite and contributed zero. Secret: do not log it in a private run.
    pub fn rejected(&self) -> u64 {
        self.rejected
    }

    /// Adds one example, its gradient given tensor by tensor.
    pub fn accumulate(&mut self, gradient: &[&[f32]]) -> Result<(), MechanismError> {
        self.accumulate_batch(1, gradient, None)
    }

    /// Adds the rows of one flat [b × `dim`] matrix, for a mechanism of a single tensor.
    pub fn accumulate_rows(&mut self, rows: &[f32], dim: usize) -> Result<(), MechanismError> {
        if self.tensors != [dim] || !rows.len().is_multiple_of(dim) {
            let want = self.sums.len();
            return Err(MechanismError::Shape { tensor: 0, want, got: rows.len() });
        }
        self.accumulate_batch(rows.len() / dim, &[rows], None)
    }

    /// Adds `rows` examples: `slabs[t]` holds rows × lenₜ gradients. Rows whose `keep` is false (padding) contribute zero and are
    /// neither read for NaN nor counted.
    pub fn accumulate_batch(&mut self, rows: usize, slabs: &[&[f32]], keep: Option<&[bool]>) -> Result<(), MechanismError> {
        self.check_shapes(rows, slabs, keep)?;
        let factors = self.factors(rows, slabs, keep);
        let norms = self.add_scaled(slabs, &factors, 1);
        let limit = self.config.bits.steps() * self.config.bits.steps();
        for (row, norm) in norms.iter().enumerate() {
            if *norm > limit {
                let mut undo = vec![0.0; rows];
                undo[row] = factors[row];
                self.add_scaled(slabs, &undo, -1);
                self.rejected += 1;
            }
        }
        Ok(())
    }

    fn check_shapes(&self, rows: usize, slabs: &[&[f32]], keep: Option<&[bool]>) -> Result<(), MechanismError> {
        if slabs.len() != self.tensors.len() {
            return Err(MechanismError::Shape { tensor: slabs.len(), want: self.tensors.len(), got: slabs.len() });
        }
        for (tensor, (slab, len)) in slabs.iter().zip(&self.tensors).enumerate() {
            if slab.len() != rows * len {
                return Err(MechanismError::Shape { tensor, want: rows * len, got: slab.len() });
            }
        }
        match keep {
            Some(mask) if mask.len() != rows => Err(MechanismError::Shape { tensor: slabs.len(), want: rows, got: mask.len() }),
            _ => Ok(()),
        }
    }

    /// What each row is multiplied by to land on the grid inside the ball; 0 for padding and for non-finite rows.
    fn factors(&mut self, rows: usize, slabs: &[&[f32]], keep: Option<&[bool]>) -> Vec<f64> {
        let per_norm = self.config.bits.steps() / self.config.clip.get();
        let mut factors = vec![0.0; rows];
        for (row, factor) in factors.iter_mut().enumerate() {
            if keep.is_some_and(|mask| !mask[row]) {
                continue;
            }
            let square: f64 =
                slabs.iter().zip(&self.tensors).map(|(slab, len)| sum_of_squares(&slab[row * len..(row + 1) * len])).sum();
            let norm = square.sqrt() * per_norm;
            if !norm.is_finite() {
                self.rejected += 1;
            } else if norm <= self.safe {
                *factor = per_norm;
            } else {
                *factor = per_norm * (self.safe / norm);
            }
        }
        factors
    }

    /// Adds (or takes back) every row times its factor, rounded; returns each row's Σz².
    fn add_scaled(&mut self, slabs: &[&[f32]], factors: &[f64], sign: i64) -> Vec<f64> {
        let mut norms = vec![0.0; factors.len()];
        let rows: Vec<(usize, f64)> = factors.iter().copied().enumerate().filter(|(_, factor)| *factor != 0.0).collect();
        let mut start = 0;
        for (slab, len) in slabs.iter().zip(&self.tensors) {
            let sums = &mut self.sums[start..start + len];
            for (block, out) in sums.chunks_mut(BLOCK).enumerate() {
                for rows in rows.chunks(ROWS) {
                    let mut tile = [0.0_f64; BLOCK];
                    for (row, factor) in rows {
                        let from = row * len + block * BLOCK;
                        norms[*row] += round_into(&mut tile[..out.len()], &slab[from..from + out.len()], *factor);
                    }
                    out.iter_mut().zip(&tile).for_each(|(out, sum)| *out += *sum as i64 * sign);
                }
            }
            start += len;
        }
        norms
    }

    /// Adds the charge's noise and releases the sum (with a banded strategy its estimate); the accumulators return to zero. Consumes the charge, so one
    /// durable ledger entry pays for exactly one release.
    pub fn finish(&mut self, charge: Charge, source: &RandomSource) -> Result<NoisySum, MechanismError> {
        let check = |field, charged: String, actual: String| {
            if charged == actual { Ok(()) } else { Err(MechanismError::Charge { field, charged, actual }) }
        };
        check("sigma", charge.sigma().to_string(), self.config.sigma.to_string())?;
        check("clip", charge.clip().to_string(), self.config.clip.to_string())?;
        check("key_id", charge.key_id().to_string(), source.key_id().to_string())?;
        check("grid_bits", charge.bits().get().to_string(), self.config.bits.get().to_string())?;
        check("dimension", charge.dimension().to_string(), self.sums.len().to_string())?;
        check("strategy", format!("{:?}", charge.strategy()), format!("{:?}", self.config.strategy))?;
        let mut stream = source.noise(charge.step(), charge.attempt());
        let gamma = self.config.clip.get() / self.config.bits.steps();
        let mut unit = 1.0;
        let values = if self.config.strategy.is_independent() {
            let noisy = |sum: &mut i64| {
                let value = sum.saturating_add(self.noise.sample(&mut stream)) as f64 * gamma;
                *sum = 0;
                value as f32
            };
            self.sums.iter_mut().map(noisy).collect()
        } else {
            unit = self.memory.enter(charge.round());
            let sums = std::mem::replace(&mut self.sums, vec![0; charge.dimension() as usize]);
            let estimates = self.memory.release(sums, |_| self.noise.sample(&mut stream));
            estimates.iter().map(|value| (value * gamma) as f32).collect()
        };
        self.rejected = 0;
        Ok(NoisySum {
            values,
            tensors: self.tensors.clone(),
            deviation: self.config.sigma.get() * self.config.clip.get() * unit,
            private: source.is_private(),
        })
    }

    /// Forgets the step's examples without releasing anything.
    pub fn discard(&mut self) {
        self.sums.zeroize();
        self.sums.resize(self.tensors.iter().sum(), 0);
        self.rejected = 0;
    }

    #[cfg(test)]
    pub(crate) fn integer_sums(&self) -> &[i64] {
        &self.sums
    }
}

/// Σx² in f64 over independent lanes (the f32 square is exact in f64, so only the additions round).
fn sum_of_squares(values: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest: f64 = chunks.remainder().iter().map(|v| f64::from(*v) * f64::from(*v)).sum();
    for chunk in chunks {
        for (lane, v) in lanes.iter_mut().zip(chunk) {
            let v = f64::from(*v);
            *lane += v * v;
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// out += round(x·factor); returns Σ round², exact while below 2⁵³.
fn round_into(out: &mut [f64], values: &[f32], factor: f64) -> f64 {
    let round = |v: f32| (f64::from(v) * factor + MAGIC) - MAGIC;
    let mut lanes = [0.0_f64; LANES];
    let mut outs = out.chunks_exact_mut(LANES);
    let mut ins = values.chunks_exact(LANES);
    for (out, chunk) in outs.by_ref().zip(ins.by_ref()) {
        for i in 0..LANES {
            let rounded = round(chunk[i]);
            lanes[i] += rounded * rounded;
            out[i] += rounded;
        }
    }
    let mut total: f64 = lanes.iter().sum();
    for (out, v) in outs.into_remainder().iter_mut().zip(ins.remainder()) {
        let rounded = round(*v);
        total += rounded * rounded;
        *out += rounded;
    }
    total
}

/// One step's released sum: Σ clipped gradients + noise of deviation σC per coordinate. Public once made.
#[derive(Clone, Debug, PartialEq)]
pub struct NoisySum {
    values: Vec<f32>,
    tensors: Vec<usize>,
    deviation: f64,
    private: bool,
}

impl NoisySum {
    /// All coordinates, tensor after tensor.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The noise deviation of each coordinate of the sum: σC, or more with a banded strategy.
    pub fn deviation(&self) -> f64 {
        self.deviation
    }

    /// Whether the noise came from a fresh secret key.
    pub fn is_private(&self) -> bool {
        self.private
    }

    /// The sum divided by the **expected** batch B (never the realised one, which is secret), and Φ, the noise variance of
    /// each coordinate that DP-AdamBC subtracts: (σC/B)² where noise is independent.
    pub fn mean(mut self, expected_batch: u64) -> NoisyMean {
        let scale = 1.0 / expected_batch.max(1) as f64;
        for v in &mut self.values {
            *v = (f64::from(*v) * scale) as f32;
        }
        let deviation = self.deviation * scale;
        NoisyMean { values: self.values, tensors: self.tensors, noise_variance: deviation * deviation, private: self.private }
    }
}

/// The noisy mean gradient of a step.
#[derive(Clone, Debug, PartialEq)]
pub struct NoisyMean {
    values: Vec<f32>,
    tensors: Vec<usize>,
    noise_variance: f64,
    private: bool,
}

impl NoisyMean {
    /// The gradients tensor by tensor, in the order the mechanism was built with.
    pub fn tensors(&self) -> impl Iterator<Item = &[f32]> {
        let mut rest = self.values.as_slice();
        self.tensors.iter().map(move |len| {
            let (head, tail) = rest.split_at(*len);
            rest = tail;
            head
        })
    }

    /// All coordinates, tensor after tensor.
    pub fn values(&self) -> &[f32] {
        &self.values
    }

    /// The noise variance of each coordinate.
    pub fn noise_variance(&self) -> f64 {
        self.noise_variance
    }

    /// Whether the noise came from a fresh secret key.
    pub fn is_private(&self) -> bool {
        self.private
    }
}

#[cfg(test)]
#[path = "grid_tests.rs"]
mod tests;
