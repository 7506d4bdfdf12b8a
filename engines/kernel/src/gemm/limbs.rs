//! The blocked product with public weights of sixteen bits: words in signed limbs, and instructions that multiply pairs of 16-bit numbers and add.
//!
//! Of a product mod `2^bits` only the low `bits` of a word count. They are `n` limbs of `L ≤ 16` bits,
//!
//! ```text
//! x = Σ_i 2^{L·i} x_i   mod 2^{L(n-1)+16},   -2^{L-1} ≤ x_i < 2^{L-1} for i < n-1,   -2^15 ≤ x_{n-1} < 2^15,   L(n-1) + 16 ≥ bits,
//! ```
//!
//! and each limb is a row of its own in the inner loop. Its sums of products with a column's weights have 32 bits and are exact while
//!
//! ```text
//! 2^{L-1} Σ_l |w_l| < 2^31,
//! ```
//!
//! the sum over the [`Cut::depth`] steps of `k` after which they are added to the words of the output, at their place; the last limb's need only be
//! right mod 2^16. The weights are public and known when they are packed, so [`AbsoluteSums`] has the largest of these sums for every depth, and
//! [`Cut::best`] trades few limbs for few visits to the output.

use super::PARALLEL_FROM;
use super::blocking::{Block, Out, blocks, sweep};
use super::registers::{Eight, Register, Sixteen};
use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
use rayon::prelude::*;

/// Limbs' rows of a tile: with two registers of columns 12 sums, which leaves room for the operands among 16 registers.
const TILE: usize = 6;

/// Registers of columns in a panel.
const REGISTERS: usize = 2;

/// Columns of a panel at most.
const MAX_WIDTH: usize = REGISTERS * 16;

/// Steps of `k` between visits to the output at least: with so few, sums of limbs of 14 bits are exact for all weights.
const MIN_DEPTH: usize = 8;

/// Depths that sums are made for, powers of two from [`MIN_DEPTH`] on. With the largest, 256, a panel's slice of at most 16 KiB and a tile's 3 KiB
/// fit a first-level cache.
const DEPTHS: usize = 6;

/// Steps of `k` between visits to a panel: so much of all rows, 8 bytes a word in four limbs, stays in a second-level cache from panel to panel.
const REACH: usize = MIN_DEPTH << (DEPTHS - 1);

/// What a visit to the output costs, in steps of `k`.
const VISIT: usize = 16;

/// Bits of a limb at most, and of the last one.
const WIDEST: u32 = 16;

/// Which instructions make products.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Instructions {
    /// `vpmaddwd` and AVX2.
    Avx2,
    /// `vpmaddwd` and AVX-512 BW.
    Avx512,
    /// `vpdpwssd`: AVX-512 VNNI.
    Vnni,
    /// Portable code at the width of AVX-512.
    #[cfg(test)]
    Plain,
}

impl Instructions {
    /// Columns of a panel.
    fn width(self) -> usize {
        match self {
            Instructions::Avx2 => REGISTERS * Eight::LANES,
            Instructions::Avx512 | Instructions::Vnni => REGISTERS * Sixteen::<false>::LANES,
            #[cfg(test)]
            Instructions::Plain => REGISTERS * super::registers::Plain::LANES,
        }
    }
}

/// The largest `Σ |w|` of a column over as many aligned steps of `k` as each depth has.
type AbsoluteSums = [u32; DEPTHS];

/// Weights in panels of columns, each of pairs of steps, `[pairs, width, 2]`, zeros where the matrix ends.
#[derive(Debug, Clone)]
pub(super) struct Panels {
    instructions: Instructions,
    packed: Vec<i16>,
    sums: AbsoluteSums,
    inputs: usize,
    outputs: usize,
}

