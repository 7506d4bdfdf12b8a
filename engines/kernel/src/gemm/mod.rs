//! Matrix products over Z_2^64 (all sums and products wrap), row-major, threaded when the work is large.

mod portable;
#[cfg(test)]
mod tests;

use portable as kernel;

/// Weights are smaller than this in absolute value: `|w| < 2^23`.
pub const MAX_WEIGHT: i32 = 1 << 23;

/// Work below this many multiply-adds stays on the calling thread: about 0.1 ms, well above the cost of waking threads.
const PARALLEL_FROM: usize = 1 << 20;

/// Public weights `[outputs, inputs]`, packed once in the order in which this CPU's best kernel reads them.
#[derive(Debug, Clone)]
pub struct PackedWeights {
    outputs: usize,
    inputs: usize,
    panels: Vec<i32>,
}

impl PackedWeights {
    /// Packs row-major `weights`.
    ///
    /// # Panics
    /// If the length is not `outputs · inputs` or a weight is not below [`MAX_WEIGHT`] in absolute value.
    pub fn pack(weights: &[i32], outputs: usize, inputs: usize) -> Self {
        assert_eq!(weights.len(), outputs * inputs, "weights are [outputs, inputs]");
        assert!(
            weights.iter().all(|w| w.unsigned_abs() < MAX_WEIGHT.unsigned_abs()),
            "public weights have at most 23 bits and a sign"
        );
        Self { outputs, inputs, panels: weights.to_vec() }
    }

    /// Rows of the weight matrix.
    pub fn outputs(&self) -> usize {
        self.outputs
    }

    /// Columns of the weight matrix.
    pub fn inputs(&self) -> usize {
        self.inputs
    }
}

pub(crate) fn public_kernel_name() -> &'static str {
    "portable"
}

/// Product with public weights: `out = x · Wᵀ mod 2^64`.
///
/// # Shapes
/// `x[rows, inputs]`, `out[rows, outputs]`.
///
/// # Panics
/// If a slice's length does not match.
pub fn gemm_public(x: &[u64], rows: usize, w: &PackedWeights, out: &mut [u64]) {
    assert_eq!(x.len(), rows * w.inputs, "x is [rows, inputs]");
    assert_eq!(out.len(), rows * w.outputs, "out is [rows, outputs]");
    kernel::public(x, rows, &w.panels, w.inputs, w.outputs, out);
}

/// Product `out = a · b mod 2^64`.
///
/// # Shapes
/// `a[m, k]`, `b[k, n]`, `out[m, n]`.
///
/// # Panics
/// If a slice's length does not match.
pub fn gemm(a: &[u64], b: &[u64], m: usize, k: usize, n: usize, out: &mut [u64]) {
    out.fill(0);
    gemm_add(a, b, m, k, n, out);
}

/// As [`gemm`], adding to `out`.
pub fn gemm_add(a: &[u64], b: &[u64], m: usize, k: usize, n: usize, out: &mut [u64]) {
    assert_shapes(a, b, m, k, n, out);
    kernel::general(a, b, k, n, out);
}

/// Product with the transpose: `out = a · bᵀ mod 2^64`.
///
/// # Shapes
/// `a[m, k]`, `b[n, k]`, `out[m, n]`.
///
/// # Panics
/// If a slice's length does not match.
pub fn gemm_nt(a: &[u64], b: &[u64], m: usize, k: usize, n: usize, out: &mut [u64]) {
    out.fill(0);
    gemm_nt_add(a, b, m, k, n, out);
}

/// As [`gemm_nt`], adding to `out`.
pub fn gemm_nt_add(a: &[u64], b: &[u64], m: usize, k: usize, n: usize, out: &mut [u64]) {
    assert_shapes(a, b, m, k, n, out);
    kernel::transposed(a, b, k, n, out);
}

fn assert_shapes(a: &[u64], b: &[u64], m: usize, k: usize, n: usize, out: &[u64]) {
    assert_eq!(a.len(), m * k, "a is [m, k]");
    assert_eq!(b.len(), k * n, "b has k · n elements");
    assert_eq!(out.len(), m * n, "out is [m, n]");
}
