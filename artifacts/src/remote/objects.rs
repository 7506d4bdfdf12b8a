//! What a remote needs of an object store and of a key: five operations and two.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::Path;

/// The bytes of an object to be created.
#[derive(Debug, Clone, Copy)]
pub enum Body<'a> {
    /// Memory.
    Bytes(&'a [u8]),
    /// A file that does not change meanwhile.
    File {
        /// The file.
        path: &'a Path,
        /// Its length.
        size: u64,
        /// Where an upload in parts is noted, so that a later process goes on with it; `None` for one that cannot be continued.
        note: Option<&'a Path>,
    },
}

/// What came of creating an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Creation {
    /// It was created.
    New,
    /// It was there, with the same length and, where the service keeps one, the same checksum.
    Same,
    /// It was there and is something else.
    Other,
}

/// Named immutable objects somewhere else.
pub trait Objects: Send + Sync + fmt::Debug {
    /// Creates an object if there is none of this name, whole or not at all.
    fn create(&self, name: &str, body: Body<'_>) -> Result<Creation, ObjectError>;
    /// Copies an object's bytes; `false` if there is none.
    fn read(&self, name: &str, into: &mut dyn Write) -> Result<bool, ObjectError>;
    /// Whether there is an object of this name.
    fn exists(&self, name: &str) -> Result<bool, ObjectError>;
    /// The names that begin so, sorted bytewise.
    fn list(&self, prefix: &str) -> Result<Vec<String>, ObjectError>;
    /// Removes an object; one that is not there is none the worse for it.
    fn remove(&self, name: &str) -> Result<(), ObjectError>;
}

/// Why an operation on objects failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectError {
    /// The service does not answer, or asks to come back later.
    #[error("{operation} {name}: the service is not available: {reason}")]
    Unavailable {
        /// What was tried.
        operation: &'static str,
        /// On which object.
        name: String,
        /// What the service or the network said.
        reason: String,
    },
    /// The service refuses: no such bucket, no permission, no credentials.
    #[error("{operation} {name}: the service refuses: {reason}")]
    Refused {
        /// What was tried.
        operation: &'static str,
        /// On which object.
        name: String,
        /// What the service said.
        reason: String,
    },
    /// A file or a pipe on this machine failed.
    #[error("{name}: a file on this machine cannot be used")]
    Local {
        /// For which object.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The owner's key: anyone can seal to it, only the owner opens.
pub trait Sealer: Send + Sync + fmt::Debug {
    /// Whether the secret half is here.
    fn can_open(&self) -> bool;
    /// Seals a stream.
    fn seal(&self, plain: &mut dyn Read, sealed: &mut dyn Write) -> Result<(), SealError>;
    /// Opens a stream; what it wrote before an error is worth nothing.
    fn open(&self, sealed: &mut dyn Read, plain: &mut dyn Write) -> Result<(), SealError>;
}

/// Why something cannot be sealed or opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// The secret half of the key is not on this machine.
    #[error("the identity that opens it is not on this machine")]
    NoIdentity,
    /// It is sealed to another key, damaged or cut off.
    #[error("it is not sealed to this identity, or damaged: {0}")]
    Damaged(String),
    /// A stream failed.
    #[error("a stream failed")]
    Io(#[from] io::Error),
}
