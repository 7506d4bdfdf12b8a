//! The tree walks on several blocks per register: four registers of paths, or two of keys under generation, side by side.
//!
//! A 64-bit value that belongs to a lane (a point, a secret point) stands in both halves of the lane, so that one test
//! gives the mask for the whole lane. Masks are registers; nothing is branched on or indexed by.

use super::{LEAF_BITS, SEED, key_len, levels};
use crate::lanes::each_width;

/// `x` in both halves of its lane.
fn doubled(x: u64) -> u128 {
    u128::from(x) | u128::from(x) << 64
}

macro_rules! walks {
    ($lanes:ident, $features:literal) => {
        use super::{LEAF_BITS, SEED, doubled, key_len, levels};
        use crate::lanes::$lanes::{
            Blocks, LANES, Mask, Schedule, add, and, control, corrected, fixed, gather, halves, hash, in_low_half, low_bits,
            opened, or, parity, right_correction, saturating_sub, scatter, seed_bits, select, set, shift_left, shift_left_each,
            splat, test, xor, xor_where, zero,
        };

        /// Paths side by side in an evaluation: four registers, eight in the hash.
        const PATHS: usize = 4 * LANES;

        /// Keys side by side in a generation: two registers, eight in the hash (two parties, two children).
        const KEYS: usize = 2 * LANES;

        /// The elements of `lanes` that make register `index`.
        #[inline]
        #[target_feature(enable = $features)]
        fn register(lanes: &[u128], index: usize) -> Blocks {
            set(core::array::from_fn(|i| lanes[LANES * index + i]))
        }

        /// Correction word `index` of the keys of register `r`.
        #[inline]
        #[target_feature(enable = $features)]
        fn words(keys: &[&[[u8; 16]]], r: usize, index: usize) -> Blocks {
            gather(core::array::from_fn(|i| &keys[LANES * r + i][index]))
        }

        /// Ones below position `low` (0 to 127) of each lane.
        #[inline]
        #[target_feature(enable = $features)]
        fn ones_below(low: Blocks) -> Blocks {
            // A shift by 64 or more gives zero, hence all ones in the low half; saturation gives zero ones in the high half.
            let shift = saturating_sub(low, halves(64, 0));
            add(shift_left_each(splat(1), shift), splat(-1))
        }

        #[target_feature(enable = $features)]
        pub(crate) fn prefix(party: u8, bits: u32, seeds: &[u128], keys: &[u8], points: &[u64], p: usize, out: &mut [u8]) {
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
                    // At 2^bits the walk went to point 0 and gave 0; the share of the whole domain's indicator is the root's control
                    // bit.
                    *to = (shares >> i & 1) as u8 ^ ((x >> bits) as u8 & party);
                }
            }
        }

        /// Bit `i` of the result is the share at `targets[i]`.
        #[inline]
        #[target_feature(enable = $features)]
        fn prefix_paths(
            schedule: &Schedule,
            bits: u32,
            roots: &[u128; PATHS],
            keys: &[&[[u8; 16]]; PATHS],
            targets: &[u128; PATHS],
        ) -> u32 {
            let mut nodes = [zero(); 4];
            let mut points = nodes;
            let mut sums = nodes;
            for r in 0..4 {
                nodes[r] = register(roots, r);
                points[r] = register(targets, r);
            }
            let levels = levels(bits);
            for level in 0..levels {
                let bit = splat(1 << (bits - 1 - level));
                let mut children = [zero(); 8];
                for r in 0..4 {
                    children[2 * r] = opened(nodes[r], 0);
                    children[2 * r + 1] = opened(nodes[r], 1);
                }
                hash(schedule, &mut children);
                for r in 0..4 {
                    let word = words(keys, r, level as usize);
                    let control = control(nodes[r]);
                    let left = corrected(children[2 * r], control, word);
                    let right = corrected(children[2 * r + 1], control, right_correction(word));
                    let turn = test(points[r], bit);
                    sums[r] = xor_where(turn, sums[r], left);
                    nodes[r] = select(turn, left, right);
                }
            }
            let mut leaves = nodes;
            for leaf in &mut leaves {
                *leaf = opened(*leaf, 2);
            }
            hash(schedule, &mut leaves);
            let low = splat((1 << bits.min(LEAF_BITS)) - 1);
            let mut shares = 0;
            for r in 0..4 {
                let word = words(keys, r, levels as usize);
                let leaf = xor_where(control(nodes[r]), leaves[r], word);
                let below = and(leaf, ones_below(and(points[r], low)));
                shares |= low_bits(xor(parity(below), sums[r])) << (LANES * r);
            }
            shares
        }

        #[target_feature(enable = $features)]
        pub(crate) fn generate(bits: u32, alphas: &[u64], seeds0: &[u128], seeds1: &[u128], keys: &mut [u8]) {
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

        /// Writes one correction word of the keys of register `r`.
        #[inline]
        #[target_feature(enable = $features)]
        fn put(keys: &mut [[u8; 16]], len: usize, r: usize, index: usize, word: Blocks) {
            let mut lanes = keys[LANES * r * len..LANES * (r + 1) * len].chunks_exact_mut(len);
            scatter(word, core::array::from_fn(|_| &mut lanes.next().expect("`LANES` keys of `len` words")[index]));
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn generate_keys(
            schedule: &Schedule,
            bits: u32,
            points: &[u128; KEYS],
            roots: &[[u128; KEYS]; 2],
            keys: &mut [[u8; 16]],
        ) {
            let len = key_len(bits) / 16;
            let alphas = [register(points, 0), register(points, 1)];
            // nodes[r][party]
            let mut nodes = [[register(&roots[0], 0), register(&roots[1], 0)], [register(&roots[0], 1), register(&roots[1], 1)]];
            let levels = levels(bits);
            for level in 0..levels {
                let bit = splat(1 << (bits - 1 - level));
                let mut children = [zero(); 8];
                for r in 0..2 {
                    for b in 0..2 {
                        children[4 * r + 2 * b] = opened(nodes[r][b], 0);
                        children[4 * r + 2 * b + 1] = opened(nodes[r][b], 1);
                    }
                }
                hash(schedule, &mut children);
                for r in 0..2 {
                    let turn = test(alphas[r], bit);
                    let ours = [children[4 * r], children[4 * r + 1], children[4 * r + 2], children[4 * r + 3]];
                    let (word, next) = step(nodes[r], ours, turn);
                    nodes[r] = next;
                    put(keys, len, r, level as usize, word);
                }
            }
            let mut leaves = nodes;
            for leaf in leaves.as_flattened_mut() {
                *leaf = opened(*leaf, 2);
            }
            let mut flat = [leaves[0][0], leaves[0][1], leaves[1][0], leaves[1][1]];
            hash(schedule, &mut flat);
            let low = splat((1 << bits.min(LEAF_BITS)) - 1);
            for r in 0..2 {
                let at = one_at(and(alphas[r], low));
                put(keys, len, r, levels as usize, xor(xor(flat[2 * r], flat[2 * r + 1]), at));
            }
        }

        /// A one at position `low` (0 to 127) of each lane.
        #[inline]
        #[target_feature(enable = $features)]
        fn one_at(low: Blocks) -> Blocks {
            // Shifts of 64 or more, and the negative shifts of the high half, give zero.
            shift_left_each(splat(1), add(low, halves(-64, 0)))
        }

        /// The dealer's step of [`crate::dpf::step`] on a register of keys: the correction word and the next nodes, `turn` selecting
        /// the lanes that go right; `children` are left and right of party 0, then of party 1.
        #[inline]
        #[target_feature(enable = $features)]
        pub(crate) fn step(nodes: [Blocks; 2], children: [Blocks; 4], turn: Mask) -> (Blocks, [Blocks; 2]) {
            let [left0, right0, left1, right1] = children;
            let (left, right) = (xor(left0, left1), xor(right0, right1));
            let lose = and(select(turn, right, left), seed_bits());
            // The flips ⊕ direction ⊕ 1 of the left and ⊕ direction of the right control bit, at bits 0 and 1.
            let flips = select(turn, in_low_half(1), in_low_half(2));
            let left_control = and(left, in_low_half(1));
            let right_control = and(shift_left::<1>(right), in_low_half(2));
            let controls = xor(or(left_control, right_control), flips);
            let word = or(lose, controls);
            let correction = select(turn, word, right_correction(word));
            let next0 = corrected(select(turn, left0, right0), control(nodes[0]), correction);
            let next1 = corrected(select(turn, left1, right1), control(nodes[1]), correction);
            (word, [next0, next1])
        }
    };
}

each_width!(walks);
