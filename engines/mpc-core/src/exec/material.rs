//! How many bytes of one-time material each node takes, and in which blocks.

use sprint_kernel::{dpf, packed_len};

use super::monomial::Expansion;
use super::private::dealt_bytes;
use crate::program::{Node, Op, Program};
use crate::{MachineError, MaterialSource};

/// Elements worked on at a time: a multiple of 64, so that packed words of a block end on a byte, and few enough that a series' twenty arrays
/// stay in a second-level cache.
pub(crate) const BLOCK: usize = 1 << 12;

/// The blocks of `len` elements, as start and length.
pub(crate) fn blocks(len: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..len).step_by(BLOCK).map(move |from| (from, BLOCK.min(len - from)))
}

/// Bytes of one element block of a node for each party.
pub(crate) fn block_bytes(program: &Program, node: &Node, len: usize) -> [usize; 2] {
    match &node.op {
        Op::Product { forms, bits } => product_bytes(&Expansion::of(program, forms), *bits, len),
        Op::Open { bits, lifted: true, share, .. } if share > bits => [0, 2 * packed_len(share - bits, len)],
        Op::OpenBits { bits, .. } => [0, packed_len(*bits, len)],
        Op::Intervals { src, drop, .. } if unit_vectors(program.open_bits(*src) - drop) => {
            [0, 8 * unit_words(program.open_bits(*src) - drop) * len]
        }
        Op::Intervals { src, drop, .. } => [len * dpf::key_len(program.open_bits(*src) - drop); 2],
        Op::Series { fit, bits, .. } => {
            let fit = &program.fits[*fit as usize];
            [0, fit.secrets() * packed_len(*bits, len)]
        }
        Op::Polynomial { coefficients, .. } => [0, coefficients.len().saturating_sub(2) * 8 * len],
        Op::Piecewise { pieces, .. } => [len * program.pieces[*pieces as usize].cells().key_len(); 2],
        Op::MatMul { bits, .. } => [0, packed_len(*bits, len)],
        op => [0, dealt_bytes(op, len)],
    }
}

/// Whether a comparison on so many bits is dealt as an XOR-shared unit vector, 2^bits bits to party 1 alone, in place of a key to both: the
/// parity of its bits below a point is the comparison with it.
pub(crate) fn unit_vectors(domain: u32) -> bool {
    domain <= 9
}

/// Words of a unit vector.
pub(crate) fn unit_words(domain: u32) -> usize {
    1 << domain.saturating_sub(6)
}

/// Bytes of a block of a product whose expansion is known.
pub(super) fn product_bytes(expansion: &Expansion, bits: u32, len: usize) -> [usize; 2] {
    [0, expansion.monomials.len() * packed_len(bits, len)]
}

/// Elements over which a node's material is laid out.
pub(crate) fn elements(program: &Program, node: &Node) -> usize {
    match &node.op {
        Op::Intervals { src, .. } => program.node(*src).len,
        _ => node.len,
    }
}

/// Bytes of a whole node for each party.
pub(crate) fn node_bytes(program: &Program, node: &Node) -> [usize; 2] {
    let len = elements(program, node);
    if matches!(node.op, Op::MatMul { .. }) {
        return block_bytes(program, node, len);
    }
    let whole = block_bytes(program, node, BLOCK);
    let rest = if len.is_multiple_of(BLOCK) { [0, 0] } else { block_bytes(program, node, len % BLOCK) };
    [0, 1].map(|p| len / BLOCK * whole[p] + rest[p])
}

/// Takes exactly `bytes` bytes from a source that is not trusted to keep to lengths.
pub(super) fn take(material: &mut dyn MaterialSource, bytes: usize) -> Result<Vec<u8>, MachineError> {
    if bytes == 0 {
        return Ok(Vec::new());
    }
    let taken = material.take(bytes)?;
    if taken.len() != bytes {
        return Err(MachineError::Material(format!("{} bytes came where {bytes} were asked for", taken.len())));
    }
    Ok(taken)
}
