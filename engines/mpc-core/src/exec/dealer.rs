//! The dealer's side: makes both parties' one-time material from their seeds, seeing shapes only.

use std::collections::VecDeque;
use std::sync::Arc;

use sprint_kernel::{dpf, lut, pack};

use super::material::{blocks, elements};
use super::monomial::{Expansion, Term};
use super::party::{Circle, mask_products};
use super::randomness::{Purpose, Streams, low};
use crate::program::{Form, NodeId, Op, Program, Step};
use crate::{DealerChunk, DealerMachine, MachineError, PartyId};

/// What the dealer knows of an opening: its mask.
enum Mask {
    Words(Vec<u64>),
    Bits(Vec<u8>),
}

/// Makes the material of one inference in program order.
pub struct Dealer {
    program: Arc<Program>,
    streams: [Streams; 2],
    masks: Vec<Option<Mask>>,
    /// Openings whose masks a step needs before they are exchanged: made on demand, forgotten with the node.
    step: usize,
    pending: VecDeque<[Vec<u8>; 2]>,
    index: u32,
}

impl Dealer {
    /// `seeds` are the parties', used for this inference only.
    pub fn new(program: Arc<Program>, seeds: [&[u8; 32]; 2]) -> Self {
        let digest = program.digest();
        let streams = [PartyId::P0, PartyId::P1].map(|p| Streams::new(seeds[p.index()], &digest, p));
        let mut masks = Vec::new();
        masks.resize_with(program.nodes.len(), || None);
        Self { program, streams, masks, step: 0, pending: VecDeque::new(), index: 0 }
    }

    fn mask(&mut self, id: NodeId) -> &Mask {
        if self.masks[id.index()].is_none() {
            let node = self.program.node(id);
            let mask = match node.op {
                Op::Open { bits, .. } => {
                    let [a, b] = self.streams.each_ref().map(|s| s.words(id, Purpose::Mask, 0, 0, node.len));
                    Mask::Words(a.iter().zip(&b).map(|(a, b)| (a & low(bits)).wrapping_add(b & low(bits)) & low(bits)).collect())
                }
                _ => {
                    let [a, b] = self.streams.each_ref().map(|s| s.bits(id, node.len));
                    Mask::Bits(a.iter().zip(&b).map(|(a, b)| a ^ b).collect())
                }
            };
            self.masks[id.index()] = Some(mask);
        }
        self.masks[id.index()].as_ref().expect("made just above")
    }

    fn words(&mut self, id: NodeId) -> Vec<u64> {
        match self.mask(id) {
            Mask::Words(words) => words.clone(),
            Mask::Bits(bits) => bits.iter().map(|b| u64::from(*b)).collect(),
        }
    }

    /// Party 1's correction: the secret less party 0's share of it.
    fn correct(&self, id: NodeId, purpose: Purpose, array: usize, from: usize, secret: &[u64], bits: u32, out: &mut Vec<u8>) {
        let share = self.streams[0].words(id, purpose, array, from, secret.len());
        let words: Vec<u64> = secret.iter().zip(&share).map(|(x, s)| x.wrapping_sub(*s)).collect();
        pack(bits, &words, out);
    }

    fn deal(&mut self, id: NodeId) {
        let program = Arc::clone(&self.program);
        let node = program.node(id);
        match &node.op {
            Op::Open { bits, lifted: true, .. } => self.deal_open(id, *bits),
            Op::OpenBits { .. } => {
                let secret = self.words(id);
                let mut out = Vec::new();
                self.correct(id, Purpose::Carry, 0, 0, &secret, 64, &mut out);
                self.pending.push_back([Vec::new(), out]);
            }
            Op::Product { forms, bits } => self.deal_product(id, node.len, forms, *bits),
            Op::MatMul { a, b, bits, .. } => {
                let (a, b) = (self.words(*a), self.words(*b));
                let secret = mask_products(node, &a, &b);
                let mut out = Vec::new();
                self.correct(id, Purpose::Product, 0, 0, &secret, *bits, &mut out);
                self.pending.push_back([Vec::new(), out]);
            }
            Op::Intervals { src, drop, .. } => {
                let domain = program.open_bits(*src) - drop;
                let alphas: Vec<u64> = self.words(*src).iter().map(|r| r >> drop).collect();
                self.deal_keys(id, elements(&program, node), |from, len, roots, out| {
                    dpf::generate(domain, &alphas[from..from + len], &roots[0], &roots[1], out);
                });
            }
            Op::LookUp { src, .. } => {
                let bits = program.open_bits(*src);
                let alphas = self.words(*src);
                self.deal_keys(id, elements(&program, node), |from, len, roots, out| {
                    lut::generate(bits, &alphas[from..from + len], &roots[0], &roots[1], out);
                });
            }
            Op::Series { .. } => self.deal_series(id),
            Op::Polynomial { src, coefficients } => self.deal_powers(id, *src, coefficients.len() - 1),
            _ => {}
        }
    }

