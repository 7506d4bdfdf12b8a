//! Why a remote cannot do what it was asked.

use super::{ObjectError, SealError};
use crate::cas::StoreError;
use crate::digest::Digest;
use crate::manifest::NotPublic;
use crate::records::RecordError;
use crate::runs::CheckpointError;

/// Why a remote cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RemoteError {
    /// The objects cannot be reached.
    #[error("the remote cannot be used")]
    Objects(#[from] ObjectError),
    /// The store on this machine failed.
    #[error("the store cannot take or give what the remote needs")]
    Store(#[from] StoreError),
    /// A record cannot be read or written here.
    #[error("a result record cannot be exchanged with the remote")]
    Record(#[from] RecordError),
    /// A checkpoint cannot be read or written here.
    #[error("a checkpoint cannot be exchanged with the remote")]
    Checkpoint(#[from] CheckpointError),
    /// The object under a digest has other bytes.
    #[error("object {name} of the remote is damaged: its bytes have digest {actual}")]
    Damaged {
        /// The object.
        name: String,
        /// The digest of its bytes.
        actual: Digest,
    },
    /// The object under a digest was there before and is something else.
    #[error("object {name} of the remote exists and has other bytes")]
    Foreign {
        /// The object.
        name: String,
    },
    /// The label forbids it.
    #[error("{0}; secret artifacts go to a remote only sealed to the owner's key, shares never")]
    Secret(#[from] NotPublic),
    /// Sealing or opening failed.
    #[error("object {name}: sealing or opening failed")]
    Seal {
        /// The object.
        name: String,
        /// Why.
        #[source]
        source: SealError,
    },
    /// Two machines charged one ledger.
    #[error("ledger {name} was charged by another machine: byte {offset} is taken")]
    Diverged {
        /// The ledger.
        name: String,
        /// From where on the two differ.
        offset: u64,
    },
}

impl RemoteError {
    /// Whether trying again later may help.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Objects(ObjectError::Unavailable { .. }))
    }

    /// Whether stored bytes are not what they should be.
    pub fn is_integrity(&self) -> bool {
        matches!(self, Self::Damaged { .. } | Self::Foreign { .. } | Self::Diverged { .. })
    }
}
