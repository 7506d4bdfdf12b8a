//! A command's failure, with its documented exit code.

use sprint_orchestrator::Diagnostics;
pub(crate) use sprint_stage_api::with_causes as chain;

/// An exit code of the documented set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(u8);

impl Code {
    pub(crate) const DONE: Self = Self(0);
    pub(crate) const FAILED: Self = Self(1);
    pub(crate) const USAGE: Self = Self(2);
    pub(crate) const PLAN_FOUND_WORK: Self = Self(3);
    pub(crate) const PARTIAL: Self = Self(4);
    pub(crate) const LOCKED: Self = Self(5);
    pub(crate) const INTEGRITY: Self = Self(6);
    pub(crate) const REFUSED: Self = Self(7);
    #[cfg(feature = "aws")]
    pub(crate) const CLOUD_RESOURCES: Self = Self(8);
    #[cfg(feature = "aws")]
    pub(crate) const REMOTE_UNAVAILABLE: Self = Self(9);

    pub(crate) const fn new(code: u8) -> Self {
        Self(code)
    }

    pub(crate) fn get(self) -> u8 {
        self.0
    }
}

/// Why a command failed. What the user can do about it goes into `help`.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Mistakes in a workflow, each with its place.
    Workflow(Diagnostics),
    /// Whoever read standard output has gone; there is nobody to tell.
    Closed,
    /// Anything else.
    Plain {
        /// The exit code.
        code: Code,
        /// What went wrong, outermost first.
        message: String,
        /// The fix.
        help: Option<String>,
    },
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self::Plain { code, message: message.into(), help: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Code::USAGE, message)
    }

    /// A failure that carries the whole chain of causes of `error`.
    pub(crate) fn from_error(code: Code, error: &dyn std::error::Error) -> Self {
        Self::new(code, chain(error))
    }

    pub(crate) fn help(self, text: impl Into<String>) -> Self {
        match self {
            Self::Plain { code, message, .. } => Self::Plain { code, message, help: Some(text.into()) },
            other => other,
        }
    }

    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Workflow(_) => Code::USAGE,
            Self::Closed => Code::DONE,
            Self::Plain { code, .. } => *code,
        }
    }
}
