//! A party: opens its private weights, then answers requests one after another, each with fresh material.
//!
//! The weights are opened once, before the first request, under masks whose seed comes with the material: the seed is bound to the model in the
//! ledger, durably, before the frame leaves, and no other model is ever opened under it.
//!
//! One request, at party `b`, index `i`:
//!
//! 1. the client's share arrives (a seed at party 0, words at party 1), its lengths fixed by the program;
//! 2. `[i, i+1)` is burnt in the ledger, durably, and its file is deleted if it was made ahead;
//! 3. `Begin` is exchanged: same request, same index (never below this side's watermark), same program, same public input;
//! 4. the machine runs: one exchange a round;
//! 5. measured costs are compared with the declared ones, and both transcripts with the peer's;
//! 6. only then the output share goes to the client, under a fresh zero-sharing `out₀ + r, out₁ - r`.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use sprint_mpc_core::{Advance, MachineError, PartyId, PartyMachine};
use zeroize::Zeroizing;

use crate::BatchId;
use crate::dealer::{Intake, Supplier, Want, unopened};
use crate::error::RoleError;
use crate::hello::Binding;
use crate::ledger::{Half, Ledger, LedgerError, half};
use crate::material::{Shelf, Spool, Stock, StockLimits, Supply};
use crate::meter::{InferenceMeter, Shares, Stopwatch};
use crate::net::{Class, Kind, Link, LinkWriter, Net, What, together};
use crate::request::{INPUT, REQUEST, Request, SEED, expand, words_of};
use crate::workload::{Evaluation, OPENING_SEED, PartyInput, ProgramShape, Workload};

/// Bytes of a `Begin` frame: request, index, program, nonce, hash of the public input.
pub(crate) const BEGIN: usize = 8 + 8 + 4 + 32 + 32;
/// Bytes of a `Watermark` frame: the watermark, and half the digest of the model that the masks of private weights are or will be bound to.
pub(crate) const WATERMARK: usize = 8 + 16;
/// Bytes of a `Transcript` frame: two hashes.
pub(crate) const TRANSCRIPT: usize = 2 * 32;
/// Domain of the zero-sharing of outputs.
const ZERO_SHARE: &str = "sprint-flow 2026 output zero-share v1";

/// Everything a party has once its links are up.
pub(crate) struct PartyLinks {
    pub(crate) peer: Link,
    pub(crate) client: Link,
    pub(crate) material: Material,
}

/// A party's one-time material.
pub(crate) enum Material {
    /// Streamed by the dealer.
    Dealer(Box<Link>),
    /// Made ahead of time.
    Files(Shelf),
}

/// How a party behaves.
#[derive(Debug, Clone)]
pub(crate) struct PartyOptions {
    /// The longest silence of the dealer.
    pub(crate) stall: Duration,
    /// Material held at most.
    pub(crate) stock: StockLimits,
    /// Folder for what memory does not hold.
    pub(crate) spool: PathBuf,
    /// Programs of the requests that will come, where the client has said so; material for them is ordered ahead.
    pub(crate) plan: Vec<u32>,
    /// The program that is ordered ahead once the plan is at its end.
    pub(crate) standing: Option<u32>,
    /// How many inferences are ordered ahead.
    pub(crate) lookahead: usize,
    /// The longest that making the material of one inference may take.
    pub(crate) offline_limit: Duration,
}

/// A party in session.
pub(crate) struct Party {
    net: Arc<Net>,
    me: PartyId,
    binding: Binding,
    workload: Arc<dyn Workload>,
    evaluation: Box<dyn Evaluation>,
    options: PartyOptions,
    ledger: Ledger,
    peer: Link,
    client: Link,
    orders: Orders,
    stock: Arc<Stock>,
    /// Reads into the stock.
    reader: Option<thread::JoinHandle<()>>,
    /// Files made ahead, if material comes from there.
    shelf: Option<Arc<Shelf>>,
    served: u64,
    account: PartyAccount,
}

