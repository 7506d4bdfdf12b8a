//! The program's ideal functionality on ring integers, in the clear: what the two parties compute, up to the last-place noise of
//! probabilistic truncation and of bounds met to within one unit.

use sprint_kernel::{gemm, gemm_nt, piecewise};

use super::circle::{Circle, constant_term};
use super::local::{self, Who, sign_extend};
use super::private;
use super::randomness::low;
use crate::MachineError;
use crate::program::{Choice, Form, Input, Interval, Node, NodeId, Op, Pieces, Program, Step};
use crate::weights::{PrivateWeights, PublicWeights};

/// The program's ranges do not hold for this input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SimulateError {
    /// A value that does not fit the ring it is opened in.
    #[error("{part}: a value of {value} units does not fit an opening of {bits} bits")]
    Overflow {
        /// The part of the model.
        part: String,
        /// The value, in units of its last place.
        value: i64,
        /// The opening's width.
        bits: u32,
    },
    /// What the parties would find too.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

/// Evaluates `program` in the clear. `inputs` are the encoded inputs themselves, in the program's order; `shares` the two parties' weights.
/// Returns the output words.
///
/// Unlike the parties, it sees values, so it reports the first that is out of range.
pub fn simulate(
    program: &Program,
    public: &PublicWeights,
    shares: [&PrivateWeights; 2],
    inputs: &[(Input, Vec<u64>)],
) -> Result<Vec<u64>, SimulateError> {
    let private = shares[0].reconstruct(shares[1]);
    let mut clear = Clear { program, public, private: &private, inputs, values: vec![None; program.nodes.len()] };
    for step in &program.steps {
        let (made, last) = match step {
            Step::Run { node, last } => (std::slice::from_ref(node), last),
            Step::Exchange { opens, last } => (opens.as_slice(), last),
        };
        for id in made {
            clear.values[id.index()] = Some(clear.run(program.node(*id))?);
        }
        last.iter().for_each(|id| clear.values[id.index()] = None);
    }
    Ok(clear.words(program.output).to_vec())
}

struct Clear<'a> {
    program: &'a Program,
    public: &'a PublicWeights,
    private: &'a PrivateWeights,
    inputs: &'a [(Input, Vec<u64>)],
    values: Vec<Option<Vec<u64>>>,
}

