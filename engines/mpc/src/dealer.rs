//! The dealer: makes material on order and streams it to both parties.
//!
//! Each party orders the inferences it needs, in order, `(index, program)`; the dealer makes one when both have ordered it, so it runs
//! ahead exactly as far as the parties let it. Making, and sending to either party, are three threads joined by short queues; a party that
//! does not read stops the making. The dealer sees program numbers and indexes, never an input.
//!
//! ```text
//! chunk   session[16] inference u64 index u32   material …          session = first half of the session id
//! want    inference u64 program u32
//! ```

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, ScopedJoinHandle};
use std::time::Instant;

use sprint_mpc_core::{DealerChunk, DealerMachine, MachineError, PartyId};
use zeroize::Zeroizing;

use crate::error::RoleError;
use crate::material::{Shelf, Spool, Stock};
use crate::meter::thread_cpu_s;
use crate::net::{Kind, Link, LinkReader, LinkWriter, Net, What};
use crate::workload::{Dealing, OPENING_SEED, ProgramShape, Workload};
use crate::{Role, SessionId};

/// Bytes before a chunk's material.
pub(crate) const CHUNK_TAG: usize = 16 + 8 + 4;
/// Bytes of an order.
pub(crate) const WANT: usize = 8 + 4;
/// Chunks made but not sent, to either party.
const QUEUE: usize = 4;
/// A dealer's chunk is at most this long; a party refuses longer ones unread.
const MAX_CHUNK: usize = 64 << 20;

/// An order for the material of one inference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Want {
    pub(crate) inference: u64,
    pub(crate) program: u32,
}

