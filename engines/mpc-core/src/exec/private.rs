//! Scalar products of vectors that are each known to one party.
//!
//! # Functionality
//! One party knows `u`, the other `v`, both in `R^L` with `R = Z_2^n` or GF(2); they get shares of `⟨u, v⟩`.
//!
//! # Protocol
//! Du and Atallah, "Privacy-preserving cooperative statistical analysis" (ACSAC 2001), with their commodity server as dealer. The sender of a vector masks it with words `α`
//! or `β` of its own stream, which the dealer knows too; the dealer shares `γ = ⟨α, β⟩` by party 0's stream and one correction for party 1.
//!
//! - *Two-sided* (both vectors are what the parties hold at the time): `û = u + α` and `v̂ = v + β` are sent in one round;
//!   `⟨u, v⟩ = ⟨u, v̂⟩ - ⟨û, β⟩ + γ`, the first term at party 0, the second at party 1.
//! - *One-sided* (`u` is a function of the mask `r` of a reshared value, which the dealer knows): only `v̂` is sent;
//!   `⟨u, v⟩ = ⟨u, v̂⟩ - ⟨u, β⟩`, and the dealer shares the last. The roles are swapped in the second half of the elements, so frames are of equal size.
//! - *A bit times a word* (Beaver's derandomised oblivious transfer, CRYPTO 1995): with `d = b ⊕ c` and `Ŷ = Y + β` sent,
//!   `b·Y = d·Y + (1-2d)·(c·Ŷ - c·β)`, the first term at the holder of `Y`, the second at that of `b`, and the dealer shares `c·β`.
//! - *A bit times a bit*, in a ring: both send `d_i = m_i ⊕ c_i`;
//!   `m_0·m_1 = d_0·d_1 + d_0(1-2d_1)·c_1 + d_1(1-2d_0)·c_0 + (1-2d_0)(1-2d_1)·c_0·c_1`, and the dealer shares `c_0·c_1`.
//!
//! Each party sees a uniform vector and uniform words: it sends nothing that is not under a fresh mask of its own, and neither party's stream is known to the other.
//!
//! # Cost of an element
//! One round; one word of `R` from the dealer, to party 1, for each product, whatever L is; online `L` words each way, one-sided on average `L/2`.
//!
//! | gate | vectors | dealt bits | sent bits |
//! |---|---|---|---|
//! | [`Op::Reshare`] | | 0 | n/2 |
//! | [`Op::Digits`] | one-hot digits of `x̂` against the thresholds of `r` | outputs | Σ (2^width - 1) / 2 |
//! | [`Op::Boolean`] | subset products of a product's factors | outputs | 2^factors - 2 a product |
//! | [`Op::Select`] | `b_0` times `x_1(1-2b_1)`, `b_1` times `x_0(1-2b_0)` | 2n a choice | n + 1 a choice |
//! | [`Op::Extend`] | top bits | to - from | 1 |
//! | [`Op::Translate`] | cosines, or powers, of `r` against those of `x̂` | n | Σ widths / 2 |

use super::circle::{Circle, Harmonics};
use super::material::blocks;
use super::randomness::{Purpose, low};
use super::wiped::Wiped;
use crate::program::{Basis, Choice, Formula, Fourier, Node, Op, Program, Relation, Scale};
use sprint_kernel::{packed_len, words as kernel};

/// Widths of the words that a party sends for an element, and for how many elements.
pub(crate) fn lanes(program: &Program, node: &Node) -> (Vec<u32>, usize) {
    let half = Op::half(node.len);
    match &node.op {
        Op::Reshare { bits, .. } => (vec![*bits], half),
        Op::Digits { scales, .. } => (vec![scales.iter().map(Scale::lanes).sum()], half),
        Op::Translate { basis, bits, .. } => (basis_widths(program, basis, *bits), half),
        Op::Boolean { formulas, .. } => (vec![formulas.iter().map(Formula::lanes).sum()], node.len),
        Op::Select { choices, bits } => ([1, *bits].repeat(choices.len()), node.len),
        Op::Extend { .. } => (vec![1], node.len),
        _ => (Vec::new(), 0),
    }
}

/// How many corrections an element has, and the bits of each.
pub(crate) fn dealt(op: &Op) -> (usize, u32) {
    match op {
        Op::Digits { scales, .. } => (1, scales.iter().map(outputs).sum()),
        Op::Boolean { formulas, .. } => (1, formulas.len() as u32),
        Op::Select { choices, bits } => (2 * choices.len(), *bits),
        Op::Translate { bits, .. } => (1, *bits),
        Op::Extend { from, to, .. } => (1, to - from),
        _ => (0, 1),
    }
}

