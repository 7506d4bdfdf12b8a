//! The one place that runs futures: a blocking face on the asynchronous links.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
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

    /// Waits for one connection from each of `due`, in any order, with the link shape each gets. A connection that fails TLS (a port
    /// scanner, a stranger, a wrong certificate) is dropped and does not hold up the roles that are due.
    pub(crate) async fn accept(
        &self,
        endpoint: &Endpoint,
        me: Role,
        due: &[(Role, LinkShape)],
        dial: Dial,
    ) -> Result<Vec<Link>, NetError> {
        let deadline = Instant::now() + dial.connect;
        let mut links: Vec<Link> = Vec::new();
        while links.len() < due.len() {
            let missing: Vec<Role> = due.iter().map(|d| d.0).filter(|role| links.iter().all(|l| l.peer() != *role)).collect();
            let wait = || Wait { waiter: me, what: What::Connection, from: missing[0], at: self.addr.to_string() };
            let accepted = timeout_at(deadline, self.inner.accept())
                .await
                .map_err(|_| NetError::Stalled { wait: wait(), after: dial.connect })?;
            let (tcp, from) = accepted.map_err(|source| NetError::Io { wait: wait(), source })?;
            match self.secure(endpoint, me, due, &missing, tcp, from, dial).await {
                Ok(link) => links.push(link),
                Err(refused) => tracing::warn!(%me, %from, ?refused, "connection refused"),
            }
        }
        Ok(links)
    }

    #[expect(clippy::too_many_arguments, reason = "one caller, two lines above")]
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
        let secured = timeout(dial.connect, endpoint.accept(missing, Box::new(gate) as Box<dyn Stream>));
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
