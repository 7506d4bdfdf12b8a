//! From a model's real weights to the ring words a program uses.

use sprint_kernel::{MAX_WEIGHT, PackedWeights};
use sprint_model::{Checkpoint, ParamPath};
use zeroize::Zeroizing;

use crate::MachineError;
use crate::program::{Program, Recipe, Vector};

/// The public weights of a program, encoded and packed once for all inferences.
pub struct PublicWeights {
    pub(crate) linears: Vec<(PackedWeights, Vec<u64>)>,
    pub(crate) vectors: Vec<Vec<f64>>,
    pub(crate) recipes: [u8; 32],
}

/// One party's additive shares, over Z_2^64, of the private weights of a program.
pub struct PrivateWeights {
    /// Weight and bias words of each private layer, in program order.
    layers: Vec<Layer>,
    pub(crate) recipes: [u8; 32],
}

/// A layer's weight and bias words.
type Layer = (Zeroizing<Vec<u64>>, Zeroizing<Vec<u64>>);

impl std::fmt::Debug for PrivateWeights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PrivateWeights({} layers, redacted)", self.layers.len())
    }
}

impl PublicWeights {
    /// Encodes the public layers of `program` from `base`.
    pub fn prepare(program: &Program, base: &Checkpoint) -> Result<Self, MachineError> {
        let linears = program.public.iter().map(|recipe| {
            let (weight, bias) = real(recipe, base)?;
            let packed = encode_public(recipe, &weight)?;
            let bias = recipe.bias_bits.map(|bits| bias.iter().map(|b| encode(*b, bits)).collect());
            Ok((packed, bias.unwrap_or_default()))
        });
        let linears = linears.collect::<Result<_, MachineError>>()?;
        let vectors = program.vectors.iter().map(|vector| match vector {
            Vector::Gamma(norm) => values(base, &norm.path.join("weight")),
            Vector::Beta(norm) => values(base, &norm.path.join("bias")),
            Vector::CentredBeta(norm) => values(base, &norm.path.join("bias")).map(centred),
            Vector::Bias(recipe) => Ok(real(recipe, base)?.1),
        });
        Ok(Self { linears, vectors: vectors.collect::<Result<_, _>>()?, recipes: program.weights_digest })
    }
}

fn encode_public(recipe: &Recipe, weight: &[f64]) -> Result<PackedWeights, MachineError> {
    let scale = f64::from(recipe.weight_bits).exp2();
    let mut words = Vec::with_capacity(weight.len());
    for w in weight {
        let word = (w * scale).round();
        if word.abs() >= f64::from(MAX_WEIGHT) {
            let limit = f64::from(MAX_WEIGHT) / scale;
            return Err(MachineError::Input(format!("{}: weight {w} is not below {limit} in size", recipe.layer.path)));
        }
        words.push(word as i32);
    }
    Ok(PackedWeights::pack(&words, recipe.outputs(), recipe.layer.inputs))
}

impl PrivateWeights {
    /// Splits the private layers of `program`, read from the fine-tuned `model`, into two uniformly random shares. `mask` fills words with
    /// randomness from the operating system (or, in tests, from a seed).
    pub fn share(program: &Program, model: &Checkpoint, mask: &mut dyn FnMut(&mut [u64])) -> Result<[Self; 2], MachineError> {
        let mut layers = [Vec::new(), Vec::new()];
        for recipe in &program.private {
            let (weight, bias) = real(recipe, model)?;
            let weight = split(&weight, recipe.weight_bits, mask);
            let bias = split(&bias, recipe.bias_bits.unwrap_or_default(), mask);
            for (list, part) in layers.iter_mut().zip(weight.into_iter().zip(bias)) {
                list.push(part);
            }
        }
        let [p0, p1] = layers;
        Ok([p0, p1].map(|layers| Self { layers, recipes: program.weights_digest }))
    }

