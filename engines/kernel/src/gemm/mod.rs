//! Matrix products over Z_2^64 (all sums and products wrap), row-major, threaded when the work is large.
//!
//! The copies that the blocked kernels make of their operands are freed, not wiped.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod blocking;
#[cfg(target_arch = "x86_64")]
mod limbs;
#[cfg(target_arch = "x86_64")]
mod panel;
mod portable;
#[cfg(target_arch = "x86_64")]
mod registers;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiles;
mod weights;

#[cfg(target_arch = "x86_64")]
use crate::cpu::Cpu;
pub(crate) use weights::public_kernel_name;
pub use weights::{MAX_WEIGHT, PackedWeights, gemm_public};

/// Work below this many multiply-adds stays on the calling thread: about 0.1 ms, well above the cost of waking threads.
const PARALLEL_FROM: usize = 1 << 20;

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
    #[cfg(target_arch = "x86_64")]
    if Cpu::detected().amx && tiles::pays(m, k, n) {
        let b = tiles::Columns::from_rows(tiles::Unit::Amx, b, n, k);
        // SAFETY: AMX was detected.
        return unsafe { tiles::add_product(a, m, &b, 64, out) };
    }
    #[cfg(target_arch = "x86_64")]
    if Cpu::detected().avx512 {
        // SAFETY: AVX-512 F and DQ were detected.
        return unsafe {
            if are_few(m, k, n) {
                avx512::few_rows(a, b, k, n, out);
            } else {
                let b = panel::from_rows(b, k, n, |x| x);
                avx512::multiply(a, &b, m, k, n, out);
            }
        };
    }
    #[cfg(target_arch = "x86_64")]
    if Cpu::detected().avx2 {
        // SAFETY: AVX2 was detected.
        return unsafe {
            if are_few(m, k, n) { avx2::few_rows(a, b, k, n, out) } else { avx2::multiply(a, b, false, m, k, n, out) }
        };
    }
    portable::general(a, b, k, n, out);
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
    #[cfg(target_arch = "x86_64")]
    if Cpu::detected().amx && tiles::pays(m, k, n) {
        let b = tiles::Columns::from_columns(tiles::Unit::Amx, b, n, k, tiles::BYTES, |b| b);
        // SAFETY: AMX was detected.
        return unsafe { tiles::add_product(a, m, &b, 64, out) };
    }
    #[cfg(target_arch = "x86_64")]
    if Cpu::detected().avx512 {
        // SAFETY: AVX-512 F and DQ were detected.
        return unsafe {
            if are_few(m, k, n) {
                avx512::few_rows_transposed(a, b, k, n, out);
            } else {
                let b = panel::from_columns(b, k, n, |x| x);
                avx512::multiply(a, &b, m, k, n, out);
            }
        };
    }
    #[cfg(target_arch = "x86_64")]
    if Cpu::detected().avx2 {
        // SAFETY: AVX2 was detected.
        return unsafe {
            if are_few(m, k, n) {
                avx2::few_rows_transposed(a, b, k, n, out);
            } else {
                avx2::multiply(a, b, true, m, k, n, out);
            }
        };
    }
    portable::transposed(a, b, k, n, out);
}

/// Rows below which packing `b` costs more than it saves.
#[cfg(target_arch = "x86_64")]
const FEW_ROWS: usize = 4;

/// Whether a product has so few rows that `b` is best read where it is; it is bound by reading `b` once, so one thread does.
#[cfg(target_arch = "x86_64")]
fn are_few(m: usize, k: usize, n: usize) -> bool {
    (1..FEW_ROWS).contains(&m) && k > 0 && n > 0
}

fn assert_shapes(a: &[u64], b: &[u64], m: usize, k: usize, n: usize, out: &[u64]) {
    assert_eq!(a.len(), m * k, "a is [m, k]");
    assert_eq!(b.len(), k * n, "b has k · n elements");
    assert_eq!(out.len(), m * n, "out is [m, n]");
}
