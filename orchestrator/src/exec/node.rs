//! An instance while the dispatcher works on it.

use std::collections::BTreeMap;

use sprint_artifacts::ArtifactId;
use tokio::time::Instant;

use super::claim::Claim;
use super::limits::Share;
use super::retry::Failure;
use crate::plan::{Keyed, Outputs};

/// Where an instance stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// `--only` leaves it out.
    Skipped,
    /// Its inputs are not known yet.
    Waiting,
    /// Its key is known; the store is being asked.
    Evaluating,
    /// Another instance with the same key does the work.
    Following,
    /// Another run does the work; the store is asked again after a while.
    Elsewhere,
    /// Never reused, and nobody has asked for it yet.
    Optional,
    /// It has to run, as soon as its producers are there and it fits.
    Wanted,
    /// An attempt failed; the next one is to come.
    Backoff,
    /// An attempt is under way.
    Running,
    /// An attempt succeeded; its result is being verified and recorded.
    Committing,
    /// An earlier result stands in.
    Hit,
    /// It ran.
    Ran,
    /// It failed.
    Failed,
    /// Others failed.
    Blocked,
    /// Stopped with the run.
    Interrupted,
    /// Never reused, and nobody needed it.
    Unneeded,
}

impl Phase {
    /// Whether something is under way that will report.
    pub(super) fn is_active(self) -> bool {
        matches!(self, Self::Evaluating | Self::Elsewhere | Self::Backoff | Self::Running | Self::Committing)
    }

    /// Whether nothing more happens to it.
    pub(super) fn is_over(self) -> bool {
        self.has_artifacts() || self.is_dead() || matches!(self, Self::Skipped | Self::Unneeded)
    }

    /// Whether its artifacts are in the store.
    pub(super) fn has_artifacts(self) -> bool {
        matches!(self, Self::Hit | Self::Ran)
    }

    /// Whether it will have no artifacts in this run.
    pub(super) fn is_dead(self) -> bool {
        matches!(self, Self::Failed | Self::Blocked | Self::Interrupted)
    }
}

/// An instance while the dispatcher works on it.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) phase: Phase,
    /// Its producers and what it `needs`.
    pub(super) before: Vec<usize>,
    pub(super) keyed: Option<Keyed>,
    /// What consumers' keys are made from.
    pub(super) identity: Option<Outputs>,
    /// What consumers read.
    pub(super) artifacts: BTreeMap<String, ArtifactId>,
    /// Wall seconds of the attempt that made them.
    pub(super) seconds: Option<f64>,
    /// Attempts begun in this run, earlier processes included.
    pub(super) attempts: u32,
    /// Attempts failed in this process.
    pub(super) failures: u32,
    pub(super) attempt: Option<Attempt>,
    pub(super) failure: Option<Failure>,
    /// Held from the last look into the store until the result is there.
    pub(super) claim: Option<Claim>,
}

/// The attempt under way.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) began: Instant,
    pub(super) began_unix_ms: u64,
    pub(super) share: Option<Share>,
    pub(super) metrics: BTreeMap<String, f64>,
    pub(super) timed_out: bool,
    /// The machine it runs on.
    pub(super) host: String,
}

impl Node {
    pub(super) fn new(selected: bool, before: Vec<usize>, attempts: u32) -> Self {
        Self {
            phase: if selected { Phase::Waiting } else { Phase::Skipped },
            before,
            keyed: None,
            identity: None,
            artifacts: BTreeMap::new(),
            seconds: None,
            attempts,
            failures: 0,
            attempt: None,
            failure: None,
            claim: None,
        }
    }
}
