//! Attention: products of opened matrices, and the secret maximum.

use super::act::{Act, Heads};
use super::{CompileError, Lowering, Precision, Val};
use crate::program::{Form, Input, NodeId, Op, Strided, View};

impl Lowering {
    /// A split as a share with `f` fractional bits in at least `ring` bits, laid out `[batch, heads, tokens, channels]`.
    pub(crate) fn split(&mut self, x: &Act, heads: usize, f: u32, ring: u32) -> Result<Val, CompileError> {
        let v = self.materialise(x, f, ring, false)?;
        let (t, d) = (x.tokens, x.channels / heads);
        let view = Strided::new(0, &[(self.batch, t * x.channels), (heads, d), (t, x.channels), (d, 1)]);
        let len = view.len();
        Ok(Val { node: self.b.push(Op::Gather { src: v.node, view }, len), ..v })
    }

    /// A heads value as a share and its heads, rows and columns.
    pub(crate) fn settle(&mut self, x: &Heads, f: u32, ring: u32) -> Result<(Val, usize, usize, usize), CompileError> {
        match x {
            Heads::Split { x, heads } => {
                let v = self.split(x, *heads, f, ring)?;
                Ok((v, *heads, x.tokens, x.channels / heads))
            }
            Heads::Ceiling => Err(CompileError::Shape("a public ceiling is no operand".into())),
            Heads::Value { val, heads, rows, columns } | Heads::Quotient { val, heads, rows, columns, .. } => {
                Ok((self.fit(*val, f, ring), *heads, *rows, *columns))
            }
        }
    }

    /// From `[batch, heads, tokens, columns]` to `[batch, tokens, heads·columns]`.
    pub(crate) fn merged(&mut self, v: Val, h: usize, t: usize, d: usize) -> Val {
        let view = Strided::new(0, &[(self.batch, h * t * d), (t, d), (h, t * d), (d, 1)]);
        let len = view.len();
        Val { node: self.b.push(Op::Gather { src: v.node, view }, len), ..v }
    }

    pub(crate) fn matrices(
        &mut self,
        a: NodeId,
        b: NodeId,
        (m, k, n): (usize, usize, usize),
        batch: usize,
        (f, bits, transposed): (u32, u32, bool),
    ) -> Val {
        let node = self.b.push(Op::MatMul { a, b, batch, m, k, n, transposed, bits }, batch * m * n);
        Val { node, ring: bits, f: 2 * f }
    }

    /// A client's mask over keys, repeated for every head and row.
    pub(crate) fn key_input(&mut self, input: Input, heads: usize, rows: usize) -> Val {
        let (b, t) = (self.batch, self.tokens);
        let src = self.b.input(input, b * t);
        let view = Strided::new(0, &[(b, t), (heads * rows, 0), (t, 1)]);
        let len = view.len();
        Val { node: self.b.push(Op::Gather { src, view }, len), ring: 64, f: Precision::INPUT }
    }

    /// A number near the largest of each row of `columns`: within 2, or in modes `lean` and `three-server` within 1/4 (3/8 on three servers, whose truncation is coarser).
    ///
    /// The softmax only needs a number near the maximum: it cancels, and the exponent's argument may be as much above 0.
    ///
    /// A tree of groups of four, of which the last may have up to eight. In a group, the differences to the last, `x_i - x_l`, are opened; the others are differences of those. They
    /// give all comparisons, and with them `max = x_l + Σ_{i<l} e_i·(x_i - x_l)`, where `e_i` is the product of the comparisons that `x_i` wins. Two rounds a level.
    pub(crate) fn row_maximum(&mut self, s: Val, columns: usize) -> Val {
        /// Of the last level: its products of bits are as many as its subsets.
        const MOST: usize = 8;
        if !self.coarse() {
            return self.fine_maximum(s, columns);
        }
        let (unit, ring) = Precision::COARSE_MAXIMUM;
        let mut level = Val { ring, ..self.rescale_to_unit(s, unit as i32) };
        let mut width = columns;
        while width > MOST {
            (level, width) = self.maximum_level(level, width);
        }
        let rows = self.len(level) / width;
        let last: Vec<Val> = (0..width).map(|at| self.columns(level, rows, width, at, 1, 1)).collect();
        let most = self.maximum_of(&last);
        let node = self.b.push(Op::Scale(most.node, 1 << unit), rows);
        Val { node, ring: ring + unit, f: 0 }
    }

    /// Whether maxima are within 2 alone.
    pub(crate) fn coarse(&self) -> bool {
        !self.lean && !self.by_difference
    }

    /// The same from finer comparisons, which cost these modes little. A row of an odd power of two begins with pairs: as many levels as groups of four have, and a quarter of the
    /// comparisons less than ending with a pair.
    fn fine_maximum(&mut self, s: Val, columns: usize) -> Val {
        let (f, ring) = Precision::MAXIMUM;
        let mut level = self.rescale(s, f);
        level.ring = ring;
        let mut width = columns;
        while width > 1 {
            (level, width) = if self.lean {
                self.pairs_level(level, width)
            } else if width.is_power_of_two() && width.ilog2() % 2 == 1 {
                let rows = self.len(level) / width;
                let [a, b] = [0, 1].map(|at| self.columns(level, rows, width, at, width / 2, 2));
                (self.maximum_of(&[a, b]), width / 2)
            } else {
                self.maximum_level(level, width)
            };
        }
        level
    }

