//! How the blocked kernels cut a product: the left-hand matrix in tiles of rows, the output in blocks that threads take.

use super::PARALLEL_FROM;
use rayon::prelude::*;

/// The left-hand matrix in tiles of `tile` rows, each `[k, rows]`, every word in the form that `form` gives it.
pub(super) fn pack_tiles(a: &[u64], k: usize, tile: usize, form: impl Fn(u64) -> u64 + Sync) -> Vec<u64> {
    let mut tiles = vec![0; a.len()];
    let pack = |(to, rows): (&mut [u64], &[u64])| {
        let count = rows.len() / k;
        for (r, row) in rows.chunks_exact(k).enumerate() {
            for (to, x) in to[r..].iter_mut().step_by(count).zip(row) {
                *to = form(*x);
            }
        }
    };
    let step = tile * k;
    if a.len() < PARALLEL_FROM / 8 {
        tiles.chunks_mut(step).zip(a.chunks(step)).for_each(pack);
    } else {
        tiles.par_chunks_mut(step).zip(a.par_chunks(step)).for_each(pack);
    }
    tiles
}

/// The output, shared by tasks that write disjoint tiles.
#[derive(Clone, Copy)]
pub(super) struct Out {
    pub(super) start: *mut u64,
    pub(super) columns: usize,
}

// SAFETY: the pointer comes from an exclusive borrow that outlives the parallel loop, and every task writes only the cells
// of its own block; see `multiply` of each kernel.
unsafe impl Send for Out {}
// SAFETY: as above.
unsafe impl Sync for Out {}

/// A block of the output: tiles of rows × panels of columns.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) tiles: (usize, usize),
    pub(super) panels: (usize, usize),
}

/// Cuts the output into blocks, about four per thread when there is enough work.
pub(super) fn blocks(tiles: usize, panels: usize, work: usize) -> Vec<Block> {
    let threads = rayon::current_num_threads();
    if work < PARALLEL_FROM || threads == 1 {
        return vec![Block { tiles: (0, tiles), panels: (0, panels) }];
    }
    let wanted = 4 * threads;
    let high = tiles.div_ceil(wanted.div_ceil(panels)).max(1);
    let wide = (panels * tiles.div_ceil(high) / wanted).max(1);
    let cuts = |count: usize, size: usize| (0..count).step_by(size).map(move |at| (at, (at + size).min(count)));
    cuts(panels, wide).flat_map(|panels| cuts(tiles, high).map(move |tiles| Block { tiles, panels })).collect()
}

/// The order of panels and of steps of `k`, `depth` at a time: all panels within `reach` steps, then all within the next.
pub(super) fn sweep(k: usize, reach: usize, depth: usize, panels: (usize, usize)) -> impl Iterator<Item = (usize, usize)> {
    (0..k).step_by(reach).flat_map(move |from| {
        let starts = move || (from..k.min(from + reach)).step_by(depth);
        (panels.0..panels.1).flat_map(move |panel| starts().map(move |start| (panel, start)))
    })
}
