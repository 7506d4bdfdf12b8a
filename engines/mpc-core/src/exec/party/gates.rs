//! Functions of opened values: interval bits, Fourier series, and polynomials.

use sprint_kernel::{dpf, piecewise, words as kernel};

use super::Party;
use crate::exec::circle::{Circle, Harmonics, constant_term};
use crate::exec::material::{block_bytes, blocks, take, unit_vectors, unit_words};
use crate::exec::wiped::Wiped;
use crate::program::{Interval, Node, NodeId, Op, Pieces};
use crate::{MachineError, MaterialSource};

impl Party {
    pub(super) fn intervals(
        &self,
        id: NodeId,
        node: &Node,
        src: NodeId,
        drop: u32,
        intervals: &[Interval],
        material: &mut dyn MaterialSource,
    ) -> Result<Vec<u8>, MachineError> {
        let hat = self.hat(src)?;
        let domain = self.program.open_bits(src) - drop;
        let bounds = Bounds::of(intervals, domain);
        let mut out = vec![0u8; node.len];
        let (mut points, mut prefixes, mut vectors) = (Vec::new(), Wiped::default(), Wiped::default());
        for (from, len) in blocks(hat.len()) {
            let keys = take(material, block_bytes(&self.program, node, len)[self.party.index()])?;
            points.resize(len * bounds.values.len(), 0);
            kernel::points_of(&mut points, &hat[from..from + len], drop, &bounds.values, domain);
            prefixes.resize(points.len(), 0);
            if unit_vectors(domain) {
                let words = unit_words(domain);
                self.dealt_into((id, 0), (words * from, words * len), 64, &keys, &mut vectors)?;
                kernel::parities_below(&vectors, words, &points, bounds.values.len(), &mut prefixes);
            } else {
                let roots = self.streams.roots(id, from, len);
                dpf::prefix(self.party.index() as u8, domain, &roots, &keys, &points, bounds.values.len(), &mut prefixes);
            }
            for (j, (lo, hi)) in bounds.pairs.iter().enumerate() {
                let out = out[j * hat.len() + from..][..len].iter_mut();
                // Equal points are a whole turn: an interval is never empty.
                let wraps = |lo: u64, hi: u64| u8::from(self.first() && hi >= lo);
                if let (0, 1, 2) = (*lo, *hi, bounds.values.len()) {
                    let rows = points.as_chunks::<2>().0.iter().zip(prefixes.as_chunks::<2>().0);
                    out.zip(rows).for_each(|(bit, ([a, b], [lo, hi]))| *bit = lo ^ hi ^ wraps(*a, *b));
                    continue;
                }
                let rows = points.chunks_exact(bounds.values.len()).zip(prefixes.chunks_exact(bounds.values.len()));
                for (bit, (points, prefixes)) in out.zip(rows) {
                    *bit = prefixes[*lo] ^ prefixes[*hi] ^ wraps(points[*lo], points[*hi]);
                }
            }
            material.reuse(keys);
        }
        Ok(out)
    }

    /// `cos j(x̂ - r) = cos jx̂·cos jr + sin jx̂·sin jr`, and so on, with the dealer's shares of the cosines and sines of `jr`.
    pub(super) fn series(
        &self,
        id: NodeId,
        node: &Node,
        material: &mut dyn MaterialSource,
        mut out: Vec<u64>,
    ) -> Result<Vec<u64>, MachineError> {
        const CHUNK: usize = 512;
        let Op::Series { src, fit, coefficient_bits, trig_bits, bits } = node.op else {
            return Err(MachineError::OutOfStep("not a series"));
        };
        let fit = &self.program.fits[fit as usize];
        let hat = self.hat(src)?;
        let circle = Circle::of(fit);
        let scale = f64::from(coefficient_bits).exp2();
        let constant = if self.first() { constant_term(fit, coefficient_bits + trig_bits) } else { 0 };
        out.resize(node.len, constant);
        let mut dealt: Vec<Wiped<u64>> = (0..fit.secrets()).map(|_| Wiped::default()).collect();
        let mut harmonics = Harmonics::default();
        for (from, len) in blocks(node.len) {
            let bytes = take(material, block_bytes(&self.program, node, len)[self.party.index()])?;
            for (secret, words) in dealt.iter_mut().enumerate() {
                self.dealt_into((id, secret), (from, len), bits, &bytes, words)?;
            }
            for start in (0..len).step_by(CHUNK) {
                let count = CHUNK.min(len - start);
                let out = &mut out[from + start..][..count];
                harmonics.restart(&circle, &hat[from + start..][..count]);
                for j in 1..=fit.frequencies() {
                    let (a, b) = fit.pair(j);
                    let (a, b) = (a * scale, b * scale);
                    let [cosines, sines] = [2 * j - 2, 2 * j - 1].map(|s| &dealt[s][start..start + count]);
                    kernel::add_harmonic(out, harmonics.now(), cosines, sines, a, b);
                    harmonics.advance();
                }
            }
            material.reuse(bytes);
        }
        Ok(out)
    }

