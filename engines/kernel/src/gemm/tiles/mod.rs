//! Products by bytes on AMX's tiles: sixteen lines of 64 bytes, of which one instruction multiplies all of two and adds.
//!
//! Of a product mod `2^bits` only the low `⌈bits/8⌉` bytes of a word count. A word of `a` is its bytes, a word of `b` is signed ones,
//!
//! ```text
//! a = Σ_i 2^{8i} a_i,   0 ≤ a_i < 2^8,        b = Σ_j 2^{8j} b_j   mod 2^64,   -2^7 ≤ b_j < 2^7,
//! ab = Σ_p 2^{8p} Σ_{i+j=p} a_i b_j   mod 2^bits,   p < ⌈bits/8⌉,
//! ```
//!
//! and a place's sums over [`REACH`] steps of `k` and at most eight pairs `(i, j)` are exact in 32 bits, for `2^10 · 2^3 · 2^15 < 2^31`.

mod amx;
#[cfg(test)]
mod plain;
#[cfg(all(test, target_os = "linux"))]
mod trap;

use super::PARALLEL_FROM;
use super::blocking::{Block, Out, blocks, sweep};
use rayon::prelude::*;

/// Lines of a tile: rows of `a`, or columns of `b`.
const LINES: usize = 16;

/// Steps of `k` in a tile.
const DEPTH: usize = 64;

/// Steps of `k` between visits to the output. So much of 128 rows in eight bytes, 1 MiB, stays in a second-level cache from panel to panel.
const REACH: usize = 1024;

/// Lines of both operands whose products are summed at once: two tiles of each, and four of sums.
const SIDE: usize = 2 * LINES;

/// Bytes of a word.
pub(super) const BYTES: usize = 8;

/// What makes every digit of a word unsigned when it is added: `2^7` at the place of each.
const HALVES: u64 = 0x8080_8080_8080_8080;

/// What multiplies tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    /// AMX-INT8, with AVX-512 for all that is not tiles.
    Amx,
    /// Portable code.
    #[cfg(test)]
    Plain,
}

/// A tile's bytes. Of `a`: `[rows, steps]`; of `b`: `[steps / 4, columns, 4]`.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
struct Tile([u8; LINES * DEPTH]);

/// One operand: slices of [`REACH`] steps of `k`, each `[tiles of lines, bytes, tiles of steps]`, zeros where the matrix ends.
#[derive(Debug, Clone)]
struct Operand {
    tiles: Vec<Tile>,
    /// Lines of the matrix.
    lines: usize,
    /// Bytes kept of a word.
    bytes: usize,
    k: usize,
}

impl Operand {
    /// Packs a matrix, `fill` a tile of steps: from the first line and step to the same tile of every byte, in order.
    fn pack(lines: usize, bytes: usize, k: usize, fill: impl Fn(usize, usize, &mut [&mut Tile]) + Sync) -> Self {
        let (high, steps) = (lines.div_ceil(LINES), k.div_ceil(DEPTH));
        let mut tiles = vec![Tile([0; LINES * DEPTH]); high * bytes * steps];
        let reach = REACH / DEPTH;
        let slice = |(s, to): (usize, &mut [Tile])| {
            let steps = reach.min(steps - s * reach);
            let line = |(at, to): (usize, &mut [Tile])| {
                for step in 0..steps {
                    let mut bytes: Vec<&mut Tile> = to.iter_mut().skip(step).step_by(steps).collect();
                    fill(at * LINES, s * REACH + step * DEPTH, &mut bytes);
                }
            };
            if lines * k < PARALLEL_FROM / 8 {
                to.chunks_mut(bytes * steps).enumerate().for_each(line);
            } else {
                to.par_chunks_mut(bytes * steps).enumerate().for_each(line);
            }
        };
        if !tiles.is_empty() {
            tiles.chunks_mut(high * bytes * reach).enumerate().for_each(slice);
        }
        Self { tiles, lines, bytes, k }
    }

    /// Tiles of steps in the slice from step `start` on.
    fn steps(&self, start: usize) -> usize {
        REACH.min(self.k - start).div_ceil(DEPTH)
    }

    /// Tiles `[bytes, tiles of steps]` of the slice from step `start` on: those of [`SIDE`] lines, or the same ones twice where only so many are left.
    fn side(&self, start: usize, side: usize) -> [&[Tile]; 2] {
        let (high, len) = (self.lines.div_ceil(LINES), self.bytes * self.steps(start));
        let slice = &self.tiles[high * self.bytes * start / DEPTH..];
        [2 * side, (2 * side + 1).min(high - 1)].map(|line| &slice[line * len..(line + 1) * len])
    }
}

