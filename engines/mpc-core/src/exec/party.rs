//! One party's side of a program.

use std::sync::Arc;

use sprint_kernel::{dpf, gemm, gemm_add, gemm_nt, gemm_nt_add, lut, pack, packed_len, unpack};

use super::local::{self, Who};
use super::material::{block_bytes, blocks};
use super::monomial::{Expansion, Term};
use super::randomness::{Purpose, Streams, low};
use crate::program::{Form, Fourier, Input, Interval, Node, NodeId, Op, Program, Step};
use crate::weights::{PrivateWeights, PublicWeights};
use crate::{Advance, MachineError, MaterialSource, PartyId, PartyMachine};

/// A party's share of a client's inputs: words by input, in the program's order.
pub struct Inputs(pub(crate) Vec<(Input, Vec<u64>)>);

impl Inputs {
    /// Reads a share as it came from the client; its length is decided by the program.
    pub fn from_bytes(program: &Program, bytes: &[u8]) -> Result<Self, MachineError> {
        if bytes.len() != program.input_len() {
            let expected = program.input_len();
            return Err(MachineError::Input(format!("input share of {} bytes where the program has {expected}", bytes.len())));
        }
        let mut words = bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().expect("chunks of 8")));
        Ok(Self(program.inputs.iter().map(|i| (*i, words.by_ref().take(program.input_words(*i)).collect())).collect()))
    }
}

/// What a node is while later steps may read it.
pub(super) enum Value {
    Words(Vec<u64>),
    Bits(Vec<u8>),
    /// `hat = x + r` in Z_2^n, and a share of `x` in the ring it may be used in.
    Opened {
        hat: Vec<u64>,
        share: Vec<u64>,
    },
    /// `hat = b ⊕ t`, and an arithmetic share of `b`.
    OpenedBits {
        hat: Vec<u8>,
        share: Vec<u64>,
    },
}

/// One party's side of one inference, as a state machine. Its seed and its material are for this inference alone.
pub struct Party {
    program: Arc<Program>,
    public: Arc<PublicWeights>,
    private: Arc<PrivateWeights>,
    party: PartyId,
    streams: Streams,
    values: Vec<Option<Value>>,
    step: usize,
    round: u32,
    /// Own masked words of the exchange under way.
    sent: Option<Vec<Vec<u64>>>,
    /// Material of the exchange under way.
    corrections: Vec<Vec<u8>>,
}

impl Party {
    /// Ready for the first step. `seed` comes from the dealer and is used for this inference only.
    pub fn new(
        program: Arc<Program>,
        public: Arc<PublicWeights>,
        private: Arc<PrivateWeights>,
        party: PartyId,
        seed: &[u8; 32],
        inputs: Inputs,
    ) -> Self {
        let streams = Streams::new(seed, &program.digest(), party);
        let mut values: Vec<Option<Value>> = Vec::new();
        values.resize_with(program.nodes.len(), || None);
        for (at, node) in program.nodes.iter().enumerate() {
            if let Op::Input(input) = node.op {
                let words = inputs.0.iter().find(|(i, _)| *i == input).map(|(_, w)| w.clone());
                values[at] = words.map(Value::Words);
            }
        }
        Self { program, public, private, party, streams, values, step: 0, round: 0, sent: None, corrections: Vec::new() }
    }

    fn who(&self) -> Who {
        if self.party.adds_constants() { Who::First } else { Who::Second }
    }

    fn words(&self, id: NodeId) -> &[u64] {
        match &self.values[id.index()] {
            Some(Value::Words(words)) => words,
            _ => panic!("node {} has words by construction of the program", id.index()),
        }
    }

    fn opened(&self, id: NodeId) -> (&[u64], &[u64]) {
        match &self.values[id.index()] {
            Some(Value::Opened { hat, share }) => (hat, share),
            _ => panic!("node {} is opened by construction of the program", id.index()),
        }
    }

    /// The arithmetic share of an opened value or bit.
    fn share(&self, id: NodeId) -> &[u64] {
        match &self.values[id.index()] {
            Some(Value::Opened { share, .. } | Value::OpenedBits { share, .. }) => share,
            _ => panic!("node {} is opened by construction of the program", id.index()),
        }
    }

