//! The synchronous state machines of an inference: no sockets, no clock, no tokio.
//!
//! Each round the two parties exchange one frame each way, at the same time. A frame's length is known to both from the program, so
//! a frame of another length is refused before it is read. One-time material comes from a [`MaterialSource`] in program order.

/// Which of the two online servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PartyId {
    /// Party 0: its share of dealer material is expanded from a seed alone.
    P0,
    /// Party 1: gets corrections besides its seed.
    P1,
}

impl PartyId {
    /// 0 or 1.
    pub fn index(self) -> usize {
        match self {
            Self::P0 => 0,
            Self::P1 => 1,
        }
    }

    /// The other one.
    #[must_use]
    pub fn peer(self) -> Self {
        match self {
            Self::P0 => Self::P1,
            Self::P1 => Self::P0,
        }
    }
}

/// What a party does next.
pub enum Advance {
    /// Send `frame`, receive one of `peer_len` bytes, and hand it to [`PartyMachine::absorb`].
    Exchange {
        /// Rounds count from 0.
        round: u32,
        /// This party's masked values, packed.
        frame: Vec<u8>,
        /// Length of the peer's frame.
        peer_len: usize,
    },
    /// All gates are evaluated; the output shares are for the client alone.
    Finished {
        /// This party's additive share of the outputs, little-endian words of Z_2^64.
        output: Vec<u8>,
    },
}

/// A party's side of one inference.
pub trait PartyMachine: Send {
    /// Does all local work up to the next opening, taking one-time material as it goes.
    fn advance(&mut self, material: &mut dyn MaterialSource) -> Result<Advance, MachineError>;
    /// Takes the peer's frame of the round last announced.
    fn absorb(&mut self, peer: &[u8]) -> Result<(), MachineError>;
}

/// The dealer's side: material for both parties, in program order, in chunks small enough to stream with back-pressure.
pub trait DealerMachine: Send {
    /// The next chunk, or `None` when the program needs no more.
    fn next_chunk(&mut self) -> Result<Option<DealerChunk>, MachineError>;
}

/// Material for one stretch of the program.
pub struct DealerChunk {
    /// Chunks count from 0.
    pub index: u32,
    /// Bytes for each party; either may be empty.
    pub to_party: [Vec<u8>; 2],
}

/// Where a party takes its one-time material from. Material moves out by value and cannot be asked for twice.
pub trait MaterialSource {
    /// The next `bytes` bytes; blocks until they are there.
    fn take(&mut self, bytes: usize) -> Result<Vec<u8>, MachineError>;
    /// Takes back the memory of what was taken and used up, for what comes next.
    fn reuse(&mut self, memory: Vec<u8>) {
        drop(memory);
    }
}

/// Why an inference cannot go on. Nothing here holds a share.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// A frame of a length the program does not have.
    #[error("round {round}: the peer's frame has {actual} bytes where the program has {expected}")]
    FrameLength {
        /// The round.
        round: u32,
        /// By the program.
        expected: usize,
        /// As received.
        actual: usize,
    },
    /// A call out of turn.
    #[error("protocol out of step: {0}")]
    OutOfStep(&'static str),
    /// The dealer's stream ended or broke.
    #[error("one-time material: {0}")]
    Material(String),
    /// A value of an example left the range that the program was calibrated for; its output means nothing and is not shown.
    #[error(
        "example {example}: a value left its calibrated range, so the result is refused: calibrate on inputs like it, or use mode exact"
    )]
    OutOfRange {
        /// Its place in the batch.
        example: usize,
    },
    /// An input of the wrong shape.
    #[error("input: {0}")]
    Input(String),
}
