//! The `hosts` artifact: one place for each role.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sprint_artifacts::{ArtifactId, Manifest, Secrecy, Store};
use sprint_stage_api::StageError;

use crate::errors::store_error;

const FILE: &str = "hosts.json";
const VERSION: u32 = 2;
/// The roles that run somewhere.
pub(crate) const ROLES: [&str; 3] = ["party-0", "party-1", "dealer"];

/// Where every role runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hosts {
    version: u32,
    /// The kind of fleet, as in the workflow.
    pub(crate) fleet: String,
    /// One for each role.
    pub(crate) roles: Vec<Host>,
}

/// Where one role runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Host {
    /// The role.
    pub(crate) role: String,
    /// The address by which the others reach it.
    pub(crate) address: String,
    /// How it is started.
    pub(crate) place: Place,
}

/// How a role is started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Place {
    /// As a child of the inference on this machine.
    Child,
    /// As a child in a network namespace of this machine.
    Netns {
        /// The namespace.
        name: String,
    },
    /// On another machine, by OpenSSH.
    Ssh {
        /// The machine's address for logging in.
        host: String,
        /// The port.
        port: u16,
        /// The user there.
        user: String,
        /// The machine's own key, `ssh-ed25519 AAAA…`: no other is accepted.
        host_key: String,
        /// The file with the key that logs in; the user's own agent and keys if there is none.
        identity: Option<PathBuf>,
        /// A folder there, for the run's files; removed afterwards.
        folder: String,
        /// The port on which a party listens there; any free one if none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        listen: Option<u16>,
    },
}

impl Hosts {
    pub(crate) fn new(fleet: &str, roles: Vec<Host>) -> Self {
        Self { version: VERSION, fleet: fleet.to_owned(), roles }
    }

    pub(crate) fn store(&self, store: &Store) -> Result<ArtifactId, StageError> {
        let bytes = serde_json::to_vec_pretty(self).map_err(|e| StageError::permanent(e.to_string()))?;
        let builder = Manifest::builder("hosts@1", Secrecy::Public).bytes(FILE, bytes);
        store.put_artifact(builder).map(|(id, _)| id).map_err(store_error)
    }

    pub(crate) fn load(store: &Store, id: &ArtifactId) -> Result<Self, StageError> {
        let manifest = store.read_artifact(id).map_err(store_error)?;
        let bytes = store.read_file(&manifest, FILE).map_err(store_error)?;
        let hosts: Self = serde_json::from_slice(&bytes).map_err(|e| StageError::permanent(format!("{FILE}: {e}")))?;
        if hosts.version != VERSION {
            return Err(StageError::permanent(format!("{FILE} has version {}, this program reads {VERSION}", hosts.version)));
        }
        Ok(hosts)
    }

    /// Refuses places on other machines or in namespaces for `what`, which runs as processes of this machine alone.
    pub(crate) fn all_local(&self, what: &str) -> Result<(), StageError> {
        match self.roles.iter().find(|h| !matches!(h.place, Place::Child)) {
            None => Ok(()),
            Some(other) => {
                Err(StageError::permanent(format!("{what} run on `fleet: local` only, and {} is elsewhere", other.role)).help(
                    "use a `provision` stage with `fleet: local`, or share the model with `share` for two parties and a dealer",
                ))
            }
        }
    }

    /// The place of a role.
    pub(crate) fn host(&self, role: &str) -> Result<&Host, StageError> {
        let found = self.roles.iter().find(|h| h.role == role);
        found.ok_or_else(|| StageError::permanent(format!("{FILE} has no place for {role}")))
    }
}