    fn run(&mut self, id: NodeId, material: &mut dyn MaterialSource) -> Result<(), MachineError> {
        let program = Arc::clone(&self.program);
        let node = program.node(id);
        let value = match &node.op {
            Op::Input(_) => return Ok(()),
            Op::PrivateWeight(layer) => Value::Words(self.private.words(*layer, false).to_vec()),
            Op::PrivateBias(layer) => Value::Words(self.private.words(*layer, true).to_vec()),
            Op::Lift(src) => Value::Words(self.share(*src).to_vec()),
            Op::Product { forms, bits } => Value::Words(self.product(id, node, forms, *bits, material)?),
            Op::MatMul { .. } => Value::Words(self.matmul(id, node, material)?),
            Op::Intervals { src, drop, intervals } => Value::Bits(self.intervals(id, node, *src, *drop, intervals, material)?),
            Op::Series { .. } => Value::Words(self.series(id, node, material)?),
            Op::Polynomial { src, coefficients } => Value::Words(self.polynomial(id, node, *src, coefficients, material)?),
            Op::LookUp { src, tables } => Value::Words(self.look_up(id, node, *src, tables, material)?),
            op => {
                let words = |id: NodeId| self.words(id);
                let out = local::evaluate(&program, &self.public, self.who(), op, &words);
                Value::Words(out.expect("every other operation is local"))
            }
        };
        self.values[id.index()] = Some(value);
        Ok(())
    }

    /// This party's share of products of secret terms, from its stream, corrected by the dealer if it is party 1.
    fn dealt(
        &self,
        id: NodeId,
        array: usize,
        from: usize,
        len: usize,
        bits: u32,
        correction: &[u8],
    ) -> Result<Vec<u64>, MachineError> {
        match self.party {
            PartyId::P0 => Ok(self.streams.words(id, Purpose::Product, array, from, len)),
            PartyId::P1 => unpacked(bits, correction, len),
        }
    }

    fn product(
        &self,
        id: NodeId,
        node: &Node,
        forms: &[Form],
        bits: u32,
        material: &mut dyn MaterialSource,
    ) -> Result<Vec<u64>, MachineError> {
        let expansion = Expansion::of(&self.program, forms);
        let mut out = Vec::with_capacity(node.len);
        for (from, len) in blocks(node.len) {
            let bytes = material.take(block_bytes(&self.program, node, len)[self.party.index()])?;
            let each = packed_len(bits, len);
            let dealt = (0..expansion.monomials.len()).map(|m| {
                let part = bytes.get(m * each..(m + 1) * each).unwrap_or_default();
                self.dealt(id, m, from, len, bits, part)
            });
            let dealt = dealt.collect::<Result<Vec<_>, _>>()?;
            let operands: Vec<Operand> = forms.iter().map(|f| self.operand(f, from, len)).collect();
            product_block(&expansion, &operands, &dealt, self.party.adds_constants(), len, &mut out);
        }
        Ok(out)
    }

    /// Public part, share and term coefficients of a form's elements.
    fn operand(&self, form: &Form, from: usize, len: usize) -> Operand {
        let at = |i: usize| form.view.index(from + i);
        match &self.values[form.open.index()] {
            Some(Value::OpenedBits { hat, share }) => Operand {
                public: (0..len).map(|i| u64::from(hat[at(i)])).collect(),
                share: (0..len).map(|i| share[at(i)]).collect(),
                mask: Some((0..len).map(|i| (2 * u64::from(hat[at(i)])).wrapping_sub(1)).collect()),
                top: None,
            },
            Some(Value::Opened { hat, share }) => {
                let share = (0..len).map(|i| share[at(i)]).collect();
                match self.program.node(form.open).op {
                    Op::Open { bits, lifted: true, .. } => {
                        let public = (0..len).map(|i| lifted_public(hat[at(i)], bits)).collect();
                        let top = (0..len).map(|i| wrap_coefficient(hat[at(i)], bits).wrapping_neg()).collect();
                        Operand { public, share, mask: None, top: Some(top) }
                    }
                    _ => Operand { public: (0..len).map(|i| hat[at(i)]).collect(), share, mask: None, top: None },
                }
            }
            _ => panic!("a product's operands are opened by construction of the program"),
        }
    }

