//! A link: frames in both directions at once, numbered, metered, hashed.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::timeout;

use super::count::{Counters, add};
use super::frame::{FRAME_HEADER, Header, Kind};
use super::tls::Stream;
use super::wait::{Wait, What};
use super::{Class, NetError};
use crate::Role;

/// Payloads up to this size share one write with their header.
const COALESCE: usize = 16 << 10;
/// How much is read or written between two looks at the stall clock.
const STEP: usize = 1 << 20;
/// How long a failed sender listens for the peer's own account of the failure.
pub(super) const LAST_WORDS: Duration = Duration::from_millis(250);

/// Bytes on the wire of a frame with a payload of `bytes`, if the socket takes every write whole.
pub(crate) fn wire_len(bytes: usize) -> u64 {
    // Each record of at most 16 KiB carries a header of 5 bytes, a type and a tag of 16.
    let sealed = |bytes: usize| (bytes + bytes.div_ceil(16 << 10) * 22) as u64;
    if bytes <= COALESCE {
        return sealed(FRAME_HEADER + bytes);
    }
    sealed(FRAME_HEADER) + sealed(bytes)
}

/// What a link has carried, from this end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes of frame payloads sent: what the program declares.
    pub payload_sent: u64,
    /// Bytes of frame payloads received.
    pub payload_received: u64,
    /// Frames sent; each is flushed.
    pub frames_sent: u64,
    /// Frames received.
    pub frames_received: u64,
    /// Bytes handed to the socket: payloads, frame headers, TLS.
    pub wire_sent: u64,
    /// Bytes taken from the socket.
    pub wire_received: u64,
}

impl Counters {
    pub(crate) fn traffic(&self) -> Traffic {
        let get = |c: &std::sync::atomic::AtomicU64| c.load(Ordering::Relaxed);
        Traffic {
            payload_sent: get(&self.payload_sent),
            payload_received: get(&self.payload_received),
            frames_sent: get(&self.frames_sent),
            frames_received: get(&self.frames_received),
            wire_sent: get(&self.wire_sent),
            wire_received: get(&self.wire_received),
        }
    }
}

/// The two ends of a link and how long either side may be silent.
#[derive(Debug, Clone)]
struct Ends {
    me: Role,
    peer: Role,
    at: String,
    stall: Duration,
}

impl Ends {
    fn wait(&self, what: What) -> Wait {
        Wait { waiter: self.me, what, from: self.peer, at: self.at.clone() }
    }

    /// One read or write, at most `limit` long if there is one.
    async fn step<T>(&self, what: What, limit: Option<Duration>, io: impl Future<Output = io::Result<T>>) -> Result<T, NetError> {
        let done = match limit {
            None => io.await,
            Some(after) => timeout(after, io).await.map_err(|_| NetError::Stalled { wait: self.wait(what), after })?,
        };
        done.map_err(|source| match source.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted => NetError::Closed { wait: self.wait(what) },
            _ => NetError::Io { wait: self.wait(what), source },
        })
    }
}

/// The receiving half.
pub(crate) struct LinkReader {
    ends: Ends,
    stream: ReadHalf<Box<dyn Stream>>,
    seq: u64,
    hash: blake3::Hasher,
    counters: Arc<Counters>,
}

/// The sending half.
pub(crate) struct LinkWriter {
    ends: Ends,
    stream: WriteHalf<Box<dyn Stream>>,
    seq: u64,
    hash: blake3::Hasher,
    counters: Arc<Counters>,
}

/// Both halves.
pub(crate) struct Link {
    reader: LinkReader,
    writer: LinkWriter,
}

/// A link over a stream that is already secured, or needs no security because it never leaves the process.
pub(crate) fn plain_link(
    me: Role,
    peer: Role,
    at: String,
    stall: Duration,
    stream: Box<dyn Stream>,
    counters: Arc<Counters>,
) -> Link {
    let ends = Ends { me, peer, at, stall };
    let (read, write) = tokio::io::split(stream);
    Link {
        reader: LinkReader { ends: ends.clone(), stream: read, seq: 0, hash: blake3::Hasher::new(), counters: counters.clone() },
        writer: LinkWriter { ends, stream: write, seq: 0, hash: blake3::Hasher::new(), counters },
    }
}

impl LinkReader {
    /// The next frame, which must be of `kind` and exactly `len` bytes.
    pub(crate) async fn recv(&mut self, kind: Kind, len: usize, what: What) -> Result<Vec<u8>, NetError> {
        let header = self.header(kind, what, Some(self.ends.stall)).await?;
        self.payload(kind, header, len..=len, what).await
    }

    /// Like [`LinkReader::recv`], but the frame may take up to `limit` to begin: the sender has work to do first.
    pub(crate) async fn recv_within(&mut self, kind: Kind, len: usize, what: What, limit: Duration) -> Result<Vec<u8>, NetError> {
        let header = self.header(kind, what, Some(limit)).await?;
        self.payload(kind, header, len..=len, what).await
    }

