//! Framed, mutually authenticated, metered connections between roles.
//!
//! From the bottom: a byte stream (TCP, or memory in tests), counted, optionally shaped to a link's delay and rate, TLS 1.3 with a pinned
//! certificate at each end, and frames whose kind, length and sequence number the receiver knows beforehand.

mod count;
mod error;
#[cfg(test)]
pub(crate) mod fault;
mod frame;
mod identity;
mod link;
mod probe;
mod runtime;
mod shape;
#[cfg(test)]
mod tests;
mod tls;
mod wait;

pub(crate) use count::Counters;
pub use error::{Class, NetError};
pub use frame::Kind;
pub use identity::{Identity, IdentityError, IdentityPem};
pub use link::Traffic;
#[cfg(test)]
pub(crate) use link::plain_link;
pub(crate) use link::{Link, LinkReader, LinkWriter, wire_len};
pub use probe::MeasuredLink;
pub(crate) use probe::probe;
pub(crate) use runtime::{Dial, Listener, Net, both, connect, together};
pub use shape::LinkShape;
pub(crate) use tls::Endpoint;
pub use wait::{Wait, What};
