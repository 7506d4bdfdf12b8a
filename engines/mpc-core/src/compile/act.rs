//! Values of the model while it is compiled: sums that stay symbolic until a consumer says which precision and ring it needs.

use std::rc::Rc;

use sprint_model::{LayerNorm, Linear, WeightPolicy};

use super::{Lowering, Precision, Val};
use crate::compile::CompileError;
use crate::program::{Form, NodeId, Op, Recipe, Strided, Vector, View};

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
    /// An attention's output.
    Divided(Divided),
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

/// An attention's weighted sums of values times the inverses of their weights' sums.
#[derive(Debug, Clone)]
pub(crate) struct Divided {
    /// The products, heads side by side in the channels.
    pub(crate) quotient: Val,
    pub(crate) parts: Parts,
    pub(crate) heads: usize,
}

/// What a quotient is the product of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parts {
    /// Weighted sums, opened, `[batch, heads, rows, columns]`; their fractional bits and their ring's.
    pub(crate) sums: (NodeId, u32, u32),
    /// One inverse for each row, opened, and its fractional bits.
    pub(crate) inverses: (NodeId, u32),
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
    /// The share of a quotient whose parts are opened.
    Quotient { val: Val, parts: Parts, heads: usize, rows: usize, columns: usize },
}

impl Parts {
    /// Fractional bits of a head's part of a low-rank layer before its division.
    pub(crate) fn narrow_f(&self) -> u32 {
        self.sums.1 + Precision::LORA_BEFORE_DIVISION.0
    }
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

    /// The one attention's output this is, if it is nothing else.
    pub(crate) fn as_divided(&self) -> Option<&Divided> {
        match self.terms.as_slice() {
            [(Term::Divided(divided), 1.0)] => Some(divided),
            _ => None,
        }
    }

    /// The one share this is, if it is nothing else.
    pub(crate) fn as_share(&self) -> Option<Val> {
        match self.terms.as_slice() {
            [(Term::Value(v) | Term::Divided(Divided { quotient: v, .. }), 1.0)] => Some(*v),
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
                Term::Value(v) | Term::Divided(Divided { quotient: v, .. }) => {
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
        const CENTRED_GAMMA: u32 = 19;
        if self.policy == WeightPolicy::AllPrivate {
            return self.private_affine(normed, centred);
        }
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

    /// The same with private `γ` and `β`: a product of the opened `d·r`, which dense layers read besides, with a `γ` that was opened before the inference.
    fn private_affine(&mut self, normed: &Normed, centred: bool) -> Val {
        const GAMMA: u32 = 14;
        const CENTRED_GAMMA: u32 = 16;
        let LayerNorm { path, width, .. } = normed.norm.clone();
        let operand = self.normalised(normed.scaled);
        let (len, ring) = (self.len(operand), operand.ring);
        let weight_bits = if centred { CENTRED_GAMMA } else { GAMMA };
        let f = operand.f + weight_bits;
        let index = self.b.private_recipe(Recipe {
            layer: Linear { path, inputs: 1, outputs: width, bias: true, lora: None },
            gain: 1.0,
            centred: false,
            fold: None,
            weight_bits,
            bias_bits: Some(f),
            opened_bits: Some(ring),
            blocks: 1,
        });
        let gamma = self.b.push(Op::PrivateWeight(index), width);
        let x = self.open(operand, ring, false, true);
        let forms = [(x, View::ALL), (gamma, View::columns(width))];
        let forms = forms.map(|(open, view)| Form { open, view, negated: false }).to_vec();
        let product = Val { node: self.b.push(Op::Product { forms, bits: ring }, len), ring, f };
        let beta = self.private_rows(index, len / width, width, f);
        let v = self.sum(product, beta);
        if centred { self.centre_narrow(v, width) } else { v }
    }

    /// `x - mean(x)` over channels of a value whose ring has no room for [`Lowering::centre`]: the rows' sums, below `2^{ring-f-2}`, are extended for it, in a round
    /// that nobody waits for.
    fn centre_narrow(&mut self, v: Val, width: usize) -> Val {
        const SUM: u32 = 20;
        const SHARE: u32 = 24;
        let rows = self.len(v) / width;
        let sum = Val { node: self.b.push(Op::SumGroups { src: v.node, group: width }, rows), ..v };
        let sum = self.rescale(sum, SUM);
        let sum = self.widen(sum);
        let share = (f64::from(SHARE).exp2() / width as f64).round() as i64;
        let mean = Val { node: self.b.push(Op::Scale(sum.node, share), rows), ring: 64, f: SUM + SHARE };
        let mean = self.rescale(mean, v.f);
        let view = Strided::new(0, &[(rows, 1), (width, 0)]);
        let mean = Val { node: self.b.push(Op::Gather { src: mean.node, view }, rows * width), ..mean };
        self.difference(v, mean)
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
        match x.as_share() {
            Some(v) if v.ring - v.f >= room && v.f <= Precision::QUOTIENT => Ok(v),
            _ => self.materialise(x, Precision::INPUT, 50, false),
        }
    }
}
