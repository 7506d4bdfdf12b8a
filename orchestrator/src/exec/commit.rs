//! Between a stage's word and a committed result: what it returned is verified, then recorded durably.

use std::collections::BTreeMap;

use sprint_artifacts::encode::Value;
use sprint_artifacts::{
    ArtifactId, Check, CheckpointStore, Manifest, Presence, RecordError, Remote, ResultId, ResultRecord, Store, StoreError,
};
use sprint_stage_api::{ErrorClass, StageError, StageSpec, with_causes};

use super::attempt::store_class;

/// Verifies the outputs against the kind's ports and their own digests, and writes the result record. Checkpoints of the action are
/// discarded after that: they are not needed any more.
pub(super) fn commit(
    store: &Store,
    remote: Option<&Remote>,
    spec: &StageSpec,
    mut record: ResultRecord,
) -> Result<(ResultId, Box<ResultRecord>), StageError> {
    let manifests = verify_outputs(store, spec, &record.outputs)?;
    record.private = manifests.iter().all(|m| m.meta().get("private") != Some(&Value::Bool(false)));
    let result = store.commit_result(&record).map_err(|e| record_error(&e))?;
    // What is left over is in nobody's way; the next attempt of the same key would find it superfluous.
    if let Err(error) = CheckpointStore::for_key(store, record.key()).discard() {
        tracing::warn!(stage = record.stage, error = with_causes(&error), "checkpoints could not be discarded");
    }
    if let Some(Err(error)) = remote.filter(|r| r.seals()).map(|r| r.discard_checkpoints(&record.key())) {
        tracing::warn!(stage = record.stage, error = with_causes(&error), "checkpoints on the remote could not be discarded");
    }
    Ok((result, Box::new(record)))
}

fn verify_outputs(store: &Store, spec: &StageSpec, outputs: &BTreeMap<String, ArtifactId>) -> Result<Vec<Manifest>, StageError> {
    let fault = |message: String| StageError::permanent(message).help("this is a fault in the stage");
    if let Some(extra) = outputs.keys().find(|name| !spec.outputs.iter().any(|p| p.name == **name)) {
        return Err(fault(format!("kind {} returned `{extra}`, which it does not declare", spec.kind)));
    }
    let ids: Vec<ArtifactId> = outputs.values().copied().collect();
    let presence = store.has_artifacts(&ids, Check::Full).map_err(|e| store_error(&e))?;
    let mut manifests = Vec::new();
    for port in &spec.outputs {
        let name = port.name;
        let id = outputs.get(name).ok_or_else(|| fault(format!("kind {} did not return its output `{name}`", spec.kind)))?;
        match presence.get(id) {
            Some(Presence::Present) => {}
            Some(Presence::Corrupt(_)) => {
                return Err(StageError::new(ErrorClass::Integrity, format!("output `{name}` {} is damaged", id.short())));
            }
            _ => return Err(fault(format!("output `{name}` {} is not in the store", id.short()))),
        }
        let manifest = store.read_artifact(id).map_err(|e| store_error(&e))?;
        let kind = manifest.kind().split('@').next().unwrap_or_default();
        if kind != port.artifact {
            return Err(fault(format!("output `{name}` is a `{kind}`, but is declared as `{}`", port.artifact)));
        }
        if manifest.secrecy() != port.secrecy {
            let message = format!("output `{name}` is labelled {}, but is declared as {}", manifest.secrecy(), port.secrecy);
            return Err(fault(message));
        }
        manifests.push(manifest);
    }
    Ok(manifests)
}

pub(super) fn store_error(error: &StoreError) -> StageError {
    StageError::new(store_class(error), with_causes(error))
}

pub(super) fn record_error(error: &RecordError) -> StageError {
    let class = match error {
        RecordError::Store(e) => store_class(e),
        RecordError::OutputMissing { .. } | RecordError::Metric { .. } => ErrorClass::Permanent,
        _ => ErrorClass::Integrity,
    };
    StageError::new(class, with_causes(error))
}
