//! Why a checkpoint cannot be used.

use std::io;
use std::path::PathBuf;

use crate::{ConfigError, SpecError};

/// Why a checkpoint cannot be read or does not fit its spec.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// A file that cannot be read or written.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// A file, or a file's header, larger than any that this program reads.
    #[error("{file}: {what} has {bytes} bytes, more than {most}")]
    TooLarge {
        /// The file.
        file: String,
        /// The file or its header.
        what: &'static str,
        /// As found.
        bytes: u64,
        /// The bound.
        most: u64,
    },
    /// Not a safetensors file.
    #[error("{file}: not a safetensors file: {reason}")]
    Malformed {
        /// The file.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The spec.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A parameter of the spec has no tensor.
    #[error("{file}: tensor {tensor} of shape {expected:?} is missing")]
    Missing {
        /// The file.
        file: String,
        /// The parameter.
        tensor: String,
        /// Its shape by the spec.
        expected: Vec<usize>,
    },
    /// A tensor that is no parameter of the spec.
    #[error("{file}: tensor {tensor} belongs to no parameter of the model")]
    Unexpected {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
    },
    /// Two tensors of one name, once prefixes are dropped.
    #[error("{file}: tensor {tensor} occurs twice, with and without its prefix")]
    Duplicate {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
    },
    /// A tensor of another shape.
    #[error("{file}: tensor {tensor} has shape {found:?} where the model has {expected:?}")]
    Shape {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// By the spec.
        expected: Vec<usize>,
        /// As found.
        found: Vec<usize>,
    },
    /// A tensor of a type that is not read.
    #[error("{file}: tensor {tensor} has type {found}; supported: F32, F16, BF16")]
    Dtype {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// As found.
        found: String,
    },
    /// A value that is not a number or infinite.
    #[error("{file}: tensor {tensor} has the value {value} at element {index}")]
    NotFinite {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// The element, row-major.
        index: usize,
        /// NaN or an infinity.
        value: f32,
    },
}
