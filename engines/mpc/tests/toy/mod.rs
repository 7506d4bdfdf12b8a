//! A toy program: squares a vector `rounds` times over Z_2^64, so `x` becomes `x^(2^rounds)`.
//!
//! One round opens `d = x - a` for a dealt random `a` with shares of `c = a²`: `x² = d² + 2·d·a + c`.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sprint_mpc::{Dealing, Digest, Evaluation, Opening, PartyInput, ProgramShape, Role, RoleError, RoundShape, Workload};
use sprint_mpc_core::{Advance, DealerChunk, DealerMachine, MachineError, MaterialSource, PartyId, PartyMachine};

/// The toy's configuration, and the faults it can be told to have.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Toy {
    pub words: usize,
    pub rounds: u32,
    /// Enters the model digest.
    pub model: u8,
    /// Rounds that are declared but never happen.
    pub phantom_rounds: u32,
    /// This machine sleeps so long before each round.
    pub pause_ms: u64,
    /// This machine's process kills itself before this round's opening.
    pub dies_at: Option<u32>,
}

impl Default for Toy {
    fn default() -> Self {
        Self { words: 100, rounds: 5, model: 1, phantom_rounds: 0, pause_ms: 0, dies_at: None }
    }
}

impl Toy {
    pub fn workload(self) -> Arc<dyn Workload> {
        Arc::new(Loaded { toy: self, shapes: vec![self.shape(self.words), self.shape(2 * self.words)] })
    }

    /// Program 0 has `words` words, program 1 twice as many.
    fn shape(self, words: usize) -> ProgramShape {
        let round = |i: u32| RoundShape { bytes: [8 * words; 2], part: format!("layer.{}", i / 2), gate: "square".into() };
        ProgramShape {
            input_words: words,
            public_bytes: 4,
            output_words: words,
            rounds: (0..self.rounds + self.phantom_rounds).map(round).collect(),
            dealer_bytes: [16 * words as u64 * u64::from(self.rounds); 2],
        }
    }

    pub fn factory(_: Role, value: &serde_json::Value) -> Result<Arc<dyn Workload>, RoleError> {
        let toy: Self = serde_json::from_value(value.clone()).map_err(|e| RoleError::Config(e.to_string()))?;
        Ok(toy.workload())
    }

    /// What the program computes.
    pub fn expect(self, x: &[u64]) -> Vec<u64> {
        x.iter().map(|x| (0..self.rounds).fold(*x, |x, _| x.wrapping_mul(x))).collect()
    }
}

struct Loaded {
    toy: Toy,
    shapes: Vec<ProgramShape>,
}

impl Workload for Loaded {
    fn model(&self) -> Digest {
        Digest::new([self.toy.model; 32])
    }

    fn program(&self) -> Digest {
        Digest::new([self.toy.rounds as u8; 32])
    }

    fn shapes(&self) -> &[ProgramShape] {
        &self.shapes
    }

    fn opening_bytes(&self) -> usize {
        8
    }

    fn opening(&self, me: PartyId, seed: &[u8; 32]) -> Result<Box<dyn Opening>, MachineError> {
        Ok(Box::new(Common { toy: self.toy, me, frame: seed[..8].to_vec() }))
    }

    fn dealing(&self, _: [&[u8; 32]; 2]) -> Result<Box<dyn Dealing>, MachineError> {
        Ok(Box::new(Self { toy: self.toy, shapes: self.shapes.clone() }))
    }
}

/// The toy's inferences have nothing in common, but open a word all the same.
struct Common {
    toy: Toy,
    me: PartyId,
    frame: Vec<u8>,
}

impl Opening for Common {
    fn frame(&self) -> Vec<u8> {
        self.frame.clone()
    }

    fn finish(self: Box<Self>, _: &[u8]) -> Result<Box<dyn Evaluation>, MachineError> {
        Ok(self)
    }
}

impl Evaluation for Common {
    fn party(&self, _: u32, input: PartyInput) -> Result<Box<dyn PartyMachine>, MachineError> {
        Ok(Box::new(Squarer { toy: self.toy, me: self.me, x: words(&input.share), pending: None, round: 0 }))
    }
}

impl Dealing for Loaded {
    fn dealer(&self, program: u32) -> Result<Box<dyn DealerMachine>, MachineError> {
        Ok(Box::new(Dealt { words: self.shapes[program as usize].input_words, rounds: self.toy.rounds, next: 0 }))
    }
}

struct Squarer {
    toy: Toy,
    me: PartyId,
    x: Vec<u64>,
    /// Own share of `d`, of `a` and of `c`, until the peer's `d` is there.
    pending: Option<[Vec<u64>; 3]>,
    round: u32,
}

fn words(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect()
}

fn bytes(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_le_bytes()).collect()
}

impl PartyMachine for Squarer {
    fn advance(&mut self, material: &mut dyn MaterialSource) -> Result<Advance, MachineError> {
        if self.pending.is_some() {
            return Err(MachineError::OutOfStep("the peer's frame is due"));
        }
        if self.round == self.toy.rounds {
            return Ok(Advance::Finished { output: bytes(&self.x) });
        }
        if self.toy.dies_at == Some(self.round) {
            let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
        }
        std::thread::sleep(std::time::Duration::from_millis(self.toy.pause_ms));
        let n = self.x.len();
        let a = words(&material.take(8 * n)?);
        let c = words(&material.take(8 * n)?);
        let d: Vec<u64> = self.x.iter().zip(&a).map(|(x, a)| x.wrapping_sub(*a)).collect();
        let frame = bytes(&d);
        self.pending = Some([d, a, c]);
        self.round += 1;
        Ok(Advance::Exchange { round: self.round - 1, frame, peer_len: 8 * n })
    }

    fn absorb(&mut self, peer: &[u8]) -> Result<(), MachineError> {
        let [own, a, c] = self.pending.take().ok_or(MachineError::OutOfStep("no frame is due"))?;
        let actual = peer.len();
        if actual != own.len() * 8 {
            return Err(MachineError::FrameLength { round: self.round - 1, expected: own.len() * 8, actual });
        }
        for (i, theirs) in words(peer).into_iter().enumerate() {
            let d = own[i].wrapping_add(theirs);
            let square = if self.me == PartyId::P0 { d.wrapping_mul(d) } else { 0 };
            self.x[i] = square.wrapping_add(d.wrapping_mul(2).wrapping_mul(a[i])).wrapping_add(c[i]);
        }
        Ok(())
    }
}

struct Dealt {
    words: usize,
    rounds: u32,
    next: u32,
}

impl DealerMachine for Dealt {
    fn next_chunk(&mut self) -> Result<Option<DealerChunk>, MachineError> {
        if self.next == self.rounds {
            return Ok(None);
        }
        let mut random = vec![0; 24 * self.words];
        getrandom::fill(&mut random).map_err(|e| MachineError::Material(e.to_string()))?;
        let random = words(&random);
        let (a0, rest) = random.split_at(self.words);
        let (a1, c0) = rest.split_at(self.words);
        let c1 = (0..self.words).map(|i| {
            let a = a0[i].wrapping_add(a1[i]);
            a.wrapping_mul(a).wrapping_sub(c0[i])
        });
        let c1: Vec<u64> = c1.collect();
        let index = self.next;
        self.next += 1;
        Ok(Some(DealerChunk { index, to_party: [[bytes(a0), bytes(c0)].concat(), [bytes(a1), bytes(&c1)].concat()] }))
    }
}
