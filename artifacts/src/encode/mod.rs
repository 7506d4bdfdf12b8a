//! Deterministic CBOR: one value, one byte string.
//!
//! Keys, manifests and records are digests of these bytes, so the encoding must be a function (equal values give equal bytes)
//! and injective (different values give different bytes). It is RFC 8949 §4.2.1 "core deterministic encoding": shortest
//! heads, definite lengths, map keys sorted bytewise by their encoded form. Floating point does not occur; a number with a
//! fraction is an exact decimal, tag 4 `[exponent, mantissa]`, without trailing zeros.
//!
//! The reader accepts exactly the image of the writer, so `to_bytes(from_bytes(b)) == b` for every accepted `b`. It is
//! written out here because general CBOR readers accept longer heads and unsorted maps.

mod decimal;
mod diff;
mod fields;
mod json;
mod read;
mod value;
mod write;

#[cfg(test)]
mod tests;

pub use decimal::{Decimal, DecimalError};
pub use diff::{Difference, differences};
pub use fields::FieldError;
pub(crate) use fields::Fields;
pub use read::{DecodeError, MAX_BYTES, MAX_DEPTH};
pub use value::Value;
