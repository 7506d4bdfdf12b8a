//! What the index remembers of a record.

use crate::encode::{FieldError, Fields, Value};
use crate::manifest::ArtifactId;
use crate::records::ResultRecord;

/// The fields by which records are selected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) kind: String,
    pub(crate) outputs: Vec<ArtifactId>,
}

impl Summary {
    pub(crate) fn of(record: &ResultRecord) -> Self {
        Self { kind: record.kind.clone(), outputs: record.outputs.values().copied().collect() }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let outputs = self.outputs.iter().map(|id| Value::from(*id.digest())).collect();
        Value::map([("kind", self.kind.as_str().into()), ("outputs", Value::Array(outputs))]).to_bytes()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let read = || -> Result<Self, FieldError> {
            let value = Value::from_bytes(bytes).map_err(|_| FieldError::NotAMap)?;
            let mut fields = Fields::of(value)?;
            let kind = fields.text("kind")?;
            let outputs = fields.array("outputs")?;
            fields.finish()?;
            let error = FieldError::Type { name: "outputs", expected: "digests" };
            let outputs = outputs.iter().map(|v| v.as_digest().map(ArtifactId::new).ok_or_else(|| error.clone()));
            Ok(Self { kind, outputs: outputs.collect::<Result<_, _>>()? })
        };
        read().ok()
    }
}
