//! The dealer's side: makes both parties' one-time material from their seeds, seeing shapes only.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;

use sprint_kernel::{dpf, gemm, gemm_nt, pack, piecewise, words as kernel};
use zeroize::Zeroize;

use super::circle::{Circle, Harmonics};
use super::material::{blocks, elements, unit_vectors, unit_words};
use super::monomial::{Expansion, Term};
use super::opened::WeightMasks;
use super::party::private::lane_purpose;
use super::private;
use super::randomness::{Purpose, Streams, low};
use super::wiped::Wiped;
use crate::program::{Form, Node, NodeId, Op, Program, Step, operands};
use crate::{DealerChunk, DealerMachine, MachineError, PartyId};

/// Makes the material of one inference in program order.
pub struct Dealer {
    program: Arc<Program>,
    weights: Arc<WeightMasks>,
    streams: [Streams; 2],
    /// Masks of openings: made when first needed, which may be before the exchange, and forgotten with the node.
    masks: Vec<Option<Vec<u64>>>,
    step: usize,
    pending: VecDeque<[Vec<u8>; 2]>,
    index: u32,
    /// Room for shares that are corrected.
    room: RefCell<Wiped<u64>>,
}

impl Dealer {
    /// `seeds` are the parties', used for this inference only; `weights` are the masks that the private weights were opened under.
    pub fn new(program: Arc<Program>, weights: Arc<WeightMasks>, seeds: [&[u8; 32]; 2]) -> Self {
        let digest = program.digest();
        let streams = [PartyId::P0, PartyId::P1].map(|p| Streams::new(seeds[p.index()], &digest, p));
        let mut masks = Vec::new();
        masks.resize_with(program.nodes.len(), || None);
        Self { program, weights, streams, masks, step: 0, pending: VecDeque::new(), index: 0, room: RefCell::default() }
    }

    /// Makes the mask of an opening, if it is not there yet.
    fn ensure(&mut self, id: NodeId) {
        if self.masks[id.index()].is_some() {
            return;
        }
        let program = Arc::clone(&self.program);
        let node = program.node(id);
        let mask = match &node.op {
            Op::Open { bits, .. } => {
                let [mut a, b] = self.streams.each_ref().map(|s| s.words(id, Purpose::Mask, 0, 0, node.len));
                kernel::opened(&mut a, &b, *bits);
                a.keep()
            }
            Op::Differences { src, count, pairs } => {
                self.ensure(*src);
                let (bits, mask) = (program.open_bits(*src), self.known(*src));
                let slice = |i: u32| &mask[i as usize * count..][..*count];
                let pairs = pairs.iter().flat_map(|(a, b)| slice(*a).iter().zip(slice(*b)));
                pairs.map(|(a, b)| a.wrapping_sub(*b) & low(bits)).collect()
            }
            Op::Reshare { bits, .. } => {
                let mut mask = Vec::with_capacity(node.len);
                for (holder, stream) in self.streams.iter().enumerate() {
                    let (from, len) = private::masked_by(node.len, holder);
                    stream.fill(id, Purpose::Mask, 0, from, len, &mut mask);
                }
                mask.iter_mut().for_each(|r| *r &= low(*bits));
                mask
            }
            _ => {
                let [mut a, b] = self.streams.each_ref().map(|s| s.bits(id, node.len));
                a.iter_mut().zip(b.iter()).for_each(|(a, b)| *a ^= b);
                a.keep()
            }
        };
        self.masks[id.index()] = Some(mask);
    }

    /// The mask that [`Dealer::ensure`] made, or that of a weight.
    fn known(&self, id: NodeId) -> &[u64] {
        match self.program.weight_of(id) {
            Some(layer) => self.weights.layer(layer),
            None => self.masks[id.index()].as_deref().unwrap_or_default(),
        }
    }

    /// Party 1's correction: the secret less party 0's share of it.
    fn correct(&self, id: NodeId, (purpose, array): (Purpose, usize), from: usize, secret: &[u64], bits: u32, out: &mut Vec<u8>) {
        let mut share = self.room.borrow_mut();
        share.clear();
        share.reserve_exact(secret.len());
        self.streams[0].fill(id, purpose, array, from, secret.len(), &mut share);
        kernel::share(&mut share, secret, u64::MAX);
        pack(bits, &share, out);
    }

