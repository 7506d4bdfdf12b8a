//! The model's operations, lowered.

use std::rc::Rc;

use sprint_model::{Engine, Func, LayerNorm, Linear, Pooling};

use super::act::{Act, Divided, Heads, Parts, Term};
use super::{CompileError, Lowering, Precision, Val};
use crate::program::{Input, Op, Strided, View};

impl Engine for Lowering {
    type Act = Act;
    type Heads = Heads;
    type Error = CompileError;

    fn linear(&mut self, x: &Act, layer: &Linear) -> Result<Act, CompileError> {
        let term = Term::Linear { x: Rc::new(x.clone()), layer: layer.clone() };
        Ok(Act { terms: vec![(term, 1.0)], tokens: x.tokens, channels: layer.outputs })
    }

    fn add(&mut self, a: &Act, b: &Act) -> Result<Act, CompileError> {
        let terms = a.terms.iter().chain(&b.terms).cloned().collect();
        Ok(Act { terms, ..*a })
    }

    fn scale(&mut self, x: &Act, factor: f64) -> Result<Act, CompileError> {
        let terms = x.terms.iter().map(|(t, g)| (t.clone(), g * factor)).collect();
        Ok(Act { terms, ..*x })
    }

    fn map(&mut self, x: &Act, f: Func) -> Result<Act, CompileError> {
        let (scale, ring) = Precision::ARGUMENT;
        let ring = self.argument_ring(f, ring);
        let v = self.materialise(x, scale, ring + self.alarm_spare(), false)?;
        let out = self.apply(v, f, ring)?;
        Ok(Act::value(out, x.tokens, x.channels))
    }

    fn layer_norm(&mut self, x: &Act, norm: &LayerNorm) -> Result<Act, CompileError> {
        self.normalise(x, norm)
    }

    fn pool(&mut self, x: &Act, pooling: Pooling) -> Result<Act, CompileError> {
        let (b, t, c) = (self.batch, x.tokens, x.channels);
        match pooling {
            Pooling::First => {
                if let Some(normed) = x.as_normed() {
                    let first = self.first_rows(&normed.clone(), t, c)?;
                    return Ok(Act { terms: vec![(Term::Normed(first), 1.0)], tokens: 1, channels: c });
                }
                let v = self.materialise(x, 26, 40, false)?;
                Ok(Act::value(self.first_of(v, t, c), 1, c))
            }
            Pooling::Mean => {
                let (f, bits) = Precision::MEAN;
                let v = self.materialise(x, f, bits, false)?;
                let weights = self.b.input(Input::MeanWeights, b * t);
                let weights = Val { node: weights, ring: 64, f: Precision::MEAN_WEIGHT };
                let (a, v) = (self.open(weights, bits, false, true), self.open(v, bits, false, true));
                let mean = self.matrices(a, v, (1, t, c), b, (f, bits, false));
                Ok(Act::value(Val { f: f + Precision::MEAN_WEIGHT, ..mean }, 1, c))
            }
        }
    }

    fn split_heads(&mut self, x: &Act, heads: usize) -> Result<Heads, CompileError> {
        Ok(Heads::Split { x: x.clone(), heads })
    }

    fn merge_heads(&mut self, x: &Heads) -> Result<Act, CompileError> {
        match x {
            Heads::Split { x, .. } => Ok(x.clone()),
            Heads::Ceiling => Err(CompileError::Shape("a public ceiling is no operand".into())),
            Heads::Value { val, heads, rows, columns } => {
                Ok(Act::value(self.merged(*val, *heads, *rows, *columns), *rows, heads * columns))
            }
            Heads::Quotient { val, parts, heads, rows, columns } => {
                let quotient = self.merged(*val, *heads, *rows, *columns);
                let divided = Divided { quotient, parts: *parts, heads: *heads };
                Ok(Act { terms: vec![(Term::Divided(divided), 1.0)], tokens: *rows, channels: heads * columns })
            }
        }
    }

