//! The tree walks with VAES: 16 paths, or 8 keys under generation, side by side.
//!
//! A 64-bit value that belongs to a lane (a point, a secret point) stands in both halves of the lane, so that one test
//! gives the mask for the whole lane. Masks are registers; nothing is branched on or indexed by.

use super::{LEAF_BITS, SEED, key_len, levels};
use crate::vaes::{
    Schedule, control, corrected, fixed, gather, hash, in_low_half, opened, right_correction, scatter, seed_bits, set,
};
use core::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_mask_blend_epi64, _mm512_mask_xor_epi64, _mm512_or_si512,
    _mm512_set1_epi64, _mm512_set4_epi64, _mm512_setzero_si512, _mm512_shuffle_epi32, _mm512_slli_epi64, _mm512_sllv_epi64,
    _mm512_srli_epi64, _mm512_subs_epu16, _mm512_test_epi64_mask, _mm512_xor_si512,
};

/// Paths side by side in an evaluation: four registers, eight in the hash.
const PATHS: usize = 16;

/// Keys side by side in a generation: two registers, eight in the hash (two parties, two children).
const KEYS: usize = 8;

/// `x` in both halves of its lane.
fn doubled(x: u64) -> u128 {
    u128::from(x) | u128::from(x) << 64
}

/// Four consecutive elements of `lanes`, in a register.
#[inline]
#[target_feature(enable = "avx512f")]
fn quad(lanes: &[u128], index: usize) -> __m512i {
    set([lanes[4 * index], lanes[4 * index + 1], lanes[4 * index + 2], lanes[4 * index + 3]])
}

/// Correction word `index` of four consecutive keys.
#[inline]
#[target_feature(enable = "avx512f")]
fn words(keys: &[&[[u8; 16]]], quad: usize, index: usize) -> __m512i {
    gather([&keys[4 * quad][index], &keys[4 * quad + 1][index], &keys[4 * quad + 2][index], &keys[4 * quad + 3][index]])
}

/// Ones below position `low` (0 to 127) of each lane.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn ones_below(low: __m512i) -> __m512i {
    // A shift by 64 or more gives zero, hence all ones in the low half; saturation gives zero ones in the high half.
    let shift = _mm512_subs_epu16(low, _mm512_set4_epi64(64, 0, 64, 0));
    _mm512_add_epi64(_mm512_sllv_epi64(_mm512_set1_epi64(1), shift), _mm512_set1_epi64(-1))
}