impl Panels {
    /// Packs `part(w)` of row-major weights `[outputs, inputs]`; no part is `-2^15`.
    pub(super) fn pack(
        instructions: Instructions,
        weights: &[i32],
        (outputs, inputs): (usize, usize),
        part: impl Fn(i32) -> i16 + Sync,
    ) -> Self {
        let width = instructions.width();
        let steps = inputs.next_multiple_of(2);
        let mut packed = vec![0; outputs.div_ceil(width) * steps * width];
        let fill = |(panel, columns): (&mut [i16], &[i32])| {
            let mut sums = AbsoluteSums::default();
            let mut sizes = vec![0u32; inputs.div_ceil(MIN_DEPTH)];
            for (j, column) in columns.chunks_exact(inputs).enumerate() {
                for (at, (steps, size)) in column.chunks(MIN_DEPTH).zip(&mut sizes).enumerate() {
                    let parts: [i16; MIN_DEPTH] = std::array::from_fn(|l| steps.get(l).map_or(0, |w| part(*w)));
                    *size = parts.iter().map(|part| u32::from(part.unsigned_abs())).sum();
                    for (l, part) in parts.iter().take(steps.len()).enumerate() {
                        let pair = at * (MIN_DEPTH / 2) + l / 2;
                        panel[2 * (pair * width + j) + l % 2] = *part;
                    }
                }
                for (at, sum) in sums.iter_mut().enumerate() {
                    *sum = sizes.chunks(1 << at).map(|sizes| sizes.iter().sum()).fold(*sum, u32::max);
                }
            }
            sums
        };
        let largest = |a: AbsoluteSums, b: AbsoluteSums| std::array::from_fn(|at| a[at].max(b[at]));
        let sums = if inputs == 0 {
            AbsoluteSums::default()
        } else if packed.len() < PARALLEL_FROM / 8 {
            let panels = packed.chunks_exact_mut(steps * width).zip(weights.chunks(width * inputs));
            panels.map(fill).fold(AbsoluteSums::default(), largest)
        } else {
            let panels = packed.par_chunks_exact_mut(steps * width).zip(weights.par_chunks(width * inputs));
            panels.map(fill).reduce(AbsoluteSums::default, largest)
        };
        Self { instructions, packed, sums, inputs, outputs }
    }

    /// Steps of `k`: the inputs, made even.
    fn steps(&self) -> usize {
        self.inputs.next_multiple_of(2)
    }
}

/// How a product's words are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cut {
    /// Bits of every limb but the last.
    width: u32,
    /// Limbs of a word.
    limbs: usize,
    /// Steps of `k` between visits to the output.
    depth: usize,
}

impl Cut {
    /// The fastest exact cut for products mod `2^bits`.
    fn best(sums: &AbsoluteSums, bits: u32, steps: usize) -> Self {
        let cuts = sums.iter().enumerate().map(|(at, sum)| {
            // With `width = 32 - b` for `|sum| < 2^b`, products sum up to less than `2^{width-1} · 2^b = 2^31`.
            let width = sum.leading_zeros().min(WIDEST);
            let limbs = 1 + bits.saturating_sub(WIDEST).div_ceil(width) as usize;
            Self { width, limbs, depth: MIN_DEPTH << at }
        });
        cuts.min_by_key(|cut| cut.limbs * (steps + VISIT * steps.div_ceil(cut.depth))).expect("there are depths")
    }
}

/// `x[rows, inputs]` in limbs: slices of [`Cut::depth`] steps, each `[rows, limbs, depth]`, with a zero to make steps even.
///
/// # Safety
/// The CPU has AVX2.
unsafe fn pack(x: &[u64], rows: usize, inputs: usize, cut: Cut) -> Vec<i16> {
    let mut packed = vec![0; rows * cut.limbs * inputs.next_multiple_of(2)];
    let slice = |(s, to): (usize, &mut [i16])| {
        let from = s * cut.depth..inputs.min((s + 1) * cut.depth);
        let depth = from.len().next_multiple_of(2);
        for (to, x) in to.chunks_exact_mut(cut.limbs * depth).zip(x.chunks_exact(inputs)) {
            // SAFETY: the caller vouches for the CPU.
            unsafe { cut_row(&x[from.clone()], cut.width, to.chunks_exact_mut(depth)) }
        }
    };
    let len = rows * cut.limbs * cut.depth;
    if x.len() < PARALLEL_FROM / 8 {
        packed.chunks_mut(len).enumerate().for_each(slice);
    } else {
        packed.par_chunks_mut(len).enumerate().for_each(slice);
    }
    packed
}

/// Cuts some of a row's words into limbs, the lowest first.
///
/// Adding `2^{L-1}` at the place of every limb but the last makes their digits the unsigned ones.
#[target_feature(enable = "avx2")]
fn cut_row<'a>(x: &[u64], width: u32, limbs: impl ExactSizeIterator<Item = &'a mut [i16]>) {
    let last = limbs.len() - 1;
    let half = 1u64 << (width - 1);
    let halves = (0..last).fold(0, |sum: u64, i| sum.wrapping_add(half << (width as usize * i)));
    for (i, to) in limbs.enumerate() {
        let (mask, half) = if i < last { ((2 * half - 1) as u16, half as u16) } else { (u16::MAX, 0) };
        let place = width * i as u32;
        for (to, x) in to.iter_mut().zip(x) {
            *to = ((x.wrapping_add(halves) >> place) as u16 & mask).wrapping_sub(half) as i16;
        }
    }
}

