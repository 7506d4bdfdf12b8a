//! Operations of the CPU backend that have a backward pass of their own.
//!
//! burn's tape is made of small operations. On the CPU each is a pass over memory, forward and backward, and such passes took half the time of
//! a step of a small encoder. A part of the model is one operation here: what is read is read once, and what the backward pass needs is kept by
//! the operation that had it. The matrix products are burn's.

mod attention;
mod dense;
mod gelu;
mod norm;
mod tape;

pub(crate) use attention::{attention, packed_attention};
pub(crate) use dense::{Dense, Update, dense};
pub(crate) use gelu::gelu;
pub(crate) use norm::{add_norm, layer_norm};
pub(crate) use tape::buffer;
