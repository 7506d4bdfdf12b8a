//! The index: a disposable memory of what the record files say. With it or without it, answers are the same.
//!
//! ```text
//! index.sled/       record digest → tag, summary      (sled's own files)
//! index.sled.seal   digest over every file in index.sled, written when it is closed, removed when it is opened
//! index.sled.lock   held by the one process that uses it; others do without
//! ```
//!
//! sled is not trusted in any way (orchestrator.md §0.1):
//!
//! - *At rest*: an index whose seal is missing or wrong – deleted, truncated, flipped, or left by a killed process – is
//!   removed unread and filled again from the record files.
//! - *While open*: every value carries a tag over its key and bytes; a panic, an error or a wrong tag leads to one rebuild,
//!   the second to doing without.
//! - *In time*: sled runs in a thread of its own, and no caller waits longer than the limit.
//! - *In content*: which records exist is said by the folders, and a record that an answer contains has been read and
//!   verified. A summary can only spare the reading of records that are not asked for; it never changes, because records
//!   are named by their digest, so it needs no position to be compared with.

mod error;
mod memory;
mod seal;
mod sled;
mod summary;
mod worker;

#[cfg(test)]
mod tests;

pub(crate) use self::sled::open as open_sled;
pub use error::{IndexError, IndexStatus};
#[cfg(test)]
pub(crate) use memory::Memory;
pub(crate) use memory::Opener;
pub(crate) use summary::Summary;
pub(crate) use worker::Index;
