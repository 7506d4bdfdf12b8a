//! The tensor operations a model is written in.

use crate::{Embedding, Func, LayerNorm, Linear, ModelSpec, Pooling, encoder};

/// An interpreter of the model: about twenty operations on two kinds of tensor.
///
/// No method returns a `bool` or a number, so a model cannot branch on a value that may be secret. An engine is made for one batch:
/// it knows the batch's key mask and holds (or names) the parameters, which operations refer to by path.
///
/// # Shapes
/// `Act` is `[batch, tokens, channels]`; `Heads` is `[batch, heads, rows, columns]`, `columns = 1` where it holds one value a row.
pub trait Engine {
    /// `[batch, tokens, channels]`.
    type Act: Clone;
    /// `[batch, heads, rows, columns]`.
    type Heads: Clone;
    /// What can go wrong; an infallible engine uses `std::convert::Infallible`.
    type Error: std::error::Error;

    /// `x·Wᵀ + b`: `[b, t, inputs]` to `[b, t, outputs]`. Local or interactive by the visibility of the weight.
    fn linear(&mut self, x: &Self::Act, layer: &Linear) -> Result<Self::Act, Self::Error>;
    /// Sum of two equal shapes.
    fn add(&mut self, a: &Self::Act, b: &Self::Act) -> Result<Self::Act, Self::Error>;
    /// Product with a public constant.
    fn scale(&mut self, x: &Self::Act, factor: f64) -> Result<Self::Act, Self::Error>;
    /// `f` on every element.
    fn map(&mut self, x: &Self::Act, f: Func) -> Result<Self::Act, Self::Error>;
    /// `γ·(x - mean)/√(var + ε) + β` over channels.
    fn layer_norm(&mut self, x: &Self::Act, norm: &LayerNorm) -> Result<Self::Act, Self::Error>;
    /// Inverted dropout with probability `p` while training; the identity otherwise.
    fn dropout(&mut self, x: &Self::Act, p: f64) -> Result<Self::Act, Self::Error> {
        let _ = p;
        Ok(x.clone())
    }
    /// One row of channels per example: `[b, t, c]` to `[b, 1, c]`; the mean is over unmasked tokens.
    fn pool(&mut self, x: &Self::Act, pooling: Pooling) -> Result<Self::Act, Self::Error>;

    /// `[b, t, heads·d]` to `[b, heads, t, d]`.
    fn split_heads(&mut self, x: &Self::Act, heads: usize) -> Result<Self::Heads, Self::Error>;
    /// The inverse of [`Engine::split_heads`].
    fn merge_heads(&mut self, x: &Self::Heads) -> Result<Self::Act, Self::Error>;
    /// `factor · q·kᵀ`: `[b, h, t, d]²` to `[b, h, t, t]`.
    fn scores(&mut self, q: &Self::Heads, k: &Self::Heads, factor: f64) -> Result<Self::Heads, Self::Error>;
    /// Adds a large negative number to the columns of padding keys, large enough that [`Func::ExpNonPositive`] after
    /// [`Engine::sub_rows`] of the maximum, or [`Func::Relu`], gives 0 there.
    fn mask_keys(&mut self, s: &Self::Heads) -> Result<Self::Heads, Self::Error>;
    /// Multiplies the columns of padding keys by 0.
    fn drop_keys(&mut self, s: &Self::Heads) -> Result<Self::Heads, Self::Error>;
    /// Largest element of each row, `[b, h, t, 1]`.
    fn row_max(&mut self, s: &Self::Heads) -> Result<Self::Heads, Self::Error>;
    /// Sum of each row, `[b, h, t, 1]`.
    fn row_sum(&mut self, s: &Self::Heads) -> Result<Self::Heads, Self::Error>;
    /// `s - r` with `r` of one column, broadcast along rows.
    fn sub_rows(&mut self, s: &Self::Heads, r: &Self::Heads) -> Result<Self::Heads, Self::Error>;
    /// `s · r` with `r` of one column, broadcast along rows.
    fn mul_rows(&mut self, s: &Self::Heads, r: &Self::Heads) -> Result<Self::Heads, Self::Error>;
    /// `s + c` with a public constant.
    fn shift_heads(&mut self, s: &Self::Heads, c: f64) -> Result<Self::Heads, Self::Error>;
    /// `f` on every element.
    fn map_heads(&mut self, s: &Self::Heads, f: Func) -> Result<Self::Heads, Self::Error>;
    /// `1/r` of one column; the model promises `lo ≤ r ≤ hi_per_key · columns` of the tensor whose rows were summed.
    fn reciprocal_rows(&mut self, r: &Self::Heads, lo: f64, hi_per_key: f64) -> Result<Self::Heads, Self::Error>;
    /// Divides each example by its number of unmasked tokens.
    fn divide_by_length(&mut self, s: &Self::Heads) -> Result<Self::Heads, Self::Error>;
    /// `p·v`: `[b, h, t, t]·[b, h, t, d]` to `[b, h, t, d]`.
    fn attend(&mut self, p: &Self::Heads, v: &Self::Heads) -> Result<Self::Heads, Self::Error>;

    /// [`Engine::linear`] with its low-rank update, if it has one. This and the parts below are written in the operations above; an engine may
    /// compute them another way that is the same function up to rounding.
    fn dense(&mut self, x: &Self::Act, layer: &Linear) -> Result<Self::Act, Self::Error>
    where
        Self: Sized,
    {
        encoder::dense(self, x, layer)
    }
    /// Attention of all heads of `spec`, queries `[b, s, hidden]`, keys and values `[b, t, hidden]`, to `[b, s, hidden]`.
    fn attention(&mut self, spec: &ModelSpec, [q, k, v]: [&Self::Act; 3]) -> Result<Self::Act, Self::Error>
    where
        Self: Sized,
    {
        encoder::attention(self, spec, q, k, v)
    }
    /// [`Engine::attention`] of three dense layers, query, key and value, of one input.
    fn self_attention(&mut self, spec: &ModelSpec, x: &Self::Act, layers: [&Linear; 3]) -> Result<Self::Act, Self::Error>
    where
        Self: Sized,
    {
        encoder::self_attention(self, spec, x, layers)
    }
    /// [`Engine::layer_norm`] of a sum, told as `part`.
    fn add_norm(&mut self, a: &Self::Act, b: &Self::Act, norm: &LayerNorm, part: &str) -> Result<Self::Act, Self::Error> {
        let sum = self.add(a, b)?;
        self.enter(part);
        self.layer_norm(&sum, norm)
    }

    /// Told before each named part of the model (`layer.3.attention`), for meters and errors.
    fn enter(&mut self, part: &str) {
        let _ = part;
    }
}

/// An engine that can also look up embeddings: those that see token ids in the clear.
pub trait EmbeddingEngine: Engine {
    /// Sum of word, position and token-type rows for the engine's batch, `[b, t, hidden]`.
    fn embedding(&mut self, tables: &Embedding) -> Result<Self::Act, Self::Error>;
}
