//! One server's side of one inference, as a state machine.

use std::sync::Arc;

use sprint_kernel::{pack, packed_len, unpack, words as kernel};
use zeroize::Zeroize;

use super::gates::Messages;
use super::plan::{Gate, GateId, ReplicatedProgram, Step};
use super::server::{Role, Server};
use super::share::ReplicatedWeights;
use crate::MachineError;
use crate::exec::Inputs;
use crate::exec::local::{self, Who};
use crate::exec::randomness::{Purpose, Streams, low};
use crate::exec::wiped::Wiped;
use crate::program::{NodeId, Op, operands};
use crate::weights::PublicWeights;

/// What a gate's value is while later steps may read it.
pub(super) enum Value {
    /// This server's word of an additive sharing, or of XOR-shared planes.
    Own(Vec<u64>),
    /// Its two words of a replicated one.
    Pair([Vec<u64>; 2]),
    /// What it was dealt.
    Dealt(Vec<u8>),
}

/// What a server does next.
pub enum ReplicatedAdvance {
    /// Send both frames and receive both, then hand them to [`ReplicatedParty::absorb`]. A frame of no bytes is not sent.
    Exchange {
        /// Rounds count from 0.
        round: u32,
        /// For the server before this one.
        to_previous: Vec<u8>,
        /// For the server after this one.
        to_next: Vec<u8>,
        /// Length of the frame from the server before this one.
        previous_len: usize,
        /// Length of the frame from the server after this one.
        next_len: usize,
    },
    /// All gates are evaluated; the output shares are for the client alone.
    Finished {
        /// This server's additive share of the outputs, little-endian words of Z_2^64.
        output: Vec<u8>,
    },
}

/// One server's side of one inference. The two pair seeds are for this inference alone.
pub struct ReplicatedParty {
    pub(super) plan: Arc<ReplicatedProgram>,
    public: Arc<PublicWeights>,
    weights: Arc<ReplicatedWeights>,
    pub(super) server: Server,
    /// Shared with the server before.
    pub(super) left: Streams,
    /// Shared with the server after.
    pub(super) right: Streams,
    values: Vec<Option<Value>>,
    step: usize,
    round: u32,
    /// Own words of the exchange under way.
    pending: Option<Vec<Option<Wiped<u64>>>>,
}

/// A value that is not there.
pub(super) const MISSING: MachineError = MachineError::OutOfStep("a value that a step reads is missing");

impl ReplicatedParty {
    /// Ready for the first step. `seeds` are shared with the server before and with the one after, and serve this inference only.
    pub fn new(
        plan: Arc<ReplicatedProgram>,
        public: Arc<PublicWeights>,
        weights: Arc<ReplicatedWeights>,
        server: Server,
        seeds: [&[u8; 32]; 2],
        inputs: Inputs,
    ) -> Result<Self, MachineError> {
        let recipes = plan.program.weights_digest;
        if public.recipes != recipes || weights.recipes() != recipes || weights.server() != server {
            return Err(MachineError::Input("the weights were prepared for another model or server".into()));
        }
        let digest = plan.digest();
        let left = Streams::of_pair(seeds[0], &digest, server.index() as u8);
        let right = Streams::of_pair(seeds[1], &digest, server.next().index() as u8);
        let mut values: Vec<Option<Value>> = Vec::new();
        values.resize_with(plan.gates.len(), || None);
        for (input, words) in inputs.0 {
            let at = plan.program.nodes.iter().position(|n| n.op == Op::Input(input) && n.len == words.len());
            if let Some(gate) = at.and_then(|at| plan.additive[at]) {
                values[gate.index()] = Some(Value::Own(words));
            }
        }
        Ok(Self { plan, public, weights, server, left, right, values, step: 0, round: 0, pending: None })
    }

    /// Does all local work up to the next exchange.
    pub fn advance(&mut self) -> Result<ReplicatedAdvance, MachineError> {
        if self.pending.is_some() {
            return Err(MachineError::OutOfStep("the other servers' frames are still missing"));
        }
        let plan = Arc::clone(&self.plan);
        while let Some(step) = plan.steps.get(self.step) {
            match step {
                Step::Run { gate, last } => {
                    self.run(*gate, last)?;
                    self.forget(last);
                    self.step += 1;
                }
                Step::Exchange { gates, .. } => return self.exchange(&plan, gates),
            }
        }
        let mut output = Wiped::from(self.own(plan.output)?.to_vec());
        // A stream that no gate has.
        self.refresh(GateId(plan.gates.len() as u32), &mut output);
        let bits = plan.program.output_ring;
        Ok(ReplicatedAdvance::Finished { output: output.iter().flat_map(|w| (w & low(bits)).to_le_bytes()).collect() })
    }

