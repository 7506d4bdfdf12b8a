//! Attention: products of opened matrices, and the secret maximum.

use super::act::{Act, Heads};
use super::{CompileError, Lowering, Precision, Val};
use crate::program::{Input, NodeId, Op, Strided, View};

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
            Heads::Value { val, heads, rows, columns } => Ok((self.fit(*val, f, ring), *heads, *rows, *columns)),
        }
    }

    pub(crate) fn matrices(
        &mut self,
        a: NodeId,
        b: NodeId,
        (m, k, n): (usize, usize, usize),
        batch: usize,
        transposed: bool,
    ) -> Val {
        let (f, bits) = Precision::ATTENTION;
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

    /// The largest of each row of `columns`, up to 1/64: a tree of groups of four.
    ///
    /// In a group, the six differences are opened once. They give the six comparisons, and with them `max = x_3 + Σ_{i<3} e_i·(x_i - x_3)`,
    /// where `e_i` is the product of the three comparisons that `x_i` wins. Two rounds a level.
    pub(crate) fn row_maximum(&mut self, s: Val, columns: usize) -> Val {
        let (f, ring) = Precision::MAXIMUM;
        let mut level = self.rescale(s, f);
        level.ring = ring;
        let mut width = columns;
        while width > 1 {
            let (next, left) = self.maximum_level(level, width);
            (level, width) = (next, left);
        }
        level
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
        let wins = self.open_bits(wins);
        let taken = self.narrow_product(&[(wins, View::ALL), (open, View::ALL)], len, a);
        self.sum(b, taken)
    }

    fn maximum_of_four(&mut self, x: &[Val; 4]) -> Val {
        const PAIRS: [(usize, usize); 6] = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)];
        let len = self.len(x[0]);
        let differences: Vec<NodeId> = PAIRS.iter().map(|(i, j)| self.difference(x[*i], x[*j]).node).collect();
        let all = Val { node: self.b.push(Op::Concat(differences), 6 * len), ..x[0] };
        let open = self.open(all, x[0].ring, false, true);
        // First row of bits: x_i ≥ x_j; second row: x_i < x_j.
        let bits = self.intervals(open, x[0].f, 0, &[(Some(0.0), None)]);
        let wins = self.open_bits(bits);
        let loses = self.intervals(open, x[0].f, 0, &[(None, Some(0.0))]);
        let loses = self.open_bits(loses);
        let at = |i: usize, j: usize| PAIRS.iter().position(|p| *p == (i.min(j), i.max(j))).expect("every pair is listed") * len;
        let mut best = x[3];
        for i in 0..3 {
            let mut forms: Vec<(NodeId, View)> = Vec::new();
            for j in (0..4).filter(|j| *j != i) {
                forms.push((if i < j { wins } else { loses }, View::at(at(i, j))));
            }
            forms.push((open, View::at(at(i, 3))));
            let taken = self.narrow_product(&forms, len, x[0]);
            best = self.sum(best, taken);
        }
        best
    }

    /// A product of bits and one value in the value's own ring.
    fn narrow_product(&mut self, forms: &[(NodeId, View)], len: usize, like: Val) -> Val {
        let forms = forms.iter().map(|(open, view)| crate::program::Form { open: *open, view: *view }).collect();
        Val { node: self.b.push(Op::Product { forms, bits: like.ring }, len), ..like }
    }
}
