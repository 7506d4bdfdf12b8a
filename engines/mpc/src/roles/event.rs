//! What a role says on standard output: one JSON object a line.

use serde::{Deserialize, Serialize};

use crate::Role;
use crate::meter::{InferenceMeter, RoleMeter};

/// A line of a role's standard output.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Event {
    /// A port is bound; the peers may dial.
    Listening {
        /// Who.
        role: Role,
        /// Where.
        addr: String,
    },
    /// Programs are compiled and weights are read; what is left is to connect.
    Loaded {
        /// Who.
        role: Role,
    },
    /// Every link is up and every handshake agreed.
    Ready {
        /// Who.
        role: Role,
    },
    /// A party has released an output share.
    Inference {
        /// Who.
        role: Role,
        /// What it cost.
        meter: InferenceMeter,
    },
    /// The role gives up; the process ends.
    Failed {
        /// Who.
        role: Role,
        /// The class, as peers learn it.
        class: String,
        /// All of it, for the operator of this machine.
        message: String,
        /// Whether it only follows from another role's failure.
        secondary: bool,
    },
    /// The session ended well; the process ends.
    Finished {
        /// Who.
        role: Role,
        /// What its whole life cost.
        meter: RoleMeter,
    },
}
