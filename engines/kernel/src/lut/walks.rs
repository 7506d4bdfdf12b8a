//! The look-up on several blocks per register: a key each lane, so every level of the small trees fills the registers.
//!
//! Only the public index `x_hat` moves an address.

use super::{Reversed, key_len, levels};
use crate::dpf::SEED;
use crate::lanes::each_width;

/// Nodes hashed together, two children or four leaves of each key at a time.
const STEP: usize = 4;

macro_rules! walks {
    ($lanes:ident, $features:literal) => {
        use super::{Reversed, SEED, STEP, key_len, levels};
        use crate::dpf::walks::$lanes::step;
        use crate::lanes::$lanes::{
            Blocks, LANES, Schedule, add, add_where, control, corrected, fixed, gather, gather_words, halves, hash, multiply,
            negated_where, opened, right_correction, scatter, scatter_words, select, set, splat, sub, test, zero,
        };

        /// Full-domain evaluation of a key each lane: `nodes[v]` holds leaf `v` of each, as two outputs still without sign.
        #[inline]
        #[target_feature(enable = $features)]
        fn expand(schedule: &Schedule, bits: u32, roots: [u128; LANES], keys: [&[[u8; 16]]; LANES], nodes: &mut [Blocks]) {
            nodes[0] = set(roots);
            for level in 0..levels(bits) {
                let word = gather(keys.map(|key| &key[level as usize]));
                let right = right_correction(word);
                // From the last node down, so that children never overwrite a parent that is still to be read.
                let mut end = 1 << level;
                while end > 0 {
                    let count = STEP.min(end);
                    let start = end - count;
                    let mut parents = [zero(); STEP];
                    parents[..count].copy_from_slice(&nodes[start..end]);
                    let mut children = [zero(); 2 * STEP];
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
                let mut leaves = [zero(); 2 * STEP];
                for (leaf, node) in leaves.iter_mut().zip(group.iter()) {
                    *leaf = opened(*node, 2);
                }
                hash(schedule, &mut leaves);
                for (node, leaf) in group.iter_mut().zip(leaves) {
                    *node = add_where(control(*node), leaf, word);
                }
            }
        }

        /// `Σ_v onehot[v] · table[(x − v) mod len]` for each lane, as two partial sums per lane.
        #[inline]
        #[target_feature(enable = $features)]
        fn inner_products(leaves: &[Blocks], windows: [&[u64]; LANES]) -> Blocks {
            let windows = windows.map(|window| &window.as_chunks::<2>().0[..leaves.len()]);
            let mut sum = zero();
            for (v, leaf) in leaves.iter().enumerate() {
                sum = add(sum, multiply(*leaf, gather_words(windows.map(|window| &window[v]))));
            }
            sum
        }

        #[target_feature(enable = $features)]
        pub(crate) fn eval(
            party: u8,
            bits: u32,
            seeds: &[u128],
            keys: &[u8],
            x_hat: &[u64],
            tables: &[Reversed],
            out: &mut [u64],
        ) {
            let schedule = fixed();
            let (keys, _) = keys.as_chunks::<16>();
            let len = key_len(bits) / 16;
            let mut nodes = vec![zero(); 1 << levels(bits)];
            let groups = seeds.chunks(LANES).zip(keys.chunks(LANES * len)).zip(x_hat.chunks(LANES));
            for (((seeds, keys), x_hat), out) in groups.zip(out.chunks_mut(LANES * tables.len())) {
                // Unused lanes of the last group repeat its first key.
                let lanes: [usize; LANES] = core::array::from_fn(|i| if i < seeds.len() { i } else { 0 });
                let roots = lanes.map(|i| seeds[i] & SEED | u128::from(party));
                expand(&schedule, bits, roots, lanes.map(|i| &keys[i * len..][..len]), &mut nodes);
                for (j, table) in tables.iter().enumerate() {
                    let sums = inner_products(&nodes, lanes.map(|i| table.window(x_hat[i])));
                    let sums = if party == 0 { sums } else { sub(zero(), sums) };
                    let mut halves = [[0; 2]; LANES];
                    scatter_words(sums, &mut halves);
                    for (out, [even, odd]) in out.chunks_mut(tables.len()).zip(halves) {
                        out[j] = even.wrapping_add(odd);
                    }
                }
            }
        }

        #[target_feature(enable = $features)]
        pub(crate) fn generate(bits: u32, alphas: &[u64], seeds0: &[u128], seeds1: &[u128], keys: &mut [u8]) {
            let schedule = fixed();
            let (keys, _) = keys.as_chunks_mut::<16>();
            let len = key_len(bits) / 16;
            let chunks = alphas.chunks(LANES).zip(seeds0.chunks(LANES)).zip(seeds1.chunks(LANES));
            for (((alphas, seeds0), seeds1), keys) in chunks.zip(keys.chunks_mut(LANES * len)) {
                let n = alphas.len();
                let mut points = [0u128; LANES];
                let mut roots = [[0u128; LANES]; 2];
                for i in 0..n {
                    points[i] = u128::from(alphas[i]) | u128::from(alphas[i]) << 64;
                    roots[0][i] = seeds0[i] & SEED;
                    roots[1][i] = seeds1[i] & SEED | 1;
                }
                if n == LANES {
                    generate_keys(&schedule, bits, points, roots, keys);
                } else {
                    let mut padded = vec![[0; 16]; LANES * len];
                    generate_keys(&schedule, bits, points, roots, &mut padded);
                    keys.copy_from_slice(&padded[..n * len]);
                }
            }
        }

        #[inline]
        #[target_feature(enable = $features)]
        fn generate_keys(
            schedule: &Schedule,
            bits: u32,
            points: [u128; LANES],
            roots: [[u128; LANES]; 2],
            keys: &mut [[u8; 16]],
        ) {
            let len = key_len(bits) / 16;
            let alphas = set(points);
            let mut nodes = [set(roots[0]), set(roots[1])];
            let mut put = |index: usize, word: Blocks| {
                let mut lanes = keys.chunks_exact_mut(len);
                scatter(word, core::array::from_fn(|_| &mut lanes.next().expect("`LANES` keys of `len` words")[index]));
            };
            for level in 0..levels(bits) {
                let mut children = [opened(nodes[0], 0), opened(nodes[0], 1), opened(nodes[1], 0), opened(nodes[1], 1)];
                hash(schedule, &mut children);
                let turn = test(alphas, splat(1 << (bits - 1 - level)));
                let (word, next) = step(nodes, children, turn);
                put(level as usize, word);
                nodes = next;
            }
            let mut leaves = [opened(nodes[0], 2), opened(nodes[1], 2)];
            hash(schedule, &mut leaves);
            // The payload 1 stands in the low output of even and the high output of odd points; odd lanes mask both halves.
            let payload = select(test(alphas, splat(1)), halves(0, 1), halves(1, 0));
            let word = add(sub(payload, leaves[0]), leaves[1]);
            put(levels(bits) as usize, negated_where(control(nodes[1]), word));
        }
    };
}

each_width!(walks);