    /// The next frame, one of `due`, each with its exact length; waits as long as it takes for the frame to begin.
    pub(crate) async fn recv_one_of(&mut self, due: &[(Kind, usize)], what: What) -> Result<(Kind, Vec<u8>), NetError> {
        let header = self.raw_header(what, None).await?;
        let found = due.iter().find(|(kind, _)| *kind as u8 == header.kind);
        let (kind, len) = *found.unwrap_or(&due[0]);
        self.check(kind, header, what).await?;
        Ok((kind, self.payload(kind, header, len..=len, what).await?))
    }

    /// The next frame of `kind`, `min` to `max` bytes long, in two parts: a prefix of `min` bytes and the rest.
    pub(crate) async fn recv_prefixed(
        &mut self,
        kind: Kind,
        min: usize,
        max: usize,
        what: What,
    ) -> Result<(Vec<u8>, Vec<u8>), NetError> {
        let header = self.header(kind, what, None).await?;
        let len = header.len as usize;
        if !(min..=max).contains(&len) {
            return Err(NetError::Length { wait: self.ends.wait(what), expected: max, actual: len });
        }
        let prefix = self.fill(min, what).await?;
        let rest = self.fill(len - min, what).await?;
        self.count(len);
        Ok((prefix, rest))
    }

    /// BLAKE3 over the transcribed frames received so far.
    fn transcript(&self) -> [u8; 32] {
        *self.hash.finalize().as_bytes()
    }

    async fn header(&mut self, kind: Kind, what: What, limit: Option<Duration>) -> Result<Header, NetError> {
        let header = self.raw_header(what, limit).await?;
        self.check(kind, header, what).await?;
        Ok(header)
    }

    async fn raw_header(&mut self, what: What, limit: Option<Duration>) -> Result<Header, NetError> {
        let mut bytes = [0; FRAME_HEADER];
        self.ends.step(what, limit, self.stream.read_exact(&mut bytes)).await?;
        Ok(Header::decode(bytes))
    }

    async fn check(&mut self, kind: Kind, header: Header, what: What) -> Result<(), NetError> {
        let wait = self.ends.wait(what);
        if header.reserved != [0; 3] {
            return Err(NetError::Kind { wait, expected: kind, actual: header.kind });
        }
        if header.seq != self.seq {
            return Err(NetError::Sequence { wait, expected: self.seq, actual: header.seq });
        }
        self.seq += 1;
        if header.kind == Kind::Abort as u8 && header.len == 1 {
            let class = self.fill(1, what).await?;
            return Err(NetError::Aborted { wait, class: Class::from_code(class[0]) });
        }
        if header.kind != kind as u8 {
            return Err(NetError::Kind { wait, expected: kind, actual: header.kind });
        }
        Ok(())
    }

    async fn payload(
        &mut self,
        kind: Kind,
        header: Header,
        due: std::ops::RangeInclusive<usize>,
        what: What,
    ) -> Result<Vec<u8>, NetError> {
        let len = header.len as usize;
        if !due.contains(&len) {
            return Err(NetError::Length { wait: self.ends.wait(what), expected: *due.end(), actual: len });
        }
        let payload = self.fill(len, what).await?;
        self.count(len);
        if kind.is_transcribed() {
            self.hash.update(&header.encode()).update(&payload);
        }
        Ok(payload)
    }

    async fn fill(&mut self, len: usize, what: What) -> Result<Vec<u8>, NetError> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let mut part = (&mut self.stream).take(STEP.min(len - bytes.len()) as u64);
            let read = async {
                part.read_to_end(&mut bytes).await?;
                if part.limit() == 0 { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
            };
            self.ends.step(what, Some(self.ends.stall), read).await?;
        }
        Ok(bytes)
    }

    fn count(&self, len: usize) {
        add(&self.counters.payload_received, len);
        add(&self.counters.frames_received, 1);
    }
}

impl LinkWriter {
    /// Sends one frame and flushes it.
    pub(crate) async fn send(&mut self, kind: Kind, payload: &[u8], what: What) -> Result<(), NetError> {
        self.send_parts(kind, &[payload], what).await
    }

