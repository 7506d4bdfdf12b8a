//! The functions of mode `exact` from scalar products of private vectors ([`crate::exec::private`]): a dealt word a gate, in more rounds and bytes.
//!
//! | step | exact | lean |
//! |---|---|---|
//! | comparison | a key or unit vector for the opened value | digits of a reshared value, one formula of their relations |
//! | `b·x` | an opened bit's share and two or three products of masks | one product of private vectors |
//! | back to a wide ring | carry and top bit of a mask | the product of two private top bits |
//! | Fourier series | shares of each frequency's cosine and sine of the mask | one product of vectors of cosines |
//! | exponential | square of a series, where a comparison allows | `exp x̂·exp(-r)`, the turn chosen by a comparison |
//!
//! Ranges, and what is done beyond them, are those of `exact`, but for the edges of GELU (-4 and 4 in place of -4 and 5) and of the exponential
//! (-11.5 in place of -12).

use sprint_model::Func;

use super::{Lowering, Precision, Val};
use crate::fit::{Parity, fourier};
use crate::program::{Basis, Choice, Digit, Field, Formula, Fourier, NodeId, Op, Relation, Scale};

/// A comparison of an opened and a masked number on some bits, as fields of a word.
struct Comparison {
    scale: Scale,
    /// First bits of each threshold's fields, and of the tops.
    fields: Vec<usize>,
    tops: usize,
}

impl Comparison {
    /// Most digits: a formula has products of up to three bits.
    fn digits(bits: u32) -> Vec<Digit> {
        let count = if bits <= 8 { 2 } else { 3 };
        let mut out = Vec::new();
        let mut offset = 0;
        for left in (1..=count).rev() {
            let width = (bits - offset).div_ceil(left);
            out.push(Digit { offset, width });
            offset += width;
        }
        out.retain(|d| d.width > 0);
        out
    }

    fn fields(count: usize, shift: i64) -> Vec<Field> {
        let of = |digit, relation| Field { digit, relation, shift };
        let upper = (1..count).flat_map(|d| [of(d, Relation::Above), of(d, Relation::Equal)]);
        std::iter::once(of(0, Relation::AtLeast)).chain(upper).collect()
    }

    /// `x ≥ t` of signed numbers for each threshold, in units of `2^drop`, from bit `at` of the word.
    fn signed(bits: u32, drop: u32, thresholds: &[i64], at: usize) -> Self {
        let digits = Self::digits(bits - drop - 1);
        let fields: Vec<Field> = thresholds.iter().flat_map(|t| Self::fields(digits.len(), *t)).collect();
        let each = 2 * digits.len() - 1;
        let starts = (0..thresholds.len()).map(|i| at + i * each).collect();
        let tops = at + fields.len();
        Self { scale: Scale { multiplier: 1, bits, drop, digits, fields, tops: thresholds.to_vec() }, fields: starts, tops }
    }

    /// `χ ≥ ρ` of the numbers `multiplier·x̂` and `multiplier·r` in `[0, 2^bits)`, at the word's beginning.
    fn unsigned(multiplier: u64, bits: u32, drop: u32) -> Self {
        let digits = Self::digits(bits - drop);
        let fields = Self::fields(digits.len(), 0);
        let tops = fields.len();
        Self { scale: Scale { multiplier, bits, drop, digits, fields, tops: Vec::new() }, fields: vec![0], tops }
    }

    /// The first bit after it.
    fn end(&self) -> usize {
        self.tops + self.scale.tops.len()
    }

    /// `b ≥ r` by digits: above in the highest, or equal there and so on. Without borrow, a signed difference has the top bit of both numbers' top bits.
    fn formula(&self, threshold: usize) -> Formula {
        let at = self.fields[threshold];
        let bit = |i: usize| 1u64 << (at + i);
        let count = self.scale.digits.len();
        // Fields: at least (0), above and equal (1, 2), above and equal (3, 4).
        let top = if self.scale.tops.is_empty() { 0 } else { 1u64 << (self.tops + threshold) };
        let mut formula = Formula { constant: false, linear: top, products: Vec::new() };
        let mut equal: Vec<(u64, bool)> = Vec::new();
        for digit in (0..count).rev() {
            let wins = if digit == 0 { bit(0) } else { bit(2 * digit - 1) };
            if equal.is_empty() {
                formula.linear ^= wins;
            } else {
                let mut product = equal.clone();
                product.push((wins, false));
                formula.products.push(product);
            }
            if digit > 0 {
                equal.push((bit(2 * digit), false));
            }
        }
        formula
    }
}

impl Lowering {
    /// The same value in Z_2^64, where it is at least `-bias` and below `2^{ring-1} - bias` in units of its last place.
    pub(crate) fn extend(&mut self, v: Val, bias: u64) -> Val {
        if v.ring == 64 {
            return v;
        }
        let len = self.len(v);
        let op = Op::Extend { src: v.node, from: v.ring, to: 64, bias };
        Val { node: self.b.push(op, len), ring: 64, f: v.f }
    }

