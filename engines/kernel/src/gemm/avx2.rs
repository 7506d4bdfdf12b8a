//! The blocked products with AVX2, which has no 64-bit product: signed halves and the 32-bit product `vpmuldq`.
//!
//! A word is `x = x0 + 2^32 x1` with signed halves `-2^31 ≤ x0, x1 < 2^31`, so that
//!
//! ```text
//! x·y = x0·y0 + 2^32 (x0·y1 + x1·y0)          mod 2^64.
//! ```
//!
//! Of the high terms only the residue mod 2^32 counts, so `vpmulld` makes them, eight columns a register; of the low one `vpmuldq` makes the
//! whole products, four columns a register, and their sums wrap mod 2^64. Both matrices are packed as for AVX-512: `a` in tiles
//! `[k, rows]` of words in two halves, `b` in two planes of panels of [`WIDTH`] halves.

use super::blocking::{Block, Out, blocks, pack_tiles, sweep};
use super::panel::{self, WIDTH};
use super::portable;
use core::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_add_epi64, _mm256_and_si256, _mm256_loadu_si256, _mm256_mul_epi32, _mm256_mullo_epi32,
    _mm256_permute2x128_si256, _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_setzero_si256, _mm256_slli_epi64, _mm256_srli_epi64,
    _mm256_storeu_si256, _mm256_unpackhi_epi64, _mm256_unpacklo_epi64,
};
use rayon::prelude::*;

/// Rows of a tile: with two registers of columns 12 sums, which leaves room for the operands among 16 registers.
const TILE: usize = 6;

/// Columns of the inner loop for whole products: two registers of four sums.
const COLUMNS: usize = 8;

/// Steps of `k` between visits to the output: a panel's slice of 8 KiB and a tile's 6 KiB fit a first-level cache.
const DEPTH: usize = 128;

/// Steps of `k` between visits to a panel: so much of all tiles stays in a second-level cache from panel to panel.
const REACH: usize = 2 * DEPTH;

/// Words as `[x0, x1]` in memory: `x1` is the high word plus the carry that a negative `x0` takes back.
fn halves(x: u64) -> u64 {
    x.wrapping_add((x & 0x8000_0000) << 1)
}

/// `out += a · b` for words `b[k, n]`, or the transpose of `b[n, k]`.
///
/// # Safety
/// The CPU has AVX2.
pub(super) unsafe fn multiply(a: &[u64], b: &[u64], transposed: bool, m: usize, k: usize, n: usize, out: &mut [u64]) {
    assert!(a.len() == m * k && b.len() == k * n && out.len() == m * n, "shapes agree");
    if k == 0 || out.is_empty() {
        return;
    }
    let (low, high) = (|x: u64| x as i32, |x: u64| (halves(x) >> 32) as i32);
    let b = if transposed {
        [panel::from_columns(b, k, n, low), panel::from_columns(b, k, n, high)]
    } else {
        [panel::from_rows(b, k, n, low), panel::from_rows(b, k, n, high)]
    };
    let tiles = pack_tiles(a, k, TILE, halves);
    let target = Out { start: out.as_mut_ptr(), columns: n };
    let run = |block: &Block| {
        // SAFETY: the caller vouches for the CPU. The assertion above fixes the lengths of `out` and (through `a` and `b`) of the tiles
        // and the panels; blocks lie inside the output and are pairwise disjoint.
        unsafe { multiply_block(&tiles, &b, m, k, target, *block) }
    };
    let blocks = blocks(m.div_ceil(TILE), n.div_ceil(WIDTH), m * k * n);
    if let [block] = &blocks[..] {
        run(block);
    } else {
        blocks.par_iter().for_each(run);
    }
}

