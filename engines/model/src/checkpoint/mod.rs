//! Weights: a spec and a tensor for each of its parameters.
//!
//! **Invariant.** Every tensor of a [`Checkpoint`] has the shape its spec says and only finite values. Files are untrusted: sizes are
//! bounded before they are read, and no content makes a loader panic.

mod error;
mod random;
mod read;
mod tensor;
mod write;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

pub use error::CheckpointError;
pub use read::{MAX_FILE_BYTES, MAX_HEADER_BYTES, load_params, params_from_safetensors};
pub use tensor::TensorData;
pub use write::{params_to_safetensors, save_params};

use crate::{ModelSpec, ParamPath, Part};

/// A model's weights.
///
/// The encoder is complete, but for what [`Checkpoint::part`] makes. The head's and the low-rank updates' tensors may be missing until [`Checkpoint::with_params`] adds
/// them: a pretrained model has none. A pretrained pooler or classifier is kept even where the spec has no head.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    spec: ModelSpec,
    params: BTreeMap<ParamPath, TensorData>,
}

impl Checkpoint {
    /// The checkpoint in a folder with Hugging Face's `config.json` and `model.safetensors`; the spec is the configuration's.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let spec = read::read_config(&folder.join("config.json"))?;
        Self::load(&folder.join("model.safetensors"), spec)
    }

    /// The tensors of a safetensors file, checked against `spec`.
    pub fn load(file: &Path, spec: ModelSpec) -> Result<Self, CheckpointError> {
        let bytes = read::read_bounded(file, MAX_FILE_BYTES)?;
        Self::from_safetensors(&file.display().to_string(), &bytes, spec)
    }

    /// The tensors of a safetensors file in memory, checked against `spec`; errors call the file `name`.
    ///
    /// F32, F16 and BF16 are read, always as f32. A `bert.` or `roberta.` prefix is dropped, `LayerNorm.gamma` and `beta` are renamed,
    /// and what no encoder with a classification head has use for is skipped (`embeddings.position_ids`, `cls.*`, `lm_head.*`).
    pub fn from_safetensors(name: &str, bytes: &[u8], spec: ModelSpec) -> Result<Self, CheckpointError> {
        spec.validate()?;
        let params = read::hugging_face(name, bytes)?;
        Self::checked(name, spec, params)
    }

    /// The checkpoint of `params`; errors call their origin `name`.
    pub fn from_params(name: &str, spec: ModelSpec, params: BTreeMap<ParamPath, TensorData>) -> Result<Self, CheckpointError> {
        spec.validate()?;
        Self::checked(name, spec, params)
    }

    /// What somebody may hold who must not see the whole of a model: `params` of its parameters, any number of them.
    pub fn part(name: &str, spec: ModelSpec, params: BTreeMap<ParamPath, TensorData>) -> Result<Self, CheckpointError> {
        spec.validate()?;
        let known = Self { spec, params: BTreeMap::new() };
        known.with_params(name, params)
    }

    /// This checkpoint with `params` added or, where it has them, replaced: a trained head and low-rank updates on their base.
    pub fn with_params(mut self, name: &str, params: BTreeMap<ParamPath, TensorData>) -> Result<Self, CheckpointError> {
        let shapes = self.shapes();
        for (path, tensor) in params {
            let known = shapes.get(&path);
            check_tensor(name, &path, &tensor, known.map(Vec::as_slice), &self.spec)?;
            self.params.insert(path, tensor);
        }
        Ok(self)
    }

    /// The same weights under a spec of the same shape, for instance with a head, low-rank updates or another activation.
    pub fn with_spec(self, spec: ModelSpec) -> Result<Self, CheckpointError> {
        Self::from_params("checkpoint", spec, self.params)
    }

    /// The spec.
    pub fn spec(&self) -> &ModelSpec {
        &self.spec
    }

    /// All tensors by path.
    pub fn params(&self) -> &BTreeMap<ParamPath, TensorData> {
        &self.params
    }

    /// One tensor.
    pub fn get(&self, path: &ParamPath) -> Option<&TensorData> {
        self.params.get(path)
    }

    /// The spec and the tensors.
    pub fn into_parts(self) -> (ModelSpec, BTreeMap<ParamPath, TensorData>) {
        (self.spec, self.params)
    }

    /// The parameters of the spec that have no tensor yet, in order.
    pub fn missing(&self) -> Vec<ParamPath> {
        let paths = self.spec.parameters().into_iter().map(|parameter| parameter.path);
        paths.filter(|path| !self.params.contains_key(path)).collect()
    }

    /// An error naming the first missing parameter, if any is missing.
    pub fn require_complete(&self) -> Result<(), CheckpointError> {
        let Some(parameter) = self.spec.parameters().into_iter().find(|p| !self.params.contains_key(&p.path)) else {
            return Ok(());
        };
        Err(CheckpointError::Missing {
            file: "checkpoint".to_owned(),
            tensor: parameter.path.to_string(),
            expected: parameter.shape,
        })
    }

    fn shapes(&self) -> BTreeMap<ParamPath, Vec<usize>> {
        self.spec.parameters().into_iter().map(|p| (p.path, p.shape)).collect()
    }

    /// `spec` is valid, so its parameter list is of bounded size.
    fn checked(name: &str, spec: ModelSpec, params: BTreeMap<ParamPath, TensorData>) -> Result<Self, CheckpointError> {
        let mut optional = BTreeMap::new();
        for parameter in spec.parameters() {
            let required = matches!(parameter.part, Part::Embeddings | Part::Encoder);
            if required && !params.contains_key(&parameter.path) {
                let (tensor, expected) = (parameter.path.to_string(), parameter.shape);
                return Err(CheckpointError::Missing { file: name.to_owned(), tensor, expected });
            }
            optional.insert(parameter.path, parameter.shape);
        }
        for (path, tensor) in &params {
            check_tensor(name, path, tensor, optional.get(path).map(Vec::as_slice), &spec)?;
        }
        Ok(Self { spec, params })
    }
}

/// A tensor's shape and values are those of a parameter of the spec, or of a pretrained head that the spec does not use.
fn check_tensor(
    file: &str,
    path: &ParamPath,
    tensor: &TensorData,
    expected: Option<&[usize]>,
    spec: &ModelSpec,
) -> Result<(), CheckpointError> {
    let unused_head = expected.is_none() && ["pooler.", "classifier."].iter().any(|head| path.as_str().starts_with(head));
    let fits = match expected {
        Some(shape) => tensor.shape() == shape,
        None if unused_head => tensor.shape().len() == 1 || (tensor.shape().len() == 2 && tensor.shape()[1] == spec.hidden),
        None => return Err(CheckpointError::Unexpected { file: file.to_owned(), tensor: path.to_string() }),
    };
    if !fits {
        let expected = expected.map_or_else(|| vec![spec.hidden, spec.hidden], <[usize]>::to_vec);
        let (file, tensor, found) = (file.to_owned(), path.to_string(), tensor.shape().to_vec());
        return Err(CheckpointError::Shape { file, tensor, expected, found });
    }
    if let Some(index) = tensor.data().iter().position(|value| !value.is_finite()) {
        let (file, tensor, value) = (file.to_owned(), path.to_string(), tensor.data()[index]);
        return Err(CheckpointError::NotFinite { file, tensor, index, value });
    }
    Ok(())
}
