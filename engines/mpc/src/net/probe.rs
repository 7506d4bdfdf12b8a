//! What the link between the parties is, measured before anything is computed over it.
//!
//! Each party in turn sends and the other answers: RTT = min over [`PINGS`] empty frames; rate = 8·[`BULK`] / (T − RTT), T from the first
//! byte of one frame of `BULK` bytes to its answer, after another one that opens TCP's window. Frames are those of an inference, sealed by
//! the same TLS, so that what is measured is what rounds will see. They carry zeros.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::NetError;
use super::frame::Kind;
use super::link::Link;
use super::wait::What;

const PINGS: u32 = 5;
const WARM_UP: usize = 1 << 20;
const BULK: usize = 4 << 20;

/// The link to the other party, as measured from one end.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeasuredLink {
    /// Shortest round trip of an empty frame, milliseconds.
    pub rtt_ms: f64,
    /// Megabits a second in this end's direction of sending.
    pub mbit: f64,
}

/// Measures from this end, then answers while the other end measures; `first` is one end only.
pub(crate) async fn probe(link: &mut Link, first: bool) -> Result<MeasuredLink, NetError> {
    if first {
        let measured = measure(link).await?;
        answer(link).await?;
        Ok(measured)
    } else {
        answer(link).await?;
        measure(link).await
    }
}

async fn measure(link: &mut Link) -> Result<MeasuredLink, NetError> {
    let mut rtt = f64::INFINITY;
    for _ in 0..PINGS {
        rtt = rtt.min(there_and_back(link, &[]).await?);
    }
    let zeros = vec![0; BULK];
    there_and_back(link, &zeros[..WARM_UP]).await?;
    let bulk = there_and_back(link, &zeros).await?;
    // On a link without delay the round trip is noise, and may be longer than the transfer.
    let air = (bulk - rtt).max(bulk / 2.0).max(f64::EPSILON);
    Ok(MeasuredLink { rtt_ms: rtt * 1e3, mbit: BULK as f64 * 8.0 / air / 1e6 })
}

async fn there_and_back(link: &mut Link, payload: &[u8]) -> Result<f64, NetError> {
    let started = Instant::now();
    link.send(Kind::Probe, payload, What::Probe).await?;
    link.recv(Kind::Probe, 0, What::Probe).await?;
    Ok(started.elapsed().as_secs_f64())
}

async fn answer(link: &mut Link) -> Result<(), NetError> {
    let lengths = (0..PINGS).map(|_| 0).chain([WARM_UP, BULK]);
    for length in lengths {
        link.recv(Kind::Probe, length, What::Probe).await?;
        link.send(Kind::Probe, &[], What::Probe).await?;
    }
    Ok(())
}
