//! Look-up of a public table at a masked secret index.
//!
//! A dealer who knows the mask `alpha` shares the one-hot vector of `alpha` over Z_2^64 through a distributed point
//! function with payload 1. The parties open `x_hat = x + alpha mod 2^bits`; each adds up, over the whole domain,
//!
//! ```text
//! Σ_v onehot_b[v] · table[(x_hat − v) mod 2^bits],
//! ```
//!
//! and the two sums add to `table[(x_hat − alpha) mod 2^bits] = table[x]` mod 2^64. One key serves every table that is
//! looked up at the same `x`.
//!
//! # Construction
//! The tree of [`crate::dpf`] (Boyle, Gilboa and Ishai, CCS 2016, figure 1 with group Z_2^64 and early termination): a
//! 128-bit leaf holds two outputs, so there are `bits − 1` levels. With leaf words `c_b` and control bits `t_b`, party `b`
//! holds `(−1)^b (c_b + t_b·CW)`, where `CW = (−1)^{t_1} (β − c_0 + c_1)` and `β` is 1 at `alpha` and 0 beside it.
//!
//! # Key
//! `bits − 1` correction words of 16 bytes as in [`crate::dpf`], then `CW` as two little-endian 64-bit words.
//!
//! Table indices depend on the public `x_hat` only.

mod portable;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod walks;

use rayon::prelude::*;

/// The widest domain: 2^13 outputs, 256 KiB of tree per batch, still in a level-2 cache.
const MAX_BITS: u32 = 13;

/// Keys per task.
const KEYS_PER_TASK: usize = 64;

/// Levels of the tree above the leaves.
fn levels(bits: u32) -> u32 {
    assert!((1..=MAX_BITS).contains(&bits), "a look-up has an index of 1 to {MAX_BITS} bits, not {bits}");
    bits - 1
}

/// Bytes of correction words of one key, the same for both parties: `16 · bits`.
///
/// # Panics
/// If `bits` is not in 1..=13.
pub fn key_len(bits: u32) -> usize {
    16 * (levels(bits) as usize + 1)
}

/// Appends the keys for the masks `alphas`, taken mod `2^bits`, under the parties' root seeds.
///
/// # Shapes
/// `alphas`, `seeds0` and `seeds1` have one element per key; `alphas.len() · key_len(bits)` bytes are appended.
///
/// # Panics
/// If `bits` is not in 1..=13 or the lengths differ.
pub fn generate(bits: u32, alphas: &[u64], seeds0: &[u128], seeds1: &[u128], out: &mut Vec<u8>) {
    assert_eq!(alphas.len(), seeds0.len(), "one root seed of party 0 per point");
    assert_eq!(alphas.len(), seeds1.len(), "one root seed of party 1 per point");
    let len = key_len(bits);
    let start = out.len();
    out.resize(start + len * alphas.len(), 0);
    out[start..]
        .par_chunks_mut(len * KEYS_PER_TASK)
        .zip(alphas.par_chunks(KEYS_PER_TASK))
        .zip(seeds0.par_chunks(KEYS_PER_TASK))
        .zip(seeds1.par_chunks(KEYS_PER_TASK))
        .for_each(|(((keys, alphas), seeds0), seeds1)| generate_task(bits, alphas, seeds0, seeds1, keys));
}

/// Writes this party's additive shares of `tables[j][(x_hat[i] − alpha_i) mod 2^bits]`; `x_hat` is taken mod `2^bits`.
///
/// # Shapes
/// `seeds[keys]`, `keys[keys, key_len(bits)]` bytes, `x_hat[keys]`, each table `[2^bits]`, `out[keys, tables]`.
///
/// # Panics
/// If `party` is not 0 or 1, `bits` is not in 1..=13 or a length does not match.
pub fn eval(party: u8, bits: u32, seeds: &[u128], keys: &[u8], x_hat: &[u64], tables: &[&[u64]], out: &mut [u64]) {
    assert!(party < 2, "the parties are 0 and 1");
    let len = key_len(bits);
    assert_eq!(keys.len(), seeds.len() * len, "one key per root seed");
    assert_eq!(x_hat.len(), seeds.len(), "one index per key");
    assert_eq!(out.len(), seeds.len() * tables.len(), "one share per key and table");
    assert!(tables.iter().all(|t| t.len() == 1 << bits), "a table has 2^bits entries");
    if tables.is_empty() {
        return;
    }
    let tables: Vec<Reversed> = tables.iter().map(|table| Reversed::new(table)).collect();
    out.par_chunks_mut(tables.len() * KEYS_PER_TASK)
        .zip(x_hat.par_chunks(KEYS_PER_TASK))
        .zip(seeds.par_chunks(KEYS_PER_TASK))
        .zip(keys.par_chunks(len * KEYS_PER_TASK))
        .for_each(|(((out, x_hat), seeds), keys)| eval_task(party, bits, seeds, keys, x_hat, &tables, out));
}

fn generate_task(bits: u32, alphas: &[u64], seeds0: &[u128], seeds1: &[u128], keys: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    crate::lanes::dispatch!(walks::generate(bits, alphas, seeds0, seeds1, keys));
    portable::generate(bits, alphas, seeds0, seeds1, keys);
}

fn eval_task(party: u8, bits: u32, seeds: &[u128], keys: &[u8], x_hat: &[u64], tables: &[Reversed], out: &mut [u64]) {
    #[cfg(target_arch = "x86_64")]
    crate::lanes::dispatch!(walks::eval(party, bits, seeds, keys, x_hat, tables, out));
    portable::eval(party, bits, seeds, keys, x_hat, tables, out);
}

/// A table in reversed order, twice: `window(x)[v] = table[(x − v) mod len]` is then a contiguous slice.
struct Reversed {
    twice: Vec<u64>,
}

impl Reversed {
    fn new(table: &[u64]) -> Self {
        let once = || table[..1].iter().chain(table[1..].iter().rev());
        Self { twice: once().chain(once()).copied().collect() }
    }

    fn window(&self, x: u64) -> &[u64] {
        let len = self.twice.len() / 2;
        let start = (x as usize).wrapping_neg() & (len - 1);
        &self.twice[start..start + len]
    }
}
