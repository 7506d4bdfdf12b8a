//! Why a download fails, and what may be done about it.

use std::io;
use std::path::Path;

use sprint_stage_api::{ErrorClass, StageError};

/// Why a file could not be fetched.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchError {
    #[error("{0}")]
    Network(String),
    #[error("the server answered {status}{}", code.as_ref().map(|c| format!(" ({c})")).unwrap_or_default())]
    Status { status: u16, code: Option<String> },
    #[error("the server answered with an HTML page in place of the file")]
    Html,
    #[error("the file changed at its source while it was downloaded")]
    Changed,
    #[error("the server sent another part of the file than was asked for")]
    Range,
    #[error("{found} bytes came, {want} were announced")]
    Length { want: u64, found: u64 },
    #[error("the file is larger than max_bytes = {limit}")]
    TooLarge { limit: u64 },
    #[error("the file is not the expected one: it has {found}, expected {want}")]
    Digest { want: String, found: String },
    #[error("the repository is now at commit {found}; {want} was expected")]
    Moved { want: String, found: String },
    #[error("it redirects to nowhere, in a circle, or from https to http")]
    Redirect,
    #[error("{path}: {message}")]
    File { path: String, message: String, full: bool },
    #[error("cancelled")]
    Cancelled,
}

impl FetchError {
    /// The chain of causes without the URL, which may carry a query with a signature.
    pub(super) fn network(error: &reqwest::Error) -> Self {
        let mut causes = Vec::new();
        let mut next: Option<&dyn std::error::Error> = std::error::Error::source(error);
        while let Some(cause) = next {
            causes.push(cause.to_string());
            next = cause.source();
        }
        let kind = match error {
            e if e.is_timeout() => "no answer in time",
            e if e.is_connect() => "no connection",
            _ => "the connection broke",
        };
        Self::Network(if causes.is_empty() { kind.to_owned() } else { format!("{kind} ({})", causes.join(": ")) })
    }

    pub(super) fn file(path: &Path, error: io::Error) -> Self {
        let full = error.kind() == io::ErrorKind::StorageFull;
        Self::File { path: path.display().to_string(), message: error.to_string(), full }
    }

    /// The stage's error, for the source the user named.
    pub(super) fn into_stage(self, what: &str) -> StageError {
        let (class, help) = match &self {
            Self::Network(_) | Self::Html => (
                ErrorClass::RemoteUnavailable,
                Some("what has arrived is kept; run again when the source is reachable, or name a mirror in HF_ENDPOINT"),
            ),
            Self::Status { status: 401 | 403, .. } => (
                ErrorClass::Permanent,
                Some("the source wants a login: set HF_TOKEN, and accept the repository's terms on its page"),
            ),
            Self::Status { status: 404 | 410, .. } => (ErrorClass::Permanent, Some("check the spelling, and the revision")),
            Self::Status { status, .. } if *status == 429 || *status >= 500 => (ErrorClass::RemoteUnavailable, None),
            Self::Changed | Self::Moved { .. } => (ErrorClass::Transient, None),
            Self::Range | Self::Length { .. } => (ErrorClass::Transient, None),
            Self::TooLarge { .. } => (ErrorClass::Refused, Some("raise max_bytes if this is the right file")),
            Self::Digest { .. } => {
                (ErrorClass::Permanent, Some("if the file was changed on purpose, write its new digest into the workflow"))
            }
            Self::File { full: true, .. } => (ErrorClass::Refused, Some("free some disk space")),
            Self::Cancelled => (ErrorClass::Cancelled, None),
            Self::Status { .. } | Self::Redirect | Self::File { .. } => (ErrorClass::Permanent, None),
        };
        let error = StageError::new(class, format!("{what}: {self}"));
        match help {
            Some(help) => error.help(help),
            None => error,
        }
    }
}
