//! What a user says about a data set, and what a built-in task says in their place.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sprint_stage_api::ParamProblem;

use super::table::Format;
use crate::glue::{BuiltIn, Columns, Metric};
use crate::params::Params;

/// Parameters of `tokenize@1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TokenizeParams {
    /// A built-in task, which brings columns, classes, metrics and splits with it. Everything below can still be set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) task: Option<BuiltIn>,
    /// What your own task is called in tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) name: Option<String>,
    /// The column with the text, by its name or its number from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<String>,
    /// The column with the second text, for tasks about pairs of sentences.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) pair: Option<String>,
    /// The column with the label.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) label: Option<String>,
    /// The classes, in the order of their numbers: `[ham, spam]`. A label is a class's name, or its number from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) classes: Option<Vec<String>>,
    /// Whether labels are numbers to be predicted rather than classes.
    #[serde(default)]
    pub(super) score: bool,
    /// The class that F1 is about; the last one if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) positive: Option<String>,
    /// What is reported: by default accuracy and, for two classes, F1; for scores Pearson's and Spearman's correlation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) metrics: Option<Vec<Metric>>,
    /// The files' format; by default what their names end in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) format: Option<Format>,
    /// Whether the first line of a TSV or CSV file names its columns.
    #[serde(default = "yes")]
    pub(super) header: bool,
    /// How the names of the training files begin; every file if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) train: Option<String>,
    /// How the names of the validation files begin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) validation: Option<String>,
    /// Where there are no validation files: which rows are held out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) holdout: Option<Holdout>,
    /// The most tokens of an example, special tokens included; longer ones are cut. Shorter is faster, quadratically.
    #[serde(default = "default_max_length")]
    #[schemars(range(min = 4, max = 4096))]
    pub(super) max_length: usize,
    /// Use only the first so many training rows, for a quick try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(super) max_train_rows: Option<usize>,
    /// Use only the first so many validation rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(super) max_validation_rows: Option<usize>,
}

/// Which rows are held out: one of the two.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Holdout {
    /// About this fraction. Each row is held out or not by the hash of its own text, so equal texts stay together, and one
    /// person's row decides about no other: data sets that differ by a row are split into sets that differ by a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("exclusiveMinimum" = 0, "exclusiveMaximum" = 1))]
    pub(super) fraction: Option<f64>,
    /// Exactly the last so many rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub(super) rows: Option<usize>,
}

const fn yes() -> bool {
    true
}

const fn default_max_length() -> usize {
    128
}

/// Parameters with the built-in task's answers filled in.
#[derive(Debug, Clone)]
pub(super) struct Resolved {
    pub(super) task: String,
    pub(super) columns: Columns,
    pub(super) classes: Vec<String>,
    pub(super) positive: u32,
    pub(super) metrics: Vec<Metric>,
    pub(super) train: String,
    pub(super) splitting: Splitting,
}

/// Where validation rows come from.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Splitting {
    /// Files whose names begin so.
    Files(String),
    /// Rows whose text hashes below this fraction of 2⁶⁴.
    Fraction(f64),
    /// The last rows.
    Last(usize),
}

