//! The model in f64, by the plainest loops.

use super::Values;
use crate::{Batch, Checkpoint, Embedding, EmbeddingEngine, Engine, Func, LayerNorm, Linear, ParamPath, Pooling, TensorData};

type Act = Values<3>;
type Heads = Values<4>;

/// A promise of the model that does not hold, or an operand that does not fit.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceError {
    /// A parameter without a tensor.
    #[error("parameter {0} has no tensor")]
    Missing(ParamPath),
    /// A shape that the operation does not take.
    #[error("{operation} of {left:?} and {right:?}")]
    Shape {
        /// The operation.
        operation: &'static str,
        /// One operand.
        left: Vec<usize>,
        /// The other.
        right: Vec<usize>,
    },
    /// A value outside the function's domain.
    #[error("{operation} of {value}, outside its domain")]
    Domain {
        /// The operation.
        operation: String,
        /// The value.
        value: f64,
    },
}

/// The f64 interpreter of one batch.
#[derive(Debug)]
pub struct Reference<'a> {
    checkpoint: &'a Checkpoint,
    batch: &'a Batch,
}

impl<'a> Reference<'a> {
    /// The reference of `batch` under `checkpoint`'s weights.
    pub fn new(checkpoint: &'a Checkpoint, batch: &'a Batch) -> Self {
        Self { checkpoint, batch }
    }

    fn param(&self, path: &ParamPath) -> Result<&'a [f32], ReferenceError> {
        self.checkpoint.get(path).map(TensorData::data).ok_or_else(|| ReferenceError::Missing(path.clone()))
    }

    /// Applies `edit` to the columns of padding keys.
    fn padding_columns(&self, s: &Heads, edit: impl Fn(f64) -> f64) -> Result<Heads, ReferenceError> {
        same("keys", &s.shape[3..], &[self.batch.tokens()])?;
        let [_, heads, rows, columns] = s.shape;
        let lengths = self.batch.lengths();
        let is_key = |index: usize| index % columns < lengths[index / (heads * rows * columns)];
        let data = s.data.iter().enumerate().map(|(i, &x)| if is_key(i) { x } else { edit(x) });
        Ok(Values::new(s.shape, data.collect()))
    }
}

fn same(operation: &'static str, left: &[usize], right: &[usize]) -> Result<(), ReferenceError> {
    if left == right {
        return Ok(());
    }
    Err(ReferenceError::Shape { operation, left: left.to_vec(), right: right.to_vec() })
}

fn map<const N: usize>(x: &Values<N>, f: Func) -> Result<Values<N>, ReferenceError> {
    let below = match f {
        Func::ExpNonPositive => 0.0,
        Func::ExpShifted { shift } => shift,
        _ => f64::INFINITY,
    };
    if let Some(&value) = x.data.iter().find(|&&x| x > below || x.is_nan()) {
        return Err(ReferenceError::Domain { operation: format!("{f:?}"), value });
    }
    Ok(Values::new(x.shape, x.data.iter().map(|&x| f.eval(x)).collect()))
}

fn rows_with(operation: &'static str, s: &Heads, r: &Heads, f: impl Fn(f64, f64) -> f64) -> Result<Heads, ReferenceError> {
    let [batch, heads, rows, columns] = s.shape;
    same(operation, &r.shape, &[batch, heads, rows, 1])?;
    let data = s.data.iter().enumerate().map(|(index, &x)| f(x, r.data[index / columns]));
    Ok(Values::new(s.shape, data.collect()))
}

fn reduce(s: &Heads, f: impl Fn(&[f64]) -> f64) -> Heads {
    let [batch, heads, rows, columns] = s.shape;
    Values::new([batch, heads, rows, 1], s.data.chunks_exact(columns).map(f).collect())
}

/// `[batch, heads, rows, columns]` from a function of the four indices.
fn tabulate(shape: [usize; 4], f: impl Fn(usize, usize, usize, usize) -> f64) -> Heads {
    let [batch, heads, rows, columns] = shape;
    let mut data = Vec::with_capacity(shape.iter().product());
    for b in 0..batch {
        for h in 0..heads {
            for r in 0..rows {
                data.extend((0..columns).map(|c| f(b, h, r, c)));
            }
        }
    }
    Values::new(shape, data)
}

