//! The blocked products with AVX-512: tiles of up to eight rows and sixteen columns held in registers.
//!
//! Both matrices are first copied in the order of the inner loop, `a` into tiles `[k, rows]` and `b` into panels (see [`super::panel`]); `vpmullq`
//! multiplies words of 64 bits.

use super::blocking::{Block, Out, blocks, pack_tiles};
use super::panel::WIDTH;
use super::portable;
use core::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_loadu_si512, _mm512_mask_storeu_epi64, _mm512_maskz_loadu_epi64, _mm512_mullo_epi64,
    _mm512_set1_epi64, _mm512_setzero_si512,
};
use rayon::prelude::*;

/// Rows of a tile for `vpmullq`: 16 sums in registers, which leaves room for products in flight.
const TILE: usize = 8;

/// Steps of `k` between visits to the output: a panel's slice of 16 KiB and a tile's 8 KiB fit a first-level cache.
const DEPTH: usize = 128;

/// `out += a · b` with `b` in panels.
///
/// # Safety
/// The CPU has AVX-512 F and DQ.
pub(super) unsafe fn multiply(a: &[u64], b: &[u64], m: usize, k: usize, n: usize, out: &mut [u64]) {
    assert!(a.len() == m * k && out.len() == m * n && b.len() == n.div_ceil(WIDTH) * k * WIDTH, "shapes agree");
    if k == 0 || out.is_empty() {
        return;
    }
    let tiles = pack_tiles(a, k, TILE, |x| x);
    let target = Out { start: out.as_mut_ptr(), columns: n };
    let run = |block: &Block| {
        // SAFETY: the caller vouches for the CPU. The assertion above fixes the lengths of `out`, the panels and (through
        // `a`) the tiles; blocks lie inside the output and are pairwise disjoint.
        unsafe { multiply_block(&tiles, b, m, k, target, *block) }
    };
    let blocks = blocks(m.div_ceil(TILE), n.div_ceil(WIDTH), m * k * n);
    if let [block] = &blocks[..] {
        run(block);
    } else {
        blocks.par_iter().for_each(run);
    }
}

/// One inner product of a tile's slice and a panel's slice.
struct Slice {
    depth: usize,
    columns: usize,
    masks: [u8; 2],
}

/// # Safety
/// As [`multiply`]; `tiles` and `b` are packed for `m` rows, `k` steps and `out.columns` columns, and nothing else
/// accesses the block's cells of `out`.
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn multiply_block(tiles: &[u64], b: &[u64], m: usize, k: usize, out: Out, block: Block) {
    for panel in block.panels.0..block.panels.1 {
        let width = (out.columns - panel * WIDTH).min(WIDTH);
        let mask = (1u32 << width) - 1;
        for start in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - start);
            let slice = Slice { depth, columns: out.columns, masks: [mask as u8, (mask >> 8) as u8] };
            let from = (panel * k + start) * WIDTH;
            for t in block.tiles.0..block.tiles.1 {
                let rows = (m - t * TILE).min(TILE);
                // SAFETY: tile `t` has `rows · k` words, the panel `k · WIDTH`; `start + depth ≤ k`. The cell at row `t · TILE` and
                // column `panel · WIDTH` is inside the output, as are `rows` rows and `width` columns from there.
                unsafe {
                    let to = out.start.add(t * TILE * out.columns + panel * WIDTH);
                    words(rows, tiles.as_ptr().add(t * TILE * k + start * rows), b.as_ptr().add(from), to, &slice);
                }
            }
        }
    }
}

/// # Safety
/// `a` has `rows · depth` and `b` has `WIDTH · depth` readable words; `out` has `rows` rows at distance `columns`,
/// accessible in the columns that the masks select; the CPU has AVX-512 F and DQ.
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn words(rows: usize, a: *const u64, b: *const u64, out: *mut u64, slice: &Slice) {
    // SAFETY: the same contract.
    unsafe {
        match rows {
            1 => words_of_rows::<1>(a, b, out, slice),
            2 => words_of_rows::<2>(a, b, out, slice),
            3 => words_of_rows::<3>(a, b, out, slice),
            4 => words_of_rows::<4>(a, b, out, slice),
            5 => words_of_rows::<5>(a, b, out, slice),
            6 => words_of_rows::<6>(a, b, out, slice),
            7 => words_of_rows::<7>(a, b, out, slice),
            8 => words_of_rows::<8>(a, b, out, slice),
            _ => unreachable!("a tile has at least one row and at most TILE"),
        }
    }
}

/// # Safety
/// As [`words`], with `rows = ROWS`.
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn words_of_rows<const ROWS: usize>(a: *const u64, b: *const u64, out: *mut u64, slice: &Slice) {
    let mut sums = [[_mm512_setzero_si512(); 2]; ROWS];
    // SAFETY: step `l < depth` reads `a[l, 0..ROWS]` and `b[l, 0..16]`, inside the promised ranges; the loads need no alignment.
    unsafe {
        for l in 0..slice.depth {
            let b = b.add(l * WIDTH);
            let columns = [_mm512_loadu_si512(b.cast()), _mm512_loadu_si512(b.add(8).cast())];
            for (r, row) in sums.iter_mut().enumerate() {
                let x = _mm512_set1_epi64(*a.add(l * ROWS + r) as i64);
                for (sum, b) in row.iter_mut().zip(columns) {
                    *sum = _mm512_add_epi64(*sum, _mm512_mullo_epi64(x, b));
                }
            }
        }
        finish(&sums, out, slice);
    }
}

/// Adds a tile's sums to the output.
///
/// # Safety
/// `out` has `ROWS` rows at distance `columns`, accessible in the columns that the masks select.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn finish<const ROWS: usize>(sums: &[[__m512i; 2]; ROWS], out: *mut u64, slice: &Slice) {
    for (r, row) in sums.iter().enumerate() {
        for (c, sum) in row.iter().enumerate() {
            let mask = slice.masks[c];
            // SAFETY: masked-off columns are not accessed; the others are promised. The pointer itself is formed without
            // the in-bounds rule, because a fully masked second half may lie past the end.
            unsafe {
                let to = out.wrapping_add(r * slice.columns + 8 * c).cast::<i64>();
                _mm512_mask_storeu_epi64(to, mask, _mm512_add_epi64(*sum, _mm512_maskz_loadu_epi64(mask, to)));
            }
        }
    }
}

/// `out += a · b` for so few rows that `b` is best read where it is.
///
/// # Safety
/// The CPU has AVX-512 F and DQ.
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) unsafe fn few_rows(a: &[u64], b: &[u64], k: usize, n: usize, out: &mut [u64]) {
    for (row, to) in a.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
        portable::row_times_matrix(row, b, to);
    }
}

/// `out += a · bᵀ`, as [`few_rows`].
///
/// # Safety
/// The CPU has AVX-512 F and DQ.
#[target_feature(enable = "avx512f,avx512dq")]
pub(super) unsafe fn few_rows_transposed(a: &[u64], b: &[u64], k: usize, n: usize, out: &mut [u64]) {
    for (row, to) in a.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
        portable::row_times_transpose(row, b, to);
    }
}
