//! Comparison with a secret point from a distributed point function.
//!
//! A dealer who knows `alpha` gives each party a root seed and one common key (the correction words). At a public point
//! `x` the parties obtain bits with
//!
//! ```text
//! prefix(0, x) ⊕ prefix(1, x) = 1[alpha < x],   0 ≤ x ≤ 2^bits,
//! ```
//!
//! and each party alone learns nothing about `alpha`.
//!
//! # Construction
//! The tree is that of Boyle, Gilboa and Ishai (CCS 2016, optimised DPF) with a leaf of 128 bits, so a domain of
//! `2^bits` has `max(bits − 7, 0)` levels. A node is a seed of 126 bits and a control bit; both parties' nodes are equal
//! off the path to `alpha`, and on it the control bits differ and the seeds are independent. Hence the XOR of the control
//! bits of a node is the indicator that `alpha` lies below it, and the prefix `[0, x)` is the XOR of the control bits of
//! the left siblings along the path to `x` and of the parity of the leaf's bits below `x` (Storrier, Vadapalli, Lyons and
//! Henry, "Grotto", PETS 2024). One key answers any number of points.
//!
//! The expansion of a seed `s` (low two bits zero) is the fixed-key Matyas–Meyer–Oseas hash `H(y) = AES(y) ⊕ y`: the left
//! child is `H(s)`, the right child `H(s ⊕ 1)`, the leaf `H(s ⊕ 2)`; bit 0 of a child is its control bit and bit 1 is
//! dropped. In the ideal-cipher model an attacker with `q` AES evaluations against `N` keys has advantage about
//! `q·N·bits / 2^126`: seeds are 126 bits, not 128, in exchange for correction words of exactly 16 bytes.
//!
//! # Key
//! ```text
//! level 0 … level h−1:  seed correction (bits 2..128) | left control (bit 0) | right control (bit 1)     16 bytes each
//! leaf:                 leaf correction                                                                  16 bytes
//! ```
//!
//! Evaluation has no branch and no address that depends on a seed, a control bit or `alpha`.

mod portable;
#[cfg(test)]
mod tests;
mod tree;
#[cfg(target_arch = "x86_64")]
pub(crate) mod walks;

pub(crate) use tree::{Level, SEED, mask, open_node, step};

use rayon::prelude::*;

/// Bits of the domain that one 128-bit leaf covers.
const LEAF_BITS: u32 = 7;

/// Keys per task; a task of the fast kernel takes some 30 µs.
const KEYS_PER_TASK: usize = 512;

/// Levels of the tree above the leaves.
fn levels(bits: u32) -> u32 {
    assert!((1..=32).contains(&bits), "a point function has a domain of 1 to 32 bits, not {bits}");
    bits.saturating_sub(LEAF_BITS)
}

/// Bytes of correction words of one key, the same for both parties: `16 · (max(bits − 7, 0) + 1)`.
///
/// # Panics
/// If `bits` is not in 1..=32.
pub fn key_len(bits: u32) -> usize {
    16 * (levels(bits) as usize + 1)
}

/// Appends the keys for the points `alphas`, taken mod `2^bits`, under the parties' root seeds.
///
/// The control bits of the roots are 0 and 1 by definition; the low two bits of a root seed are ignored.
///
/// # Shapes
/// `alphas`, `seeds0` and `seeds1` have one element per key; `alphas.len() · key_len(bits)` bytes are appended.
///
/// # Panics
/// If `bits` is not in 1..=32 or the lengths differ.
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

/// Writes this party's XOR shares of `1[alpha_i < points[i, j]]`; each point is in `0..=2^bits`.
///
/// # Shapes
/// `seeds[keys]`, `keys[keys, key_len(bits)]` bytes, `points[keys, p]`, `out[keys, p]` with elements 0 or 1.
///
/// # Panics
/// If `party` is not 0 or 1, `bits` is not in 1..=32, a length does not match or a point is above `2^bits`.
pub fn prefix(party: u8, bits: u32, seeds: &[u128], keys: &[u8], points: &[u64], p: usize, out: &mut [u8]) {
    assert!(party < 2, "the parties are 0 and 1");
    let len = key_len(bits);
    assert_eq!(keys.len(), seeds.len() * len, "one key per root seed");
    assert_eq!(points.len(), seeds.len() * p, "p points per key");
    assert_eq!(out.len(), points.len(), "one share per point");
    assert!(points.iter().all(|x| *x <= 1 << bits), "a point is at most 2^bits");
    if p == 0 {
        return;
    }
    out.par_chunks_mut(p * KEYS_PER_TASK)
        .zip(points.par_chunks(p * KEYS_PER_TASK))
        .zip(seeds.par_chunks(KEYS_PER_TASK))
        .zip(keys.par_chunks(len * KEYS_PER_TASK))
        .for_each(|(((out, points), seeds), keys)| prefix_task(party, bits, seeds, keys, points, p, out));
}

fn generate_task(bits: u32, alphas: &[u64], seeds0: &[u128], seeds1: &[u128], keys: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    crate::lanes::dispatch!(walks::generate(bits, alphas, seeds0, seeds1, keys));
    portable::generate(bits, alphas, seeds0, seeds1, keys);
}

fn prefix_task(party: u8, bits: u32, seeds: &[u128], keys: &[u8], points: &[u64], p: usize, out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    crate::lanes::dispatch!(walks::prefix(party, bits, seeds, keys, points, p, out));
    portable::prefix(party, bits, seeds, keys, points, p, out);
}