    fn exchange(&mut self, plan: &ReplicatedProgram, gates: &[GateId]) -> Result<ReplicatedAdvance, MachineError> {
        let sizes = plan.frame_bytes(gates, self.server);
        let (mut to_previous, mut to_next) = (Vec::with_capacity(sizes.0), Vec::with_capacity(sizes.1));
        let mut pending = Vec::with_capacity(gates.len());
        for id in gates {
            let (own, Messages { mut before, mut after }) = self.send(*id)?;
            to_previous.append(&mut before);
            to_next.append(&mut after);
            pending.push(own);
        }
        self.pending = Some(pending);
        let previous_len = plan.frame_bytes(gates, self.server.previous()).1;
        let next_len = plan.frame_bytes(gates, self.server.next()).0;
        Ok(ReplicatedAdvance::Exchange { round: self.round, to_previous, to_next, previous_len, next_len })
    }

    /// A communicating gate's messages, and this server's word of its value.
    fn send(&self, id: GateId) -> Result<(Option<Wiped<u64>>, Messages), MachineError> {
        match self.plan.gate(id).gate {
            Gate::Reshare { src, bits, owner } => {
                let mut words = Wiped::from(self.own(src)?.to_vec());
                self.refresh(id, &mut words);
                if owner == Some(self.server) {
                    self.owned_words(id).iter().for_each(|mask| kernel::subtract(&mut words, mask));
                }
                let mut packed = Vec::with_capacity(packed_len(bits, words.len()));
                pack(bits, &words, &mut packed);
                Ok((Some(words), self.addressed(packed, owner)))
            }
            Gate::ReshareBits { src, owner } => {
                let mut words = Wiped::from(self.own(src)?.to_vec());
                let masks = [&self.left, &self.right].map(|s| s.words(id.stream(), Purpose::Mask, 0, 0, words.len()));
                let mut masks = Vec::from(masks);
                if owner == Some(self.server) {
                    masks.extend(self.owned_words(id));
                }
                masks.iter().for_each(|mask| exclusive(&mut words, mask));
                let packed = words.iter().flat_map(|w| w.to_le_bytes()).collect();
                Ok((Some(words), self.addressed(packed, owner)))
            }
            Gate::Deal { src, what, owner } if owner == self.server => Ok((None, self.make_deal(id, src, what)?)),
            _ => Ok((None, Messages::default())),
        }
    }

    /// Where a reshare's words go: see [`ReplicatedProgram::message_bytes`].
    fn addressed(&self, packed: Vec<u8>, owner: Option<Server>) -> Messages {
        match owner.map(|owner| self.server.role(owner)) {
            None | Some(Role::Before) => Messages { before: packed, after: Vec::new() },
            Some(Role::After) => Messages { before: Vec::new(), after: packed },
            Some(Role::Owner) => Messages { before: packed.clone(), after: packed },
        }
    }

    /// The replicated value: own and next word, or with an owner `b` in two words of keys and `a`, the sum of all that was sent.
    fn joined(
        &self,
        id: GateId,
        owner: Option<Server>,
        own: Wiped<u64>,
        [previous, next]: [Vec<u64>; 2],
        add: &dyn Fn(&mut [u64], &[u64]),
        mask: u64,
    ) -> Value {
        let Some(role) = owner.map(|owner| self.server.role(owner)) else { return Value::Pair([own.keep(), next]) };
        if role == Role::Owner {
            return Value::Pair(self.owned_words(id).map(Wiped::keep));
        }
        let keyed = if role == Role::Before { &self.right } else { &self.left };
        let keyed = keyed.words(id.stream(), Purpose::Product, 0, 0, own.len()).keep();
        let mut known = own.keep();
        add(&mut known, &previous);
        add(&mut known, &next);
        known.iter_mut().for_each(|a| *a &= mask);
        Value::Pair(if role == Role::Before { [known, keyed] } else { [keyed, known] })
    }

