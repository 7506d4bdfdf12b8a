//! The kinds of stage a binary knows.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Stage;

/// The kinds of stage a binary knows, by name and version.
#[derive(Clone, Default)]
pub struct Registry {
    kinds: BTreeMap<(&'static str, u32), Arc<dyn Stage>>,
}

/// A registration that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// Two stages claim the same kind and version.
    #[error("stage kind {kind}@{version} is registered twice")]
    Duplicate {
        /// The kind.
        kind: &'static str,
        /// Its version.
        version: u32,
    },
}

impl Registry {
    /// Knows nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a kind.
    pub fn register(&mut self, stage: Arc<dyn Stage>) -> Result<(), RegistryError> {
        let (kind, version) = (stage.spec().kind, stage.spec().version);
        if self.kinds.insert((kind, version), stage).is_some() {
            return Err(RegistryError::Duplicate { kind, version });
        }
        Ok(())
    }

    /// The stage of `kind`, at `version` or (none given) at its newest.
    pub fn get(&self, kind: &str, version: Option<u32>) -> Option<&Arc<dyn Stage>> {
        let of_kind = self.kinds.iter().filter(|((k, v), _)| *k == kind && version.is_none_or(|wanted| wanted == *v));
        of_kind.map(|(_, s)| s).next_back()
    }

    /// Every version of `kind`, oldest first.
    pub fn versions<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Arc<dyn Stage>> + 'a {
        self.kinds.iter().filter(move |((k, _), _)| *k == kind).map(|(_, s)| s)
    }

    /// Every stage, in order of kind and version.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<dyn Stage>> {
        self.kinds.values()
    }
}
