//! A link of a given delay and rate, in user space.
//!
//! Each end holds back what it sends: byte `b` written at time `t` leaves at `max(t, free) + b/rate + RTT/2`, where `free` is when the link
//! has sent everything before it. Two ends together give one round-trip time and the rate in each direction. TCP's own slow start on
//! the loopback below is not modelled.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf, ReadHalf, WriteHalf};
use tokio::runtime::Handle;

use super::tls::Stream;

/// A round-trip time and a rate.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkShape {
    /// Round-trip time, milliseconds; half is added in each direction.
    pub rtt_ms: f64,
    /// Megabits a second in each direction; `None` is as fast as it goes.
    pub mbit: Option<f64>,
}

impl LinkShape {
    /// The bare loopback interface.
    pub const LOOPBACK: Self = Self { rtt_ms: 0.0, mbit: None };
    /// 1 Gbit/s, 1 ms.
    pub const LAN: Self = Self { rtt_ms: 1.0, mbit: Some(1000.0) };
    /// 200 Mbit/s, 80 ms.
    pub const WAN: Self = Self { rtt_ms: 80.0, mbit: Some(200.0) };
    /// 400 Mbit/s, 40 ms.
    pub const WAN_1: Self = Self { rtt_ms: 40.0, mbit: Some(400.0) };
    /// 100 Mbit/s, 80 ms.
    pub const WAN_2: Self = Self { rtt_ms: 80.0, mbit: Some(100.0) };

    /// A preset by its name on the command line.
    pub fn preset(name: &str) -> Option<Self> {
        match name {
            "loopback" => Some(Self::LOOPBACK),
            "lan" => Some(Self::LAN),
            "wan" => Some(Self::WAN),
            "wan-1" => Some(Self::WAN_1),
            "wan-2" => Some(Self::WAN_2),
            _ => None,
        }
    }

    /// Whether a role may be configured with it.
    pub(crate) fn is_valid(&self) -> bool {
        (0.0..=60_000.0).contains(&self.rtt_ms) && self.mbit.is_none_or(|r| r > 0.0 && r.is_finite())
    }

    fn is_bare(self) -> bool {
        self.rtt_ms == 0.0 && self.mbit.is_none()
    }

    fn one_way(self) -> Duration {
        Duration::from_secs_f64(self.rtt_ms / 2e3)
    }

    fn airtime(self, bytes: usize) -> Duration {
        self.mbit.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(bytes as f64 * 8.0 / (rate * 1e6)))
    }

    /// What may be under way at once: the bandwidth-delay product and 1 MB.
    fn in_flight(self) -> usize {
        let product = self.mbit.unwrap_or(10_000.0) * 1e6 / 8.0 * self.rtt_ms / 1e3;
        product as usize + (1 << 20)
    }
}

/// Wraps a stream, unshaped until its [`Switch`] is set. `Handle::current` must exist.
pub(super) fn shaped(inner: Box<dyn Stream>) -> Gate {
    let (read, write) = tokio::io::split(inner);
    Gate { read, write: Some(write), shared: Arc::default() }
}

/// A stream that can be shaped at any moment between two writes.
pub(super) struct Gate {
    read: ReadHalf<Box<dyn Stream>>,
    /// Gone once the pump thread has it.
    write: Option<WriteHalf<Box<dyn Stream>>>,
    shared: Arc<Shared>,
}

/// Turns shaping on.
pub(super) struct Switch(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    shape: Option<LinkShape>,
    queue: VecDeque<(Instant, Vec<u8>)>,
    queued: usize,
    free: Option<Instant>,
    writer: Option<Waker>,
    closing: bool,
    closed: bool,
    failed: Option<io::ErrorKind>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Switch {
    pub(super) fn set(&self, shape: LinkShape) {
        if !shape.is_bare() {
            self.0.lock().shape = Some(shape);
        }
    }
}

impl Gate {
    pub(super) fn switch(&self) -> Switch {
        Switch(self.shared.clone())
    }

    /// Hands the writing half to a thread that sleeps to the microsecond; the runtime's own clock ticks in milliseconds, too coarse for a LAN.
    fn start_pump(&mut self) -> io::Result<()> {
        let Some(write) = self.write.take() else { return Ok(()) };
        let shared = self.shared.clone();
        let handle = Handle::current();
        std::thread::Builder::new().name("link".into()).spawn(move || pump(&shared, write, &handle))?;
        Ok(())
    }
}

fn pump(shared: &Shared, mut write: WriteHalf<Box<dyn Stream>>, handle: &Handle) {
    loop {
        let mut state = shared.lock();
        let bytes = loop {
            let now = Instant::now();
            match state.queue.front() {
                Some((due, _)) if *due <= now => break state.queue.pop_front().map(|(_, bytes)| bytes),
                Some((due, _)) => {
                    let sleep = *due - now;
                    state = shared.more.wait_timeout(state, sleep).unwrap_or_else(PoisonError::into_inner).0;
                }
                None if state.closing => break None,
                None => state = shared.more.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        drop(state);
        let written = handle.block_on(async {
            match &bytes {
                Some(bytes) => write.write_all(bytes).await,
                None => write.shutdown().await,
            }
        });
        let mut state = shared.lock();
        state.queued -= bytes.as_ref().map_or(0, Vec::len);
        if let Err(e) = &written {
            state.failed = Some(e.kind());
        }
        let over = bytes.is_none() || written.is_err();
        state.closed |= over;
        if let Some(waker) = state.writer.take() {
            waker.wake();
        }
        if over {
            return;
        }
    }
}

impl AsyncRead for Gate {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.read).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gate {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let shape = self.shared.lock().shape;
        let Some(shape) = shape else {
            let write = self.write.as_mut().expect("the half leaves only when a shape is set, and a shape stays");
            return Pin::new(write).poll_write_vectored(cx, bufs);
        };
        self.start_pump()?;
        let mut state = self.shared.lock();
        if let Some(kind) = state.failed {
            return Poll::Ready(Err(kind.into()));
        }
        if state.queued >= shape.in_flight() {
            state.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let now = Instant::now();
        let mut leaves = state.free.map_or(now, |free| free.max(now));
        for buf in bufs {
            leaves += shape.airtime(buf.len());
            state.queue.push_back((leaves + shape.one_way(), buf.to_vec()));
            state.queued += buf.len();
        }
        state.free = Some(leaves);
        drop(state);
        self.shared.more.notify_one();
        Poll::Ready(Ok(bufs.iter().map(|b| b.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.write.as_mut() {
            Some(write) => Pin::new(write).poll_flush(cx),
            // Under way is as good as flushed: waiting for the far end would add a delay that a real link does not have.
            None => Poll::Ready(self.shared.lock().failed.map_or(Ok(()), |kind| Err(kind.into()))),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(write) = self.write.as_mut() {
            return Pin::new(write).poll_shutdown(cx);
        }
        let mut state = self.shared.lock();
        if state.closed {
            return Poll::Ready(Ok(()));
        }
        state.closing = true;
        state.writer = Some(cx.waker().clone());
        drop(state);
        self.shared.more.notify_one();
        Poll::Pending
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shared.lock().closing = true;
        self.shared.more.notify_one();
    }
}