    fn matmul(&self, id: NodeId, node: &Node, material: &mut dyn MaterialSource) -> Result<Vec<u64>, MachineError> {
        let Op::MatMul { a, b, batch, m, k, n, transposed, bits } = node.op else {
            unreachable!("called for products of matrices")
        };
        let mut out = match self.party {
            PartyId::P0 => self.streams.words(id, Purpose::Product, 0, 0, node.len),
            PartyId::P1 => unpacked(bits, &material.take(packed_len(bits, node.len))?, node.len)?,
        };
        let ((a_hat, a_share), (b_hat, b_share)) = (self.opened(a), self.opened(b));
        for i in 0..batch {
            let (a_at, b_at, o_at) = (i * m * k..(i + 1) * m * k, i * k * n..(i + 1) * k * n, i * m * n..(i + 1) * m * n);
            // ab = â·b + a·b̂ - â·b̂ + r_a·r_b; party 1 leaves out the public product.
            let left: Vec<u64> = if self.party.adds_constants() {
                a_share[a_at.clone()].iter().zip(&a_hat[a_at.clone()]).map(|(s, h)| s.wrapping_sub(*h)).collect()
            } else {
                a_share[a_at.clone()].to_vec()
            };
            let add = if transposed { gemm_nt_add } else { gemm_add };
            add(&left, &b_hat[b_at.clone()], m, k, n, &mut out[o_at.clone()]);
            add(&a_hat[a_at], &b_share[b_at], m, k, n, &mut out[o_at]);
        }
        Ok(out)
    }

    fn intervals(
        &self,
        id: NodeId,
        node: &Node,
        src: NodeId,
        drop: u32,
        intervals: &[Interval],
        material: &mut dyn MaterialSource,
    ) -> Result<Vec<u8>, MachineError> {
        let (hat, _) = self.opened(src);
        let domain = self.program.open_bits(src) - drop;
        let bounds = Bounds::of(intervals, domain);
        let mut out = vec![0u8; node.len];
        for (from, len) in blocks(hat.len()) {
            let keys = material.take(block_bytes(&self.program, node, len)[self.party.index()])?;
            let roots = self.streams.roots(id, from, len);
            let points: Vec<u64> = hat[from..from + len].iter().flat_map(|h| bounds.points(h >> drop)).collect();
            let mut prefixes = vec![0u8; points.len()];
            dpf::prefix(self.party.index() as u8, domain, &roots, &keys, &points, bounds.count(), &mut prefixes);
            for (j, (lo, hi)) in bounds.pairs.iter().enumerate() {
                let out = &mut out[j * hat.len() + from..][..len];
                for (i, bit) in out.iter_mut().enumerate() {
                    let at = i * bounds.count();
                    let wraps = self.party.adds_constants() && points[at + hi] > points[at + lo];
                    *bit = prefixes[at + lo] ^ prefixes[at + hi] ^ u8::from(wraps);
                }
            }
        }
        Ok(out)
    }

    fn series(&self, id: NodeId, node: &Node, material: &mut dyn MaterialSource) -> Result<Vec<u64>, MachineError> {
        let Op::Series { src, fit, coefficient_bits, trig_bits, bits } = node.op else { unreachable!("called for series") };
        let fit = &self.program.fits[fit as usize];
        let (hat, _) = self.opened(src);
        let circle = Circle::new(fit.period_bits);
        let constant = constant_term(fit, coefficient_bits + trig_bits);
        let constant = if self.party.adds_constants() { constant } else { 0 };
        let mut out = vec![constant; node.len];
        for (from, len) in blocks(node.len) {
            let bytes = material.take(block_bytes(&self.program, node, len)[self.party.index()])?;
            let each = packed_len(bits, len);
            for secret in 0..fit.secrets() {
                let (a, b) = fit.pair(secret / 2 + 1);
                if a == 0.0 && b == 0.0 {
                    continue;
                }
                let part = bytes.get(secret * each..(secret + 1) * each).unwrap_or_default();
                let dealt = self.dealt(id, secret, from, len, bits, part)?;
                let scale = f64::from(coefficient_bits).exp2();
                let (a, b) = (a * scale, b * scale);
                let frequency = secret as u64 / 2 + 1;
                for ((o, d), h) in out[from..from + len].iter_mut().zip(&dealt).zip(&hat[from..from + len]) {
                    let (cos, sin) = circle.at(h.wrapping_mul(frequency));
                    let c = if secret % 2 == 0 { a * cos + b * sin } else { a * sin - b * cos };
                    *o = o.wrapping_add(d.wrapping_mul(c.round() as i64 as u64));
                }
            }
        }
        Ok(out)
    }

