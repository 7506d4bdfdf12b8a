//! The look-up with VAES: four keys side by side, one per lane, so every level of the small trees fills the registers.
//!
//! Only the public index `x_hat` moves an address.

use super::{Reversed, key_len, levels};
use crate::dpf::{SEED, dealer_step};
use crate::vaes::{
    Schedule, control, corrected, fixed, gather, gather_words, hash, opened, right_correction, scatter, scatter_words, set,
};
use core::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_mask_add_epi64, _mm512_mask_sub_epi64, _mm512_mullo_epi64, _mm512_set1_epi64,
    _mm512_set4_epi64, _mm512_setzero_si512, _mm512_sub_epi64, _mm512_test_epi64_mask,
};

/// Keys side by side: one per lane.
const KEYS: usize = 4;

/// Nodes hashed together, two children or four leaves of each key at a time.
const STEP: usize = 4;

/// Full-domain evaluation of four keys: `nodes[v]` holds leaf `v` of each, as two outputs still without sign.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,vaes")]
fn expand(schedule: &Schedule, bits: u32, roots: [u128; KEYS], keys: [&[[u8; 16]]; KEYS], nodes: &mut [__m512i]) {
    nodes[0] = set(roots);
    for level in 0..levels(bits) {
        let word = gather(keys.map(|key| &key[level as usize]));
        let right = right_correction(word);
        // From the last node down, so that children never overwrite a parent that is still to be read.
        let mut end = 1 << level;
        while end > 0 {
            let count = STEP.min(end);
            let start = end - count;
            let mut parents = [_mm512_setzero_si512(); STEP];
            parents[..count].copy_from_slice(&nodes[start..end]);
            let mut children = [_mm512_setzero_si512(); 2 * STEP];
            for (i, parent) in parents.iter().enumerate() {
                children[2 * i] = opened(*parent, 0);
                children[2 * i + 1] = opened(*parent, 1);
            }
            hash(schedule, &mut children);
            for (i, parent) in parents.iter().enumerate() {
                let control = control(*parent);
                children[2 * i] = corrected(children[2 * i], control, word);
                children[2 * i + 1] = corrected(children[2 * i + 1], control, right);
            }
            nodes[2 * start..2 * end].copy_from_slice(&children[..2 * count]);
            end = start;
        }
    }
    let word = gather(keys.map(|key| &key[levels(bits) as usize]));
    for group in nodes.chunks_mut(2 * STEP) {
        let mut leaves = [_mm512_setzero_si512(); 2 * STEP];
        for (leaf, node) in leaves.iter_mut().zip(group.iter()) {
            *leaf = opened(*node, 2);
        }
        hash(schedule, &mut leaves);
        for (node, leaf) in group.iter_mut().zip(leaves) {
            *node = _mm512_mask_add_epi64(leaf, control(*node), leaf, word);
        }
    }
}

