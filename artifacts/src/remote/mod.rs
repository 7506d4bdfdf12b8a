//! A remote: results, artifacts, checkpoints and privacy ledgers kept where another machine finds them.
//!
//! ```text
//! v1/blobs/b3/ab/<hex>                  a public blob or manifest, under the digest of its bytes
//! v1/sealed/b3/ab/<hex>                 a secret one, sealed to its owner's key, under the digest of its plain bytes
//! v1/results/ab/<key>/first             the first result record of an action
//! v1/results/ab/<key>/alt/<result>      a later one with other outputs: reported non-determinism
//! v1/checkpoints/<key>/<sequence>-<hex> a checkpoint, sealed
//! v1/ledgers/<key>/<name>/base-<length> a ledger up to that length; …/at-<offset> the line appended there
//! ```
//!
//! **Architecture invariants.** Every object is created if it is absent and never overwritten, so the first writer wins and a ledger line
//! is a fence: two machines that charge one ledger collide at the first line. Blobs go before the record that names them. Nothing is
//! believed: bytes are hashed when they arrive, and a record whose artifacts are not all there is a miss. Shares have no type that
//! a remote takes.

mod checkpoints;
mod error;
mod ledger;
mod names;
mod objects;
mod pull;
mod push;
mod spec;

#[cfg(test)]
mod memory;
#[cfg(test)]
mod tests;

use std::fmt;

pub use checkpoints::{CheckpointUpload, Restored};
pub use error::RemoteError;
pub use objects::{Body, Creation, ObjectError, Objects, SealError, Sealer};
use push::Sealed;
pub use push::{Pushed, Verdict};
pub use spec::{RemoteSpec, RemoteUrl, RemoteUrlError};

/// A remote: objects somewhere else, and the owner's key if secrets may go there.
pub struct Remote {
    objects: Box<dyn Objects>,
    sealer: Option<Box<dyn Sealer>>,
}

impl Remote {
    /// A remote that takes public artifacts, and secret ones if there is a sealer.
    pub fn new(objects: Box<dyn Objects>, sealer: Option<Box<dyn Sealer>>) -> Self {
        Self { objects, sealer }
    }

    /// Whether secrets may go there, sealed.
    pub fn seals(&self) -> bool {
        self.sealer.is_some()
    }

    /// Whether what was sealed can be opened here.
    pub fn opens(&self) -> bool {
        self.sealer.as_ref().is_some_and(|s| s.can_open())
    }
}

impl fmt::Debug for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Remote").field("objects", &self.objects).field("seals", &self.seals()).finish_non_exhaustive()
    }
}
