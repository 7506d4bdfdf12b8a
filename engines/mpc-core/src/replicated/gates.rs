//! Gates on a server's shares: products, and functions of a word of which the owner knows one part and both others the other.

use sprint_kernel::{gemm_add, gemm_nt_add, pack, packed_len, piecewise, unpack, words as kernel};

use super::party::{MISSING, ReplicatedParty};
use super::plan::{Compare, Dealt, Factor, Gate, GateId, dealt_bytes};
use super::server::{Role, Server};
use crate::MachineError;
use crate::exec::circle::{Circle, Harmonics, constant_term};
use crate::exec::local::sign_extend;
use crate::exec::material::blocks;
use crate::exec::randomness::{Purpose, low};
use crate::exec::wiped::Wiped;
use crate::program::{NodeId, Op};

/// A server's messages for one gate: to the server before it and to the one after it.
#[derive(Default)]
pub(super) struct Messages {
    pub(super) before: Vec<u8>,
    pub(super) after: Vec<u8>,
}

impl ReplicatedParty {
    /// What this server is to a deal, and who deals.
    fn role(&self, dealt: GateId) -> Result<(Role, Server), MachineError> {
        match self.plan.gate(dealt).gate {
            Gate::Deal { owner, .. } => Ok((self.server.role(owner), owner)),
            _ => Err(MachineError::OutOfStep("a gate without a deal")),
        }
    }

    /// `b` at the owner, `a` at the others.
    fn part(&self, src: GateId, role: Role) -> Result<Wiped<u64>, MachineError> {
        let [first, second] = self.pair(src)?;
        Ok(match role {
            Role::Owner => first.iter().zip(second).map(|(x, y)| x.wrapping_add(*y)).collect(),
            Role::After => second.to_vec().into(),
            Role::Before => first.to_vec().into(),
        })
    }

    /// `b` of a reshare to come, at its owner: words of its two keys.
    fn own_part(&self, src: GateId) -> Wiped<u64> {
        if let Gate::Differences { src, count, ref pairs } = self.plan.gate(src).gate {
            return super::party::differences(&self.own_part(src), count, pairs).into();
        }
        let [mut b, other] = self.owned_words(src);
        kernel::add(&mut b, &other);
        b
    }

    /// The two words of a reshare that its owner and either other server make of their key.
    pub(super) fn owned_words(&self, reshare: GateId) -> [Wiped<u64>; 2] {
        let len = self.plan.gate(reshare).len;
        [&self.left, &self.right].map(|s| s.words(reshare.stream(), Purpose::Product, 0, 0, len))
    }

    /// The plane bits that both others know; none at the owner.
    fn bit_part(&self, src: GateId, role: Role, elements: usize) -> Result<Wiped<u64>, MachineError> {
        let [first, second] = self.pair(src)?;
        Ok(match role {
            Role::Owner => Wiped::default(),
            Role::After => super::bits::expand(second, elements),
            Role::Before => super::bits::expand(first, elements),
        })
    }

    /// The owner's messages.
    pub(super) fn make_deal(&self, id: GateId, src: GateId, what: Dealt) -> Result<Messages, MachineError> {
        let plan = &self.plan;
        let len = plan.gate(id).len;
        if let Dealt::Keys(node) = what {
            return self.make_keys(id, src, node);
        }
        let widths = plan.dealt_widths(what);
        let b = match what {
            Dealt::Bit { .. } => {
                let [a, b] = self.owned_words(src);
                let planes: Wiped<u64> = a.iter().zip(b.iter()).map(|(x, y)| x ^ y).collect();
                super::bits::expand(&planes, self.bit_elements(src)?)
            }
            _ => self.own_part(src),
        };
        let exclusive = matches!(what, Dealt::Tables(_));
        let mut circle = match what {
            Dealt::Series(node) => Some(self.circle(node)?),
            _ => None,
        };
        let mut after = Vec::with_capacity(dealt_bytes(&widths, len));
        for (from, len) in blocks(len) {
            let b = &b[from..from + len];
            let arrays = match (&mut circle, what) {
                (Some((circle, harmonics)), Dealt::Series(node)) => self.trigonometry(node, circle, harmonics, b),
                (_, Dealt::Top { from, .. }) => vec![b.iter().map(|b| biased(*b, from) >> (from - 1)).collect()],
                (_, Dealt::Tables(at)) => plan.compares[at].make_tables(b),
                _ => vec![b.to_vec().into()],
            };
            for (at, (mut words, bits)) in arrays.into_iter().zip(&widths).enumerate() {
                let mask = self.left.words(id.stream(), Purpose::Product, at, from, len);
                if exclusive {
                    words.iter_mut().zip(mask.iter()).for_each(|(w, m)| *w ^= m);
                } else {
                    kernel::subtract(&mut words, &mask);
                }
                pack(*bits, &words, &mut after);
            }
        }
        Ok(Messages { before: Vec::new(), after })
    }