    pub(super) fn polynomial(
        &self,
        id: NodeId,
        node: &Node,
        src: NodeId,
        coefficients: &[i64],
        material: &mut dyn MaterialSource,
        mut out: Vec<u64>,
    ) -> Result<Vec<u64>, MachineError> {
        let (hat, share) = (self.hat(src)?, self.share(src)?);
        let degree = coefficients.len().saturating_sub(1);
        for (from, len) in blocks(node.len) {
            let bytes = take(material, block_bytes(&self.program, node, len)[self.party.index()])?;
            let powers = (0..degree.saturating_sub(1)).map(|p| self.dealt(id, p, from, len, 64, &bytes));
            let powers = powers.collect::<Result<Vec<_>, _>>()?;
            for i in 0..len {
                let h = hat[from + i];
                // The share of r is x̂ - x, with x̂ public.
                let r = if self.first() { h } else { 0 }.wrapping_sub(share[from + i]);
                let r_power = |p: usize| if p == 1 { r } else { powers[p - 2][i] };
                out.push(shifted_polynomial(coefficients, h, r_power, self.first()));
            }
        }
        Ok(out)
    }

    pub(super) fn piecewise(
        &self,
        id: NodeId,
        node: &Node,
        src: NodeId,
        pieces: &Pieces,
        material: &mut dyn MaterialSource,
        mut out: Vec<u64>,
    ) -> Result<Vec<u64>, MachineError> {
        let hat = self.hat(src)?;
        out.resize(node.len, 0);
        for (from, len) in blocks(node.len) {
            let keys = take(material, block_bytes(&self.program, node, len)[self.party.index()])?;
            let roots = self.streams.roots(id, from, len);
            let (hat, out) = (&hat[from..from + len], &mut out[from..from + len]);
            piecewise::eval(self.party.index() as u8, pieces.cells(), &roots, &keys, hat, &pieces.table, out);
        }
        Ok(out)
    }
}

/// Unique interval bounds and, for each interval, which of them it runs between. `x ≥ bound` up to wrapping is `α < x̂ - bound + 1`, all mod the
/// domain.
struct Bounds {
    values: Vec<u64>,
    pairs: Vec<(usize, usize)>,
}

impl Bounds {
    fn of(intervals: &[Interval], domain: u32) -> Self {
        let half = 1i64 << (domain - 1);
        let mut values = Vec::new();
        let mut at = |bound: i64| {
            let bound = bound as u64;
            values.iter().position(|v| *v == bound).unwrap_or_else(|| {
                values.push(bound);
                values.len() - 1
            })
        };
        let pairs = intervals.iter().map(|i| (at(i.lo.unwrap_or(-half)), at(i.hi.unwrap_or(half)))).collect();
        Self { values, pairs }
    }
}

/// `Σ_i c_i (h - r)^i`, with shares of the powers of `r`.
fn shifted_polynomial(coefficients: &[i64], h: u64, r_power: impl Fn(usize) -> u64, first: bool) -> u64 {
    let mut sum = 0u64;
    for p in 0..coefficients.len() {
        // The factor of r^p: Σ_{i≥p} c_i·binom(i,p)·(-1)^p·h^{i-p}.
        let mut factor = 0u64;
        let mut power = 1u64;
        for (i, c) in coefficients.iter().enumerate().skip(p) {
            factor = factor.wrapping_add((*c as u64).wrapping_mul(binomial(i, p)).wrapping_mul(power));
            power = power.wrapping_mul(h);
        }
        if p % 2 == 1 {
            factor = factor.wrapping_neg();
        }
        let r = if p == 0 { u64::from(first) } else { r_power(p) };
        sum = sum.wrapping_add(factor.wrapping_mul(r));
    }
    sum
}

fn binomial(n: usize, k: usize) -> u64 {
    (0..k).fold(1u64, |b, i| b * (n - i) as u64 / (i as u64 + 1))
}