    fn polynomial(
        &self,
        id: NodeId,
        node: &Node,
        src: NodeId,
        coefficients: &[i64],
        material: &mut dyn MaterialSource,
    ) -> Result<Vec<u64>, MachineError> {
        let (hat, share) = self.opened(src);
        let degree = coefficients.len() - 1;
        let mut out = Vec::with_capacity(node.len);
        for (from, len) in blocks(node.len) {
            let bytes = material.take(block_bytes(&self.program, node, len)[self.party.index()])?;
            let mut powers = Vec::with_capacity(degree.saturating_sub(1));
            for p in 0..degree.saturating_sub(1) {
                let part = bytes.get(p * 8 * len..(p + 1) * 8 * len).unwrap_or_default();
                powers.push(self.dealt(id, p, from, len, 64, part)?);
            }
            for i in 0..len {
                let h = hat[from + i];
                // Share of r is ĥ - x (public part with party 0).
                let r = if self.party.adds_constants() { h } else { 0 }.wrapping_sub(share[from + i]);
                let r_power = |p: usize| if p == 1 { r } else { powers[p - 2][i] };
                out.push(shifted_polynomial(coefficients, h, r_power, self.party.adds_constants()));
            }
        }
        Ok(out)
    }

    fn look_up(
        &self,
        id: NodeId,
        node: &Node,
        src: NodeId,
        tables: &[u32],
        material: &mut dyn MaterialSource,
    ) -> Result<Vec<u64>, MachineError> {
        let (hat, _) = self.opened(src);
        let bits = self.program.open_bits(src);
        let tables: Vec<&[u64]> = tables.iter().map(|t| self.program.tables[*t as usize].as_slice()).collect();
        let mut out = vec![0u64; node.len];
        for (from, len) in blocks(hat.len()) {
            let keys = material.take(block_bytes(&self.program, node, len)[self.party.index()])?;
            let roots = self.streams.roots(id, from, len);
            let mut found = vec![0u64; len * tables.len()];
            lut::eval(self.party.index() as u8, bits, &roots, &keys, &hat[from..from + len], &tables, &mut found);
            for (i, row) in found.chunks_exact(tables.len()).enumerate() {
                row.iter().enumerate().for_each(|(t, v)| out[t * hat.len() + from + i] = *v);
            }
        }
        Ok(out)
    }

    /// Masks every operand of an exchange and packs the frame.
    fn mask(&mut self, opens: &[NodeId], material: &mut dyn MaterialSource) -> Result<Vec<u8>, MachineError> {
        let mut frame = Vec::new();
        let mut sent: Vec<Vec<u64>> = Vec::with_capacity(opens.len());
        self.corrections.clear();
        for id in opens {
            let program = Arc::clone(&self.program);
            let node = program.node(*id);
            let masked: Vec<u64> = match node.op {
                Op::Open { src, bits, lifted, .. } => {
                    let bias = if lifted && self.party.adds_constants() { 1u64 << (bits - 2) } else { 0 };
                    let mask = self.streams.words(*id, Purpose::Mask, 0, 0, node.len);
                    let words = self.words(src).iter().zip(&mask);
                    words.map(|(x, r)| x.wrapping_add(*r).wrapping_add(bias) & low(bits)).collect()
                }
                Op::OpenBits { src } => {
                    let mask = self.streams.bits(*id, node.len);
                    let Some(Value::Bits(bits)) = &self.values[src.index()] else {
                        panic!("bits by construction of the program")
                    };
                    bits.iter().zip(&mask).map(|(b, t)| u64::from(b ^ t)).collect()
                }
                _ => unreachable!("only openings are exchanged"),
            };
            pack(program.open_bits(*id), &masked, &mut frame);
            sent.push(masked);
            let len = super::material::node_bytes(&program, node)[self.party.index()];
            self.corrections.push(material.take(len)?);
        }
        self.sent = Some(sent);
        Ok(frame)
    }

