//! Layer normalisation in five rounds: open the deviation, three for the inverse deviation, one for their product.

use sprint_model::LayerNorm;

use super::act::{Act, Normed, Term};
use super::{CompileError, Lowering, Precision};
use crate::program::{Op, View};

impl Lowering {
    /// `γ·(x - mean)/√(var + ε) + β`; γ and β wait for the consumer, which may fold them into its weights.
    pub(crate) fn normalise(&mut self, x: &Act, norm: &LayerNorm) -> Result<Act, CompileError> {
        let (f, ring) = Precision::DEVIATION;
        let deviation = self.materialise(x, f, ring, true)?;
        let len = self.len(deviation);
        let width = norm.width;
        let rows = len / width;
        let d = self.open(deviation, ring, true, true);
        let squares = self.product(&[(d, View::ALL), (d, View::ALL)], len, 2 * f);
        let node = self.b.push(Op::SumGroups { src: squares.node, group: width }, rows);
        let energy = super::Val { node, ..squares };
        let (width_f, eps) = (width as f64, norm.eps);
        let top = (width_f.log2().ceil() as i32) + 10;
        let inverse = |v: f64| 1.0 / (v / width_f + eps).sqrt();
        let (inverse_f, inverse_ring) = Precision::INVERSE_DEVIATION;
        let r = self.smooth(energy, inverse, (top - 16, top), inverse_f + 3);
        let r = self.fit(r, inverse_f, inverse_ring);
        let r = self.open(r, inverse_ring, true, true);
        let scaled = self.product(&[(d, View::ALL), (r, View::rows(width))], len, f + inverse_f);
        let normed = Normed { scaled, deviation: d, inverse: r, norm: norm.clone() };
        Ok(Act { terms: vec![(Term::Normed(normed), 1.0)], tokens: x.tokens, channels: x.channels })
    }
}
