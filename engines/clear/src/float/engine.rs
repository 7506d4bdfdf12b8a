//! [`Engine`] in f32.

use rayon::prelude::*;
use sprint_model::{
    Batch, BatchError, Checkpoint, Embedding, EmbeddingEngine, Engine, Func, LayerNorm, Linear, ParamPath, Pooling,
};

use super::calibrate::Observed;
use super::gemm::Packed;
use super::tensor::{FloatAct, FloatHeads};

/// Added to the scores of padding keys: far below any score, and far above the least f32, so that a difference stays finite.
const MASKED: f32 = -1e30;

/// Elements handled by one task of an elementwise operation.
const TASK: usize = 1 << 13;

/// Why the oracle cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FloatError {
    /// A parameter without a tensor, such as a head that was not trained yet.
    #[error("in {part}: parameter {path} has no tensor")]
    Missing {
        /// The part of the model.
        part: String,
        /// The parameter.
        path: ParamPath,
    },
    /// A tensor of a shape that the operation does not take.
    #[error("in {part}: {operation} expects {expected}, found {found:?}")]
    Shape {
        /// The part of the model.
        part: String,
        /// The operation.
        operation: &'static str,
        /// In words.
        expected: String,
        /// As found.
        found: Vec<usize>,
    },
    /// The batch does not suit the model.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

/// The oracle for one batch.
#[derive(Debug)]
pub struct FloatEngine<'a> {
    checkpoint: &'a Checkpoint,
    batch: &'a Batch,
    part: String,
    observed: Option<Observed>,
}

impl<'a> FloatEngine<'a> {
    /// The oracle of `batch` under `checkpoint`'s weights.
    pub fn new(checkpoint: &'a Checkpoint, batch: &'a Batch) -> Result<Self, FloatError> {
        batch.check(checkpoint.spec())?;
        Ok(Self { checkpoint, batch, part: String::new(), observed: None })
    }

    /// The same, noting ranges.
    pub(super) fn observing(self, observed: Observed) -> Self {
        Self { observed: Some(observed), ..self }
    }

    /// What was noted.
    pub(super) fn observed(self) -> Observed {
        self.observed.unwrap_or_default()
    }

    /// A parameter's values, which must be `size`.
    fn param(&self, path: &ParamPath, size: usize) -> Result<&'a [f32], FloatError> {
        let missing = || FloatError::Missing { part: self.part.clone(), path: path.clone() };
        let tensor = self.checkpoint.get(path).ok_or_else(missing)?;
        let expected = || format!("{size} values of {path}");
        self.require(tensor.len() == size, "parameter", expected, tensor.shape())?;
        Ok(tensor.data())
    }

    fn require(
        &self,
        holds: bool,
        operation: &'static str,
        expected: impl Fn() -> String,
        found: &[usize],
    ) -> Result<(), FloatError> {
        if holds {
            return Ok(());
        }
        Err(FloatError::Shape { part: self.part.clone(), operation, expected: expected(), found: found.to_vec() })
    }

    /// Unmasked tokens of each row.
    fn lengths(&self, operation: &'static str, found: &[usize]) -> Result<&'a [usize], FloatError> {
        let lengths = self.batch.lengths();
        self.require(found[0] == lengths.len(), operation, || format!("{} examples", lengths.len()), found)?;
        Ok(lengths)
    }

    /// Changes the columns of padding keys.
    fn edit_padding(&self, s: &FloatHeads, operation: &'static str, edit: impl Fn(&mut f32)) -> Result<FloatHeads, FloatError> {
        let [_, heads, rows, columns] = s.shape();
        let lengths = self.lengths(operation, &s.shape())?;
        let tokens = self.batch.tokens();
        self.require(columns == tokens, operation, || format!("{tokens} columns"), &s.shape())?;
        let mut data = s.data().to_vec();
        for (example, &length) in data.chunks_exact_mut((heads * rows * columns).max(1)).zip(lengths) {
            example.chunks_exact_mut(columns).for_each(|row| row[length..].iter_mut().for_each(&edit));
        }
        Ok(FloatHeads::of(s.shape(), data))
    }

    /// Each row of `s` together with its element of the single column `r`.
    fn with_rows(
        &self,
        s: &FloatHeads,
        r: &FloatHeads,
        operation: &'static str,
        f: impl Fn(f32, f32) -> f32 + Sync,
    ) -> Result<FloatHeads, FloatError> {
        let [batch, heads, rows, columns] = s.shape();
        let expected = [batch, heads, rows, 1];
        self.require(r.shape() == expected, operation, || format!("{expected:?}"), &r.shape())?;
        let mut data = s.data().to_vec();
        let chunks = data.par_chunks_exact_mut(columns.max(1)).zip(r.data());
        chunks.for_each(|(row, r)| row.iter_mut().for_each(|x| *x = f(*x, *r)));
        Ok(FloatHeads::of(s.shape(), data))
    }

    /// `b·` for each example and head.
    fn each_head(
        a: &FloatHeads,
        b: &FloatHeads,
        columns: usize,
        pack: impl Fn(&[f32]) -> Packed + Sync,
        factor: f32,
    ) -> FloatHeads {
        let [batch, heads, rows, inner] = a.shape();
        let [_, _, b_rows, b_columns] = b.shape();
        let mut data = vec![0.0; batch * heads * rows * columns];
        let products = data
            .par_chunks_exact_mut((rows * columns).max(1))
            .zip(a.data().par_chunks_exact((rows * inner).max(1)))
            .zip(b.data().par_chunks_exact((b_rows * b_columns).max(1)));
        products.for_each(|((out, a), b)| {
            pack(b).multiply(a, None, out);
            if factor != 1.0 {
                for x in out.iter_mut() {
                    *x *= factor;
                }
            }
        });
        FloatHeads::of([batch, heads, rows, columns], data)
    }
}