    fn make_keys(&self, id: GateId, src: GateId, node: NodeId) -> Result<Messages, MachineError> {
        let cells = self.plan.cells(node).ok_or(MISSING)?;
        let alphas: Wiped<u64> = self.own_part(src).iter().map(|b| b.wrapping_neg() & low(cells.bits)).collect();
        let roots = [&self.left, &self.right].map(|s| s.roots(id.stream(), 0, alphas.len()));
        let mut keys = Vec::new();
        piecewise::generate(cells, &alphas, &roots[0], &roots[1], &mut keys);
        Ok(Messages { before: keys.clone(), after: keys })
    }

    /// Elements of each plane of bits.
    fn bit_elements(&self, src: GateId) -> Result<usize, MachineError> {
        let Gate::ReshareBits { src: signs, .. } = self.plan.gate(src).gate else { return Err(MISSING) };
        match self.plan.gate(signs).gate {
            Gate::Signs { dealt, .. } => self.plan.compare_of(dealt).map(|c| c.elements).ok_or(MISSING),
            _ => Err(MachineError::OutOfStep("bits of something else than intervals")),
        }
    }

    fn circle(&self, node: NodeId) -> Result<(Circle, Harmonics), MachineError> {
        match self.plan.program.node(node).op {
            Op::Series { fit, .. } => Ok((Circle::of(&self.plan.program.fits[fit as usize]), Harmonics::default())),
            _ => Err(MachineError::OutOfStep("not a series")),
        }
    }

    /// Cosines and sines of multiples of `-b`.
    fn trigonometry(&self, node: NodeId, circle: &Circle, harmonics: &mut Harmonics, b: &[u64]) -> Vec<Wiped<u64>> {
        let Op::Series { fit, trig_bits, .. } = self.plan.program.node(node).op else { return Vec::new() };
        let scale = f64::from(trig_bits).exp2();
        let mask: Wiped<u64> = b.iter().map(|b| b.wrapping_neg()).collect();
        harmonics.restart(circle, &mask);
        let mut arrays = Vec::new();
        for _ in 1..=self.plan.program.fits[fit as usize].frequencies() {
            for of in [harmonics.now().cos, harmonics.now().sin] {
                let mut words = Wiped::zeros(b.len());
                kernel::rounded(&mut words, of, scale);
                arrays.push(words);
            }
            harmonics.advance();
        }
        arrays
    }

    /// This server's halves of a block of what was dealt; none at the owner. `at` counts the bytes of the blocks before.
    fn halves(
        &self,
        dealt: GateId,
        widths: &[u32],
        (from, len): (usize, usize),
        at: &mut usize,
    ) -> Result<Vec<Wiped<u64>>, MachineError> {
        let (role, _) = self.role(dealt)?;
        let bytes = self.dealt(dealt)?;
        let halves = widths.iter().enumerate().map(|(array, bits)| {
            if role == Role::Before {
                return Ok(self.right.words(dealt.stream(), Purpose::Product, array, from, len));
            }
            let size = packed_len(*bits, len);
            let part = bytes.get(*at..*at + size).unwrap_or_default();
            *at += size;
            let mut words = Wiped::from(Vec::with_capacity(len));
            unpack(*bits, part, len, &mut words)
                .map_err(|_| MachineError::OutOfStep("what a server dealt is not packed words"))?;
            Ok(words)
        });
        halves.collect()
    }

    fn what(&self, dealt: GateId) -> Result<Dealt, MachineError> {
        match self.plan.gate(dealt).gate {
            Gate::Deal { what, .. } => Ok(what),
            _ => Err(MISSING),
        }
    }

    /// Adds this server's part of fresh shares of zero, so that all three words are uniform.
    pub(super) fn refresh(&self, id: GateId, words: &mut [u64]) {
        let stream = |s: &crate::exec::randomness::Streams| s.words(id.stream(), Purpose::Mask, 0, 0, words.len());
        let (left, right) = (stream(&self.left), stream(&self.right));
        kernel::add(words, &left);
        kernel::subtract(words, &right);
    }

