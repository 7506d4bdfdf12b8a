//! The content-addressed artifact store of sprint-flow.
//!
//! Everything that a workflow produces is an **artifact**: a [`manifest`] that lists files by digest. Bytes lie in the
//! [`cas`]; what produced them is said by result [`records`]; keys and formats are made of the canonical [`encode`]-ing.
//!
//! **Architecture invariant.** Files are the truth. The sled index is a disposable memory of them and can be deleted or
//! damaged at any time without changing an answer. The crate is synchronous and reads neither clock nor environment.

pub mod cas;
pub mod digest;
pub mod encode;
pub mod fault;
pub mod files;
pub mod gc;
pub mod index;
pub mod manifest;
pub mod records;
pub mod remote;
pub mod runs;
#[cfg(test)]
mod scratch;
pub mod secrecy;

pub use cas::{Access, BlobRef, BlobWriter, Check, Mismatch, Presence, Store, StoreError, StoreOptions};
pub use digest::{Digest, Hasher};
pub use encode::Value;
pub use manifest::{ArtifactId, FileEntry, Manifest, ManifestBuilder, PublicArtifact, SecretArtifact};
pub use records::{ActionKey, Lookup, RecordError, ResultId, ResultRecord, StoredResult};
pub use remote::{Remote, RemoteError, RemoteSpec};
pub use runs::{AppendLog, Checkpoint, CheckpointBuilder, CheckpointStore, Owner, RunDir, RunId, RunLock};
pub use secrecy::Secrecy;
