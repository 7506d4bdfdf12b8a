//! Engine and store errors, sorted into the classes a scheduler acts on.

use std::error::Error;

use sprint_artifacts::StoreError;
use sprint_stage_api::{ErrorClass, StageError};

/// A failure of the store.
pub(crate) fn store_error(error: StoreError) -> StageError {
    let class = match &error {
        StoreError::DiskFull { .. } => ErrorClass::Refused,
        e if e.is_integrity() => ErrorClass::Integrity,
        _ => ErrorClass::Transient,
    };
    StageError::new(class, with_causes(&error))
}

/// An error and its chain of causes in one line.
pub(crate) fn with_causes(error: &dyn Error) -> String {
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
