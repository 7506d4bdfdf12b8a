//! A piecewise polynomial of a masked secret value, from one opening of it.
//!
//! A dealer who knows the mask `r` gives each party a root seed and one common key. The parties open `x_hat = x + r mod 2^n` and, from it and a
//! public table of polynomials, hold additive shares mod 2^64 of the polynomial of the cell that `x` lies in, at `x`.
//!
//! # Cells
//! At depth `d` the domain has `2^d` cells of size `c = 2^{n-d}`. From the opened value the parties know `x = k·c + (x_lo - r_lo)` for `k = (x_hat - r) >> (n-d)`
//! taken on the leading bits alone, where `x_lo` and `r_lo` are what both numbers have in a cell: `x` is less than one cell from `k·c`, to either side.
//! Octave `j` (from 0) has depth `first + j`, and of its cells those with `w ≤ k < 2w`, `w = 2^{first-1}`; in the last octave those with
//! `k < w` count too. Every cell is so at most `1/w` of its values wide, and each `x` has exactly one: what is not in an octave's cells is looked for in the next
//! octave, among the children of the nodes that are left. A single octave at depth `n` is the table look-up, exact for every `x`; otherwise `x < 2^n - 2^{n-first}`.
//!
//! # Polynomials
//! A cell's is `p(τ) = Σ_i a_i τ^i` of `τ = (x - k·c)/c`, `-1 < τ < 1`. With `τ = ξ - ρ`, the public `ξ = x_lo/c` and the dealer's `ρ = r_lo/c`, both in
//! `[0, 1)`, it is `Σ_i q_i(ξ)·ρ^i`, and the dealer's function is worth `(1, ρ, ρ², ρ³)` at the cell of `r`: the parties add up, over all cells, their shares of it times public `q`.
//!
//! # Construction
//! The tree of [`crate::dpf`] with a payload at several depths (incremental distributed point functions: Boneh, Boyle, Corrigan-Gibbs, Gilboa and Ishai, S&P 2021;
//! for piecewise polynomials from point functions see also Storrier, Vadapalli, Lyons and Henry, "Grotto", PETS 2024). The outputs of a node of seed `s` are the four words `c` of `H(s ⊕ 2)` and `H(s ⊕ 3)`; with control bits `t_b`, party `b` holds `(-1)^b (c_b + t_b·CW)`, where `CW = (-1)^{t_1} (β - c_0 + c_1)` and `β`
//! is the payload.
//!
//! # Errors
//! Powers of `ρ` have 20 fractional bits, so that with coefficients `a` in units of the result's last place the result is off by less than
//! `2^-20 · Σ i·|a_i|` and `2^22` of these units: coefficients are best above `2^40`. Without powers (degree 0) it is exact.
//!
//! # Key
//! A correction word of 16 bytes for each level as in [`crate::dpf`], then for each octave `CW` as little-endian 64-bit words, as many as a polynomial has
//! coefficients, up to an even number.

#[cfg(test)]
mod tests;

use crate::cipher::hash_all;
use crate::dpf::{Level, SEED, mask, open_node, step};
use rayon::prelude::*;

/// Fractional bits of the powers of `ρ`.
const FRACTION: u32 = 20;

/// Coefficients of a polynomial at most.
const MOST: usize = 4;

/// Keys per task.
const KEYS_PER_TASK: usize = 64;

/// How a domain is cut into cells, and the degree of their polynomials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cells {
    /// `n`: the masked value is opened in Z_2^n.
    pub bits: u32,
    /// Depth of the first octave.
    pub first: u32,
    /// Octaves, each half of what is left.
    pub octaves: u32,
    /// Of the polynomials, 0 to 3.
    pub degree: u32,
}

impl Cells {
    /// Cells of an octave.
    pub fn width(&self) -> usize {
        1 << (self.first - 1)
    }

    /// Levels of the tree.
    fn depth(&self) -> u32 {
        self.first + self.octaves - 1
    }

    /// Coefficients of a polynomial.
    pub fn terms(&self) -> usize {
        self.degree as usize + 1
    }

