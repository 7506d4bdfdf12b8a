//! The blocked product with public weights where few bits of it count, with AVX2 and FMA.
//!
//! A word is `x = x0 + 2^s x1` with `-2^{s-1} ≤ x0 < 2^{s-1}`, so that
//!
//! ```text
//! x·w = x0·w + 2^s (x1·w mod 2^{bits-s})   mod 2^bits.
//! ```
//!
//! For weights `|w| < 2^v` and `s = 46 - v` the sum of [`DEPTH`] products `x0·w` is below `2^51` in size, so doubles hold it exactly, and one
//! fused multiply-add does a product and its sum, in the same time for all values. Sums begin at `1.5·2^52`: between `2^52` and `2^53` the doubles
//! are the integers, and the low bits of one are its distance from where it began, in two's complement. Of the high products at most sixteen bits count
//! where `bits ≤ s + 16`, and `vpmullw` makes sixteen of these at a time.

use super::blocking::{Block, Out, blocks, pack_tiles, sweep};
use super::panel::WIDTH;
use core::arch::x86_64::{
    __m256d, __m256i, _mm_cvtsi32_si128, _mm_unpackhi_epi64, _mm256_add_epi16, _mm256_add_epi64, _mm256_and_si256,
    _mm256_castpd_si256, _mm256_castsi256_si128, _mm256_cvtepi32_pd, _mm256_cvtepu16_epi64, _mm256_extracti128_si256,
    _mm256_fmadd_pd, _mm256_loadu_pd, _mm256_loadu_si256, _mm256_mullo_epi16, _mm256_packus_epi32, _mm256_permute4x64_epi64,
    _mm256_set1_epi32, _mm256_set1_epi64x, _mm256_set1_pd, _mm256_setzero_si256, _mm256_sll_epi64, _mm256_storeu_pd,
    _mm256_storeu_si256, _mm256_sub_epi64,
};
use rayon::prelude::*;

/// Rows of a tile: with two registers of columns 12 sums, which leaves room for the operands among 16 registers.
const TILE: usize = 6;

/// Columns of the inner loop for doubles: two registers of four sums.
const COLUMNS: usize = 8;

/// Steps of `k` between visits to the output: a panel's slice of 10 KiB and a tile's 6 KiB fit a first-level cache. Sums of so many products are
/// exact.
const DEPTH: usize = 64;

/// Steps of `k` between visits to a panel: so much of all tiles, 16 bytes a word, stays in a second-level cache from panel to panel.
const REACH: usize = 2 * DEPTH;

/// Rows from which on bringing a panel to its other forms is worth while.
pub(super) const ENOUGH_ROWS: usize = 3 * TILE;

/// Where sums begin.
const ORIGIN: f64 = 6_755_399_441_055_744.0;

/// Bits of the high products that count at most.
const HIGH: u32 = 16;

/// Where words are cut for weights below `2^weight_bits` in size, if so few bits of the product count that this kernel can make them.
pub(super) fn cut(weight_bits: u32, bits: u32) -> Option<u32> {
    let cut = 46 - weight_bits;
    (bits <= cut + HIGH).then_some(cut)
}

/// A word as the double `x0` and twice the low sixteen bits of `x1`.
fn limbs(x: u64, cut: u32) -> [u64; 2] {
    let unused = 64 - cut;
    let low = ((x << unused) as i64) >> unused;
    let high = x.wrapping_sub(low as u64) >> cut & 0xffff;
    [(low as f64).to_bits(), high | high << 16]
}

/// `out = a · b mod 2^bits` with `b` in panels, for `bits` that [`cut`] gave the cut for.
///
/// # Safety
/// The CPU has AVX2 and FMA.
pub(super) unsafe fn multiply(a: &[u64], b: &[i32], cut: u32, (m, k, n): (usize, usize, usize), out: &mut [u64]) {
    let packed = n.div_ceil(WIDTH) * k * WIDTH;
    assert!(a.len() == m * k && out.len() == m * n && b.len() == packed, "shapes agree");
    if k == 0 {
        out.fill(0);
    }
    if k == 0 || out.is_empty() {
        return;
    }
    let tiles = pack_tiles(a, k, TILE, |x| limbs(x, cut));
    let target = Out { start: out.as_mut_ptr(), columns: n };
    let run = |block: &Block| {
        // SAFETY: the caller vouches for the CPU. The assertion above fixes the lengths of `out`, the panels and (through
        // `a`) the tiles; blocks lie inside the output and are pairwise disjoint.
        unsafe { multiply_block(&tiles, b, cut, m, k, target, *block) }
    };
    let blocks = blocks(m.div_ceil(TILE), n.div_ceil(WIDTH), m * k * n);
    if let [block] = &blocks[..] {
        run(block);
    } else {
        blocks.par_iter().for_each(run);
    }
}

