//! The rows of the metrics table and how they are joined.
//!
//! A row is one instance of the stage with the finest coordinates (the private inference where there is one, the clear one
//! otherwise); the others belong to every row whose coordinates agree with theirs on the axes they share.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use sprint_stage_api::{Ancestor, StageError};

use crate::cost::MpcCost;
use crate::glue::Metric;
use crate::predictions::Predictions;
use crate::privacy::PrivacyDocument;

/// An input with its producer's coordinates.
#[derive(Debug, Clone)]
pub(super) struct Gathered<T> {
    pub(super) axes: BTreeMap<String, String>,
    pub(super) value: T,
}

/// The table.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) rows: Vec<Row>,
}

/// A row.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) axes: BTreeMap<String, String>,
    pub(super) task: String,
    pub(super) clear: Measured,
    pub(super) mpc: Option<Measured>,
    pub(super) agreement: Option<Agreement>,
    pub(super) privacy: Option<PrivacyDocument>,
    pub(super) cost: Option<MpcCost>,
    /// The stages it came from and how long each took, in the workflow's order.
    pub(super) seconds: Vec<(String, Option<f64>)>,
}

/// Metrics over some rows of the validation split.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measured {
    pub(super) n: usize,
    pub(super) scores: BTreeMap<Metric, Option<f64>>,
}

/// The private run against the clear one, on the rows that both have.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Agreement {
    /// The fraction of equal labels; `None` for a score.
    pub(super) labels: Option<f64>,
    /// The largest difference of a logit.
    pub(super) max_logit_diff: f64,
}

impl Table {
    /// Joins everything on shared axes.
    pub(super) fn join(
        clear: Vec<Gathered<Predictions>>,
        mpc: Vec<Gathered<Predictions>>,
        reports: Vec<Gathered<PrivacyDocument>>,
        costs: Vec<Gathered<MpcCost>>,
        ancestors: &[Ancestor],
    ) -> Result<Self, StageError> {
        let mut rows = Vec::new();
        if mpc.is_empty() {
            for one in &clear {
                rows.push(Row::new(one.axes.clone(), &one.value, None, &reports, &costs)?);
            }
        }
        for one in &mpc {
            let base = the_one("clear", &clear, &one.axes)?
                .ok_or_else(|| StageError::permanent(format!("inputs.clear has nothing for {:?}", one.axes)))?;
            rows.push(Row::new(one.axes.clone(), base, Some(&one.value), &reports, &costs)?);
        }
        for row in &mut rows {
            row.took(ancestors);
        }
        rows.sort_by(|a, b| a.axes.cmp(&b.axes));
        Ok(Self { rows })
    }

    /// The machine-readable table.
    pub(super) fn to_json(&self) -> Value {
        json!({"version": 1, "rows": self.rows.iter().map(Row::to_json).collect::<Vec<_>>()})
    }
}

/// The input that belongs to `axes`; two would make the row ambiguous.
fn the_one<'a, T>(port: &str, inputs: &'a [Gathered<T>], axes: &BTreeMap<String, String>) -> Result<Option<&'a T>, StageError> {
    let agrees = |one: &&Gathered<T>| one.axes.iter().all(|(axis, at)| axes.get(axis).is_none_or(|own| own == at));
    let mut found = inputs.iter().filter(agrees);
    match (found.next(), found.next()) {
        (first, None) => Ok(first.map(|one| &one.value)),
        (_, Some(_)) => Err(StageError::permanent(format!("inputs.{port} has more than one result for {axes:?}"))),
    }
}

impl Row {
    fn new(
        axes: BTreeMap<String, String>,
        clear: &Predictions,
        mpc: Option<&Predictions>,
        reports: &[Gathered<PrivacyDocument>],
        costs: &[Gathered<MpcCost>],
    ) -> Result<Self, StageError> {
        let privacy = the_one("reports", reports, &axes)?.cloned();
        let cost = the_one("costs", costs, &axes)?.cloned();
        let agreement = mpc.map(|mpc| Agreement::between(clear, mpc)).transpose()?;
        let measured = |p: &Predictions| Measured { n: p.rows.len(), scores: p.scores() };
        Ok(Self {
            axes,
            task: clear.task.clone(),
            clear: measured(clear),
            mpc: mpc.map(measured),
            agreement,
            privacy,
            cost,
            seconds: Vec::new(),
        })
    }

    fn to_json(&self) -> Value {
        json!({
            "axes": self.axes,
            "task": self.task,
            "clear": self.clear.to_json(),
            "mpc": self.mpc.as_ref().map(Measured::to_json),
            "label_agreement": self.agreement.as_ref().and_then(|a| a.labels),
            "max_logit_diff": self.agreement.as_ref().map(|a| a.max_logit_diff),
            "privacy": self.privacy.as_ref().map(|p| &p.claim),
            "mpc_cost": self.cost.as_ref().map(MpcCost::per_message),
            "seconds": self.seconds.iter().cloned().collect::<BTreeMap<_, _>>(),
        })
    }

    /// Notes how long the stages took whose coordinates are the row's.
    fn took(&mut self, ancestors: &[Ancestor]) {
        let own = |a: &&Ancestor| a.axes.iter().all(|(axis, at)| self.axes.get(axis) == Some(at));
        self.seconds = ancestors.iter().filter(own).map(|a| (a.stage.clone(), a.seconds)).collect();
    }
}

impl Measured {
    fn to_json(&self) -> Value {
        let mut map = Map::new();
        map.insert("n".to_owned(), self.n.into());
        map.extend(self.scores.iter().map(|(metric, value)| (metric.name().to_owned(), json!(value))));
        Value::Object(map)
    }
}

impl Agreement {
    fn between(clear: &Predictions, mpc: &Predictions) -> Result<Self, StageError> {
        let by_row: BTreeMap<usize, usize> = clear.rows.iter().enumerate().map(|(i, row)| (*row, i)).collect();
        let (clear_labels, mpc_labels) = (clear.predicted(), mpc.predicted());
        let (mut equal, mut max) = (0_usize, 0.0_f64);
        for (j, row) in mpc.rows.iter().enumerate() {
            let missing = || StageError::permanent(format!("validation row {row} has a private prediction but no clear one"));
            let i = *by_row.get(row).ok_or_else(missing)?;
            if clear.logits[i].len() != mpc.logits[j].len() {
                return Err(StageError::permanent("the clear and the private predictions are of different models"));
            }
            equal += usize::from(clear_labels[i] == mpc_labels[j]);
            let differences = clear.logits[i].iter().zip(&mpc.logits[j]).map(|(a, b)| f64::from(a - b).abs());
            max = differences.fold(max, f64::max);
        }
        let labels = (!clear.is_regression()).then(|| equal as f64 / mpc.rows.len() as f64);
        Ok(Self { labels, max_logit_diff: max })
    }
}