/// The parity of each lane, in its bit 0.
#[inline]
#[target_feature(enable = "avx512f")]
fn parity(x: __m512i) -> __m512i {
    let x = _mm512_xor_si512(x, _mm512_shuffle_epi32::<0b0100_1110>(x));
    let x = _mm512_xor_si512(x, _mm512_srli_epi64::<32>(x));
    let x = _mm512_xor_si512(x, _mm512_srli_epi64::<16>(x));
    let x = _mm512_xor_si512(x, _mm512_srli_epi64::<8>(x));
    let x = _mm512_xor_si512(x, _mm512_srli_epi64::<4>(x));
    let x = _mm512_xor_si512(x, _mm512_srli_epi64::<2>(x));
    _mm512_xor_si512(x, _mm512_srli_epi64::<1>(x))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,vaes,aes,sse4.1")]
pub(super) fn prefix(party: u8, bits: u32, seeds: &[u128], keys: &[u8], points: &[u64], p: usize, out: &mut [u8]) {
    let schedule = fixed();
    let (keys, _) = keys.as_chunks::<16>();
    let len = key_len(bits) / 16;
    let mut at = (0, 0);
    for (points, out) in points.chunks(PATHS).zip(out.chunks_mut(PATHS)) {
        let mut roots = [0u128; PATHS];
        let mut targets = [0u128; PATHS];
        let mut lanes: [&[[u8; 16]]; PATHS] = [&keys[..len]; PATHS];
        for (i, x) in points.iter().enumerate() {
            roots[i] = seeds[at.0] & SEED | u128::from(party);
            targets[i] = doubled(*x);
            lanes[i] = &keys[at.0 * len..][..len];
            at = if at.1 + 1 == p { (at.0 + 1, 0) } else { (at.0, at.1 + 1) };
        }
        let shares = prefix_paths(&schedule, bits, &roots, &lanes, &targets);
        for (i, (to, x)) in out.iter_mut().zip(points).enumerate() {
            // At 2^bits the walk went to point 0 and gave 0; the share of the whole domain's indicator is the root's control bit.
            *to = (shares >> i & 1) as u8 ^ ((x >> bits) as u8 & party);
        }
    }
}

/// Bit `i` of the result is the share at `targets[i]`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,vaes")]
fn prefix_paths(
    schedule: &Schedule,
    bits: u32,
    roots: &[u128; PATHS],
    keys: &[&[[u8; 16]]; PATHS],
    targets: &[u128; PATHS],
) -> u32 {
    let mut nodes = [_mm512_setzero_si512(); 4];
    let mut points = nodes;
    let mut sums = nodes;
    for q in 0..4 {
        nodes[q] = quad(roots, q);
        points[q] = quad(targets, q);
    }
    let levels = levels(bits);
    for level in 0..levels {
        let bit = _mm512_set1_epi64(1 << (bits - 1 - level));
        let mut children = [_mm512_setzero_si512(); 8];
        for q in 0..4 {
            children[2 * q] = opened(nodes[q], 0);
            children[2 * q + 1] = opened(nodes[q], 1);
        }
        hash(schedule, &mut children);
        for q in 0..4 {
            let word = words(keys, q, level as usize);
            let control = control(nodes[q]);
            let left = corrected(children[2 * q], control, word);
            let right = corrected(children[2 * q + 1], control, right_correction(word));
            let turn = _mm512_test_epi64_mask(points[q], bit);
            sums[q] = _mm512_mask_xor_epi64(sums[q], turn, sums[q], left);
            nodes[q] = _mm512_mask_blend_epi64(turn, left, right);
        }
    }
    let mut leaves = nodes;
    for leaf in &mut leaves {
        *leaf = opened(*leaf, 2);
    }
    hash(schedule, &mut leaves);
    let low = _mm512_set1_epi64((1 << bits.min(LEAF_BITS)) - 1);
    let mut shares = 0;
    for q in 0..4 {
        let word = words(keys, q, levels as usize);
        let leaf = _mm512_mask_xor_epi64(leaves[q], control(nodes[q]), leaves[q], word);
        let below = _mm512_and_si512(leaf, ones_below(_mm512_and_si512(points[q], low)));
        let share = _mm512_xor_si512(parity(below), sums[q]);
        // One bit per lane at even positions, moved together.
        let lanes = u32::from(_mm512_test_epi64_mask(share, in_low_half(1)));
        shares |= (lanes & 1 | lanes >> 1 & 2 | lanes >> 2 & 4 | lanes >> 3 & 8) << (4 * q);
    }
    shares
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
            points[i] = doubled(alphas[i]);
            roots[0][i] = seeds0[i] & SEED;
            roots[1][i] = seeds1[i] & SEED | 1;
        }
        if n == KEYS {
            generate_keys(&schedule, bits, &points, &roots, keys);
        } else {
            let mut padded = vec![[0; 16]; KEYS * len];
            generate_keys(&schedule, bits, &points, &roots, &mut padded);
            keys.copy_from_slice(&padded[..n * len]);
        }
    }
}