    /// Takes the frames of the round last announced, from the server before and from the one after.
    pub fn absorb(&mut self, from_previous: &[u8], from_next: &[u8]) -> Result<(), MachineError> {
        let plan = Arc::clone(&self.plan);
        let Some(Step::Exchange { gates, last }) = plan.steps.get(self.step) else {
            return Err(MachineError::OutOfStep("no exchange is under way"));
        };
        let pending = self.pending.take().ok_or(MachineError::OutOfStep("frames came before any were sent"))?;
        let (previous, next) = (self.server.previous(), self.server.next());
        let expected = [plan.frame_bytes(gates, previous).1, plan.frame_bytes(gates, next).0];
        for (expected, frame) in expected.into_iter().zip([from_previous, from_next]) {
            if frame.len() != expected {
                return Err(MachineError::FrameLength { round: self.round, expected, actual: frame.len() });
            }
        }
        let (mut from_previous, mut from_next) = (from_previous, from_next);
        for (id, own) in gates.iter().zip(pending) {
            let (next_part, rest) = from_next.split_at(plan.message_bytes(*id, next).0);
            from_next = rest;
            let (previous_part, rest) = from_previous.split_at(plan.message_bytes(*id, previous).1);
            from_previous = rest;
            let value = match (&plan.gate(*id).gate, own) {
                (Gate::Reshare { bits, owner, .. }, Some(own)) => {
                    let words = |part: &[u8]| {
                        let mut words = Vec::with_capacity(own.len());
                        let len = if part.is_empty() { 0 } else { own.len() };
                        unpack(*bits, part, len, &mut words)
                            .map_err(|_| MachineError::OutOfStep("a server's frame is not packed words"))?;
                        Ok::<_, MachineError>(words)
                    };
                    let theirs = [words(previous_part)?, words(next_part)?];
                    self.joined(*id, *owner, own, theirs, &|a, b| kernel::add(a, b), low(*bits))
                }
                (Gate::ReshareBits { owner, .. }, Some(own)) => {
                    let words = |part: &[u8]| part.as_chunks::<8>().0.iter().map(|c| u64::from_le_bytes(*c)).collect();
                    self.joined(*id, *owner, own, [words(previous_part), words(next_part)], &exclusive, u64::MAX)
                }
                // One of the two is empty.
                _ => Value::Dealt([previous_part, next_part].concat()),
            };
            self.values[id.index()] = Some(value);
        }
        self.forget(last);
        self.step += 1;
        self.round += 1;
        Ok(())
    }

    pub(super) fn own(&self, id: GateId) -> Result<&[u64], MachineError> {
        match &self.values[id.index()] {
            Some(Value::Own(words)) => Ok(words),
            _ => Err(MISSING),
        }
    }

    pub(super) fn pair(&self, id: GateId) -> Result<[&[u64]; 2], MachineError> {
        if let Gate::Weight(layer) = self.plan.gate(id).gate {
            return Ok(self.weights.layer(layer));
        }
        match &self.values[id.index()] {
            Some(Value::Pair([a, b])) => Ok([a, b]),
            _ => Err(MISSING),
        }
    }

    pub(super) fn dealt(&self, id: GateId) -> Result<&[u8], MachineError> {
        match &self.values[id.index()] {
            Some(Value::Dealt(bytes)) => Ok(bytes),
            _ => Err(MISSING),
        }
    }

    fn run(&mut self, id: GateId, last: &[GateId]) -> Result<(), MachineError> {
        let plan = Arc::clone(&self.plan);
        let node = plan.gate(id);
        let value = match &node.gate {
            Gate::Linear(program_node) => Value::Own(match self.linear(id, *program_node, last)? {
                Some(words) => words,
                None => return Ok(()),
            }),
            Gate::Weight(_) => return Ok(()),
            Gate::Own(src) => Value::Own(self.pair(*src)?[0].to_vec()),
            Gate::Differences { src, count, pairs } => {
                Value::Pair(self.pair(*src)?.map(|words| differences(words, *count, pairs)))
            }
            Gate::Multiply(a, b) => Value::Own(self.multiply(node.len, *a, *b)?),
            Gate::MatMul { a, b, node } => Value::Own(self.matmul(*a, *b, *node)?),
            Gate::Lift { src, dealt } => Value::Own(self.lift(id, *src, *dealt)?),
            Gate::Series { src, dealt } => Value::Own(self.series(id, *src, *dealt)?),
            Gate::Piecewise { src, dealt } => Value::Own(self.piecewise(id, *src, *dealt)?),
            Gate::Blocks { src, dealt } => Value::Own(self.carry_blocks(id, *src, *dealt)?),
            Gate::Combine { src, compare, blocks } => Value::Own(plan.compares[*compare].combine(self.pair(*src)?, *blocks)),
            Gate::Signs { src, dealt, carries } => Value::Own(self.signs(*src, *dealt, *carries)?),
            Gate::Arithmetic { src, dealt } => Value::Own(self.arithmetic(id, *src, *dealt)?),
            Gate::Combination { terms, constant } => {
                let mut out = vec![if self.server == Server::S0 { *constant as u64 } else { 0 }; node.len];
                for (term, by) in terms {
                    out.iter_mut().zip(self.own(*term)?).for_each(|(o, x)| *o = o.wrapping_add(x.wrapping_mul(*by as u64)));
                }
                Value::Own(out)
            }
            Gate::Reshare { .. } | Gate::ReshareBits { .. } | Gate::Deal { .. } => {
                return Err(MachineError::OutOfStep("a message is not computed locally"));
            }
        };
        self.values[id.index()] = Some(value);
        Ok(())
    }

