//! Memory transports, and one with a saboteur in the middle who knows frames.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::frame::{FRAME_HEADER, Header, Kind};
use super::tls::Stream;

/// What happens to the frame with a given number, counted from 0, on its way from the first end to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    Drop(u64),
    Duplicate(u64),
    /// It and the next change places.
    Swap(u64),
    /// Its last byte goes missing, and its header says so.
    Shorten(u64),
    /// The stream ends in the middle of it.
    CutOff(u64),
    FlipPayload(u64),
    FlipHeader(u64),
    /// A frame of another kind comes before it, with its sequence number.
    Foreign(u64),
    /// It and all that follows never come, though the link stays up.
    Hold(u64),
}

const CAPACITY: usize = 64 << 10;

/// Two ends of a perfect link.
pub(crate) fn memory() -> [Box<dyn Stream>; 2] {
    let (a, b) = duplex(CAPACITY);
    [Box::new(a), Box::new(b)]
}

/// Two ends of a link with a fault from the first to the second. Needs a runtime.
pub(crate) fn faulty(fault: Fault) -> [Box<dyn Stream>; 2] {
    let (a, here) = duplex(CAPACITY);
    let (there, b) = duplex(CAPACITY);
    let (mut from_a, mut to_a) = tokio::io::split(here);
    let (mut from_b, mut to_b) = tokio::io::split(there);
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut from_b, &mut to_a).await;
        let _ = to_a.shutdown().await;
    });
    tokio::spawn(async move {
        let _ = sabotage(fault, &mut from_a, &mut to_b).await;
        let _ = to_b.shutdown().await;
    });
    [Box::new(a), Box::new(b)]
}

type Read = tokio::io::ReadHalf<DuplexStream>;
type Write = tokio::io::WriteHalf<DuplexStream>;

async fn frame(from: &mut Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; FRAME_HEADER];
    from.read_exact(&mut bytes).await?;
    let header = Header::decode(bytes[..].try_into().expect("a header's length"));
    bytes.resize(FRAME_HEADER + header.len as usize, 0);
    from.read_exact(&mut bytes[FRAME_HEADER..]).await?;
    Ok(bytes)
}

async fn sabotage(fault: Fault, from: &mut Read, to: &mut Write) -> std::io::Result<()> {
    for number in 0.. {
        let mut bytes = frame(from).await?;
        match fault {
            Fault::Drop(n) if n == number => continue,
            Fault::Duplicate(n) if n == number => to.write_all(&bytes).await?,
            Fault::Swap(n) if n == number => {
                let next = frame(from).await?;
                to.write_all(&next).await?;
            }
            Fault::Shorten(n) if n == number => {
                let len = bytes.len() - FRAME_HEADER - 1;
                bytes.truncate(FRAME_HEADER + len);
                bytes[4..8].copy_from_slice(&(len as u32).to_le_bytes());
            }
            Fault::CutOff(n) if n == number => {
                to.write_all(&bytes[..bytes.len() - 1]).await?;
                return Ok(());
            }
            Fault::FlipPayload(n) if n == number => *bytes.last_mut().expect("a header at least") ^= 0x40,
            Fault::FlipHeader(n) if n == number => bytes[1] ^= 1,
            Fault::Foreign(n) if n == number => {
                let foreign = Header::new(Kind::Chunk, 3, number).encode();
                to.write_all(&[&foreign[..], b"abc"].concat()).await?;
            }
            Fault::Hold(n) if n == number => std::future::pending::<()>().await,
            _ => {}
        }
        to.write_all(&bytes).await?;
    }
    Ok(())
}