    /// Little-endian words, layer by layer, weight before bias.
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let words = self.layers.iter().flat_map(|(w, b)| w.iter().chain(b.iter()));
        Zeroizing::new(words.flat_map(|w| w.to_le_bytes()).collect())
    }

    /// Bytes of [`PrivateWeights::to_bytes`].
    pub(crate) fn len(program: &Program) -> usize {
        program.private.iter().map(|r| (r.words() + bias_len(r)) * 8).sum()
    }

    /// Splits a share into two uniformly random ones of the same sum.
    pub(crate) fn resplit(self, mask: &mut dyn FnMut(&mut [u64])) -> [Self; 2] {
        let split = |words: Zeroizing<Vec<u64>>, mask: &mut dyn FnMut(&mut [u64])| {
            let mut first = Zeroizing::new(vec![0u64; words.len()]);
            mask(&mut first);
            let second: Vec<u64> = words.iter().zip(first.iter()).map(|(w, m)| w.wrapping_sub(*m)).collect();
            (first, Zeroizing::new(second))
        };
        let mut layers = [Vec::new(), Vec::new()];
        for (weight, bias) in self.layers {
            let ((w0, w1), (b0, b1)) = (split(weight, mask), split(bias, mask));
            layers[0].push((w0, b0));
            layers[1].push((w1, b1));
        }
        layers.map(|layers| Self { layers, recipes: self.recipes })
    }

    /// Reads what [`PrivateWeights::to_bytes`] wrote; the length is decided by the program.
    pub fn from_bytes(program: &Program, bytes: &[u8]) -> Result<Self, MachineError> {
        let expected = Self::len(program);
        if bytes.len() != expected {
            return Err(MachineError::Input(format!("weight share of {} bytes where the program has {expected}", bytes.len())));
        }
        let mut words = bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().expect("chunks of 8")));
        let layers = program.private.iter().map(|r| {
            let weight = words.by_ref().take(r.words()).collect();
            (Zeroizing::new(weight), Zeroizing::new(words.by_ref().take(bias_len(r)).collect()))
        });
        Ok(Self { layers: layers.collect(), recipes: program.weights_digest })
    }

    pub(crate) fn words(&self, layer: u32, bias: bool) -> &[u64] {
        let (w, b) = &self.layers[layer as usize];
        if bias { b } else { w }
    }

    /// The reconstructed words, for the simulation in the clear.
    #[must_use]
    pub(crate) fn reconstruct(&self, other: &Self) -> Self {
        let add = |a: &[u64], b: &[u64]| Zeroizing::new(a.iter().zip(b).map(|(x, y)| x.wrapping_add(*y)).collect());
        let layers = self.layers.iter().zip(&other.layers).map(|(a, b)| (add(&a.0, &b.0), add(&a.1, &b.1)));
        Self { layers: layers.collect(), recipes: self.recipes }
    }
}

type Split = [Zeroizing<Vec<u64>>; 2];

fn split(values: &[f64], bits: u32, mask: &mut dyn FnMut(&mut [u64])) -> Split {
    let mut first = Zeroizing::new(vec![0u64; values.len()]);
    mask(&mut first);
    let second = values.iter().zip(first.iter()).map(|(v, m)| encode(*v, bits).wrapping_sub(*m)).collect();
    [first, Zeroizing::new(second)]
}

fn bias_len(recipe: &Recipe) -> usize {
    if recipe.layer.bias || recipe.fold.is_some() { recipe.layer.outputs } else { 0 }
}

/// `round(v·2^bits)` in Z_2^64.
pub(crate) fn encode(v: f64, bits: u32) -> u64 {
    (v * f64::from(bits).exp2()).round() as i64 as u64
}

fn values(model: &Checkpoint, path: &ParamPath) -> Result<Vec<f64>, MachineError> {
    let tensor = model.get(path).ok_or_else(|| MachineError::Input(format!("the model has no parameter {path}")))?;
    Ok(tensor.data().iter().map(|v| f64::from(*v)).collect())
}

