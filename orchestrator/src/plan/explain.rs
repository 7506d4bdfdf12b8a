//! Why a stage runs again: what its key is made from, against the nearest earlier result.

use std::collections::BTreeMap;

use serde::Serialize;
use sprint_artifacts::encode::{Difference, differences};
use sprint_artifacts::{RecordError, Store, StoredResult, Value};

use crate::workflow::{Instance, InstanceId, Workflow};

/// How many earlier results of a kind are compared.
const CANDIDATES: usize = 256;

/// Earlier results by kind of stage, newest first.
#[derive(Debug, Default)]
pub struct History {
    by_kind: BTreeMap<String, Vec<StoredResult>>,
}

/// One thing that is not what it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Where in the key's preimage: `params.epsilon`, `inputs.dataset`.
    pub path: String,
    /// What it was, if anything.
    pub old: Option<String>,
    /// What it is now, if anything.
    pub new: Option<String>,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let show = |v: &Option<String>| v.clone().unwrap_or_else(|| "nothing".to_owned());
        write!(f, "{} {}→{}", self.path, show(&self.old), show(&self.new))
    }
}

impl History {
    /// Every result in the store.
    pub fn load(store: &Store) -> Result<Self, RecordError> {
        let mut by_kind: BTreeMap<String, Vec<StoredResult>> = BTreeMap::new();
        for result in store.all_results()?.records {
            let kind = result.record.kind.split('@').next().unwrap_or_default().to_owned();
            by_kind.entry(kind).or_default().push(result);
        }
        Ok(Self { by_kind })
    }

    /// What differs from the nearest earlier result of this kind: the one with the fewest differences, one of the same stage
    /// instance before others, a newer one before an older. `None` if the kind never ran.
    pub fn changes(&self, id: &InstanceId, preimage: &Value) -> Option<Vec<Change>> {
        let kind = preimage.get("kind")?.as_text()?;
        let name = id.to_string();
        let candidates = self.by_kind.get(kind)?;
        let (own, others): (Vec<_>, Vec<_>) = candidates.iter().partition(|r| r.record.stage == name);
        let pool = if own.is_empty() { others } else { own };
        let compared = pool.into_iter().take(CANDIDATES).map(|r| differences(&r.record.preimage, preimage));
        let nearest = compared.min_by_key(Vec::len)?;
        Some(nearest.into_iter().map(change).collect())
    }
}

/// The changes in words; a changed input names the stages it comes from.
pub(crate) fn reasons(workflow: &Workflow, instance: &Instance, changes: &[Change]) -> Vec<String> {
    let from = |change: &Change| {
        let port = change.path.strip_prefix("inputs.")?.split(['.', '[']).next()?;
        let edges = instance.inputs().get(port)?;
        let mut stages: Vec<&str> = edges.iter().map(|e| workflow.instances()[e.instance].id().stage()).collect();
        stages.dedup();
        Some(format!("{change} (from {})", stages.join(", ")))
    };
    changes.iter().map(|c| from(c).unwrap_or_else(|| c.to_string())).collect()
}

fn change(d: Difference) -> Change {
    Change { path: d.path, old: d.left.as_ref().map(show), new: d.right.as_ref().map(show) }
}

/// A value short enough for a line; digests by their first digits.
fn show(value: &Value) -> String {
    if let Some(digest) = value.as_digest() {
        return digest.short();
    }
    let text = match value {
        Value::Text(text) => text.clone(),
        other => other.to_json().to_string(),
    };
    let mut short: String = text.chars().take(60).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}