/// # Safety
/// As [`multiply`]; `tiles` and `b` are packed for `m` rows, `k` steps and `out.columns` columns, and nothing else
/// accesses the block's cells of `out`.
#[target_feature(enable = "avx2")]
unsafe fn multiply_block(tiles: &[u64], [low, high]: &[Vec<i32>; 2], m: usize, k: usize, out: Out, block: Block) {
    for (panel, start) in sweep(k, REACH, DEPTH, block.panels) {
        let depth = DEPTH.min(k - start);
        for t in block.tiles.0..block.tiles.1 {
            let rows = (m - t * TILE).min(TILE);
            let from = (panel * k + start) * WIDTH;
            // SAFETY: tile `t` has `rows · k` words and `start + depth ≤ k`; the panel has `k · WIDTH` halves. The cells from row
            // `t · TILE` and column `panel · WIDTH` on are inside the output for `rows` rows and `width` columns.
            unsafe {
                let tile = Tile {
                    a: tiles.as_ptr().add(t * TILE * k + start * rows).cast(),
                    depth,
                    out: out.start.add(t * TILE * out.columns + panel * WIDTH),
                    columns: out.columns,
                    width: (out.columns - panel * WIDTH).min(WIDTH),
                };
                tile.add(rows, [low.as_ptr().add(from), high.as_ptr().add(from)]);
            }
        }
    }
}

/// A tile's slice of `a` and its cells of the output.
#[derive(Clone, Copy)]
struct Tile {
    /// `[depth, rows, 2]` halves.
    a: *const i32,
    depth: usize,
    out: *mut u64,
    columns: usize,
    width: usize,
}

/// The sums of a row in two registers.
type Sums<const ROWS: usize> = [[__m256i; 2]; ROWS];

impl Tile {
    /// Adds the product with a panel's slice.
    ///
    /// # Safety
    /// `a` has `2 · rows · depth` and each plane `WIDTH · depth` readable halves, `out` has `rows` rows of `width` columns at distance
    /// `columns`, rows are 1 to [`TILE`], and the CPU has AVX2.
    #[target_feature(enable = "avx2")]
    unsafe fn add(self, rows: usize, b: [*const i32; 2]) {
        // SAFETY: the same contract.
        unsafe {
            match rows {
                1 => self.add_rows::<1>(b),
                2 => self.add_rows::<2>(b),
                3 => self.add_rows::<3>(b),
                4 => self.add_rows::<4>(b),
                5 => self.add_rows::<5>(b),
                6 => self.add_rows::<6>(b),
                _ => unreachable!("a tile has at least one row and at most TILE"),
            }
        }
    }

    /// # Safety
    /// As [`Tile::add`], with `rows = ROWS`.
    #[target_feature(enable = "avx2")]
    unsafe fn add_rows<const ROWS: usize>(self, b: [*const i32; 2]) {
        let zero = [[_mm256_setzero_si256(); 2]; ROWS];
        // SAFETY: the same contract; the high halves of `a` lie beside the low ones, the columns of a half panel beside the others'.
        unsafe {
            let upper = residues(residues(zero, self.a.add(1), b[0], self.depth), self.a, b[1], self.depth);
            for half in 0..self.width.div_ceil(COLUMNS) {
                let high = _mm256_set1_epi64x(!0 << 32);
                let mut start = zero;
                for (start, row) in start.iter_mut().zip(&upper) {
                    *start = [_mm256_slli_epi64::<32>(row[half]), _mm256_and_si256(row[half], high)];
                }
                let sums = products(start, self.a, b[0].add(COLUMNS * half), self.depth);
                self.finish(&sums, half);
            }
        }
    }