/// The stream of party 0's shares of a correction.
pub(super) fn dealt_stream(op: &Op, array: usize) -> (Purpose, usize) {
    // Lanes have the first streams of products.
    if matches!(op, Op::Select { .. }) { (Purpose::Product, DEALT + array) } else { (Purpose::Carry, 0) }
}

/// The first stream of corrections after those of lanes.
const DEALT: usize = 128;

/// Bytes of the corrections of `len` elements.
pub(super) fn dealt_bytes(op: &Op, len: usize) -> usize {
    let (count, bits) = dealt(op);
    count * packed_len(bits, len)
}

/// Whether shares are XORed, not added.
pub(super) fn is_binary(op: &Op) -> bool {
    matches!(op, Op::Digits { .. } | Op::Boolean { .. })
}

/// Whether a lane's words are masked by XOR, not by addition.
pub(super) fn is_binary_lane(op: &Op, lane: usize) -> bool {
    is_binary(op) || matches!(op, Op::Extend { .. }) || (matches!(op, Op::Select { .. }) && lane.is_multiple_of(2))
}

fn outputs(scale: &Scale) -> u32 {
    (scale.fields.len() + scale.tops.len()) as u32
}

/// The parts of a stretch of elements in which party 0 has the mask, and in which party 1 has it, as start and length.
pub(super) fn halves(len: usize, from: usize, count: usize) -> [(usize, usize); 2] {
    let middle = Op::half(len).clamp(from, from + count);
    [(from, middle - from), (middle, from + count - middle)]
}

/// The elements that party `holder` of masks has the masks of.
pub(super) fn masked_by(len: usize, holder: usize) -> (usize, usize) {
    halves(len, 0, len)[holder]
}

/// Blocks of a stretch.
pub(super) fn blocks_of((start, len): (usize, usize)) -> impl Iterator<Item = (usize, usize)> {
    blocks(len).map(move |(from, len)| (start + from, len))
}

fn parity(word: u64) -> u64 {
    u64::from(word.count_ones() & 1)
}

/// The numbers whose digits are compared.
fn numbers(scale: &Scale, x: &[u64]) -> Wiped<u64> {
    x.iter().map(|x| (x.wrapping_mul(scale.multiplier) & low(scale.bits)) >> scale.drop).collect()
}

/// Sets bit `at` of every word that `bit` is 1 for.
fn set_bits(words: &mut [u64], at: usize, bits: impl Iterator<Item = u64>) {
    words.iter_mut().zip(bits).for_each(|(word, bit)| *word ^= bit << at);
}

/// One-hot digits of every scale, one after another, without the lane of the largest digit: where all others are 0, it is 1.
pub(super) fn digit_vectors(scales: &[Scale], x: &[u64]) -> Wiped<u64> {
    let (mut vectors, mut at) = (Wiped::zeros(x.len()), 0);
    for scale in scales {
        let numbers = numbers(scale, x);
        for d in &scale.digits {
            let lanes = d.lanes();
            let one_hot = |n: &u64| (1 << (n >> d.offset & low(d.width))) & low(lanes);
            set_bits(&mut vectors, at, numbers.iter().map(one_hot));
            at += lanes as usize;
        }
    }
    vectors
}

/// The top bits of `x̂` where its holder has one.
pub(super) fn own_tops(scales: &[Scale], x: &[u64]) -> Wiped<u64> {
    tops(scales, x, |_| 0)
}

/// The top bits of `r + shift`.
pub(super) fn mask_tops(scales: &[Scale], r: &[u64]) -> Wiped<u64> {
    tops(scales, r, |shift| shift as u64)
}

fn tops(scales: &[Scale], x: &[u64], add: impl Fn(i64) -> u64) -> Wiped<u64> {
    let (mut words, mut at) = (Wiped::zeros(x.len()), 0);
    for scale in scales {
        at += scale.fields.len();
        let (numbers, top) = (numbers(scale, x), scale.bits - scale.drop - 1);
        for shift in &scale.tops {
            let shift = add(*shift);
            set_bits(&mut words, at, numbers.iter().map(|n| n.wrapping_add(shift) >> top & 1));
            at += 1;
        }
    }
    words
}

/// What the holder of `r` makes of digit vectors: the parity of a vector under each field's set of digits.
pub(super) fn fields(scales: &[Scale], r: &[u64], vectors: &[u64]) -> Wiped<u64> {
    compared(scales, r, vectors, true)
}

