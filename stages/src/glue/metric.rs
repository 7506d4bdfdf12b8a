//! The metrics of GLUE, each with its definition.
//!
//! A metric that is undefined for the data at hand (no positive prediction and no positive label, a constant column) is
//! `None`, never a number that looks like a result.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A metric a task reports beside accuracy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Metric {
    /// The fraction of equal labels.
    Accuracy,
    /// F1 of the positive class, `2TP/(2TP + FP + FN)`.
    F1,
    /// Matthews' correlation coefficient.
    Mcc,
    /// Pearson's correlation of scores.
    Pearson,
    /// Spearman's rank correlation of scores, ties at their mean rank.
    Spearman,
}

/// Values by metric; `null` where the data leave it undefined.
pub(crate) type Scores = BTreeMap<Metric, Option<f64>>;

impl Metric {
    /// The metric's key in the metrics table.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::F1 => "f1",
            Self::Mcc => "mcc",
            Self::Pearson => "pearson",
            Self::Spearman => "spearman",
        }
    }

    /// Whether it compares scores rather than classes.
    pub(crate) const fn is_regression(self) -> bool {
        matches!(self, Self::Pearson | Self::Spearman)
    }

    /// Its value for predicted against true classes. `positive` is the class F1 is about.
    ///
    /// # Panics
    /// Never; a metric of scores is `None` here.
    pub(crate) fn of_classes(self, predicted: &[u32], truth: &[u32], positive: u32) -> Option<f64> {
        assert_eq!(predicted.len(), truth.len(), "one prediction an example");
        match self {
            Self::Accuracy => accuracy(predicted, truth),
            Self::F1 => f1(predicted, truth, positive),
            Self::Mcc => mcc(predicted, truth),
            Self::Pearson | Self::Spearman => None,
        }
    }

    /// Its value for predicted against true scores; a metric of classes is `None` here.
    pub(crate) fn of_scores(self, predicted: &[f64], truth: &[f64]) -> Option<f64> {
        assert_eq!(predicted.len(), truth.len(), "one prediction an example");
        match self {
            Self::Pearson => pearson(predicted, truth),
            Self::Spearman => pearson(&ranks(predicted), &ranks(truth)),
            Self::Accuracy | Self::F1 | Self::Mcc => None,
        }
    }
}

fn accuracy(predicted: &[u32], truth: &[u32]) -> Option<f64> {
    let equal = predicted.iter().zip(truth).filter(|(p, t)| p == t).count();
    (!truth.is_empty()).then(|| equal as f64 / truth.len() as f64)
}

/// `2TP/(2TP + FP + FN)`; undefined where the class neither occurs nor is predicted.
fn f1(predicted: &[u32], truth: &[u32], positive: u32) -> Option<f64> {
    let count = |p: bool, t: bool| {
        let pairs = predicted.iter().zip(truth);
        pairs.filter(|(a, b)| (**a == positive) == p && (**b == positive) == t).count() as f64
    };
    let (tp, wrong) = (count(true, true), count(true, false) + count(false, true));
    (tp + wrong > 0.0).then(|| 2.0 * tp / (2.0 * tp + wrong))
}

/// Matthews' correlation coefficient in its form for any number of classes (Gorodkin 2004, R_K), which for two is
/// `(TP·TN − FP·FN)/√((TP+FP)(TP+FN)(TN+FP)(TN+FN))`. As in GLUE's own scorer it is 0 where one side is constant.
fn mcc(predicted: &[u32], truth: &[u32]) -> Option<f64> {
    if truth.is_empty() {
        return None;
    }
    let (mut rows, mut columns) = (BTreeMap::<u32, f64>::new(), BTreeMap::<u32, f64>::new());
    for (p, t) in predicted.iter().zip(truth) {
        *rows.entry(*t).or_default() += 1.0;
        *columns.entry(*p).or_default() += 1.0;
    }
    let n = truth.len() as f64;
    let correct = predicted.iter().zip(truth).filter(|(p, t)| p == t).count() as f64;
    let cross: f64 = rows.iter().map(|(class, t)| t * columns.get(class).unwrap_or(&0.0)).sum();
    let spread = |counts: &BTreeMap<u32, f64>| n * n - counts.values().map(|c| c * c).sum::<f64>();
    let denominator = (spread(&rows) * spread(&columns)).sqrt();
    Some(if denominator == 0.0 { 0.0 } else { (correct * n - cross) / denominator })
}

/// Pearson's correlation; undefined where either side is constant or shorter than two.
fn pearson(x: &[f64], y: &[f64]) -> Option<f64> {
    let n = x.len() as f64;
    let (mx, my) = (x.iter().sum::<f64>() / n, y.iter().sum::<f64>() / n);
    let sum = |f: &dyn Fn(f64, f64) -> f64| x.iter().zip(y).map(|(a, b)| f(a - mx, b - my)).sum::<f64>();
    let denominator = (sum(&|a, _| a * a) * sum(&|_, b| b * b)).sqrt();
    (x.len() >= 2 && denominator > 0.0).then(|| sum(&|a, b| a * b) / denominator)
}

