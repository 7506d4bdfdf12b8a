//! The order in which the blocked kernels read the right-hand matrix: panels of [`WIDTH`] columns, each `[k, WIDTH]`
//! contiguous, the last one padded with zeros.

use super::PARALLEL_FROM;
use rayon::prelude::*;

/// Columns of a panel: two registers of eight words.
pub(super) const WIDTH: usize = 16;

/// Rows of `k` in one packing step; a cache line of every column stays in the first-level cache meanwhile.
const STEP: usize = 8;

/// Fills the panels of a matrix with `k` rows and `n` columns by `fill(first column, panel)`.
fn panels<T: Copy + Default + Send>(k: usize, n: usize, fill: impl Fn(usize, &mut [T]) + Sync) -> Vec<T> {
    let mut panels = vec![T::default(); n.div_ceil(WIDTH) * k * WIDTH];
    if panels.len() < PARALLEL_FROM / 8 {
        panels.chunks_exact_mut((k * WIDTH).max(1)).enumerate().for_each(|(p, panel)| fill(p * WIDTH, panel));
    } else {
        panels.par_chunks_exact_mut(k * WIDTH).enumerate().for_each(|(p, panel)| fill(p * WIDTH, panel));
    }
    panels
}

/// Packs `b[k, n]`, every element in the form that `form` gives it.
pub(super) fn from_rows<S: Copy + Sync, T: Copy + Default + Send>(
    b: &[S],
    k: usize,
    n: usize,
    form: impl Fn(S) -> T + Sync,
) -> Vec<T> {
    panels(k, n, |first, panel| {
        let columns = first..n.min(first + WIDTH);
        for (to, from) in panel.chunks_exact_mut(WIDTH).zip(b.chunks_exact(n)) {
            to.iter_mut().zip(&from[columns.clone()]).for_each(|(to, x)| *to = form(*x));
        }
    })
}

/// Packs the transpose of `b[n, k]`, likewise.
pub(super) fn from_columns<S: Copy + Sync, T: Copy + Default + Send>(
    b: &[S],
    k: usize,
    n: usize,
    form: impl Fn(S) -> T + Sync,
) -> Vec<T> {
    panels(k, n, |first, panel| {
        let columns = &b[first * k..n.min(first + WIDTH) * k];
        for (s, to) in panel.chunks_mut(STEP * WIDTH).enumerate() {
            for (j, column) in columns.chunks_exact(k).enumerate() {
                for (row, value) in to.chunks_exact_mut(WIDTH).zip(&column[s * STEP..]) {
                    row[j] = form(*value);
                }
            }
        }
    })
}