impl Want {
    pub(crate) fn encode(self) -> [u8; WANT] {
        let mut bytes = [0; WANT];
        bytes[..8].copy_from_slice(&self.inference.to_le_bytes());
        bytes[8..].copy_from_slice(&self.program.to_le_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (inference, program) = bytes.split_at_checked(8)?;
        Some(Self {
            inference: u64::from_le_bytes(inference.try_into().ok()?),
            program: u32::from_le_bytes(program.try_into().ok()?),
        })
    }
}

fn tag(session: SessionId, inference: u64, index: u32) -> [u8; CHUNK_TAG] {
    let mut bytes = [0; CHUNK_TAG];
    bytes[..16].copy_from_slice(&session.as_bytes()[..16]);
    bytes[16..24].copy_from_slice(&inference.to_le_bytes());
    bytes[24..].copy_from_slice(&index.to_le_bytes());
    bytes
}

/// Serves two parties until both say that they are done; the seconds each inference took.
pub(crate) fn serve(net: &Net, session: SessionId, workload: &dyn Workload, links: [Link; 2]) -> Result<Vec<f64>, RoleError> {
    let [(mut read0, write0), (mut read1, write1)] = links.map(Link::split);
    let mut seconds = Vec::new();
    let mut next = 0;
    let mut writers = [write0, write1];
    let dealing = match send_seeds(net, workload, &mut writers) {
        Ok(dealing) => dealing,
        Err(e) => {
            writers.iter_mut().for_each(|w| net.block_on(w.abort(e.class())));
            return Err(e);
        }
    };
    let outcome = loop {
        match order(net, &mut read0, &mut read1, next) {
            Ok(Some(want)) => {
                next = want.inference + 1;
                let started = Instant::now();
                if let Err(e) = produce(net, session, (workload, &*dealing), want, &mut writers) {
                    break Err(e);
                }
                seconds.push(started.elapsed().as_secs_f64());
            }
            Ok(None) => break Ok(seconds),
            Err(e) => break Err(e),
        }
    };
    for writer in &mut writers {
        match &outcome {
            Ok(_) => net.block_on(writer.close()),
            Err(e) => net.block_on(writer.abort(e.class())),
        }
    }
    outcome
}

/// Draws the seeds under which this session's private weights are opened, and gives each party its own.
fn send_seeds(net: &Net, workload: &dyn Workload, writers: &mut [LinkWriter; 2]) -> Result<Box<dyn Dealing>, RoleError> {
    let (seeds, dealing) = draw_seeds(workload)?;
    for (writer, seed) in writers.iter_mut().zip(&seeds) {
        net.block_on(writer.send(Kind::Seed, &**seed, What::Seed))?;
    }
    Ok(dealing)
}

/// The parties' fresh seeds of the masks of private weights, and a dealer who knows them.
#[expect(clippy::type_complexity, reason = "two seeds and what is made of them")]
pub(crate) fn draw_seeds(workload: &dyn Workload) -> Result<([Zeroizing<[u8; OPENING_SEED]>; 2], Box<dyn Dealing>), RoleError> {
    let mut seeds = [0, 1].map(|_| Zeroizing::new([0; OPENING_SEED]));
    for seed in &mut seeds {
        getrandom::fill(&mut **seed).map_err(|e| RoleError::System(e.to_string()))?;
    }
    let dealing = workload.dealing([&seeds[0], &seeds[1]]).map_err(unopened)?;
    Ok((seeds, dealing))
}

/// A failure before the first inference.
pub(crate) fn unopened(source: MachineError) -> RoleError {
    RoleError::Opening { source }
}

/// The next order, once both parties have placed it; `None` when both are done.
fn order(net: &Net, read0: &mut LinkReader, read1: &mut LinkReader, next: u64) -> Result<Option<Want>, RoleError> {
    let mut wants = [None; 2];
    for (slot, reader) in wants.iter_mut().zip([read0, read1]) {
        let (kind, bytes) = net.block_on(reader.recv_one_of(&[(Kind::Want, WANT), (Kind::End, 0)], What::Want))?;
        *slot = if kind == Kind::Want { Want::decode(&bytes) } else { None };
    }
    let [a, b] = wants;
    if a != b {
        return Err(RoleError::Desync { peer: Role::Party1, what: "the order for material" });
    }
    if let Some(want) = a
        && want.inference < next
    {
        return Err(RoleError::IndexReuse { peer: Role::Party0, offered: want.inference, watermark: next });
    }
    Ok(a)
}

fn produce(
    net: &Net,
    session: SessionId,
    (workload, dealing): (&dyn Workload, &dyn Dealing),
    want: Want,
    writers: &mut [LinkWriter; 2],
) -> Result<(), RoleError> {
    let inference = want.inference;
    let shape = shape_of(workload, want.program, inference)?;
    let machine = dealing.dealer(want.program).map_err(|source| RoleError::Machine { inference, source })?;
    let [writer0, writer1] = writers;
    thread::scope(|scope| {
        let (tx0, rx0) = sync_channel(QUEUE);
        let (tx1, rx1) = sync_channel(QUEUE);
        let senders =
            [(writer0, rx0), (writer1, rx1)].map(|(w, rx)| scope.spawn(move || send_all(net, session, inference, w, rx)));
        let made = make(machine, inference, &[tx0, tx1]);
        let sent = senders.map(join);
        // A sender's failure is the cause where there is one: the maker then only sees its queue close.
        sent.into_iter().collect::<Result<(), _>>()?;
        made.and_then(|bytes| declared(shape, inference, bytes))
    })
}

pub(crate) fn shape_of(workload: &dyn Workload, program: u32, inference: u64) -> Result<&ProgramShape, RoleError> {
    let found = workload.shapes().get(program as usize);
    found.ok_or_else(|| RoleError::Material { inference, what: format!("program {program} does not exist") })
}

pub(crate) fn declared(shape: &ProgramShape, inference: u64, made: [u64; 2]) -> Result<(), RoleError> {
    if made == shape.dealer_bytes {
        return Ok(());
    }
    Err(RoleError::Material {
        inference,
        what: format!("{made:?} bytes were made where the program has {:?}", shape.dealer_bytes),
    })
}

fn join(handle: ScopedJoinHandle<'_, Result<(), RoleError>>) -> Result<(), RoleError> {
    handle.join().unwrap_or_else(|_| Err(RoleError::System("a sending thread panicked".into())))
}

/// Runs the machine into the two queues; the bytes made for each party.
fn make(
    mut machine: Box<dyn DealerMachine>,
    inference: u64,
    queues: &[SyncSender<(u32, Vec<u8>)>; 2],
) -> Result<[u64; 2], RoleError> {
    let mut made = [0; 2];
    let mut due = 0;
    while let Some(DealerChunk { index, to_party }) =
        machine.next_chunk().map_err(|source| RoleError::Machine { inference, source })?
    {
        if index != due {
            return Err(RoleError::Material { inference, what: format!("chunk {index} was made where {due} is due") });
        }
        due += 1;
        for (party, bytes) in to_party.into_iter().enumerate() {
            made[party] += bytes.len() as u64;
            if !bytes.is_empty() && queues[party].send((index, bytes)).is_err() {
                return Err(RoleError::Material { inference, what: format!("party {party}'s link is gone") });
            }
        }
    }
    Ok(made)
}

fn send_all(
    net: &Net,
    session: SessionId,
    inference: u64,
    writer: &mut LinkWriter,
    queue: Receiver<(u32, Vec<u8>)>,
) -> Result<(), RoleError> {
    for (index, bytes) in queue {
        let parts = [&tag(session, inference, index)[..], &bytes];
        net.block_on(writer.send_parts(Kind::Chunk, &parts, What::Material { inference }))?;
    }
    Ok(())
}

/// Where a party's material comes from.
pub(crate) enum Supplier {
    /// The dealer's link.
    Stream(Box<LinkReader>, Spool),
    /// Files made ahead.
    Files(Arc<Shelf>),
}

/// A party's end of the dealer: reads what was ordered into the stock until told to stop or the supplier fails.
pub(crate) struct Intake {
    pub(crate) net: Arc<Net>,
    pub(crate) me: PartyId,
    pub(crate) session: SessionId,
    pub(crate) workload: Arc<dyn Workload>,
    pub(crate) stock: Arc<Stock>,
}

impl Intake {
    /// Serves orders in turn; ends when the sender of orders is dropped.
    pub(crate) fn run(&self, mut supplier: Supplier, orders: Receiver<Want>) {
        for want in orders {
            let filled = match &mut supplier {
                Supplier::Stream(reader, spool) => self.receive(reader, spool, want),
                Supplier::Files(shelf) => self.read(shelf, want),
            };
            if let Err(failure) = filled {
                self.stock.end(Some(failure));
                return;
            }
        }
        self.stock.end(None);
    }