    fn scores(&mut self, q: &Heads, k: &Heads, factor: f64) -> Result<Heads, CompileError> {
        let (f, bits) = self.attention.scores;
        let scaled = match q {
            Heads::Split { x, heads } => Heads::Split { x: self.scale(x, factor)?, heads: *heads },
            Heads::Ceiling => return Err(CompileError::Shape("a public ceiling is no operand".into())),
            Heads::Value { val, heads, rows, columns } | Heads::Quotient { val, heads, rows, columns, .. } => {
                Heads::Value { val: self.gain(*val, factor), heads: *heads, rows: *rows, columns: *columns }
            }
        };
        let (q, heads, rows, d) = self.settle(&scaled, f, bits)?;
        let (k, _, columns, _) = self.settle(k, f, bits)?;
        let (q, k) = (self.open(q, bits, false, true), self.open(k, bits, false, true));
        let val = self.matrices(q, k, (rows, d, columns), self.batch * heads, (f, bits, true));
        Ok(Heads::Value { val, heads, rows, columns })
    }

    fn mask_keys(&mut self, s: &Heads) -> Result<Heads, CompileError> {
        let (val, heads, rows, columns) = self.settle(s, 26, 0)?;
        let mask = self.key_input(Input::KeyMask, heads, rows);
        // The client's mask is for the layers with ceilings, where there are any; others need a larger one.
        let times = (self.attention.key_mask / self.key_mask()).ceil() as i64;
        let len = self.len(mask);
        let mask = if times > 1 { Val { node: self.b.push(Op::Scale(mask.node, times), len), ..mask } } else { mask };
        let mask = self.rescale(mask, val.f);
        Ok(Heads::Value { val: self.sum(val, mask), heads, rows, columns })
    }

    fn drop_keys(&mut self, s: &Heads) -> Result<Heads, CompileError> {
        // The product with the keep mask fits the operands' ring again.
        let f = (self.attention.numerators + 50 - self.attention.operands.1).min(20);
        let ring = f + 14;
        let (val, heads, rows, columns) = self.settle(s, f, ring)?;
        let len = self.len(val);
        let keep = self.key_input(Input::KeepMask, heads, rows);
        let (s, keep) = (self.open(val, ring, true, true), self.open(keep, 20, true, true));
        let val = self.product(&[(s, View::ALL), (keep, View::ALL)], len, f + Precision::INPUT);
        Ok(Heads::Value { val, heads, rows, columns })
    }

    fn row_max(&mut self, s: &Heads) -> Result<Heads, CompileError> {
        if self.ceilings.is_some() {
            return Ok(Heads::Ceiling);
        }
        let (val, heads, rows, columns) = self.settle(s, 26, 36)?;
        let val = self.row_maximum(val, columns);
        Ok(Heads::Value { val, heads, rows, columns: 1 })
    }

    fn row_sum(&mut self, s: &Heads) -> Result<Heads, CompileError> {
        let Heads::Value { val, heads, rows, columns } = s else {
            return Err(CompileError::Shape("row sums are of attention weights".into()));
        };
        let len = self.len(*val) / columns;
        let node = self.b.push(Op::SumGroups { src: val.node, group: *columns }, len);
        Ok(Heads::Value { val: Val { node, ..*val }, heads: *heads, rows: *rows, columns: 1 })
    }

    fn sub_rows(&mut self, s: &Heads, r: &Heads) -> Result<Heads, CompileError> {
        if matches!(r, Heads::Ceiling) {
            return self.below_ceiling(s);
        }
        let (f, ring) = Precision::EXP_ARGUMENT;
        let (s, heads, rows, columns) = self.settle(s, f, ring)?;
        let (r, ..) = self.settle(r, f, ring)?;
        let count = self.len(r);
        let view = Strided::new(0, &[(count, 1), (columns, 0)]);
        let r = Val { node: self.b.push(Op::Gather { src: r.node, view }, count * columns), ..r };
        Ok(Heads::Value { val: self.difference(s, r), heads, rows, columns })
    }