    /// Adds the sums of half a panel's columns to the output.
    ///
    /// # Safety
    /// As [`Tile::add`], with `rows = ROWS`; the half has columns.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn finish<const ROWS: usize>(self, sums: &Sums<ROWS>, half: usize) {
        for (r, [even, odd]) in sums.iter().enumerate() {
            let (low, high) = (_mm256_unpacklo_epi64(*even, *odd), _mm256_unpackhi_epi64(*even, *odd));
            let words = [_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high)];
            let width = (self.width - COLUMNS * half).min(COLUMNS);
            // SAFETY: the row's `width` columns are promised; all eight are accessed only if there are eight.
            unsafe {
                let to = self.out.add(r * self.columns + COLUMNS * half);
                if width == COLUMNS {
                    for (c, sum) in words.into_iter().enumerate() {
                        let to = to.add(4 * c);
                        _mm256_storeu_si256(to.cast(), _mm256_add_epi64(sum, _mm256_loadu_si256(to.cast())));
                    }
                } else {
                    let mut row = [0u64; COLUMNS];
                    _mm256_storeu_si256(row.as_mut_ptr().cast(), words[0]);
                    _mm256_storeu_si256(row.as_mut_ptr().add(4).cast(), words[1]);
                    for (c, sum) in row[..width].iter().enumerate() {
                        *to.add(c) = (*to.add(c)).wrapping_add(*sum);
                    }
                }
            }
        }
    }
}

/// `sums[r, c] += Σ_l a[l, r]·b[l, c]` for halves and eight columns; the sums of a row are those of the even columns, then those of the odd ones.
///
/// # Safety
/// `a` has a readable half at every `2 · (l · ROWS + r)`, `b` eight at every `l · WIDTH`, for `l < depth`; the CPU has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn products<const ROWS: usize>(mut sums: Sums<ROWS>, a: *const i32, b: *const i32, depth: usize) -> Sums<ROWS> {
    for l in 0..depth {
        // SAFETY: inside the promised ranges; the load needs no alignment.
        let even = unsafe { _mm256_loadu_si256(b.add(l * WIDTH).cast()) };
        let odd = _mm256_srli_epi64::<32>(even);
        for (r, [at_even, at_odd]) in sums.iter_mut().enumerate() {
            // SAFETY: inside the promised range.
            let x = _mm256_set1_epi32(unsafe { *a.add(2 * (l * ROWS + r)) });
            *at_even = _mm256_add_epi64(*at_even, _mm256_mul_epi32(x, even));
            *at_odd = _mm256_add_epi64(*at_odd, _mm256_mul_epi32(x, odd));
        }
    }
    sums
}

/// `sums[r, c] += Σ_l a[l, r]·b[l, c] mod 2^32` for halves and sixteen columns.
///
/// # Safety
/// As [`products`], with sixteen halves at every `l · WIDTH` of `b`.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn residues<const ROWS: usize>(mut sums: Sums<ROWS>, a: *const i32, b: *const i32, depth: usize) -> Sums<ROWS> {
    for l in 0..depth {
        // SAFETY: inside the promised ranges; the loads need no alignment.
        let columns = unsafe {
            let b = b.add(l * WIDTH);
            [_mm256_loadu_si256(b.cast()), _mm256_loadu_si256(b.add(COLUMNS).cast())]
        };
        for (r, row) in sums.iter_mut().enumerate() {
            // SAFETY: inside the promised range.
            let x = _mm256_set1_epi32(unsafe { *a.add(2 * (l * ROWS + r)) });
            for (sum, b) in row.iter_mut().zip(columns) {
                *sum = _mm256_add_epi32(*sum, _mm256_mullo_epi32(x, b));
            }
        }
    }
    sums
}

/// `out += a · b` for so few rows that `b` is best read where it is.
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn few_rows(a: &[u64], b: &[u64], k: usize, n: usize, out: &mut [u64]) {
    for (row, to) in a.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
        portable::row_times_matrix(row, b, to);
    }
}

/// `out += a · bᵀ`, as [`few_rows`].
///
/// # Safety
/// The CPU has AVX2.
#[target_feature(enable = "avx2")]
pub(super) unsafe fn few_rows_transposed(a: &[u64], b: &[u64], k: usize, n: usize, out: &mut [u64]) {
    for (row, to) in a.chunks_exact(k).zip(out.chunks_exact_mut(n)) {
        portable::row_times_transpose(row, b, to);
    }
}