    /// One level of a tree of pairs; the last of an odd row goes on alone.
    fn pairs_level(&mut self, x: Val, width: usize) -> (Val, usize) {
        let (rows, half) = (self.len(x) / width, width / 2);
        let [a, b] = [0, half].map(|from| self.columns(x, rows, width, from, half, 1));
        let mut parts = vec![(self.lean_maximum(a, b), half)];
        if width % 2 == 1 {
            parts.push((self.columns(x, rows, width, width - 1, 1, 1), 1));
        }
        (self.side_by_side(&parts, rows), width - half)
    }

    /// One level of the tree: columns in groups of four, of which the last of each row may be smaller.
    fn maximum_level(&mut self, x: Val, width: usize) -> (Val, usize) {
        let rows = self.len(x) / width;
        let groups = width / 4;
        let rest = width % 4;
        let mut parts: Vec<(Val, usize)> = Vec::new();
        if groups > 0 {
            let columns = [0, 1, 2, 3].map(|c| self.columns(x, rows, width, c, groups, 4));
            parts.push((self.maximum_of(&columns), groups));
        }
        if rest > 0 {
            let columns: Vec<Val> = (0..rest).map(|c| self.columns(x, rows, width, 4 * groups + c, 1, 1)).collect();
            parts.push((self.maximum_of(&columns), 1));
        }
        let left = parts.iter().map(|p| p.1).sum();
        (self.side_by_side(&parts, rows), left)
    }

    /// `count` columns of every row, from column `from` with a `stride`.
    fn columns(&mut self, x: Val, rows: usize, width: usize, from: usize, count: usize, stride: usize) -> Val {
        let view = Strided::new(from, &[(rows, width), (count, stride)]);
        let len = view.len();
        Val { node: self.b.push(Op::Gather { src: x.node, view }, len), ..x }
    }

    /// Blocks of columns put next to each other in each row.
    fn side_by_side(&mut self, parts: &[(Val, usize)], rows: usize) -> Val {
        let [(first, _), rest @ ..] = parts else { unreachable!("a level has at least one part") };
        if rest.is_empty() {
            return *first;
        }
        let total: usize = parts.iter().map(|p| p.1).sum();
        // Transpose to column order, where blocks are concatenated, and back.
        let transposed: Vec<NodeId> = parts
            .iter()
            .map(|(v, columns)| {
                let view = Strided::new(0, &[(*columns, 1), (rows, *columns)]);
                self.b.push(Op::Gather { src: v.node, view }, rows * columns)
            })
            .collect();
        let joined = self.b.push(Op::Concat(transposed), rows * total);
        let view = Strided::new(0, &[(rows, 1), (total, rows)]);
        Val { node: self.b.push(Op::Gather { src: joined, view }, rows * total), ..*first }
    }

    /// The largest of each element of up to eight values.
    fn maximum_of(&mut self, x: &[Val]) -> Val {
        let [others @ .., last] = x else { unreachable!("a group has at least one value") };
        if others.is_empty() {
            return *last;
        }
        let (len, count) = (self.len(*last), others.len() as u32);
        let to_last: Vec<NodeId> = others.iter().map(|v| self.difference(*v, *last).node).collect();
        let to_last = Val { node: self.b.push(Op::Concat(to_last), others.len() * len), ..*last };
        let outer = self.open(to_last, last.ring, false, true);
        // Bits x_i ≥ x_j for i < j.
        let wins = |this: &mut Self, open: NodeId| {
            let bits = this.intervals(open, last.f, 0, &[(Some(0.0), None)]);
            this.open_bits_in(bits, last.ring)
        };
        let outer_wins = wins(self, outer);
        let pairs: Vec<(u32, u32)> = (0..count).flat_map(|i| (i + 1..count).map(move |j| (i, j))).collect();
        let inner_wins = (!pairs.is_empty()).then(|| {
            let inner = self.b.push(Op::Differences { src: outer, count: len, pairs: pairs.clone() }, pairs.len() * len);
            wins(self, inner)
        });
        let mut best = *last;
        for i in 0..count {
            let against = inner_wins.iter().flat_map(|open| pairs.iter().zip(0..).map(move |(pair, at)| (*open, pair, at)));
            let against = against.filter_map(|(open, (a, b), at)| {
                let negated = *b == i;
                (*a == i || negated).then(|| Form { open, view: View::at(at * len), negated })
            });
            let mut forms: Vec<Form> = against.collect();
            forms.extend([outer_wins, outer].map(|open| Form { open, view: View::at(i as usize * len), negated: false }));
            let taken = self.narrow_product(forms, len, *last);
            best = self.sum(best, taken);
        }
        best
    }

    /// A product of bits and one value in the value's own ring.
    fn narrow_product(&mut self, forms: Vec<Form>, len: usize, like: Val) -> Val {
        Val { node: self.b.push(Op::Product { forms, bits: like.ring }, len), ..like }
    }
}
