//! Dealer and both parties in lockstep in one process: for tests and for `embed`-like commands. Nothing is hidden from anyone here.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::client::{ClientInput, decode_logits, logits};
use crate::exec::{Dealer, Inputs, Party, SimulateError, WeightMasks, WeightOpening, simulate};
use crate::program::Program;
use crate::weights::{PrivateWeights, PublicWeights};
use crate::{Advance, DealerMachine, MachineError, MaterialSource, PartyId, PartyMachine};

/// What a run in lockstep really sent.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunReport {
    /// Logits, `[batch][outputs]`.
    pub logits: Vec<Vec<f32>>,
    /// Exchanges.
    pub rounds: u32,
    /// Bytes each party sent.
    pub online_bytes: [u64; 2],
    /// Bytes the dealer sent to each party.
    pub dealer_bytes: [u64; 2],
    /// Both parties' frames of every round, if asked for: what an eavesdropping test looks at.
    pub frames: Vec<[Vec<u8>; 2]>,
    /// Both parties' frames that opened the private weights; always kept.
    pub weight_frames: [Vec<u8>; 2],
}

/// A program with its weights, ready to run in one process.
pub struct InMemory {
    program: Arc<Program>,
    public: Arc<PublicWeights>,
    private: [Arc<PrivateWeights>; 2],
    keep_frames: bool,
}

/// Dealt chunks not yet taken by a party.
#[derive(Default)]
struct Queue {
    chunks: VecDeque<Vec<u8>>,
    /// Bytes taken of the first chunk, and of all.
    offset: usize,
    taken: u64,
}

impl Queue {
    /// The first chunk, if it is just what is wanted.
    fn whole(&mut self, wanted: usize) -> Option<Vec<u8>> {
        let fits = self.offset == 0 && self.chunks.front().is_some_and(|c| c.len() == wanted);
        self.taken += if fits { wanted as u64 } else { 0 };
        fits.then(|| self.chunks.pop_front()).flatten()
    }

    /// Moves up to `wanted` bytes of the first chunk to `out`; `false` if there is none.
    fn drain(&mut self, wanted: usize, out: &mut Vec<u8>) -> bool {
        let Some(first) = self.chunks.front() else { return false };
        let part = wanted.min(first.len() - self.offset);
        out.extend_from_slice(&first[self.offset..self.offset + part]);
        self.offset += part;
        self.taken += part as u64;
        if self.offset == first.len() {
            self.chunks.pop_front();
            self.offset = 0;
        }
        true
    }
}

struct Feed<'a> {
    dealer: &'a mut Dealer,
    queues: &'a mut [Queue; 2],
    party: usize,
}

impl MaterialSource for Feed<'_> {
    fn take(&mut self, bytes: usize) -> Result<Vec<u8>, MachineError> {
        if let Some(whole) = self.queues[self.party].whole(bytes) {
            return Ok(whole);
        }
        let mut out = Vec::with_capacity(bytes);
        while out.len() < bytes {
            if self.queues[self.party].drain(bytes - out.len(), &mut out) {
                continue;
            }
            let Some(chunk) = self.dealer.next_chunk()? else {
                return Err(MachineError::Material("the dealer has no more".into()));
            };
            self.queues.iter_mut().zip(chunk.to_party).filter(|(_, c)| !c.is_empty()).for_each(|(q, c)| q.chunks.push_back(c));
        }
        Ok(out)
    }
}

impl InMemory {
    /// Takes a program and its weights.
    pub fn new(program: Arc<Program>, public: Arc<PublicWeights>, private: [PrivateWeights; 2]) -> Self {
        Self { program, public, private: private.map(Arc::new), keep_frames: false }
    }

    /// The same weights under a program of another batch or length.
    pub fn reshaped(&self, program: Arc<Program>) -> Result<Self, MachineError> {
        if program.weights_digest != self.program.weights_digest {
            return Err(MachineError::Input("the weights were prepared for another model".into()));
        }
        let (public, private) = (Arc::clone(&self.public), self.private.each_ref().map(Arc::clone));
        Ok(Self { program, public, private, keep_frames: self.keep_frames })
    }

    /// Keeps every frame in the report.
    #[must_use]
    pub fn keeping_frames(mut self) -> Self {
        self.keep_frames = true;
        self
    }

    /// One inference. `seeds` are the parties' and must be fresh for every call.
    pub fn run(
        &self,
        input: &ClientInput,
        seeds: [[u8; 32]; 2],
        mask: &mut dyn FnMut(&mut [u64]),
    ) -> Result<RunReport, MachineError> {
        let (mut report, [a, b]) = self.lockstep(&input.share(mask), seeds)?;
        report.logits = decode_logits(&self.program, [&a, &b])?;
        Ok(report)
    }

    /// The same from input shares to output shares.
    pub(crate) fn lockstep(
        &self,
        shares: &[Vec<u8>; 2],
        seeds: [[u8; 32]; 2],
    ) -> Result<(RunReport, [Vec<u8>; 2]), MachineError> {
        // As if every run were a session of its own.
        let weight_seeds = seeds.map(|seed| blake3::derive_key("sprint-flow mpc weight seed of one run v1", &seed));
        let weights = Arc::new(WeightMasks::new(&self.program, [&weight_seeds[0], &weight_seeds[1]]));
        let mut dealer = Dealer::new(Arc::clone(&self.program), weights, [&seeds[0], &seeds[1]]);
        let open = |party: PartyId| {
            let at = party.index();
            WeightOpening::new(&self.program, Arc::clone(&self.private[at]), party, &weight_seeds[at])
        };
        let (first, second) = (open(PartyId::P0)?, open(PartyId::P1)?);
        let frames = [first.frame(), second.frame()];
        let opened = [first.finish(&frames[1])?, second.finish(&frames[0])?].map(Arc::new);
        let mut parties = Vec::new();
        for party in [PartyId::P0, PartyId::P1] {
            let at = party.index();
            let inputs = Inputs::from_bytes(&self.program, &shares[at])?;
            let (program, public, private) = (Arc::clone(&self.program), Arc::clone(&self.public), Arc::clone(&opened[at]));
            parties.push(Party::new(program, public, private, party, &seeds[at], inputs));
        }
        let mut queues = [Queue::default(), Queue::default()];
        let mut report = RunReport::default();
        loop {
            let mut steps = Vec::new();
            for (at, party) in parties.iter_mut().enumerate() {
                steps.push(party.advance(&mut Feed { dealer: &mut dealer, queues: &mut queues, party: at })?);
            }
            match (steps.swap_remove(0), steps.swap_remove(0)) {
                (Advance::Exchange { frame: a, .. }, Advance::Exchange { frame: b, .. }) => {
                    parties[0].absorb(&b)?;
                    parties[1].absorb(&a)?;
                    report.rounds += 1;
                    report.online_bytes[0] += a.len() as u64;
                    report.online_bytes[1] += b.len() as u64;
                    if self.keep_frames {
                        report.frames.push([a, b]);
                    }
                }
                (Advance::Finished { output: a }, Advance::Finished { output: b }) => {
                    report.dealer_bytes = queues.map(|q| q.taken);
                    report.weight_frames = frames;
                    return Ok((report, [a, b]));
                }
                _ => return Err(MachineError::OutOfStep("one party finished before the other")),
            }
        }
    }

    /// The same in the clear on ring integers.
    pub fn simulate(&self, input: &ClientInput) -> Result<Vec<Vec<f32>>, SimulateError> {
        let private = [&*self.private[0], &*self.private[1]];
        let words = simulate(&self.program, &self.public, private, &input.words)?;
        Ok(logits(&self.program, &words)?)
    }
}
