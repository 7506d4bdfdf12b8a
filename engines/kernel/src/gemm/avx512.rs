//! The blocked products with AVX-512: tiles of up to eight rows and sixteen columns held in registers.
//!
//! Both matrices are first copied in the order of the inner loop, `a` into tiles `[k, rows]` and `b` into panels
//! (see [`super::panel`]). Three inner loops share the blocking. The general one multiplies 64-bit words (`vpmullq`). With
//! public weights the same loop widens 32-bit weights; where `vpmullq` is slow, two 52-bit multiply-adds replace it, exactly:
//!
//! ```text
//! x = x0 + 2^28 x1,  0 ≤ x0 < 2^28,  0 ≤ x1 < 2^36,      u = w + 2^23,  0 < u < 2^24
//! x·w = x0·u + 2^28 (x1·u) − 2^23·x   mod 2^64.
//! ```
//!
//! `x0·u < 2^52` is whole in the low product; of `x1·u` only the residue mod 2^36 counts, which the low 52 bits hold.

use super::blocking::{Block, Out, blocks, pack_tiles};
use super::panel::WIDTH;
use super::{MAX_WEIGHT, portable};
use core::arch::x86_64::{
    __m512i, _mm256_loadu_si256, _mm512_add_epi64, _mm512_cvtepi32_epi64, _mm512_loadu_si512, _mm512_madd52lo_epu64,
    _mm512_mask_storeu_epi64, _mm512_maskz_loadu_epi64, _mm512_mullo_epi64, _mm512_set1_epi64, _mm512_setzero_si512,
    _mm512_slli_epi64, _mm512_sub_epi64,
};
use rayon::prelude::*;

/// Rows of a tile for `vpmullq`: 16 sums in registers, which leaves room for products in flight.
const TILE: usize = 8;

/// Rows of a tile for the 52-bit multiply-add: 16 sums too, two per cell.
const TILE52: usize = 4;

/// Steps of `k` between visits to the output: a panel's slice of 16 KiB and a tile's 8 KiB fit a first-level cache.
const DEPTH: usize = 128;

/// Bits of the low limb of a share for the 52-bit multiply-add.
const LIMB: u32 = 28;