    /// Blocks of a payload.
    fn blocks(&self) -> usize {
        self.terms().div_ceil(2)
    }

    /// Bytes of correction words of one key, the same for both parties: `16·(first + octaves - 1 + octaves·⌈(degree + 1)/2⌉)`.
    pub fn key_len(&self) -> usize {
        16 * (self.depth() as usize + self.octaves as usize * self.blocks())
    }

    /// Numbers in a table: the first axis is of octaves and has one element more, for the last octave's cells below `w`.
    pub fn table_len(&self) -> usize {
        (self.octaves as usize + 1) * self.width() * self.terms()
    }

    fn check(&self) {
        assert!((1..=13).contains(&self.first), "the first octave is at depth 1 to 13, not {}", self.first);
        assert!(
            self.octaves >= 1 && self.depth() <= self.bits,
            "{} octaves from depth {} on fit the domain",
            self.octaves,
            self.first
        );
        assert!(self.bits <= 48 && self.terms() <= MOST, "48 bits and degree 3 at most");
    }
}

/// `x mod 2^bits`.
fn low(x: u64, bits: u32) -> u64 {
    x & ((1 << bits) - 1)
}

/// Appends the keys for the masks `alphas`, taken mod `2^bits`, under the parties' root seeds.
///
/// # Shapes
/// `alphas`, `seeds0` and `seeds1` have one element per key; `alphas.len() · key_len` bytes are appended.
///
/// # Panics
/// If the cells do not fit their domain or the lengths differ.
pub fn generate(cells: Cells, alphas: &[u64], seeds0: &[u128], seeds1: &[u128], out: &mut Vec<u8>) {
    cells.check();
    assert_eq!(alphas.len(), seeds0.len(), "one root seed of party 0 per point");
    assert_eq!(alphas.len(), seeds1.len(), "one root seed of party 1 per point");
    let len = cells.key_len();
    let start = out.len();
    out.resize(start + len * alphas.len(), 0);
    let points = alphas.par_iter().zip(seeds0).zip(seeds1).with_min_len(KEYS_PER_TASK);
    out[start..].par_chunks_mut(len).zip(points).for_each(|(key, ((alpha, s0), s1))| {
        let (words, _) = key.as_chunks_mut::<16>();
        generate_key(cells, low(*alpha, cells.bits), [s0 & SEED, s1 & SEED | 1], words);
    });
}

fn generate_key(cells: Cells, alpha: u64, mut nodes: [u128; 2], key: &mut [[u8; 16]]) {
    let (levels, outputs) = key.split_at_mut(cells.depth() as usize);
    for (depth, word) in (1..).zip(levels) {
        let mut children = nodes.map(open_node);
        hash_all(children.as_flattened_mut());
        let direction = u128::from(alpha >> (cells.bits - depth) & 1);
        let (correction, next) = step(nodes, children, direction);
        *word = correction.0.to_le_bytes();
        nodes = next;
        if depth >= cells.first {
            let octave = (depth - cells.first) as usize;
            let [ours, theirs] = nodes.map(|node| node_words(node, cells.blocks()));
            let sign = mask(nodes[1]) as u64;
            let beta = powers(in_cell(alpha, cells.bits - depth));
            let words: [u64; MOST] = std::array::from_fn(|i| {
                let beta = if i < cells.terms() { beta[i] } else { 0 };
                let plain = beta.wrapping_sub(ours[i]).wrapping_add(theirs[i]);
                (plain ^ sign).wrapping_sub(sign)
            });
            for (block, words) in outputs[octave * cells.blocks()..][..cells.blocks()].iter_mut().zip(words.as_chunks::<2>().0) {
                *block = (u128::from(words[0]) | u128::from(words[1]) << 64).to_le_bytes();
            }
        }
    }
}

/// The part of a number that lies in a cell of `2^bits`, in cells.
fn in_cell(x: u64, bits: u32) -> f64 {
    low(x, bits) as f64 / (1u64 << bits) as f64
}

/// The payload.
fn powers(rho: f64) -> [u64; MOST] {
    let scale = f64::from(1u32 << FRACTION);
    [1, (rho * scale) as u64, (rho * rho * scale) as u64, (rho * rho * rho * scale) as u64]
}

