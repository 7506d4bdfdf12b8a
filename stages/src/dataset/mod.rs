//! `dataset@1`: tokenised examples of a training and a validation split, and what is known about them.
//!
//! Files: `train.bin` and `validation.bin` (see [`codec`]) and `dataset.json` ([`DatasetMeta`]). The artifact is secret: token
//! ids are the text.

mod codec;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sprint_artifacts::{ArtifactId, Manifest, Secrecy, Store};
use sprint_model::{Example, Label};
use sprint_stage_api::{ErrorClass, StageError};

use crate::errors::store_error;
use crate::glue::Metric;

/// The version of `dataset.json`.
const VERSION: u32 = 1;
/// The width of a bar of the length histogram.
const HISTOGRAM_STEP: usize = 8;

/// A part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Split {
    /// What is learnt from: private.
    Train,
    /// What is measured on.
    Validation,
}

impl Split {
    /// The file that holds it.
    const fn file(self) -> &'static str {
        match self {
            Self::Train => "train.bin",
            Self::Validation => "validation.bin",
        }
    }

    /// Its name in messages.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Validation => "validation",
        }
    }
}

/// What is known about a data set beside its examples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DatasetMeta {
    /// The version of this structure.
    version: u32,
    /// The task's name.
    pub(crate) task: String,
    /// The classes in the order of their numbers; empty for a score.
    pub(crate) classes: Vec<String>,
    /// The class that F1 is about.
    pub(crate) positive: u32,
    /// What is reported.
    pub(crate) metrics: Vec<Metric>,
    /// The most tokens of an example.
    pub(crate) max_length: usize,
    /// Ids are below this.
    pub(crate) vocab: usize,
    /// Counts by split.
    pub(crate) splits: BTreeMap<String, SplitMeta>,
}

/// Counts of one split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SplitMeta {
    /// Examples.
    pub(crate) rows: usize,
    /// Tokens in all.
    pub(crate) tokens: usize,
    /// The longest example.
    pub(crate) longest: usize,
    /// Examples at the full `max_length`: these may have been cut.
    pub(crate) at_limit: usize,
    /// Examples by length: the first entry counts 1 to 8 tokens, the second 9 to 16, …
    pub(crate) lengths: Vec<usize>,
    /// Examples by class; empty for a score.
    pub(crate) labels: Vec<usize>,
}

/// What decides a [`DatasetMeta`] beside the examples.
#[derive(Debug, Clone)]
pub(crate) struct TaskMeta {
    pub(crate) task: String,
    pub(crate) classes: Vec<String>,
    pub(crate) positive: u32,
    pub(crate) metrics: Vec<Metric>,
    pub(crate) max_length: usize,
    pub(crate) vocab: usize,
}

impl DatasetMeta {
    /// Number of logits: one a class, one for a score.
    pub(crate) fn outputs(&self) -> usize {
        self.classes.len().max(1)
    }

    fn new(task: TaskMeta, train: &[Example], validation: &[Example]) -> Self {
        let TaskMeta { task, classes, positive, metrics, max_length, vocab } = task;
        let count = |examples: &[Example]| SplitMeta::count(examples, classes.len(), max_length);
        let splits = [(Split::Train, count(train)), (Split::Validation, count(validation))];
        let splits = splits.into_iter().map(|(split, meta)| (split.name().to_owned(), meta)).collect();
        Self { version: VERSION, task, classes, positive, metrics, max_length, vocab, splits }
    }
}

impl SplitMeta {
    fn count(examples: &[Example], classes: usize, max_length: usize) -> Self {
        let mut lengths = vec![0; max_length.div_ceil(HISTOGRAM_STEP)];
        let mut labels = vec![0; classes];
        for example in examples {
            lengths[(example.ids.len().max(1) - 1) / HISTOGRAM_STEP] += 1;
            if let Some(Label::Class(class)) = example.label {
                labels[class as usize] += 1;
            }
        }
        let sizes = || examples.iter().map(|e| e.ids.len());
        let (tokens, longest) = (sizes().sum(), sizes().max().unwrap_or(0));
        let at_limit = sizes().filter(|n| *n == max_length).count();
        Self { rows: examples.len(), tokens, longest, at_limit, lengths, labels }
    }
}

/// Stores a data set.
///
/// Examples have at most `max_length` tokens with ids below `vocab`, and classes below the number of classes.
pub(crate) fn store(
    store: &Store,
    task: TaskMeta,
    train: &[Example],
    validation: &[Example],
) -> Result<(ArtifactId, DatasetMeta), StageError> {
    let meta = DatasetMeta::new(task, train, validation);
    let json = serde_json::to_vec_pretty(&meta).map_err(|e| StageError::permanent(e.to_string()))?;
    let builder = Manifest::builder("dataset@1", Secrecy::Secret)
        .bytes("dataset.json", json)
        .bytes(Split::Train.file(), codec::write(train, meta.vocab))
        .bytes(Split::Validation.file(), codec::write(validation, meta.vocab));
    let (id, _) = store.put_artifact(builder).map_err(store_error)?;
    Ok((id, meta))
}

/// One split of a stored data set, with the metadata.
pub(crate) fn load(store: &Store, id: &ArtifactId, split: Split) -> Result<(DatasetMeta, Vec<Example>), StageError> {
    let manifest = store.read_artifact(id).map_err(store_error)?;
    let meta = read_meta(store, &manifest)?;
    let bytes = store.read_file(&manifest, split.file()).map_err(store_error)?;
    let limits = codec::Limits { vocab: meta.vocab, max_length: meta.max_length, classes: meta.classes.len() };
    let examples = codec::read(&bytes, limits).map_err(|e| damaged(&format!("{}: {e}", split.file())))?;
    Ok((meta, examples))
}

/// What is known about a stored data set.
pub(crate) fn meta(store: &Store, id: &ArtifactId) -> Result<DatasetMeta, StageError> {
    read_meta(store, &store.read_artifact(id).map_err(store_error)?)
}

fn read_meta(store: &Store, manifest: &Manifest) -> Result<DatasetMeta, StageError> {
    let json = store.read_file(manifest, "dataset.json").map_err(store_error)?;
    let meta: DatasetMeta = serde_json::from_slice(&json).map_err(|e| damaged(&format!("dataset.json: {e}")))?;
    if meta.version != VERSION {
        return Err(damaged(&format!("dataset.json has version {}, this program reads {VERSION}", meta.version)));
    }
    Ok(meta)
}

fn damaged(what: &str) -> StageError {
    StageError::new(ErrorClass::Permanent, format!("not a data set of this program: {what}"))
}
