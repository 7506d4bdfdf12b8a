//! The distributions behind the audit: binomial tails, Clopper–Pearson bounds, Kolmogorov–Smirnov and χ² scores.

use crate::special::ndtr;

/// I_x(a, b), the regularised incomplete beta function for a, b > 0 and x in [0, 1] (Lentz's continued fraction; relative error
/// about 1e-12).
pub fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 {
        return 0.0;
    }
    if x >= 1.0 {
        return 1.0;
    }
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    let log_front = libm::lgamma(a + b) - libm::lgamma(a) - libm::lgamma(b) + a * x.ln() + b * (-x).ln_1p() - a.ln();
    let tiny = 1e-300;
    let guard = |v: f64| if v.abs() < tiny { tiny } else { v };
    let mut c = 1.0;
    let mut d = 1.0 / guard(1.0 - (a + b) * x / (a + 1.0));
    let mut value = d;
    for m in 1..500 {
        let m = f64::from(m);
        for numerator in [
            m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0)),
        ] {
            d = 1.0 / guard(1.0 + numerator * d);
            c = guard(1.0 + numerator / c);
            value *= c * d;
        }
        if (c * d - 1.0).abs() < 1e-14 {
            break;
        }
    }
    (log_front.exp() * value).clamp(0.0, 1.0)
}

/// P[Binomial(n, p) ≥ k].
pub fn binomial_tail(n: u64, p: f64, k: u64) -> f64 {
    if k == 0 {
        1.0
    } else if k > n {
        0.0
    } else {
        incomplete_beta(k as f64, (n - k) as f64 + 1.0, p)
    }
}

/// The one-sided Clopper–Pearson bounds (lower, upper) on p after k successes in n trials, each wrong with probability at most `alpha`.
pub fn clopper_pearson(n: u64, k: u64, alpha: f64) -> (f64, f64) {
    let solve = |accept: &dyn Fn(f64) -> bool| {
        let (mut low, mut high) = (0.0, 1.0);
        for _ in 0..60 {
            let middle = 0.5 * (low + high);
            if accept(middle) { low = middle } else { high = middle }
        }
        (low, high)
    };
    let lower = if k == 0 { 0.0 } else { solve(&|p| binomial_tail(n, p, k) <= alpha).0 };
    let upper = if k >= n { 1.0 } else { solve(&|p| 1.0 - binomial_tail(n, p, k + 1) >= alpha).1 };
    (lower, upper)
}

/// √n times the Kolmogorov–Smirnov distance of the values from the standard normal; above 2.7 has probability 1e-6.
pub fn kolmogorov_smirnov(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len() as f64;
    let distance = values
        .iter()
        .enumerate()
        .map(|(i, v)| {
            let cdf = ndtr(*v);
            (cdf - i as f64 / n).abs().max(((i + 1) as f64 / n - cdf).abs())
        })
        .fold(0.0, f64::max);
    distance * n.sqrt()
}

/// How many standard deviations a χ² statistic lies from its mean (Wilson–Hilferty's normal approximation).
pub fn chi_squared_score(statistic: f64, degrees: f64) -> f64 {
    let share = 2.0 / (9.0 * degrees);
    ((statistic / degrees).cbrt() - (1.0 - share)) / share.sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binomial_tails_match_direct_sums() {
        for (n, p) in [(10_u64, 0.3), (50, 0.73), (200, 0.5)] {
            let pmf: Vec<f64> = (0..=n)
                .map(|k| {
                    let (n, k) = (n as f64, k as f64);
                    let choose = libm::lgamma(n + 1.0) - libm::lgamma(k + 1.0) - libm::lgamma(n - k + 1.0);
                    (choose + k * f64::ln(p) + (n - k) * f64::ln(1.0 - p)).exp()
                })
                .collect();
            for k in 0..=n {
                let direct: f64 = pmf[k as usize..].iter().sum();
                assert!((binomial_tail(n, p, k) - direct).abs() < 1e-11, "{n} {p} {k}");
            }
        }
    }

    #[test]
    fn clopper_pearson_matches_published_limits_and_closed_forms() {
        // 4 of 20 at 95 % two-sided: (0.0573, 0.4366); zero of n: 1 − alpha^{1/n}.
        let (low, high) = clopper_pearson(20, 4, 0.025);
        assert!((low - 0.057_334).abs() < 1e-5 && (high - 0.436_614).abs() < 1e-5, "{low} {high}");
        let (low, high) = clopper_pearson(100, 0, 0.05);
        assert!(low == 0.0 && (high - (1.0 - 0.05_f64.powf(0.01))).abs() < 1e-12);
        assert_eq!(clopper_pearson(100, 100, 0.05).1, 1.0);
    }

    #[test]
    fn scores_are_small_for_what_they_test_and_large_otherwise() {
        let quantiles: Vec<f64> = (0..1000)
            .map(|i| {
                let target = (f64::from(i) + 0.5) / 1000.0;
                let (mut low, mut high) = (-10.0, 10.0);
                for _ in 0..60 {
                    let middle = 0.5 * (low + high);
                    if ndtr(middle) < target { low = middle } else { high = middle }
                }
                low
            })
            .collect();
        assert!(kolmogorov_smirnov(quantiles.clone()) < 0.05);
        assert!(kolmogorov_smirnov(quantiles.iter().map(|v| v * 0.5).collect()) > 2.7);
        assert!(chi_squared_score(1000.0, 1000.0).abs() < 0.1);
        // χ²₁₀₀₀ exceeds its mean by five deviations with probability 1.0e-6: a normal score of 4.75.
        assert!((chi_squared_score(1000.0 + 5.0 * 2000_f64.sqrt(), 1000.0) - 4.75).abs() < 0.15);
    }
}