/// A right-hand matrix in panels, and with it the choice of the inner loop.
#[derive(Clone, Copy)]
pub(super) enum Panels<'a> {
    /// Words of 64 bits.
    Words(&'a [u64]),
    /// Signed weights, for `vpmullq`.
    Weights(&'a [i32]),
    /// Weights plus 2^23, for the 52-bit multiply-add.
    Offset(&'a [i32]),
}

impl Panels<'_> {
    fn len(self) -> usize {
        match self {
            Panels::Words(b) => b.len(),
            Panels::Weights(b) | Panels::Offset(b) => b.len(),
        }
    }

    fn tile(self) -> usize {
        if matches!(self, Panels::Offset(_)) { TILE52 } else { TILE }
    }
}

/// `out = a · b`, or `out += a · b` if `add`, with `b` in panels.
///
/// # Safety
/// The CPU has AVX-512 F and DQ, and IFMA if the panels are `Offset`.
pub(super) unsafe fn multiply(a: &[u64], b: Panels<'_>, m: usize, k: usize, n: usize, out: &mut [u64], add: bool) {
    assert!(a.len() == m * k && out.len() == m * n && b.len() == n.div_ceil(WIDTH) * k * WIDTH, "shapes agree");
    if k == 0 || out.is_empty() {
        if !add {
            out.fill(0);
        }
        return;
    }
    let tile = b.tile();
    let tiles = match b {
        Panels::Offset(_) => pack_tiles(a, k, tile, |x| [x & ((1 << LIMB) - 1), x >> LIMB]),
        Panels::Words(_) | Panels::Weights(_) => pack_tiles(a, k, tile, |x| [x]),
    };
    let target = Out { start: out.as_mut_ptr(), columns: n };
    let run = |block: &Block| {
        // SAFETY: the caller vouches for the CPU. The assertion above fixes the lengths of `out`, the panels and (through
        // `a`) the tiles; blocks lie inside the output and are pairwise disjoint.
        unsafe { multiply_block(&tiles, b, m, k, target, add, *block) }
    };
    let blocks = blocks(m.div_ceil(tile), n.div_ceil(WIDTH), m * k * n);
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
    add: bool,
}

/// # Safety
/// As [`multiply`]; `tiles` and `b` are packed for `m` rows, `k` steps and `out.columns` columns, and nothing else
/// accesses the block's cells of `out`.
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn multiply_block(tiles: &[u64], b: Panels<'_>, m: usize, k: usize, out: Out, add: bool, block: Block) {
    let tile = b.tile();
    for panel in block.panels.0..block.panels.1 {
        let width = (out.columns - panel * WIDTH).min(WIDTH);
        let mask = (1u32 << width) - 1;
        for start in (0..k).step_by(DEPTH) {
            let depth = DEPTH.min(k - start);
            let slice = Slice { depth, columns: out.columns, masks: [mask as u8, (mask >> 8) as u8], add: add || start > 0 };
            let from = (panel * k + start) * WIDTH;
            for t in block.tiles.0..block.tiles.1 {
                let rows = (m - t * tile).min(tile);
                let left = t * tile * k + start * rows;
                // SAFETY: tile `t` has `rows · k` words (twice that in limbs), the panel `k · WIDTH`; `start + depth ≤ k`. The
                // cell at row `t · tile` and column `panel · WIDTH` is inside the output, as are `rows` rows and `width`
                // columns from there. The inner loop is the one whose CPU features the caller vouched for.
                unsafe {
                    let to = out.start.add(t * tile * out.columns + panel * WIDTH);
                    match b {
                        Panels::Words(b) => words(rows, tiles.as_ptr().add(left), b.as_ptr().add(from), to, &slice),
                        Panels::Weights(b) => weights(rows, tiles.as_ptr().add(left), b.as_ptr().add(from), to, &slice),
                        Panels::Offset(b) => offset(rows, tiles.as_ptr().add(2 * left), b.as_ptr().add(from), to, &slice),
                    }
                }
            }
        }
    }
}

/// Calls the instance of an inner loop for the number of rows.
macro_rules! by_rows {
    ($rows:expr, $loop:ident $arguments:tt: $($count:literal)*) => {
        match $rows {
            $($count => $loop::<$count> $arguments,)*
            _ => unreachable!("a tile has at least one row and at most TILE"),
        }
    };
}

/// Defines an inner loop with `vpmullq`: `$element` is the type of `b`, `$load` reads eight of them as words.
macro_rules! inner_loop {
    ($name:ident, $rows:ident, $element:ty, $load:ident) => {
        /// # Safety
        /// `a` has `rows · depth` and `b` has `WIDTH · depth` readable elements; `out` has `rows` rows at distance `columns`,
        /// accessible in the columns that the masks select; the CPU has AVX-512 F and DQ.
        #[target_feature(enable = "avx512f,avx512dq")]
        unsafe fn $name(rows: usize, a: *const u64, b: *const $element, out: *mut u64, slice: &Slice) {
            // SAFETY: the same contract.
            unsafe { by_rows!(rows, $rows(a, b, out, slice): 1 2 3 4 5 6 7 8) }
        }

        /// # Safety
        /// As the caller, with `rows = ROWS`.
        #[target_feature(enable = "avx512f,avx512dq")]
        unsafe fn $rows<const ROWS: usize>(a: *const u64, b: *const $element, out: *mut u64, slice: &Slice) {
            let mut sums = [[_mm512_setzero_si512(); 2]; ROWS];
            // SAFETY: step `l < depth` reads `a[l, 0..ROWS]` and `b[l, 0..16]`, inside the promised ranges.
            unsafe {
                for l in 0..slice.depth {
                    let b0 = $load(b.add(l * WIDTH));
                    let b1 = $load(b.add(l * WIDTH + 8));
                    for r in 0..ROWS {
                        let x = _mm512_set1_epi64(*a.add(l * ROWS + r) as i64);
                        sums[r][0] = _mm512_add_epi64(sums[r][0], _mm512_mullo_epi64(x, b0));
                        sums[r][1] = _mm512_add_epi64(sums[r][1], _mm512_mullo_epi64(x, b1));
                    }
                }
                finish(&sums, out, slice);
            }
        }
    };
}

inner_loop!(words, words_of_rows, u64, load_words);
inner_loop!(weights, weights_of_rows, i32, load_weights);

/// # Safety
/// Eight words at `from` are readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_words(from: *const u64) -> __m512i {
    // SAFETY: the same contract; the load needs no alignment.
    unsafe { _mm512_loadu_si512(from.cast()) }
}