/// One product in the forms that its inner loop reads.
struct Product<'a> {
    x: &'a [i16],
    w: &'a [i16],
    cut: Cut,
    rows: usize,
    steps: usize,
    /// The product is added this many bits up.
    shift: u32,
    out: Out,
}

/// `out += 2^shift · x · Wᵀ mod 2^bits`.
///
/// # Safety
/// The CPU has the instructions that `w` is packed for, and AVX2.
pub(super) unsafe fn add_product(x: &[u64], rows: usize, w: &Panels, shift: u32, bits: u32, out: &mut [u64]) {
    let (width, steps) = (w.instructions.width(), w.steps());
    let packed = w.outputs.div_ceil(width) * steps * width;
    assert!(x.len() == rows * w.inputs && out.len() == rows * w.outputs && w.packed.len() == packed, "shapes agree");
    if w.inputs == 0 || out.is_empty() || bits <= shift {
        return;
    }
    let cut = Cut::best(&w.sums, bits - shift, steps);
    // SAFETY: the caller vouches for the CPU.
    let x = unsafe { pack(x, rows, w.inputs, cut) };
    let out = Out { start: out.as_mut_ptr(), columns: w.outputs };
    let product = Product { x: &x, w: &w.packed, cut, rows, steps, shift, out };
    let run = |block: &Block| {
        // SAFETY: the caller vouches for the CPU. The assertion above fixes the lengths of `out`, the panels and (through `x`) the limbs; blocks lie
        // inside the output and are pairwise disjoint.
        unsafe {
            match w.instructions {
                Instructions::Avx2 => add_block_avx2(&product, *block),
                Instructions::Avx512 => add_block_avx512(&product, *block),
                Instructions::Vnni => add_block_vnni(&product, *block),
                #[cfg(test)]
                Instructions::Plain => add_block::<super::registers::Plain>(&product, *block),
            }
        }
    };
    let blocks = blocks(rows.div_ceil(TILE), w.outputs.div_ceil(width), rows * w.inputs * w.outputs);
    if let [block] = &blocks[..] {
        run(block);
    } else {
        blocks.par_iter().for_each(run);
    }
}

/// # Safety
/// As [`add_block`] with AVX2.
#[target_feature(enable = "avx2")]
unsafe fn add_block_avx2(product: &Product<'_>, block: Block) {
    // SAFETY: the same contract.
    unsafe { add_block::<Eight>(product, block) }
}

/// # Safety
/// As [`add_block`] with AVX-512 F and BW.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn add_block_avx512(product: &Product<'_>, block: Block) {
    // SAFETY: the same contract.
    unsafe { add_block::<Sixteen<false>>(product, block) }
}

/// # Safety
/// As [`add_block`] with AVX-512 F and VNNI.
#[target_feature(enable = "avx512f,avx512vnni")]
unsafe fn add_block_vnni(product: &Product<'_>, block: Block) {
    // SAFETY: the same contract.
    unsafe { add_block::<Sixteen<true>>(product, block) }
}

/// Adds a block of the product; its tiles are of [`TILE`] rows of `x`, which are as many tiles of limbs' rows as a word has limbs.
///
/// # Safety
/// The operands are packed for the shape and for panels of `R`'s width, nothing else accesses the block's cells of `out`, and the CPU has the
/// features of `R`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a call would compile it without the caller's target features")]
unsafe fn add_block<R: Register>(product: &Product<'_>, block: Block) {
    let Product { x, w, cut, rows, steps, shift, out } = *product;
    let width = REGISTERS * R::LANES;
    for (panel, start) in sweep(steps, REACH, cut.depth, block.panels) {
        let depth = cut.depth.min(steps - start);
        let (first, end) = (block.tiles.0 * TILE * cut.limbs, rows.min(block.tiles.1 * TILE) * cut.limbs);
        for at in (first..end).step_by(TILE) {
            // SAFETY: slices before this one have `rows · limbs · start` numbers, rows of limbs before this one `depth` each in it; the panel has
            // `width` for each step. The cells from the row of the first limb and column `panel · width` on are inside the output.
            unsafe {
                let row = at / cut.limbs;
                let tile = Tile {
                    x: x.as_ptr().add(rows * cut.limbs * start + at * depth),
                    w: w.as_ptr().add((panel * steps + start) * width),
                    depth,
                    limb: at % cut.limbs,
                    cut,
                    shift,
                    out: out.start.add(row * out.columns + panel * width),
                    columns: out.columns,
                    width: width.min(out.columns - panel * width),
                };
                match end - at {
                    1 => tile.add::<R, 1>(),
                    2 => tile.add::<R, 2>(),
                    3 => tile.add::<R, 3>(),
                    4 => tile.add::<R, 4>(),
                    5 => tile.add::<R, 5>(),
                    _ => tile.add::<R, TILE>(),
                }
            }
        }
    }
}

