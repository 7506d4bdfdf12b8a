//! Dropout masks that depend on the example and the step only, not on how a batch is cut or padded.

use rand_chacha::ChaCha8Rng;
use rand_core::{RngCore, SeedableRng};

/// The masks of one forward pass: one stream an example, keyed by (run, step, example).
#[derive(Debug)]
pub(crate) struct DropoutMasks {
    streams: Vec<ChaCha8Rng>,
}

impl DropoutMasks {
    /// Streams for the examples with these indices in the data set.
    pub(crate) fn new(seed: u64, step: u64, examples: &[usize]) -> Self {
        let stream = |example: &usize| {
            let mut key = [0_u8; 32];
            key[..8].copy_from_slice(&seed.to_le_bytes());
            key[8..16].copy_from_slice(&step.to_le_bytes());
            key[16..24].copy_from_slice(&(*example as u64).to_le_bytes());
            key[24..].copy_from_slice(b"dropout\0");
            ChaCha8Rng::from_seed(key)
        };
        Self { streams: examples.iter().map(stream).collect() }
    }

    /// Inverted dropout factors `[batch, tokens, channels]`: 0 with probability `p`, else `1/(1 - p)`. Padding draws nothing.
    pub(crate) fn draw(&mut self, lengths: &[usize], tokens: usize, channels: usize, p: f64) -> Vec<f32> {
        let keep = (1.0 / (1.0 - p)) as f32;
        let threshold = (p * 2_f64.powi(32)) as u64;
        let mut mask = vec![0.0; self.streams.len() * tokens * channels];
        for ((stream, length), row) in self.streams.iter_mut().zip(lengths).zip(mask.chunks_exact_mut(tokens * channels)) {
            let real = (*length).min(tokens) * channels;
            row[..real].fill_with(|| if u64::from(stream.next_u32()) < threshold { 0.0 } else { keep });
        }
        mask
    }
}
