//! The order in which the blocked kernels read the right-hand matrix: panels of [`WIDTH`] columns, each `[k, WIDTH]`
//! contiguous, the last one padded with zeros.

/// Columns of a panel: two registers of eight words.
pub(super) const WIDTH: usize = 16;

/// Rows of `k` in one packing step; a cache line of every column stays in the first-level cache meanwhile.
const STEP: usize = 8;

/// Packs `b[k, n]`.
pub(super) fn from_rows<T: Copy + Default>(b: &[T], k: usize, n: usize) -> Vec<T> {
    let mut panels = vec![T::default(); n.div_ceil(WIDTH) * k * WIDTH];
    if k * n == 0 {
        return panels;
    }
    for (p, panel) in panels.chunks_exact_mut(k * WIDTH).enumerate() {
        let columns = p * WIDTH..n.min((p + 1) * WIDTH);
        for (to, from) in panel.chunks_exact_mut(WIDTH).zip(b.chunks_exact(n)) {
            to[..columns.len()].copy_from_slice(&from[columns.clone()]);
        }
    }
    panels
}

/// Packs the transpose of `b[n, k]`.
pub(super) fn from_columns<T: Copy + Default>(b: &[T], k: usize, n: usize) -> Vec<T> {
    let mut panels = vec![T::default(); n.div_ceil(WIDTH) * k * WIDTH];
    if k * n == 0 {
        return panels;
    }
    for (panel, columns) in panels.chunks_exact_mut(k * WIDTH).zip(b.chunks(k * WIDTH)) {
        for (s, to) in panel.chunks_mut(STEP * WIDTH).enumerate() {
            for (j, column) in columns.chunks_exact(k).enumerate() {
                for (row, value) in to.chunks_exact_mut(WIDTH).zip(&column[s * STEP..]) {
                    row[j] = *value;
                }
            }
        }
    }
    panels
}