    /// Adds the peer's masked words to the own ones and derives shares of the opened values.
    fn unmask(&mut self, opens: &[NodeId], frame: &[u8]) -> Result<(), MachineError> {
        let sent = self.sent.take().ok_or(MachineError::OutOfStep("a frame came before one was sent"))?;
        let corrections = std::mem::take(&mut self.corrections);
        let mut at = 0;
        for ((id, own), correction) in opens.iter().zip(sent).zip(corrections) {
            let program = Arc::clone(&self.program);
            let node = program.node(*id);
            let bits = program.open_bits(*id);
            let size = packed_len(bits, node.len);
            let theirs = unpacked(bits, &frame[at..at + size], node.len)?;
            at += size;
            let value = match node.op {
                Op::Open { lifted, .. } => {
                    let sum = own.iter().zip(&theirs).map(|(a, b)| a.wrapping_add(*b) & low(bits)).collect();
                    self.unmask_words(*id, sum, bits, lifted, &correction)?
                }
                _ => {
                    let hat = own.iter().zip(&theirs).map(|(a, b)| (a ^ b) as u8).collect();
                    self.unmask_bits(*id, hat, &correction)?
                }
            };
            self.values[id.index()] = Some(value);
        }
        Ok(())
    }

    fn unmask_words(&self, id: NodeId, sum: Vec<u64>, bits: u32, lifted: bool, correction: &[u8]) -> Result<Value, MachineError> {
        let mask = self.streams.words(id, Purpose::Mask, 0, 0, sum.len());
        let first = self.party.adds_constants();
        if !lifted {
            let share = sum.iter().zip(&mask).map(|(h, r)| if first { h.wrapping_sub(*r) } else { r.wrapping_neg() }).collect();
            return Ok(Value::Opened { hat: sum, share });
        }
        let mut share = Vec::with_capacity(sum.len());
        let mut at = 0;
        for (from, len) in blocks(sum.len()) {
            let each = packed_len(64 - bits, len);
            let (carry, top) = match self.party {
                PartyId::P0 => {
                    (self.streams.words(id, Purpose::Carry, 0, from, len), self.streams.words(id, Purpose::Top, 0, from, len))
                }
                PartyId::P1 => {
                    let bytes = &correction[at..at + 2 * each];
                    at += 2 * each;
                    (unpacked(64 - bits, &bytes[..each], len)?, unpacked(64 - bits, &bytes[each..], len)?)
                }
            };
            for i in 0..len {
                let hat = unbias(sum[from + i], bits);
                let wraps = (carry[i] << bits).wrapping_add(wrap_coefficient(hat, bits).wrapping_mul(top[i]));
                let public = if first { lifted_public(hat, bits) } else { 0 };
                share.push(public.wrapping_sub(mask[from + i] & low(bits)).wrapping_add(wraps));
            }
        }
        Ok(Value::Opened { hat: sum.iter().map(|h| unbias(*h, bits)).collect(), share })
    }

    fn unmask_bits(&self, id: NodeId, hat: Vec<u8>, correction: &[u8]) -> Result<Value, MachineError> {
        let first = self.party.adds_constants();
        let secret = match self.party {
            PartyId::P0 => self.streams.words(id, Purpose::Carry, 0, 0, hat.len()),
            PartyId::P1 => unpacked(64, correction, hat.len())?,
        };
        let share = hat.iter().zip(&secret).map(|(h, t)| {
            let h = u64::from(*h);
            let public = if first { h } else { 0 };
            public.wrapping_add(t.wrapping_mul(1u64.wrapping_sub(2 * h)))
        });
        Ok(Value::OpenedBits { share: share.collect(), hat })
    }

