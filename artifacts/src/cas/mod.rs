//! The content-addressed store of blobs and artifacts.
//!
//! ```text
//! store/  VERSION                  the layout's version
//!         gc.lock                  held shared by writers, exclusively by a garbage collection
//!         blobs/b3/ab/<64 hex>     public blobs, 0444, immutable
//!         private/party-0/b3/…     one party's blobs, folders 0700, files 0400; never two parties in one folder
//!         private/secret/b3/…      this machine's secrets, likewise
//!         tmp/<writer>/            files being written; a dead writer's folder is swept by the next one
//!         quarantine/corrupt/…     files that failed verification
//!         quarantine/gc/…          files that garbage collection set aside
//!         results/ab/<key>/<result>.cbor   result records: the truth about what was computed
//!         checkpoints/…  runs/…  pins/…  index.sled/
//! ```
//!
//! **Architecture invariants.** A name in `blobs` or `private` appears only after its bytes are on the disk: write to `tmp`
//! while hashing → fsync → rename that never replaces → fsync of the folder. Bytes leave the store only after they hash to
//! their name; what does not is moved to `quarantine` and never served.

mod durable;
mod error;
mod layout;
mod materialise;
mod presence;
mod put;
mod read;
mod store;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use durable::DurableDirs;
pub use error::{Mismatch, StoreError};
pub(crate) use error::{io_error, write_error};
pub(crate) use layout::Layout;
pub use presence::{Check, Presence};
pub use put::BlobWriter;
pub(crate) use read::{hash, open_plain};
pub use store::{Access, Store, StoreOptions};

use crate::digest::Digest;
use crate::secrecy::Secrecy;

/// A blob of the store: its digest, its length and the label under which it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobRef {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) secrecy: Secrecy,
}

impl BlobRef {
    /// The digest of its bytes.
    pub const fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Its length in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The label under which it is kept.
    pub const fn secrecy(&self) -> Secrecy {
        self.secrecy
    }
}