impl Clear<'_> {
    fn words(&self, id: NodeId) -> &[u64] {
        self.values[id.index()].as_ref().expect("a value is kept until its last use")
    }

    fn run(&self, node: &Node) -> Result<Vec<u64>, SimulateError> {
        Ok(match &node.op {
            Op::Input(input) => self.inputs.iter().find(|(i, _)| i == input).map(|(_, w)| w.clone()).unwrap_or_default(),
            Op::PrivateWeight(layer) => self.private.words(*layer, false).to_vec(),
            Op::PrivateBias(layer) => self.private.words(*layer, true).to_vec(),
            Op::Lift(src) | Op::OpenBits { src, .. } => self.words(*src).to_vec(),
            Op::Open { src, bits, lifted, checked, .. } => self.open(node, *src, *bits, *lifted && *checked)?,
            // One sharing of many: the mask is 0.
            Op::Reshare { src, bits } => self.words(*src).iter().map(|x| x & low(*bits)).collect(),
            Op::Digits { src, scales } => {
                let (x, r) = (self.words(*src), vec![0; node.len]);
                let mut words = private::fields(scales, &r, &private::digit_vectors(scales, x));
                let tops = [private::mask_tops(scales, &r), private::own_tops(scales, x)];
                let tops = tops[0].iter().zip(tops[1].iter());
                words.iter_mut().zip(tops).for_each(|(w, (a, b))| *w ^= a ^ b);
                words.keep()
            }
            Op::Boolean { src, formulas } => private::own_formulas(formulas, self.words(*src), true).keep(),
            Op::Select { choices, .. } => {
                let term = |c: &Choice, i: usize| private::chosen(c, self.words(c.bits)[i]).wrapping_mul(self.words(c.value)[i]);
                let sum = |i: usize| choices.iter().fold(0u64, |sum, c| sum.wrapping_add(term(c, i)));
                (0..node.len).map(sum).collect()
            }
            Op::Extend { src, from, bias, .. } => self.extend(node, *src, *from, *bias)?,
            Op::Translate { src, basis, .. } => {
                let (x, constant) = (self.words(*src), private::constant(self.program, basis));
                let mut out = vec![constant; x.len()];
                let (u, v) = (private::of_mask(self.program, basis, &[0]), private::of_opened(self.program, basis, x));
                for (u, v) in u.iter().zip(&v) {
                    out.iter_mut().zip(v.iter()).for_each(|(o, v)| *o = o.wrapping_add(u[0].wrapping_mul(*v)));
                }
                out
            }
            Op::Product { forms, .. } => (0..node.len).map(|i| self.product(forms, i)).collect(),
            Op::MatMul { a, b, batch, m, k, n, transposed, .. } => {
                let (a, b) = (self.words(*a), self.words(*b));
                let mut out = vec![0u64; node.len];
                let product = if *transposed { gemm_nt } else { gemm };
                for i in 0..*batch {
                    product(&a[i * m * k..][..m * k], &b[i * k * n..][..k * n], *m, *k, *n, &mut out[i * m * n..][..m * n]);
                }
                out
            }
            Op::Differences { src, count, pairs } => {
                let (words, bits) = (self.words(*src), self.program.open_bits(*src));
                let slice = |i: u32| &words[i as usize * count..][..*count];
                let pairs = pairs.iter().flat_map(|(a, b)| slice(*a).iter().zip(slice(*b)));
                pairs.map(|(a, b)| sign_extend(a.wrapping_sub(*b), bits) as u64).collect()
            }
            Op::Intervals { src, drop, intervals } => self.intervals(*src, *drop, intervals),
            Op::Alarm { src, planes, examples, .. } => {
                let bits = self.words(*src);
                let each = bits.len() / planes / examples;
                let set = |i: usize| (0..*planes).map(|p| bits[p * each * examples + i]).sum::<u64>();
                (0..*examples).map(|e| (e * each..(e + 1) * each).filter(|i| set(*i) != 1).count() as u64).collect()
            }
            Op::LiftCheck { wide, open, ring, examples } => {
                let (wide, opened) = (self.words(*wide), self.words(*open));
                let each = wide.len() / examples;
                let differ = |i: &usize| sign_extend(wide[*i], *ring) != opened[*i] as i64;
                let counts = (0..*examples).map(|e| (e * each..(e + 1) * each).filter(differ).count() as u64);
                counts.flat_map(|count| [count; Op::LIFT_LANES]).collect()
            }
            Op::Series { src, fit, coefficient_bits, trig_bits, .. } => {
                let fit = &self.program.fits[*fit as usize];
                let circle = Circle::of(fit);
                let scale = f64::from(coefficient_bits + trig_bits).exp2();
                let constant = constant_term(fit, coefficient_bits + trig_bits);
                let series = |x: &u64| {
                    let terms = (1..=fit.frequencies()).map(|j| {
                        let ((cos, sin), (a, b)) = (circle.at(x.wrapping_mul(j as u64)), fit.pair(j));
                        a * cos + b * sin
                    });
                    constant.wrapping_add((terms.sum::<f64>() * scale).round() as i64 as u64)
                };
                self.words(*src).iter().map(series).collect()
            }
            Op::Polynomial { src, coefficients } => {
                let horner = |x: &u64| coefficients.iter().rev().fold(0u64, |s, c| s.wrapping_mul(*x).wrapping_add(*c as u64));
                self.words(*src).iter().map(horner).collect()
            }
            Op::Piecewise { src, pieces } => self.piecewise(node, *src, &self.program.pieces[*pieces as usize])?,
            op => {
                let mut out = Vec::with_capacity(node.len);
                if let Some((src, other)) = local::overwritten(op) {
                    out.extend_from_slice(self.words(src));
                    local::overwrite(self.public, Who::Clear, op, &mut out, other.map_or(&[], |id| self.words(id)));
                } else {
                    let known = local::evaluate(self.public, Who::Clear, (op, 64), &|id| self.words(id), &mut out);
                    debug_assert!(known, "every other operation is local");
                }
                out
            }
        })
    }

    fn open(&self, node: &Node, src: NodeId, bits: u32, check: bool) -> Result<Vec<u64>, SimulateError> {
        let words = self.words(src);
        if check {
            let limit = 1i64 << (bits - 2);
            if let Some(value) =
                words.iter().map(|w| *w as i64).find(|v| !(-limit..limit).contains(&sign_extend(*v as u64, bits)))
            {
                return Err(SimulateError::Overflow { part: self.program.labels[node.label as usize].clone(), value, bits });
            }
        }
        Ok(words.iter().map(|w| sign_extend(*w, bits) as u64).collect())
    }

    /// Each value's polynomial; the value is not in the domain's last cell, where a negative one would be.
    fn piecewise(&self, node: &Node, src: NodeId, pieces: &Pieces) -> Result<Vec<u64>, SimulateError> {
        let (cells, bits) = (pieces.cells(), pieces.bits);
        let last = low(bits) << (bits - pieces.first) & low(bits);
        let value = |x: &u64| {
            if pieces.first < bits && x & low(bits) >= last {
                let part = self.program.labels[node.label as usize].clone();
                return Err(SimulateError::Overflow { part, value: sign_extend(*x, bits), bits });
            }
            Ok(piecewise::clear(cells, *x, &pieces.table))
        };
        self.words(src).iter().map(value).collect()
    }

    /// The value in `[-bias, 2^{from-1} - bias)`, or an error.
    fn extend(&self, node: &Node, src: NodeId, from: u32, bias: u64) -> Result<Vec<u64>, SimulateError> {
        let value = |x: &u64| {
            let biased = x.wrapping_add(bias) & low(from);
            if biased >> (from - 1) == 0 {
                return Ok(biased.wrapping_sub(bias));
            }
            let part = self.program.labels[node.label as usize].clone();
            Err(SimulateError::Overflow { part, value: sign_extend(*x, from), bits: from })
        };
        self.words(src).iter().map(value).collect()
    }

    fn product(&self, forms: &[Form], i: usize) -> u64 {
        let word = |f: &Form| {
            let word = self.words(f.open)[f.view.index(i)];
            if f.negated { 1 - word } else { word }
        };
        forms.iter().fold(1u64, |p, f| p.wrapping_mul(word(f)))
    }

    fn intervals(&self, src: NodeId, drop: u32, intervals: &[Interval]) -> Vec<u64> {
        let inside = |i: &Interval, x: i64| i.lo.is_none_or(|lo| x >= lo) && i.hi.is_none_or(|hi| x < hi);
        intervals.iter().flat_map(|i| self.words(src).iter().map(move |x| u64::from(inside(i, *x as i64 >> drop)))).collect()
    }
}