/// `f` on every element, in f64 and rounded once.
fn map(values: &[f32], f: Func) -> Vec<f32> {
    let mut out = values.to_vec();
    out.par_chunks_mut(TASK).for_each(|chunk| chunk.iter_mut().for_each(|x| *x = f.eval(f64::from(*x)) as f32));
    out
}

/// One value for each row.
fn reduce(s: &FloatHeads, f: impl Fn(&[f32]) -> f32 + Sync + Send) -> FloatHeads {
    let [batch, heads, rows, columns] = s.shape();
    let data = s.data().par_chunks_exact(columns.max(1)).map(f).collect();
    FloatHeads::of([batch, heads, rows, 1], data)
}

/// `γ·(x - mean)/√(var + ε) + β` of one token, with both moments in f64.
fn normalise(row: &mut [f32], gain: &[f32], shift: &[f32], eps: f64) {
    let n = row.len() as f64;
    let mean = row.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let var = row.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
    let inverse = 1.0 / (var + eps).sqrt();
    for ((x, gain), shift) in row.iter_mut().zip(gain).zip(shift) {
        *x = (f64::from(*gain) * (f64::from(*x) - mean) * inverse + f64::from(*shift)) as f32;
    }
}

impl Engine for FloatEngine<'_> {
    type Act = FloatAct;
    type Heads = FloatHeads;
    type Error = FloatError;

    fn linear(&mut self, x: &FloatAct, layer: &Linear) -> Result<FloatAct, FloatError> {
        let [batch, tokens, channels] = x.shape();
        self.require(channels == layer.inputs, "linear", || format!("{} channels", layer.inputs), &x.shape())?;
        let weight = self.param(&layer.weight(), layer.outputs * layer.inputs)?;
        let bias = layer.bias().map(|path| self.param(&path, layer.outputs)).transpose()?;
        let mut out = vec![0.0; batch * tokens * layer.outputs];
        Packed::transposed(weight, layer.outputs, layer.inputs).multiply(x.data(), bias, &mut out);
        Ok(FloatAct::of([batch, tokens, layer.outputs], out))
    }

    fn add(&mut self, a: &FloatAct, b: &FloatAct) -> Result<FloatAct, FloatError> {
        self.require(a.shape() == b.shape(), "add", || format!("{:?}", a.shape()), &b.shape())?;
        Ok(FloatAct::of(a.shape(), a.data().iter().zip(b.data()).map(|(a, b)| a + b).collect()))
    }

    fn scale(&mut self, x: &FloatAct, factor: f64) -> Result<FloatAct, FloatError> {
        let factor = factor as f32;
        Ok(FloatAct::of(x.shape(), x.data().iter().map(|x| x * factor).collect()))
    }

    fn map(&mut self, x: &FloatAct, f: Func) -> Result<FloatAct, FloatError> {
        if let Some(observed) = &mut self.observed {
            observed.arguments(&self.part, x.data());
        }
        Ok(FloatAct::of(x.shape(), map(x.data(), f)))
    }

    fn layer_norm(&mut self, x: &FloatAct, norm: &LayerNorm) -> Result<FloatAct, FloatError> {
        let [_, _, channels] = x.shape();
        self.require(channels == norm.width, "layer_norm", || format!("{} channels", norm.width), &x.shape())?;
        let (gain, shift) = (self.param(&norm.weight(), channels)?, self.param(&norm.bias(), channels)?);
        let mut data = x.data().to_vec();
        data.par_chunks_exact_mut(channels.max(1)).for_each(|row| normalise(row, gain, shift, norm.eps));
        Ok(FloatAct::of(x.shape(), data))
    }

    fn pool(&mut self, x: &FloatAct, pooling: Pooling) -> Result<FloatAct, FloatError> {
        let [batch, tokens, channels] = x.shape();
        let lengths = self.lengths("pool", &x.shape())?;
        self.require(tokens == self.batch.tokens(), "pool", || format!("{} tokens", self.batch.tokens()), &x.shape())?;
        let mut data = Vec::with_capacity(batch * channels);
        for (row, &length) in lengths.iter().enumerate() {
            match pooling {
                Pooling::First => data.extend_from_slice(x.token(row, 0)),
                Pooling::Mean => data.extend((0..channels).map(|c| {
                    let sum: f64 = (0..length).map(|t| f64::from(x.token(row, t)[c])).sum();
                    (sum / length as f64) as f32
                })),
            }
        }
        Ok(FloatAct::of([batch, 1, channels], data))
    }

    fn split_heads(&mut self, x: &FloatAct, heads: usize) -> Result<FloatHeads, FloatError> {
        let [batch, tokens, channels] = x.shape();
        let divides = heads > 0 && channels.is_multiple_of(heads);
        self.require(divides, "split_heads", || format!("channels divisible by {heads}"), &x.shape())?;
        let d = channels / heads;
        let mut data = Vec::with_capacity(x.data().len());
        for (row, head) in (0..batch).flat_map(|row| (0..heads).map(move |head| (row, head))) {
            (0..tokens).for_each(|token| data.extend_from_slice(&x.token(row, token)[head * d..(head + 1) * d]));
        }
        Ok(FloatHeads::of([batch, heads, tokens, d], data))
    }

    fn merge_heads(&mut self, x: &FloatHeads) -> Result<FloatAct, FloatError> {
        let [batch, heads, tokens, d] = x.shape();
        let mut data = Vec::with_capacity(x.data().len());
        for (row, token) in (0..batch).flat_map(|row| (0..tokens).map(move |token| (row, token))) {
            for head in 0..heads {
                let start = ((row * heads + head) * tokens + token) * d;
                data.extend_from_slice(&x.data()[start..start + d]);
            }
        }
        Ok(FloatAct::of([batch, tokens, heads * d], data))
    }

    fn scores(&mut self, q: &FloatHeads, k: &FloatHeads, factor: f64) -> Result<FloatHeads, FloatError> {
        let ([batch, heads, _, d], [_, _, keys, _]) = (q.shape(), k.shape());
        let expected = [batch, heads, keys, d];
        self.require(k.shape() == expected, "scores", || format!("keys of shape {expected:?}"), &k.shape())?;
        Ok(Self::each_head(q, k, keys, |k| Packed::transposed(k, keys, d), factor as f32))
    }

    fn mask_keys(&mut self, s: &FloatHeads) -> Result<FloatHeads, FloatError> {
        let masked = self.edit_padding(s, "mask_keys", |x| *x += MASKED)?;
        if let Some(observed) = &mut self.observed {
            observed.scores(&self.part, s, self.batch.lengths());
        }
        Ok(masked)
    }

    fn drop_keys(&mut self, s: &FloatHeads) -> Result<FloatHeads, FloatError> {
        self.edit_padding(s, "drop_keys", |x| *x = 0.0)
    }

    fn row_max(&mut self, s: &FloatHeads) -> Result<FloatHeads, FloatError> {
        Ok(reduce(s, |row| row.iter().copied().fold(f32::NEG_INFINITY, f32::max)))
    }

    fn row_sum(&mut self, s: &FloatHeads) -> Result<FloatHeads, FloatError> {
        Ok(reduce(s, |row| row.iter().map(|x| f64::from(*x)).sum::<f64>() as f32))
    }

    fn sub_rows(&mut self, s: &FloatHeads, r: &FloatHeads) -> Result<FloatHeads, FloatError> {
        self.with_rows(s, r, "sub_rows", |x, r| x - r)
    }

    fn mul_rows(&mut self, s: &FloatHeads, r: &FloatHeads) -> Result<FloatHeads, FloatError> {
        self.with_rows(s, r, "mul_rows", |x, r| x * r)
    }

    fn shift_heads(&mut self, s: &FloatHeads, c: f64) -> Result<FloatHeads, FloatError> {
        let c = c as f32;
        Ok(FloatHeads::of(s.shape(), s.data().iter().map(|x| x + c).collect()))
    }

    fn map_heads(&mut self, s: &FloatHeads, f: Func) -> Result<FloatHeads, FloatError> {
        Ok(FloatHeads::of(s.shape(), map(s.data(), f)))
    }

    fn reciprocal_rows(&mut self, r: &FloatHeads, _lo: f64, _hi_per_key: f64) -> Result<FloatHeads, FloatError> {
        Ok(FloatHeads::of(r.shape(), r.data().iter().map(|x| x.recip()).collect()))
    }

    fn divide_by_length(&mut self, s: &FloatHeads) -> Result<FloatHeads, FloatError> {
        let [_, heads, rows, columns] = s.shape();
        let lengths = self.lengths("divide_by_length", &s.shape())?;
        let mut data = s.data().to_vec();
        for (example, &length) in data.chunks_exact_mut((heads * rows * columns).max(1)).zip(lengths) {
            for x in example {
                *x /= length as f32;
            }
        }
        Ok(FloatHeads::of(s.shape(), data))
    }

    fn attend(&mut self, p: &FloatHeads, v: &FloatHeads) -> Result<FloatHeads, FloatError> {
        let ([batch, heads, _, keys], [_, _, _, d]) = (p.shape(), v.shape());
        let expected = [batch, heads, keys, d];
        self.require(v.shape() == expected, "attend", || format!("values of shape {expected:?}"), &v.shape())?;
        Ok(Self::each_head(p, v, d, |v| Packed::plain(v, keys, d), 1.0))
    }

    fn enter(&mut self, part: &str) {
        part.clone_into(&mut self.part);
    }
}

impl EmbeddingEngine for FloatEngine<'_> {
    fn embedding(&mut self, tables: &Embedding) -> Result<FloatAct, FloatError> {
        let (batch, h, spec) = (self.batch, tables.hidden, self.checkpoint.spec());
        let word = self.param(&tables.word_weight(), spec.vocab * h)?;
        let position = self.param(&tables.position_weight(), spec.positions * h)?;
        let token_type = self.param(&tables.token_type_weight(), spec.token_types * h)?;
        let last = batch.tokens() + tables.position_offset;
        self.require(last <= spec.positions, "embedding", || format!("at most {} positions", spec.positions), &[last])?;
        let mut data = Vec::with_capacity(batch.ids().len() * h);
        for (index, (&id, &kind)) in batch.ids().iter().zip(batch.type_ids()).enumerate() {
            let place = index % batch.tokens() + tables.position_offset;
            let [word, place, kind] =
                [(word, id as usize), (position, place), (token_type, usize::from(kind))].map(|(t, row)| &t[row * h..][..h]);
            data.extend(word.iter().zip(place).zip(kind).map(|((w, p), k)| w + k + p));
        }
        Ok(FloatAct::of([batch.size(), batch.tokens(), h], data))
    }
}
