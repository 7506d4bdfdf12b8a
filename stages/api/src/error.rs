//! How a stage fails, in classes the scheduler can act on.

use serde::{Deserialize, Serialize};
use sprint_artifacts::StoreError;

/// What the scheduler does with a failure. The class comes from the stage, never from matching text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorClass {
    /// Another attempt may succeed: a reset connection, a killed child, a busy hub.
    Transient,
    /// The machine was taken away; another attempt elsewhere may succeed.
    Preempted,
    /// The same attempt would fail again: bad data, a bad parameter, a refused digest.
    Permanent,
    /// A budget (privacy, disk, money) does not allow it. Exit code 7.
    Refused,
    /// Stored bytes are not what their digest says. Exit code 6.
    Integrity,
    /// Something the run asked for is not reachable now. Exit code 9.
    RemoteUnavailable,
    /// The run was cancelled; progress so far is kept.
    Cancelled,
}

/// A failed stage, as it is journalled: it serialises, and it holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
#[serde(deny_unknown_fields)]
pub struct StageError {
    /// What the scheduler may do about it.
    pub class: ErrorClass,
    /// What went wrong, with the place (file, field, row).
    pub message: String,
    /// What the user can do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

impl StageError {
    /// A failure of the given class.
    pub fn new(class: ErrorClass, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), help: None }
    }

    /// A failure that another attempt would repeat.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Permanent, message)
    }

    /// A failure that another attempt may not meet.
    pub fn transient(message: impl Into<String>) -> Self {
        Self::new(ErrorClass::Transient, message)
    }

    /// A failure of the store.
    pub fn of_store(error: &StoreError) -> Self {
        let class = match error {
            StoreError::DiskFull { .. } => ErrorClass::Refused,
            e if e.is_integrity() => ErrorClass::Integrity,
            _ => ErrorClass::Transient,
        };
        Self::new(class, with_causes(error))
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// An error and its chain of causes in one line.
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        next = cause.source();
    }
    line
}

/// One thing wrong with a stage's parameters, found before anything runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ParamProblem {
    /// Where: keys from the top of `params`, outermost first (`["lora", "rank"]`). Empty: `params` itself.
    pub path: Vec<String>,
    /// What is wrong.
    pub message: String,
    /// The fix.
    pub help: Option<String>,
}

impl ParamProblem {
    /// A problem at `path`.
    pub fn new(path: &[&str], message: impl Into<String>) -> Self {
        Self { path: path.iter().map(|s| (*s).to_owned()).collect(), message: message.into(), help: None }
    }

    /// Adds the fix.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}
