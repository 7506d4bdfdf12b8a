//! Each gate's ideal functionality, on tiny hand-built programs run by two parties and a dealer.

mod functions;
mod openings;
mod private;
mod products;
mod protocol;
mod weights;

use std::sync::Arc;

use crate::exec::randomness::{Purpose, Streams};
use crate::program::{Builder, Finish, Input, NodeId, Op, Program, Strided};
use crate::runner::{InMemory, RunReport};
use crate::weights::{PrivateWeights, PublicWeights};
use crate::{Inputs, OpenedWeights, Party, PartyId, WeightOpening};

/// A program over one input of words, and what is needed to run it.
struct Bench {
    program: Arc<Program>,
}

/// What came out of a run.
struct Outcome {
    words: Vec<u64>,
    report: RunReport,
}

impl Bench {
    /// `build` gets the input node of `len` words and returns the output node, valid in Z_2^ring.
    fn new(len: usize, ring: u32, build: impl FnOnce(&mut Builder, NodeId) -> NodeId) -> Self {
        let mut b = Builder::new();
        let input = b.input(Input::Embedded, len);
        let output = build(&mut b, input);
        Self::finish(b, len, ring, output)
    }

    fn finish(b: Builder, len: usize, ring: u32, output: NodeId) -> Self {
        let outputs = b.len(output);
        let finish = Finish {
            batch: 1,
            tokens: 1,
            hidden: len,
            outputs,
            input_bits: 0,
            output_bits: 0,
            output_ring: ring,
            output,
            key_mask: 0.0,
            alarms: 0,
            calibration: None,
        };
        Self { program: Arc::new(b.finish(finish)) }
    }

    fn public(&self) -> Arc<PublicWeights> {
        let recipes = self.program.weights_digest;
        Arc::new(PublicWeights { linears: Vec::new(), vectors: Vec::new(), recipes })
    }

    fn private(&self) -> PrivateWeights {
        PrivateWeights::from_bytes(&self.program, &[]).expect("no private layers")
    }

    /// No private layers, opened.
    fn opened(&self, party: PartyId) -> Arc<OpenedWeights> {
        let opening = WeightOpening::new(&self.program, Arc::new(self.private()), party, &[0; 32]).expect("the program's");
        Arc::new(opening.finish(&[]).expect("an empty frame"))
    }

    fn party(&self, party: PartyId, share: &[u8]) -> Party {
        let inputs = Inputs::from_bytes(&self.program, share).expect("the program's length");
        Party::new(Arc::clone(&self.program), self.public(), self.opened(party), party, &seeds(1)[party.index()], inputs)
    }

    fn runner(&self) -> InMemory {
        InMemory::new(Arc::clone(&self.program), self.public(), [self.private(), self.private()]).keeping_frames()
    }

    /// Runs on `input`, whose words are random above what the first opening reads; checks the declared cost.
    fn run(&self, input: &[u64], seed: u8) -> Outcome {
        let (report, shares) = self.runner().lockstep(&split(input, seed), seeds(seed)).expect("runs");
        let cost = self.program.cost();
        assert_eq!(report.rounds, cost.rounds);
        assert_eq!(report.online_bytes, [cost.online_bytes; 2]);
        assert_eq!(report.dealer_bytes, cost.dealer_bytes);
        let mask = super::randomness::low(self.program.output_ring);
        let [a, b] = shares.map(|s| words(&s));
        Outcome { words: a.iter().zip(&b).map(|(a, b)| a.wrapping_add(*b) & mask).collect(), report }
    }
}

fn seeds(seed: u8) -> [[u8; 32]; 2] {
    [[seed; 32], [seed ^ 0x80; 32]]
}

/// Pseudo-random words for tests.
fn noise(seed: u8, len: usize) -> Vec<u64> {
    Streams::new(&[seed; 32], &[77; 32], PartyId::P0).words(NodeId(0), Purpose::Mask, 0, 0, len).keep()
}

fn split(input: &[u64], seed: u8) -> [Vec<u8>; 2] {
    let mask = noise(seed ^ 0x55, input.len());
    let first = mask.iter().flat_map(|r| r.to_le_bytes()).collect();
    [first, input.iter().zip(&mask).flat_map(|(x, r)| x.wrapping_sub(*r).to_le_bytes()).collect()]
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|c| u64::from_le_bytes(*c)).collect()
}

/// Words `from .. from + len` of a node.
fn slice(b: &mut Builder, src: NodeId, from: usize, len: usize) -> NodeId {
    b.push(Op::Gather { src, view: Strided::new(from, &[(len, 1)]) }, len)
}

fn open(b: &mut Builder, src: NodeId, bits: u32, lifted: bool) -> NodeId {
    let len = b.len(src);
    b.push(Op::Open { src, bits, lifted, checked: lifted, share: 64 }, len)
}

fn lift(b: &mut Builder, src: NodeId) -> NodeId {
    let len = b.len(src);
    b.push(Op::Lift(src), len)
}
