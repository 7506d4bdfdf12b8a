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

    /// The largest of each row of `columns`, up to 1/4 (3/8 on three servers, whose truncation is coarser): a tree of groups of four.
    ///
    /// The softmax only needs a number near the maximum: it cancels, and the exponent's argument may be up to 0.4.
    ///
    /// In a group, the three differences `x_i - x_3` are opened; the others are differences of those. They give the six comparisons, and with them `max = x_3 + Σ_{i<3} e_i·(x_i - x_3)`,
    /// where `e_i` is the product of the three comparisons that `x_i` wins. Two rounds a level. A row of an odd power of two begins with pairs: as many
    /// levels, and a quarter of the comparisons less than ending with a pair.
    pub(crate) fn row_maximum(&mut self, s: Val, columns: usize) -> Val {
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
                (self.maximum_of_two(a, b), width / 2)
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

    /// One level of the tree: columns in groups of four (the last of each row may be smaller, and a pair or a single is handled as such).
    fn maximum_level(&mut self, x: Val, width: usize) -> (Val, usize) {
        let rows = self.len(x) / width;
        let groups = width / 4;
        let rest = width % 4;
        let mut parts: Vec<(Val, usize)> = Vec::new();
        if groups > 0 {
            let columns = [0, 1, 2, 3].map(|c| self.columns(x, rows, width, c, groups, 4));
            parts.push((self.maximum_of_four(&columns), groups));
        }
        match rest {
            0 => {}
            1 => parts.push((self.columns(x, rows, width, width - 1, 1, 1), 1)),
            2 | 3 => {
                let at = 4 * groups;
                let [a, b] = [0, 1].map(|c| self.columns(x, rows, width, at + c, 1, 1));
                parts.push((self.maximum_of_two(a, b), 1));
                if rest == 3 {
                    parts.push((self.columns(x, rows, width, at + 2, 1, 1), 1));
                }
            }
            _ => unreachable!("a remainder of four"),
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

    fn maximum_of_two(&mut self, a: Val, b: Val) -> Val {
        let difference = self.difference(a, b);
        let len = self.len(difference);
        let open = self.open(difference, a.ring, false, true);
        let wins = self.intervals(open, a.f, 0, &[(Some(0.0), None)]);
        let wins = self.open_bits_in(wins, a.ring);
        let forms = [wins, open].map(|open| Form { open, view: View::ALL, negated: false });
        let taken = self.narrow_product(forms.to_vec(), len, a);
        self.sum(b, taken)
    }

    fn maximum_of_four(&mut self, x: &[Val; 4]) -> Val {
        // Pairs with the last are opened, the others are differences of those.
        const INNER: [(u32, u32); 3] = [(0, 1), (0, 2), (1, 2)];
        let len = self.len(x[0]);
        let to_last: Vec<NodeId> = x[..3].iter().map(|v| self.difference(*v, x[3]).node).collect();
        let to_last = Val { node: self.b.push(Op::Concat(to_last), 3 * len), ..x[0] };
        let outer = self.open(to_last, x[0].ring, false, true);
        let inner = self.b.push(Op::Differences { src: outer, count: len, pairs: INNER.to_vec() }, 3 * len);
        // Bits x_i ≥ x_j for i < j.
        let [outer_wins, inner_wins] = [outer, inner].map(|open| {
            let bits = self.intervals(open, x[0].f, 0, &[(Some(0.0), None)]);
            self.open_bits_in(bits, x[0].ring)
        });
        let mut best = x[3];
        for i in 0..3 {
            let against = INNER.iter().enumerate().filter_map(|(at, (a, b))| {
                let negated = *b == i;
                (*a == i || negated).then(|| Form { open: inner_wins, view: View::at(at * len), negated })
            });
            let mut forms: Vec<Form> = against.collect();
            forms.extend([outer_wins, outer].map(|open| Form { open, view: View::at(i as usize * len), negated: false }));
            let taken = self.narrow_product(forms, len, x[0]);
            best = self.sum(best, taken);
        }
        best
    }

    /// A product of bits and one value in the value's own ring.
    fn narrow_product(&mut self, forms: Vec<Form>, len: usize, like: Val) -> Val {
        Val { node: self.b.push(Op::Product { forms, bits: like.ring }, len), ..like }
    }
}
