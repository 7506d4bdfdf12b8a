//! How many bytes of one-time material each node takes, and in which blocks.

use sprint_kernel::{dpf, lut, packed_len};

use super::monomial::Expansion;
use crate::PartyId;
use crate::program::{Node, Op, Program};

/// Elements worked on at a time: a multiple of 64, so that packed words of a block end on a byte.
pub(crate) const BLOCK: usize = 1 << 14;

/// The blocks of `len` elements, as start and length.
pub(crate) fn blocks(len: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..len).step_by(BLOCK).map(move |from| (from, BLOCK.min(len - from)))
}

/// Bytes of one element block of a node for each party.
pub(crate) fn block_bytes(program: &Program, node: &Node, len: usize) -> [usize; 2] {
    match &node.op {
        Op::Open { bits, lifted: true, .. } => [0, 2 * packed_len(64 - bits, len)],
        Op::OpenBits { .. } => [0, 8 * len],
        Op::Product { forms, bits } => [0, Expansion::of(program, forms).monomials.len() * packed_len(*bits, len)],
        Op::Intervals { src, drop, .. } => [len * dpf::key_len(program.open_bits(*src) - drop); 2],
        Op::Series { fit, bits, .. } => {
            let fit = &program.fits[*fit as usize];
            [0, fit.secrets() * packed_len(*bits, len)]
        }
        Op::Polynomial { coefficients, .. } => [0, coefficients.len().saturating_sub(2) * 8 * len],
        Op::LookUp { src, .. } => [len * lut::key_len(program.open_bits(*src)); 2],
        _ => [0, 0],
    }
}

/// Elements over which a node's material is laid out.
pub(crate) fn elements(program: &Program, node: &Node) -> usize {
    match &node.op {
        Op::Intervals { src, .. } | Op::LookUp { src, .. } => program.node(*src).len,
        _ => node.len,
    }
}

/// Bytes of a whole node for each party.
pub(crate) fn node_bytes(program: &Program, node: &Node) -> [usize; 2] {
    if let Op::MatMul { bits, .. } = node.op {
        return [0, packed_len(bits, node.len)];
    }
    blocks(elements(program, node)).fold([0, 0], |sum, (_, len)| {
        let [a, b] = block_bytes(program, node, len);
        [sum[0] + a, sum[1] + b]
    })
}

/// Bytes of a node for one party.
pub(crate) fn party_bytes(program: &Program, node: &Node, len: usize, party: PartyId) -> usize {
    block_bytes(program, node, len)[party.index()]
}

impl crate::program::Fourier {
    /// Secret arrays of a series: cosine and sine of each frequency from 1.
    pub(crate) fn secrets(&self) -> usize {
        2 * self.frequencies()
    }

    pub(crate) fn frequencies(&self) -> usize {
        self.cos.len().max(self.sin.len()).saturating_sub(1)
    }
}