/// What a party's life cost so far.
#[derive(Debug, Default)]
pub(crate) struct PartyAccount {
    pub(crate) inferences: Vec<InferenceMeter>,
    /// Bytes handed to the socket towards the other party before the first request.
    pub(crate) session_bytes_sent: u64,
    pub(crate) by_part: Shares,
    pub(crate) by_gate: Shares,
}

/// Who a party is and what it evaluates.
pub(crate) struct PartySetup {
    pub(crate) net: Arc<Net>,
    pub(crate) me: PartyId,
    pub(crate) binding: Binding,
    pub(crate) workload: Arc<dyn Workload>,
    pub(crate) options: PartyOptions,
    pub(crate) ledger: Ledger,
}

impl Party {
    /// Agrees with the peer where in the batch to start, opens the private weights, and starts reading from the dealer.
    pub(crate) fn open(setup: PartySetup, links: PartyLinks) -> Result<Self, RoleError> {
        let PartySetup { net, me, binding, workload, options, mut ledger } = setup;
        let PartyLinks { mut peer, client, mut material } = links;
        let seed = opening_seed(&net, &mut material)?;
        let mask = blake3::derive_key("sprint-flow ledger name of a weight mask seed v1", &*seed);
        let start = agree_start(&net, &mut peer, &ledger, (binding.batch, &mask, half(binding.model)))?;
        ledger.bind(mask, half(binding.model))?;
        let opening = workload.opening(me, &seed).map_err(unopened)?;
        let (ours, due) = (opening.frame(), workload.opening_bytes());
        if ours.len() != due {
            return Err(unopened(MachineError::OutOfStep("the weights' frame has another length than is declared")));
        }
        let theirs = net.block_on(peer.exchange(Kind::Opening, &ours, due, What::Opening))?;
        let evaluation = opening.finish(&theirs).map_err(unopened)?;
        let stock = Arc::new(Stock::new(options.stock));
        let (supplier, writer, shelf) = match material {
            Material::Dealer(link) => {
                let (reader, writer) = link.split();
                (Supplier::Stream(Box::new(reader), Spool::new(options.spool.clone())), Some(writer), None)
            }
            Material::Files(shelf) => {
                shelf.sweep(start)?;
                let shelf = Arc::new(shelf);
                (Supplier::Files(shelf.clone()), None, Some(shelf))
            }
        };
        let (sender, wants) = channel();
        let intake = Intake { net: net.clone(), me, session: binding.session, workload: workload.clone(), stock: stock.clone() };
        let spawned = thread::Builder::new().name("intake".into()).spawn(move || intake.run(supplier, wants));
        let reader = Some(spawned.map_err(|e| RoleError::System(e.to_string()))?);
        let planned = options.plan.iter().copied().collect();
        let orders = Orders { writer, intake: Some(sender), shelf: shelf.clone(), open: VecDeque::new(), next: start, planned };
        let account = PartyAccount { session_bytes_sent: peer.traffic().wire_sent, ..PartyAccount::default() };
        Ok(Self {
            net,
            me,
            binding,
            workload,
            evaluation,
            options,
            ledger,
            peer,
            client,
            orders,
            stock,
            reader,
            shelf,
            served: 0,
            account,
        })
    }

    /// Serves until the client is done; calls `done` after each request.
    pub(crate) fn serve(&mut self, done: &mut dyn FnMut(&InferenceMeter)) -> Result<(), RoleError> {
        let outcome = self.serve_requests(done);
        self.stock.end(None);
        match &outcome {
            Ok(()) => self.close(),
            Err(failure) => self.give_up(failure.class()),
        }
        outcome
    }

    /// What it cost.
    pub(crate) fn into_account(self) -> PartyAccount {
        self.account
    }

