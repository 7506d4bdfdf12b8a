//! The fast sampler against its own weights, the moments, and the exact sampler of Canonne, Kamath and Steinke (2020, algorithms 1–3).

use super::*;
use crate::randomness::{Purpose, RandomSource};

fn stream(seed: u64) -> Stream {
    RandomSource::reproducible(seed).stream(Purpose::Dropout, 0, 0).unwrap()
}

/// Bernoulli(e^{−a/b}) with integer arithmetic only.
fn bernoulli_exp(stream: &mut Stream, a: u128, b: u128) -> bool {
    for _ in 0..a / b {
        if !bernoulli_exp_fraction(stream, b, b) {
            return false;
        }
    }
    bernoulli_exp_fraction(stream, a % b, b)
}

/// Bernoulli(e^{−a/b}) for a ≤ b.
fn bernoulli_exp_fraction(stream: &mut Stream, a: u128, b: u128) -> bool {
    let mut k = 1_u128;
    loop {
        if uniform(stream, b * k) >= a {
            return k % 2 == 1;
        }
        k += 1;
    }
}

fn uniform(stream: &mut Stream, bound: u128) -> u128 {
    let reach = u128::MAX - u128::MAX % bound;
    loop {
        let word = (u128::from(stream.word()) << 64) | u128::from(stream.word());
        if word < reach {
            return word % bound;
        }
    }
}

/// N_ℤ(0, s²) for integer s by rejection from the discrete Laplace of scale s + 1.
fn exact(stream: &mut Stream, s: u128) -> i64 {
    let t = s + 1;
    loop {
        let u = uniform(stream, t);
        if !bernoulli_exp(stream, u, t) {
            continue;
        }
        let mut v = 0;
        while bernoulli_exp(stream, 1, 1) {
            v += 1;
        }
        let (x, negative) = (u + t * v, uniform(stream, 2) == 1);
        if negative && x == 0 {
            continue;
        }
        let gap = (x * t).abs_diff(s * s);
        if bernoulli_exp(stream, gap * gap, 2 * s * s * t * t) {
            return if negative { -(x as i64) } else { x as i64 };
        }
    }
}

/// Counts in `cells` equal cells over ±4s, the outermost open.
fn histogram(cells: usize, s: f64, draws: impl Iterator<Item = i64>) -> Vec<f64> {
    let mut counts = vec![0.0; cells];
    for y in draws {
        let at = ((y as f64 / s + 4.0) / 8.0 * cells as f64).floor().clamp(0.0, cells as f64 - 1.0);
        counts[at as usize] += 1.0;
    }
    counts
}

#[test]
fn fast_and_exact_samplers_draw_from_the_same_distribution() {
    for s in [64_u32, 100, 1000] {
        let (mut a, mut b) = (stream(1), stream(2));
        let fast = DiscreteGaussian::new(f64::from(s)).unwrap();
        let n = 60_000;
        let left = histogram(40, f64::from(s), (0..n).map(|_| fast.sample(&mut a)));
        let right = histogram(40, f64::from(s), (0..n).map(|_| exact(&mut b, u128::from(s))));
        let chi: f64 = left.iter().zip(&right).map(|(x, y)| (x - y).powi(2) / (x + y).max(1.0)).sum();
        // 39 degrees of freedom: 1e-6 quantile 101.
        assert!(chi < 101.0, "s = {s}: chi-squared {chi}");
    }
}

#[test]
fn single_values_have_the_discrete_gaussian_probabilities() {
    let s = 64.3;
    let fast = DiscreteGaussian::new(s).unwrap();
    let mut source = stream(3);
    let n = 2_000_000;
    let mut counts = vec![0.0; 401];
    for _ in 0..n {
        let y = fast.sample(&mut source);
        if y.abs() <= 200 {
            counts[(y + 200) as usize] += 1.0;
        }
    }
    let norm: f64 = (-1000..=1000).map(|y| (-f64::from(y * y) / (2.0 * s * s)).exp()).sum();
    let mut chi = 0.0;
    for (i, count) in counts.iter().enumerate() {
        let y = i as f64 - 200.0;
        let want = f64::from(n) * (-y * y / (2.0 * s * s)).exp() / norm;
        chi += (count - want).powi(2) / want;
    }
    // 400 degrees of freedom: mean 400, deviation 28.3.
    assert!((chi - 400.0).abs() < 6.0 * 28.3, "chi-squared {chi}");
}

#[test]
fn moments_match_at_the_deviations_training_uses() {
    for s in [0.3 * 2f64.powi(26), 0.7468 * 2f64.powi(26), 1e3 * 2f64.powi(24), 77.7] {
        let fast = DiscreteGaussian::new(s).unwrap();
        let mut source = stream(4);
        let n = 1_000_000_u32;
        let (mut m1, mut m2, mut m4) = (0.0, 0.0, 0.0);
        for _ in 0..n {
            let x = fast.sample(&mut source) as f64 / s;
            m1 += x;
            m2 += x * x;
            m4 += x.powi(4);
        }
        let n = f64::from(n);
        assert!((m1 / n).abs() < 5.0 / n.sqrt(), "mean {}", m1 / n);
        assert!((m2 / n - 1.0).abs() < 5.0 * (2.0 / n).sqrt(), "variance {}", m2 / n);
        assert!((m4 / n - 3.0).abs() < 5.0 * (96.0 / n).sqrt(), "fourth moment {}", m4 / n);
    }
}

#[test]
fn row_table_and_acceptance_carry_the_stated_precision() {
    for s in [64.0, 1000.5, 0.7468 * 2f64.powi(26)] {
        let table = DiscreteGaussian::new(s).unwrap();
        let w = 2f64.powi(table.width_bits as i32);
        assert!(s / w >= 64.0 && s / w < 128.0);
        let rate = table.rate as f64 / 2f64.powi(140);
        assert!((rate / (w * w / (2.0 * s * s)) - 1.0).abs() < 1e-14);
        let total: f64 = (0..table.cumulative.len()).map(|i| (-rate * (i * i) as f64).exp()).sum();
        let mut last = 0.0;
        for (i, c) in table.cumulative.iter().enumerate() {
            let here = *c as f64 / 2f64.powi(128);
            assert!((here - last - (-rate * (i * i) as f64).exp() / total).abs() < 1e-15);
            last = here;
        }
        for (row, j) in [(0, 0_u64), (3, 1), (90, (w as u64) - 1), (400, w as u64 / 2)] {
            let t = rate * ((2 * row) as f64 * w * j as f64 + (j as f64).powi(2)) / (w * w);
            let got = table.acceptance(row, j) as f64 / 2f64.powi(126);
            assert!((got / (-t).exp() - 1.0).abs() < 1e-13);
        }
    }
    assert!(DiscreteGaussian::new(63.0).is_err() && DiscreteGaussian::new(f64::NAN).is_err());
}
