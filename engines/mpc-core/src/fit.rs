//! Fourier extensions: smooth functions on a part of a period, fitted at compile time.

/// Coefficients of `Σ_j a_j cos(jωx) + b_j sin(jωx)`, j from 0, ω = 2π/period.
pub(crate) struct Fit {
    pub(crate) cos: Vec<f64>,
    pub(crate) sin: Vec<f64>,
    /// Largest error on the fitted interval.
    pub(crate) max_error: f64,
}

impl Fit {
    /// Sum of the coefficients' sizes: what the rounding of sines and cosines is multiplied by.
    pub(crate) fn size(&self) -> f64 {
        self.cos.iter().chain(&self.sin).map(|c| c.abs()).sum()
    }
}

/// Which terms a fit uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parity {
    Even,
    Odd,
    Neither,
}

/// Regularised least squares on 4001 equidistant points of `[lo, hi]`.
///
/// The function need not be periodic: the interval is shorter than the period, and the series is free on the rest (a Fourier
/// extension; Huybrechs 2010). The small ridge keeps the coefficients, hence the fixed-point noise, small.
pub(crate) fn fourier(f: impl Fn(f64) -> f64, range: (f64, f64), period: f64, frequencies: usize, parity: Parity) -> Fit {
    least_squares(f, &[range], period, (frequencies, parity), 1e-11)
}

/// The same on several intervals of one period at once, with both kinds of term and a smaller ridge.
pub(crate) fn fourier_on(f: impl Fn(f64) -> f64, ranges: &[(f64, f64)], period: f64, frequencies: usize) -> Fit {
    least_squares(f, ranges, period, (frequencies, Parity::Neither), 1e-13)
}

/// Coefficients of the cubic that a function is interpolated by at the four Chebyshev points of `[-1, 1]`, the constant first.
pub(crate) fn cubic(f: impl Fn(f64) -> f64) -> [f64; 4] {
    // cos π/8 and cos 3π/8.
    const POINTS: [f64; 2] = [0.923_879_532_511_286_7, 0.382_683_432_365_089_8];
    let squares = POINTS.map(|t| t * t);
    // Even and odd part are lines in the square.
    let line = |[a, b]: [f64; 2]| {
        let slope = (a - b) / (squares[0] - squares[1]);
        [b - slope * squares[1], slope]
    };
    let [a, c] = line(POINTS.map(|t| f64::midpoint(f(t), f(-t))));
    let [b, d] = line(POINTS.map(|t| (f(t) - f(-t)) / (2.0 * t)));
    [a, b, c, d]
}

fn least_squares(
    f: impl Fn(f64) -> f64,
    ranges: &[(f64, f64)],
    period: f64,
    (frequencies, parity): (usize, Parity),
    ridge: f64,
) -> Fit {
    const POINTS: usize = 4001;
    let omega = std::f64::consts::TAU / period;
    let cosines = if parity == Parity::Odd { 0 } else { frequencies + 1 };
    let sines = if parity == Parity::Even { 0 } else { frequencies };
    let n = cosines + sines;
    let basis = |x: f64| -> Vec<f64> {
        let cos = (0..cosines).map(|j| libm::cos(j as f64 * omega * x));
        cos.chain((1..=sines).map(|j| libm::sin(j as f64 * omega * x))).collect()
    };
    let each = POINTS / ranges.len();
    let points = ranges.iter().flat_map(|(lo, hi)| (0..each).map(move |i| lo + (hi - lo) * i as f64 / (each - 1) as f64));
    let points: Vec<f64> = points.collect();
    let mut normal = vec![vec![0.0; n]; n];
    let mut right = vec![0.0; n];
    for x in &points {
        let row = basis(*x);
        let y = f(*x);
        for i in 0..n {
            right[i] += row[i] * y;
            for j in 0..=i {
                normal[i][j] += row[i] * row[j];
            }
        }
    }
    (0..n).for_each(|i| normal[i][i] += ridge * points.len() as f64);
    let solution = solve(normal, right);
    let value = |x: f64| basis(x).iter().zip(&solution).map(|(b, c)| b * c).sum::<f64>();
    let max_error = points.iter().map(|x| (value(*x) - f(*x)).abs()).fold(0.0, f64::max);
    let mut sin = vec![0.0; usize::from(sines > 0)];
    sin.extend_from_slice(&solution[cosines..]);
    Fit { cos: solution[..cosines].to_vec(), sin, max_error }
}

/// Cholesky on the lower triangle of a positive definite matrix.
fn solve(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for j in 0..n {
        let d = a[j][j] - (0..j).map(|k| a[j][k] * a[j][k]).sum::<f64>();
        a[j][j] = d.max(f64::MIN_POSITIVE).sqrt();
        for i in j + 1..n {
            let s = (0..j).map(|k| a[i][k] * a[j][k]).sum::<f64>();
            a[i][j] = (a[i][j] - s) / a[j][j];
        }
    }
    for i in 0..n {
        let s = (0..i).map(|k| a[i][k] * b[k]).sum::<f64>();
        b[i] = (b[i] - s) / a[i][i];
    }
    for i in (0..n).rev() {
        let s = (i + 1..n).map(|k| a[k][i] * b[k]).sum::<f64>();
        b[i] = (b[i] - s) / a[i][i];
    }
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_even_part_of_gelu_fits_within_two_in_ten_thousand() {
        let even = |x: f64| 0.5 * x * libm::erf(x * std::f64::consts::FRAC_1_SQRT_2);
        let fit = fourier(even, (0.0, 5.0), 16.0, 9, Parity::Even);
        assert!(fit.max_error < 1e-4, "{}", fit.max_error);
        assert!(fit.cos.iter().map(|c| c.abs()).sum::<f64>() < 8.0);
    }

    #[test]
    fn half_the_exponent_fits_closely() {
        let fit = fourier(|x| (x / 2.0).exp(), (-14.5, 0.5), 32.0, 10, Parity::Neither);
        assert!(fit.max_error < 1e-4, "{}", fit.max_error);
    }
}
