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

/// `out[i] += Σ_k a[i,k] · b[k]`.
pub(super) fn general(a: &[u64], b: &[u64], k: usize, n: usize, out: &mut [u64]) {
    each_row(out, n, a.len() * n, |i, to| {
        for (scale, from) in a[i * k..(i + 1) * k].iter().zip(b.chunks_exact(n)) {
            for (t, f) in to.iter_mut().zip(from) {
                *t = t.wrapping_add(scale.wrapping_mul(*f));
            }
        }
    });
}

/// `out[i,j] += ⟨a[i], b[j]⟩`.
pub(super) fn transposed(a: &[u64], b: &[u64], k: usize, n: usize, out: &mut [u64]) {
    each_row(out, n, a.len() * n, |i, to| {
        for (j, t) in to.iter_mut().enumerate() {
            let products = a[i * k..(i + 1) * k].iter().zip(&b[j * k..(j + 1) * k]);
            *t = products.fold(*t, |sum, (x, y)| sum.wrapping_add(x.wrapping_mul(*y)));
        }
    });
}

/// `out[i,j] = ⟨x[i], w[j]⟩` with `w[outputs, inputs]` as given by the caller of `PackedWeights::pack`.
pub(super) fn public(x: &[u64], rows: usize, w: &[i32], inputs: usize, outputs: usize, out: &mut [u64]) {
    each_row(out, outputs, rows * inputs * outputs, |i, to| {
        for (j, t) in to.iter_mut().enumerate() {
            let products = x[i * inputs..(i + 1) * inputs].iter().zip(&w[j * inputs..(j + 1) * inputs]);
            *t = products.fold(0, |sum: u64, (x, w)| sum.wrapping_add(x.wrapping_mul(i64::from(*w) as u64)));
        }
    });
}
