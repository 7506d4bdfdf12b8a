//! What the orchestrator and a stage worker say to each other: JSON, one object a line.
//!
//! ```text
//! orchestrator → worker   {request}  then at most {"control":"cancel"}; end of file means: the orchestrator is gone, exit
//! worker → orchestrator   {"say":"event",…}*  {"say":"done"|"failed",…}
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sprint_artifacts::remote::RemoteSpec;
use sprint_artifacts::{ActionKey, ArtifactId};
use sprint_stage_api::{Ancestor, Inputs, LeaseTerms, StageError, StageEvent};

use super::executor::{Intent, Operation};
use crate::workflow::InstanceId;

/// The version of this exchange; both ends are the same binary, so a mismatch means a binary replaced during a run.
pub(super) const VERSION: u32 = 2;
/// The longest line either side reads.
pub(super) const MAX_LINE: usize = 16 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Request {
    pub(super) v: u32,
    pub(super) run: String,
    pub(super) stage: InstanceId,
    pub(super) operation: Operation,
    pub(super) kind: String,
    pub(super) version: u32,
    /// The version of the kind's code; none for a release, which any version may do.
    pub(super) code: Option<String>,
    pub(super) key: ActionKey,
    pub(super) params: serde_json::Value,
    pub(super) inputs: Inputs,
    pub(super) ancestors: Vec<Ancestor>,
    pub(super) attempt: u32,
    pub(super) axes: BTreeMap<String, String>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) base: PathBuf,
    pub(super) cpus: usize,
    pub(super) store: PathBuf,
    pub(super) checkpoint_every_ms: Option<u64>,
    pub(super) checkpoint_keep: u32,
    pub(super) lease: LeaseTerms,
    pub(super) remote: Option<RemoteSpec>,
}

impl Request {
    pub(super) fn of(intent: &Intent) -> Self {
        Self {
            v: VERSION,
            run: intent.run.clone(),
            stage: intent.stage.clone(),
            operation: intent.operation.clone(),
            kind: intent.kind.clone(),
            version: intent.version,
            code: (intent.operation == Operation::Run).then(|| intent.code.to_owned()),
            key: intent.key,
            params: (*intent.params).clone(),
            inputs: intent.inputs.clone(),
            ancestors: intent.ancestors.clone(),
            attempt: intent.attempt,
            axes: intent.axes.clone(),
            env: (*intent.env).clone(),
            base: intent.base.clone(),
            cpus: intent.cpus,
            store: intent.store.clone(),
            checkpoint_every_ms: intent.checkpoint_every_ms,
            checkpoint_keep: intent.checkpoint_keep,
            lease: intent.lease,
            remote: intent.remote.as_deref().cloned(),
        }
    }
}

/// What may follow the request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "control", rename_all = "snake_case")]
pub(super) enum Control {
    /// Save your progress and end.
    Cancel,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Say {
    /// A job runs; child processes do not say it.
    Began {
        unix_ms: u64,
        host: String,
        job: String,
    },
    Event {
        report: StageEvent,
    },
    Done {
        outputs: BTreeMap<String, ArtifactId>,
    },
    Failed {
        error: StageError,
    },
}

/// One value as a line.
pub(super) fn line<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).expect("plain data has a JSON form");
    bytes.push(b'\n');
    bytes
}