    fn send_to_second(&mut self, bytes: Vec<u8>) {
        self.pending.push_back([Vec::new(), bytes]);
    }

    fn deal(&mut self, id: NodeId) {
        let program = Arc::clone(&self.program);
        let node = program.node(id);
        operands(&node.op).iter().filter(|id| program.is_opened(**id)).for_each(|id| self.ensure(*id));
        match &node.op {
            Op::Open { bits, lifted: true, .. } => self.deal_open(id, *bits),
            Op::OpenBits { bits, .. } => {
                self.ensure(id);
                for (from, len) in blocks(node.len) {
                    let mut out = Vec::new();
                    self.correct(id, (Purpose::Carry, 0), from, &self.known(id)[from..from + len], *bits, &mut out);
                    self.send_to_second(out);
                }
            }
            Op::Differences { .. } => self.ensure(id),
            Op::Product { forms, bits } => self.deal_product(id, node.len, forms, *bits),
            Op::MatMul { a, b, bits, .. } => {
                let secret = mask_products(node, self.known(*a), self.known(*b));
                let mut out = Vec::new();
                self.correct(id, (Purpose::Product, 0), 0, &secret, *bits, &mut out);
                self.send_to_second(out);
            }
            Op::Intervals { src, drop, .. } => {
                let domain = program.open_bits(*src) - drop;
                let alphas: Wiped<u64> = self.known(*src).iter().map(|r| r >> drop).collect();
                if unit_vectors(domain) {
                    return self.deal_unit_vectors(id, unit_words(domain), &alphas);
                }
                self.deal_keys(id, elements(&program, node), |from, len, roots, out| {
                    dpf::generate(domain, &alphas[from..from + len], &roots[0], &roots[1], out);
                });
            }
            Op::Piecewise { src, pieces } => {
                let cells = program.pieces[*pieces as usize].cells();
                let alphas = Wiped::from(self.known(*src).to_vec());
                self.deal_keys(id, node.len, |from, len, roots, out| {
                    piecewise::generate(cells, &alphas[from..from + len], &roots[0], &roots[1], out);
                });
            }
            Op::Series { .. } => self.deal_series(id, node),
            Op::Polynomial { src, coefficients } => self.deal_powers(id, *src, coefficients.len().saturating_sub(1)),
            Op::Digits { src, .. } | Op::Translate { src, .. } => {
                self.ensure(*src);
                self.deal_private(id, node, Some(*src));
            }
            op if op.is_private() => self.deal_private(id, node, None),
            _ => {}
        }
    }

    fn deal_open(&mut self, id: NodeId, bits: u32) {
        self.ensure(id);
        let len = self.program.node(id).len;
        for (from, len) in blocks(len) {
            let mask = &self.known(id)[from..from + len];
            let own = self.streams[0].words(id, Purpose::Mask, 0, from, len);
            // r = r_0 + r_1 - 2^n·carry exactly if the sum mod 2^n is below either summand.
            let carry: Wiped<u64> = mask.iter().zip(own.iter()).map(|(r, a)| u64::from(*r < a & low(bits))).collect();
            let top: Wiped<u64> = mask.iter().map(|r| r >> (bits - 1)).collect();
            let mut out = Vec::new();
            let wraps = self.program.share_bits(id) - bits;
            if wraps > 0 {
                self.correct(id, (Purpose::Carry, 0), from, &carry, wraps, &mut out);
                self.correct(id, (Purpose::Top, 0), from, &top, wraps, &mut out);
            }
            self.send_to_second(out);
        }
    }

    fn deal_keys(&mut self, id: NodeId, len: usize, generate: impl Fn(usize, usize, &[Wiped<u128>; 2], &mut Vec<u8>)) {
        for (from, len) in blocks(len) {
            let roots = self.streams.each_ref().map(|s| s.roots(id, from, len));
            let mut keys = Vec::new();
            generate(from, len, &roots, &mut keys);
            self.pending.push_back([keys.clone(), keys]);
        }
    }

