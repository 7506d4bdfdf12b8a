//! One of three servers in session.
//!
//! One request:
//!
//! 1. the client's share arrives: a seed at servers 0 and 1, words at server 2, its lengths fixed by the program;
//! 2. `Begin` is exchanged with both others: same request, same program;
//! 3. the machine runs: one exchange a round, with both at once;
//! 4. measured costs are compared with the declared ones, and both transcripts with the peers';
//! 5. only then the output share, which is one of three fresh ones, goes to the client.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sprint_mpc_core::{
    Inputs, MachineError, PublicWeights, ReplicatedAdvance, ReplicatedParty, ReplicatedProgram, ReplicatedRound,
    ReplicatedWeights, Server,
};
use zeroize::Zeroizing;

use super::Loaded;
use crate::client::first_cause;
use crate::error::RoleError;
use crate::hello::Binding;
use crate::meter::{CostMismatch, InferenceMeter, Stopwatch};
use crate::net::{Class, Kind, Link, Net, NetError, What, both, together};
use crate::party::PartyAccount;
use crate::request::{INPUT, REQUEST, Request, SEED, expand};

/// Bytes of a `Begin` frame: request and program.
pub(crate) const BEGIN: usize = REQUEST;
/// Bytes of a `Transcript` frame: two hashes.
pub(crate) const TRANSCRIPT: usize = 2 * 32;
/// Bytes of either half of a pair's secret.
pub(crate) const PAIR: usize = 32;
/// Domains of the secrets of a pair of servers.
const PAIR_SECRET: &str = "sprint-flow 2026 secret of a pair of three servers v1";
const PAIR_SEED: &str = "sprint-flow 2026 seed of a pair of three servers for one inference v1";

/// A server's links.
pub(crate) struct ThreeLinks {
    /// To server `i-1`.
    pub(crate) previous: Link,
    /// To server `i+1`.
    pub(crate) next: Link,
    pub(crate) client: Link,
}

/// Who a server is and what it evaluates.
pub(crate) struct ThreeSetup {
    pub(crate) net: Arc<Net>,
    pub(crate) me: Server,
    pub(crate) binding: Binding,
    pub(crate) loaded: Loaded,
}

/// A server in session.
pub(crate) struct ThreeServer {
    net: Arc<Net>,
    me: Server,
    plans: Vec<Arc<ReplicatedProgram>>,
    rounds: Vec<Vec<ReplicatedRound>>,
    public: Arc<PublicWeights>,
    weights: Arc<ReplicatedWeights>,
    links: ThreeLinks,
    /// Shared with the server before and with the one after.
    secrets: [Zeroizing<[u8; 32]>; 2],
    served: u64,
    account: PartyAccount,
}

impl ThreeServer {
    /// Draws secrets with both others and makes the private weights replicated: this server's share goes to the one before it.
    pub(crate) fn open(setup: ThreeSetup, links: ThreeLinks) -> Result<Self, RoleError> {
        let ThreeSetup { net, me, binding, loaded } = setup;
        let Loaded { plans, public, private, .. } = loaded;
        let ThreeLinks { mut previous, mut next, client } = links;
        // Both ends of a link must take it at the same time: every server takes the others in the order of their numbers.
        let secret = |with: Server, link: &mut Link| pair_secret(&net, &binding, me, with, link);
        let secrets = if me.previous() < me.next() {
            let before = secret(me.previous(), &mut previous)?;
            [before, secret(me.next(), &mut next)?]
        } else {
            let after = secret(me.next(), &mut next)?;
            [secret(me.previous(), &mut previous)?, after]
        };
        let program = plans[0].program();
        let (bytes, due) = (private.to_bytes(), ReplicatedWeights::frame_bytes(program));
        let sent = async { previous.send(Kind::Opening, &bytes, What::Opening).await.map(|()| Vec::new()) };
        let (_, theirs) = net.block_on(both(sent, next.recv(Kind::Opening, due, What::Opening))).map_err(cause)?;
        let theirs = Zeroizing::new(theirs);
        let weights = ReplicatedWeights::join(program, me, private, &theirs);
        let weights = Arc::new(weights.map_err(|source| RoleError::Opening { source })?);
        let rounds = plans.iter().map(|plan| plan.rounds()).collect();
        let session_bytes_sent = previous.traffic().wire_sent + next.traffic().wire_sent;
        let account = PartyAccount { session_bytes_sent, ..PartyAccount::default() };
        let links = ThreeLinks { previous, next, client };
        Ok(Self { net, me, plans, rounds, public, weights, links, secrets, served: 0, account })
    }