    fn who(&self) -> Who {
        if self.server == Server::S0 { Who::First } else { Who::Second }
    }

    /// The gate that holds a node of the program, which is linear.
    fn source(&self, node: NodeId) -> Result<GateId, MachineError> {
        self.plan.additive[node.index()].ok_or(MISSING)
    }

    /// A linear node, in its operand's memory where that is not needed any more; none if its value is there from the start.
    fn linear(&mut self, id: GateId, node: NodeId, last: &[GateId]) -> Result<Option<Vec<u64>>, MachineError> {
        let plan = Arc::clone(&self.plan);
        let public = Arc::clone(&self.public);
        let op = &plan.program.node(node).op;
        match op {
            Op::Input(_) => return self.own(id).map(|_| None),
            Op::PrivateBias(layer) => return Ok(Some(self.weights.bias(*layer).to_vec())),
            _ => {}
        }
        let Some((src, other)) = local::overwritten(op) else {
            for operand in operands(op) {
                self.own(self.source(operand)?)?;
            }
            let words = |id: NodeId| self.source(id).and_then(|gate| self.own(gate)).unwrap_or_default();
            let mut out = Vec::with_capacity(plan.gate(id).len);
            if !local::evaluate(&public, self.who(), (op, 64), &words, &mut out) {
                return Err(MachineError::OutOfStep("an operation without an evaluation"));
            }
            return Ok(Some(out));
        };
        let src = self.source(src)?;
        let other = other.map(|id| self.source(id)).transpose()?;
        let mut words = if last.contains(&src) && other != Some(src) {
            match self.values[src.index()].take() {
                Some(Value::Own(words)) => words,
                _ => return Err(MISSING),
            }
        } else {
            self.own(src)?.to_vec()
        };
        if let Op::Truncate { ring, by, .. } = op {
            truncate(self.server, &mut words, *ring, *by);
        } else {
            let other = other.map_or(Ok(&[][..]), |id| self.own(id))?;
            local::overwrite(&public, self.who(), op, &mut words, other);
        }
        Ok(Some(words))
    }

    fn forget(&mut self, last: &[GateId]) {
        for id in last {
            match self.values[id.index()].take() {
                Some(Value::Own(mut words)) => words.zeroize(),
                Some(Value::Pair(mut pair)) => pair.iter_mut().for_each(Zeroize::zeroize),
                Some(Value::Dealt(mut bytes)) => bytes.zeroize(),
                None => {}
            }
        }
    }
}

fn exclusive(a: &mut [u64], b: &[u64]) {
    a.iter_mut().zip(b).for_each(|(a, b)| *a ^= b);
}

/// Differences of slices of `count` words.
pub(super) fn differences(words: &[u64], count: usize, pairs: &[(u32, u32)]) -> Vec<u64> {
    let slice = |i: u32| &words[i as usize * count..][..count];
    let pairs = pairs.iter().flat_map(|(a, b)| slice(*a).iter().zip(slice(*b)));
    pairs.map(|(a, b)| a.wrapping_sub(*b)).collect()
}

/// T2 of three: floors of three uniform words lose 3/2 in the mean, so server 0 adds a half before and one after.
pub(super) fn truncate(server: Server, words: &mut [u64], ring: u32, by: u32) {
    let first = server == Server::S0 && by > 0;
    if first {
        words.iter_mut().for_each(|x| *x = x.wrapping_add(1 << (by - 1)));
    }
    kernel::truncate(words, ring, by, u64::from(first));
}

impl Drop for ReplicatedParty {
    fn drop(&mut self) {
        let all: Vec<GateId> = (0..self.values.len() as u32).map(GateId).collect();
        self.forget(&all);
    }
}
