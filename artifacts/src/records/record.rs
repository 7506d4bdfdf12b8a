//! One result record and its encoding.

use std::collections::BTreeMap;

use serde::Serialize;

use super::RecordError;
use crate::digest::{Digest, digest_newtype};
use crate::encode::{Decimal, FieldError, Fields, Value};
use crate::manifest::ArtifactId;

/// The version of the record's structure.
const VERSION: u32 = 1;
/// The domain of action keys.
const KEY_CONTEXT: &str = "sprint-flow action-key v1";

digest_newtype! {
    /// The name of an action: `BLAKE3.derive_key("sprint-flow action-key v1", canonical bytes of the preimage)`.
    ActionKey
}

digest_newtype! {
    /// The name of a result record: the digest of its canonical bytes.
    ResultId
}

impl ActionKey {
    /// The key of this preimage.
    pub fn of(preimage: &Value) -> Self {
        Self::new(Digest::derived(KEY_CONTEXT, &preimage.to_bytes()))
    }
}

/// What an action produced.
///
/// Invariant, checked when it is written and when it is read: `key` is [`ActionKey::of`] the preimage.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ResultRecord {
    /// The kind of stage, such as `dp-finetune@1`.
    pub kind: String,
    /// The stage instance, such as `finetune[epsilon=4,task=sst2]`; for people, not part of the key.
    pub stage: String,
    /// Everything that the key was made from.
    pub preimage: Value,
    /// The artifacts, by the name of the output.
    pub outputs: BTreeMap<String, ArtifactId>,
    /// The run that produced them.
    pub run: String,
    /// Which attempt of that run, from 1.
    pub attempt: u32,
    /// When it began, in milliseconds since 1970.
    pub started_unix_ms: u64,
    /// When it ended, in milliseconds since 1970.
    pub finished_unix_ms: u64,
    /// The machine.
    pub host: String,
    /// The stage's log.
    pub log: Option<ArtifactId>,
    /// Numbers for people and tables.
    pub metrics: BTreeMap<String, f64>,
    /// Whether the privacy claims hold: false for seeded runs, whose noise is reproducible.
    pub private: bool,
}

impl ResultRecord {
    /// The key of the action.
    pub fn key(&self) -> ActionKey {
        ActionKey::of(&self.preimage)
    }

    /// The canonical bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>, RecordError> {
        let metric = |(name, x): (&String, &f64)| {
            let decimal = Decimal::from_f64(*x).map_err(|source| RecordError::Metric { name: name.clone(), source })?;
            Ok((name.clone(), Value::from(decimal)))
        };
        let metrics: BTreeMap<_, _> = self.metrics.iter().map(metric).collect::<Result<_, RecordError>>()?;
        let outputs = self.outputs.iter().map(|(name, id)| (name.clone(), Value::from(*id.digest())));
        let value = Value::map([
            ("version", VERSION.into()),
            ("key", (*self.key().digest()).into()),
            ("kind", self.kind.as_str().into()),
            ("stage", self.stage.as_str().into()),
            ("preimage", self.preimage.clone()),
            ("outputs", Value::map(outputs)),
            ("run", self.run.as_str().into()),
            ("attempt", self.attempt.into()),
            ("started_unix_ms", self.started_unix_ms.into()),
            ("finished_unix_ms", self.finished_unix_ms.into()),
            ("host", self.host.as_str().into()),
            ("log", self.log.map_or(Value::Null, |id| (*id.digest()).into())),
            ("metrics", Value::Map(metrics)),
            ("private", self.private.into()),
        ]);
        Ok(value.to_bytes())
    }

    /// The record with these canonical bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, RecordError> {
        let mut fields = Fields::of(Value::from_bytes(bytes)?)?;
        let found = fields.int("version")?;
        if found != VERSION {
            return Err(RecordError::Version { found, known: VERSION });
        }
        let expected = fields.digest("key")?;
        let record = Self {
            kind: fields.text("kind")?,
            stage: fields.text("stage")?,
            preimage: fields.take("preimage")?,
            outputs: read_outputs(fields.map("outputs")?)?,
            run: fields.text("run")?,
            attempt: fields.int("attempt")?,
            started_unix_ms: fields.int("started_unix_ms")?,
            finished_unix_ms: fields.int("finished_unix_ms")?,
            host: fields.text("host")?,
            log: read_log(&fields.take("log")?)?,
            metrics: read_metrics(fields.map("metrics")?)?,
            private: fields.boolean("private")?,
        };
        fields.finish()?;
        let actual = *record.key().digest();
        if actual != expected {
            return Err(RecordError::Key { expected, actual });
        }
        Ok(record)
    }
}

fn read_outputs(map: BTreeMap<String, Value>) -> Result<BTreeMap<String, ArtifactId>, FieldError> {
    let read = |(name, value): (String, Value)| {
        let digest = value.as_digest().ok_or(FieldError::Type { name: "outputs", expected: "a map to digests" })?;
        Ok((name, ArtifactId::new(digest)))
    };
    map.into_iter().map(read).collect()
}

fn read_log(value: &Value) -> Result<Option<ArtifactId>, FieldError> {
    match value {
        Value::Null => Ok(None),
        other => other
            .as_digest()
            .map(|digest| Some(ArtifactId::new(digest)))
            .ok_or(FieldError::Type { name: "log", expected: "a digest or null" }),
    }
}

fn read_metrics(map: BTreeMap<String, Value>) -> Result<BTreeMap<String, f64>, FieldError> {
    let read = |(name, value)| match value {
        Value::Decimal(decimal) => Ok((name, decimal.to_f64())),
        _ => Err(FieldError::Type { name: "metrics", expected: "a map to decimals" }),
    };
    map.into_iter().map(read).collect()
}