    /// Serves until the client is done; calls `done` after each request.
    pub(crate) fn serve(&mut self, done: &mut dyn FnMut(&InferenceMeter)) -> Result<(), RoleError> {
        let outcome = self.serve_requests(done);
        let Self { net, links: ThreeLinks { previous, next, client }, .. } = self;
        match &outcome {
            Ok(()) => net.block_on(async { together(previous.close(), next.close(), client.close()).await }),
            Err(failure) => {
                let class: Class = failure.class();
                net.block_on(async { together(previous.abort(class), next.abort(class), client.abort(class)).await })
            }
        };
        outcome
    }

    /// What it cost.
    pub(crate) fn into_account(self) -> PartyAccount {
        self.account
    }

    fn serve_requests(&mut self, done: &mut dyn FnMut(&InferenceMeter)) -> Result<(), RoleError> {
        while let Some(request) = self.next_request()? {
            let meter = self.answer(request)?;
            done(&meter);
            self.account.inferences.push(meter);
            self.served += 1;
        }
        Ok(())
    }

    fn next_request(&mut self) -> Result<Option<Request>, RoleError> {
        let due = [(Kind::Request, REQUEST), (Kind::Prepare, REQUEST), (Kind::End, 0)];
        loop {
            let (kind, bytes) = self.net.block_on(self.links.client.recv_one_of(&due, What::Request))?;
            if kind == Kind::End {
                return Ok(None);
            }
            // The number goes into the pair's seeds: it never comes twice.
            let request = Request::decode(&bytes).filter(|r| r.number == self.served);
            let request = request.ok_or_else(|| self.unfit("requests must come in order"))?;
            if kind == Kind::Request {
                return Ok(Some(request));
            }
            // There is no material to wait for.
            self.net.block_on(self.links.client.send(Kind::Ready, &[], What::Ready { request: request.number }))?;
        }
    }

    fn unfit(&self, what: &str) -> RoleError {
        RoleError::Request { request: self.served, what: what.to_owned() }
    }

    fn answer(&mut self, request: Request) -> Result<InferenceMeter, RoleError> {
        let plan = self.plans.get(request.program as usize).cloned().ok_or_else(|| self.unfit("no such program"))?;
        let input = self.receive_input(request, plan.program().input_len())?;
        let mut watch = Stopwatch::start();
        let before = self.traffic();
        let inference = request.number;
        self.begin(request)?;
        let fault = |source| RoleError::Machine { inference, source };
        let inputs = Inputs::from_bytes(plan.program(), &input).map_err(fault)?;
        let seeds = self.secrets.each_ref().map(|secret| pair_seed(secret, request));
        let (public, weights) = (Arc::clone(&self.public), Arc::clone(&self.weights));
        let output_words = plan.program().output_len();
        let machine = ReplicatedParty::new(plan, public, weights, self.me, [&seeds[0], &seeds[1]], inputs).map_err(fault)?;
        let output = self.evaluate(machine, request, &mut watch)?;
        self.check(request.program, &watch).map_err(|source| RoleError::Cost { inference, source })?;
        self.compare_transcripts(inference)?;
        if output.len() != output_words {
            return Err(fault(MachineError::OutOfStep("the output has another length than the program")));
        }
        self.net.block_on(self.links.client.send(Kind::Output, &output, What::Output { request: request.number }))?;
        let after = self.traffic();
        Ok(InferenceMeter {
            index: inference,
            program: request.program,
            rounds: watch.rounds,
            flushes: after.0 - before.0,
            opened_bytes_sent: watch.opened,
            wire_bytes_sent: after.1 - before.1,
            material_bytes: 0,
            online_s: watch.elapsed_s(),
            material_wait_s: 0.0,
            peer_wait_s: watch.peer_wait.as_secs_f64(),
            cpu_online_s: watch.cpu_s(),
        })
    }

