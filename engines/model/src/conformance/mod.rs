//! A suite that every interpreter of the model is held against: each operation by itself, then whole models, next to f64.
//!
//! An interpreter's tests implement [`Subject`] for it and call [`assert_conforms`] (and [`assert_embeds`], if it looks up embeddings).
//! Values are of magnitude at most 8, so that fixed-point engines can take part; errors are `|x - y| / max(1, |y|)` over all
//! elements that belong to real tokens. The reference checks the model's own promises (the domain of a function, the bounds of a row sum)
//! while it runs.

mod cases;
mod fixture;
mod reference;
mod suite;

pub use fixture::{Fixture, Noise, variants};
pub use reference::{Reference, ReferenceError};
pub use suite::{Measured, Subject, assert_conforms, assert_embeds, measure};

/// A tensor of the suite: `[batch, tokens, channels]` or `[batch, heads, rows, columns]`, row-major.
#[derive(Debug, Clone, PartialEq)]
pub struct Values<const N: usize> {
    /// The shape.
    pub shape: [usize; N],
    /// The values.
    pub data: Vec<f64>,
}

impl<const N: usize> Values<N> {
    /// The tensor of `data`.
    ///
    /// # Panics
    /// If the shape has another number of elements.
    pub fn new(shape: [usize; N], data: Vec<f64>) -> Self {
        assert_eq!(shape.iter().product::<usize>(), data.len(), "the shape {shape:?} has another number of elements");
        Self { shape, data }
    }
}