/// `Σ_v onehot[v] · table[(x − v) mod len]` for each lane, as two partial sums per lane.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn inner_products(leaves: &[__m512i], windows: [&[u64]; KEYS]) -> __m512i {
    let [a, b, c, d] = windows.map(|window| window.as_chunks::<2>().0);
    let mut sum = _mm512_setzero_si512();
    for ((((leaf, a), b), c), d) in leaves.iter().zip(a).zip(b).zip(c).zip(d) {
        sum = _mm512_add_epi64(sum, _mm512_mullo_epi64(*leaf, gather_words([a, b, c, d])));
    }
    sum
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,vaes,aes,sse4.1")]
pub(super) fn eval(party: u8, bits: u32, seeds: &[u128], keys: &[u8], x_hat: &[u64], tables: &[Reversed], out: &mut [u64]) {
    let schedule = fixed();
    let (keys, _) = keys.as_chunks::<16>();
    let len = key_len(bits) / 16;
    let mut nodes = vec![_mm512_setzero_si512(); 1 << levels(bits)];
    let chunks = seeds.chunks(KEYS).zip(keys.chunks(KEYS * len)).zip(x_hat.chunks(KEYS)).zip(out.chunks_mut(KEYS * tables.len()));
    for (((seeds, keys), x_hat), out) in chunks {
        // Unused lanes of the last group repeat its first key.
        let lane = |i: usize| if i < seeds.len() { i } else { 0 };
        let lanes = [lane(0), lane(1), lane(2), lane(3)];
        let roots = lanes.map(|i| seeds[i] & SEED | u128::from(party));
        expand(&schedule, bits, roots, lanes.map(|i| &keys[i * len..][..len]), &mut nodes);
        for (j, table) in tables.iter().enumerate() {
            let sums = inner_products(&nodes, lanes.map(|i| table.window(x_hat[i])));
            let sums = if party == 0 { sums } else { _mm512_sub_epi64(_mm512_setzero_si512(), sums) };
            let mut halves = [[0; 2]; KEYS];
            scatter_words(sums, &mut halves);
            for (out, [even, odd]) in out.chunks_mut(tables.len()).zip(halves) {
                out[j] = even.wrapping_add(odd);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,vaes,aes,sse4.1")]
pub(super) fn generate(bits: u32, alphas: &[u64], seeds0: &[u128], seeds1: &[u128], keys: &mut [u8]) {
    let schedule = fixed();
    let (keys, _) = keys.as_chunks_mut::<16>();
    let len = key_len(bits) / 16;
    let chunks = alphas.chunks(KEYS).zip(seeds0.chunks(KEYS)).zip(seeds1.chunks(KEYS));
    for (((alphas, seeds0), seeds1), keys) in chunks.zip(keys.chunks_mut(KEYS * len)) {
        let n = alphas.len();
        let mut points = [0u128; KEYS];
        let mut roots = [[0u128; KEYS]; 2];
        for i in 0..n {
            points[i] = u128::from(alphas[i]) | u128::from(alphas[i]) << 64;
            roots[0][i] = seeds0[i] & SEED;
            roots[1][i] = seeds1[i] & SEED | 1;
        }
        if n == KEYS {
            generate_keys(&schedule, bits, points, roots, keys);
        } else {
            let mut padded = vec![[0; 16]; KEYS * len];
            generate_keys(&schedule, bits, points, roots, &mut padded);
            keys.copy_from_slice(&padded[..n * len]);
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,vaes")]
fn generate_keys(schedule: &Schedule, bits: u32, points: [u128; KEYS], roots: [[u128; KEYS]; 2], keys: &mut [[u8; 16]]) {
    let len = key_len(bits) / 16;
    let alphas = set(points);
    let mut nodes = [set(roots[0]), set(roots[1])];
    let mut put = |index: usize, word: __m512i| {
        let mut lanes = keys.chunks_exact_mut(len);
        let mut next = || &mut lanes.next().expect("four keys of `len` words")[index];
        scatter(word, [next(), next(), next(), next()]);
    };
    for level in 0..levels(bits) {
        let mut children = [opened(nodes[0], 0), opened(nodes[0], 1), opened(nodes[1], 0), opened(nodes[1], 1)];
        hash(schedule, &mut children);
        let turn = _mm512_test_epi64_mask(alphas, _mm512_set1_epi64(1 << (bits - 1 - level)));
        let (word, next) = dealer_step(nodes, children, turn);
        put(level as usize, word);
        nodes = next;
    }
    let mut leaves = [opened(nodes[0], 2), opened(nodes[1], 2)];
    hash(schedule, &mut leaves);
    // The payload 1 stands in the low output of even and the high output of odd points; odd lanes mask both halves.
    let odd = _mm512_test_epi64_mask(alphas, _mm512_set1_epi64(1));
    let (low, high) = (_mm512_set4_epi64(0, 1, 0, 1), _mm512_set4_epi64(1, 0, 1, 0));
    let zero = _mm512_setzero_si512();
    let payload = _mm512_mask_add_epi64(low, odd, high, zero);
    let word = _mm512_add_epi64(_mm512_sub_epi64(payload, leaves[0]), leaves[1]);
    put(levels(bits) as usize, _mm512_mask_sub_epi64(word, control(nodes[1]), zero, word));
}
