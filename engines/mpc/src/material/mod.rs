//! The stock of dealer material at a party: filled by the thread that reads the dealer's link, emptied by the one that evaluates.
//!
//! The stock is bounded. When it is full the reader stops reading, TCP stops the dealer, and nobody's memory grows.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sprint_mpc_core::{MachineError, MaterialSource};

use crate::error::RoleError;

mod shelf;
mod spool;

pub(crate) use shelf::{Label, SEED_INDEX, Seal, Sheet, Shelf};
use spool::Slot;
pub(crate) use spool::Spool;

/// Shared by the two threads.
#[derive(Debug)]
pub(crate) struct Stock {
    state: Mutex<State>,
    changed: Condvar,
    limits: StockLimits,
}

/// How much a stock holds, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StockLimits {
    pub(crate) memory: usize,
    /// Beyond memory, in the spool.
    pub(crate) disk: u64,
}

#[derive(Default)]
struct State {
    chunks: VecDeque<Chunk>,
    memory: usize,
    disk: u64,
    /// The reader waits for room.
    full: bool,
    /// Of which inference everything has arrived: all below this index.
    complete: u64,
    /// The reader is gone; why is told once.
    ended: bool,
    failure: Option<RoleError>,
    /// Processor seconds of the reading thread, by inference.
    reader_cpu_s: BTreeMap<u64, f64>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "State({} bytes in memory, {} on disk, {} chunks)", self.memory, self.disk, self.chunks.len())
    }
}

impl State {
    /// The front chunk, if it lies on disk.
    fn take_spooled(&mut self) -> Option<(u64, Slot, usize)> {
        match self.chunks.pop_front()? {
            Chunk { inference, place: Place::Disk(slot), taken } => Some((inference, slot, taken)),
            loaded @ Chunk { place: Place::Memory(_), .. } => {
                self.chunks.push_front(loaded);
                None
            }
        }
    }
}

struct Chunk {
    inference: u64,
    place: Place,
    taken: usize,
}

enum Place {
    Memory(Vec<u8>),
    Disk(Slot),
}

impl Stock {
    pub(crate) fn new(limits: StockLimits) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), limits }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&'a self, guard: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a chunk: to memory if it fits, else to the spool if there is one; blocks while both are full. One chunk always fits an empty memory, however
    /// large. There is one putting thread, so the order of calls is the order of chunks; `cpu_s` is what it spent on this one.
    pub(crate) fn put(&self, inference: u64, bytes: Vec<u8>, spool: Option<&mut Spool>, cpu_s: f64) -> Result<(), RoleError> {
        let mut state = self.lock();
        *state.reader_cpu_s.entry(inference).or_insert(0.0) += cpu_s;
        if state.ended {
            // Nobody will take it: what was ordered ahead is read to its end so that the dealer ends in good order.
            return Ok(());
        }
        let in_memory = loop {
            if state.memory == 0 || state.memory + bytes.len() <= self.limits.memory || state.ended {
                break true;
            }
            if spool.is_some() && state.disk + bytes.len() as u64 <= self.limits.disk {
                break false;
            }
            state.full = true;
            self.changed.notify_all();
            state = self.wait(state);
        };
        state.full = false;
        let place = match spool {
            Some(spool) if !in_memory => {
                state.disk += bytes.len() as u64;
                drop(state);
                let slot = spool.write(&bytes)?;
                state = self.lock();
                Place::Disk(slot)
            }
            _ => {
                state.memory += bytes.len();
                Place::Memory(bytes)
            }
        };
        state.chunks.push_back(Chunk { inference, place, taken: 0 });
        self.changed.notify_all();
        Ok(())
    }

    /// Everything for `inference` has been put.
    pub(crate) fn complete(&self, inference: u64) {
        self.lock().complete = inference + 1;
        self.changed.notify_all();
    }

    /// No more will come, and why.
    pub(crate) fn end(&self, failure: Option<RoleError>) {
        let mut state = self.lock();
        state.ended = true;
        state.failure = state.failure.take().or(failure);
        self.changed.notify_all();
    }

    /// The reason the reader stopped, if it failed and nobody asked yet.
    pub(crate) fn failure(&self) -> Option<RoleError> {
        self.lock().failure.take()
    }

    /// Processor seconds that receiving the material of all other inferences has taken so far.
    pub(crate) fn others_cpu_s(&self, inference: u64) -> f64 {
        self.lock().reader_cpu_s.iter().filter(|(i, _)| **i != inference).map(|(_, s)| s).sum()
    }

    /// Waits until all of `inference` is here, the stock is full, or nothing more has come for `lull`: as much of the offline phase as
    /// fits comes before the online phase.
    ///
    /// A lull is what one party sees of the other's full stock: the dealer makes material for both in one order, so it stops for both.
    /// Without that end the one would wait for the dealer, the dealer for the other, and the other for the one.
    pub(crate) fn await_ahead(&self, inference: u64, lull: Duration) {
        let mut state = self.lock();
        while state.complete <= inference && !state.full && !state.ended {
            if state.chunks.is_empty() {
                state = self.wait(state);
                continue;
            }
            let before = state.chunks.len();
            let (guard, timeout) = self.changed.wait_timeout(state, lull).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            if timeout.timed_out() && state.chunks.len() == before {
                return;
            }
        }
    }
}

