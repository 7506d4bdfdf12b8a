//! Layer normalisation in three rounds: the deviation, its energy, and the inverse deviation, for the product of the first and the last.

use sprint_model::LayerNorm;

use super::act::{Act, Normed, Term};
use super::{CompileError, Lowering, Val};
use crate::program::{NodeId, Op, Strided, View};

impl Lowering {
    /// `γ·(x - mean)/√(var + ε) + β`; γ and β wait for the consumer, which may fold them into its weights.
    pub(crate) fn normalise(&mut self, x: &Act, norm: &LayerNorm) -> Result<Act, CompileError> {
        let (f, ring) = self.deviation();
        let deviation = self.materialise(x, f, ring, true)?;
        let len = self.len(deviation);
        let width = norm.width;
        let rows = len / width;
        // The product of a row with itself takes one dealt word, its elements' squares one each, but wants them opened in the product's ring.
        let (d, energy) = if self.lean {
            let d = self.open_extended(deviation, 64);
            (d, self.matrices(d, d, (1, width, 1), rows, (f, 64, false)))
        } else {
            let d = self.open(deviation, ring, true, true);
            let squares = self.product(&[(d, View::ALL), (d, View::ALL)], len, 2 * f);
            let node = self.b.push(Op::SumGroups { src: squares.node, group: width }, rows);
            (d, Val { node, ..squares })
        };
        let (width_f, eps) = (width as f64, norm.eps);
        let top = (width_f.log2().ceil() as i32) + 10;
        let inverse = |v: f64| 1.0 / (v / width_f + eps).sqrt();
        let (inverse_f, inverse_ring) = self.inverse_deviation();
        let r = self.smooth(energy, inverse, (top - 18, top), (inverse_f, inverse_ring));
        let r = if self.lean {
            self.open_extended(Val { ring: inverse_ring, ..r }, 64)
        } else {
            self.open(r, inverse_ring, true, true)
        };
        let scaled = self.product(&[(d, View::ALL), (r, View::rows(width))], len, f + inverse_f);
        let normed = Normed { scaled, deviation: d, inverse: r, norm: norm.clone() };
        Ok(Act { terms: vec![(Term::Normed(normed), 1.0)], tokens: x.tokens, channels: x.channels })
    }

    /// The first token's rows of a normalisation over `tokens`. What was opened of all rows is opened again of these alone, under masks of its
    /// own and in the same round.
    pub(crate) fn first_rows(&mut self, normed: &Normed, tokens: usize, channels: usize) -> Result<Normed, CompileError> {
        let scaled = self.first_of(normed.scaled, tokens, channels);
        let deviation = self.reopened(normed.deviation, tokens, channels)?;
        let inverse = self.reopened(normed.inverse, tokens, 1)?;
        Ok(Normed { scaled, deviation, inverse, norm: normed.norm.clone() })
    }

    /// The first of `tokens` rows of each example.
    pub(crate) fn first_of(&mut self, v: Val, tokens: usize, channels: usize) -> Val {
        Val { node: self.first_node(v.node, tokens, channels), ..v }
    }

    fn first_node(&mut self, src: NodeId, tokens: usize, channels: usize) -> NodeId {
        let view = Strided::new(0, &[(self.batch, tokens * channels), (channels, 1)]);
        let len = view.len();
        self.b.push(Op::Gather { src, view }, len)
    }

    fn reopened(&mut self, open: NodeId, tokens: usize, channels: usize) -> Result<NodeId, CompileError> {
        let Op::Open { src, bits, lifted, checked, share } = *self.b.op(open) else {
            return Err(CompileError::Shape("a normalisation's parts are openings".into()));
        };
        let src = self.first_node(src, tokens, channels);
        let len = self.b.len(src);
        Ok(self.b.push(Op::Open { src, bits, lifted, checked, share }, len))
    }
}
