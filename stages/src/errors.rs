//! What stages and the store say to each other: errors in the classes a scheduler acts on, and artifacts.

use sprint_artifacts::{ArtifactId, ManifestBuilder, Store, StoreError};
pub(crate) use sprint_stage_api::with_causes;
use sprint_stage_api::{PRIVATE, StageContext, StageError};

/// A failure of the store.
pub(crate) fn store_error(error: StoreError) -> StageError {
    StageError::of_store(&error)
}

/// `builder`, stamped if no privacy claim holds for it.
pub(crate) fn stamped(builder: ManifestBuilder, private: bool) -> ManifestBuilder {
    if private { builder } else { builder.meta(PRIVATE, false) }
}

/// Where artifacts are put: a stage's context, which stamps them, or, in tests, a store.
pub(crate) trait Put {
    /// Stores one.
    fn put(&self, builder: ManifestBuilder) -> Result<ArtifactId, StageError>;
}

impl Put for StageContext<'_> {
    fn put(&self, builder: ManifestBuilder) -> Result<ArtifactId, StageError> {
        StageContext::put(self, builder)
    }
}

impl Put for Store {
    fn put(&self, builder: ManifestBuilder) -> Result<ArtifactId, StageError> {
        Ok(self.put_artifact(builder).map_err(store_error)?.0)
    }
}
