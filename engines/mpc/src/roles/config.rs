//! The one line a role reads.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::RoleError;
use crate::net::{IdentityPem, LinkShape};
use crate::{BatchId, CertPin, Role, SessionId};

/// Version of [`RoleConfig`].
pub(crate) const CONFIG_VERSION: u32 = 1;

/// How long to wait and how much to hold.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Until every link is up, seconds.
    pub connect_s: f64,
    /// Longest silence within a frame or a round, seconds.
    pub stall_s: f64,
    /// Longest making of one inference's material, seconds.
    pub offline_s: f64,
    /// Longest inference, as the client waits for it, seconds.
    pub inference_s: f64,
    /// Bytes of material a party holds in memory.
    pub stock_bytes: u64,
    /// Bytes of material a party holds on disk beside its ledger, beyond memory.
    pub spool_bytes: u64,
    /// Inferences whose material is ordered before their requests come.
    pub lookahead: usize,
    /// Whether the parties measure the link between them before the first request.
    pub measure_link: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect_s: 60.0,
            stall_s: 60.0,
            offline_s: 1800.0,
            inference_s: 3600.0,
            stock_bytes: 384 << 20,
            spool_bytes: 8 << 30,
            lookahead: 2,
            measure_link: false,
        }
    }
}

impl Limits {
    /// Refuses what is no duration.
    pub(crate) fn check(&self) -> Result<(), RoleError> {
        let all = [self.connect_s, self.stall_s, self.offline_s, self.inference_s];
        if all.iter().all(|s| (0.0..=1e7).contains(s) && *s > 0.0) {
            return Ok(());
        }
        Err(RoleError::Config(format!("limits must be positive seconds: {self:?}")))
    }

    pub(crate) fn connect(&self) -> Duration {
        Duration::from_secs_f64(self.connect_s)
    }

    pub(crate) fn stall(&self) -> Duration {
        Duration::from_secs_f64(self.stall_s)
    }

    pub(crate) fn offline(&self) -> Duration {
        Duration::from_secs_f64(self.offline_s)
    }

    pub(crate) fn inference(&self) -> Duration {
        Duration::from_secs_f64(self.inference_s)
    }
}

/// Another role, as seen from this one.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PeerConfig {
    /// Which.
    pub(crate) role: Role,
    /// Its certificate's digest.
    pub(crate) pin: CertPin,
    /// Where it listens, if this role dials it.
    pub(crate) addr: Option<String>,
    /// The link's delay and rate.
    pub(crate) shape: LinkShape,
}

/// The part of the configuration that is no secret.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    pub(crate) version: u32,
    pub(crate) role: Role,
    pub(crate) session: SessionId,
    pub(crate) batch: BatchId,
    /// Where to listen; port 0 picks one.
    pub(crate) bind: String,
    pub(crate) peers: Vec<PeerConfig>,
    pub(crate) limits: Limits,
    /// Program numbers of the requests to come.
    pub(crate) plan: Vec<u32>,
    /// The program of all requests after those.
    #[serde(default)]
    pub(crate) standing: Option<u32>,
    /// Threads that compute; those that only move bytes are not counted.
    pub(crate) threads: NonZeroUsize,
    /// Three servers and no dealer.
    #[serde(default)]
    pub(crate) three: bool,
    /// A party's one-time-material ledger.
    pub(crate) ledger: Option<PathBuf>,
    /// A party's folder of material made ahead; without one, the dealer streams.
    pub(crate) material: Option<PathBuf>,
    /// What to evaluate, in the workload's own words.
    pub(crate) workload: serde_json::Value,
}

/// All of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RoleConfig {
    pub(crate) settings: Settings,
    pub(crate) identity: IdentityPem,
}

impl RoleConfig {
    /// Reads and checks the line.
    pub(crate) fn parse(line: &[u8], role: Role) -> Result<Self, RoleError> {
        // The parser's message could quote the line, and with it the key: only its place is told.
        let parsed: Self = serde_json::from_slice(line).map_err(|e| {
            RoleError::Config(format!("the first line on standard input is not a role configuration (column {})", e.column()))
        })?;
        let settings = &parsed.settings;
        let refuse = |what: String| Err(RoleError::Config(what));
        if settings.version != CONFIG_VERSION {
            return refuse(format!("version {} is not {CONFIG_VERSION}", settings.version));
        }
        if settings.role != role {
            return refuse(format!("it is for {}, this is {role}", settings.role));
        }
        if let Some(bad) = settings.peers.iter().find(|p| !p.shape.is_valid()) {
            return refuse(format!("the link to {} has no possible shape: {:?}", bad.role, bad.shape));
        }
        settings.limits.check()?;
        Ok(parsed)
    }
}

impl Settings {
    pub(crate) fn peer(&self, role: Role) -> Result<&PeerConfig, RoleError> {
        let found = self.peers.iter().find(|p| p.role == role);
        found.ok_or_else(|| RoleError::Config(format!("{} knows nothing of {role}", self.role)))
    }

    pub(crate) fn addr(&self, role: Role) -> Result<&str, RoleError> {
        let addr = self.peer(role)?.addr.as_deref();
        addr.ok_or_else(|| RoleError::Config(format!("{} has no address of {role}", self.role)))
    }

    pub(crate) fn pins(&self) -> BTreeMap<Role, CertPin> {
        self.peers.iter().map(|p| (p.role, p.pin)).collect()
    }
}
