//! Writing parameters so that equal parameters are equal bytes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::{Dtype, View};

use super::{CheckpointError, TensorData};
use crate::ParamPath;

struct F32View<'a>(&'a TensorData);

impl View for F32View<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F32
    }

    fn shape(&self) -> &[usize] {
        self.0.shape()
    }

    fn data(&self) -> Cow<'_, [u8]> {
        Cow::Owned(self.0.data().iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    fn data_len(&self) -> usize {
        4 * self.0.len()
    }
}

/// A safetensors file of `params` in F32, little-endian, tensors in the order of their names, without metadata: a function of the
/// parameters alone, so its digest names them.
pub fn params_to_safetensors<'a>(
    params: impl IntoIterator<Item = (&'a ParamPath, &'a TensorData)>,
) -> Result<Vec<u8>, CheckpointError> {
    let sorted: BTreeMap<_, _> = params.into_iter().map(|(path, tensor)| (path.as_str(), F32View(tensor))).collect();
    safetensors::serialize(sorted, None)
        .map_err(|reason| CheckpointError::Malformed { file: "parameters".to_owned(), reason: reason.to_string() })
}

/// Writes [`params_to_safetensors`] to `file`.
pub fn save_params<'a>(
    file: &Path,
    params: impl IntoIterator<Item = (&'a ParamPath, &'a TensorData)>,
) -> Result<(), CheckpointError> {
    let bytes = params_to_safetensors(params)?;
    fs::write(file, bytes).map_err(|source| CheckpointError::Io { path: file.to_owned(), source })
}