    fn forget(&mut self, last: &[NodeId]) {
        last.iter().for_each(|id| self.values[id.index()] = None);
    }
}

impl PartyMachine for Party {
    fn advance(&mut self, material: &mut dyn MaterialSource) -> Result<Advance, MachineError> {
        if self.sent.is_some() {
            return Err(MachineError::OutOfStep("the peer's frame is still missing"));
        }
        let program = Arc::clone(&self.program);
        while let Some(step) = program.steps.get(self.step) {
            match step {
                Step::Run { node, last } => {
                    self.run(*node, material)?;
                    self.forget(last);
                    self.step += 1;
                }
                Step::Exchange { opens, .. } => {
                    let frame = self.mask(opens, material)?;
                    return Ok(Advance::Exchange { round: self.round, peer_len: frame.len(), frame });
                }
            }
        }
        let output = self.words(program.output).iter().map(|w| w & low(program.output_ring)).flat_map(u64::to_le_bytes).collect();
        Ok(Advance::Finished { output })
    }

    fn absorb(&mut self, peer: &[u8]) -> Result<(), MachineError> {
        let program = Arc::clone(&self.program);
        let Some(Step::Exchange { opens, last }) = program.steps.get(self.step) else {
            return Err(MachineError::OutOfStep("no exchange is under way"));
        };
        let expected = opens.iter().map(|id| packed_len(program.open_bits(*id), program.node(*id).len)).sum();
        if peer.len() != expected {
            return Err(MachineError::FrameLength { round: self.round, expected, actual: peer.len() });
        }
        self.unmask(opens, peer)?;
        self.forget(last);
        self.step += 1;
        self.round += 1;
        Ok(())
    }
}

/// A form's elements. Term coefficients of `ρ`: `mask` is 1 where it is `None`; `top` exists for lifted openings.
struct Operand {
    public: Vec<u64>,
    share: Vec<u64>,
    mask: Option<Vec<u64>>,
    top: Option<Vec<u64>>,
}

impl Operand {
    fn coefficient(&self, choice: Option<Term>, i: usize) -> u64 {
        match choice {
            None => self.public[i],
            Some(Term::Mask) => self.mask.as_ref().map_or(1, |m| m[i]),
            Some(Term::Top) => self.top.as_ref().map_or(0, |t| t[i]),
        }
    }
}

fn product_block(expansion: &Expansion, operands: &[Operand], dealt: &[Vec<u64>], first: bool, len: usize, out: &mut Vec<u64>) {
    let k = operands.len() as u64;
    let start = out.len();
    for i in 0..len {
        let mut sum = 0u64;
        for (j, own) in operands.iter().enumerate() {
            let others = operands.iter().enumerate().filter(|(o, _)| *o != j);
            let public = others.fold(1u64, |p, (_, o)| p.wrapping_mul(o.public[i]));
            sum = sum.wrapping_add(own.share[i].wrapping_mul(public));
        }
        if first {
            let public = operands.iter().fold(1u64, |p, o| p.wrapping_mul(o.public[i]));
            sum = sum.wrapping_add(public.wrapping_mul(1u64.wrapping_sub(k)));
        }
        out.push(sum);
    }
    for summand in &expansion.summands {
        let secret = &dealt[summand.monomial];
        for (i, o) in out[start..].iter_mut().enumerate() {
            let mut c = if summand.negative { u64::MAX } else { 1 };
            for (operand, choice) in operands.iter().zip(&summand.choice) {
                c = c.wrapping_mul(operand.coefficient(*choice, i));
            }
            *o = o.wrapping_add(c.wrapping_mul(secret[i]));
        }
    }
}

/// Unique interval bounds and, for each interval, which of them it runs between.
struct Bounds {
    domain: u32,
    values: Vec<i64>,
    pairs: Vec<(usize, usize)>,
}