/// The outputs of one node, without correction; zeros in blocks that the payload does not have.
fn node_words(node: u128, blocks: usize) -> [u64; MOST] {
    let mut outputs = [node & SEED | 2, node & SEED | 3];
    hash_all(&mut outputs[..blocks]);
    halves(outputs, blocks)
}

fn halves(outputs: [u128; 2], blocks: usize) -> [u64; MOST] {
    let second = if blocks > 1 { outputs[1] } else { 0 };
    [outputs[0] as u64, (outputs[0] >> 64) as u64, second as u64, (second >> 64) as u64]
}

/// Writes this party's additive shares of the table's polynomials at `x_hat[i] - alpha_i mod 2^bits`; `x_hat` is taken mod `2^bits`.
///
/// # Shapes
/// `seeds[keys]`, `keys[keys, key_len]` bytes, `x_hat[keys]`, `table[octaves + 1, width, degree + 1]` in units of the result's last place, below
/// 2^62 in size, `out[keys]`.
///
/// # Panics
/// If `party` is not 0 or 1, the cells do not fit their domain or a length does not match.
pub fn eval(party: u8, cells: Cells, seeds: &[u128], keys: &[u8], x_hat: &[u64], table: &[f64], out: &mut [u64]) {
    cells.check();
    assert!(party < 2, "the parties are 0 and 1");
    let len = cells.key_len();
    assert_eq!(keys.len(), seeds.len() * len, "one key per root seed");
    assert_eq!(x_hat.len(), seeds.len(), "one value per key");
    assert_eq!(out.len(), seeds.len(), "one share per key");
    assert_eq!(table.len(), cells.table_len(), "a polynomial for each cell");
    out.par_chunks_mut(KEYS_PER_TASK)
        .zip(x_hat.par_chunks(KEYS_PER_TASK))
        .zip(seeds.par_chunks(KEYS_PER_TASK))
        .zip(keys.par_chunks(len * KEYS_PER_TASK))
        .for_each(|(((out, x_hat), seeds), keys)| {
            let mut walk = Walk { cells, table, nodes: Vec::new(), hashed: Vec::new() };
            let keys = keys.chunks_exact(len).map(|key| key.as_chunks::<16>().0);
            for (((out, x), seed), key) in out.iter_mut().zip(x_hat).zip(seeds).zip(keys) {
                let share = walk.share(low(*x, cells.bits), seed & SEED | u128::from(party), key);
                *out = if party == 0 { share } else { share.wrapping_neg() };
            }
        });
}

/// The evaluation of one key, with room that the next one uses again.
struct Walk<'a> {
    cells: Cells,
    table: &'a [f64],
    nodes: Vec<u128>,
    hashed: Vec<u128>,
}

