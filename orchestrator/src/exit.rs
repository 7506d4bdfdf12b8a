//! Exit codes: a documented interface.

use sprint_stage_api::ErrorClass;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Everything asked for is done.
    Done = 0,
    /// A stage failed.
    StageFailed = 1,
    /// The file or the command line is wrong.
    Usage = 2,
    /// `plan --detailed-exitcode` found work.
    PlanFoundWork = 3,
    /// `--keep-going`: some stages failed, others finished.
    Partial = 4,
    /// Another process drives the run.
    Locked = 5,
    /// Stored bytes are not what their digest says.
    Integrity = 6,
    /// A budget (privacy, disk, money) refused.
    Refused = 7,
    /// Machines may still be running. Wins over all others.
    CloudResources = 8,
    /// Something remote is not reachable; try again.
    RemoteUnavailable = 9,
    /// Stopped by SIGINT; resumable.
    Interrupted = 130,
    /// Stopped by SIGTERM; resumable.
    Terminated = 143,
}

impl ExitCode {
    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The code of a run whose first failure is of this class.
    pub(crate) fn of_failure(class: ErrorClass) -> Self {
        match class {
            ErrorClass::Refused => Self::Refused,
            ErrorClass::Integrity => Self::Integrity,
            ErrorClass::RemoteUnavailable => Self::RemoteUnavailable,
            _ => Self::StageFailed,
        }
    }
}