/// The real weight `[outputs, inputs]` and bias of a recipe; the bias is empty where there is none.
fn real(recipe: &Recipe, model: &Checkpoint) -> Result<(Vec<f64>, Vec<f64>), MachineError> {
    let (rows, columns) = (recipe.layer.outputs, recipe.layer.inputs);
    let mut weight = values(model, &recipe.layer.weight())?;
    let mut bias = match recipe.layer.bias() {
        Some(path) => values(model, &path)?,
        None => vec![0.0; bias_len(recipe)],
    };
    if weight.len() != rows * columns || bias.len() != bias_len(recipe) {
        return Err(MachineError::Input(format!("{} has another shape than the program's", recipe.layer.path)));
    }
    if let Some(norm) = &recipe.fold {
        let (gamma, beta) = (values(model, &norm.path.join("weight"))?, values(model, &norm.path.join("bias"))?);
        for (row, b) in weight.chunks_exact_mut(columns).zip(&mut bias) {
            *b += row.iter().zip(&beta).map(|(w, x)| w * x).sum::<f64>();
            row.iter_mut().zip(&gamma).for_each(|(w, g)| *w *= g);
        }
    }
    if recipe.centred {
        let mut means = vec![0.0; columns];
        for row in weight.chunks_exact(columns) {
            means.iter_mut().zip(row).for_each(|(mean, w)| *mean += w);
        }
        means.iter_mut().for_each(|mean| *mean /= rows as f64);
        for row in weight.chunks_exact_mut(columns) {
            row.iter_mut().zip(&means).for_each(|(w, mean)| *w -= mean);
        }
        bias = centred(bias);
    }
    if recipe.gain != 1.0 {
        weight.iter_mut().chain(&mut bias).for_each(|v| *v *= recipe.gain);
    }
    if recipe.blocks > 1 {
        weight = apart(&weight, columns, recipe.blocks);
    }
    Ok((weight, bias))
}

/// The rows `[outputs, inputs]` once for each of `blocks` equal parts of the inputs, with what they read of the other parts set to zero.
fn apart(weight: &[f64], inputs: usize, blocks: usize) -> Vec<f64> {
    let part = inputs / blocks;
    let mut out = vec![0.0; blocks * weight.len()];
    for (block, rows) in out.chunks_exact_mut(weight.len()).enumerate() {
        let read = block * part..(block + 1) * part;
        for (to, from) in rows.chunks_exact_mut(inputs).zip(weight.chunks_exact(inputs)) {
            to[read.clone()].copy_from_slice(&from[read.clone()]);
        }
    }
    out
}

fn centred(mut values: Vec<f64>) -> Vec<f64> {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    for v in &mut values {
        *v -= mean;
    }
    values
}

/// Fills words from the operating system.
pub fn os_randomness(words: &mut [u64]) {
    let mut bytes = Zeroizing::new(vec![0u8; words.len() * 8]);
    getrandom::fill(&mut bytes).expect("the operating system's generator answers on every supported platform");
    for (word, chunk) in words.iter_mut().zip(bytes.chunks_exact(8)) {
        *word = u64::from_le_bytes(chunk.try_into().expect("chunks of 8"));
    }
}

#[cfg(test)]
mod tests {
    use super::apart;

    #[test]
    fn blocks_read_their_parts_of_the_inputs_alone_and_add_up_to_the_layer() {
        let weight: Vec<f64> = (1..=12).map(f64::from).collect();
        let blocks = apart(&weight, 6, 3);
        let dot = |row: &[f64], x: &[f64]| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
        let x = [0.5, -1.0, 2.0, 3.0, -0.25, 1.0];
        for (output, row) in weight.chunks_exact(6).enumerate() {
            let parts = (0..3).map(|block| dot(&blocks[(2 * block + output) * 6..][..6], &x));
            let direct = (0..3).map(|block| dot(&row[2 * block..][..2], &x[2 * block..][..2]));
            assert_eq!(parts.collect::<Vec<_>>(), direct.collect::<Vec<_>>());
        }
    }
}
