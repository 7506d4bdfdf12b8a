//! Smooth functions of a few positive values over a wide range: windows of a factor 16, in each a table of quadratic pieces.
//!
//! A window `[2^{k-4}, 2^k)` sees `t = v/2^k` on `[0, 2)`. Ten bits of `t` index the coefficients of the Taylor polynomial around the nearest
//! `i/512`; since the index is right to within one, `|t - i/512| ≤ 1/512`, at least 32 times less than `t`. For `1/t` the relative error is below
//! 32^-3 = 3.1e-5, for `1/√t` below 1e-5; on three servers the index is right to within one and a half, and both are 3.4 times as large. Rounds: index, polynomial, choice of the window.

use super::{Lowering, Val};
use crate::program::{NodeId, Op, View};

/// Bits of a table's index.
const INDEX: u32 = 10;
/// Fractional bits of `t` and the ring it is opened in; significant bits of the coefficients.
const T: (u32, u32) = (16, 20);
const COEFFICIENT: u32 = 22;

impl Lowering {
    /// `g(v)` for `v` in `[2^lo, 2^hi)`, with `out` fractional bits in a ring of 10 more.
    pub(crate) fn smooth(&mut self, v: Val, g: impl Fn(f64) -> f64, (lo, hi): (i32, i32), out: u32) -> Val {
        let tops: Vec<i32> = (0..).map(|j| hi - 4 * j).take_while(|k| *k > lo).collect();
        let windows: Vec<Val> = tops.iter().map(|k| self.window(v, &g, *k)).collect();
        let windows: Vec<Val> = windows.into_iter().map(|w| self.rescale(w, out)).collect();
        if let [only] = windows.as_slice() {
            return *only;
        }
        let inside = self.window_bits(v, &tops);
        let rows = self.len(v);
        let mut total: Option<Val> = None;
        for (j, window) in windows.into_iter().enumerate() {
            let open = self.open(window, window.ring.min(out + 10), true, false);
            let part = self.product(&[(inside, View::at(j * rows)), (open, View::ALL)], rows, out);
            total = Some(match total {
                Some(sum) => self.sum(sum, part),
                None => part,
            });
        }
        total.expect("at least one window")
    }

    /// Opened bits: which window, the largest first; the ends are open.
    fn window_bits(&mut self, v: Val, tops: &[i32]) -> NodeId {
        const BITS: u32 = 24;
        let unit = tops[0] + 2 - BITS as i32;
        let coarse = self.rescale_to_unit(v, unit);
        let open = self.open(coarse, BITS, false, true);
        let scaled = |k: i32| f64::from(k - unit).exp2();
        let list: Vec<(Option<f64>, Option<f64>)> = tops
            .iter()
            .enumerate()
            .map(|(j, k)| ((j + 1 < tops.len()).then(|| scaled(k - 4)), (j > 0).then(|| scaled(*k))))
            .collect();
        let bits = self.intervals(open, 0, 0, &list);
        self.open_bits(bits)
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

    /// `g` in one window, right for `v` in it.
    fn window(&mut self, v: Val, g: &impl Fn(f64) -> f64, top: i32) -> Val {
        let rows = self.len(v);
        let t = self.rescale_to_unit(v, top - T.0 as i32);
        let index = self.rescale_to_unit(v, top - (INDEX as i32 - 1));
        let t = self.open(t, T.1, true, false);
        let index = self.open(index, INDEX, false, true);
        // The function's size in this window is 2^e to 2^{e+4}: its coefficients get as many significant bits in every window.
        let e = g(f64::from(top).exp2()).abs().log2().round() as i32;
        let coefficient = (COEFFICIENT as i32 - e) as u32;
        let tables = tables(|t| g(t * f64::from(top).exp2()), coefficient).map(|table| self.b.table(table));
        let found = self.b.push(Op::LookUp { src: index, tables: tables.to_vec() }, 3 * rows);
        let part = |this: &mut Self, j: usize| {
            let view = crate::program::Strided::new(j * rows, &[(rows, 1)]);
            Val { node: this.b.push(Op::Gather { src: found, view }, rows), ring: 64, f: coefficient }
        };
        let [constant, linear, quadratic] = [0, 1, 2].map(|j| part(self, j));
        let square = self.product(&[(t, View::ALL), (t, View::ALL)], rows, 2 * T.0);
        let [linear, quadratic, square] = [linear, quadratic, square].map(|v| self.open(v, 64, false, true));
        let f = coefficient + 2 * T.0;
        let first = self.product(&[(linear, View::ALL), (t, View::ALL)], rows, coefficient + T.0);
        let second = self.product(&[(quadratic, View::ALL), (square, View::ALL)], rows, f);
        let [constant, first] = [constant, first].map(|v| self.rescale(v, f));
        let sum = self.sum(constant, first);
        self.sum(sum, second)
    }
}

/// Coefficients of `g(t) ≈ a + b·t + c·t²` around each `i/512`; below the window's quarter they repeat those of its edge.
fn tables(g: impl Fn(f64) -> f64, bits: u32) -> [Vec<u64>; 3] {
    let mut tables = [Vec::new(), Vec::new(), Vec::new()];
    for i in 0..1usize << INDEX {
        let centre = (i as f64 / 512.0).max(1.0 / 64.0);
        let h = centre * 1e-3;
        let (low, mid, high) = (g(centre - h), g(centre), g(centre + h));
        let (first, second) = ((high - low) / (2.0 * h), (high - 2.0 * mid + low) / (h * h));
        let half = second / 2.0;
        let coefficients = [mid - first * centre + half * centre * centre, first - second * centre, half];
        for (table, c) in tables.iter_mut().zip(coefficients) {
            table.push(crate::weights::encode(c, bits));
        }
    }
    tables
}