impl Walk<'_> {
    /// The share, still without the party's sign.
    fn share(&mut self, x: u64, root: u128, key: &[[u8; 16]]) -> u64 {
        let Cells { bits, first, octaves, .. } = self.cells;
        let (levels, outputs) = key.split_at(self.cells.depth() as usize);
        let w = self.cells.width();
        self.nodes.clear();
        self.nodes.push(root);
        levels[..first as usize].iter().for_each(|word| self.expand(*word));
        // Nodes stand by the leading bits of r, from those of x + 1 on now: node `i` has `k = 2w - 1 - i`.
        self.nodes.rotate_left(((x >> (bits - first)) as usize + 1) & (2 * w - 1));
        let mut highest = 2 * w - 1;
        let mut sum = 0u64;
        for octave in 0..octaves as usize {
            let depth = first + octave as u32;
            let xi = in_cell(x, bits - depth);
            let words = &outputs[octave * self.cells.blocks()..][..self.cells.blocks()];
            let inside = highest + 1 - w;
            sum = sum.wrapping_add(self.add_up(0..inside, (octave, highest - w), xi, words));
            if octave + 1 == octaves as usize {
                return sum.wrapping_add(self.add_up(inside..inside + w, (octave + 1, w - 1), xi, words));
            }
            self.nodes.drain(..inside);
            self.nodes.truncate(w);
            self.expand(levels[depth as usize]);
            // Children of `k` are `2k` and `2k + 1` where x has the bit, and one less where it has not.
            highest = 2 * w - 2 + (x >> (bits - depth - 1) & 1) as usize;
        }
        sum
    }

    /// Replaces nodes by their children, in order.
    fn expand(&mut self, word: [u8; 16]) {
        let correction = Level(u128::from_le_bytes(word));
        self.hashed.clear();
        self.hashed.extend(self.nodes.iter().flat_map(|node| open_node(*node)));
        hash_all(&mut self.hashed);
        let corrections = [correction.left(), correction.right()];
        for (child, at) in self.hashed.iter_mut().zip(0usize..) {
            *child = (*child & !2) ^ (corrections[at & 1] & mask(self.nodes[at / 2]));
        }
        std::mem::swap(&mut self.nodes, &mut self.hashed);
    }

    /// `Σ_k ⟨share of the payload, q_k⟩` over some nodes; the first has the polynomial `table[slot, column]`, the others those before it.
    fn add_up(&mut self, nodes: std::ops::Range<usize>, (slot, column): (usize, usize), xi: f64, key: &[[u8; 16]]) -> u64 {
        let (blocks, terms) = (self.cells.blocks(), self.cells.terms());
        let nodes = &self.nodes[nodes];
        self.hashed.clear();
        self.hashed.extend(nodes.iter().flat_map(|node| [node & SEED | 2, node & SEED | 3].into_iter().take(blocks)));
        hash_all(&mut self.hashed);
        let word = |at: usize| key.get(at).map_or(0, |block| u128::from_le_bytes(*block));
        let correction = halves([word(0), word(1)], blocks);
        let row = &self.table[slot * self.cells.width() * terms..][..(column + 1) * terms];
        let mut sum = 0u64;
        for ((node, outputs), a) in nodes.iter().zip(self.hashed.chunks_exact(blocks)).zip(row.rchunks_exact(terms)) {
            let control = mask(*node) as u64;
            let outputs = halves([outputs[0], outputs[blocks - 1]], blocks);
            for ((c, correction), q) in outputs.into_iter().zip(correction).zip(shifted(a, xi)) {
                sum = sum.wrapping_add(c.wrapping_add(correction & control).wrapping_mul(q));
            }
        }
        sum
    }
}

/// Coefficients of `p(ξ - ρ)` as a polynomial in `ρ`: the constant in units of the result, the others in units of `2^FRACTION`.
fn shifted(a: &[f64], xi: f64) -> [u64; MOST] {
    const UNIT: f64 = 1.0 / (1u32 << FRACTION) as f64;
    let [a0, a1, a2, a3] = std::array::from_fn(|i| a.get(i).copied().unwrap_or(0.0));
    let whole = |q: f64| q as i64 as u64;
    [
        whole(((a3 * xi + a2) * xi + a1) * xi + a0),
        whole(-((3.0 * a3 * xi + 2.0 * a2) * xi + a1) * UNIT),
        whole((3.0 * a3 * xi + a2) * UNIT),
        whole(-a3 * UNIT),
    ]
}

/// The polynomial of the cell of `x`, which is taken mod `2^bits`, at `x`: what the two shares add up to, but for the last places and for a cell's choice within one.
///
/// # Panics
/// As [`eval`].
pub fn clear(cells: Cells, x: u64, table: &[f64]) -> u64 {
    cells.check();
    assert_eq!(table.len(), cells.table_len(), "a polynomial for each cell");
    let (x, w) = (low(x, cells.bits), cells.width());
    let in_octave = |octave: &u32| x >> (cells.bits - cells.first - octave) >= w as u64;
    let found = (0..cells.octaves).find(in_octave);
    let octave = found.unwrap_or(cells.octaves - 1);
    let left = cells.bits - cells.first - octave;
    let (slot, k) = (found.unwrap_or(cells.octaves) as usize, (x >> left) as usize & (w - 1));
    shifted(&table[(slot * w + k) * cells.terms()..][..cells.terms()], in_cell(x, left))[0]
}