/// What the dealer makes of the vectors' masks: their products with each field's set, without the constants that make fields of them.
pub(super) fn field_products(scales: &[Scale], r: &[u64], masks: &[u64]) -> Wiped<u64> {
    compared(scales, r, masks, false)
}

/// A field is 1 for a set of digits of `x̂`. Where the largest, which has no lane, is one of them, the set is all others, and a constant. No branch and no
/// address depends on `r`.
fn compared(scales: &[Scale], r: &[u64], vectors: &[u64], constants: bool) -> Wiped<u64> {
    let (mut words, mut out, mut lane) = (Wiped::zeros(r.len()), 0, 0);
    for scale in scales {
        let numbers = numbers(scale, r);
        for field in &scale.fields {
            let before: u32 = scale.digits[..field.digit].iter().map(|d| d.lanes()).sum();
            let (d, at) = (scale.digits[field.digit], lane + before);
            let (all, lanes, shift) = (low(d.lanes() + 1), d.lanes(), field.shift as u64);
            let bit = |(n, vector): (&u64, &u64), set: &dyn Fn(u64) -> u64| {
                let set = set(n.wrapping_add(shift) >> d.offset & low(d.width));
                let largest = set >> lanes & 1;
                let inside = (set ^ largest.wrapping_neg()) & low(lanes);
                parity(vector >> at & inside) ^ (largest & u64::from(constants))
            };
            let pairs = numbers.iter().zip(vectors);
            match field.relation {
                Relation::AtLeast => set_bits(&mut words, out, pairs.map(|p| bit(p, &|r| (all << r) & all))),
                Relation::Above => set_bits(&mut words, out, pairs.map(|p| bit(p, &|r| ((all << r) << 1) & all))),
                Relation::Equal => set_bits(&mut words, out, pairs.map(|p| bit(p, &|r| 1 << r))),
            }
            out += 1;
        }
        out += scale.tops.len();
        lane += scale.lanes();
    }
    words
}

/// A party's bits of each factor of a product.
fn factor_bits(product: &[(u64, bool)], words: &[u64], first: bool) -> Vec<Wiped<u64>> {
    let of = |(mask, constant): &(u64, bool)| {
        let constant = u64::from(*constant && first);
        words.iter().map(|w| parity(w & mask) ^ constant).collect()
    };
    product.iter().map(of).collect()
}

/// The products of the factors in `subset`.
fn subset_products(bits: &[Wiped<u64>], subset: u64) -> Wiped<u64> {
    let mut chosen = bits.iter().enumerate().filter(|(i, _)| subset >> i & 1 == 1).map(|(_, b)| b);
    let mut product: Wiped<u64> = chosen.next().map(|b| b.iter().copied().collect()).unwrap_or_default();
    chosen.for_each(|b| product.iter_mut().zip(b.iter()).for_each(|(p, b)| *p &= b));
    product
}

/// The vectors of all products: what party 0 makes of its words if `first`, else what party 1 makes.
pub(super) fn factors(formulas: &[Formula], words: &[u64], first: bool) -> Wiped<u64> {
    let (mut vectors, mut at) = (Wiped::zeros(words.len()), 0);
    for product in formulas.iter().flat_map(|f| &f.products) {
        let bits = factor_bits(product, words, first);
        let all = low(product.len() as u32);
        for subset in 1..all {
            let own = if first { subset } else { all & !subset };
            set_bits(&mut vectors, at, subset_products(&bits, own).iter().copied());
            at += 1;
        }
    }
    vectors
}

/// What a party adds to each formula without the other: constants, linear parts, and products of its own bits.
pub(super) fn own_formulas(formulas: &[Formula], words: &[u64], first: bool) -> Wiped<u64> {
    let mut out = Wiped::zeros(words.len());
    for (i, formula) in formulas.iter().enumerate() {
        let constant = u64::from(formula.constant && first);
        set_bits(&mut out, i, words.iter().map(|w| parity(w & formula.linear) ^ constant));
        for product in &formula.products {
            let bits = factor_bits(product, words, first);
            set_bits(&mut out, i, subset_products(&bits, u64::MAX).iter().copied());
        }
    }
    out
}