    /// Frames and bytes sent to both others.
    fn traffic(&self) -> (u64, u64) {
        let (a, b) = (self.links.previous.traffic(), self.links.next.traffic());
        (a.frames_sent + b.frames_sent, a.wire_sent + b.wire_sent)
    }

    fn receive_input(&mut self, request: Request, len: usize) -> Result<Zeroizing<Vec<u8>>, RoleError> {
        let what = What::Input { request: request.number };
        let due = if self.me == Server::S2 { len } else { SEED };
        let bytes = Zeroizing::new(self.net.block_on(self.links.client.recv(Kind::Input, due, what))?);
        if self.me == Server::S2 {
            return Ok(bytes);
        }
        let seed = Zeroizing::new(<[u8; SEED]>::try_from(&bytes[..]).expect("its length was asked for"));
        Ok(expand(INPUT, &seed, len / 8))
    }

    fn begin(&mut self, request: Request) -> Result<(), RoleError> {
        let ours = request.encode();
        let what = What::Begin { inference: request.number };
        let Self { net, links: ThreeLinks { previous, next, .. }, .. } = self;
        let begun = both(previous.exchange(Kind::Begin, &ours, BEGIN, what), next.exchange(Kind::Begin, &ours, BEGIN, what));
        let (a, b) = net.block_on(begun).map_err(cause)?;
        for (theirs, link) in [(a, previous), (b, next)] {
            if theirs != ours {
                return Err(RoleError::Desync { peer: link.peer(), what: "the request" });
            }
        }
        Ok(())
    }

    /// Runs the machine, one exchange a round.
    fn evaluate(
        &mut self,
        mut machine: ReplicatedParty,
        request: Request,
        watch: &mut Stopwatch,
    ) -> Result<Zeroizing<Vec<u8>>, RoleError> {
        let inference = request.number;
        let fault = |source| RoleError::Machine { inference, source };
        loop {
            let started = Instant::now();
            let step = machine.advance().map_err(fault)?;
            let compute = started.elapsed();
            let (round, out, due) = match step {
                ReplicatedAdvance::Finished { output } => return Ok(Zeroizing::new(output)),
                ReplicatedAdvance::Exchange { round, to_previous, to_next, previous_len, next_len } => {
                    (round, [to_previous, to_next], [previous_len, next_len])
                }
            };
            self.check_round(request.program, watch.rounds, round, &out).map_err(fault)?;
            let sent = Instant::now();
            let (from_previous, from_next) = self.exchange(inference, round, &out, due)?;
            let exchange: Duration = sent.elapsed();
            let bytes = out.iter().map(|frame| frame.len() as u64).sum();
            watch.rounds += 1;
            watch.opened += bytes;
            watch.peer_wait += exchange;
            let declared = &self.rounds[request.program as usize][round as usize];
            self.account.by_part.add(&declared.part, bytes, compute, exchange);
            self.account.by_gate.add(declared.gate, bytes, compute, exchange);
            machine.absorb(&from_previous, &from_next).map_err(fault)?;
        }
    }

    /// One round with both others at once; a link that carries nothing in either direction is left alone.
    fn exchange(
        &mut self,
        inference: u64,
        round: u32,
        [to_previous, to_next]: &[Vec<u8>; 2],
        due: [usize; 2],
    ) -> Result<(Vec<u8>, Vec<u8>), RoleError> {
        let what = What::Round { round, inference };
        let Self { net, links: ThreeLinks { previous, next, .. }, .. } = self;
        let swapped = both(swap(previous, to_previous, due[0], what), swap(next, to_next, due[1], what));
        net.block_on(swapped).map_err(cause)
    }