/// Writes one correction word of four consecutive keys.
#[inline]
#[target_feature(enable = "avx512f")]
fn put(keys: &mut [[u8; 16]], len: usize, quad: usize, index: usize, word: __m512i) {
    let mut lanes = keys[4 * quad * len..4 * (quad + 1) * len].chunks_exact_mut(len);
    let mut next = || &mut lanes.next().expect("four keys of `len` words")[index];
    scatter(word, [next(), next(), next(), next()]);
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,vaes")]
fn generate_keys(schedule: &Schedule, bits: u32, points: &[u128; KEYS], roots: &[[u128; KEYS]; 2], keys: &mut [[u8; 16]]) {
    let len = key_len(bits) / 16;
    let alphas = [quad(points, 0), quad(points, 1)];
    // nodes[q][party]
    let mut nodes = [[quad(&roots[0], 0), quad(&roots[1], 0)], [quad(&roots[0], 1), quad(&roots[1], 1)]];
    let levels = levels(bits);
    for level in 0..levels {
        let bit = _mm512_set1_epi64(1 << (bits - 1 - level));
        let mut children = [_mm512_setzero_si512(); 8];
        for q in 0..2 {
            for b in 0..2 {
                children[4 * q + 2 * b] = opened(nodes[q][b], 0);
                children[4 * q + 2 * b + 1] = opened(nodes[q][b], 1);
            }
        }
        hash(schedule, &mut children);
        for q in 0..2 {
            let turn = _mm512_test_epi64_mask(alphas[q], bit);
            let ours = [children[4 * q], children[4 * q + 1], children[4 * q + 2], children[4 * q + 3]];
            let (word, next) = step(nodes[q], ours, turn);
            nodes[q] = next;
            put(keys, len, q, level as usize, word);
        }
    }
    let mut leaves = nodes;
    for leaf in leaves.as_flattened_mut() {
        *leaf = opened(*leaf, 2);
    }
    let mut flat = [leaves[0][0], leaves[0][1], leaves[1][0], leaves[1][1]];
    hash(schedule, &mut flat);
    let low = _mm512_set1_epi64((1 << bits.min(LEAF_BITS)) - 1);
    for q in 0..2 {
        let at = one_at(_mm512_and_si512(alphas[q], low));
        let word = _mm512_xor_si512(_mm512_xor_si512(flat[2 * q], flat[2 * q + 1]), at);
        put(keys, len, q, levels as usize, word);
    }
}

/// A one at position `low` (0 to 127) of each lane.
#[inline]
#[target_feature(enable = "avx512f")]
fn one_at(low: __m512i) -> __m512i {
    // Shifts of 64 or more, and the negative shifts of the high half, give zero.
    let shift = _mm512_add_epi64(low, _mm512_set4_epi64(-64, 0, -64, 0));
    _mm512_sllv_epi64(_mm512_set1_epi64(1), shift)
}

/// The dealer's step of [`super::step`] on four keys: the correction word and the next nodes, `turn` selecting the lanes
/// that go right; `children` are left and right of party 0, then of party 1.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(crate) fn step(nodes: [__m512i; 2], children: [__m512i; 4], turn: u8) -> (__m512i, [__m512i; 2]) {
    let [left0, right0, left1, right1] = children;
    let (left, right) = (_mm512_xor_si512(left0, left1), _mm512_xor_si512(right0, right1));
    let lose = _mm512_and_si512(_mm512_mask_blend_epi64(turn, right, left), seed_bits());
    // The flips ⊕ direction ⊕ 1 of the left and ⊕ direction of the right control bit, at bits 0 and 1.
    let flips = _mm512_mask_blend_epi64(turn, in_low_half(1), in_low_half(2));
    let left_control = _mm512_and_si512(left, in_low_half(1));
    let right_control = _mm512_and_si512(_mm512_slli_epi64::<1>(right), in_low_half(2));
    let controls = _mm512_xor_si512(_mm512_or_si512(left_control, right_control), flips);
    let word = _mm512_or_si512(lose, controls);
    let correction = _mm512_mask_blend_epi64(turn, word, right_correction(word));
    let next0 = corrected(_mm512_mask_blend_epi64(turn, left0, right0), control(nodes[0]), correction);
    let next1 = corrected(_mm512_mask_blend_epi64(turn, left1, right1), control(nodes[1]), correction);
    (word, [next0, next1])
}
