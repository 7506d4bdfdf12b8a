//! `predictions@1`: logits of some validation examples beside their labels, made by one engine.
//!
//! One file, `predictions.json`. The artifact is secret: what a private model says about private mail.

use serde::{Deserialize, Serialize};
use sprint_artifacts::{ArtifactId, Manifest, Secrecy, Store};
use sprint_model::{Example, Label};
use sprint_stage_api::StageError;

use crate::dataset::DatasetMeta;
use crate::errors::{Put, store_error};
use crate::glue::{Metric, Scores};

/// The version of `predictions.json`.
const VERSION: u32 = 1;

/// Logits and labels, row by row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Predictions {
    version: u32,
    /// The task's name.
    pub(crate) task: String,
    /// Which engine made them: `f32` or `mpc`.
    pub(crate) engine: String,
    /// The classes in the order of their numbers; empty for a score.
    pub(crate) classes: Vec<String>,
    /// The class that F1 is about.
    pub(crate) positive: u32,
    /// What is reported.
    pub(crate) metrics: Vec<Metric>,
    /// Indices into the validation split, ascending.
    pub(crate) rows: Vec<usize>,
    /// The true class, or score, of each row.
    pub(crate) labels: Vec<f64>,
    /// Logits of each row: one a class, one for a score.
    pub(crate) logits: Vec<Vec<f32>>,
}

impl Predictions {
    /// Predictions for `rows` of the validation split `examples`.
    pub(crate) fn new(
        meta: &DatasetMeta,
        engine: &str,
        examples: &[Example],
        rows: Vec<usize>,
        logits: Vec<Vec<f32>>,
    ) -> Result<Self, StageError> {
        let label = |row: &usize| match examples.get(*row).and_then(|e| e.label) {
            Some(Label::Class(class)) => Ok(f64::from(class)),
            Some(Label::Score(score)) => Ok(f64::from(score)),
            None => Err(StageError::permanent(format!("validation row {row} has no label"))),
        };
        let labels = rows.iter().map(label).collect::<Result<_, _>>()?;
        let DatasetMeta { task, classes, positive, metrics, .. } = meta.clone();
        let made = Self { version: VERSION, task, engine: engine.to_owned(), classes, positive, metrics, rows, labels, logits };
        made.check()?;
        Ok(made)
    }

    fn check(&self) -> Result<(), StageError> {
        let wrong = |what: &str| Err(StageError::permanent(format!("predictions of {}: {what}", self.engine)));
        if self.version != VERSION {
            return wrong(&format!("version {} in place of {VERSION}", self.version));
        }
        if self.rows.len() != self.logits.len() || self.rows.len() != self.labels.len() || self.rows.is_empty() {
            return wrong("not one row of logits and one label a row");
        }
        if self.rows.windows(2).any(|pair| pair[0] >= pair[1]) {
            return wrong("rows are not ascending");
        }
        let outputs = self.classes.len().max(1);
        if self.logits.iter().any(|row| row.len() != outputs || row.iter().any(|x| !x.is_finite())) {
            return wrong("a logit is missing or not finite");
        }
        let is_class = |label: &f64| label.fract() == 0.0 && (0.0..self.classes.len() as f64).contains(label);
        if !self.classes.is_empty() && !self.labels.iter().all(is_class) {
            return wrong("a label is not a class");
        }
        Ok(())
    }

    /// Whether the task predicts a number.
    pub(crate) fn is_regression(&self) -> bool {
        self.classes.is_empty()
    }

    /// The predicted class of each row: the first largest logit.
    pub(crate) fn predicted(&self) -> Vec<u32> {
        let argmax = |row: &Vec<f32>| {
            let better = |best: usize, i: usize| if row[i] > row[best] { i } else { best };
            (1..row.len()).fold(0, better) as u32
        };
        self.logits.iter().map(argmax).collect()
    }

    /// The task's metrics, accuracy always among them where there are classes.
    pub(crate) fn scores(&self) -> Scores {
        let mut metrics = self.metrics.clone();
        if !self.is_regression() {
            metrics.push(Metric::Accuracy);
        }
        let (predicted, truth) = (self.predicted(), self.labels.iter().map(|l| *l as u32).collect::<Vec<_>>());
        let first: Vec<f64> = self.logits.iter().map(|row| f64::from(row[0])).collect();
        let value = |metric: Metric| {
            if self.is_regression() {
                metric.of_scores(&first, &self.labels)
            } else {
                metric.of_classes(&predicted, &truth, self.positive)
            }
        };
        metrics.into_iter().map(|metric| (metric, value(metric))).collect()
    }

    /// Stores them.
    pub(crate) fn store(&self, to: &impl Put) -> Result<ArtifactId, StageError> {
        let json = serde_json::to_vec(self).map_err(|e| StageError::permanent(e.to_string()))?;
        let builder = Manifest::builder("predictions@1", Secrecy::Secret).bytes("predictions.json", json);
        to.put(builder)
    }

    /// Reads stored ones.
    pub(crate) fn load(store: &Store, id: &ArtifactId) -> Result<Self, StageError> {
        let manifest = store.read_artifact(id).map_err(store_error)?;
        let json = store.read_file(&manifest, "predictions.json").map_err(store_error)?;
        let made: Self = serde_json::from_slice(&json).map_err(|e| StageError::permanent(format!("predictions.json: {e}")))?;
        made.check()?;
        Ok(made)
    }
}

#[cfg(test)]
pub(crate) fn example(engine: &str, rows: &[usize], labels: &[f64], logits: &[[f32; 2]]) -> Predictions {
    Predictions {
        version: VERSION,
        task: "mail".to_owned(),
        engine: engine.to_owned(),
        classes: vec!["ham".to_owned(), "spam".to_owned()],
        positive: 1,
        metrics: vec![Metric::Accuracy, Metric::F1],
        rows: rows.to_vec(),
        labels: labels.to_vec(),
        logits: logits.iter().map(|l| l.to_vec()).collect(),
    }
}