/// Some rows of limbs, a panel's slice and the cells that their product belongs to.
#[derive(Clone, Copy)]
struct Tile {
    /// `[limbs' rows, depth]`.
    x: *const i16,
    /// `[depth / 2, columns, 2]`.
    w: *const i16,
    depth: usize,
    /// The place of the first row's limb in its word.
    limb: usize,
    cut: Cut,
    shift: u32,
    out: *mut u64,
    columns: usize,
    width: usize,
}

impl Tile {
    /// # Safety
    /// `x` and `w` have so many readable numbers, `depth` is even, `out` has `width` accessible columns in each row, at distance `columns`, that the
    /// `ROWS` limbs belong to, and the CPU has the features of `R`.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call would compile it without the caller's target features")]
    unsafe fn add<R: Register, const ROWS: usize>(mut self) {
        // SAFETY: the same contract; step `l < depth` reads a pair of each row, and two registers of columns.
        unsafe {
            // The rows of the output are far apart, and the loop hides that they come from a second-level cache.
            for r in 0..=(self.limb + ROWS - 1) / self.cut.limbs {
                let row = self.out.wrapping_add(r * self.columns).cast::<i8>();
                for line in (0..REGISTERS * R::LANES * size_of::<u64>()).step_by(64) {
                    _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(line));
                }
            }
            let mut sums = [[R::zero(); REGISTERS]; ROWS];
            for l in (0..self.depth).step_by(2) {
                let at = self.w.add(REGISTERS * R::LANES * l);
                let columns = [R::load(at), R::load(at.add(2 * R::LANES))];
                for (r, row) in sums.iter_mut().enumerate() {
                    let x = R::splat(self.x.add(r * self.depth + l));
                    for (sum, w) in row.iter_mut().zip(columns) {
                        *sum = sum.add_products(x, w);
                    }
                }
            }
            for row in &sums {
                self.finish(row);
                self.limb += 1;
                if self.limb == self.cut.limbs {
                    (self.limb, self.out) = (0, self.out.wrapping_add(self.columns));
                }
            }
        }
    }

    /// Adds a limb's sums to the words they belong to.
    ///
    /// # Safety
    /// `out` has `width` accessible columns and the CPU has the features of `R`.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call would compile it without the caller's target features")]
    unsafe fn finish<R: Register>(&self, sums: &[R; REGISTERS]) {
        let shift = self.shift + self.cut.width * self.limb as u32;
        if self.width == REGISTERS * R::LANES {
            // SAFETY: the panel has all columns, which are promised.
            return unsafe { add_row(sums, self.out, shift) };
        }
        let mut row = [0u64; MAX_WIDTH];
        // SAFETY: `row` has as many columns as any panel.
        unsafe { add_row(sums, row.as_mut_ptr(), shift) };
        // SAFETY: the row's `width` columns are promised.
        unsafe { add_words(&row[..self.width], self.out) };
    }
}

/// Adds `2^shift` times a row's sums to as many words.
///
/// # Safety
/// `to` has as many words and the CPU has the features of `R`.
#[inline(always)]
#[expect(clippy::inline_always, reason = "a call would compile it without the caller's target features")]
unsafe fn add_row<R: Register>(sums: &[R; REGISTERS], to: *mut u64, shift: u32) {
    for (c, sum) in sums.iter().enumerate() {
        // SAFETY: the same contract.
        unsafe { sum.add_to(to.add(c * R::LANES), shift) }
    }
}

/// Adds words to as many at `to`; apart, so that the loop over a tile's rows is small enough to be unrolled.
///
/// # Safety
/// `to` has as many words.
#[inline(never)]
unsafe fn add_words(from: &[u64], to: *mut u64) {
    for (c, word) in from.iter().enumerate() {
        // SAFETY: the same contract.
        unsafe { *to.add(c) = (*to.add(c)).wrapping_add(*word) };
    }
}
