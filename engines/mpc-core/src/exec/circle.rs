//! Cosines and sines at the points of a circle of `2^bits` points, and of their multiples.
//!
//! All arithmetic is IEEE double precision without contraction, so both parties, on whatever machines, compute the same public coefficients.

use sprint_kernel::words::{Pairs, rotate as turn};

use super::randomness::low;
use super::wiped::Wiped;
use crate::program::Fourier;

/// A circle as two short tables: `e^{i(a+b)} = e^{ia}·e^{ib}` with `a` the high and `b` the low half of the position.
pub(crate) struct Circle {
    multiplier: u64,
    mask: u64,
    low_bits: u32,
    coarse: Vec<(f64, f64)>,
    fine: Vec<(f64, f64)>,
}

impl Circle {
    /// The circle on which a series turns.
    pub(crate) fn of(fit: &Fourier) -> Self {
        Self { multiplier: fit.multiplier, ..Self::new(fit.period_bits) }
    }

    pub(crate) fn new(bits: u32) -> Self {
        let low_bits = bits / 2;
        let unit = std::f64::consts::TAU / f64::from(bits).exp2();
        let point = |i: u64| (libm::cos(i as f64 * unit), libm::sin(i as f64 * unit));
        Self {
            multiplier: 1,
            mask: low(bits),
            low_bits,
            coarse: (0..1u64 << (bits - low_bits)).map(|i| point(i << low_bits)).collect(),
            fine: (0..1u64 << low_bits).map(point).collect(),
        }
    }

    /// Cosine and sine at a position times the multiplier, taken mod `2^bits`.
    pub(super) fn at(&self, position: u64) -> (f64, f64) {
        let position = position.wrapping_mul(self.multiplier) & self.mask;
        rotate(self.coarse[(position >> self.low_bits) as usize], self.fine[(position & low(self.low_bits)) as usize])
    }
}

fn rotate((c, s): (f64, f64), (cos, sin): (f64, f64)) -> (f64, f64) {
    (c * cos - s * sin, s * cos + c * sin)
}

/// The multiples `j·θ`, j from 1, of many angles at once, which may be those of a mask. Errors grow as `j·2^-53`.
#[derive(Default)]
pub(crate) struct Harmonics {
    base: [Wiped<f64>; 2],
    /// `cos jθ` and `sin jθ` of each angle.
    now: [Wiped<f64>; 2],
}

impl Harmonics {
    /// Begins again at frequency 1 with other angles.
    pub(crate) fn restart(&mut self, circle: &Circle, positions: &[u64]) {
        let Self { base: [cos, sin], now } = self;
        for list in [&mut *cos, &mut *sin] {
            list.clear();
            list.reserve_exact(positions.len());
        }
        for position in positions {
            let (c, s) = circle.at(*position);
            cos.push(c);
            sin.push(s);
        }
        for (now, base) in now.iter_mut().zip([cos, sin]) {
            now.clear();
            now.reserve_exact(base.len());
            now.extend_from_slice(base);
        }
    }

    /// `cos jθ` and `sin jθ` of each angle.
    pub(crate) fn now(&self) -> Pairs<'_> {
        Pairs { cos: &self.now[0], sin: &self.now[1] }
    }

    /// To the next frequency.
    pub(crate) fn advance(&mut self) {
        let Self { base, now: [cos, sin] } = self;
        turn(cos, sin, Pairs { cos: &base[0], sin: &base[1] });
    }
}

/// The constant term of a series as a ring word.
pub(crate) fn constant_term(fit: &Fourier, bits: u32) -> u64 {
    crate::weights::encode(fit.cos.first().copied().unwrap_or(0.0), bits)
}

impl Fourier {
    /// Cosine and sine coefficient of a frequency.
    pub(crate) fn pair(&self, frequency: usize) -> (f64, f64) {
        (self.cos.get(frequency).copied().unwrap_or(0.0), self.sin.get(frequency).copied().unwrap_or(0.0))
    }

    /// The highest frequency.
    pub(crate) fn frequencies(&self) -> usize {
        self.cos.len().max(self.sin.len()).saturating_sub(1)
    }

    /// Secret arrays of a series: cosine and sine of each frequency from 1.
    pub(crate) fn secrets(&self) -> usize {
        2 * self.frequencies()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harmonics_are_the_cosines_of_multiples() {
        let fit = Fourier { period_bits: 17, multiplier: 3, cos: vec![], sin: vec![] };
        let circle = Circle::of(&fit);
        let positions: Vec<u64> = (0..1000).map(|i| i * 7919).collect();
        let mut harmonics = Harmonics::default();
        harmonics.restart(&circle, &positions);
        for j in 1..=14u64 {
            let Pairs { cos, sin } = harmonics.now();
            for (p, now) in positions.iter().zip(cos.iter().copied().zip(sin.iter().copied())) {
                let angle = std::f64::consts::TAU * ((3 * p * j) % (1 << 17)) as f64 / f64::from(1 << 17);
                assert!((now.0 - angle.cos()).abs() < 1e-13 && (now.1 - angle.sin()).abs() < 1e-13);
            }
            harmonics.advance();
        }
    }
}
