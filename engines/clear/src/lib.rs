//! Interpreters of the model that see every value: the f32 oracle.

pub mod float;
