//! Why a role gives up.

use std::io;
use std::path::PathBuf;

use sprint_mpc_core::MachineError;

use crate::ledger::LedgerError;
use crate::meter::CostMismatch;
use crate::net::{Class, IdentityError, NetError};
use crate::{Digest, Role};

/// A field of the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Field {
    /// The bytes every handshake begins with.
    Protocol,
    /// The protocol's version.
    Version,
    /// Who is at either end.
    Role,
    /// The session.
    Session,
    /// The model.
    Model,
    /// The programs.
    Program,
    /// The supply of dealer material.
    Batch,
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Protocol => "protocol",
            Self::Version => "protocol version",
            Self::Role => "role",
            Self::Session => "session id",
            Self::Model => "model digest",
            Self::Program => "program digest",
            Self::Batch => "dealer batch id",
        })
    }
}

/// A failure of a role. Nothing here holds a share or a key.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RoleError {
    /// The configuration makes no sense.
    #[error("configuration: {0}")]
    Config(String),
    /// The identity cannot be read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A link.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The two ends are not in the same session.
    #[error("{me} and {peer} disagree on the {field}: here {ours}, there {theirs}")]
    Handshake {
        /// This end.
        me: Role,
        /// The other.
        peer: Role,
        /// What differs.
        field: Field,
        /// Here.
        ours: String,
        /// There.
        theirs: String,
    },
    /// The one-time-material ledger.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The peer offers an index below this side's watermark.
    #[error("{peer} offers material index {offered}, but everything below {watermark} is burnt here")]
    IndexReuse {
        /// Who.
        peer: Role,
        /// Its index.
        offered: u64,
        /// This side's watermark.
        watermark: u64,
    },
    /// The parties are not at the same inference.
    #[error("{peer} begins another inference: {what} differs")]
    Desync {
        /// Who.
        peer: Role,
        /// What differs.
        what: &'static str,
    },
    /// The running hashes differ: the output is withheld.
    #[error("the transcripts of inference {inference} differ ({direction}); the output is withheld")]
    Transcript {
        /// Which.
        inference: u64,
        /// Whose frames.
        direction: &'static str,
    },
    /// The protocol's local side.
    #[error("inference {inference}: {source}")]
    Machine {
        /// Which.
        inference: u64,
        /// Why.
        source: MachineError,
    },
    /// The private weights could not be opened.
    #[error("opening the private weights: {source}")]
    Opening {
        /// Why.
        source: MachineError,
    },
    /// The program did other than it declared.
    #[error("inference {inference}: {source}")]
    Cost {
        /// Which.
        inference: u64,
        /// What.
        source: CostMismatch,
    },
    /// The dealer's stream is not the one that is due.
    #[error("dealer material of inference {inference}: {what}")]
    Material {
        /// Which is due.
        inference: u64,
        /// What is wrong.
        what: String,
    },
    /// A request that does not fit its program.
    #[error("request {request}: {what}")]
    Request {
        /// Which.
        request: u64,
        /// What is wrong.
        what: String,
    },
    /// A file.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// As reported.
        source: io::Error,
    },
    /// The operating system refuses a thread, a pipe, randomness.
    #[error("system: {0}")]
    System(String),
    /// The model files are not those that the session names.
    #[error("the model here has digest {actual}, the session names {expected}")]
    Model {
        /// By the session.
        expected: Digest,
        /// As read.
        actual: Digest,
    },
}

impl RoleError {
    /// What a peer may learn of it.
    pub fn class(&self) -> Class {
        match self {
            Self::Net(e) => e.class(),
            Self::Handshake { .. } | Self::Model { .. } => Class::Handshake,
            Self::IndexReuse { .. } | Self::Ledger(LedgerError::Reused { .. } | LedgerError::Bound { .. }) => Class::IndexReuse,
            Self::Desync { .. } | Self::Material { .. } | Self::Machine { source: MachineError::FrameLength { .. }, .. } => {
                Class::Protocol
            }
            Self::Transcript { .. } => Class::Transcript,
            Self::Request { .. } => Class::Request,
            Self::Config(_)
            | Self::Identity(_)
            | Self::Ledger(_)
            | Self::Machine { .. }
            | Self::Opening { .. }
            | Self::Cost { .. }
            | Self::File { .. }
            | Self::System(_) => Class::Internal,
        }
    }

    /// Whether the other end said why it gave up.
    pub(crate) fn is_reasoned(&self) -> bool {
        matches!(self, Self::Net(NetError::Aborted { class, .. }) if *class != Class::PeerLost)
    }

    /// Whether it only says that somebody else failed first.
    pub fn is_secondary(&self) -> bool {
        matches!(self, Self::Net(e) if e.is_secondary())
    }
}