/// One inference's view of the stock.
pub(crate) struct Supply<'a> {
    stock: &'a Stock,
    inference: u64,
    stall: Duration,
    /// Memory of chunks that are used up: reading spooled ones into it costs no new pages.
    spare: Vec<Vec<u8>>,
    pub(crate) taken: u64,
    pub(crate) waited: Duration,
}

impl<'a> Supply<'a> {
    pub(crate) fn new(stock: &'a Stock, inference: u64, stall: Duration) -> Self {
        Self { stock, inference, stall, spare: Vec::new(), taken: 0, waited: Duration::ZERO }
    }

    /// Waits until there is a chunk and checks whose it is.
    fn front(&mut self) -> Result<MutexGuard<'a, State>, MachineError> {
        let mut state = self.stock.lock();
        while state.chunks.is_empty() {
            if state.ended {
                return Err(MachineError::Material(format!("the stream ended within inference {}", self.inference)));
            }
            let from = Instant::now();
            let (guard, timeout) = self.stock.changed.wait_timeout(state, self.stall).unwrap_or_else(PoisonError::into_inner);
            state = guard;
            self.waited += from.elapsed();
            if timeout.timed_out() && state.chunks.is_empty() {
                let why = format!("nothing came from the dealer for {:?} within inference {}", self.stall, self.inference);
                return Err(MachineError::Material(why));
            }
        }
        match state.chunks.front() {
            Some(front) if front.inference != self.inference => {
                let why = format!(
                    "inference {} asks for more than the dealer made; next is inference {}",
                    self.inference, front.inference
                );
                Err(MachineError::Material(why))
            }
            _ => Ok(state),
        }
    }

    /// Brings the front chunk to memory. Only this thread takes from the front.
    fn load(&mut self, state: MutexGuard<'a, State>) -> Result<MutexGuard<'a, State>, MachineError> {
        let mut state = state;
        let Some((inference, slot, taken)) = state.take_spooled() else {
            return Ok(state);
        };
        drop(state);
        let bytes =
            slot.read(self.spare.pop().unwrap_or_default()).map_err(|e| MachineError::Material(format!("the spool: {e}")))?;
        let mut state = self.stock.lock();
        state.disk -= bytes.len() as u64;
        state.memory += bytes.len();
        state.chunks.push_front(Chunk { inference, place: Place::Memory(bytes), taken });
        Ok(state)
    }

    /// Takes what the front chunk has, at most `bytes`.
    fn take_front(&mut self, bytes: usize) -> Result<Vec<u8>, MachineError> {
        let state = self.front()?;
        let mut state = self.load(state)?;
        let mut chunk = state.chunks.pop_front().expect("there was one, and only this thread takes");
        let Place::Memory(whole) = &mut chunk.place else { return Err(MachineError::OutOfStep("a chunk was not loaded")) };
        let left = whole.len() - chunk.taken;
        let part = match (chunk.taken, left <= bytes) {
            (0, true) => std::mem::take(whole),
            (from, true) => whole[from..].to_vec(),
            (from, false) => whole[from..from + bytes].to_vec(),
        };
        if left > bytes {
            chunk.taken += bytes;
            state.chunks.push_front(chunk);
        }
        state.memory -= part.len();
        drop(state);
        self.stock.changed.notify_all();
        self.taken += part.len() as u64;
        Ok(part)
    }
}

