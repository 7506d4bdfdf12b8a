//! Where each role's pseudo-random words come from.

use sprint_kernel::Prg;

use super::wiped::Wiped;
use crate::PartyId;
use crate::program::NodeId;

/// What a stream of words is for. Each node has one stream per purpose, so no word is used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The mask of an opening.
    Mask = 0,
    /// Share of a mask's carry.
    Carry = 1,
    /// Share of a mask's top bit.
    Top = 2,
    /// Root seeds of function-secret-sharing keys.
    Root = 3,
    /// Shares of products, series values and powers; `Product + i` for the i-th array.
    Product = 4,
}

/// A party's pseudo-random words for one inference: word `i` of a (node, purpose) stream is at a fixed place of one AES-CTR stream keyed for
/// this inference, so the dealer can make the same words in any order.
pub(crate) struct Streams(Prg);

/// Streams of one node that a [`Purpose::Product`] offset may address.
const STREAMS: u128 = 1 << 8;
/// Blocks of one stream.
const BLOCKS: u128 = 1 << 36;

impl Streams {
    /// Keyed by a seed that is used for one inference only, the program, and the party.
    pub(crate) fn new(seed: &[u8; 32], program: &[u8; 32], party: PartyId) -> Self {
        Self::of("sprint-flow mpc party stream v1", seed, program, party.index() as u8)
    }

    /// For the masks of private weights, by layer in place of node: keyed by a seed that serves one model's private weights.
    pub(crate) fn of_weights(seed: &[u8; 32], recipes: &[u8; 32], party: PartyId) -> Self {
        Self::of("sprint-flow mpc weight masks v1", seed, recipes, party.index() as u8)
    }

    /// What two of three servers share: keyed by a seed of these two for one inference only, the program, and the number of the pair.
    pub(crate) fn of_pair(seed: &[u8; 32], program: &[u8; 32], pair: u8) -> Self {
        Self::of("sprint-flow mpc pair stream v1", seed, program, pair)
    }

    fn of(context: &str, seed: &[u8; 32], program: &[u8; 32], whose: u8) -> Self {
        let mut material = zeroize::Zeroizing::new([0u8; 65]);
        material[..32].copy_from_slice(seed);
        material[32..64].copy_from_slice(program);
        material[64] = whose;
        let key = zeroize::Zeroizing::new(blake3::derive_key(context, &*material));
        let mut aes = [0u8; 16];
        aes.copy_from_slice(&key[..16]);
        Self(Prg::new(aes))
    }

    /// `len` words of a stream from word `from`, which is even.
    pub(crate) fn words(&self, node: NodeId, purpose: Purpose, array: usize, from: usize, len: usize) -> Wiped<u64> {
        let mut out = Wiped::from(Vec::with_capacity(len));
        self.fill(node, purpose, array, from, len, &mut out);
        out
    }

    /// The same, appended.
    pub(crate) fn fill(&self, node: NodeId, purpose: Purpose, array: usize, from: usize, len: usize, out: &mut Vec<u64>) {
        debug_assert!(len == 0 || from.is_multiple_of(2), "a block holds two words");
        self.0.extend_u64(place(node, purpose, array) + (from / 2) as u128, len, out);
    }

    /// `len` 128-bit root seeds from number `from`.
    pub(crate) fn roots(&self, node: NodeId, from: usize, len: usize) -> Wiped<u128> {
        let mut words = Wiped::zeros(2 * len);
        self.0.fill_u64(place(node, Purpose::Root, 0) + from as u128, &mut words);
        words.chunks_exact(2).map(|w| u128::from(w[0]) | u128::from(w[1]) << 64).collect()
    }

    /// Random bits, one a word.
    pub(crate) fn bits(&self, node: NodeId, len: usize) -> Wiped<u64> {
        let words = self.words(node, Purpose::Mask, 0, 0, len.div_ceil(64));
        let mut out = Wiped::from(Vec::with_capacity(len));
        for (i, word) in words.iter().enumerate() {
            out.extend((0..(len - 64 * i).min(64)).map(|b| word >> b & 1));
        }
        out
    }
}

fn place(node: NodeId, purpose: Purpose, array: usize) -> u128 {
    let stream = purpose as u128 + array as u128;
    assert!(stream < STREAMS, "a node has at most {STREAMS} streams");
    (node.index() as u128 * STREAMS + stream) * BLOCKS
}

/// The low `bits` bits.
pub(crate) fn low(bits: u32) -> u64 {
    if bits >= 64 { u64::MAX } else { (1 << bits) - 1 }
}