    fn deal_open(&mut self, id: NodeId, bits: u32) {
        let len = self.program.node(id).len;
        let mask = self.words(id);
        let own = self.streams[0].words(id, Purpose::Mask, 0, 0, len);
        for (from, len) in blocks(len) {
            let range = from..from + len;
            // r = r_0 + r_1 - 2^n·carry exactly if the sum mod 2^n is below either summand.
            let carry: Vec<u64> =
                mask[range.clone()].iter().zip(&own[range.clone()]).map(|(r, a)| u64::from(*r < a & low(bits))).collect();
            let top: Vec<u64> = mask[range].iter().map(|r| r >> (bits - 1)).collect();
            let mut out = Vec::new();
            self.correct(id, Purpose::Carry, 0, from, &carry, 64 - bits, &mut out);
            self.correct(id, Purpose::Top, 0, from, &top, 64 - bits, &mut out);
            self.pending.push_back([Vec::new(), out]);
        }
    }

    fn deal_keys(&mut self, id: NodeId, len: usize, generate: impl Fn(usize, usize, &[Vec<u128>; 2], &mut Vec<u8>)) {
        for (from, len) in blocks(len) {
            let roots = self.streams.each_ref().map(|s| s.roots(id, from, len));
            let mut keys = Vec::new();
            generate(from, len, &roots, &mut keys);
            self.pending.push_back([keys.clone(), keys]);
        }
    }

    fn deal_product(&mut self, id: NodeId, len: usize, forms: &[Form], bits: u32) {
        let program = Arc::clone(&self.program);
        let expansion = Expansion::of(&program, forms);
        let masks: Vec<Vec<u64>> = forms.iter().map(|f| self.words(f.open)).collect();
        for (from, len) in blocks(len) {
            let mut out = Vec::new();
            for (array, monomial) in expansion.monomials.iter().enumerate() {
                let mut secret = vec![1u64; len];
                for (form, term) in monomial {
                    let shift = program.open_bits(forms[*form].open) - 1;
                    for (i, s) in secret.iter_mut().enumerate() {
                        let mask = masks[*form][forms[*form].view.index(from + i)];
                        *s = s.wrapping_mul(if *term == Term::Top { mask >> shift } else { mask });
                    }
                }
                self.correct(id, Purpose::Product, array, from, &secret, bits, &mut out);
            }
            self.pending.push_back([Vec::new(), out]);
        }
    }

    fn deal_series(&mut self, id: NodeId) {
        let program = Arc::clone(&self.program);
        let Op::Series { src, fit, trig_bits, bits, .. } = program.node(id).op else { unreachable!("called for series") };
        let fit = &program.fits[fit as usize];
        let circle = Circle::new(fit.period_bits);
        let mask = self.words(src);
        let scale = f64::from(trig_bits).exp2();
        for (from, len) in blocks(mask.len()) {
            let mut out = Vec::new();
            for secret in 0..fit.secrets() {
                let frequency = secret as u64 / 2 + 1;
                let values = mask[from..from + len].iter().map(|r| {
                    let (cos, sin) = circle.at(r.wrapping_mul(frequency));
                    ((if secret % 2 == 0 { cos } else { sin }) * scale).round() as i64 as u64
                });
                let values: Vec<u64> = values.collect();
                self.correct(id, Purpose::Product, secret, from, &values, bits, &mut out);
            }
            self.pending.push_back([Vec::new(), out]);
        }
    }

    fn deal_powers(&mut self, id: NodeId, src: NodeId, degree: usize) {
        let mask = self.words(src);
        for (from, len) in blocks(mask.len()) {
            let mut out = Vec::new();
            let mut power = mask[from..from + len].to_vec();
            for p in 0..degree.saturating_sub(1) {
                power.iter_mut().zip(&mask[from..from + len]).for_each(|(p, r)| *p = p.wrapping_mul(*r));
                self.correct(id, Purpose::Product, p, from, &power, 64, &mut out);
            }
            self.pending.push_back([Vec::new(), out]);
        }
    }
}

impl DealerMachine for Dealer {
    fn next_chunk(&mut self) -> Result<Option<DealerChunk>, MachineError> {
        loop {
            if let Some(to_party) = self.pending.pop_front() {
                let index = self.index;
                self.index += 1;
                return Ok(Some(DealerChunk { index, to_party }));
            }
            let program = Arc::clone(&self.program);
            let Some(step) = program.steps.get(self.step) else { return Ok(None) };
            let last = match step {
                Step::Run { node, last } => {
                    self.deal(*node);
                    last
                }
                Step::Exchange { opens, last } => {
                    opens.iter().for_each(|id| self.deal(*id));
                    last
                }
            };
            last.iter().for_each(|id| self.masks[id.index()] = None);
            self.step += 1;
        }
    }
}
