//! Every value in the ring that its readers need.
//!
//! A share valid in Z_2^n is valid in every smaller ring, and every operation but truncation and lifting is a homomorphism to smaller rings: what
//! is read mod 2^n needs its operands mod 2^n. Truncation by `s` reads mod 2^{n+s} what is to be right mod 2^n. Material is dealt in the ring of
//! its node, so bits that nobody reads are not dealt. Opened widths are the program's own and do not change.

use super::{Node, NodeId, Op};

/// Narrows the rings of all nodes that lead to `output`, which is read mod `2^bits`; how many bits of each node are read.
pub(super) fn narrow(nodes: &mut [Node], output: NodeId, bits: u32) -> Vec<u32> {
    let mut read = vec![0u32; nodes.len()];
    read[output.index()] = bits;
    // An operand stands before its readers.
    for at in (0..nodes.len()).rev().filter(|at| *at <= output.index()) {
        let needed = read[at];
        if needed == 0 {
            continue;
        }
        let op = &mut nodes[at].op;
        match op {
            Op::Truncate { ring, by, .. } => *ring = (*ring).min(needed + *by),
            Op::Product { bits, .. }
            | Op::MatMul { bits, .. }
            | Op::Series { bits, .. }
            | Op::OpenBits { bits, .. }
            | Op::Select { bits, .. }
            | Op::Translate { bits, .. } => {
                *bits = (*bits).min(needed);
            }
            Op::Extend { from, to, .. } => *to = needed.clamp(*from + 1, *to),
            Op::Open { bits, lifted: true, share, .. } => *share = needed.clamp(*bits + 1, 64),
            _ => {}
        }
        reads(op, needed, &mut |id, bits| read[id.index()] = read[id.index()].max(bits));
    }
    read
}

/// The operands of an operation whose result is read mod `2^needed`, with the bits of each that are read.
fn reads(op: &Op, needed: u32, read: &mut dyn FnMut(NodeId, u32)) {
    /// Only the opened words are read, or bits.
    const PUBLIC: u32 = 1;
    match op {
        Op::Input(_) | Op::PrivateWeight(_) | Op::PrivateBias(_) => {}
        Op::Add(a, b) | Op::Sub(a, b) => [a, b].into_iter().for_each(|id| read(*id, needed)),
        Op::Concat(list) => list.iter().for_each(|id| read(*id, needed)),
        Op::Scale(src, _)
        | Op::Shift(src, _)
        | Op::Lift(src)
        | Op::ShiftGroups { src, .. }
        | Op::Gather { src, .. }
        | Op::SumGroups { src, .. }
        | Op::Centre { src, .. }
        | Op::MulColumns { src, .. }
        | Op::CentreColumns { src, .. }
        | Op::AddColumns { src, .. }
        | Op::PublicLinear { src, .. } => read(*src, needed),
        Op::Truncate { src, ring, .. } => read(*src, *ring),
        Op::Open { src, bits, .. } => read(*src, *bits),
        Op::OpenBits { src, .. }
        | Op::Differences { src, .. }
        | Op::Intervals { src, .. }
        | Op::Piecewise { src, .. }
        | Op::Series { src, .. }
        | Op::Digits { src, .. }
        | Op::Boolean { src, .. }
        | Op::Translate { src, .. } => read(*src, PUBLIC),
        Op::Reshare { src, bits } => read(*src, *bits),
        Op::Extend { src, from, .. } => read(*src, *from),
        Op::Select { choices, bits } => choices.iter().for_each(|c| {
            read(c.bits, PUBLIC);
            read(c.value, *bits);
        }),
        Op::Product { forms, bits } => forms.iter().for_each(|f| read(f.open, *bits)),
        Op::MatMul { a, b, bits, .. } => [a, b].into_iter().for_each(|id| read(*id, *bits)),
        Op::Polynomial { src, .. } => read(*src, 64),
        Op::Alarm { src, coins, .. } => [src, coins].into_iter().for_each(|id| read(*id, PUBLIC)),
        Op::LiftCheck { wide, open, ring, .. } => [wide, open].into_iter().for_each(|id| read(*id, *ring)),
    }
}
