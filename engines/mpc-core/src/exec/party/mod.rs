//! One party's side of a program.
//!
//! Values are forgotten at their last use; their memory serves later ones and is wiped when it goes back to the allocator.

mod alarm;
mod gates;
mod opening;
pub(super) mod private;
mod product;

use std::sync::Arc;

use zeroize::Zeroize;

use super::local::{self, Who};
use super::opened::OpenedWeights;
use super::randomness::{Streams, low};
use super::wiped::wipe;
use crate::program::{Input, NodeId, Op, Program, Step, operands};
use crate::weights::PublicWeights;
use crate::{Advance, MachineError, MaterialSource, PartyId, PartyMachine};
use opening::Pending;

/// A party's share of a client's inputs: words by input, in the program's order.
pub struct Inputs(pub(crate) Vec<(Input, Vec<u64>)>);

impl Inputs {
    /// Reads a share as it came from the client; its length is decided by the program.
    pub fn from_bytes(program: &Program, bytes: &[u8]) -> Result<Self, MachineError> {
        if bytes.len() != program.input_len() {
            let expected = program.input_len();
            return Err(MachineError::Input(format!("input share of {} bytes where the program has {expected}", bytes.len())));
        }
        let mut words = bytes.as_chunks::<8>().0.iter().map(|c| u64::from_le_bytes(*c));
        Ok(Self(program.inputs.iter().map(|i| (*i, words.by_ref().take(program.input_words(*i)).collect())).collect()))
    }
}

/// What a node is while later steps may read it.
enum Value {
    Words(Vec<u64>),
    Bits(Vec<u8>),
    /// `hat = x + r` in Z_2^n, and a share of `x` in the ring it may be used in (none for a difference of openings).
    Opened {
        hat: Vec<u64>,
        share: Vec<u64>,
    },
    /// `hat = b ⊕ t`, and an arithmetic share of `b`.
    OpenedBits {
        hat: Vec<u64>,
        share: Vec<u64>,
    },
}

/// Memory of forgotten values, a few at a time, for later ones.
#[derive(Default)]
struct Pool(Vec<Vec<u64>>);

impl Pool {
    /// How many are kept.
    const KEPT: usize = 12;

    /// An empty vector, with room for `len` words if there is a kept one with that much.
    fn empty(&mut self, len: usize) -> Vec<u64> {
        let fits = self.0.iter().enumerate().filter(|(_, v)| v.capacity() >= len);
        match fits.min_by_key(|(_, v)| v.capacity()).map(|(at, _)| at) {
            Some(at) => self.0.swap_remove(at),
            None => Vec::with_capacity(len),
        }
    }

    fn give(&mut self, mut words: Vec<u64>) {
        words.clear();
        self.0.push(words);
        if self.0.len() > Self::KEPT {
            let smallest = self.0.iter().enumerate().min_by_key(|(_, v)| v.capacity()).map_or(0, |(at, _)| at);
            wipe(&mut self.0.swap_remove(smallest));
        }
    }
}

/// One party's side of one inference, as a state machine. Its seed and its material are for this inference alone.
pub struct Party {
    program: Arc<Program>,
    public: Arc<PublicWeights>,
    private: Arc<OpenedWeights>,
    party: PartyId,
    streams: Streams,
    values: Vec<Option<Value>>,
    step: usize,
    round: u32,
    /// The exchange under way.
    pending: Option<Vec<Pending>>,
    pool: Pool,
}

impl Party {
    /// Ready for the first step. `seed` comes from the dealer and is used for this inference only.
    pub fn new(
        program: Arc<Program>,
        public: Arc<PublicWeights>,
        private: Arc<OpenedWeights>,
        party: PartyId,
        seed: &[u8; 32],
        inputs: Inputs,
    ) -> Self {
        let streams = Streams::new(seed, &program.digest(), party);
        let mut values: Vec<Option<Value>> = Vec::new();
        values.resize_with(program.nodes.len(), || None);
        for (input, words) in inputs.0 {
            if let Some(at) = program.nodes.iter().position(|n| n.op == Op::Input(input) && n.len == words.len()) {
                values[at] = Some(Value::Words(words));
            }
        }
        let pool = Pool::default();
        Self { program, public, private, party, streams, values, step: 0, round: 0, pending: None, pool }
    }

