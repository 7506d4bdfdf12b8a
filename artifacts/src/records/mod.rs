//! Result records: which artifacts an action produced, with everything that its key was made from.
//!
//! ```text
//! results/ab/<64 hex of the action key>/<64 hex of the record's own digest>.cbor
//! ```
//!
//! These files are the truth; the index only remembers what they say. A record is published after every blob that it names,
//! by the same order of fsync and rename. Its name is the digest of its bytes and its key the digest of its preimage, so a
//! damaged record is always recognised; it is quarantined and reported.

mod error;
mod lookup;
mod record;

#[cfg(test)]
mod tests;

pub use error::RecordError;
pub use lookup::{Damaged, Lookup, StoredResult};
pub use record::{ActionKey, ResultId, ResultRecord};
