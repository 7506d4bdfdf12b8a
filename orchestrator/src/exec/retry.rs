//! Which failures are tried again, and when.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use sprint_stage_api::{ErrorClass, StageError};

use crate::workflow::Retry;

/// A class of failure that `retry.on` can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum RetryOn {
    /// A reset connection, a killed child, a busy hub.
    Transient,
    /// The machine was taken away.
    Preempted,
    /// The attempt took longer than `timeout`; the next one continues from its checkpoint.
    Timeout,
    /// Something remote is not reachable now.
    RemoteUnavailable,
}

impl RetryOn {
    /// The names in a workflow file.
    pub(crate) const NAMES: &'static [(&'static str, Self)] = &[
        ("transient", Self::Transient),
        ("preempted", Self::Preempted),
        ("timeout", Self::Timeout),
        ("remote_unavailable", Self::RemoteUnavailable),
    ];
}

/// How an attempt ended badly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// What the stage, or the executor in its place, says.
    pub error: StageError,
    /// Whether it was the time limit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub timed_out: bool,
}

impl Failure {
    /// A failure that the stage reported.
    pub fn of(error: StageError) -> Self {
        Self { error, timed_out: false }
    }

    fn worth_retrying(&self, retry: &Retry) -> bool {
        let as_named = match self.error.class {
            _ if self.timed_out => RetryOn::Timeout,
            ErrorClass::Transient => RetryOn::Transient,
            ErrorClass::Preempted => RetryOn::Preempted,
            ErrorClass::RemoteUnavailable => RetryOn::RemoteUnavailable,
            _ => return false,
        };
        retry.on.contains(&as_named)
    }
}

/// The wait before the attempt after `failed` failed attempts of this run, or `None` if that was the last.
///
/// wait(n) = min(backoff_max, backoff_min · 2^(n−1)), n counting from 1.
pub(crate) fn next_attempt(retry: &Retry, failure: &Failure, failed: u32) -> Option<Duration> {
    if failed > retry.max || !failure.worth_retrying(retry) {
        return None;
    }
    let factor = 2u32.saturating_pow(failed.saturating_sub(1));
    Some(retry.backoff_min.saturating_mul(factor).min(retry.backoff_max))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Retry {
        let on = vec![RetryOn::Transient];
        Retry { max: 3, backoff_min: Duration::from_secs(1), backoff_max: Duration::from_secs(3), on }
    }

    #[test]
    fn waits_double_up_to_the_longest_and_end_after_max() {
        let transient = Failure::of(StageError::transient("reset"));
        let waits: Vec<_> = (1..=4).map(|n| next_attempt(&policy(), &transient, n).map(|d| d.as_secs())).collect();
        assert_eq!(waits, [Some(1), Some(2), Some(3), None]);
        assert_eq!(next_attempt(&Retry { max: u32::MAX, ..policy() }, &transient, 1000), Some(Duration::from_secs(3)));
    }

    #[test]
    fn only_named_classes_are_tried_again() {
        for class in [ErrorClass::Permanent, ErrorClass::Refused, ErrorClass::Integrity, ErrorClass::Preempted] {
            assert_eq!(next_attempt(&policy(), &Failure::of(StageError::new(class, "x")), 1), None, "{class:?}");
        }
        let timeout = Failure { error: StageError::transient("slow"), timed_out: true };
        assert_eq!(next_attempt(&policy(), &timeout, 1), None);
    }
}
