//! Values of the model while it is compiled: sums that stay symbolic until a consumer says which precision and ring it needs.

use std::rc::Rc;

use sprint_model::{LayerNorm, Linear};

use super::{Lowering, Precision, Val};
use crate::compile::CompileError;
use crate::program::{NodeId, Op, Vector};

/// `[batch, tokens, channels]`, a sum of terms.
#[derive(Debug, Clone)]
pub(crate) struct Act {
    pub(crate) terms: Vec<(Term, f64)>,
    pub(crate) tokens: usize,
    pub(crate) channels: usize,
}

/// One summand, times a public factor.
#[derive(Debug, Clone)]
pub(crate) enum Term {
    /// A share.
    Value(Val),
    /// The output of a layer normalisation, `γ·d·r + β`, with `d` and `r` opened.
    Normed(Normed),
    /// The output of a dense layer.
    Linear { x: Rc<Act>, layer: Linear },
}

/// A layer normalisation's parts.
#[derive(Debug, Clone)]
pub(crate) struct Normed {
    /// `d·r`.
    pub(crate) scaled: Val,
    /// The deviation from the mean, opened.
    pub(crate) deviation: NodeId,
    /// The inverse standard deviation of each row, opened.
    pub(crate) inverse: NodeId,
    pub(crate) norm: LayerNorm,
}

/// `[batch, heads, rows, columns]`.
#[derive(Debug, Clone)]
pub(crate) enum Heads {
    /// A split that waits for its consumer's precision.
    Split { x: Act, heads: usize },
    /// Public ceilings of the scores, in place of their rows' maxima.
    Ceiling,
    /// A share.
    Value { val: Val, heads: usize, rows: usize, columns: usize },
}

impl Act {
    pub(crate) fn value(val: Val, tokens: usize, channels: usize) -> Self {
        Self { terms: vec![(Term::Value(val), 1.0)], tokens, channels }
    }

    /// The one layer normalisation this is, if it is nothing else.
    pub(crate) fn as_normed(&self) -> Option<&Normed> {
        match self.terms.as_slice() {
            [(Term::Normed(normed), 1.0)] => Some(normed),
            _ => None,
        }
    }
}

impl Lowering {
    /// The sum as one share with `f` fractional bits in at least `ring` bits; `centred` takes off the mean over channels.
    pub(crate) fn materialise(&mut self, x: &Act, f: u32, ring: u32, centred: bool) -> Result<Val, CompileError> {
        let mut total: Option<Val> = None;
        for (term, gain) in &x.terms {
            let part = match term {
                Term::Value(v) => {
                    let v = if centred { self.centre(*v, x.channels) } else { *v };
                    self.gain(v, *gain)
                }
                Term::Normed(normed) => {
                    let v = self.affine(normed, centred);
                    self.gain(v, *gain)
                }
                Term::Linear { x, layer } => self.dense(x, layer, (*gain, centred), (f, ring))?,
            };
            let part = self.fit(part, f, ring);
            total = Some(match total {
                Some(sum) => self.sum(sum, part),
                None => part,
            });
        }
        total.ok_or_else(|| CompileError::Shape("an empty sum".into()))
    }

    /// `γ·d·r + β`, less its mean over channels if `centred`: then the precision is that of a factor `1/channels`.
    fn affine(&mut self, normed: &Normed, centred: bool) -> Val {
        const GAMMA: u32 = 14;
        const CENTRED_GAMMA: u32 = 20;
        let v = normed.scaled;
        let len = self.len(v);
        let vector = self.b.vector(Vector::Gamma(normed.norm.clone()));
        let (op, f, beta) = if centred {
            let op = Op::CentreColumns { src: v.node, vector, bits: CENTRED_GAMMA };
            (op, v.f + CENTRED_GAMMA, Vector::CentredBeta(normed.norm.clone()))
        } else {
            (Op::MulColumns { src: v.node, vector, bits: GAMMA }, v.f + GAMMA, Vector::Beta(normed.norm.clone()))
        };
        let node = self.b.push(op, len);
        let beta = self.b.vector(beta);
        Val { node: self.b.push(Op::AddColumns { src: node, vector: beta, bits: f }, len), ring: v.ring, f }
    }

    /// `x - mean(x)` over channels, at 18 more fractional bits.
    fn centre(&mut self, v: Val, width: usize) -> Val {
        const SHIFT: u32 = 18;
        let v = if v.f > 36 { self.rescale(v, 36) } else { v };
        let len = self.len(v);
        let node = self.b.push(Op::Centre { src: v.node, width, shift: SHIFT }, len);
        Val { node, ring: v.ring, f: v.f + SHIFT }
    }

    /// A value with the operand precision of dense layers: as it is where its product still fits 64 bits and leaves a consumer that wants `f`
    /// fractional bits in Z_2^ring enough of its ring.
    pub(crate) fn operand(&mut self, x: &Act, (f, ring): (u32, u32)) -> Result<Val, CompileError> {
        let room = (ring + Precision::WEIGHT.0).saturating_sub(f).min(32);
        match x.terms.as_slice() {
            [(Term::Value(v), 1.0)] if v.ring - v.f >= room && v.f <= 28 => Ok(*v),
            _ => self.materialise(x, Precision::INPUT, 50, false),
        }
    }
}
