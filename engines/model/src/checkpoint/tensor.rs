//! A tensor of f32 in row-major order.

use std::fmt;

/// Shape and values, row-major. Its `Debug` shows the shape alone: a trained model's values are its owner's.
#[derive(Clone, PartialEq)]
pub struct TensorData {
    shape: Vec<usize>,
    data: Vec<f32>,
}

impl TensorData {
    /// The tensor of `data`, or `None` if `shape` does not have that many elements.
    pub fn new(shape: Vec<usize>, data: Vec<f32>) -> Option<Self> {
        let elements = shape.iter().try_fold(1_usize, |product, &dim| product.checked_mul(dim))?;
        (elements == data.len()).then_some(Self { shape, data })
    }

    /// A tensor of one value.
    pub fn filled(shape: Vec<usize>, value: f32) -> Self {
        let elements = shape.iter().product();
        Self { shape, data: vec![value; elements] }
    }

    /// The shape.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The values.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// The values, to change in place.
    pub fn data_mut(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// The values, moved out.
    pub fn into_data(self) -> Vec<f32> {
        self.data
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }
}

impl fmt::Debug for TensorData {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TensorData").field("shape", &self.shape).finish_non_exhaustive()
    }
}
