//! What can go wrong on a link, and the class of it that a peer may learn.

use std::fmt;
use std::io;
use std::time::Duration;

use super::frame::Kind;
use super::wait::Wait;
use crate::Role;

/// What a role tells its peers when it gives up: the kind of failure and no detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Class {
    /// A handshake field differs.
    Handshake,
    /// A frame out of order, of a wrong kind or length.
    Protocol,
    /// The two transcripts differ.
    Transcript,
    /// An index of one-time material that was used before.
    IndexReuse,
    /// One waited too long.
    Timeout,
    /// A link to another role broke.
    PeerLost,
    /// A request that does not fit the program.
    Request,
    /// Anything on the other's own machine.
    Internal,
}

impl Class {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Handshake => 1,
            Self::Protocol => 2,
            Self::Transcript => 3,
            Self::IndexReuse => 4,
            Self::Timeout => 5,
            Self::PeerLost => 6,
            Self::Request => 7,
            Self::Internal => 8,
        }
    }

    pub(crate) fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Handshake,
            2 => Self::Protocol,
            3 => Self::Transcript,
            4 => Self::IndexReuse,
            5 => Self::Timeout,
            6 => Self::PeerLost,
            7 => Self::Request,
            _ => Self::Internal,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handshake => "handshake mismatch",
            Self::Protocol => "protocol violation",
            Self::Transcript => "transcript mismatch",
            Self::IndexReuse => "material index used before",
            Self::Timeout => "timeout",
            Self::PeerLost => "connection lost",
            Self::Request => "unfit request",
            Self::Internal => "internal failure",
        })
    }
}

/// A failure of a link. Nothing here holds a share.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetError {
    /// The operating system or TLS reports a failure.
    #[error("{wait}: {source}")]
    Io {
        /// What was going on.
        wait: Wait,
        /// As reported.
        source: io::Error,
    },
    /// The other end closed.
    #[error("{wait}: the connection was closed")]
    Closed {
        /// What was expected.
        wait: Wait,
    },
    /// Nothing moved for too long.
    #[error("{wait}: nothing came for {after:?}")]
    Stalled {
        /// What was expected.
        wait: Wait,
        /// How long.
        after: Duration,
    },
    /// The other end gave up and said so.
    #[error("{wait}: {from} gave up ({class})", from = wait.from)]
    Aborted {
        /// What was expected.
        wait: Wait,
        /// Its reason, as far as it tells.
        class: Class,
    },
    /// A frame of another kind.
    #[error("{wait}: a frame of kind {actual} came where {expected:?} is due")]
    Kind {
        /// What was expected.
        wait: Wait,
        /// The kind that is due.
        expected: Kind,
        /// The byte that came.
        actual: u8,
    },
    /// A frame of another length; refused before it is read.
    #[error("{wait}: a frame of {actual} bytes came where the program has {expected}")]
    Length {
        /// What was expected.
        wait: Wait,
        /// By the program.
        expected: usize,
        /// As announced.
        actual: usize,
    },
    /// A frame that was dropped, repeated or moved.
    #[error("{wait}: frame {actual} came where frame {expected} is due")]
    Sequence {
        /// What was expected.
        wait: Wait,
        /// The number that is due.
        expected: u64,
        /// The number that came.
        actual: u64,
    },
    /// A frame of this side's own that no header can describe.
    #[error("a frame of {bytes} bytes is too long to send")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A connection that is not from a role that is due.
    #[error("{waiter} got a connection from {actual}, which is not due")]
    Unexpected {
        /// Who listens.
        waiter: Role,
        /// Who came.
        actual: Role,
    },
    /// TLS could not be set up at all.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// A socket could not be opened.
    #[error("listening on {addr}: {source}")]
    Listen {
        /// Where.
        addr: String,
        /// As reported.
        source: io::Error,
    },
}

impl NetError {
    /// What a peer may learn of it.
    pub fn class(&self) -> Class {
        match self {
            Self::Io { .. } | Self::Closed { .. } => Class::PeerLost,
            Self::Stalled { .. } => Class::Timeout,
            Self::Aborted { class, .. } => *class,
            Self::Kind { .. } | Self::Length { .. } | Self::Sequence { .. } | Self::Unexpected { .. } => Class::Protocol,
            Self::TooLong { .. } | Self::Tls(_) | Self::Listen { .. } => Class::Internal,
        }
    }

    /// Whether it only says that somebody else failed first.
    pub fn is_secondary(&self) -> bool {
        matches!(self, Self::Closed { .. } | Self::Io { .. } | Self::Aborted { .. })
    }
}