    fn serve_requests(&mut self, done: &mut dyn FnMut(&InferenceMeter)) -> Result<(), RoleError> {
        self.order_ahead()?;
        while let Some(request) = self.next_request()? {
            let meter = self.answer(request)?;
            done(&meter);
            self.account.inferences.push(meter);
            self.served += 1;
        }
        Ok(())
    }

    fn close(&mut self) {
        let Self { net, orders, peer, client, reader, .. } = self;
        orders.intake = None;
        // Until all that was ordered is made: the dealer cannot be told to stop in the middle.
        let _ = reader.take().map(thread::JoinHandle::join);
        net.block_on(async {
            if let Some(writer) = &mut orders.writer {
                let _ = writer.send(Kind::End, &[], What::End).await;
                writer.close().await;
            }
            peer.close().await;
            client.close().await;
        });
    }

    fn give_up(&mut self, class: Class) {
        let Self { net, orders, peer, client, .. } = self;
        orders.intake = None;
        net.block_on(async {
            let dealer = async {
                if let Some(writer) = &mut orders.writer {
                    writer.abort(class).await;
                }
            };
            together(peer.abort(class), client.abort(class), dealer).await;
        });
    }

    /// The client's next request; serves its wishes for preparation meanwhile.
    fn next_request(&mut self) -> Result<Option<Request>, RoleError> {
        let due = [(Kind::Request, REQUEST), (Kind::Prepare, REQUEST), (Kind::End, 0)];
        loop {
            let (kind, bytes) = self.net.block_on(self.client.recv_one_of(&due, What::Request))?;
            if kind == Kind::End {
                return Ok(None);
            }
            let request = Request::decode(&bytes).filter(|r| r.number == self.served);
            let request = request.ok_or_else(|| self.unfit("requests must come in order"))?;
            if kind == Kind::Request {
                return Ok(Some(request));
            }
            self.prepare(request)?;
        }
    }

    /// Waits until the material of a request is here, or as much as the stock holds, at both parties; then tells the client.
    fn prepare(&mut self, request: Request) -> Result<(), RoleError> {
        /// A dealer that pauses for so long is held back, or slow: then what is still missing comes within the online phase.
        const LULL: Duration = Duration::from_secs(2);
        let index = self.ensure_order(request.program)?;
        self.stock.await_ahead(index, LULL);
        let what = What::Ready { request: request.number };
        let limit = self.options.offline_limit;
        self.net.block_on(self.peer.meet(Kind::Ready, what, limit))?;
        Ok(self.net.block_on(self.client.send(Kind::Ready, &[], what))?)
    }

    fn unfit(&self, what: &str) -> RoleError {
        RoleError::Request { request: self.served, what: what.to_owned() }
    }

    fn answer(&mut self, request: Request) -> Result<InferenceMeter, RoleError> {
        let workload = self.workload.clone();
        let shape = workload.shapes().get(request.program as usize).ok_or_else(|| self.unfit("no such program"))?;
        let input = self.receive_input(request, shape)?;
        let index = self.ensure_order(request.program)?;
        self.orders.open.pop_front();
        let watch = Stopwatch::start();
        let before = (self.peer.traffic(), self.stock.others_cpu_s(index));
        if let Some(shelf) = &self.shelf {
            // What is not this party's to use is neither burnt nor deleted.
            shelf.check(index, request.program)?;
        }
        self.ledger.burn(self.binding.batch, index..index + 1)?;
        if let Some(shelf) = &self.shelf {
            shelf.delete(index)?;
        }
        let nonce = self.begin(request, index, &input.public)?;
        self.order_ahead()?;

        let fault = |source| RoleError::Machine { inference: index, source };
        let machine = self.evaluation.party(request.program, input).map_err(fault)?;
        let mut run = Run { watch, index, material: (0, Duration::ZERO) };
        let output = self.evaluate(machine, shape, &mut run)?;
        run.watch.check(shape, self.me, run.material.0).map_err(|source| RoleError::Cost { inference: index, source })?;
        self.compare_transcripts(index)?;
        self.release(request, shape, output, &nonce)?;

        let after = (self.peer.traffic(), self.stock.others_cpu_s(index));
        Ok(InferenceMeter {
            index,
            program: request.program,
            rounds: run.watch.rounds,
            flushes: after.0.frames_sent - before.0.frames_sent,
            opened_bytes_sent: run.watch.opened,
            wire_bytes_sent: after.0.wire_sent - before.0.wire_sent,
            material_bytes: run.material.0,
            online_s: run.watch.elapsed_s(),
            material_wait_s: run.material.1.as_secs_f64(),
            peer_wait_s: run.watch.peer_wait.as_secs_f64(),
            cpu_online_s: run.watch.cpu_s() - (after.1 - before.1),
        })
    }

