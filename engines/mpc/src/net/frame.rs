//! The frame header.
//!
//! ```text
//! 0     1        4              8                       16
//! ┌─────┬────────┬──────────────┬───────────────────────┐
//! │kind │ 0 0 0  │ length u32   │ sequence number u64   │  payload …      (little-endian)
//! └─────┴────────┴──────────────┴───────────────────────┘
//! ```
//!
//! The sequence number counts the frames of one direction of one link from 0.

/// Bytes of a frame header.
pub(crate) const FRAME_HEADER: usize = 16;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum Kind {
    /// The handshake.
    Hello = 1,
    /// The handshake's verdict.
    Verdict = 2,
    /// A party's ledger watermark.
    Watermark = 3,
    /// The start of an inference.
    Begin = 4,
    /// A round's opening.
    Round = 5,
    /// Transcript hashes.
    Transcript = 6,
    /// A client's request.
    Request = 7,
    /// A client's input share.
    Input = 8,
    /// An output share.
    Output = 9,
    /// An order for material.
    Want = 10,
    /// A chunk of material.
    Chunk = 11,
    /// The end of the session.
    End = 12,
    /// The sender gives up; the payload is one class byte.
    Abort = 13,
    /// A client's wish that the material of its next request be at hand before it asks.
    Prepare = 14,
    /// It is.
    Ready = 15,
    /// The dealer's seed of the masks of private weights.
    Seed = 16,
    /// A party's opening of the private weights.
    Opening = 17,
    /// Measures the link; zeros or nothing.
    Probe = 18,
    /// Half of a secret that two of three servers share.
    Pair = 19,
}

impl Kind {
    /// Whether it enters the running hash that the two parties compare before an output is released. Dealer chunks do not: TLS
    /// authenticates them and only one role reads each.
    pub(crate) fn is_transcribed(self) -> bool {
        matches!(self, Self::Begin | Self::Round | Self::Opening)
    }
}

/// A header as read: not yet compared with what is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: u8,
    pub(crate) reserved: [u8; 3],
    pub(crate) len: u32,
    pub(crate) seq: u64,
}

impl Header {
    pub(crate) fn new(kind: Kind, len: u32, seq: u64) -> Self {
        Self { kind: kind as u8, reserved: [0; 3], len, seq }
    }

    pub(crate) fn encode(self) -> [u8; FRAME_HEADER] {
        let mut bytes = [0; FRAME_HEADER];
        bytes[0] = self.kind;
        bytes[1..4].copy_from_slice(&self.reserved);
        bytes[4..8].copy_from_slice(&self.len.to_le_bytes());
        bytes[8..].copy_from_slice(&self.seq.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: [u8; FRAME_HEADER]) -> Self {
        let [kind, a, b, c, l0, l1, l2, l3, seq @ ..] = bytes;
        Self { kind, reserved: [a, b, c], len: u32::from_le_bytes([l0, l1, l2, l3]), seq: u64::from_le_bytes(seq) }
    }
}