    fn who(&self) -> Who {
        if self.first() { Who::First } else { Who::Second }
    }

    /// Whether this party adds public constants.
    fn first(&self) -> bool {
        self.party == PartyId::P0
    }

    fn words(&self, id: NodeId) -> Result<&[u64], MachineError> {
        match &self.values[id.index()] {
            Some(Value::Words(words)) => Ok(words),
            _ => Err(MISSING),
        }
    }

    /// The opened words of a value.
    fn hat(&self, id: NodeId) -> Result<&[u64], MachineError> {
        match &self.values[id.index()] {
            Some(Value::Opened { hat, .. } | Value::OpenedBits { hat, .. }) => Ok(hat),
            _ => Err(MISSING),
        }
    }

    /// The arithmetic share of an opened value or bit.
    fn share(&self, id: NodeId) -> Result<&[u64], MachineError> {
        match &self.values[id.index()] {
            Some(Value::Opened { share, .. } | Value::OpenedBits { share, .. }) => Ok(share),
            _ => Err(MISSING),
        }
    }

    /// Weights made for another program have other shapes: they are refused before anything reads them.
    fn check_weights(&self) -> Result<(), MachineError> {
        if self.public.recipes != self.program.weights_digest {
            return Err(MachineError::Input("the weights were prepared for another model".into()));
        }
        self.private.fit(&self.program)
    }

    fn run(&mut self, id: NodeId, last: &[NodeId], material: &mut dyn MaterialSource) -> Result<(), MachineError> {
        let program = Arc::clone(&self.program);
        let node = program.node(id);
        let out = self.pool.empty(node.len);
        let value = match &node.op {
            Op::Input(_) => return self.words(id).map(|_| ()),
            Op::PrivateWeight(_) => return Ok(()),
            Op::PrivateBias(layer) => words_from(out, self.private.bias(*layer)),
            Op::Lift(src) => words_from(out, self.share(*src)?),
            Op::Differences { src, count, pairs } => self.differences(*src, *count, pairs, out)?,
            Op::Product { forms, bits } => Value::Words(self.product(id, node, forms, *bits, material, out)?),
            Op::MatMul { .. } => Value::Words(self.matmul(id, node, material)?),
            Op::Intervals { src, drop, intervals } => Value::Bits(self.intervals(id, node, *src, *drop, intervals, material)?),
            Op::Series { .. } => Value::Words(self.series(id, node, material, out)?),
            Op::Polynomial { src, coefficients } => Value::Words(self.polynomial(id, node, *src, coefficients, material, out)?),
            Op::Piecewise { src, pieces } => {
                Value::Words(self.piecewise(id, node, *src, &self.program.pieces[*pieces as usize], material, out)?)
            }
            Op::Alarm { src, coins, planes, examples } => Value::Words(self.alarm(*src, *coins, *planes, *examples, out)?),
            Op::LiftCheck { wide, open, ring, examples } => Value::Words(self.lift_check(*wide, *open, *ring, *examples, out)?),
            op => Value::Words(self.local(op, last, program.read[id.index()], out)?),
        };
        self.values[id.index()] = Some(value);
        Ok(())
    }