    /// Shares of the products of masks, or of functions of the masks of `reshared` and masks.
    fn deal_private(&mut self, id: NodeId, node: &Node, reshared: Option<NodeId>) {
        let (count, bits) = private::dealt(&node.op);
        for (from, len) in blocks(node.len).filter(|_| count > 0) {
            let mut secrets: Vec<Wiped<u64>> = (0..count).map(|_| Wiped::zeros(len)).collect();
            match reshared {
                Some(src) => self.one_sided((id, node), src, from, &mut secrets[0]),
                None => self.two_sided((id, node), from, &mut secrets),
            }
            let mut out = Vec::new();
            for (array, secret) in secrets.iter_mut().enumerate() {
                if private::is_binary(&node.op) {
                    let share = self.streams[0].words(id, Purpose::Carry, 0, from, len);
                    secret.iter_mut().zip(share.iter()).for_each(|(x, s)| *x ^= s);
                    pack(bits, secret, &mut out);
                } else {
                    self.correct(id, private::dealt_stream(&node.op, array), from, secret, bits, &mut out);
                }
            }
            self.send_to_second(out);
        }
    }

    /// `-⟨u, β⟩` of functions `u` of the masks of `src` with the other party's masks `β`; for bits the sign is none.
    fn one_sided(&self, (id, node): (NodeId, &Node), src: NodeId, from: usize, out: &mut [u64]) {
        for (holder, (start, len)) in private::halves(node.len, from, out.len()).into_iter().enumerate() {
            let (r, out) = (&self.known(src)[start..start + len], &mut out[start - from..][..len]);
            let mask = |lane: usize| self.streams[1 - holder].words(id, lane_purpose(&node.op), lane, start, len);
            match &node.op {
                Op::Digits { scales, .. } => {
                    out.copy_from_slice(&private::field_products(scales, r, &mask(0)));
                }
                Op::Translate { basis, .. } => {
                    for (lane, u) in private::of_mask(&self.program, basis, r).iter().enumerate() {
                        kernel::subtract_products(out, u, &mask(lane));
                    }
                }
                _ => {}
            }
        }
    }

    /// Products of both parties' masks.
    fn two_sided(&self, (id, node): (NodeId, &Node), from: usize, out: &mut [Wiped<u64>]) {
        let len = out[0].len();
        let mask = |party: usize, lane: usize| self.streams[party].words(id, lane_purpose(&node.op), lane, from, len);
        match &node.op {
            Op::Boolean { formulas, .. } => out[0] = private::by_formula(formulas, &mask(0, 0), &mask(1, 0)),
            Op::Extend { .. } => {
                let masks = [mask(0, 0), mask(1, 0)];
                let both = masks[0].iter().zip(masks[1].iter()).map(|(a, b)| a & b & 1);
                out[0].iter_mut().zip(both).for_each(|(o, w)| *o = w);
            }
            // Party 0's bits with party 1's words, and the other way round.
            _ => {
                for (array, secret) in out.iter_mut().enumerate() {
                    let (choice, bit) = (array / 2, array % 2);
                    let (bits, words) = (mask(bit, 2 * choice), mask(1 - bit, 2 * choice + 1));
                    secret.iter_mut().zip(bits.iter()).zip(words.iter()).for_each(|((s, c), w)| *s = (c & 1).wrapping_mul(*w));
                }
            }
        }
    }

    fn deal_unit_vectors(&mut self, id: NodeId, words: usize, alphas: &[u64]) {
        for (from, len) in blocks(alphas.len()) {
            let mut share = self.streams[0].words(id, Purpose::Product, 0, words * from, words * len);
            for (vector, alpha) in share.chunks_exact_mut(words).zip(&alphas[from..from + len]) {
                // Every word is touched, whatever the secret.
                for (at, word) in vector.iter_mut().enumerate() {
                    *word ^= u64::from(alpha >> 6 == at as u64) << (alpha & 63);
                }
            }
            let mut out = Vec::with_capacity(8 * share.len());
            pack(64, &share, &mut out);
            self.send_to_second(out);
        }
    }