    fn receive_input(&mut self, request: Request, shape: &ProgramShape) -> Result<PartyInput, RoleError> {
        let what = What::Input { request: request.number };
        let share = match self.me {
            PartyId::P0 => SEED,
            PartyId::P1 => shape.input_words * 8,
        };
        let mut bytes = Zeroizing::new(self.net.block_on(self.client.recv(Kind::Input, shape.public_bytes + share, what))?);
        let share = Zeroizing::new(bytes.split_off(shape.public_bytes));
        let share = match self.me {
            PartyId::P0 => {
                let seed = Zeroizing::new(<[u8; SEED]>::try_from(&share[..]).expect("its length was asked for"));
                expand(INPUT, &seed, shape.input_words)
            }
            PartyId::P1 => share,
        };
        Ok(PartyInput { share, public: std::mem::take(&mut bytes) })
    }

    /// Orders what the plan says, as far ahead as allowed.
    fn order_ahead(&mut self) -> Result<(), RoleError> {
        while self.orders.open.len() < self.options.lookahead.max(1) {
            let Some(program) = self.orders.planned.pop_front().or(self.options.standing) else { break };
            self.orders.place(&self.net, program)?;
        }
        Ok(())
    }

    /// The index whose material serves `program`; places the order if the plan did not.
    fn ensure_order(&mut self, program: u32) -> Result<u64, RoleError> {
        if program as usize >= self.workload.shapes().len() {
            return Err(self.unfit("no such program"));
        }
        match self.orders.open.front() {
            Some(want) if want.program == program => return Ok(want.inference),
            Some(_) => return Err(self.unfit("the plan names another program here")),
            None => {}
        }
        self.orders.planned.pop_front();
        self.orders.place(&self.net, program)
    }

    /// Exchanges `Begin`; the nonce of the output's zero-sharing, which only the parties know.
    fn begin(&mut self, request: Request, index: u64, public: &[u8]) -> Result<Zeroizing<[u8; 32]>, RoleError> {
        let mut nonce = Zeroizing::new([0; 32]);
        if self.me == PartyId::P0 {
            getrandom::fill(&mut *nonce).map_err(|e| RoleError::System(e.to_string()))?;
        }
        let ours = encode_begin(request, index, &nonce, public);
        let theirs = self.net.block_on(self.peer.exchange(Kind::Begin, &ours[..], BEGIN, What::Begin { inference: index }))?;
        let theirs = Zeroizing::new(theirs);
        let peer = self.peer.peer();
        let offered = u64::from_le_bytes(theirs[8..16].try_into().expect("eight bytes"));
        if offered < index {
            return Err(RoleError::IndexReuse { peer, offered, watermark: index });
        }
        let parts = [
            ("the request number", 0..8),
            ("the material index", 8..16),
            ("the program", 16..20),
            ("the public input", 52..BEGIN),
        ];
        if let Some((what, _)) = parts.into_iter().find(|(_, at)| ours[at.clone()] != theirs[at.clone()]) {
            return Err(RoleError::Desync { peer, what });
        }
        let shared = if self.me == PartyId::P0 { &ours[20..52] } else { &theirs[20..52] };
        nonce.copy_from_slice(shared);
        Ok(nonce)
    }

