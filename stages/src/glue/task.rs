//! The built-in tasks: which files, columns, classes and metrics each has.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Metric;

/// A task known by name, in the layout of the hub's `nyu-mll/glue` and `ucirvine/sms_spam`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BuiltIn {
    /// Stanford Sentiment Treebank, two classes.
    Sst2,
    /// Question answering as entailment.
    Qnli,
    /// Recognising textual entailment.
    Rte,
    /// Microsoft Research paraphrase corpus.
    Mrpc,
    /// Linguistic acceptability.
    Cola,
    /// Multi-genre natural language inference, three classes.
    Mnli,
    /// Quora question pairs.
    Qqp,
    /// Semantic textual similarity, a score from 0 to 5.
    Stsb,
    /// SMS spam collection.
    SmsSpam,
}

/// Where a row's text and label are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Columns {
    /// The sentence, or the first of two.
    pub(crate) text: String,
    /// The second sentence of a pair.
    pub(crate) pair: Option<String>,
    /// The label.
    pub(crate) label: String,
}

impl BuiltIn {
    /// The task's name in workflows and tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Sst2 => "sst2",
            Self::Qnli => "qnli",
            Self::Rte => "rte",
            Self::Mrpc => "mrpc",
            Self::Cola => "cola",
            Self::Mnli => "mnli",
            Self::Qqp => "qqp",
            Self::Stsb => "stsb",
            Self::SmsSpam => "sms_spam",
        }
    }

    /// Its columns.
    pub(crate) fn columns(self) -> Columns {
        let (text, pair) = match self {
            Self::Sst2 | Self::Cola => ("sentence", None),
            Self::SmsSpam => ("sms", None),
            Self::Qnli => ("question", Some("sentence")),
            Self::Rte | Self::Mrpc | Self::Stsb => ("sentence1", Some("sentence2")),
            Self::Mnli => ("premise", Some("hypothesis")),
            Self::Qqp => ("question1", Some("question2")),
        };
        Columns { text: text.to_owned(), pair: pair.map(str::to_owned), label: "label".to_owned() }
    }

    /// Its classes in the order of their numbers; none for a score. The order is the data's: 0 is `entailment` in QNLI, RTE
    /// and MNLI.
    pub(crate) const fn classes(self) -> &'static [&'static str] {
        match self {
            Self::Sst2 => &["negative", "positive"],
            Self::Qnli | Self::Rte => &["entailment", "not_entailment"],
            Self::Mrpc => &["not_equivalent", "equivalent"],
            Self::Cola => &["unacceptable", "acceptable"],
            Self::Mnli => &["entailment", "neutral", "contradiction"],
            Self::Qqp => &["not_duplicate", "duplicate"],
            Self::SmsSpam => &["ham", "spam"],
            Self::Stsb => &[],
        }
    }

    /// What GLUE reports for it.
    pub(crate) const fn metrics(self) -> &'static [Metric] {
        match self {
            Self::Sst2 | Self::Qnli | Self::Rte | Self::Mnli => &[Metric::Accuracy],
            Self::Mrpc | Self::Qqp | Self::SmsSpam => &[Metric::Accuracy, Metric::F1],
            Self::Cola => &[Metric::Accuracy, Metric::Mcc],
            Self::Stsb => &[Metric::Pearson, Metric::Spearman],
        }
    }

    /// The beginnings of the names of its training files.
    pub(crate) const fn train_files(self) -> &'static str {
        "train"
    }

    /// The beginnings of the names of its validation files; none where the data have one split only.
    pub(crate) const fn validation_files(self) -> Option<&'static str> {
        match self {
            Self::Mnli => Some("validation_matched"),
            Self::SmsSpam => None,
            _ => Some("validation"),
        }
    }
}