    /// The machine's round must be the program's: what is not declared is not sent.
    fn check_round(&self, program: u32, due: u32, round: u32, out: &[Vec<u8>; 2]) -> Result<(), MachineError> {
        if round != due {
            return Err(MachineError::OutOfStep("the machine's round is not the next one"));
        }
        let declared = self.rounds[program as usize].get(round as usize);
        let declared = declared.ok_or(MachineError::OutOfStep("the program has fewer rounds"))?.bytes[self.me.index()];
        for (expected, frame) in [declared.0, declared.1].into_iter().zip(out) {
            if expected != frame.len() {
                return Err(MachineError::FrameLength { round, expected, actual: frame.len() });
            }
        }
        Ok(())
    }

    fn check(&self, program: u32, watch: &Stopwatch) -> Result<(), CostMismatch> {
        let declared = &self.rounds[program as usize];
        let bytes = declared.iter().map(|r| r.bytes[self.me.index()]).map(|(a, b)| (a + b) as u64).sum();
        let compare = |what, declared: u64, measured: u64| {
            if declared == measured { Ok(()) } else { Err(CostMismatch { what, declared, measured }) }
        };
        compare("rounds", declared.len() as u64, u64::from(watch.rounds))?;
        compare("opened bytes", bytes, watch.opened)
    }

    fn compare_transcripts(&mut self, inference: u64) -> Result<(), RoleError> {
        let what = What::Transcript { inference };
        let Self { net, links: ThreeLinks { previous, next, .. }, .. } = self;
        let hashes = [&*previous, &*next].map(Link::transcripts);
        let [ours0, ours1] = hashes.map(|(sent, received)| [sent, received].concat());
        let compared = both(
            previous.exchange(Kind::Transcript, &ours0, TRANSCRIPT, what),
            next.exchange(Kind::Transcript, &ours1, TRANSCRIPT, what),
        );
        let (theirs0, theirs1) = net.block_on(compared).map_err(cause)?;
        for ((sent, received), theirs) in hashes.into_iter().zip([theirs0, theirs1]) {
            if theirs[32..] != sent {
                return Err(RoleError::Transcript { inference, direction: "what this party sent" });
            }
            if theirs[..32] != received {
                return Err(RoleError::Transcript { inference, direction: "what this party received" });
            }
        }
        Ok(())
    }
}

async fn swap(link: &mut Link, frame: &[u8], due: usize, what: What) -> Result<Vec<u8>, NetError> {
    if frame.is_empty() && due == 0 {
        return Ok(Vec::new());
    }
    link.exchange(Kind::Round, frame, due, what).await
}

/// Of several failures the one that tells most.
fn cause(failures: Vec<NetError>) -> RoleError {
    first_cause(failures.into_iter().map(RoleError::from).collect())
}

/// A secret of two servers for this session: each draws a half, so that neither alone, nor a machine set back to an old state, repeats one.
fn pair_secret(
    net: &Net,
    binding: &Binding,
    me: Server,
    with: Server,
    link: &mut Link,
) -> Result<Zeroizing<[u8; 32]>, RoleError> {
    let mut ours = Zeroizing::new([0; PAIR]);
    getrandom::fill(&mut *ours).map_err(|e| RoleError::System(e.to_string()))?;
    let theirs = Zeroizing::new(net.block_on(link.exchange(Kind::Pair, &*ours, PAIR, What::Pair))?);
    let (lower, higher) = if me < with { (&ours[..], &theirs[..]) } else { (&theirs[..], &ours[..]) };
    let material = Zeroizing::new([binding.session.as_bytes(), lower, higher].concat());
    Ok(Zeroizing::new(blake3::derive_key(PAIR_SECRET, &material)))
}

/// The seed of a pair for one request of the session.
fn pair_seed(secret: &[u8; 32], request: Request) -> Zeroizing<[u8; 32]> {
    let material = Zeroizing::new([&secret[..], &request.encode()].concat());
    Zeroizing::new(blake3::derive_key(PAIR_SEED, &material))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_of_a_pair_differ_by_secret_request_and_program() {
        let seed = |secret: u8, number, program| pair_seed(&[secret; 32], Request { number, program });
        let first = seed(1, 0, 0);
        assert_eq!(first, seed(1, 0, 0));
        for other in [seed(2, 0, 0), seed(1, 1, 0), seed(1, 0, 1)] {
            assert_ne!(first, other);
        }
    }
}
