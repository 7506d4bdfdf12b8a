//! Machines of a cloud, as a stage sees them. The composition root brings the one that knows a provider.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sprint_stage_api::StageError;

/// Which image machines start from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloudImage {
    /// This one.
    Id(String),
    /// The newest of this publisher with a name of this pattern.
    Newest {
        /// The publisher.
        owner: String,
        /// The pattern.
        name: String,
    },
}

/// Machines that are wanted, by everything that names them.
#[derive(Debug, Clone, PartialEq)]
pub struct CloudRequest {
    /// The store's name, different from that of any other store.
    pub store: String,
    /// The run.
    pub run: String,
    /// The stage instance.
    pub slot: String,
    /// The attempt.
    pub attempt: u32,
    /// A file of this lease alone, which outlives crashes.
    pub note: PathBuf,
    /// The service's address, where it is not the provider's own.
    pub endpoint: Option<String>,
    /// Each role's region.
    pub roles: BTreeMap<String, String>,
    /// The type of machine.
    pub instance_type: String,
    /// The image.
    pub image: CloudImage,
    /// Whether to take machines that can be taken away, for less.
    pub spot: bool,
    /// GiB of each root volume.
    pub volume_gib: u32,
    /// Whether machines of a region stand close together.
    pub close: bool,
    /// Longest life, seconds.
    pub ttl_s: u64,
    /// Longest time without work, seconds.
    pub idle_s: Option<u64>,
    /// What a machine costs an hour.
    pub usd_per_hour: Option<f64>,
    /// The most that all may cost.
    pub max_usd: Option<f64>,
    /// Who may log in: an OpenSSH public key.
    pub public_key: String,
    /// From where: `203.0.113.7/32`.
    pub from: String,
    /// The port on which parties listen.
    pub port: u16,
    /// The files of the machines' host key (private, public).
    pub host_key: Option<(PathBuf, PathBuf)>,
}

/// A machine that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudMachine {
    /// The role it is for.
    pub role: String,
    /// The provider's name for it.
    pub id: String,
    /// Its region.
    pub region: String,
    /// Its address from outside.
    pub public_address: Option<String>,
    /// Its address within its region.
    pub private_address: Option<String>,
}

/// A provider of machines.
pub trait CloudFleet: Send + Sync {
    /// Brings up one machine for each role, or finds those of an earlier call; at most one of each role lives at any moment.
    fn up(&self, request: &CloudRequest) -> Result<Vec<CloudMachine>, StageError>;
    /// Gives all of them back; returns when none can cost anything any more.
    fn down(&self, request: &CloudRequest) -> Result<(), StageError>;
}