impl Bounds {
    fn of(intervals: &[Interval], domain: u32) -> Self {
        let half = 1i64 << (domain - 1);
        let mut values = Vec::new();
        let mut at = |bound: i64| {
            values.iter().position(|v| *v == bound).unwrap_or_else(|| {
                values.push(bound);
                values.len() - 1
            })
        };
        let pairs = intervals.iter().map(|i| (at(i.lo.unwrap_or(-half)), at(i.hi.unwrap_or(half)))).collect();
        Self { domain, values, pairs }
    }

    fn count(&self) -> usize {
        self.values.len()
    }

    /// `x ≥ bound` up to wrapping is `α < x̂ - bound + 1`, all mod 2^domain.
    fn points(&self, hat: u64) -> impl Iterator<Item = u64> + '_ {
        let mask = low(self.domain);
        self.values.iter().map(move |b| hat.wrapping_sub(*b as u64).wrapping_add(1) & mask)
    }
}

/// Cosine and sine at the `2^bits` points of a circle.
pub(super) struct Circle {
    mask: u64,
    points: Vec<(f64, f64)>,
}

impl Circle {
    pub(super) fn new(bits: u32) -> Self {
        let n = 1usize << bits;
        let points = (0..n).map(|i| {
            let angle = std::f64::consts::TAU * i as f64 / n as f64;
            (libm::cos(angle), libm::sin(angle))
        });
        Self { mask: low(bits), points: points.collect() }
    }

    pub(super) fn at(&self, position: u64) -> (f64, f64) {
        self.points[(position & self.mask) as usize]
    }
}

impl Fourier {
    /// Cosine and sine coefficient of a frequency.
    pub(crate) fn pair(&self, frequency: usize) -> (f64, f64) {
        (self.cos.get(frequency).copied().unwrap_or(0.0), self.sin.get(frequency).copied().unwrap_or(0.0))
    }
}

/// The constant term of a series as a ring word.
pub(super) fn constant_term(fit: &Fourier, bits: u32) -> u64 {
    crate::weights::encode(fit.cos.first().copied().unwrap_or(0.0), bits)
}

/// `Σ_i c_i (h - r)^i`, with shares of the powers of `r`.
fn shifted_polynomial(coefficients: &[i64], h: u64, r_power: impl Fn(usize) -> u64, first: bool) -> u64 {
    let degree = coefficients.len() - 1;
    let mut sum = 0u64;
    for p in 0..=degree {
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

/// `x̂ = x + r` from the biased opening `x + 2^{n-2} + r`, mod 2^n.
fn unbias(sum: u64, bits: u32) -> u64 {
    sum.wrapping_sub(1u64 << (bits - 2)) & low(bits)
}

/// The public part of a lifted opening in Z_2^64: the biased opening less the bias.
fn lifted_public(hat: u64, bits: u32) -> u64 {
    let bias = 1u64 << (bits - 2);
    (hat.wrapping_add(bias) & low(bits)).wrapping_sub(bias)
}

/// `2^n·k` with `k = 1 - msb` of the biased opening: what a set top bit of the mask adds.
fn wrap_coefficient(hat: u64, bits: u32) -> u64 {
    let biased = hat.wrapping_add(1u64 << (bits - 2)) & low(bits);
    if biased >> (bits - 1) == 0 { 1u64.checked_shl(bits).unwrap_or(0) } else { 0 }
}

fn unpacked(bits: u32, bytes: &[u8], len: usize) -> Result<Vec<u64>, MachineError> {
    let mut out = Vec::with_capacity(len);
    unpack(bits, bytes, len, &mut out).map_err(|e| MachineError::Material(e.to_string()))?;
    Ok(out)
}

/// Products of the masks of two opened matrices, for the dealer.
pub(super) fn mask_products(node: &Node, a: &[u64], b: &[u64]) -> Vec<u64> {
    let Op::MatMul { batch, m, k, n, transposed, .. } = node.op else { unreachable!("called for products of matrices") };
    let mut out = vec![0u64; node.len];
    let product = if transposed { gemm_nt } else { gemm };
    for i in 0..batch {
        product(&a[i * m * k..][..m * k], &b[i * k * n..][..k * n], m, k, n, &mut out[i * m * n..][..m * n]);
    }
    out
}