    fn mul_rows(&mut self, s: &Heads, r: &Heads) -> Result<Heads, CompileError> {
        /// The ring of the product in mode `lean`: with three bits less, the dense layer that reads it would have coarser weights.
        const LEAN: u32 = 58;
        let ((f, ring), (inverse_f, inverse_ring)) = (self.attention.context, self.attention.inverse);
        let (s, heads, rows, columns) = self.settle(s, f, ring)?;
        let (r, ..) = self.settle(r, inverse_f, inverse_ring)?;
        let len = self.len(s);
        if self.lean {
            let [s, r] = [Val { ring, ..s }, Val { ring: inverse_ring, ..r }].map(|v| self.open_extended(v, LEAN));
            let val = Val { ring: LEAN, ..self.product(&[(s, View::ALL), (r, View::rows(columns))], len, f + inverse_f) };
            return Ok(Heads::Value { val: self.rescale(val, val.f.min(Precision::QUOTIENT)), heads, rows, columns });
        }
        let (s, r) = (self.open(s, ring, true, true), self.open(r, inverse_ring, true, true));
        let val = self.product(&[(s, View::ALL), (r, View::rows(columns))], len, f + inverse_f);
        let parts = Parts { sums: (s, f, ring), inverses: (r, inverse_f) };
        Ok(Heads::Quotient { val: self.rescale(val, val.f.min(Precision::QUOTIENT)), parts, heads, rows, columns })
    }

    fn shift_heads(&mut self, s: &Heads, c: f64) -> Result<Heads, CompileError> {
        let (val, heads, rows, columns) = self.settle(s, 26, 0)?;
        Ok(Heads::Value { val: self.shift(val, c), heads, rows, columns })
    }

    fn map_heads(&mut self, s: &Heads, f: Func) -> Result<Heads, CompileError> {
        let (scale, ring) = Precision::EXP_ARGUMENT;
        // An argument below a public ceiling is in its own, narrower ring already.
        let ring = match (&self.ceilings, f) {
            (Some(_), Func::ExpNonPositive) => 0,
            _ => ring,
        };
        let ring = self.argument_ring(f, ring);
        let (val, heads, rows, columns) = self.settle(s, scale, ring)?;
        Ok(Heads::Value { val: self.apply(val, f, ring)?, heads, rows, columns })
    }

    fn reciprocal_rows(&mut self, r: &Heads, _lo: f64, _hi_per_key: f64) -> Result<Heads, CompileError> {
        let Heads::Value { val, heads, rows, columns } = r else {
            return Err(CompileError::Shape("reciprocals are of row sums".into()));
        };
        if let Some(sum) = self.ceilings.as_ref().map(|c| c.sum) {
            self.require_between(*val, sum);
        }
        let val = self.smooth(*val, |s| 1.0 / s, self.attention.sum, self.attention.inverse);
        Ok(Heads::Value { val, heads: *heads, rows: *rows, columns: *columns })
    }

    fn divide_by_length(&mut self, s: &Heads) -> Result<Heads, CompileError> {
        let (f, ring) = self.attention.context;
        let (val, heads, rows, columns) = self.settle(s, f, ring)?;
        let (b, t) = (self.batch, self.tokens);
        let weights = self.b.input(Input::MeanWeights, b * t);
        // The first token is never padding: its weight is 1/length.
        let per_example = heads * rows * columns;
        let view = Strided::new(0, &[(b, t), (per_example, 0)]);
        let weights =
            Val { node: self.b.push(Op::Gather { src: weights, view }, b * per_example), ring: 64, f: Precision::MEAN_WEIGHT };
        let len = self.len(val);
        let (s, weights) = (self.open(val, ring, true, true), self.open(weights, Precision::MEAN_WEIGHT + 3, true, true));
        let val = self.product(&[(s, View::ALL), (weights, View::ALL)], len, f + Precision::MEAN_WEIGHT);
        Ok(Heads::Value { val, heads, rows, columns })
    }

    fn attend(&mut self, p: &Heads, v: &Heads) -> Result<Heads, CompileError> {
        let (f, bits) = self.attention.operands;
        let numerators = self.attention.numerators;
        let (p, heads, rows, keys) = self.settle(p, numerators, bits)?;
        let (v, _, _, columns) = self.settle(v, f, bits)?;
        let (p, v) = (self.open(p, bits, false, true), self.open(v, bits, false, true));
        let val = self.matrices(p, v, (rows, keys, columns), self.batch * heads, (f, bits, false));
        Ok(Heads::Value { val: Val { f: f + numerators, ..val }, heads, rows, columns })
    }

    fn enter(&mut self, part: &str) {
        let layer = part.strip_prefix("layer.").and_then(|rest| rest.split('.').next()?.parse().ok());
        self.enter_layer(layer.unwrap_or(self.layer));
        self.b.enter(part);
    }
}