    /// `x + 2^{n-2} = A + B + 2^n·top(a)·top(b)` with `A` and `B` as signed numbers, because the top bit of the sum is 0.
    pub(super) fn lift(&self, id: GateId, src: GateId, dealt: GateId) -> Result<Vec<u64>, MachineError> {
        let (role, _) = self.role(dealt)?;
        let what = self.what(dealt)?;
        let Dealt::Top { from: bits, .. } = what else { return Err(MISSING) };
        let mut out = self.part(src, role)?;
        let bias = 1u64 << (bits - 2);
        if role == Role::Owner {
            out.iter_mut().for_each(|b| *b = (sign_extend(biased(*b, bits), bits) as u64).wrapping_sub(bias));
        } else {
            let widths = self.plan.dealt_widths(what);
            let mut at = 0;
            for (from, len) in blocks(out.len()) {
                let halves = self.halves(dealt, &widths, (from, len), &mut at)?;
                for (a, top) in out[from..from + len].iter_mut().zip(halves[0].iter()) {
                    let own = if role == Role::Before { sign_extend(*a, bits) as u64 } else { 0 };
                    let both = (*a >> (bits - 1) & 1).wrapping_neg() & top;
                    *a = own.wrapping_add(both << bits);
                }
            }
        }
        self.refresh(id, &mut out);
        Ok(out.keep())
    }

    pub(super) fn series(&self, id: GateId, src: GateId, dealt: GateId) -> Result<Vec<u64>, MachineError> {
        const CHUNK: usize = 512;
        let (role, _) = self.role(dealt)?;
        let what = self.what(dealt)?;
        let Dealt::Series(node) = what else { return Err(MISSING) };
        let program = &self.plan.program;
        let Op::Series { fit, coefficient_bits, trig_bits, .. } = program.node(node).op else { return Err(MISSING) };
        let fit = &program.fits[fit as usize];
        let constant = if role == Role::Before { constant_term(fit, coefficient_bits + trig_bits) } else { 0 };
        let mut out = vec![constant; self.plan.gate(id).len];
        if role != Role::Owner {
            let a = self.part(src, role)?;
            let widths = self.plan.dealt_widths(what);
            let scale = f64::from(coefficient_bits).exp2();
            let (circle, mut harmonics) = self.circle(node)?;
            let mut at = 0;
            for (from, len) in blocks(a.len()) {
                let halves = self.halves(dealt, &widths, (from, len), &mut at)?;
                for start in (0..len).step_by(CHUNK) {
                    let count = CHUNK.min(len - start);
                    let out = &mut out[from + start..][..count];
                    harmonics.restart(&circle, &a[from + start..][..count]);
                    for j in 1..=fit.frequencies() {
                        let (cos, sin) = fit.pair(j);
                        let [c, s] = [2 * j - 2, 2 * j - 1].map(|at| &halves[at][start..start + count]);
                        kernel::add_harmonic(out, harmonics.now(), c, s, cos * scale, sin * scale);
                        harmonics.advance();
                    }
                }
            }
        }
        self.refresh(id, &mut out);
        Ok(out)
    }

    pub(super) fn piecewise(&self, id: GateId, src: GateId, dealt: GateId) -> Result<Vec<u64>, MachineError> {
        let (role, _) = self.role(dealt)?;
        let Dealt::Keys(node) = self.what(dealt)? else { return Err(MISSING) };
        let program = &self.plan.program;
        let Op::Piecewise { pieces, .. } = program.node(node).op else { return Err(MISSING) };
        let pieces = &program.pieces[pieces as usize];
        let mut out = vec![0u64; self.plan.gate(id).len];
        if role != Role::Owner {
            let a = self.part(src, role)?;
            let (party, streams) = if role == Role::Before { (0, &self.right) } else { (1, &self.left) };
            let roots = streams.roots(dealt.stream(), 0, a.len());
            piecewise::eval(party, pieces.cells(), &roots, self.dealt(dealt)?, &a, &pieces.table, &mut out);
        }
        self.refresh(id, &mut out);
        Ok(out)
    }