    fn receive(&self, reader: &mut LinkReader, spool: &mut Spool, want: Want) -> Result<(), RoleError> {
        let inference = want.inference;
        let mut left = shape_of(&*self.workload, want.program, inference)?.dealer_bytes[self.me.index()];
        let (mut past, mut cpu) = (None, thread_cpu_s());
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(MAX_CHUNK).min(MAX_CHUNK);
            let receive = reader.recv_prefixed(Kind::Chunk, CHUNK_TAG, CHUNK_TAG + most, What::Material { inference });
            let (got, bytes) = self.net.block_on(receive)?;
            let index = check_tag(&got, self.session, inference, past)?;
            past = Some(index);
            left -= bytes.len() as u64;
            let now = thread_cpu_s();
            self.stock.put(inference, bytes, Some(spool), now - cpu)?;
            cpu = now;
        }
        self.stock.complete(inference);
        Ok(())
    }

    /// What is on disk anyway is not spooled: the stock takes as much as memory holds, and the rest when there is room.
    fn read(&self, shelf: &Shelf, want: Want) -> Result<(), RoleError> {
        let inference = want.inference;
        let due = shape_of(&*self.workload, want.program, inference)?.dealer_bytes[self.me.index()];
        let mut pages = shelf.read(inference, want.program, due)?;
        let mut cpu = thread_cpu_s();
        while let Some(chunk) = pages.next()? {
            let now = thread_cpu_s();
            self.stock.put(inference, chunk, None, now - cpu)?;
            cpu = now;
        }
        self.stock.complete(inference);
        Ok(())
    }
}

/// The chunk's index, if it is of this session and inference and later than the last one.
fn check_tag(got: &[u8], session: SessionId, inference: u64, past: Option<u32>) -> Result<u32, RoleError> {
    let refuse = |what: String| Err(RoleError::Material { inference, what });
    let (head, index) = got.split_at(CHUNK_TAG - 4);
    let index = u32::from_le_bytes(index.try_into().expect("a tag ends in four bytes"));
    if head[..16] != session.as_bytes()[..16] {
        return refuse("a chunk of another session".into());
    }
    if head[16..] != inference.to_le_bytes() {
        return refuse("a chunk of another inference".into());
    }
    if past.is_some_and(|past| index <= past) {
        return refuse(format!("chunk {index} came after chunk {past:?}"));
    }
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_of_another_session_inference_or_place_are_refused() {
        let [here, there] = [SessionId::new([1; 32]), SessionId::new([2; 32])];
        assert_eq!(check_tag(&tag(here, 7, 3), here, 7, Some(2)).unwrap(), 3);
        for (got, past, why) in [
            (tag(there, 7, 3), None, "session"),
            (tag(here, 8, 3), None, "another inference"),
            (tag(here, 7, 3), Some(3), "came after"),
        ] {
            let refused = check_tag(&got, here, 7, past).unwrap_err();
            assert!(refused.to_string().contains(why), "{refused}");
        }
    }

    #[test]
    fn an_order_survives_its_encoding() {
        let want = Want { inference: u64::MAX - 3, program: 17 };
        assert_eq!(Want::decode(&want.encode()), Some(want));
    }
}
