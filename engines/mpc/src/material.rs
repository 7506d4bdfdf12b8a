//! The stock of dealer material at a party: filled by the thread that reads the dealer's link, emptied by the one that evaluates.
//!
//! The stock is bounded. When it is full the reader stops reading, TCP stops the dealer, and nobody's memory grows.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sprint_mpc_core::{MachineError, MaterialSource};

use crate::error::RoleError;

/// Shared by the two threads.
#[derive(Debug)]
pub(crate) struct Stock {
    state: Mutex<State>,
    changed: Condvar,
    limit: usize,
}

#[derive(Default)]
struct State {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    /// Of which inference everything has arrived: all below this index.
    complete: u64,
    /// The reader is gone; why is told once.
    ended: bool,
    failure: Option<RoleError>,
    /// Processor seconds of the reading thread so far.
    reader_cpu_s: f64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "State({} bytes in {} chunks)", self.bytes, self.chunks.len())
    }
}

struct Chunk {
    inference: u64,
    bytes: Vec<u8>,
    taken: usize,
}

impl Stock {
    pub(crate) fn new(limit: usize) -> Self {
        Self { state: Mutex::default(), changed: Condvar::new(), limit }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&'a self, guard: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        self.changed.wait(guard).unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a chunk; blocks while the stock is full. One chunk always fits, however large.
    pub(crate) fn put(&self, inference: u64, bytes: Vec<u8>, reader_cpu_s: f64) {
        let mut state = self.lock();
        while state.bytes > 0 && state.bytes + bytes.len() > self.limit && !state.ended {
            state = self.wait(state);
        }
        state.bytes += bytes.len();
        state.reader_cpu_s = reader_cpu_s;
        state.chunks.push_back(Chunk { inference, bytes, taken: 0 });
        self.changed.notify_all();
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

    pub(crate) fn reader_cpu_s(&self) -> f64 {
        self.lock().reader_cpu_s
    }

    /// Waits until all of `inference` is here or the stock is full: as much of the offline phase as fits comes before the online phase.
    pub(crate) fn await_ahead(&self, inference: u64) {
        let mut state = self.lock();
        while state.complete <= inference && state.bytes < self.limit / 2 && !state.ended {
            state = self.wait(state);
        }
    }
}

/// One inference's view of the stock.
pub(crate) struct Supply<'a> {
    stock: &'a Stock,
    inference: u64,
    stall: Duration,
    pub(crate) taken: u64,
    pub(crate) waited: Duration,
}

impl<'a> Supply<'a> {
    pub(crate) fn new(stock: &'a Stock, inference: u64, stall: Duration) -> Self {
        Self { stock, inference, stall, taken: 0, waited: Duration::ZERO }
    }

    /// Takes what the front chunk has, at most `bytes`.
    fn take_front(&mut self, bytes: usize) -> Result<Vec<u8>, MachineError> {
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
        let front = state.chunks.front_mut().expect("not empty by the loop above");
        if front.inference != self.inference {
            let why = format!("inference {} asks for more than the dealer made; next is inference {}", self.inference, front.inference);
            return Err(MachineError::Material(why));
        }
        let left = front.bytes.len() - front.taken;
        let part = if left <= bytes {
            let chunk = state.chunks.pop_front().expect("it was just looked at");
            if chunk.taken == 0 { chunk.bytes } else { chunk.bytes[chunk.taken..].to_vec() }
        } else {
            let from = front.taken;
            front.taken += bytes;
            front.bytes[from..from + bytes].to_vec()
        };
        state.bytes -= part.len();
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::thread;

    const STALL: Duration = Duration::from_millis(50);

    #[test]
    fn takes_cross_chunk_borders_and_keep_the_order() {
        let stock = Stock::new(1 << 20);
        for chunk in [vec![0, 1, 2], vec![3], vec![4, 5, 6, 7]] {
            stock.put(9, chunk, 0.0);
        }
        let mut supply = Supply::new(&stock, 9, STALL);
        let taken = [2, 3, 0, 1, 2].map(|n| supply.take(n).unwrap());
        assert_eq!(taken, [vec![0, 1], vec![2, 3, 4], vec![], vec![5], vec![6, 7]]);
        assert_eq!((supply.taken, stock.lock().bytes), (8, 0));
    }

    #[test]
    fn a_full_stock_holds_the_reader_back_until_something_is_taken() {
        let stock = Arc::new(Stock::new(10));
        let filler = stock.clone();
        let reader = thread::spawn(move || (0..10_u8).for_each(|i| filler.put(0, vec![i; 4], 0.0)));
        let mut supply = Supply::new(&stock, 0, Duration::from_secs(5));
        for i in 0..10 {
            thread::sleep(Duration::from_millis(2));
            assert!(stock.lock().bytes <= 10);
            assert_eq!(supply.take(4).unwrap(), vec![i; 4]);
        }
        reader.join().unwrap();
    }

    #[test]
    fn material_of_another_inference_is_not_given_out() {
        let stock = Stock::new(100);
        stock.put(4, vec![1; 8], 0.0);
        let refused = Supply::new(&stock, 3, STALL).take(8).unwrap_err();
        assert!(refused.to_string().contains("next is inference 4"), "{refused}");
    }

    #[test]
    fn a_silent_dealer_is_a_named_error() {
        let refused = Supply::new(&Stock::new(100), 3, STALL).take(8).unwrap_err();
        assert!(refused.to_string().contains("nothing came from the dealer for 50ms within inference 3"), "{refused}");
    }
}
