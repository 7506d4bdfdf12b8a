//! Smooth functions of a few positive values over a wide range, in one round: cubic pieces on cells of a sixteenth to a thirty-second of the value
//! ([`sprint_kernel::piecewise`]).
//!
//! A piece is the cubic through four Chebyshev points of what may be taken for its cell, `±1/16` of the value at most: for `1/v` and `1/√v` it is within 2e-6 of the value. The value is
//! opened with at least 16 significant bits.

use super::{Lowering, Val};
use crate::fit::cubic;
use crate::program::{Op, Pieces};

/// Depth of the first octave: an octave has 16 cells.
const FIRST: u32 = 5;
/// Bits of a value within the smallest cell.
const INSIDE: u32 = 12;

impl Lowering {
    /// `g(v)` for `v` in `[2^lo, 2^hi)`, with `f` fractional bits in Z_2^ring; `|g| < 2^{ring-f-2}` there. An octave beyond either end has pieces too, but for a 32nd at the top;
    /// smaller values have the end of the last.
    pub(crate) fn smooth(&mut self, v: Val, g: impl Fn(f64) -> f64, (lo, hi): (i32, i32), (f, ring): (u32, u32)) -> Val {
        let octaves = (hi - lo) as u32 + 2;
        let top = hi + 1;
        let bits = FIRST + octaves - 1 + INSIDE;
        let x = self.rescale_to_unit(v, top - bits as i32);
        let open = self.open(x, bits, false, true);
        let fine = 64 - (ring - f);
        let scaled = |x: f64| g(x) * f64::from(fine).exp2();
        let pieces = Pieces { bits, first: FIRST, octaves, degree: 3, table: table(scaled, octaves, top) };
        let op = Op::Piecewise { src: open, pieces: self.b.pieces(pieces) };
        let len = self.len(v);
        let value = Val { node: self.b.push(op, len), ring: 64, f: fine };
        self.rescale(value, f)
    }

    /// `v` as an integer number of `2^unit`.
    pub(super) fn rescale_to_unit(&mut self, v: Val, unit: i32) -> Val {
        let f = -unit;
        let by = v.f as i32 - f;
        if by >= 0 {
            let len = self.len(v);
            let node = self.b.push(Op::Truncate { src: v.node, ring: v.ring, by: by as u32 }, len);
            return Val { node, ring: v.ring - by as u32, f: 0 };
        }
        Val { f: 0, ..self.rescale(v, f as u32) }
    }
}

/// The pieces of `g`, of whose octaves the first ends at `2^top`; a constant below the last.
fn table(g: impl Fn(f64) -> f64, octaves: u32, top: i32) -> Vec<f64> {
    let width = 1u32 << (FIRST - 1);
    let size = |octave: u32| f64::from(top - (FIRST + octave) as i32).exp2();
    let octave = |at: u32| {
        let (g, size) = (&g, size(at));
        (width..2 * width).flat_map(move |k| cubic(|t| g((f64::from(k) + t) * size)))
    };
    let end = g(f64::from(width) * size(octaves - 1));
    (0..octaves).flat_map(octave).chain((0..width).flat_map(|_| [end, 0.0, 0.0, 0.0])).collect()
}
