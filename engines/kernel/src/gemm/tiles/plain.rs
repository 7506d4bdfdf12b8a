//! Tiles multiplied in portable code, for tests.

use super::{DEPTH, LINES, Place, SIDE, Sums, Tile};

/// One place's sums in portable code.
pub(super) fn sums(place: &Place<'_>, sums: &mut Sums) {
    let Place { a, b, steps, top, pairs } = *place;
    sums.0 = [[0; SIDE]; SIDE];
    for (pair, l) in (0..pairs).flat_map(|pair| (0..steps * DEPTH).map(move |l| (pair, l))) {
        let byte = |of: &[Tile], byte: usize, at: usize| of[byte * steps + l / DEPTH].0[at];
        let column = |c: usize| byte(b[c / LINES], pair, (l % DEPTH / 4 * LINES + c % LINES) * 4 + l % 4) as i8;
        let columns: [i32; SIDE] = std::array::from_fn(|c| column(c).into());
        for (r, row) in sums.0.iter_mut().enumerate() {
            let x = i32::from(byte(a[r / LINES], top - pair, r % LINES * DEPTH + l % DEPTH));
            if x != 0 {
                row.iter_mut().zip(&columns).for_each(|(sum, w)| *sum += x * w);
            }
        }
    }
}