    /// Runs the machine, one exchange a round.
    fn evaluate(
        &mut self,
        mut machine: Box<dyn PartyMachine>,
        shape: &ProgramShape,
        run: &mut Run,
    ) -> Result<Zeroizing<Vec<u8>>, RoleError> {
        let inference = run.index;
        let stock = self.stock.clone();
        let mut supply = Supply::new(&stock, inference, self.options.stall);
        loop {
            let started = Instant::now();
            let waited = supply.waited;
            let step = machine.advance(&mut supply).map_err(|source| self.blame(inference, source))?;
            let (round, frame, peer_len) = match step {
                Advance::Exchange { round, frame, peer_len } => (round, frame, peer_len),
                Advance::Finished { output } => {
                    run.material = (supply.taken, supply.waited);
                    return Ok(Zeroizing::new(output));
                }
            };
            let compute = started.elapsed().saturating_sub(supply.waited.saturating_sub(waited));
            let due = check_round(shape, self.me, run.watch.rounds, round, frame.len(), peer_len);
            due.map_err(|source| RoleError::Machine { inference, source })?;
            let sent = Instant::now();
            let got = self.net.block_on(self.peer.exchange(Kind::Round, &frame, peer_len, What::Round { round, inference }))?;
            let exchange = sent.elapsed();
            run.watch.rounds += 1;
            run.watch.opened += frame.len() as u64;
            run.watch.peer_wait += exchange;
            let declared = &shape.rounds[round as usize];
            self.account.by_part.add(&declared.part, frame.len() as u64, compute, exchange);
            self.account.by_gate.add(&declared.gate, frame.len() as u64, compute, exchange);
            machine.absorb(&got).map_err(|source| RoleError::Machine { inference, source })?;
        }
    }

    /// A machine that misses material fails because of the dealer's link, if that has failed.
    fn blame(&self, inference: u64, source: MachineError) -> RoleError {
        let from_dealer = matches!(source, MachineError::Material(_)).then(|| self.stock.failure()).flatten();
        from_dealer.unwrap_or(RoleError::Machine { inference, source })
    }

    fn compare_transcripts(&mut self, inference: u64) -> Result<(), RoleError> {
        let (sent, received) = self.peer.transcripts();
        let ours = [sent, received].concat();
        let theirs =
            self.net.block_on(self.peer.exchange(Kind::Transcript, &ours, TRANSCRIPT, What::Transcript { inference }))?;
        if theirs[32..] != sent {
            return Err(RoleError::Transcript { inference, direction: "what this party sent" });
        }
        if theirs[..32] != received {
            return Err(RoleError::Transcript { inference, direction: "what this party received" });
        }
        Ok(())
    }

    fn release(
        &mut self,
        request: Request,
        shape: &ProgramShape,
        output: Zeroizing<Vec<u8>>,
        nonce: &[u8; 32],
    ) -> Result<(), RoleError> {
        if output.len() != shape.output_words * 8 {
            let source = MachineError::OutOfStep("the output has another length than the program");
            return Err(RoleError::Machine { inference: self.orders.next, source });
        }
        let mask = expand(ZERO_SHARE, nonce, shape.output_words);
        let masked = words_of(&output).zip(words_of(&mask)).flat_map(|(word, r)| match self.me {
            PartyId::P0 => word.wrapping_add(r).to_le_bytes(),
            PartyId::P1 => word.wrapping_sub(r).to_le_bytes(),
        });
        let masked: Zeroizing<Vec<u8>> = Zeroizing::new(masked.collect());
        let what = What::Output { request: request.number };
        Ok(self.net.block_on(self.client.send(Kind::Output, &masked, what))?)
    }
}

/// One inference under way.
struct Run {
    watch: Stopwatch,
    index: u64,
    /// Bytes taken and time waited.
    material: (u64, Duration),
}

