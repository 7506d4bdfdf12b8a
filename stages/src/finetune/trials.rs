//! The ledgers of all trainings on one data set: each action has its own, side by side in the store.

use std::fs;
use std::path::Path;

use sprint_dp::budget::Delta;
use sprint_dp::ledger::{Ledger, LedgerError, MemorySink, Trials};
use sprint_stage_api::{StageContext, StageError};
use sprint_train::TrainConfig;

use super::LEDGER;
use crate::errors::with_causes;

/// What all private trainings on this action's data set have cost so far, this one included; `None` for a run that charges nothing.
pub(super) fn of(ctx: &StageContext<'_>, config: &TrainConfig) -> Result<Option<Trials>, StageError> {
    let Some(privacy) = config.privacy.filter(|_| config.seed.is_none()) else { return Ok(None) };
    let data_set = ctx.input("dataset")?.id.to_string();
    let own = ctx.checkpoints().ledger_dir();
    let delta = Delta::new(privacy.delta).map_err(|e| StageError::permanent(with_causes(&e)))?;
    let (ledgers, unreadable) = ledgers(own, &data_set);
    if unreadable > 0 {
        ctx.log(format!("{unreadable} ledgers beside this one cannot be read: what all trainings cost together is not claimed"));
    }
    Trials::compose(&ledgers, unreadable, delta).map(Some).map_err(|e| StageError::permanent(with_causes(&e)))
}

/// The ledgers of `data_set` beside `own` and in it, and how many files are no ledgers. They are copied: another training may be charging its own.
fn ledgers(own: &Path, data_set: &str) -> (Vec<Ledger<MemorySink>>, usize) {
    let siblings = own.parent().and_then(|all| fs::read_dir(all).ok()).into_iter().flatten().flatten();
    let mut paths: Vec<_> = siblings.map(|entry| entry.path()).filter(|path| path != own).collect();
    paths.push(own.to_owned());
    paths.sort();
    let (mut found, mut unreadable) = (Vec::new(), 0);
    for bytes in paths.iter().filter_map(|path| fs::read(path.join(LEDGER)).ok()) {
        match Ledger::open(MemorySink::holding(bytes), data_set) {
            Ok(ledger) => found.push(ledger),
            Err(LedgerError::Dataset { .. }) => {}
            Err(_) => unreadable += 1,
        }
    }
    (found, unreadable)
}