    /// Opened unlifted in Z_2^bits, after an extension where the ring is too small: by half of its range to either side.
    pub(crate) fn open_extended(&mut self, v: Val, bits: u32) -> NodeId {
        let v = if v.ring < bits { self.extend(v, 1 << (v.ring - 2)) } else { v };
        self.open(v, bits, false, true)
    }

    pub(crate) fn reshare(&mut self, v: Val, bits: u32) -> NodeId {
        debug_assert!(v.ring >= bits, "a share in Z_2^{} cannot be reshared in Z_2^{bits}", v.ring);
        let len = self.len(v);
        self.b.push(Op::Reshare { src: v.node, bits }, len)
    }

    /// XOR-shared words whose bit `i` is `x ≥ t_i`, in units of `2^drop`; with `drop` a value may count as up to one unit more than it is.
    pub(crate) fn at_least(&mut self, reshared: NodeId, bits: u32, drop: u32, thresholds: &[i64]) -> NodeId {
        let comparison = Comparison::signed(bits, drop, thresholds, 0);
        let formulas = (0..thresholds.len()).map(|t| comparison.formula(t)).collect();
        let len = self.b.len(reshared);
        let word = self.b.push(Op::Digits { src: reshared, scales: vec![comparison.scale] }, len);
        self.b.push(Op::Boolean { src: word, formulas }, len)
    }

    /// The same for two thresholds that are equal in their lowest `low` bits, so that these are compared once; a round more.
    pub(crate) fn at_least_two(&mut self, reshared: NodeId, (bits, drop, low): (u32, u32, u32), thresholds: [i64; 2]) -> NodeId {
        debug_assert!((thresholds[0] - thresholds[1]) & ((1 << low) - 1) == 0, "thresholds share their lowest bits");
        let [first, second] = [low.div_ceil(2), low / 2];
        let digits = vec![
            Digit { offset: 0, width: first },
            Digit { offset: first, width: second },
            Digit { offset: low, width: bits - drop - 1 - low },
        ];
        let of = |digit, relation, shift| Field { digit, relation, shift };
        let mut fields = Comparison::fields(2, thresholds[0]);
        fields.extend(thresholds.iter().flat_map(|t| [of(2, Relation::Above, *t), of(2, Relation::Equal, *t)]));
        let scale = Scale { multiplier: 1, bits, drop, digits, fields, tops: thresholds.to_vec() };
        let len = self.b.len(reshared);
        let word = self.b.push(Op::Digits { src: reshared, scales: vec![scale] }, len);
        // Bits: of the low digits at least, above, equal; then above and equal of each threshold, and their tops.
        let linear = |mask| Formula { constant: false, linear: mask, products: Vec::new() };
        let lower = Formula { constant: false, linear: 2, products: vec![vec![(1, false), (4, false)]] };
        let formulas = vec![lower, linear(8 | 128), linear(16), linear(32 | 256), linear(64)];
        let word = self.b.push(Op::Boolean { src: word, formulas }, len);
        let upper = |at: u32| Formula { constant: false, linear: 1 << at, products: vec![vec![(1, false), (2 << at, false)]] };
        self.b.push(Op::Boolean { src: word, formulas: vec![upper(1), upper(3)] }, len)
    }

    fn select(&mut self, choices: Vec<Choice>, like: Val) -> Val {
        let len = self.len(like);
        Val { node: self.b.push(Op::Select { choices, bits: like.ring }, len), ..like }
    }

    /// The larger of each pair, in four rounds.
    pub(super) fn lean_maximum(&mut self, a: Val, b: Val) -> Val {
        let difference = self.difference(a, b);
        let reshared = self.reshare(difference, a.ring);
        let bits = self.at_least(reshared, a.ring, 0, &[0]);
        let taken = self.select(vec![Choice { bits, mask: 1, value: difference.node }], a);
        self.sum(b, taken)
    }

