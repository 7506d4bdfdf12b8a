//! The one place that runs futures: a blocking face on the asynchronous links.

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::NetError;
use super::count::{Counted, Counters};
use super::link::{LAST_WORDS, Link, plain_link};
use super::shape::{LinkShape, shaped};
use super::tls::{Endpoint, Stream, TlsError};
use super::wait::{Wait, What};
use crate::Role;

/// Drives sockets and clocks on one thread of its own; the calling threads poll their own links, so a round costs no hand-over of data.
pub(crate) struct Net {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Net {
    pub(crate) fn new() -> io::Result<Self> {
        let runtime =
            Builder::new_multi_thread().worker_threads(1).max_blocking_threads(1).thread_name("net").enable_all().build()?;
        let handle = runtime.handle().clone();
        Ok(Self { runtime: Some(runtime), handle })
    }

    /// Runs a future on the calling thread. Must not be called from inside another runtime.
    pub(crate) fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.handle.block_on(future)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Bytes asked of the socket at a time. TLS by itself asks for four thousand: at two gigabytes of material that is half a million system
/// calls.
const READ_AHEAD: usize = 256 << 10;

fn read_ahead(tcp: TcpStream, counters: Arc<Counters>) -> Box<dyn Stream> {
    Box::new(BufReader::with_capacity(READ_AHEAD, Counted::new(tcp, counters)))
}

/// How to reach, how long to wait, how to shape.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dial {
    pub(crate) connect: Duration,
    pub(crate) stall: Duration,
    pub(crate) shape: LinkShape,
}

/// How long a connection may take to prove who it is.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Connections that shake hands at the same time.
const STRANGERS: usize = 64;

/// A connection on its way to a link.
type Shaking<'a> = Pin<Box<dyn Future<Output = (SocketAddr, Result<Box<Link>, TlsError>)> + 'a>>;

/// What a listener waits for.
enum Next {
    Accepted(io::Result<(TcpStream, SocketAddr)>),
    Shaken(SocketAddr, Result<Box<Link>, TlsError>),
}

/// The first future to end, which leaves the list; waits for ever on none.
async fn first_done<T>(futures: &mut Vec<Pin<Box<dyn Future<Output = T> + '_>>>) -> T {
    poll_fn(|context| {
        let done = futures.iter_mut().enumerate().find_map(|(at, future)| match future.as_mut().poll(context) {
            Poll::Ready(value) => Some((at, value)),
            Poll::Pending => None,
        });
        let Some((at, value)) = done else { return Poll::Pending };
        drop(futures.remove(at));
        Poll::Ready(value)
    })
    .await
}

/// A bound port.
pub(crate) struct Listener {
    inner: TcpListener,
    addr: SocketAddr,
}

impl Listener {
    pub(crate) async fn bind(addr: &str) -> Result<Self, NetError> {
        let failed = |source| NetError::Listen { addr: addr.to_owned(), source };
        let inner = TcpListener::bind(addr).await.map_err(failed)?;
        let local = inner.local_addr().map_err(failed)?;
        Ok(Self { inner, addr: local })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Waits for one connection from each of `due`, in any order, with the link shape each gets. All connections shake hands at the same time, each
    /// for [`HANDSHAKE`] at most: one that says nothing, fails TLS (a port scanner, a stranger, a wrong certificate) or is not due is dropped and
    /// does not hold up the roles that are. Of more than [`STRANGERS`] at once the oldest is dropped.
    pub(crate) async fn accept(
        &self,
        endpoint: &Endpoint,
        me: Role,
        due: &[(Role, LinkShape)],
        dial: Dial,
    ) -> Result<Vec<Link>, NetError> {
        let deadline = Instant::now() + dial.connect;
        let mut links: Vec<Link> = Vec::new();
        let mut shaking: Vec<Shaking<'_>> = Vec::new();
        while links.len() < due.len() {
            let missing: Vec<Role> = due.iter().map(|d| d.0).filter(|role| links.iter().all(|l| l.peer() != *role)).collect();
            let wait = || Wait { waiter: me, what: What::Connection, from: missing[0], at: self.addr.to_string() };
            let next = async {
                tokio::select! {
                    accepted = self.inner.accept() => Next::Accepted(accepted),
                    (from, shaken) = first_done(&mut shaking) => Next::Shaken(from, shaken),
                }
            };
            let next = timeout_at(deadline, next).await.map_err(|_| NetError::Stalled { wait: wait(), after: dial.connect })?;
            match next {
                Next::Accepted(Ok((tcp, from))) => {
                    if shaking.len() == STRANGERS {
                        drop(shaking.remove(0));
                    }
                    let missing = missing.clone();
                    shaking.push(Box::pin(async move {
                        let link = self.secure(endpoint, me, due, &missing, tcp, from, dial).await;
                        (from, link.map(Box::new))
                    }));
                }
                // Gone before it was taken: the other end's affair.
                Next::Accepted(Err(e)) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Next::Accepted(Err(source)) => return Err(NetError::Io { wait: wait(), source }),
                Next::Shaken(_, Ok(link)) if missing.contains(&link.peer()) => links.push(*link),
                Next::Shaken(from, Ok(link)) => tracing::warn!(%me, %from, peer = %link.peer(), "a second connection refused"),
                Next::Shaken(from, Err(refused)) => tracing::warn!(%me, %from, ?refused, "connection refused"),
            }
        }
        Ok(links)
    }

    #[expect(clippy::too_many_arguments, reason = "one caller, a few lines above")]
    async fn secure(
        &self,
        endpoint: &Endpoint,
        me: Role,
        due: &[(Role, LinkShape)],
        missing: &[Role],
        tcp: TcpStream,
        from: SocketAddr,
        dial: Dial,
    ) -> Result<Link, TlsError> {
        let _ = tcp.set_nodelay(true);
        let counters = Arc::new(Counters::default());
        // The shape depends on who it is, which only TLS tells; the handshake itself goes unshaped.
        let gate = shaped(read_ahead(tcp, counters.clone()));
        let switch = gate.switch();
        let secured = timeout(HANDSHAKE.min(dial.connect), endpoint.accept(missing, Box::new(gate) as Box<dyn Stream>));
        let secured = secured.await.map_err(|_| TlsError::Handshake(io::ErrorKind::TimedOut.into()))??;
        if let Some((_, shape)) = due.iter().find(|d| d.0 == secured.peer) {
            switch.set(*shape);
        }
        Ok(plain_link(me, secured.peer, from.to_string(), dial.stall, secured.stream, counters))
    }
}

/// Dials `peer` until it answers or the time is up; a refused certificate is final.
pub(crate) async fn connect(endpoint: &Endpoint, me: Role, peer: Role, addr: &str, dial: Dial) -> Result<Link, NetError> {
    let wait = || Wait { waiter: me, what: What::Connection, from: peer, at: addr.to_owned() };
    let stalled = |_| NetError::Stalled { wait: wait(), after: dial.connect };
    let deadline = Instant::now() + dial.connect;
    let tcp = loop {
        match timeout_at(deadline, TcpStream::connect(addr)).await.map_err(stalled)? {
            Ok(tcp) => break tcp,
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused && Instant::now() < deadline => {
                sleep(Duration::from_millis(50)).await;
            }
            Err(source) => return Err(NetError::Io { wait: wait(), source }),
        }
    };
    let _ = tcp.set_nodelay(true);
    let counters = Arc::new(Counters::default());
    let gate = shaped(read_ahead(tcp, counters.clone()));
    let switch = gate.switch();
    let secured = timeout_at(deadline, endpoint.connect(peer, Box::new(gate))).await.map_err(stalled)?;
    let secured = secured.map_err(|e| match e {
        TlsError::Setup(e) => NetError::Tls(e),
        TlsError::Handshake(source) => NetError::Io { wait: wait(), source },
    })?;
    switch.set(dial.shape);
    Ok(plain_link(me, peer, addr.to_owned(), dial.stall, secured.stream, counters))
}

/// Runs three futures at the same time to their ends.
pub(crate) async fn together<A, B, C>(
    a: impl Future<Output = A>,
    b: impl Future<Output = B>,
    c: impl Future<Output = C>,
) -> (A, B, C) {
    tokio::join!(a, b, c)
}

/// Runs two futures at the same time; when one fails the other has a moment to tell its side, and is then given up.
pub(crate) async fn both<T, E>(
    a: impl Future<Output = Result<T, E>>,
    b: impl Future<Output = Result<T, E>>,
) -> Result<(T, T), Vec<E>> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    let (first, second) = tokio::select! {
        first = &mut a => match first {
            Ok(a) => return b.await.map(|b| (a, b)).map_err(|e| vec![e]),
            Err(e) => (e, timeout(LAST_WORDS, b).await),
        },
        first = &mut b => match first {
            Ok(b) => return a.await.map(|a| (a, b)).map_err(|e| vec![e]),
            Err(e) => (e, timeout(LAST_WORDS, a).await),
        },
    };
    Err([first].into_iter().chain(second.ok().and_then(Result::err)).collect())
}
