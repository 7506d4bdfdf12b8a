//! An executor on threads of this process, for tests and toy registries: a stage that dies takes the run with it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sprint_artifacts::{Store, StoreOptions};
use sprint_stage_api::{ErrorClass, EventSink, Registry, StageError, StageEvent, with_causes};

use super::attempt::{perform, store_class};
use super::executor::{Executor, Intent, IntentId, Outcome, Report, ReportSender, Stop};
use super::protocol::Request;

/// Runs attempts on threads of this process.
#[derive(Clone)]
pub struct InProcessExecutor {
    registry: Registry,
    running: Arc<Mutex<BTreeMap<IntentId, Attempt>>>,
}

#[derive(Clone)]
struct Attempt {
    cancelled: Arc<AtomicBool>,
    reports: ReportSender,
}

impl InProcessExecutor {
    /// Runs stages of `registry`.
    pub fn new(registry: Registry) -> Self {
        Self { registry, running: Arc::default() }
    }

    /// Ends an attempt once; what its thread says afterwards is not heard.
    fn end(running: &Mutex<BTreeMap<IntentId, Attempt>>, id: &IntentId, outcome: Outcome) {
        let attempt = running.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        if let Some(attempt) = attempt {
            let _ = attempt.reports.send((id.clone(), Report::Ended(outcome)));
        }
    }
}

struct Sink {
    id: IntentId,
    reports: ReportSender,
}

impl EventSink for Sink {
    fn emit(&self, event: StageEvent) {
        let _ = self.reports.send((self.id.clone(), Report::Event(event)));
    }
}

impl Executor for InProcessExecutor {
    fn submit(&self, intent: Intent, reports: ReportSender) -> Result<(), StageError> {
        let cancelled = Arc::new(AtomicBool::new(false));
        let attempt = Attempt { cancelled: cancelled.clone(), reports: reports.clone() };
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(intent.id.clone(), attempt);
        let (registry, running) = (self.registry.clone(), self.running.clone());
        std::thread::spawn(move || {
            let sink = Sink { id: intent.id.clone(), reports };
            let outcome = match Store::open(&intent.store, StoreOptions::read_write().index(false)) {
                Ok(store) => {
                    perform(&Request::of(&intent), &registry, &store, None, &sink, &|| cancelled.load(Ordering::Relaxed))
                }
                Err(e) => Outcome::Failed(StageError::new(store_class(&e), with_causes(&e))),
            };
            Self::end(&running, &intent.id, outcome);
        });
        Ok(())
    }

    fn cancel(&self, id: &IntentId, how: Stop) {
        let attempt = self.running.lock().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        let Some(attempt) = attempt else { return };
        attempt.cancelled.store(true, Ordering::Relaxed);
        if how == Stop::Now {
            let error = StageError::new(ErrorClass::Cancelled, "stopped");
            Self::end(&self.running, id, Outcome::Failed(error));
        }
    }
}
