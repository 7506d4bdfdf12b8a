//! Bits in planes, 64 elements a word, and the carries of a sum of a word that one server knows and a word that both others know.
//!
//! For a block of `w` bits, `g(i) = 1[i + z ≥ 2^w]` and `p(i) = 1[i + z = 2^w - 1]` are words of `2^w` bits that whoever knows `z` makes; whoever
//! knows `y` reads bit `y` of a share of them by a shift. Carries combine as `g = g_1 ⊕ p_1·g_0`, `p = p_1·p_0`.

use super::plan::Compare;
use crate::exec::randomness::low;
use crate::exec::wiped::Wiped;

/// XOR-shared or replicated bits of planes of `plane` words.
pub(super) fn set(planes: &mut [u64], plane: usize, at: usize, element: usize, bit: u64) {
    planes[at * plane + element / 64] |= bit << (element % 64);
}

/// Planes as words 0 or 1, `elements` of each plane.
pub(super) fn expand(planes: &[u64], elements: usize) -> Wiped<u64> {
    let plane = elements.div_ceil(64).max(1);
    let bits = planes.chunks_exact(plane).flat_map(|p| (0..elements).map(|e| p[e / 64] >> (e % 64) & 1));
    let mut out = Wiped::from(Vec::with_capacity(planes.len() / plane * elements));
    out.extend(bits);
    out
}

impl Compare {
    /// The part of a word that is compared: without its lowest bits.
    fn coarse(&self, word: u64) -> u64 {
        (word & low(self.bits)) >> self.drop
    }

    /// The word of those who know `a`, for a bound: with `drop`, sums of floors are one less than floors of sums or right, so one is added.
    fn known(&self, a: u64, bound: i64) -> u64 {
        self.coarse(a).wrapping_sub(bound as u64).wrapping_add(u64::from(self.drop > 0)) & low(self.width())
    }

    /// The owner's tables over a stretch of words: generated carries of each block and, but for the lowest, propagated ones.
    pub(super) fn make_tables(&self, b: &[u64]) -> Vec<Wiped<u64>> {
        let mut shift = 0;
        let mut tables = Vec::new();
        for (at, w) in self.blocks.iter().enumerate() {
            let from = shift;
            let block = move |b: &u64| self.coarse(*b) >> from & low(*w);
            // From index 2^w - z on; two shifts, because for z = 0 that is beyond the table.
            let generated = |z: u64| low(1 << w) & ((u64::MAX >> 1 << 1) << ((1 << w) - 1 - z));
            tables.push(b.iter().map(|b| generated(block(b))).collect());
            if at > 0 {
                tables.push(b.iter().map(|b| 1u64 << ((1 << w) - 1 - block(b))).collect());
            }
            shift += w;
        }
        tables
    }

    /// Reads a stretch's tables at the words of those who know `a`, into planes from element `from`.
    pub(super) fn look_up(&self, a: &[u64], tables: &[Wiped<u64>], from: usize, planes: &mut [u64]) {
        let (plane, count) = (self.plane(), Compare::planes(self.blocks.len()));
        for (t, bound) in self.bounds.iter().enumerate() {
            let mut shift = 0;
            for (at, w) in self.blocks.iter().enumerate() {
                let first = if at == 0 { 0 } else { 2 * at - 1 };
                for (table, words) in tables.iter().enumerate().take(2 * at + 1).skip(first) {
                    for (i, (a, word)) in a.iter().zip(words.iter()).enumerate() {
                        let y = self.known(*a, *bound) >> shift & low(*w);
                        set(planes, plane, t * count + table, from + i, word >> y & 1);
                    }
                }
                shift += w;
            }
        }
    }

    /// Carries of pairs of neighbouring blocks, of `blocks` now, from replicated ones.
    pub(super) fn combine(&self, pair: [&[u64]; 2], blocks: usize) -> Vec<u64> {
        let (plane, count) = (self.plane(), Compare::planes(blocks));
        let mut out = Vec::with_capacity(self.bounds.len() * Compare::planes(blocks.div_ceil(2)) * plane);
        for t in 0..self.bounds.len() {
            let at = |index: usize| {
                let range = (t * count + index) * plane..(t * count + index + 1) * plane;
                (&pair[0][range.clone()], &pair[1][range])
            };
            let generated = |block: usize| at(if block == 0 { 0 } else { 2 * block - 1 });
            let propagated = |block: usize| at(2 * block);
            for lower in (0..blocks).step_by(2) {
                let upper = lower + 1;
                if upper == blocks {
                    out.extend_from_slice(generated(lower).0);
                    if lower > 0 {
                        out.extend_from_slice(propagated(lower).0);
                    }
                    continue;
                }
                let carried = and(propagated(upper), generated(lower));
                out.extend(carried.zip(generated(upper).0).map(|(c, g)| c ^ g));
                if lower > 0 {
                    out.extend(and(propagated(upper), propagated(lower)));
                }
            }
        }
        out
    }

    /// Top bits below the carries: `top(y) ⊕ top(z)` as far as this server adds to them, for each bound; `x ≥ c` is 1 less them and the carry.
    pub(super) fn signs(&self, carries: &[u64], owner: Option<&[u64]>, known: Option<&[u64]>) -> Vec<u64> {
        let plane = self.plane();
        let top = self.width() - 1;
        let mut at_least = Wiped::from(carries.to_vec());
        for (t, bound) in self.bounds.iter().enumerate() {
            let plane = &mut at_least[t * plane..(t + 1) * plane];
            for (i, b) in owner.unwrap_or_default().iter().enumerate() {
                plane[i / 64] ^= (self.coarse(*b) >> top & 1) << (i % 64);
            }
            for (i, a) in known.unwrap_or_default().iter().enumerate() {
                plane[i / 64] ^= (self.known(*a, *bound) >> top & 1 ^ 1) << (i % 64);
            }
        }
        let one = if known.is_some() { u64::MAX } else { 0 };
        let bound = |at: Option<usize>, word: usize| at.map_or(0, |t| at_least[t * plane + word]);
        let intervals = self.intervals.iter().flat_map(|(lo, hi)| {
            // From the lower bound on, less from the upper bound on.
            (0..plane).map(move |w| if lo.is_none() { one } else { bound(*lo, w) } ^ bound(*hi, w))
        });
        intervals.collect()
    }
}

fn and<'a>(a: (&'a [u64], &'a [u64]), b: (&'a [u64], &'a [u64])) -> impl Iterator<Item = u64> + 'a {
    let (a, b) = (a.0.iter().zip(a.1), b.0.iter().zip(b.1));
    a.zip(b).map(|((a, a_next), (b, b_next))| (a & b) ^ (a & b_next) ^ (a_next & b))
}
