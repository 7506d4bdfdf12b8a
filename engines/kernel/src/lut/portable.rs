//! The portable look-up, the definition that the SIMD kernel must equal.

use super::{Reversed, key_len, levels};
use crate::cipher::fixed;
use crate::dpf::{Level, SEED, mask, open_node, step};

fn word(key: &[u8], index: usize) -> u128 {
    u128::from_le_bytes(key[16 * index..16 * (index + 1)].try_into().expect("a word is 16 bytes"))
}

/// The two 64-bit outputs of a leaf.
fn halves(leaf: u128) -> [u64; 2] {
    [leaf as u64, (leaf >> 64) as u64]
}

pub(super) fn generate(bits: u32, alphas: &[u64], seeds0: &[u128], seeds1: &[u128], keys: &mut [u8]) {
    let points = alphas.iter().zip(seeds0).zip(seeds1);
    for (((alpha, s0), s1), key) in points.zip(keys.chunks_mut(key_len(bits))) {
        let mut nodes = [s0 & SEED, s1 & SEED | 1];
        let (words, _) = key.as_chunks_mut::<16>();
        for level in 0..levels(bits) {
            let mut children = nodes.map(open_node);
            fixed().hash(children.as_flattened_mut());
            let direction = u128::from(alpha >> (bits - 1 - level) & 1);
            let (correction, next) = step(nodes, children, direction);
            words[level as usize] = correction.0.to_le_bytes();
            nodes = next;
        }
        let mut leaves = nodes.map(|node| node & SEED | 2);
        fixed().hash(&mut leaves);
        let (c0, c1) = (halves(leaves[0]), halves(leaves[1]));
        let sign = mask(nodes[1]) as u64;
        let beta = [!alpha & 1, alpha & 1];
        let [low, high]: [u64; 2] = core::array::from_fn(|e| {
            let plain = beta[e].wrapping_sub(c0[e]).wrapping_add(c1[e]);
            (plain ^ sign).wrapping_sub(sign)
        });
        words[levels(bits) as usize] = (u128::from(low) | u128::from(high) << 64).to_le_bytes();
    }
}

pub(super) fn eval(party: u8, bits: u32, seeds: &[u128], keys: &[u8], x_hat: &[u64], tables: &[Reversed], out: &mut [u64]) {
    let len = key_len(bits);
    let mut nodes = Vec::new();
    let mut children = Vec::new();
    for (((seed, key), x), out) in seeds.iter().zip(keys.chunks(len)).zip(x_hat).zip(out.chunks_mut(tables.len())) {
        nodes.clear();
        nodes.push(seed & SEED | u128::from(party));
        for level in 0..levels(bits) {
            expand(&mut nodes, Level(word(key, level as usize)), &mut children);
        }
        let correction = halves(word(key, levels(bits) as usize));
        let mut leaves: Vec<u128> = nodes.iter().map(|node| node & SEED | 2).collect();
        fixed().hash(&mut leaves);
        out.fill(0);
        for (q, (leaf, node)) in leaves.iter().zip(&nodes).enumerate() {
            let control = mask(*node) as u64;
            for (e, c) in halves(*leaf).into_iter().enumerate() {
                let share = c.wrapping_add(correction[e] & control);
                for (sum, table) in out.iter_mut().zip(tables) {
                    *sum = sum.wrapping_add(share.wrapping_mul(table.window(*x)[2 * q + e]));
                }
            }
        }
        let sign = u64::from(party).wrapping_neg();
        for sum in out {
            *sum = (*sum ^ sign).wrapping_sub(sign);
        }
    }
}

/// Replaces the nodes of one level by those of the next, in order.
fn expand(nodes: &mut Vec<u128>, correction: Level, children: &mut Vec<[u128; 2]>) {
    children.clear();
    children.extend(nodes.iter().copied().map(open_node));
    fixed().hash(children.as_flattened_mut());
    let parents = core::mem::take(nodes);
    for (parent, [left, right]) in parents.iter().zip(children.iter()) {
        let control = mask(*parent);
        nodes.push((left & !2) ^ (correction.left() & control));
        nodes.push((right & !2) ^ (correction.right() & control));
    }
}