    /// A local operation, right mod `2^bits`, in its operand's memory where that is not needed any more.
    fn local(&mut self, op: &Op, last: &[NodeId], bits: u32, mut out: Vec<u64>) -> Result<Vec<u64>, MachineError> {
        let public = Arc::clone(&self.public);
        let Some((src, other)) = local::overwritten(op) else {
            let operands = operands(op);
            operands.iter().try_for_each(|id| self.words(*id).map(|_| ()))?;
            let words = |id: NodeId| self.words(id).unwrap_or_default();
            if !local::evaluate(&public, self.who(), (op, bits), &words, &mut out) {
                return Err(MachineError::OutOfStep("an operation without an evaluation"));
            }
            return Ok(out);
        };
        let (same, owned) = (other == Some(src), last.contains(&src));
        let mut words = if owned && !same && matches!(self.values[src.index()], Some(Value::Words(_))) {
            self.pool.give(out);
            match self.values[src.index()].take() {
                Some(Value::Words(words)) => words,
                _ => return Err(MISSING),
            }
        } else {
            out.extend_from_slice(self.words(src)?);
            out
        };
        let other = other.map_or(Ok(&[][..]), |id| self.words(id))?;
        local::overwrite(&public, self.who(), op, &mut words, other);
        Ok(words)
    }

    /// Differences of slices of an opening: opened under the differences of their masks.
    fn differences(&self, src: NodeId, count: usize, pairs: &[(u32, u32)], mut out: Vec<u64>) -> Result<Value, MachineError> {
        let mask = low(self.program.open_bits(src));
        let hat = self.hat(src)?;
        for (a, b) in pairs {
            let [a, b] = [a, b].map(|i| &hat[*i as usize * count..][..count]);
            out.extend(a.iter().zip(b).map(|(a, b)| a.wrapping_sub(*b) & mask));
        }
        Ok(Value::Opened { hat: out, share: Vec::new() })
    }

    fn forget(&mut self, last: &[NodeId]) {
        for id in last {
            match self.values[id.index()].take() {
                Some(Value::Words(words)) => self.pool.give(words),
                Some(Value::Opened { hat, share } | Value::OpenedBits { hat, share }) => {
                    self.pool.give(hat);
                    self.pool.give(share);
                }
                Some(Value::Bits(mut bits)) => bits.zeroize(),
                None => {}
            }
        }
    }
}

/// A value that is not there: an input of another program.
const MISSING: MachineError = MachineError::OutOfStep("a value that a step reads is missing");

fn words_from(mut out: Vec<u64>, words: &[u64]) -> Value {
    out.extend_from_slice(words);
    Value::Words(out)
}

impl PartyMachine for Party {
    fn advance(&mut self, material: &mut dyn MaterialSource) -> Result<Advance, MachineError> {
        if self.pending.is_some() {
            return Err(MachineError::OutOfStep("the peer's frame is still missing"));
        }
        if self.step == 0 {
            self.check_weights()?;
        }
        let program = Arc::clone(&self.program);
        while let Some(step) = program.steps.get(self.step) {
            match step {
                Step::Run { node, last } => {
                    self.run(*node, last, material)?;
                    self.forget(last);
                    self.step += 1;
                }
                Step::Exchange { opens, .. } => {
                    let frame = self.mask(opens, material)?;
                    return Ok(Advance::Exchange { round: self.round, peer_len: frame.len(), frame });
                }
            }
        }
        let (outputs, alarms) = self.words(program.output)?.split_at(program.batch * program.outputs);
        let outputs = outputs.iter().map(|w| w & low(program.output_ring));
        let output = outputs.chain(alarms.iter().copied()).flat_map(u64::to_le_bytes).collect();
        Ok(Advance::Finished { output })
    }

    fn absorb(&mut self, peer: &[u8]) -> Result<(), MachineError> {
        let program = Arc::clone(&self.program);
        let Some(Step::Exchange { opens, last }) = program.steps.get(self.step) else {
            return Err(MachineError::OutOfStep("no exchange is under way"));
        };
        let expected = opens.iter().map(|id| program.frame_bytes(*id)).sum();
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

impl Drop for Party {
    fn drop(&mut self) {
        let all: Vec<NodeId> = (0..self.values.len() as u32).map(NodeId).collect();
        self.forget(&all);
        self.pool.0.iter_mut().for_each(wipe);
    }
}