impl MaterialSource for Supply<'_> {
    fn take(&mut self, bytes: usize) -> Result<Vec<u8>, MachineError> {
        if bytes == 0 {
            return Ok(Vec::new());
        }
        let mut out = self.take_front(bytes)?;
        if out.len() < bytes {
            out.reserve_exact(bytes - out.len());
        }
        while out.len() < bytes {
            let part = self.take_front(bytes - out.len())?;
            out.extend_from_slice(&part);
        }
        Ok(out)
    }

    fn reuse(&mut self, memory: Vec<u8>) {
        const SPARE: usize = 4;
        if self.spare.len() < SPARE {
            self.spare.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;

    const STALL: Duration = Duration::from_millis(50);

    fn spool() -> Spool {
        Spool::new(std::env::temp_dir())
    }

    fn stock(memory: usize, disk: u64) -> Stock {
        Stock::new(StockLimits { memory, disk })
    }

    #[test]
    fn takes_cross_chunk_borders_and_keep_the_order_in_memory_and_on_disk() {
        for memory in [1 << 20, 1, 4] {
            let (stock, mut spool) = (stock(memory, 1 << 20), spool());
            for chunk in [vec![0, 1, 2], vec![3], vec![4, 5, 6, 7]] {
                stock.put(9, chunk, Some(&mut spool), 0.0).unwrap();
            }
            let mut supply = Supply::new(&stock, 9, STALL);
            let taken = [2, 3, 0, 1, 2].map(|n| supply.take(n).unwrap());
            assert_eq!(taken, [vec![0, 1], vec![2, 3, 4], vec![], vec![5], vec![6, 7]]);
            let state = stock.lock();
            assert_eq!((supply.taken, state.memory, state.disk), (8, 0, 0));
        }
    }

    #[test]
    fn a_full_stock_holds_the_reader_back_until_something_is_taken() {
        let stock = Arc::new(stock(10, 6));
        let filler = stock.clone();
        let reader = thread::spawn(move || {
            let mut spool = spool();
            (0..10_u8).for_each(|i| filler.put(0, vec![i; 4], Some(&mut spool), 0.0).unwrap());
        });
        let mut supply = Supply::new(&stock, 0, Duration::from_secs(5));
        for i in 0..10 {
            thread::sleep(Duration::from_millis(2));
            let state = stock.lock();
            assert!(state.memory <= 10 && state.disk <= 6, "{state:?}");
            drop(state);
            assert_eq!(supply.take(4).unwrap(), vec![i; 4]);
        }
        reader.join().unwrap();
    }

    #[test]
    fn waiting_ahead_ends_when_all_is_here_or_nothing_more_fits() {
        let stock = Arc::new(stock(8, 0));
        let filler = stock.clone();
        let reader = thread::spawn(move || {
            let mut spool = spool();
            filler.put(0, vec![0; 4], Some(&mut spool), 0.0).unwrap();
            filler.complete(0);
            (0..3).for_each(|_| filler.put(1, vec![1; 4], Some(&mut spool), 0.0).unwrap());
            filler.complete(1);
        });
        stock.await_ahead(0, Duration::from_secs(600));
        stock.await_ahead(1, Duration::from_secs(600));
        assert!(stock.lock().full);
        let mut supply = Supply::new(&stock, 0, STALL);
        supply.take(4).unwrap();
        let mut supply = Supply::new(&stock, 1, Duration::from_secs(5));
        (0..3).for_each(|_| drop(supply.take(4).unwrap()));
        reader.join().unwrap();
    }

    /// The dealer is held back by the other party, whose stock is full: there is no other end to this wait.
    #[test]
    fn waiting_ahead_ends_when_the_dealer_makes_no_more() {
        let stock = stock(100, 0);
        stock.put(0, vec![0; 4], Some(&mut spool()), 0.0).unwrap();
        stock.await_ahead(0, STALL);
        let state = stock.lock();
        assert!(state.complete == 0 && !state.full && state.chunks.len() == 1, "{state:?}");
    }

    #[test]
    fn material_of_another_inference_is_not_given_out() {
        let stock = stock(100, 0);
        stock.put(4, vec![1; 8], Some(&mut spool()), 0.0).unwrap();
        let refused = Supply::new(&stock, 3, STALL).take(8).unwrap_err();
        assert!(refused.to_string().contains("next is inference 4"), "{refused}");
    }

    #[test]
    fn a_silent_dealer_is_a_named_error() {
        let refused = Supply::new(&stock(100, 0), 3, STALL).take(8).unwrap_err();
        assert!(refused.to_string().contains("nothing came from the dealer for 50ms within inference 3"), "{refused}");
    }
}
