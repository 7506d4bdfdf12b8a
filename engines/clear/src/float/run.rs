//! Whole runs of the model through the oracle.

use sprint_model::{Batch, Checkpoint, Engine, Pooling, embed, encode, encode_and_classify};

use super::{FloatAct, FloatEngine, FloatError};

/// A text's representation: the last hidden state of its first token, and the mean over its tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct PooledRow {
    /// First token, `[hidden]`.
    pub cls: Vec<f32>,
    /// Mean over tokens without padding, `[hidden]`.
    pub mean: Vec<f32>,
}

/// The logits of each example, `[size][outputs]`. An error if the spec's head or low-rank updates have no tensors; without a
/// head in the spec, the first token's hidden state.
pub fn run_logits(checkpoint: &Checkpoint, batch: &Batch) -> Result<Vec<Vec<f32>>, FloatError> {
    let mut engine = FloatEngine::new(checkpoint, batch)?;
    let spec = checkpoint.spec();
    let embedded = embed(&mut engine, spec)?;
    Ok(rows(&encode_and_classify(&mut engine, spec, &embedded)?))
}

/// The last hidden state, `[size, tokens, hidden]`.
pub fn run_hidden(checkpoint: &Checkpoint, batch: &Batch) -> Result<FloatAct, FloatError> {
    let mut engine = FloatEngine::new(checkpoint, batch)?;
    let embedded = embed(&mut engine, checkpoint.spec())?;
    encode(&mut engine, checkpoint.spec(), &embedded)
}

/// The embedding output after layer normalisation (and soft cap), `[size, tokens, hidden]`: what a client of a private inference shares.
pub fn embed_only(checkpoint: &Checkpoint, batch: &Batch) -> Result<FloatAct, FloatError> {
    embed(&mut FloatEngine::new(checkpoint, batch)?, checkpoint.spec())
}

/// Each example's pooled last hidden state.
pub fn pooled_rows(checkpoint: &Checkpoint, batch: &Batch) -> Result<Vec<PooledRow>, FloatError> {
    let hidden = run_hidden(checkpoint, batch)?;
    let mut engine = FloatEngine::new(checkpoint, batch)?;
    let cls = rows(&engine.pool(&hidden, Pooling::First)?);
    let mean = rows(&engine.pool(&hidden, Pooling::Mean)?);
    Ok(cls.into_iter().zip(mean).map(|(cls, mean)| PooledRow { cls, mean }).collect())
}

/// `[size, 1, channels]` as a list.
fn rows(x: &FloatAct) -> Vec<Vec<f32>> {
    (0..x.shape()[0]).map(|row| x.token(row, 0).to_vec()).collect()
}