    /// `x/2 + even(x)` on `-4.25 ≤ x < 4.25` by a Fourier series of the even part, `x` above, 0 below: what is so taken for `x` is at least 3.75, what is left
    /// out is below -4. Error 2e-4 for `|x| < 2`, 4e-4 up to 4, 9e-4 on the rest of the interval; `x` is below 63.
    ///
    /// What is inside and what is above share a scale, so that one extension serves both.
    pub(super) fn lean_gelu(&mut self, x: Val, func: Func, ring: u32) -> Val {
        /// 23·x has a period of 2^20 units, no more than `x`'s ring has, where x has one of 11.13: of the periods about it that with the least error around 0.
        const TURN: (u64, u32) = (23, 20);
        /// With two bits less, half of the variance of roberta-base's logits is the noise of this series.
        const TRIG: u32 = 14;
        /// Fractional bits of the result: with more, `x` would not fit its own ring.
        const BODY: u32 = 13;
        let f = Precision::ARGUMENT.0;
        let period = f64::from(TURN.1 as i32 - f as i32).exp2() / TURN.0 as f64;
        let x = Val { ring, ..self.fit(x, f, ring) };
        let len = self.len(x);
        let reshared = self.reshare(x, ring);
        let bits = self.at_least_two(reshared, (ring, f - 2, 5), [-16, 16]);
        let even = fourier(|x| func.eval(x) - 0.5 * x, (0.0, 4.25), period, 5, Parity::Even);
        debug_assert!(even.max_error < 1e-3, "the series fits the function");
        let fit = self.b.fit(Fourier { period_bits: TURN.1, multiplier: 1, cos: even.cos, sin: even.sin });
        let basis = Basis::Series { fit, multiplier: TURN.0, bits: TRIG };
        let wide = 2 * TRIG - BODY + ring;
        let node = self.b.push(Op::Translate { src: reshared, basis, bits: wide }, len);
        let even = self.rescale(Val { node, ring: wide, f: 2 * TRIG }, BODY);
        let half = self.rescale(Val { f: f + 1, ..x }, BODY);
        let inside = self.sum(even, half);
        let above = self.rescale(x, BODY);
        let choice = |mask, v: Val| Choice { bits, mask, value: v.node };
        let taken = self.select(vec![choice(3, inside), choice(2, above)], inside);
        self.extend(taken, 1 << BODY)
    }

    /// `exp x` for `-11.5 ≤ x ≤ 0.4`, 0 below -12, either between.
    ///
    /// With `x - 1/2 = x̂ - r` and `χ`, `ρ` the positions of `x̂` and `r` on a circle of length `P = 12.49`: the product `exp(χ - P)·exp(-ρ)·exp(1/2)` is `exp x`
    /// where `χ ≥ ρ`, and `exp(-P)` times that where not. `χ ≥ ρ` is compared in units of `P/128 = 0.098`; where that fails, `x` is above 0.4.
    pub(super) fn lean_exponential(&mut self, x: Val) -> Val {
        const TURN: (u64, u32) = (41, 21);
        const SHIFT: f64 = 0.5;
        const FACTOR: u32 = 31;
        /// Of the result; below 2.
        const FINE: (u32, u32) = (13, 15);
        /// Fractional bits of `exp P` as a factor.
        const LIFT: u32 = 14;
        let (f, ring) = Precision::EXP_ARGUMENT;
        let x = self.fit(x, f, ring);
        let len = self.len(x);
        let x = self.shift(x, -SHIFT);
        let reshared = self.reshare(x, ring);
        let rate = 1.0 / (TURN.0 as f64 * f64::from(f).exp2());
        let basis = Basis::Power { multiplier: TURN.0, period: TURN.1, rate, shift: SHIFT, bits: FACTOR };
        let power = self.b.push(Op::Translate { src: reshared, basis, bits: 64 }, len);
        let power = Val { node: power, ring: 64, f: 2 * FACTOR };
        let turn = rate * f64::from(TURN.1).exp2();
        let whole = (turn / std::f64::consts::LN_2).floor() as u32;
        let lift = ((turn - f64::from(whole) * std::f64::consts::LN_2).exp() * f64::from(LIFT).exp2()).round() as i64;
        let lifted = Val { node: self.b.push(Op::Scale(power.node, lift), len), ring: 64, f: 2 * FACTOR - whole + LIFT };
        let [before, after] = [power, lifted].map(|v| Val { ring: FINE.1, ..self.rescale(v, FINE.0) });
        let word = self.exponential_bits(reshared, TURN);
        let choice = |mask, v: Val| Choice { bits: word, mask, value: v.node };
        let chosen = self.select(vec![choice(1, before), choice(3, after)], before);
        self.extend(chosen, 1 << 7)
    }

    /// Words whose bit 0 says that `x` is in range and `χ ≥ ρ`, and whose bit 1 that it is in range.
    fn exponential_bits(&mut self, reshared: NodeId, (multiplier, period): (u64, u32)) -> NodeId {
        /// In quarters.
        const EDGE: i64 = -48;
        let (f, ring) = Precision::EXP_ARGUMENT;
        let len = self.b.len(reshared);
        let turn = Comparison::unsigned(multiplier, period, period - 7);
        let range = Comparison::signed(ring, f - 2, &[EDGE], turn.end());
        let formulas = vec![turn.formula(0), range.formula(0)];
        let word = self.b.push(Op::Digits { src: reshared, scales: vec![turn.scale, range.scale] }, len);
        let word = self.b.push(Op::Boolean { src: word, formulas }, len);
        let both = Formula { constant: false, linear: 0, products: vec![vec![(1, false), (2, false)]] };
        let inside = Formula { constant: false, linear: 2, products: Vec::new() };
        self.b.push(Op::Boolean { src: word, formulas: vec![both, inside] }, len)
    }
}