    /// Sends one frame whose payload is the concatenation of `parts`.
    pub(crate) async fn send_parts(&mut self, kind: Kind, parts: &[&[u8]], what: What) -> Result<(), NetError> {
        let bytes: usize = parts.iter().map(|p| p.len()).sum();
        let len = u32::try_from(bytes).map_err(|_| NetError::TooLong { bytes })?;
        let header = Header::new(kind, len, self.seq).encode();
        self.seq += 1;
        if kind.is_transcribed() {
            self.hash.update(&header);
            for part in parts {
                self.hash.update(part);
            }
        }
        if bytes <= COALESCE {
            let mut whole = Vec::with_capacity(FRAME_HEADER + bytes);
            whole.extend_from_slice(&header);
            for part in parts {
                whole.extend_from_slice(part);
            }
            self.write(&whole, what).await?;
        } else {
            self.write(&header, what).await?;
            for part in parts {
                self.write(part, what).await?;
            }
        }
        self.ends.step(what, Some(self.ends.stall), self.stream.flush()).await?;
        add(&self.counters.payload_sent, bytes);
        add(&self.counters.frames_sent, 1);
        Ok(())
    }

    /// Tells the peer that this role gives up, and closes; failures to do so are of no interest.
    pub(crate) async fn abort(&mut self, class: Class) {
        let last = async {
            let _ = self.send(Kind::Abort, &[class.code()], What::End).await;
            let _ = self.stream.shutdown().await;
        };
        let _ = timeout(LAST_WORDS, last).await;
    }

    /// Closes this direction in good order.
    pub(crate) async fn close(&mut self) {
        let _ = timeout(LAST_WORDS, self.stream.shutdown()).await;
    }

    fn transcript(&self) -> [u8; 32] {
        *self.hash.finalize().as_bytes()
    }

    async fn write(&mut self, bytes: &[u8], what: What) -> Result<(), NetError> {
        for part in bytes.chunks(STEP) {
            self.ends.step(what, Some(self.ends.stall), self.stream.write_all(part)).await?;
        }
        Ok(())
    }
}

impl Link {
    /// The other end.
    pub(crate) fn peer(&self) -> Role {
        self.reader.ends.peer
    }

    /// What it has carried.
    pub(crate) fn traffic(&self) -> Traffic {
        self.reader.counters.traffic()
    }

    /// Its counters, which outlive it.
    pub(crate) fn counters(&self) -> Arc<Counters> {
        self.reader.counters.clone()
    }

    /// See [`LinkWriter::send`].
    pub(crate) async fn send(&mut self, kind: Kind, payload: &[u8], what: What) -> Result<(), NetError> {
        self.writer.send(kind, payload, what).await
    }

    /// See [`LinkReader::recv`].
    pub(crate) async fn recv(&mut self, kind: Kind, len: usize, what: What) -> Result<Vec<u8>, NetError> {
        self.reader.recv(kind, len, what).await
    }

    /// See [`LinkReader::recv_within`].
    pub(crate) async fn recv_within(&mut self, kind: Kind, len: usize, what: What, limit: Duration) -> Result<Vec<u8>, NetError> {
        self.reader.recv_within(kind, len, what, limit).await
    }

    /// See [`LinkReader::recv_one_of`].
    pub(crate) async fn recv_one_of(&mut self, due: &[(Kind, usize)], what: What) -> Result<(Kind, Vec<u8>), NetError> {
        self.reader.recv_one_of(due, what).await
    }

    /// Sends one frame and receives one, at the same time.
    pub(crate) async fn exchange(
        &mut self,
        kind: Kind,
        payload: &[u8],
        peer_len: usize,
        what: What,
    ) -> Result<Vec<u8>, NetError> {
        let Self { reader, writer } = self;
        let mut send = pin!(writer.send(kind, payload, what));
        let mut recv = pin!(reader.recv(kind, peer_len, what));
        tokio::select! {
            biased;
            received = &mut recv => {
                let received = received?;
                send.await?;
                Ok(received)
            }
            sent = &mut send => match sent {
                Ok(()) => recv.await,
                Err(broken) => match timeout(LAST_WORDS, recv).await {
                    Ok(Err(aborted @ NetError::Aborted { .. })) => Err(aborted),
                    _ => Err(broken),
                },
            },
        }
    }

    /// Both send an empty frame of `kind` when they are at a common point; the other may take up to `limit` to get there.
    pub(crate) async fn meet(&mut self, kind: Kind, what: What, limit: Duration) -> Result<(), NetError> {
        self.writer.send(kind, &[], what).await?;
        self.reader.recv_within(kind, 0, what, limit).await.map(drop)
    }

    /// The transcript hashes as the peer should see them: (what this end sent, what this end received).
    pub(crate) fn transcripts(&self) -> ([u8; 32], [u8; 32]) {
        (self.writer.transcript(), self.reader.transcript())
    }

    /// See [`LinkWriter::abort`].
    pub(crate) async fn abort(&mut self, class: Class) {
        self.writer.abort(class).await;
    }

    /// See [`LinkWriter::close`].
    pub(crate) async fn close(&mut self) {
        self.writer.close().await;
    }

    /// Separates the directions, for use on two threads.
    pub(crate) fn split(self) -> (LinkReader, LinkWriter) {
        (self.reader, self.writer)
    }
}
