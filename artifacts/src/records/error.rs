//! What can go wrong with result records.

use crate::cas::StoreError;
use crate::digest::Digest;
use crate::encode::{DecimalError, DecodeError, FieldError};
use crate::manifest::ArtifactId;

/// Why a result record cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// The store cannot do what the record needs.
    #[error("the result record cannot be stored or read")]
    Store(#[from] StoreError),
    /// The file's name is not the digest of its bytes.
    #[error("the record named {expected} has digest {actual}")]
    Digest {
        /// The name.
        expected: Digest,
        /// The digest of the bytes.
        actual: Digest,
    },
    /// The record's key is not the key of its preimage, or not that of its folder.
    #[error("the record lies under key {expected} but its preimage has key {actual}")]
    Key {
        /// The key that the record or its folder states.
        expected: Digest,
        /// The key of the preimage.
        actual: Digest,
    },
    /// The bytes are not a canonical encoding.
    #[error("the record is not canonically encoded")]
    Decode(#[from] DecodeError),
    /// The value is not a record.
    #[error("the record has the wrong structure")]
    Structure(#[from] FieldError),
    /// A later version wrote it.
    #[error("the record has version {found}; this program reads version {known}")]
    Version {
        /// Its version.
        found: u32,
        /// The version that this program reads.
        known: u32,
    },
    /// A metric is not a finite number.
    #[error("metric {name:?} is not a finite number")]
    Metric {
        /// The metric.
        name: String,
        /// Why.
        #[source]
        source: DecimalError,
    },
    /// The record names an artifact that the store does not hold.
    #[error("output {name:?} names artifact {id}, which is not in the store")]
    OutputMissing {
        /// The output.
        name: String,
        /// The artifact.
        id: ArtifactId,
    },
}