/// # Safety
/// Eight weights at `from` are readable.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_weights(from: *const i32) -> __m512i {
    // SAFETY: the same contract; the load needs no alignment.
    _mm512_cvtepi32_epi64(unsafe { _mm256_loadu_si256(from.cast()) })
}

/// # Safety
/// As `words`, but `a` has `2 · rows · depth` elements (limbs) and the CPU has IFMA.
#[target_feature(enable = "avx512f,avx512dq")]
unsafe fn offset(rows: usize, a: *const u64, b: *const i32, out: *mut u64, slice: &Slice) {
    // SAFETY: the same contract.
    unsafe { by_rows!(rows, offset_of_rows(a, b, out, slice): 1 2 3 4) }
}

/// # Safety
/// As [`offset`], with `rows = ROWS`.
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
unsafe fn offset_of_rows<const ROWS: usize>(a: *const u64, b: *const i32, out: *mut u64, slice: &Slice) {
    let mut low = [[_mm512_setzero_si512(); 2]; ROWS];
    let mut high = low;
    let mut total = [0u64; ROWS];
    // SAFETY: step `l < depth` reads `a[l, 0..ROWS, 0..2]` and `b[l, 0..16]`, inside the promised ranges.
    unsafe {
        for l in 0..slice.depth {
            let b0 = load_weights(b.add(l * WIDTH));
            let b1 = load_weights(b.add(l * WIDTH + 8));
            for r in 0..ROWS {
                let at = a.add(2 * (l * ROWS + r));
                let (x0, x1) = (*at, *at.add(1));
                total[r] = total[r].wrapping_add(x0).wrapping_add(x1 << LIMB);
                let (x0, x1) = (_mm512_set1_epi64(x0 as i64), _mm512_set1_epi64(x1 as i64));
                low[r][0] = _mm512_madd52lo_epu64(low[r][0], x0, b0);
                low[r][1] = _mm512_madd52lo_epu64(low[r][1], x0, b1);
                high[r][0] = _mm512_madd52lo_epu64(high[r][0], x1, b0);
                high[r][1] = _mm512_madd52lo_epu64(high[r][1], x1, b1);
            }
        }
        for r in 0..ROWS {
            let excess = _mm512_set1_epi64(total[r].wrapping_mul(MAX_WEIGHT as u64) as i64);
            for c in 0..2 {
                let sum = _mm512_add_epi64(low[r][c], _mm512_slli_epi64::<LIMB>(high[r][c]));
                low[r][c] = _mm512_sub_epi64(sum, excess);
            }
        }
        finish(&low, out, slice);
    }
}

/// Writes a tile's sums, or adds them.
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
                let sum = if slice.add { _mm512_add_epi64(*sum, _mm512_maskz_loadu_epi64(mask, to)) } else { *sum };
                _mm512_mask_storeu_epi64(to, mask, sum);
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
