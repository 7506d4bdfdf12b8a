//! The portable tree walks, the definition that the SIMD kernel must equal.

use super::{LEAF_BITS, Level, SEED, key_len, levels, mask, open_node, step};
use crate::cipher::fixed;

/// Keys or paths walked side by side, so that the block cipher sees full batches.
const LANES: usize = 8;

fn word(key: &[u8], index: usize) -> u128 {
    u128::from_le_bytes(key[16 * index..16 * (index + 1)].try_into().expect("a word is 16 bytes"))
}

fn put(key: &mut [u8], index: usize, word: u128) {
    key[16 * index..16 * (index + 1)].copy_from_slice(&word.to_le_bytes());
}

/// A one at position `low` (0 to 127); no branch, which a shift of a `u128` might compile to.
fn one_at(low: u64) -> u128 {
    let bit = u128::from(1u64 << (low & 63));
    let high = mask(u128::from(low >> 6));
    bit & !high | bit << 64 & high
}

pub(super) fn generate(bits: u32, alphas: &[u64], seeds0: &[u128], seeds1: &[u128], keys: &mut [u8]) {
    let len = key_len(bits);
    let chunks = alphas.chunks(LANES).zip(seeds0.chunks(LANES)).zip(seeds1.chunks(LANES));
    for (((alphas, seeds0), seeds1), keys) in chunks.zip(keys.chunks_mut(len * LANES)) {
        generate_lanes(bits, alphas, seeds0, seeds1, keys);
    }
}

fn generate_lanes(bits: u32, alphas: &[u64], seeds0: &[u128], seeds1: &[u128], keys: &mut [u8]) {
    let (n, len, levels) = (alphas.len(), key_len(bits), levels(bits));
    let mut nodes = [[0u128; 2]; LANES];
    for (node, (s0, s1)) in nodes.iter_mut().zip(seeds0.iter().zip(seeds1)) {
        *node = [s0 & SEED, s1 & SEED | 1];
    }
    for level in 0..levels {
        let mut hashed = [0u128; 4 * LANES];
        for (to, node) in hashed.as_chunks_mut::<4>().0.iter_mut().zip(&nodes) {
            let ([a, b], [c, d]) = (open_node(node[0]), open_node(node[1]));
            *to = [a, b, c, d];
        }
        fixed().hash(&mut hashed[..4 * n]);
        for (i, [a, b, c, d]) in hashed.as_chunks::<4>().0[..n].iter().enumerate() {
            let direction = u128::from(alphas[i] >> (bits - 1 - level) & 1);
            let (correction, next) = step(nodes[i], [[*a, *b], [*c, *d]], direction);
            put(&mut keys[i * len..(i + 1) * len], level as usize, correction.0);
            nodes[i] = next;
        }
    }
    let mut leaves = nodes.map(|[a, b]| [a & SEED | 2, b & SEED | 2]);
    fixed().hash(leaves[..n].as_flattened_mut());
    let low = (1u64 << bits.min(LEAF_BITS)) - 1;
    for (i, [a, b]) in leaves[..n].iter().enumerate() {
        let correction = a ^ b ^ one_at(alphas[i] & low);
        put(&mut keys[i * len..(i + 1) * len], levels as usize, correction);
    }
}

pub(super) fn prefix(party: u8, bits: u32, seeds: &[u128], keys: &[u8], points: &[u64], p: usize, out: &mut [u8]) {
    for (chunk, (points, out)) in points.chunks(LANES).zip(out.chunks_mut(LANES)).enumerate() {
        prefix_lanes(party, bits, seeds, keys, chunk * LANES, points, p, out);
    }
}

/// Walks the paths of `points`, whose first has index `first` in the whole list.
#[expect(clippy::too_many_arguments, reason = "the arguments of `prefix` and a position")]
fn prefix_lanes(party: u8, bits: u32, seeds: &[u128], keys: &[u8], first: usize, points: &[u64], p: usize, out: &mut [u8]) {
    let (n, len, levels) = (points.len(), key_len(bits), levels(bits));
    let key = |i: usize| &keys[(first + i) / p * len..((first + i) / p + 1) * len];
    let mut nodes = [0u128; LANES];
    for (i, node) in nodes[..n].iter_mut().enumerate() {
        *node = seeds[(first + i) / p] & SEED | u128::from(party);
    }
    // At 2^bits the walk below goes to point 0 and yields 0; the share of the whole domain's indicator is the root's control bit.
    let mut parity: [u128; LANES] =
        core::array::from_fn(|i| points.get(i).map_or(0, |x| u128::from(x >> bits) & u128::from(party)));
    for level in 0..levels {
        let mut hashed = nodes.map(open_node);
        fixed().hash(hashed[..n].as_flattened_mut());
        for (i, [left, right]) in hashed[..n].iter().enumerate() {
            let direction = mask(u128::from(points[i] >> (bits - 1 - level)));
            let correction = Level(word(key(i), level as usize));
            let control = mask(nodes[i]);
            let left = (left & !2) ^ (correction.left() & control);
            let right = (right & !2) ^ (correction.right() & control);
            parity[i] ^= left & direction & 1;
            nodes[i] = left & !direction | right & direction;
        }
    }
    let mut leaves = nodes.map(|node| node & SEED | 2);
    fixed().hash(&mut leaves[..n]);
    let low = (1u64 << bits.min(LEAF_BITS)) - 1;
    for (i, leaf) in leaves[..n].iter().enumerate() {
        let leaf = leaf ^ (word(key(i), levels as usize) & mask(nodes[i]));
        let below = leaf & ((1u128 << (points[i] & low)) - 1);
        out[i] = (u128::from(below.count_ones()) ^ parity[i]) as u8 & 1;
    }
}
