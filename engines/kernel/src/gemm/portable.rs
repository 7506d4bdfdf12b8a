//! The portable products, the definition that every SIMD kernel must equal.

use super::PARALLEL_FROM;
use rayon::prelude::*;

/// Calls `row(i, out_i)` for each row of `out[_, n]`, on several threads when `work` multiply-adds are many.
fn each_row(out: &mut [u64], n: usize, work: usize, row: impl Fn(usize, &mut [u64]) + Sync) {
    if n == 0 {
        return;
    }
    if work < PARALLEL_FROM {
        out.chunks_mut(n).enumerate().for_each(|(i, to)| row(i, to));
    } else {
        out.par_chunks_mut(n).enumerate().for_each(|(i, to)| row(i, to));
    }
}

/// `out[i] += Σ_l a[i,l] · b[l]`.
pub(super) fn general(a: &[u64], b: &[u64], k: usize, n: usize, out: &mut [u64]) {
    each_row(out, n, a.len() * n, |i, to| row_times_matrix(&a[i * k..(i + 1) * k], b, to));
}

/// `out[i,j] += ⟨a[i], b[j]⟩`.
pub(super) fn transposed(a: &[u64], b: &[u64], k: usize, n: usize, out: &mut [u64]) {
    each_row(out, n, a.len() * n, |i, to| row_times_transpose(&a[i * k..(i + 1) * k], b, to));
}

/// `out[i,j] = ⟨x[i], w[j]⟩`.
pub(super) fn public(x: &[u64], rows: usize, w: &[i32], inputs: usize, outputs: usize, out: &mut [u64]) {
    each_row(out, outputs, rows * inputs * outputs, |i, to| {
        for (j, t) in to.iter_mut().enumerate() {
            let products = x[i * inputs..(i + 1) * inputs].iter().zip(&w[j * inputs..(j + 1) * inputs]);
            *t = products.fold(0, |sum: u64, (x, w)| sum.wrapping_add(x.wrapping_mul(i64::from(*w) as u64)));
        }
    });
}

/// One element of a sparse weight matrix.
#[cfg(target_arch = "x86_64")]
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub(super) output: usize,
    pub(super) input: usize,
    pub(super) w: i32,
}

/// `out[i,j] += ⟨x[i], w[j]⟩` for a sparse `w`.
#[cfg(target_arch = "x86_64")]
pub(super) fn add_sparse(x: &[u64], w: &[Entry], inputs: usize, outputs: usize, out: &mut [u64]) {
    each_row(out, outputs, x.len() / inputs.max(1) * w.len(), |i, to| {
        let x = &x[i * inputs..(i + 1) * inputs];
        for Entry { output, input, w } in w {
            to[*output] = to[*output].wrapping_add(x[*input].wrapping_mul(i64::from(*w) as u64));
        }
    });
}

/// `out += row · b` with `b[row.len(), out.len()]`; inlined so that it compiles for the caller's CPU features.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a call would compile it without the caller's target features")]
pub(super) fn row_times_matrix(row: &[u64], b: &[u64], out: &mut [u64]) {
    for (scale, from) in row.iter().zip(b.chunks_exact(out.len())) {
        for (t, f) in out.iter_mut().zip(from) {
            *t = t.wrapping_add(scale.wrapping_mul(*f));
        }
    }
}

/// `out += row · bᵀ` with `b[out.len(), row.len()]`; inlined as [`row_times_matrix`].
#[inline(always)]
#[expect(clippy::inline_always, reason = "a call would compile it without the caller's target features")]
pub(super) fn row_times_transpose(row: &[u64], b: &[u64], out: &mut [u64]) {
    let k = row.len();
    for (j, t) in out.iter_mut().enumerate() {
        let products = row.iter().zip(&b[j * k..(j + 1) * k]);
        *t = products.fold(*t, |sum, (x, y)| sum.wrapping_add(x.wrapping_mul(*y)));
    }
}