/// A panel's slice in other forms.
struct Slice {
    doubles: [f64; DEPTH * WIDTH],
    low_halves: [i16; DEPTH * WIDTH],
}

impl Slice {
    #[inline]
    #[target_feature(enable = "avx2")]
    fn fill(&mut self, weights: &[i32]) {
        let to = self.doubles.as_chunks_mut::<WIDTH>().0.iter_mut().zip(self.low_halves.as_chunks_mut::<WIDTH>().0);
        for ((doubles, halves), from) in to.zip(weights.as_chunks::<WIDTH>().0) {
            let low = _mm256_set1_epi32(0xffff);
            // SAFETY: there are sixteen of each, and neither loads nor stores need alignment.
            unsafe {
                let words = [_mm256_loadu_si256(from.as_ptr().cast()), _mm256_loadu_si256(from.as_ptr().add(8).cast())];
                for (at, words) in words.into_iter().enumerate() {
                    let to = doubles.as_mut_ptr().add(8 * at);
                    _mm256_storeu_pd(to, _mm256_cvtepi32_pd(_mm256_castsi256_si128(words)));
                    _mm256_storeu_pd(to.add(4), _mm256_cvtepi32_pd(_mm256_extracti128_si256::<1>(words)));
                }
                // Both halves' first four columns, then both halves' others.
                let mixed = _mm256_packus_epi32(_mm256_and_si256(words[0], low), _mm256_and_si256(words[1], low));
                _mm256_storeu_si256(halves.as_mut_ptr().cast(), _mm256_permute4x64_epi64::<0b11_01_10_00>(mixed));
            }
        }
    }
}

/// # Safety
/// As [`multiply`]; `tiles` and `b` are packed for `m` rows, `k` steps and `out.columns` columns, and nothing else
/// accesses the block's cells of `out`.
#[target_feature(enable = "avx2,fma")]
unsafe fn multiply_block(tiles: &[u64], b: &[i32], cut: u32, m: usize, k: usize, out: Out, block: Block) {
    let mut slice = Slice { doubles: [0.0; DEPTH * WIDTH], low_halves: [0; DEPTH * WIDTH] };
    for (panel, start) in sweep(k, REACH, DEPTH, block.panels) {
        let depth = DEPTH.min(k - start);
        let weights = &b[(panel * k + start) * WIDTH..][..depth * WIDTH];
        slice.fill(weights);
        for t in block.tiles.0..block.tiles.1 {
            let rows = (m - t * TILE).min(TILE);
            // SAFETY: tile `t` has `2 · rows · k` words and `start + depth ≤ k`. The cells from row `t · TILE` and column `panel · WIDTH` on
            // are inside the output for `rows` rows and `width` columns.
            unsafe {
                let tile = Tile {
                    a: tiles.as_ptr().add(2 * (t * TILE * k + start * rows)),
                    depth,
                    cut,
                    out: out.start.add(t * TILE * out.columns + panel * WIDTH),
                    columns: out.columns,
                    width: (out.columns - panel * WIDTH).min(WIDTH),
                    add: start > 0,
                };
                match rows {
                    1 => tile.add_rows::<1>(&slice),
                    2 => tile.add_rows::<2>(&slice),
                    3 => tile.add_rows::<3>(&slice),
                    4 => tile.add_rows::<4>(&slice),
                    5 => tile.add_rows::<5>(&slice),
                    6 => tile.add_rows::<6>(&slice),
                    _ => unreachable!("a tile has at least one row and at most TILE"),
                }
            }
        }
    }
}

/// A tile's slice of `a` and its cells of the output.
#[derive(Clone, Copy)]
struct Tile {
    /// `[depth, rows, 2]` limbs.
    a: *const u64,
    depth: usize,
    cut: u32,
    out: *mut u64,
    columns: usize,
    width: usize,
    add: bool,
}

impl Tile {
    /// Writes the product with a panel's slice, or adds it.
    ///
    /// # Safety
    /// `a` has `2 · ROWS · depth` readable words, `depth` is at most [`DEPTH`], `out` has `ROWS` rows of `width` columns at distance `columns`, and
    /// the CPU has AVX2 and FMA.
    #[target_feature(enable = "avx2,fma")]
    unsafe fn add_rows<const ROWS: usize>(self, slice: &Slice) {
        // SAFETY: the same contract; the second limbs lie beside the first, and the slice has `WIDTH · DEPTH` weights in either form.
        let high = unsafe { residues::<ROWS>(self.a.add(1), slice.low_halves.as_ptr(), self.depth) };
        for half in 0..self.width.div_ceil(COLUMNS) {
            // SAFETY: as above; the columns of a half panel lie beside the others'.
            unsafe {
                let low = products::<ROWS>(self.a, slice.doubles.as_ptr().add(COLUMNS * half), self.depth);
                self.finish(&low, &high, half);
            }
        }
    }

