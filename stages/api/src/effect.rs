//! What running a stage again would mean.

use serde::{Deserialize, Serialize};

/// What a second execution of the same action would do to the world.
///
/// Two effects are unknown to ordinary build systems: [`Effect::SpendsPrivacy`] and [`Effect::ConsumesCorrelations`]. Neither
/// may be re-executed as if it were a pure function; see ARCHITECTURE.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Effect {
    /// Output depends on inputs and parameters alone.
    Pure,
    /// Reads the outside world (a download); its declared digest or the fetched bytes decide.
    ReadsWorld,
    /// A new invocation of a private mechanism: every attempt is charged to the privacy ledger.
    SpendsPrivacy,
    /// Uses one-time randomness that is burnt before the first dependent byte is sent; never resumed mid-protocol.
    ConsumesCorrelations,
    /// Draws fresh secret randomness, so two executions differ: identity follows the action key, never the bytes.
    FreshRandomness,
    /// Holds something that must be released (machines); never a cached artifact.
    Lease,
}

/// When the result of an earlier execution may stand in for a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CachePolicy {
    /// Whenever the action key is equal.
    Always,
    /// Only when the same run is resumed: the result is a measurement.
    Measure,
    /// Never; runs only if some consumer has to run.
    Never,
}