impl TokenizeParams {
    /// Everything a run needs, or every problem.
    pub(super) fn resolve(&self) -> Result<Resolved, Vec<ParamProblem>> {
        let mut problems = Vec::new();
        let columns = self.resolve_columns(&mut problems);
        let classes = self.resolve_classes(&mut problems);
        let metrics = self.resolve_metrics(classes.len(), &mut problems);
        let positive = self.resolve_positive(&classes, &mut problems);
        let splitting = self.resolve_splitting(&mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let task = self.name.clone().or_else(|| self.task.map(|t| t.name().to_owned())).unwrap_or_else(|| "task".to_owned());
        let train = self.train.clone().or_else(|| self.task.map(|t| t.train_files().to_owned())).unwrap_or_default();
        Ok(Resolved { task, columns, classes, positive, metrics, train, splitting })
    }

    fn resolve_columns(&self, problems: &mut Vec<ParamProblem>) -> Columns {
        let known = self.task.map(BuiltIn::columns);
        let mut column = |own: &Option<String>, known: Option<&String>, name: &str| {
            own.clone().or_else(|| known.cloned()).unwrap_or_else(|| {
                let message = format!("which column holds the {name} is not said");
                problems.push(
                    ParamProblem::new(&[name], message).help(format!("write {name}: COLUMN, or task: for a built-in task")),
                );
                String::new()
            })
        };
        let text = column(&self.text, known.as_ref().map(|k| &k.text), "text");
        let label = column(&self.label, known.as_ref().map(|k| &k.label), "label");
        // A text column of one's own replaces the task's pair as well.
        let pair = self.pair.clone().or_else(|| known.and_then(|k| k.pair).filter(|_| self.text.is_none()));
        Columns { text, pair, label }
    }

    fn resolve_classes(&self, problems: &mut Vec<ParamProblem>) -> Vec<String> {
        let built_in = || self.task.map(|t| t.classes().iter().map(|c| (*c).to_owned()).collect::<Vec<_>>());
        if self.score {
            if self.classes.is_some() {
                problems.push(ParamProblem::new(&["score"], "labels are either classes or scores"));
            }
            return Vec::new();
        }
        match self.classes.clone().or_else(built_in) {
            Some(classes) if self.classes.is_some() => {
                let distinct: std::collections::BTreeSet<_> = classes.iter().collect();
                if classes.len() < 2 || distinct.len() < classes.len() || classes.len() > 1000 {
                    problems
                        .push(ParamProblem::new(&["classes"], "there must be two or more classes (at most 1000), all different"));
                }
                classes
            }
            Some(classes) => classes,
            None => {
                let help = "write classes: [ham, spam] in the order of their numbers, or score: true";
                problems.push(ParamProblem::new(&["classes"], "what the labels mean is not said").help(help));
                Vec::new()
            }
        }
    }

    fn resolve_metrics(&self, classes: usize, problems: &mut Vec<ParamProblem>) -> Vec<Metric> {
        let metrics = self.metrics.clone().unwrap_or_else(|| match (self.task, classes) {
            (Some(task), _) if self.classes.is_none() && !self.score => task.metrics().to_vec(),
            (_, 0) => vec![Metric::Pearson, Metric::Spearman],
            (_, 2) => vec![Metric::Accuracy, Metric::F1],
            _ => vec![Metric::Accuracy],
        });
        if let Some(wrong) = metrics.iter().find(|m| m.is_regression() != (classes == 0)) {
            let about = if wrong.is_regression() { "scores" } else { "classes" };
            problems.push(ParamProblem::new(&["metrics"], format!("{} is a metric of {about}", wrong.name())));
        }
        metrics
    }

    fn resolve_positive(&self, classes: &[String], problems: &mut Vec<ParamProblem>) -> u32 {
        let last = classes.len().saturating_sub(1) as u32;
        let Some(name) = &self.positive else { return last };
        classes.iter().position(|c| c == name).map_or_else(
            || {
                problems.push(ParamProblem::new(&["positive"], format!("{name:?} is not one of the classes")));
                last
            },
            |i| i as u32,
        )
    }

    fn resolve_splitting(&self, problems: &mut Vec<ParamProblem>) -> Splitting {
        let files = self.validation.clone();
        let built_in = || self.task.and_then(BuiltIn::validation_files).map(str::to_owned);
        match (files, self.holdout) {
            (Some(_), Some(_)) => {
                problems.push(ParamProblem::new(&["holdout"], "rows are held out only where there are no validation files"));
                Splitting::Last(0)
            }
            (Some(files), None) => Splitting::Files(files),
            (None, Some(Holdout { fraction: Some(fraction), rows: None })) => Splitting::Fraction(fraction),
            (None, Some(Holdout { fraction: None, rows: Some(rows) })) => Splitting::Last(rows),
            (None, Some(_)) => {
                problems.push(ParamProblem::new(&["holdout"], "it takes either fraction or rows"));
                Splitting::Last(0)
            }
            (None, None) => match (built_in(), self.task) {
                (Some(files), _) => Splitting::Files(files),
                (None, Some(_)) => Splitting::Fraction(0.2),
                (None, None) => {
                    let help = "write validation: PREFIX to name files, or holdout: {fraction: 0.2}";
                    problems.push(ParamProblem::new(&["holdout"], "what to measure on is not said").help(help));
                    Splitting::Last(0)
                }
            },
        }
    }
}

impl Params for TokenizeParams {
    fn check(&self, problems: &mut Vec<ParamProblem>) {
        if let Err(found) = self.resolve() {
            problems.extend(found);
        }
    }
}
