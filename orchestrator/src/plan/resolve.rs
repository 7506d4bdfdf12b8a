//! Keys of instances once their inputs are known, and whether a result is there.

use std::collections::BTreeMap;

use sprint_artifacts::{ActionKey, ArtifactId, Check, Digest, Presence, RecordError, ResultRecord, Store};
use sprint_stage_api::{CachePolicy, StageSpec};

use super::key::{KeyParts, Keyed, KeyedInput, output_identity};
use crate::workflow::Workflow;

/// What consumers of an instance may know about its outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outputs {
    /// The artifacts themselves.
    Artifacts(BTreeMap<String, ArtifactId>),
    /// Bytes differ whenever it runs; the key stands for them.
    ByKey(ActionKey),
}

impl Outputs {
    fn identity(&self, output: &str) -> Option<Digest> {
        match self {
            Self::Artifacts(all) => all.get(output).map(|id| *id.digest()),
            Self::ByKey(key) => Some(output_identity(key, output)),
        }
    }
}

/// The key of an instance, or the producers whose outputs it still waits for.
pub(crate) fn key_of<'o>(
    workflow: &Workflow,
    index: usize,
    salt: &str,
    outputs: impl Fn(usize) -> Option<&'o Outputs>,
) -> Result<Keyed, Vec<usize>> {
    let instance = &workflow.instances()[index];
    let stage = workflow.stage_of(instance);
    let mut unknown = Vec::new();
    let mut inputs: BTreeMap<&str, Vec<KeyedInput>> = BTreeMap::new();
    for (port, edges) in instance.inputs() {
        let row = inputs.entry(port).or_default();
        for edge in edges {
            match outputs(edge.instance).and_then(|o| o.identity(&edge.output)) {
                Some(identity) => row.push(KeyedInput { axes: workflow.instances()[edge.instance].axes(), identity }),
                None => unknown.push(edge.instance),
            }
        }
    }
    if !unknown.is_empty() {
        unknown.sort_unstable();
        unknown.dedup();
        return Err(unknown);
    }
    let spec = stage.kind().spec();
    Ok(KeyParts { spec, params: instance.params(), inputs, secrets: &stage.secrets, salt }.key())
}

/// What the store says about a key.
#[derive(Debug)]
pub(crate) enum Found {
    /// A result that may stand in, its artifacts present as far as was checked.
    Hit(Box<ResultRecord>),
    /// None; the reasons say what was wrong with those that are there.
    Miss(Vec<String>),
}

/// Looks for a result that may stand in for running `key`. `run` is the run that asks, for measurements.
pub(crate) fn look_up(
    store: &Store,
    spec: &StageSpec,
    policy: CachePolicy,
    key: &ActionKey,
    run: Option<&str>,
    check: Check,
) -> Result<Found, RecordError> {
    if policy == CachePolicy::Never {
        return Ok(Found::Miss(Vec::new()));
    }
    let found = store.find_results(key)?;
    let mut reasons: Vec<String> =
        found.damaged.iter().map(|d| format!("its result record is damaged ({}): {}", d.path.display(), d.error)).collect();
    let mut measured_elsewhere = false;
    for stored in found.records {
        if policy == CachePolicy::Measure && run != Some(stored.record.run.as_str()) {
            measured_elsewhere = true;
            continue;
        }
        match usable(store, spec, &stored.record, check)? {
            None => return Ok(Found::Hit(Box::new(stored.record))),
            Some(reason) => reasons.push(reason),
        }
    }
    if measured_elsewhere && reasons.is_empty() {
        reasons.push("a measurement of another run is not reused".to_owned());
    }
    Ok(Found::Miss(reasons))
}

/// Why the artifacts of a record cannot be used, if so.
fn usable(store: &Store, spec: &StageSpec, record: &ResultRecord, check: Check) -> Result<Option<String>, RecordError> {
    if let Some(port) = spec.outputs.iter().find(|p| !record.outputs.contains_key(p.name)) {
        return Ok(Some(format!("the earlier result has no output `{}`", port.name)));
    }
    let ids: Vec<ArtifactId> = record.outputs.values().copied().collect();
    let presence = store.has_artifacts(&ids, check)?;
    for (name, id) in &record.outputs {
        match presence.get(id) {
            Some(Presence::Present) => {}
            Some(Presence::Missing(files)) => {
                let what = files.iter().find(|f| !f.is_empty()).map_or_else(String::new, |f| format!(" (file {f})"));
                return Ok(Some(format!("output `{name}` {} is missing from the store{what}", id.short())));
            }
            Some(Presence::Corrupt(_)) => {
                return Ok(Some(format!("output `{name}` {} is damaged and was set aside", id.short())));
            }
            None => return Ok(Some(format!("output `{name}` could not be checked"))),
        }
    }
    Ok(None)
}
