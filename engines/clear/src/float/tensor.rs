//! The oracle's two kinds of tensor.

use std::sync::Arc;

/// `[batch, tokens, channels]`, row-major. Cloning shares the values.
#[derive(Debug, Clone)]
pub struct FloatAct {
    shape: [usize; 3],
    data: Arc<Vec<f32>>,
}

/// `[batch, heads, rows, columns]`, row-major. Cloning shares the values.
#[derive(Debug, Clone)]
pub struct FloatHeads {
    shape: [usize; 4],
    data: Arc<Vec<f32>>,
}

impl FloatAct {
    /// The tensor of `data`, or `None` if the shape does not have that many elements.
    pub fn new(shape: [usize; 3], data: Vec<f32>) -> Option<Self> {
        (shape.iter().product::<usize>() == data.len()).then(|| Self::of(shape, data))
    }

    pub(crate) fn of(shape: [usize; 3], data: Vec<f32>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        Self { shape, data: Arc::new(data) }
    }

    /// `[batch, tokens, channels]`.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// The values.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The channels of one token.
    pub fn token(&self, row: usize, token: usize) -> &[f32] {
        let [_, tokens, channels] = self.shape;
        let start = (row * tokens + token) * channels;
        &self.data[start..start + channels]
    }
}

impl FloatHeads {
    /// The tensor of `data`, or `None` if the shape does not have that many elements.
    pub fn new(shape: [usize; 4], data: Vec<f32>) -> Option<Self> {
        (shape.iter().product::<usize>() == data.len()).then(|| Self::of(shape, data))
    }

    pub(crate) fn of(shape: [usize; 4], data: Vec<f32>) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), data.len());
        Self { shape, data: Arc::new(data) }
    }

    /// `[batch, heads, rows, columns]`.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// The values.
    pub fn data(&self) -> &[f32] {
        &self.data
    }
}
