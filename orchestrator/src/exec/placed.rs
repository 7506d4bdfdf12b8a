//! Executors by the name that a stage's `executor` gives.

use std::collections::BTreeMap;
use std::sync::Arc;

use sprint_stage_api::StageError;

use super::executor::{Executor, Intent, IntentId, ReportSender, Stop};

/// Gives each attempt to the executor of its placement.
#[derive(Clone, Default)]
pub struct PlacedExecutor {
    by_name: BTreeMap<&'static str, Arc<dyn Executor>>,
}

impl PlacedExecutor {
    /// With `local` for what runs on this machine.
    pub fn new(local: Arc<dyn Executor>) -> Self {
        Self { by_name: BTreeMap::from([("local", local)]) }
    }

    /// With another executor, for placements of that name.
    #[must_use]
    pub fn with(mut self, name: &'static str, executor: Arc<dyn Executor>) -> Self {
        self.by_name.insert(name, executor);
        self
    }

    fn of(&self, intent: &Intent) -> Option<&Arc<dyn Executor>> {
        self.by_name.get(intent.placement.name())
    }
}

impl Executor for PlacedExecutor {
    fn submit(&self, intent: Intent, reports: ReportSender) -> Result<(), StageError> {
        match self.of(&intent) {
            Some(executor) => executor.clone().submit(intent, reports),
            None => Err(StageError::permanent(format!("this program has no executor `{}`", intent.placement.name()))),
        }
    }

    fn knows(&self, intent: &Intent) -> bool {
        self.of(intent).is_some_and(|e| e.knows(intent))
    }

    fn cancel(&self, id: &IntentId, how: Stop) {
        // Only one of them knows it.
        for executor in self.by_name.values() {
            executor.cancel(id, how);
        }
    }

    fn forget(&self, id: &IntentId) {
        for executor in self.by_name.values() {
            executor.forget(id);
        }
    }
}
