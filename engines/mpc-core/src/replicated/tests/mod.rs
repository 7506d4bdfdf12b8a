//! Each gate's ideal functionality, on tiny hand-built programs run by three servers, and what each of them sees.

mod gates;
mod views;

use std::sync::Arc;

use super::{ReplicatedProgram, ReplicatedReport, Server, ThreeInMemory};
use crate::compile::{Lowering, Val};
use crate::exec::randomness::{Purpose, Streams, low};
use crate::program::{Builder, Finish, Input, NodeId, Op, Program, Strided};
use crate::weights::{PrivateWeights, PublicWeights};

/// A program over one input of words, and what is needed to run it.
struct Bench {
    plan: Arc<ReplicatedProgram>,
}

/// What came out of a run.
struct Outcome {
    words: Vec<u64>,
    report: ReplicatedReport,
}

impl Bench {
    /// `build` gets the input node of `len` words and returns the output node, valid in Z_2^ring.
    fn new(len: usize, ring: u32, build: impl FnOnce(&mut Builder, NodeId) -> NodeId) -> Self {
        Self { plan: Arc::new(ReplicatedProgram::new(program(len, ring, build)).expect("translates")) }
    }

    /// `build` gets the input as a value in Z_2^ring with `f` fractional bits, and the lowering of three servers.
    fn lowered(len: usize, (ring, f): (u32, u32), build: impl FnOnce(&mut Lowering, Val) -> Val) -> (Self, Val) {
        let mut lowering = Lowering::bare(1);
        lowering.by_difference = true;
        let node = lowering.b.input(Input::Embedded, len);
        let out = build(&mut lowering, Val { node, ring, f });
        let program = finished(lowering.b, len, out.ring, out.node);
        (Self { plan: Arc::new(ReplicatedProgram::new(program).expect("translates")) }, out)
    }

    fn runner(&self) -> ThreeInMemory {
        let program = self.plan.program();
        let public = PublicWeights { linears: Vec::new(), vectors: Vec::new(), recipes: program.weights_digest };
        let none = || PrivateWeights::from_bytes(program, &[]).expect("no private layers");
        ThreeInMemory::new(Arc::clone(&self.plan), Arc::new(public), [none(), none(), none()]).expect("the program's weights")
    }

    /// Runs on `input` and checks the declared cost.
    fn run(&self, input: &[u64], seed: u8) -> Outcome {
        let (report, shares) = self.runner().keeping_frames().lockstep(&split(input, seed), [seed; 32]).expect("runs");
        let cost = self.plan.cost();
        assert_eq!((report.rounds, report.online_bytes), (cost.rounds, cost.online_bytes));
        let mask = low(self.plan.program().output_ring);
        let shares = shares.map(|s| s.as_chunks::<8>().0.iter().map(|c| u64::from_le_bytes(*c)).collect::<Vec<_>>());
        let sum = |i: usize| shares.iter().fold(0u64, |sum, s| sum.wrapping_add(s[i])) & mask;
        Outcome { words: (0..shares[0].len()).map(sum).collect(), report }
    }
}

fn program(len: usize, ring: u32, build: impl FnOnce(&mut Builder, NodeId) -> NodeId) -> Arc<Program> {
    let mut b = Builder::new();
    let input = b.input(Input::Embedded, len);
    let output = build(&mut b, input);
    finished(b, len, ring, output)
}

fn finished(b: Builder, len: usize, ring: u32, output: NodeId) -> Arc<Program> {
    let finish = Finish {
        batch: 1,
        tokens: 1,
        hidden: len,
        outputs: b.len(output),
        input_bits: 0,
        output_bits: 0,
        output_ring: ring,
        output,
        key_mask: 0.0,
        alarms: 0,
        calibration: None,
    };
    Arc::new(b.finish(finish))
}

/// Pseudo-random words for tests.
fn noise(seed: u8, len: usize) -> Vec<u64> {
    Streams::of_pair(&[seed; 32], &[77; 32], 9).words(NodeId(0), Purpose::Mask, 0, 0, len).keep()
}

fn split(input: &[u64], seed: u8) -> [Vec<u8>; 3] {
    let masks = [noise(seed ^ 0x55, input.len()), noise(seed ^ 0xaa, input.len())];
    let rest = input.iter().zip(&masks[0]).zip(&masks[1]).map(|((x, a), b)| x.wrapping_sub(*a).wrapping_sub(*b)).collect();
    let [a, b] = masks;
    [a, b, rest].map(|words: Vec<u64>| words.iter().flat_map(|w| w.to_le_bytes()).collect())
}

/// Values that an n-bit lifted opening accepts, edges first.
fn in_range(bits: u32, count: usize, seed: u8) -> Vec<i64> {
    let limit = 1i64 << (bits - 2);
    let edges = [0, 1, -1, limit - 1, -limit, limit / 2, -limit / 2];
    let random = noise(seed, count).into_iter().map(|w| (w as i64).rem_euclid(2 * limit) - limit);
    edges.into_iter().chain(random).collect()
}

/// The same as words, with junk above `bits`, which means nothing.
fn with_junk(values: &[i64], bits: u32, seed: u8) -> Vec<u64> {
    let junk = noise(seed ^ 0x0f, values.len());
    values.iter().zip(junk).map(|(v, j)| if bits < 64 { (*v as u64).wrapping_add(j << bits) } else { *v as u64 }).collect()
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