/// The left-hand matrix, row-major `[rows, k]`, in `bytes` bytes a word.
fn pack_rows(a: &[u64], rows: usize, bytes: usize, k: usize, unit: Unit) -> Operand {
    Operand::pack(rows, bytes, k, |line, step, tiles| {
        let lines = a[line * k..].chunks_exact(k).take(LINES);
        let words = lines.map(|row| &row[step..k.min(step + DEPTH)]);
        match unit {
            // SAFETY: AMX comes with AVX-512.
            Unit::Amx => unsafe { cut_rows_avx512(words, tiles) },
            #[cfg(test)]
            Unit::Plain => cut_rows(words, tiles),
        }
    })
}

/// Cuts some words of up to sixteen rows into bytes.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a call would compile it without the caller's target features")]
fn cut_rows<'a>(rows: impl Iterator<Item = &'a [u64]>, tiles: &mut [&mut Tile]) {
    for (r, row) in rows.enumerate() {
        for (i, tile) in tiles.iter_mut().enumerate() {
            let to = &mut tile.0[r * DEPTH..(r + 1) * DEPTH];
            to.iter_mut().zip(row).for_each(|(to, x)| *to = (x >> (8 * i)) as u8);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn cut_rows_avx512<'a>(rows: impl Iterator<Item = &'a [u64]>, tiles: &mut [&mut Tile]) {
    cut_rows(rows, tiles);
}

/// Sixteen columns' words in 64 steps.
type Words = [[u64; LINES]; DEPTH];

/// The right-hand matrix.
#[derive(Debug, Clone)]
pub(super) struct Columns {
    operand: Operand,
    unit: Unit,
}

impl Columns {
    /// Packs `word(b)` of the transposed matrix, row-major `[columns, k]`, in so many signed bytes as hold all of them.
    pub(super) fn from_columns<T: Copy + Sync>(
        unit: Unit,
        b: &[T],
        columns: usize,
        k: usize,
        bytes: usize,
        word: impl Fn(T) -> u64 + Sync,
    ) -> Self {
        let operand = Operand::pack(columns, bytes, k, |line, step, tiles| {
            let mut words = [[0; LINES]; DEPTH];
            for (j, column) in b[line * k..].chunks_exact(k).take(LINES).enumerate() {
                for (to, b) in words.iter_mut().zip(&column[step..]) {
                    to[j] = word(*b);
                }
            }
            cut(unit, &words, tiles);
        });
        Self { operand, unit }
    }

    /// Packs a matrix of words, row-major `[k, columns]`.
    pub(super) fn from_rows(unit: Unit, b: &[u64], columns: usize, k: usize) -> Self {
        let operand = Operand::pack(columns, BYTES, k, |line, step, tiles| {
            let mut words = [[0; LINES]; DEPTH];
            let width = LINES.min(columns - line);
            for (to, row) in words.iter_mut().zip(b.chunks_exact(columns).skip(step)) {
                to[..width].copy_from_slice(&row[line..line + width]);
            }
            cut(unit, &words, tiles);
        });
        Self { operand, unit }
    }
}

/// Cuts sixteen columns' words into signed bytes.
fn cut(unit: Unit, words: &Words, tiles: &mut [&mut Tile]) {
    match unit {
        // SAFETY: AMX comes with AVX-512.
        Unit::Amx => unsafe { cut_columns_avx512(words, tiles) },
        #[cfg(test)]
        Unit::Plain => cut_columns(words, tiles),
    }
}

/// Cuts columns' words: adding [`HALVES`] makes the signed digits unsigned ones with the top bit turned over.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a call would compile it without the caller's target features")]
fn cut_columns(words: &Words, tiles: &mut [&mut Tile]) {
    for (four, to) in words.as_chunks::<4>().0.iter().zip((0..).step_by(4 * LINES)) {
        let unsigned = four.map(|row| row.map(|b| b.wrapping_add(HALVES)));
        for (j, tile) in tiles.iter_mut().enumerate() {
            let digit = |step: usize, column: usize| (unsigned[step][column] >> (8 * j)) as u32 & 0xff;
            for (column, to) in tile.0[to..to + 4 * LINES].as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let all = digit(0, column) | digit(1, column) << 8 | digit(2, column) << 16 | digit(3, column) << 24;
                *to = (all ^ HALVES as u32).to_le_bytes();
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn cut_columns_avx512(words: &Words, tiles: &mut [&mut Tile]) {
    cut_columns(words, tiles);
}

/// The largest number that so many signed bytes hold in either sign, at most `i32::MAX`.
pub(super) fn largest(bytes: usize) -> i32 {
    (0..bytes.min(4)).fold(0, |largest, _| (largest << 8) + 127)
}

/// Whether a product of words is large enough for what cutting them costs.
pub(super) fn pays(m: usize, k: usize, n: usize) -> bool {
    m >= LINES && k >= DEPTH / 2 && n >= LINES
}

/// `out += a · b mod 2^bits`.
///
/// # Shapes
/// `a[rows, k]`, `out[rows, columns]`.
///
/// # Safety
/// The CPU has the unit that `b` is packed for.
pub(super) unsafe fn add_product(a: &[u64], rows: usize, b: &Columns, bits: u32, out: &mut [u64]) {
    let Columns { operand: b, unit } = b;
    assert!(a.len() == rows * b.k && out.len() == rows * b.lines, "shapes agree");
    if a.is_empty() || out.is_empty() {
        return;
    }
    let places = bits.div_ceil(8) as usize;
    let a = pack_rows(a, rows, places, b.k, *unit);
    let out = Out { start: out.as_mut_ptr(), columns: b.lines };
    let run = |block: &Block| {
        // SAFETY: the caller vouches for the CPU. The assertion above fixes the lengths; blocks lie inside the output and are pairwise disjoint.
        unsafe {
            match unit {
                Unit::Amx => add_block_amx(&a, b, places, out, *block),
                #[cfg(test)]
                Unit::Plain => add_block(&a, b, places, out, *block, plain::sums),
            }
        }
    };
    let blocks = blocks(rows.div_ceil(SIDE), b.lines.div_ceil(SIDE), rows * b.k * b.lines);
    if let [block] = &blocks[..] {
        run(block);
    } else {
        blocks.par_iter().for_each(run);
    }
}

/// Sums of products, a row's after another's.
#[repr(C, align(64))]
struct Sums([[i32; SIDE]; SIDE]);

/// Tiles `[bytes, steps]` of both operands' lines, and the place whose sums are asked for.
struct Place<'a> {
    a: [&'a [Tile]; 2],
    b: [&'a [Tile]; 2],
    steps: usize,
    /// The highest of `a`'s bytes that counts: pairs are `(top, 0)`, `(top - 1, 1)`, …
    top: usize,
    /// So many, at most `top + 1` and `b`'s bytes.
    pairs: usize,
}

/// # Safety
/// As [`add_block`], with AMX and AVX-512 F, BW and VL.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn add_block_amx(a: &Operand, b: &Operand, places: usize, out: Out, block: Block) {
    // SAFETY: the CPU has AMX, and nothing between both functions uses tiles otherwise.
    unsafe {
        amx::configure();
        add_block(a, b, places, out, block, |place, sums| amx::sums(place, sums));
        amx::release();
    }
}

/// Adds a block of the product, of [`SIDE`] rows and columns a tile and panel.
///
/// # Safety
/// Nothing else accesses the block's cells of `out`, which has `a`'s rows and `b`'s columns.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a call would compile it without the caller's target features")]
unsafe fn add_block(a: &Operand, b: &Operand, places: usize, out: Out, block: Block, add: impl Fn(&Place<'_>, &mut Sums)) {
    let mut sums = Sums([[0; SIDE]; SIDE]);
    for (panel, start) in sweep(a.k, REACH, REACH, block.panels) {
        let steps = a.steps(start);
        for tile in block.tiles.0..block.tiles.1 {
            let mut words = [[0u64; SIDE]; SIDE];
            for place in 0..places {
                let (a, b, pairs) = (a.side(start, tile), b.side(start, panel), b.bytes.min(place + 1));
                add(&Place { a, b, steps, top: place, pairs }, &mut sums);
                for (to, from) in words.as_flattened_mut().iter_mut().zip(sums.0.as_flattened()) {
                    *to = to.wrapping_add((i64::from(*from) as u64) << (8 * place));
                }
            }
            let (row, column) = (tile * SIDE, panel * SIDE);
            for (r, words) in words.iter().enumerate().take(a.lines - row) {
                for (c, word) in words.iter().enumerate().take(b.lines - column) {
                    // SAFETY: the cell is inside the output and the block.
                    unsafe {
                        let to = out.start.add((row + r) * out.columns + column + c);
                        *to = (*to).wrapping_add(*word);
                    }
                }
            }
        }
    }
}
