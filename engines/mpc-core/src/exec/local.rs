//! Operations on share words that need no interaction, the same for both parties but for public constants.

use sprint_kernel::gemm_public;

use super::randomness::low;
use crate::program::{NodeId, Op, Program};
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

/// Evaluates a local operation on arrays of words. `words` gives the words of an operand.
pub(crate) fn evaluate<'a>(
    program: &Program,
    weights: &PublicWeights,
    who: Who,
    op: &Op,
    words: &dyn Fn(NodeId) -> &'a [u64],
) -> Option<Vec<u64>> {
    Some(match op {
        Op::Add(a, b) => zip(words(*a), words(*b), u64::wrapping_add),
        Op::Sub(a, b) => zip(words(*a), words(*b), u64::wrapping_sub),
        Op::Scale(src, by) => words(*src).iter().map(|x| x.wrapping_mul(*by as u64)).collect(),
        Op::Shift(src, by) => {
            let by = if who.constants() { *by as u64 } else { 0 };
            words(*src).iter().map(|x| x.wrapping_add(by)).collect()
        }
        Op::Truncate { src, ring, by } => words(*src).iter().map(|x| truncate(who, *x, *ring, *by)).collect(),
        Op::Gather { src, view } => {
            let mut out = Vec::new();
            view.gather(words(*src), &mut out);
            out
        }
        Op::Concat(list) => list.iter().flat_map(|id| words(*id)).copied().collect(),
        Op::SumGroups { src, group } => words(*src).chunks_exact(*group).map(sum).collect(),
        Op::Centre { src, width, shift } => centre(words(*src), *width, *shift),
        Op::MulColumns { src, vector, bits } => {
            let vector: Vec<u64> = weights.vectors[*vector as usize].iter().map(|v| encode(*v, *bits)).collect();
            columns(words(*src), &vector, u64::wrapping_mul)
        }
        Op::AddColumns { src, vector, bits } => {
            let encode = |v: &f64| if who.constants() { encode(*v, *bits) } else { 0 };
            let vector: Vec<u64> = weights.vectors[*vector as usize].iter().map(encode).collect();
            columns(words(*src), &vector, u64::wrapping_add)
        }
        Op::PublicLinear { src, linear, rows } => {
            let (packed, bias) = &weights.linears[*linear as usize];
            let mut out = vec![0u64; rows * packed.outputs()];
            gemm_public(words(*src), *rows, packed, &mut out);
            if who.constants() && !bias.is_empty() {
                for row in out.chunks_exact_mut(bias.len()) {
                    row.iter_mut().zip(bias).for_each(|(x, b)| *x = x.wrapping_add(*b));
                }
            }
            out
        }
        _ => {
            let _ = program;
            return None;
        }
    })
}

/// T2. The shares' floors add up to `floor(x/2^by)` or one less in Z_2^{ring-by}, never further off; party 0 adds one, so the expectation is
/// `x/2^by`. In the clear it rounds to nearest.
fn truncate(who: Who, x: u64, ring: u32, by: u32) -> u64 {
    match who {
        Who::First => ((x & low(ring)) >> by).wrapping_add(1),
        Who::Second => (x & low(ring)) >> by,
        Who::Clear => {
            let signed = sign_extend(x, ring);
            let half = if by == 0 { 0 } else { 1i64 << (by - 1) };
            (signed.wrapping_add(half) >> by) as u64
        }
    }
}

/// The signed integer that the low `bits` bits stand for.
pub(crate) fn sign_extend(x: u64, bits: u32) -> i64 {
    let unused = 64 - bits;
    ((x << unused) as i64) >> unused
}

fn zip(a: &[u64], b: &[u64], f: impl Fn(u64, u64) -> u64) -> Vec<u64> {
    a.iter().zip(b).map(|(x, y)| f(*x, *y)).collect()
}

fn sum(words: &[u64]) -> u64 {
    words.iter().fold(0, |s, x| s.wrapping_add(*x))
}

fn columns(words: &[u64], vector: &[u64], f: impl Fn(u64, u64) -> u64) -> Vec<u64> {
    words.chunks_exact(vector.len()).flat_map(|row| row.iter().zip(vector)).map(|(x, v)| f(*x, *v)).collect()
}

fn centre(words: &[u64], width: usize, shift: u32) -> Vec<u64> {
    let share = (f64::from(shift).exp2() / width as f64).round() as u64;
    let mut out = Vec::with_capacity(words.len());
    for row in words.chunks_exact(width) {
        let mean = sum(row).wrapping_mul(share);
        out.extend(row.iter().map(|x| (x << shift).wrapping_sub(mean)));
    }
    out
}