    /// Writes or adds the words of half a panel's columns, given as the sums of both products.
    ///
    /// # Safety
    /// As [`Tile::add_rows`]; the half has columns.
    #[inline]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn finish<const ROWS: usize>(self, low: &[[__m256d; 2]; ROWS], high: &[__m256i; ROWS], half: usize) {
        let (cut, origin) = (_mm_cvtsi32_si128(self.cut as i32), _mm256_set1_epi64x(ORIGIN.to_bits() as i64));
        let width = (self.width - COLUMNS * half).min(COLUMNS);
        for (r, (low, high)) in low.iter().zip(high).enumerate() {
            let high = if half == 0 { _mm256_castsi256_si128(*high) } else { _mm256_extracti128_si256::<1>(*high) };
            let mut words = [_mm256_setzero_si256(); 2];
            for ((word, low), high) in words.iter_mut().zip(low).zip([high, _mm_unpackhi_epi64(high, high)]) {
                // How far the sum is from where it began.
                let low = _mm256_sub_epi64(_mm256_castpd_si256(*low), origin);
                *word = _mm256_add_epi64(low, _mm256_sll_epi64(_mm256_cvtepu16_epi64(high), cut));
            }
            // SAFETY: the row's `width` columns are promised; all eight are accessed only if there are eight.
            unsafe {
                let to = self.out.add(r * self.columns + COLUMNS * half);
                if width == COLUMNS {
                    for (c, word) in words.into_iter().enumerate() {
                        let to = to.add(4 * c).cast();
                        let word = if self.add { _mm256_add_epi64(word, _mm256_loadu_si256(to)) } else { word };
                        _mm256_storeu_si256(to, word);
                    }
                } else {
                    let mut row = [0u64; COLUMNS];
                    _mm256_storeu_si256(row.as_mut_ptr().cast(), words[0]);
                    _mm256_storeu_si256(row.as_mut_ptr().add(4).cast(), words[1]);
                    for (c, word) in row[..width].iter().enumerate() {
                        *to.add(c) = if self.add { (*to.add(c)).wrapping_add(*word) } else { *word };
                    }
                }
            }
        }
    }
}

/// `ORIGIN + Σ_l a[l, r]·b[l, c]` for doubles and eight columns.
///
/// # Safety
/// `a` has a readable double at every `2 · (l · ROWS + r)`, `b` eight at every `l · WIDTH`, for `l < depth`; the CPU has AVX2 and FMA.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn products<const ROWS: usize>(a: *const u64, b: *const f64, depth: usize) -> [[__m256d; 2]; ROWS] {
    let mut sums = [[_mm256_set1_pd(ORIGIN); 2]; ROWS];
    for l in 0..depth {
        // SAFETY: inside the promised ranges; the loads need no alignment.
        let columns = unsafe { [_mm256_loadu_pd(b.add(l * WIDTH)), _mm256_loadu_pd(b.add(l * WIDTH + 4))] };
        for (r, row) in sums.iter_mut().enumerate() {
            // SAFETY: inside the promised range.
            let x = _mm256_set1_pd(f64::from_bits(unsafe { *a.add(2 * (l * ROWS + r)) }));
            for (sum, b) in row.iter_mut().zip(columns) {
                *sum = _mm256_fmadd_pd(x, b, *sum);
            }
        }
    }
    sums
}

/// `Σ_l a[l, r]·b[l, c] mod 2^16` for sixteen columns.
///
/// # Safety
/// `a` has a word that holds a residue twice at every `2 · (l · ROWS + r)`, `b` sixteen at every `l · WIDTH`, for `l < depth`; the CPU has AVX2.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn residues<const ROWS: usize>(a: *const u64, b: *const i16, depth: usize) -> [__m256i; ROWS] {
    let mut sums = [_mm256_setzero_si256(); ROWS];
    for l in 0..depth {
        // SAFETY: inside the promised ranges; the load needs no alignment.
        let columns = unsafe { _mm256_loadu_si256(b.add(l * WIDTH).cast()) };
        for (r, sum) in sums.iter_mut().enumerate() {
            // SAFETY: inside the promised range.
            let x = _mm256_set1_epi32(unsafe { *a.add(2 * (l * ROWS + r)) } as i32);
            *sum = _mm256_add_epi16(*sum, _mm256_mullo_epi16(x, columns));
        }
    }
    sums
}