    fn deal_product(&mut self, id: NodeId, len: usize, forms: &[Form], bits: u32) {
        let program = Arc::clone(&self.program);
        let expansion = Expansion::of(&program, forms);
        for (from, len) in blocks(len) {
            let masks = forms.iter().map(|f| {
                let mut words = Wiped::from(Vec::with_capacity(len));
                f.view.copy(self.known(f.open), from, len, &mut words);
                words
            });
            let masks: Vec<Wiped<u64>> = masks.collect();
            let mut out = Vec::new();
            for (array, monomial) in expansion.monomials.iter().enumerate() {
                let mut secret = Wiped::from(vec![1u64; len]);
                for (form, term) in monomial {
                    let shift = if *term == Term::Top { program.open_bits(forms[*form].open) - 1 } else { 0 };
                    if shift == 0 {
                        kernel::multiply(&mut secret, &masks[*form]);
                    } else {
                        secret.iter_mut().zip(masks[*form].iter()).for_each(|(s, r)| *s = s.wrapping_mul(r >> shift));
                    }
                }
                self.correct(id, (Purpose::Product, array), from, &secret, bits, &mut out);
            }
            self.send_to_second(out);
        }
    }

    fn deal_series(&mut self, id: NodeId, node: &Node) {
        let program = Arc::clone(&self.program);
        let Op::Series { src, fit, trig_bits, bits, .. } = node.op else { return };
        let fit = &program.fits[fit as usize];
        let circle = Circle::of(fit);
        let scale = f64::from(trig_bits).exp2();
        let mut harmonics = Harmonics::default();
        for (from, len) in blocks(node.len) {
            harmonics.restart(&circle, &self.known(src)[from..from + len]);
            let mut out = Vec::new();
            let mut secret = Wiped::zeros(len);
            for j in 1..=fit.frequencies() {
                kernel::rounded(&mut secret, harmonics.now().cos, scale);
                self.correct(id, (Purpose::Product, 2 * j - 2), from, &secret, bits, &mut out);
                kernel::rounded(&mut secret, harmonics.now().sin, scale);
                self.correct(id, (Purpose::Product, 2 * j - 1), from, &secret, bits, &mut out);
                harmonics.advance();
            }
            self.send_to_second(out);
        }
    }

    fn deal_powers(&mut self, id: NodeId, src: NodeId, degree: usize) {
        for (from, len) in blocks(self.known(src).len()) {
            let mask = &self.known(src)[from..from + len];
            let mut power = Wiped::from(mask.to_vec());
            let mut out = Vec::new();
            for p in 0..degree.saturating_sub(1) {
                power.iter_mut().zip(mask).for_each(|(p, r)| *p = p.wrapping_mul(*r));
                self.correct(id, (Purpose::Product, p), from, &power, 64, &mut out);
            }
            self.send_to_second(out);
        }
    }

    fn forget(&mut self, id: NodeId) {
        if let Some(mut mask) = self.masks[id.index()].take() {
            mask.zeroize();
        }
    }
}

impl DealerMachine for Dealer {
    fn next_chunk(&mut self) -> Result<Option<DealerChunk>, MachineError> {
        loop {
            if let Some(to_party) = self.pending.pop_front() {
                if to_party.iter().all(Vec::is_empty) {
                    continue;
                }
                let index = self.index;
                self.index += 1;
                return Ok(Some(DealerChunk { index, to_party }));
            }
            let program = Arc::clone(&self.program);
            if self.step == 0 {
                self.weights.fit(&program)?;
            }
            let Some(step) = program.steps.get(self.step) else { return Ok(None) };
            let (made, last) = match step {
                Step::Run { node, last } => (std::slice::from_ref(node), last),
                Step::Exchange { opens, last } => (opens.as_slice(), last),
            };
            made.iter().for_each(|id| self.deal(*id));
            last.iter().for_each(|id| self.forget(*id));
            self.step += 1;
        }
    }
}

impl Drop for Dealer {
    fn drop(&mut self) {
        self.masks.iter_mut().flatten().for_each(Zeroize::zeroize);
    }
}

/// Products of the masks of two opened matrices.
fn mask_products(node: &Node, a: &[u64], b: &[u64]) -> Wiped<u64> {
    let mut out = Wiped::zeros(node.len);
    if let Op::MatMul { batch, m, k, n, transposed, .. } = node.op {
        let product = if transposed { gemm_nt } else { gemm };
        for i in 0..batch {
            product(&a[i * m * k..][..m * k], &b[i * k * n..][..k * n], m, k, n, &mut out[i * m * n..][..m * n]);
        }
    }
    out
}
