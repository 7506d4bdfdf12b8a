//! Operations on share words that need no interaction, the same for both parties but for public constants.

use sprint_kernel::{gemm_public, words as kernel};

use crate::program::{NodeId, Op};
use crate::weights::{PublicWeights, encode};

/// Who computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    /// Holds a share and adds public constants.
    First,
    /// Holds a share.
    Second,
    /// Holds the value itself.
    Clear,
}

impl Who {
    fn constants(self) -> bool {
        self != Self::Second
    }
}

/// The operand whose words an elementwise operation may overwrite, and the other one.
pub(crate) fn overwritten(op: &Op) -> Option<(NodeId, Option<NodeId>)> {
    match op {
        Op::Add(a, b) | Op::Sub(a, b) => Some((*a, Some(*b))),
        Op::Scale(src, _) | Op::Shift(src, _) => Some((*src, None)),
        Op::Truncate { src, .. }
        | Op::ShiftGroups { src, .. }
        | Op::MulColumns { src, .. }
        | Op::AddColumns { src, .. }
        | Op::CentreColumns { src, .. }
        | Op::Centre { src, .. } => Some((*src, None)),
        _ => None,
    }
}

/// Applies an operation that [`overwritten`] names to its operand's words.
pub(crate) fn overwrite(weights: &PublicWeights, who: Who, op: &Op, words: &mut [u64], other: &[u64]) {
    match op {
        Op::Add(..) => kernel::add(words, other),
        Op::Sub(..) => kernel::subtract(words, other),
        Op::Scale(_, by) => words.iter_mut().for_each(|x| *x = x.wrapping_mul(*by as u64)),
        Op::Shift(_, by) if who.constants() => words.iter_mut().for_each(|x| *x = x.wrapping_add(*by as u64)),
        Op::ShiftGroups { group, by, .. } if who.constants() => {
            let shifts = by.iter().cycle();
            words.chunks_mut(*group).zip(shifts).for_each(|(g, by)| g.iter_mut().for_each(|x| *x = x.wrapping_add(*by as u64)));
        }
        Op::Truncate { ring, by, .. } => truncate(who, words, *ring, *by),
        Op::Centre { width, shift, .. } => centre(words, *width, *shift),
        Op::MulColumns { vector, bits, .. } => {
            let vector: Vec<u64> = weights.vectors[*vector as usize].iter().map(|v| encode(*v, *bits)).collect();
            words.chunks_exact_mut(vector.len()).for_each(|row| kernel::multiply(row, &vector));
        }
        Op::AddColumns { vector, bits, .. } if who.constants() => {
            let vector: Vec<u64> = weights.vectors[*vector as usize].iter().map(|v| encode(*v, *bits)).collect();
            add_to_rows(words, &vector);
        }
        Op::CentreColumns { vector, bits, .. } => centre_columns(words, &weights.vectors[*vector as usize], *bits),
        _ => {}
    }
}

/// Appends the result of any other local operation, right mod `2^bits`; `false` if it is none. `words` gives the words of an operand.
pub(crate) fn evaluate<'a>(
    weights: &PublicWeights,
    who: Who,
    (op, bits): (&Op, u32),
    words: &dyn Fn(NodeId) -> &'a [u64],
    out: &mut Vec<u64>,
) -> bool {
    match op {
        Op::Gather { src, view } => view.gather(words(*src), out),
        Op::Concat(list) => list.iter().for_each(|id| out.extend_from_slice(words(*id))),
        Op::SumGroups { src, group } => out.extend(words(*src).chunks_exact(*group).map(sum)),
        Op::PublicLinear { src, linear, rows } => {
            let (packed, bias) = &weights.linears[*linear as usize];
            out.resize(rows * packed.outputs(), 0);
            gemm_public(words(*src), *rows, packed, bits, out);
            if who.constants() && !bias.is_empty() {
                add_to_rows(out, bias);
            }
        }
        _ => return false,
    }
    true
}

/// T2. The shares' floors add up to `floor(x/2^by)` or one less in Z_2^{ring-by}, never further off; party 0 adds one, so the expectation is
/// `x/2^by` up to `2^-by`. In the clear it rounds to nearest.
fn truncate(who: Who, words: &mut [u64], ring: u32, by: u32) {
    match who {
        Who::First => kernel::truncate(words, ring, by, 1),
        Who::Second => kernel::truncate(words, ring, by, 0),
        Who::Clear => {
            let half = if by == 0 { 0 } else { 1i64 << (by - 1) };
            words.iter_mut().for_each(|x| *x = (sign_extend(*x, ring).wrapping_add(half) >> by) as u64);
        }
    }
}

/// The signed integer that the low `bits` bits stand for.
pub(crate) fn sign_extend(x: u64, bits: u32) -> i64 {
    let unused = 64 - bits;
    ((x << unused) as i64) >> unused
}

fn sum(words: &[u64]) -> u64 {
    words.iter().fold(0, |s, x| s.wrapping_add(*x))
}

fn add_to_rows(words: &mut [u64], vector: &[u64]) {
    words.chunks_exact_mut(vector.len()).for_each(|row| kernel::add(row, vector));
}

fn centre(words: &mut [u64], width: usize, shift: u32) {
    let share = (f64::from(shift).exp2() / width as f64).round() as u64;
    for row in words.chunks_exact_mut(width) {
        let mean = sum(row).wrapping_mul(share);
        row.iter_mut().for_each(|x| *x = (*x << shift).wrapping_sub(mean));
    }
}

fn centre_columns(words: &mut [u64], gamma: &[f64], bits: u32) {
    let gains: Vec<u64> = gamma.iter().map(|g| encode(*g, bits)).collect();
    let shares: Vec<u64> = gamma.iter().map(|g| encode(*g / gamma.len() as f64, bits)).collect();
    for row in words.chunks_exact_mut(gamma.len()) {
        let mean = row.iter().zip(&shares).fold(0u64, |s, (x, g)| s.wrapping_add(x.wrapping_mul(*g)));
        row.iter_mut().zip(&gains).for_each(|(x, g)| *x = x.wrapping_mul(*g).wrapping_sub(mean));
    }
}
