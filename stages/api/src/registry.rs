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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CachePolicy, Effect, ParamProblem, StageContext, StageError, StageOutputs, StageSpec};

    struct Empty(StageSpec);

    impl Stage for Empty {
        fn spec(&self) -> &StageSpec {
            &self.0
        }

        fn normalise(&self, params: &serde_json::Value) -> Result<serde_json::Value, Vec<ParamProblem>> {
            Ok(params.clone())
        }

        fn run(&self, _ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
            Ok(StageOutputs::new())
        }
    }

    fn stage(kind: &'static str, version: u32) -> Arc<dyn Stage> {
        Arc::new(Empty(StageSpec {
            kind,
            version,
            about: "",
            inputs: vec![],
            outputs: vec![],
            effect: Effect::Pure,
            cache: CachePolicy::Always,
            code_digest: "",
            params_schema: serde_json::Value::Null,
        }))
    }

    #[test]
    fn a_kind_without_version_is_its_newest() {
        let mut registry = Registry::new();
        for (kind, version) in [("b", 2), ("a", 1), ("b", 10), ("b", 1)] {
            registry.register(stage(kind, version)).expect("distinct");
        }
        assert_eq!(registry.get("b", None).map(|s| s.spec().version), Some(10));
        assert_eq!(registry.get("b", Some(2)).map(|s| s.spec().version), Some(2));
        assert!(registry.get("b", Some(3)).is_none() && registry.get("c", None).is_none());
        assert_eq!(registry.versions("b").map(|s| s.spec().version).collect::<Vec<_>>(), [1, 2, 10]);
        assert_eq!(registry.register(stage("a", 1)), Err(RegistryError::Duplicate { kind: "a", version: 1 }));
    }
}
