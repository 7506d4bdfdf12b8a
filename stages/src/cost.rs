//! `mpc-cost@1`: what a private inference cost, as measured by the roles themselves.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sprint_artifacts::{ArtifactId, Manifest, Secrecy, Store};
use sprint_mpc::MeasuredLink;
use sprint_stage_api::StageError;

use crate::errors::{Put, store_error};

/// Totals over all messages; seconds and bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct MpcCost {
    /// The version of this structure.
    pub(crate) version: u32,
    /// The gates' mode: `exact`, `calibrated`, `lean` or `three-server`.
    pub(crate) mode: String,
    /// Messages classified.
    pub(crate) messages: u64,
    /// Messages refused because a value left a calibrated range.
    #[serde(default)]
    pub(crate) refused: u64,
    /// Inferences: batches of messages of one padded length.
    pub(crate) inferences: u64,
    /// Rounds of one inference, the most of any.
    pub(crate) rounds: u64,
    /// Bytes that each party sent to the other, or the others, sockets' headers and TLS included.
    pub(crate) online_bytes_sent: Vec<u64>,
    /// Bytes of one-time material that each party got from the dealer.
    pub(crate) dealer_bytes: Vec<u64>,
    /// From request to output share, the slower party of each inference.
    pub(crate) online_s: f64,
    /// The dealer's seconds.
    pub(crate) offline_s: f64,
    /// From the launch of the three processes to their end.
    pub(crate) wall_s: f64,
    /// The link between the parties as they measured it before the first message: the longer round trip, the lower rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link: Option<MeasuredLink>,
    /// Processor seconds by role.
    pub(crate) cpu_s: BTreeMap<String, f64>,
    /// Largest resident set by role; `null` where the system does not tell.
    pub(crate) peak_rss: BTreeMap<String, Option<u64>>,
    /// Rounds, bytes and seconds of party 0 by part of the model.
    pub(crate) by_layer: serde_json::Value,
    /// The same by kind of gate.
    pub(crate) by_gate: serde_json::Value,
}

impl MpcCost {
    /// The version this program writes and reads.
    pub(crate) const VERSION: u32 = 1;

    /// The costs of one message in the metrics table: means over messages, `rounds` of one inference.
    pub(crate) fn per_message(&self) -> serde_json::Value {
        let n = self.messages.max(1) as f64;
        let each = |bytes: &[u64]| bytes.iter().map(|b| (*b as f64 / n).round() as u64).collect::<Vec<_>>();
        serde_json::json!({
            "mode": self.mode,
            "messages": self.messages,
            "refused": self.refused,
            "inferences": self.inferences,
            "rounds": self.rounds,
            "online_bytes_sent": each(&self.online_bytes_sent),
            "dealer_bytes": each(&self.dealer_bytes),
            "online_s": self.online_s / n,
            "offline_s": self.offline_s / n,
            "wall_s": self.wall_s / n,
            "link": self.link,
        })
    }

    /// Stores it.
    pub(crate) fn store(&self, to: &impl Put) -> Result<ArtifactId, StageError> {
        let json = serde_json::to_vec_pretty(self).map_err(|e| StageError::permanent(e.to_string()))?;
        let builder = Manifest::builder("mpc-cost@1", Secrecy::Public).bytes("mpc-cost.json", json);
        to.put(builder)
    }

    /// Reads a stored one.
    pub(crate) fn load(store: &Store, id: &ArtifactId) -> Result<Self, StageError> {
        let manifest = store.read_artifact(id).map_err(store_error)?;
        let json = store.read_file(&manifest, "mpc-cost.json").map_err(store_error)?;
        let cost: Self = serde_json::from_slice(&json).map_err(|e| StageError::permanent(format!("mpc-cost.json: {e}")))?;
        if cost.version == Self::VERSION {
            Ok(cost)
        } else {
            Err(StageError::permanent(format!(
                "mpc-cost.json has version {}, this program reads {}",
                cost.version,
                Self::VERSION
            )))
        }
    }
}
