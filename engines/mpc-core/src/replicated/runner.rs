//! Three servers in lockstep in one process: for tests and for `embed`-like commands. Nothing is hidden from anyone here.

use std::sync::Arc;

use super::party::{ReplicatedAdvance, ReplicatedParty};
use super::plan::ReplicatedProgram;
use super::server::Server;
use super::share::{ReplicatedWeights, decode_three, share_input_in_three};
use crate::MachineError;
use crate::client::ClientInput;
use crate::exec::Inputs;
use crate::weights::{PrivateWeights, PublicWeights};

/// What a run in lockstep really sent.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ReplicatedReport {
    /// Logits, `[batch][outputs]`.
    pub logits: Vec<Vec<f32>>,
    /// Exchanges.
    pub rounds: u32,
    /// Bytes each server sent.
    pub online_bytes: [u64; 3],
    /// Every round's frames, to the server before and to the one after, of each server; if asked for.
    pub frames: Vec<[[Vec<u8>; 2]; 3]>,
}

/// A program with its weights, ready to run in one process.
pub struct ThreeInMemory {
    plan: Arc<ReplicatedProgram>,
    public: Arc<PublicWeights>,
    weights: [Arc<ReplicatedWeights>; 3],
    keep_frames: bool,
}

impl ThreeInMemory {
    /// Takes a program and its weights; servers pass their shares on here.
    pub fn new(
        plan: Arc<ReplicatedProgram>,
        public: Arc<PublicWeights>,
        private: [PrivateWeights; 3],
    ) -> Result<Self, MachineError> {
        let private = private.map(Arc::new);
        let join = |server: Server| {
            let next = private[server.next().index()].to_bytes();
            ReplicatedWeights::join(plan.program(), server, Arc::clone(&private[server.index()]), &next).map(Arc::new)
        };
        let weights = [join(Server::S0)?, join(Server::S1)?, join(Server::S2)?];
        Ok(Self { plan, public, weights, keep_frames: false })
    }

    /// Keeps every frame in the report.
    #[must_use]
    pub fn keeping_frames(mut self) -> Self {
        self.keep_frames = true;
        self
    }

    /// One inference. `seed` stands for the pair seeds and must be fresh for every call.
    pub fn run(
        &self,
        input: &ClientInput,
        seed: [u8; 32],
        mask: &mut dyn FnMut(&mut [u64]),
    ) -> Result<ReplicatedReport, MachineError> {
        let (mut report, outputs) = self.lockstep(&share_input_in_three(input, mask), seed)?;
        let answers = decode_three(self.plan.program(), outputs.each_ref().map(Vec::as_slice))?;
        let logits = answers.into_iter().enumerate().map(|(example, a)| a.ok_or(MachineError::OutOfRange { example }));
        report.logits = logits.collect::<Result<_, _>>()?;
        Ok(report)
    }

    /// The same from input shares to output shares.
    pub(crate) fn lockstep(
        &self,
        shares: &[Vec<u8>; 3],
        seed: [u8; 32],
    ) -> Result<(ReplicatedReport, [Vec<u8>; 3]), MachineError> {
        // One seed of each pair: number i of servers i-1 and i.
        let pair = |i: usize| {
            let mut keyed = [0; 33];
            keyed[..32].copy_from_slice(&seed);
            keyed[32] = i as u8;
            blake3::derive_key("sprint-flow mpc pair seed of one run in memory v1", &keyed)
        };
        let seeds = [pair(0), pair(1), pair(2)];
        let mut servers = Vec::new();
        for server in Server::ALL {
            let (plan, public) = (Arc::clone(&self.plan), Arc::clone(&self.public));
            let inputs = Inputs::from_bytes(self.plan.program(), &shares[server.index()])?;
            let weights = Arc::clone(&self.weights[server.index()]);
            let seeds = [&seeds[server.index()], &seeds[server.next().index()]];
            servers.push(ReplicatedParty::new(plan, public, weights, server, seeds, inputs)?);
        }
        let mut report = ReplicatedReport::default();
        loop {
            let (mut frames, mut outputs) = (Vec::new(), Vec::new());
            for (server, sent) in servers.iter_mut().zip(&mut report.online_bytes) {
                match server.advance()? {
                    ReplicatedAdvance::Exchange { to_previous, to_next, .. } => {
                        *sent += (to_previous.len() + to_next.len()) as u64;
                        frames.push([to_previous, to_next]);
                    }
                    ReplicatedAdvance::Finished { output } => outputs.push(output),
                }
            }
            if let Ok(outputs) = <[Vec<u8>; 3]>::try_from(outputs) {
                return Ok((report, outputs));
            }
            let Ok(frames) = <[[Vec<u8>; 2]; 3]>::try_from(frames) else {
                return Err(MachineError::OutOfStep("one server finished before the others"));
            };
            for server in Server::ALL {
                let (previous, next) = (server.previous().index(), server.next().index());
                servers[server.index()].absorb(&frames[previous][1], &frames[next][0])?;
            }
            report.rounds += 1;
            if self.keep_frames {
                report.frames.push(frames);
            }
        }
    }
}