impl Heads {
    fn at(&self, b: usize, h: usize, r: usize, c: usize) -> f64 {
        let [_, heads, rows, columns] = self.shape;
        self.data[((b * heads + h) * rows + r) * columns + c]
    }
}

impl Engine for Reference<'_> {
    type Act = Act;
    type Heads = Heads;
    type Error = ReferenceError;

    fn linear(&mut self, x: &Act, layer: &Linear) -> Result<Act, ReferenceError> {
        let [batch, tokens, channels] = x.shape;
        same("linear", &[channels], &[layer.inputs])?;
        let weight = self.param(&layer.weight())?;
        let bias = layer.bias().map(|path| self.param(&path)).transpose()?;
        let mut data = Vec::new();
        for row in x.data.chunks_exact(channels) {
            for (j, weight) in weight.chunks_exact(channels).enumerate() {
                let sum: f64 = row.iter().zip(weight).map(|(x, &w)| x * f64::from(w)).sum();
                data.push(sum + bias.map_or(0.0, |bias| f64::from(bias[j])));
            }
        }
        Ok(Values::new([batch, tokens, layer.outputs], data))
    }

    fn add(&mut self, a: &Act, b: &Act) -> Result<Act, ReferenceError> {
        same("add", &a.shape, &b.shape)?;
        Ok(Values::new(a.shape, a.data.iter().zip(&b.data).map(|(a, b)| a + b).collect()))
    }

    fn scale(&mut self, x: &Act, factor: f64) -> Result<Act, ReferenceError> {
        Ok(Values::new(x.shape, x.data.iter().map(|x| x * factor).collect()))
    }

    fn map(&mut self, x: &Act, f: Func) -> Result<Act, ReferenceError> {
        map(x, f)
    }

    fn layer_norm(&mut self, x: &Act, norm: &LayerNorm) -> Result<Act, ReferenceError> {
        same("layer_norm", &x.shape[2..], &[norm.width])?;
        let (gain, shift) = (self.param(&norm.weight())?, self.param(&norm.bias())?);
        let n = norm.width as f64;
        let mut data = Vec::with_capacity(x.data.len());
        for row in x.data.chunks_exact(norm.width) {
            let mean = row.iter().sum::<f64>() / n;
            let var = row.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / n;
            let normal = row.iter().map(|x| (x - mean) / (var + norm.eps).sqrt());
            data.extend(normal.zip(gain).zip(shift).map(|((x, &g), &s)| f64::from(g) * x + f64::from(s)));
        }
        Ok(Values::new(x.shape, data))
    }

    fn pool(&mut self, x: &Act, pooling: Pooling) -> Result<Act, ReferenceError> {
        let [batch, tokens, channels] = x.shape;
        same("pool", &[batch, tokens], &[self.batch.size(), self.batch.tokens()])?;
        let at = |row: usize, token: usize, c: usize| x.data[(row * tokens + token) * channels + c];
        let mut data = Vec::new();
        for (row, &length) in self.batch.lengths().iter().enumerate() {
            data.extend((0..channels).map(|c| match pooling {
                Pooling::First => at(row, 0, c),
                Pooling::Mean => (0..length).map(|token| at(row, token, c)).sum::<f64>() / length as f64,
            }));
        }
        Ok(Values::new([batch, 1, channels], data))
    }

    fn split_heads(&mut self, x: &Act, heads: usize) -> Result<Heads, ReferenceError> {
        let [batch, tokens, channels] = x.shape;
        same("split_heads", &[channels % heads], &[0])?;
        let d = channels / heads;
        Ok(tabulate([batch, heads, tokens, d], |b, h, r, c| x.data[(b * tokens + r) * channels + h * d + c]))
    }

    fn merge_heads(&mut self, x: &Heads) -> Result<Act, ReferenceError> {
        let [batch, heads, tokens, d] = x.shape;
        let transposed = tabulate([batch, tokens, heads, d], |b, token, h, c| x.at(b, h, token, c));
        Ok(Values::new([batch, tokens, heads * d], transposed.data))
    }

    fn scores(&mut self, q: &Heads, k: &Heads, factor: f64) -> Result<Heads, ReferenceError> {
        let [batch, heads, rows, d] = q.shape;
        let keys = k.shape[2];
        same("scores", &k.shape, &[batch, heads, keys, d])?;
        let dot = |b, h, r, c| (0..d).map(|i| q.at(b, h, r, i) * k.at(b, h, c, i)).sum::<f64>();
        Ok(tabulate([batch, heads, rows, keys], |b, h, r, c| factor * dot(b, h, r, c)))
    }

    fn mask_keys(&mut self, s: &Heads) -> Result<Heads, ReferenceError> {
        self.padding_columns(s, |x| x - 1e30)
    }

    fn drop_keys(&mut self, s: &Heads) -> Result<Heads, ReferenceError> {
        self.padding_columns(s, |_| 0.0)
    }

    fn row_max(&mut self, s: &Heads) -> Result<Heads, ReferenceError> {
        Ok(reduce(s, |row| row.iter().copied().fold(f64::NEG_INFINITY, f64::max)))
    }

    fn row_sum(&mut self, s: &Heads) -> Result<Heads, ReferenceError> {
        Ok(reduce(s, |row| row.iter().sum()))
    }

    fn sub_rows(&mut self, s: &Heads, r: &Heads) -> Result<Heads, ReferenceError> {
        rows_with("sub_rows", s, r, |x, r| x - r)
    }

    fn mul_rows(&mut self, s: &Heads, r: &Heads) -> Result<Heads, ReferenceError> {
        rows_with("mul_rows", s, r, |x, r| x * r)
    }

    fn shift_heads(&mut self, s: &Heads, c: f64) -> Result<Heads, ReferenceError> {
        Ok(Values::new(s.shape, s.data.iter().map(|x| x + c).collect()))
    }

    fn map_heads(&mut self, s: &Heads, f: Func) -> Result<Heads, ReferenceError> {
        map(s, f)
    }

    fn reciprocal_rows(&mut self, r: &Heads, lo: f64, hi_per_key: f64) -> Result<Heads, ReferenceError> {
        let hi = hi_per_key * self.batch.tokens() as f64;
        // A row that attains a bound may miss it by rounding.
        if let Some(&value) = r.data.iter().find(|&&r| !(lo * (1.0 - 1e-9)..=hi * (1.0 + 1e-9)).contains(&r)) {
            return Err(ReferenceError::Domain { operation: format!("reciprocal on [{lo}, {hi}]"), value });
        }
        Ok(Values::new(r.shape, r.data.iter().map(|r| 1.0 / r).collect()))
    }

    fn divide_by_length(&mut self, s: &Heads) -> Result<Heads, ReferenceError> {
        same("divide_by_length", &s.shape[..1], &[self.batch.size()])?;
        let [_, heads, rows, columns] = s.shape;
        let length = |index: usize| self.batch.lengths()[index / (heads * rows * columns)] as f64;
        Ok(Values::new(s.shape, s.data.iter().enumerate().map(|(index, x)| x / length(index)).collect()))
    }

    fn attend(&mut self, p: &Heads, v: &Heads) -> Result<Heads, ReferenceError> {
        let [batch, heads, rows, keys] = p.shape;
        let d = v.shape[3];
        same("attend", &v.shape, &[batch, heads, keys, d])?;
        let mix = |b, h, r, c| (0..keys).map(|k| p.at(b, h, r, k) * v.at(b, h, k, c)).sum::<f64>();
        Ok(tabulate([batch, heads, rows, d], mix))
    }
}

impl EmbeddingEngine for Reference<'_> {
    fn embedding(&mut self, tables: &Embedding) -> Result<Act, ReferenceError> {
        let word = self.param(&tables.word_weight())?;
        let position = self.param(&tables.position_weight())?;
        let token_type = self.param(&tables.token_type_weight())?;
        let (tokens, h) = (self.batch.tokens(), tables.hidden);
        let mut data = Vec::new();
        for (index, (&id, &kind)) in self.batch.ids().iter().zip(self.batch.type_ids()).enumerate() {
            let at = |table: &[f32], row: usize, c: usize| f64::from(table[row * h + c]);
            let place = index % tokens + tables.position_offset;
            data.extend((0..h).map(|c| at(word, id as usize, c) + at(position, place, c) + at(token_type, usize::from(kind), c)));
        }
        Ok(Values::new([self.batch.size(), tokens, h], data))
    }
}