/// Ranks from 1, ties at their mean.
fn ranks(x: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..x.len()).collect();
    order.sort_by(|a, b| x[*a].total_cmp(&x[*b]));
    let mut ranks = vec![0.0; x.len()];
    let mut start = 0;
    while start < order.len() {
        let tied = order[start..].iter().take_while(|i| x[**i] == x[order[start]]).count().max(1);
        let mean = start as f64 + f64::midpoint(tied as f64, 1.0);
        for i in &order[start..start + tied] {
            ranks[*i] = mean;
        }
        start += tied;
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: Option<f64>, want: f64) {
        let value = value.expect("defined");
        assert!((value - want).abs() < 1e-12, "{value} is not {want}");
    }

    // TP 6, FN 2, FP 1, TN 3: the worked example of the Wikipedia article "Phi coefficient" (MCC 0.478).
    const TRUTH: [u32; 12] = [1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0];
    const PREDICTED: [u32; 12] = [1, 1, 1, 1, 1, 1, 0, 0, 1, 0, 0, 0];

    #[test]
    fn a_confusion_matrix_by_hand_gives_the_known_values() {
        near(Metric::Accuracy.of_classes(&PREDICTED, &TRUTH, 1), 9.0 / 12.0);
        near(Metric::F1.of_classes(&PREDICTED, &TRUTH, 1), 12.0 / 15.0);
        near(Metric::F1.of_classes(&PREDICTED, &TRUTH, 0), 6.0 / 9.0);
        near(Metric::Mcc.of_classes(&PREDICTED, &TRUTH, 1), (6.0 * 3.0 - 1.0 * 2.0) / (7.0_f64 * 8.0 * 4.0 * 5.0).sqrt());
    }

    #[test]
    fn matthews_for_three_classes_is_gorodkins() {
        // scikit-learn's documented example: matthews_corrcoef([+1,+1,+1,-1], [+1,-1,+1,+1]) = -0.33…
        near(Metric::Mcc.of_classes(&[1, 0, 1, 1], &[1, 1, 1, 0], 1), -1.0 / 3.0);
        // Three classes by hand: c = 3, n = 5, Σ t·p = 1·2 + 2·1 + 2·2 = 8, spreads 25 − 9 and 25 − 9.
        near(Metric::Mcc.of_classes(&[0, 0, 1, 2, 2], &[0, 1, 1, 2, 2], 1), (4.0 * 5.0 - (2.0 + 2.0 + 4.0)) / 16.0);
        near(Metric::Mcc.of_classes(&[1, 1], &[0, 1], 1), 0.0);
    }

    #[test]
    fn what_the_data_do_not_define_is_not_a_number() {
        assert_eq!(Metric::F1.of_classes(&[0, 0], &[0, 0], 1), None);
        assert_eq!(Metric::Accuracy.of_classes(&[], &[], 1), None);
        assert_eq!(Metric::Pearson.of_scores(&[1.0, 1.0], &[0.0, 1.0]), None);
        assert_eq!(Metric::Pearson.of_scores(&[1.0], &[1.0]), None);
        assert_eq!(Metric::Accuracy.of_scores(&[1.0], &[1.0]), None);
    }

    #[test]
    fn correlations_match_values_worked_by_hand() {
        // Anscombe's first quartet: r = 0.81642051634484 (Anscombe 1973).
        let x = [10.0, 8.0, 13.0, 9.0, 11.0, 14.0, 6.0, 4.0, 12.0, 7.0, 5.0];
        let y = [8.04, 6.95, 7.58, 8.81, 8.33, 9.96, 7.24, 4.26, 10.84, 4.82, 5.68];
        let r = Metric::Pearson.of_scores(&x, &y).expect("defined");
        assert!((r - 0.816_420_516_344_84).abs() < 1e-12, "{r}");
        // IQ against hours of television, the worked example of the Wikipedia article on Spearman's ρ: −29/165.
        let iq = [106.0, 100.0, 86.0, 101.0, 99.0, 103.0, 97.0, 113.0, 112.0, 110.0];
        let tv = [7.0, 27.0, 2.0, 50.0, 28.0, 29.0, 20.0, 12.0, 6.0, 17.0];
        near(Metric::Spearman.of_scores(&iq, &tv), -29.0 / 165.0);
    }

    #[test]
    fn ties_share_their_mean_rank() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0, 3.0]), [4.0, 1.0, 4.0, 2.0, 4.0]);
        near(Metric::Spearman.of_scores(&[1.0, 2.0, 2.0, 3.0], &[1.0, 2.0, 2.0, 3.0]), 1.0);
        // scipy.stats.spearmanr([1, 2, 2, 3], [1, 3, 2, 4]): ranks 1, 2.5, 2.5, 4 against 1, 3, 2, 4: 4.5/√(4.5·5).
        near(Metric::Spearman.of_scores(&[1.0, 2.0, 2.0, 3.0], &[1.0, 3.0, 2.0, 4.0]), 4.5 / (4.5_f64 * 5.0).sqrt());
    }

    #[test]
    fn a_monotone_map_keeps_spearman_and_not_pearson() {
        let x: Vec<f64> = (1..20).map(f64::from).collect();
        let y: Vec<f64> = x.iter().map(|v| v.powi(5)).collect();
        near(Metric::Spearman.of_scores(&x, &y), 1.0);
        assert!(Metric::Pearson.of_scores(&x, &y).expect("defined") < 0.9);
    }
}