impl Orders {
    fn place(&mut self, net: &Net, program: u32) -> Result<u64, RoleError> {
        let want = Want { inference: self.next, program };
        if let Some(writer) = &mut self.writer {
            net.block_on(writer.send(Kind::Want, &want.encode(), What::Material { inference: want.inference }))?;
        }
        if let Some(shelf) = &self.shelf {
            shelf.hold(want.inference);
        }
        if let Some(intake) = &self.intake {
            // A receiver that is gone has left its reason in the stock, where the next taker finds it.
            let _ = intake.send(want);
        }
        self.next += 1;
        self.open.push_back(want);
        Ok(want.inference)
    }
}

/// The seed of the masks of private weights, from wherever the material comes.
fn opening_seed(net: &Net, material: &mut Material) -> Result<Zeroizing<[u8; OPENING_SEED]>, RoleError> {
    match material {
        Material::Files(shelf) => shelf.seed(),
        Material::Dealer(link) => {
            let seed = Zeroizing::new(net.block_on(link.recv(Kind::Seed, OPENING_SEED, What::Seed))?);
            Ok(Zeroizing::new(seed[..].try_into().expect("the link delivers the length asked for")))
        }
    }
}

/// The larger of both watermarks: below it, one of the two has used the material. Either party refuses if either ledger, of which one
/// may have been restored from an old image, has the masks of private weights bound to another model.
fn agree_start(
    net: &Net,
    peer: &mut Link,
    ledger: &Ledger,
    (batch, mask, model): (BatchId, &[u8; 32], Half),
) -> Result<u64, RoleError> {
    let (watermark, bond) = (ledger.watermark(batch), ledger.bond(mask));
    let mut ours = [0; WATERMARK];
    ours[..8].copy_from_slice(&watermark.to_le_bytes());
    ours[8..].copy_from_slice(&bond.unwrap_or(model));
    let theirs = net.block_on(peer.exchange(Kind::Watermark, &ours, WATERMARK, What::Watermark))?;
    if theirs[8..] != model {
        return Err(RoleError::Desync { peer: peer.peer(), what: "the model that its masks of private weights are bound to" });
    }
    if bond.is_some_and(|bond| bond != model) {
        return Err(LedgerError::Bound { path: ledger.path().to_owned() }.into());
    }
    Ok(watermark.max(words_of(&theirs).next().unwrap_or_default()))
}

fn encode_begin(request: Request, index: u64, nonce: &[u8; 32], public: &[u8]) -> Zeroizing<[u8; BEGIN]> {
    let mut bytes = Zeroizing::new([0; BEGIN]);
    bytes[..8].copy_from_slice(&request.number.to_le_bytes());
    bytes[8..16].copy_from_slice(&index.to_le_bytes());
    bytes[16..20].copy_from_slice(&request.program.to_le_bytes());
    bytes[20..52].copy_from_slice(nonce);
    bytes[52..].copy_from_slice(blake3::hash(public).as_bytes());
    bytes
}

/// The machine's round must be the program's: what is not declared is not sent.
fn check_round(shape: &ProgramShape, me: PartyId, due: u32, round: u32, len: usize, peer_len: usize) -> Result<(), MachineError> {
    if round != due {
        return Err(MachineError::OutOfStep("the machine's round is not the next one"));
    }
    let declared = shape.rounds.get(round as usize).ok_or(MachineError::OutOfStep("the program has fewer rounds"))?;
    for (expected, actual) in [(declared.bytes[me.index()], len), (declared.bytes[me.peer().index()], peer_len)] {
        if expected != actual {
            return Err(MachineError::FrameLength { round, expected, actual });
        }
    }
    Ok(())
}

/// Material ordered and not yet used, oldest first.
struct Orders {
    /// To the dealer, if there is one.
    writer: Option<LinkWriter>,
    intake: Option<Sender<Want>>,
    shelf: Option<Arc<Shelf>>,
    open: VecDeque<Want>,
    next: u64,
    planned: VecDeque<u32>,
}