/// The parities of each formula's part of the products of two vectors.
pub(super) fn by_formula(formulas: &[Formula], a: &[u64], b: &[u64]) -> Wiped<u64> {
    let (mut words, mut at) = (Wiped::zeros(a.len()), 0);
    for (i, formula) in formulas.iter().enumerate().filter(|(_, f)| f.lanes() > 0) {
        let part = low(formula.lanes()) << at;
        set_bits(&mut words, i, a.iter().zip(b).map(|(a, b)| parity(a & b & part)));
        at += formula.lanes();
    }
    words
}

/// A party's bit of a choice.
pub(super) fn chosen(choice: &Choice, word: u64) -> u64 {
    parity(word & choice.mask)
}

/// Fractional bits that a frequency's cosines do without: k for a coefficient below `2^-k`.
fn spared(fit: &Fourier, frequency: usize, bits: u32) -> u32 {
    let (a, b) = fit.pair(frequency);
    let size = a.abs().max(b.abs()).max(f64::MIN_POSITIVE);
    let small = (-size.log2()).floor();
    (small.max(0.0) as u32).min(bits - 4)
}

fn basis_widths(program: &Program, basis: &Basis, bits: u32) -> Vec<u32> {
    match basis {
        Basis::Series { fit, bits: fraction, .. } => {
            let fit = &program.fits[*fit as usize];
            (1..=fit.frequencies()).flat_map(|j| [bits - spared(fit, j, *fraction); 2]).collect()
        }
        Basis::Power { .. } => vec![bits],
    }
}

/// Positions of a basis' argument.
fn positions(multiplier: u64, x: &[u64]) -> Wiped<u64> {
    x.iter().map(|x| x.wrapping_mul(multiplier)).collect()
}

/// `u` of the holder of `r`: an array for each lane.
pub(super) fn of_mask(program: &Program, basis: &Basis, r: &[u64]) -> Vec<Wiped<u64>> {
    match basis {
        Basis::Series { fit, multiplier, bits } => {
            let fit = &program.fits[*fit as usize];
            let circle = Circle::new(fit.period_bits);
            let mut harmonics = Harmonics::default();
            harmonics.restart(&circle, &positions(*multiplier, r));
            let mut out = Vec::new();
            for j in 1..=fit.frequencies() {
                let spared = spared(fit, j, *bits);
                let scale = f64::from(bits - spared).exp2();
                for part in [harmonics.now().cos, harmonics.now().sin] {
                    let mut words = Wiped::zeros(r.len());
                    kernel::rounded(&mut words, part, scale);
                    words.iter_mut().for_each(|w| *w <<= spared);
                    out.push(words);
                }
                harmonics.advance();
            }
            out
        }
        Basis::Power { multiplier, period, rate, bits, .. } => {
            let power = |r: &u64| {
                let position = r.wrapping_mul(*multiplier) & low(*period);
                (libm::exp(-rate * position as f64) * f64::from(*bits).exp2()).round() as u64
            };
            vec![r.iter().map(power).collect()]
        }
    }
}

/// `v` of the holder of `x̂`.
pub(super) fn of_opened(program: &Program, basis: &Basis, x: &[u64]) -> Vec<Wiped<u64>> {
    match basis {
        Basis::Series { fit, multiplier, bits } => {
            let fit = &program.fits[*fit as usize];
            let circle = Circle::new(fit.period_bits);
            let scale = f64::from(*bits).exp2();
            let mut harmonics = Harmonics::default();
            harmonics.restart(&circle, &positions(*multiplier, x));
            let mut out = Vec::new();
            for j in 1..=fit.frequencies() {
                let (a, b) = fit.pair(j);
                let now = harmonics.now();
                let parts = [(a, b), (-b, a)].map(|(c, s)| {
                    let values: Wiped<f64> = now.cos.iter().zip(now.sin).map(|(cos, sin)| c * cos + s * sin).collect();
                    let mut words = Wiped::zeros(x.len());
                    kernel::rounded(&mut words, &values, scale);
                    words
                });
                out.extend(parts);
                harmonics.advance();
            }
            out
        }
        Basis::Power { multiplier, period, rate, shift, bits } => {
            let turn = f64::from(*period).exp2();
            let power = |x: &u64| {
                let position = x.wrapping_mul(*multiplier) & low(*period);
                (libm::exp(rate * (position as f64 - turn) + shift) * f64::from(*bits).exp2()).round() as u64
            };
            vec![x.iter().map(power).collect()]
        }
    }
}

/// The public term of a basis.
pub(super) fn constant(program: &Program, basis: &Basis) -> u64 {
    match basis {
        Basis::Series { fit, bits, .. } => super::circle::constant_term(&program.fits[*fit as usize], 2 * bits),
        Basis::Power { .. } => 0,
    }
}
