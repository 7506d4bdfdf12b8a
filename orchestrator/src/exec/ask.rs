//! Whether an instance has to run: the store is asked, and if it has no result, the right to make one is taken.

use std::sync::OnceLock;

use sprint_artifacts::{Check, Remote, ResultRecord, Store};
use sprint_stage_api::{CachePolicy, StageError};

use super::claim::Claim;
use super::commit::record_error;
use super::remote::pull;
use crate::plan::{Found, History, Keyed, look_up, reasons};
use crate::workflow::Workflow;

/// What the store says about an instance.
pub(super) enum Answer {
    Hit(Box<ResultRecord>),
    /// It has to run; the claim is absent where results are not shared between runs.
    Miss {
        why: Vec<String>,
        claim: Option<Claim>,
    },
    /// Another run works on it.
    Elsewhere,
}

/// An instance whose key is known, while the store is asked.
pub(super) struct Asked<'a> {
    pub(super) workflow: &'a Workflow,
    pub(super) store: &'a Store,
    pub(super) run: &'a str,
    pub(super) index: usize,
    pub(super) keyed: &'a Keyed,
    pub(super) remote: Option<&'a Remote>,
}

impl Asked<'_> {
    pub(super) fn answer(&self, history: &OnceLock<History>) -> Result<Answer, StageError> {
        let instance = &self.workflow.instances()[self.index];
        let stage = self.workflow.stage_of(instance);
        let look = || {
            let (spec, policy) = (stage.kind().spec(), stage.cache());
            look_up(self.store, spec, policy, &self.keyed.key, Some(self.run), Check::Full).map_err(|e| record_error(&e))
        };
        let faults = match look()? {
            Found::Hit(record) => return Ok(Answer::Hit(record)),
            Found::Miss(faults) => faults,
        };
        let mut claim = None;
        if stage.cache() == CachePolicy::Always {
            claim = Claim::take(self.store, self.keyed.key)?;
            if claim.is_none() {
                return Ok(Answer::Elsewhere);
            }
            // What another run committed before this one had the claim.
            if let Found::Hit(record) = look()? {
                return Ok(Answer::Hit(record));
            }
            // What another machine has computed.
            if let Some(remote) = self.remote
                && pull(remote, self.store, &self.keyed.key)?
                && let Found::Hit(record) = look()?
            {
                return Ok(Answer::Hit(record));
            }
        }
        let why = if faults.is_empty() { self.changes(history) } else { faults };
        Ok(Answer::Miss { why, claim })
    }

    /// What differs from the nearest earlier result. Explaining must not fail the run: without a history, everything is new.
    fn changes(&self, history: &OnceLock<History>) -> Vec<String> {
        let history = history.get_or_init(|| History::load(self.store).unwrap_or_default());
        let instance = &self.workflow.instances()[self.index];
        match history.changes(instance.id(), &self.keyed.preimage) {
            Some(changes) => reasons(self.workflow, instance, &changes),
            None => vec!["never ran before".to_owned()],
        }
    }
}
