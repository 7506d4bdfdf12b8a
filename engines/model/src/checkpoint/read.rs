//! Reading safetensors files that nobody vouches for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use half::{bf16, f16};
use safetensors::{Dtype, SafeTensors};

use super::{CheckpointError, TensorData};
use crate::config::MAX_CONFIG_BYTES;
use crate::{ModelSpec, ParamPath};

/// Largest safetensors header that is read, in bytes: a header entry has about 150, so this is 100,000 tensors.
pub const MAX_HEADER_BYTES: u64 = 16 << 20;

/// Largest safetensors file that is read, in bytes.
pub const MAX_FILE_BYTES: u64 = 16 << 30;

/// Tensors that encoders are saved with and that hold no weight of them.
const IGNORED: [&str; 2] = ["embeddings.position_ids", "embeddings.token_type_ids"];

/// Heads of pretraining.
const IGNORED_PREFIXES: [&str; 2] = ["cls.", "lm_head."];

/// The tensors of a file written by [`super::save_params`]; which parameters they are is checked where they are used.
pub fn load_params(file: &Path) -> Result<BTreeMap<ParamPath, TensorData>, CheckpointError> {
    let bytes = read_bounded(file, MAX_FILE_BYTES)?;
    params_from_safetensors(&file.display().to_string(), &bytes)
}

/// The tensors of a safetensors file in memory, under the names they have there; errors call the file `name`.
pub fn params_from_safetensors(name: &str, bytes: &[u8]) -> Result<BTreeMap<ParamPath, TensorData>, CheckpointError> {
    read_tensors(name, bytes, |tensor| Some(tensor.to_owned()))
}

/// The tensors of a Hugging Face checkpoint under this crate's names.
pub(super) fn hugging_face(name: &str, bytes: &[u8]) -> Result<BTreeMap<ParamPath, TensorData>, CheckpointError> {
    read_tensors(name, bytes, canonical)
}

/// A Hugging Face tensor's name here, or `None` if it is of no use.
fn canonical(tensor: &str) -> Option<String> {
    let bare = ["bert.", "roberta."].iter().find_map(|prefix| tensor.strip_prefix(prefix)).unwrap_or(tensor);
    if IGNORED.contains(&bare) || IGNORED_PREFIXES.iter().any(|prefix| tensor.starts_with(prefix)) {
        return None;
    }
    // Checkpoints converted from TensorFlow, bert-base-uncased among them, keep its names for layer normalisation.
    Some(bare.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"))
}

fn read_tensors(
    file: &str,
    bytes: &[u8],
    rename: impl Fn(&str) -> Option<String>,
) -> Result<BTreeMap<ParamPath, TensorData>, CheckpointError> {
    bound_header(file, bytes)?;
    let malformed =
        |reason: safetensors::SafeTensorError| CheckpointError::Malformed { file: file.to_owned(), reason: reason.to_string() };
    let tensors = SafeTensors::deserialize(bytes).map_err(malformed)?;
    let mut params = BTreeMap::new();
    for (name, view) in tensors.tensors() {
        let Some(renamed) = rename(&name) else { continue };
        let values = decode(view.dtype(), view.data()).ok_or_else(|| CheckpointError::Dtype {
            file: file.to_owned(),
            tensor: name.clone(),
            found: format!("{:?}", view.dtype()),
        })?;
        let tensor = TensorData::new(view.shape().to_vec(), values).ok_or_else(|| CheckpointError::Malformed {
            file: file.to_owned(),
            reason: format!("tensor {name} does not have the bytes of its shape"),
        })?;
        if params.insert(ParamPath::new(renamed.clone()), tensor).is_some() {
            return Err(CheckpointError::Duplicate { file: file.to_owned(), tensor: renamed });
        }
    }
    Ok(params)
}

fn bound_header(file: &str, bytes: &[u8]) -> Result<(), CheckpointError> {
    let Some(prefix) = bytes.first_chunk::<8>() else {
        return Err(CheckpointError::Malformed { file: file.to_owned(), reason: "fewer than 8 bytes".to_owned() });
    };
    let header = u64::from_le_bytes(*prefix);
    if header > MAX_HEADER_BYTES {
        return Err(CheckpointError::TooLarge {
            file: file.to_owned(),
            what: "its header",
            bytes: header,
            most: MAX_HEADER_BYTES,
        });
    }
    Ok(())
}

/// Little-endian values as f32, or `None` for a type that is not read. F16 and BF16 convert exactly.
fn decode(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f32>> {
    let pairs = || bytes.as_chunks::<2>().0.iter();
    match dtype {
        Dtype::F32 => Some(bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect()),
        Dtype::F16 => Some(pairs().map(|b| f16::from_le_bytes(*b).to_f32()).collect()),
        Dtype::BF16 => Some(pairs().map(|b| bf16::from_le_bytes(*b).to_f32()).collect()),
        _ => None,
    }
}

pub(super) fn read_config(path: &Path) -> Result<ModelSpec, CheckpointError> {
    Ok(ModelSpec::from_hf_config(&read_bounded(path, MAX_CONFIG_BYTES as u64)?)?)
}

/// A file's bytes; never more than `most`, however the file grows meanwhile.
pub(super) fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>, CheckpointError> {
    let io = |source| CheckpointError::Io { path: path.to_owned(), source };
    let file = File::open(path).map_err(io)?;
    let length = file.metadata().map_err(io)?.len();
    let too_large = |bytes| CheckpointError::TooLarge { file: path.display().to_string(), what: "the file", bytes, most };
    if length > most {
        return Err(too_large(length));
    }
    let mut bytes = Vec::with_capacity(length as usize);
    file.take(most + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > most {
        return Err(too_large(bytes.len() as u64));
    }
    Ok(bytes)
}
