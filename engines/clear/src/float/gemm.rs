//! Matrix products in f32, blocked so that the compiler vectorises them without `unsafe`.
//!
//! Each output element is the sum of its products in ascending order of the inner index, in blocks of [`DEPTH`] whose sums are then added.
//! The order depends on nothing else, so an element does not change with the number of rows, and products with zeros at the end
//! of the inner dimension leave it as it is. The error is at most about `(DEPTH + k/DEPTH)·2⁻²⁴·Σ|aᵢbᵢ|`.

use rayon::prelude::*;

/// Rows of a micro-kernel's tile.
const ROWS: usize = 4;
/// Columns of a micro-kernel's tile: with SSE2's sixteen registers, eight hold the tile.
const COLUMNS: usize = 8;
/// Products that are summed before the sum is added to the element.
const DEPTH: usize = 256;
/// Rows handled by one task.
const TASK_ROWS: usize = 32;

/// The right factor, packed into panels of [`COLUMNS`] columns, each `[inner, COLUMNS]`, padded with zeros.
pub(crate) struct Packed {
    panels: Vec<f32>,
    inner: usize,
    columns: usize,
}

impl Packed {
    /// Packs `Wᵀ` for `w` of shape `[columns, inner]`.
    pub(crate) fn transposed(w: &[f32], columns: usize, inner: usize) -> Self {
        Self::fill(columns, inner, |k, j| w[j * inner + k])
    }

    /// Packs `v` of shape `[inner, columns]`.
    pub(crate) fn plain(v: &[f32], inner: usize, columns: usize) -> Self {
        Self::fill(columns, inner, |k, j| v[k * columns + j])
    }

    fn fill(columns: usize, inner: usize, element: impl Fn(usize, usize) -> f32 + Sync) -> Self {
        let mut panels = vec![0.0; columns.div_ceil(COLUMNS) * COLUMNS * inner];
        panels.par_chunks_mut((COLUMNS * inner).max(1)).enumerate().for_each(|(panel, values)| {
            let first = panel * COLUMNS;
            for j in first..(first + COLUMNS).min(columns) {
                for (k, row) in values.as_chunks_mut::<COLUMNS>().0.iter_mut().enumerate() {
                    row[j - first] = element(k, j);
                }
            }
        });
        Self { panels, inner, columns }
    }

    /// `a·b + bias` for `a` of shape `[rows, inner]` and this `b`, into `out` of shape `[rows, columns]`.
    pub(crate) fn multiply(&self, a: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
        if self.columns == 0 || self.inner == 0 {
            return;
        }
        let tasks = out.par_chunks_mut(TASK_ROWS * self.columns).zip(a.par_chunks(TASK_ROWS * self.inner));
        tasks.for_each(|(out, a)| self.multiply_rows(a, bias, out));
    }

    fn multiply_rows(&self, a: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
        let strips = pack_strips(a, self.inner);
        let rows = a.len() / self.inner;
        for (panel, b) in self.panels.chunks_exact(COLUMNS * self.inner).enumerate() {
            let first = panel * COLUMNS;
            let width = COLUMNS.min(self.columns - first);
            for (strip, a) in strips.chunks_exact(ROWS * self.inner).enumerate() {
                let tile = tile(a, b);
                for (i, sums) in tile.iter().enumerate().take(rows - strip * ROWS) {
                    let start = (strip * ROWS + i) * self.columns + first;
                    let out = &mut out[start..start + width];
                    out.copy_from_slice(&sums[..width]);
                    if let Some(bias) = bias {
                        out.iter_mut().zip(&bias[first..first + width]).for_each(|(y, b)| *y += b);
                    }
                }
            }
        }
    }
}

/// Rows of `a` in strips of [`ROWS`], each `[inner, ROWS]`, padded with zeros.
fn pack_strips(a: &[f32], inner: usize) -> Vec<f32> {
    let rows = a.len() / inner;
    let mut strips = vec![0.0; rows.div_ceil(ROWS) * ROWS * inner];
    for (i, row) in a.chunks_exact(inner).enumerate() {
        let strip = &mut strips[i / ROWS * ROWS * inner..][..ROWS * inner];
        for (slot, value) in strip.as_chunks_mut::<ROWS>().0.iter_mut().zip(row) {
            slot[i % ROWS] = *value;
        }
    }
    strips
}

fn tile(a: &[f32], b: &[f32]) -> [[f32; COLUMNS]; ROWS] {
    let mut total = [[0.0; COLUMNS]; ROWS];
    for (a, b) in a.chunks(DEPTH * ROWS).zip(b.chunks(DEPTH * COLUMNS)) {
        let mut sums = [[0.0_f32; COLUMNS]; ROWS];
        for (a, b) in a.as_chunks::<ROWS>().0.iter().zip(b.as_chunks::<COLUMNS>().0) {
            for i in 0..ROWS {
                for j in 0..COLUMNS {
                    sums[i][j] += a[i] * b[j];
                }
            }
        }
        for (total, sums) in total.iter_mut().zip(sums) {
            total.iter_mut().zip(sums).for_each(|(total, sum)| *total += sum);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, seed: u32) -> Vec<f32> {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as f32 / (1_u32 << 23) as f32 - 1.0
        };
        (0..count).map(|_| next()).collect()
    }

    #[test]
    fn every_shape_equals_the_product_in_f64() {
        for (m, k, n) in [(1, 1, 1), (3, 5, 7), (4, 8, 8), (33, 257, 9), (65, 300, 31), (2, 768, 2)] {
            let (a, w, bias) = (values(m * k, 1), values(n * k, 2), values(n, 3));
            let mut out = vec![f32::NAN; m * n];
            Packed::transposed(&w, n, k).multiply(&a, Some(&bias), &mut out);
            let v: Vec<f32> = (0..k * n).map(|index| w[index % n * k + index / n]).collect();
            let mut plain = vec![f32::NAN; m * n];
            Packed::plain(&v, k, n).multiply(&a, Some(&bias), &mut plain);
            assert_eq!(out, plain);
            for (i, j) in (0..m).flat_map(|i| (0..n).map(move |j| (i, j))) {
                let products = (0..k).map(|l| f64::from(a[i * k + l]) * f64::from(w[j * k + l]));
                let magnitude: f64 = products.clone().map(f64::abs).sum::<f64>() + 1.0;
                let error = (f64::from(out[i * n + j]) - products.sum::<f64>() - f64::from(bias[j])).abs();
                assert!(error <= 260.0 * 2.0_f64.powi(-24) * magnitude, "{m}x{k}x{n} at {i}, {j}: {error}");
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_the_rows_beside_it() {
        let (k, n) = (300, 24);
        let (a, w) = (values(70 * k, 5), values(n * k, 6));
        let packed = Packed::transposed(&w, n, k);
        let mut all = vec![0.0; 70 * n];
        packed.multiply(&a, None, &mut all);
        for row in 0..70 {
            let mut one = vec![0.0; n];
            packed.multiply(&a[row * k..(row + 1) * k], None, &mut one);
            assert_eq!(one, all[row * n..(row + 1) * n]);
        }
    }
}