    pub(super) fn carry_blocks(&self, id: GateId, src: GateId, dealt: GateId) -> Result<Vec<u64>, MachineError> {
        let (role, _) = self.role(dealt)?;
        let compare = self.plan.compare_of(dealt).ok_or(MISSING)?;
        let mut planes = vec![0u64; self.plan.gate(id).len];
        if role == Role::Owner {
            return Ok(planes);
        }
        let a = self.part(src, role)?;
        let widths = compare.tables();
        let mut at = 0;
        for (from, len) in blocks(a.len()) {
            let halves = self.halves(dealt, &widths, (from, len), &mut at)?;
            compare.look_up(&a[from..from + len], &halves, from, &mut planes);
        }
        Ok(planes)
    }

    pub(super) fn signs(&self, src: GateId, dealt: GateId, carries: GateId) -> Result<Vec<u64>, MachineError> {
        let (role, _) = self.role(dealt)?;
        let compare: &Compare = self.plan.compare_of(dealt).ok_or(MISSING)?;
        let carries = self.own(carries)?;
        Ok(match role {
            Role::Owner => compare.signs(carries, Some(&self.part(src, role)?), None),
            Role::Before => compare.signs(carries, None, Some(&self.part(src, role)?)),
            Role::After => compare.signs(carries, None, None),
        })
    }

    /// `y + z - 2yz` of the owner's bit `y` and the others' `z`.
    pub(super) fn arithmetic(&self, id: GateId, src: GateId, dealt: GateId) -> Result<Vec<u64>, MachineError> {
        let (role, _) = self.role(dealt)?;
        let what = self.what(dealt)?;
        let len = self.plan.gate(id).len;
        if role == Role::Owner {
            return Ok(vec![0; len]);
        }
        let mut out = self.bit_part(src, role, self.bit_elements(src)?)?;
        let widths = self.plan.dealt_widths(what);
        let mut at = 0;
        for (from, len) in blocks(len) {
            let halves = self.halves(dealt, &widths, (from, len), &mut at)?;
            for (z, y) in out[from..from + len].iter_mut().zip(halves[0].iter()) {
                let own = if role == Role::Before { *z } else { 0 };
                *z = own.wrapping_add(y.wrapping_mul(1u64.wrapping_sub(2 * *z)));
            }
        }
        Ok(out.keep())
    }

    pub(super) fn multiply(&self, len: usize, a: Factor, b: Factor) -> Result<Vec<u64>, MachineError> {
        let ([a, a_next], [b, b_next]) = (self.factor(a, len)?, self.factor(b, len)?);
        // x·(y + y') + x'·y
        let mut out = b_next.keep();
        kernel::add(&mut out, &b);
        kernel::multiply(&mut out, &a);
        kernel::add_products(&mut out, &a_next, &b);
        Ok(out)
    }

    fn factor(&self, factor: Factor, len: usize) -> Result<[Wiped<u64>; 2], MachineError> {
        let pair = self.pair(factor.gate)?;
        // Word 0 of the sharing is the first of server 0 and the second of server 2.
        let holds = [self.server == Server::S0, self.server == Server::S2];
        let mut at = 0;
        Ok(pair.map(|words| {
            let mut out = Wiped::from(Vec::with_capacity(len));
            factor.view.copy(words, 0, len, &mut out);
            if factor.negated {
                let one = u64::from(holds[at]);
                out.iter_mut().for_each(|x| *x = one.wrapping_sub(*x));
            }
            at += 1;
            out
        }))
    }

    pub(super) fn matmul(&self, a: GateId, b: GateId, node: NodeId) -> Result<Vec<u64>, MachineError> {
        let node = self.plan.program.node(node);
        let Op::MatMul { batch, m, k, n, transposed, .. } = node.op else {
            return Err(MachineError::OutOfStep("not a product of matrices"));
        };
        let ([a, a_next], [b, b_next]) = (self.pair(a)?, self.pair(b)?);
        let mut both = Wiped::from(b_next.to_vec());
        kernel::add(&mut both, b);
        let mut out = vec![0u64; node.len];
        let add = if transposed { gemm_nt_add } else { gemm_add };
        for i in 0..batch {
            let (a_at, b_at, o_at) = (i * m * k..(i + 1) * m * k, i * k * n..(i + 1) * k * n, i * m * n..(i + 1) * m * n);
            add(&a[a_at.clone()], &both[b_at.clone()], m, k, n, &mut out[o_at.clone()]);
            add(&a_next[a_at], &b[b_at], m, k, n, &mut out[o_at]);
        }
        Ok(out)
    }
}

/// `b + 2^{n-2} mod 2^n`: the sum with `a` is then below `2^{n-1}`.
fn biased(b: u64, bits: u32) -> u64 {
    b.wrapping_add(1u64 << (bits - 2)) & low(bits)
}
