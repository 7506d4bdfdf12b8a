//! What a run was, once it is over.

use std::collections::BTreeMap;

use sprint_orchestrator::{InstanceId, RunEvent, RunReport, RunStatus};

use super::table::grid;
use super::{out, seconds};

/// More instances than this are summed up by stage.
const LISTED: usize = 24;

/// How every instance ended and how long it took, learnt from the events.
#[derive(Debug, Default)]
pub(crate) struct Account {
    order: Vec<InstanceId>,
    ends: BTreeMap<InstanceId, End>,
}

#[derive(Debug, Clone, Copy)]
struct End {
    word: &'static str,
    seconds: Option<f64>,
}

impl Account {
    /// Takes an event into account.
    pub(crate) fn see(&mut self, event: &RunEvent) {
        let (stage, word, seconds) = match event {
            RunEvent::StageHit { stage, .. } => (stage, "cached", None),
            RunEvent::StageCommitted { stage, seconds, .. } => (stage, "ran", Some(*seconds)),
            RunEvent::StageFailed { stage, .. } => (stage, "failed", None),
            RunEvent::StageInterrupted { stage, .. } => (stage, "stopped", None),
            RunEvent::StageBlocked { stage, .. } => (stage, "not run", None),
            _ => return,
        };
        if self.ends.insert(stage.clone(), End { word, seconds }).is_none() {
            self.order.push(stage.clone());
        }
    }

    /// Tells people how the run went, and where its outputs are.
    pub(crate) fn tell(&self, report: &RunReport) {
        let end = &report.finished;
        let word = match end.status {
            RunStatus::Succeeded => "succeeded",
            RunStatus::Failed => "failed",
            RunStatus::Partial => "finished in part",
            RunStatus::Interrupted => "was stopped; `sprint-flow run` or `resume` continues it",
            _ => "ended",
        };
        let rows = if self.order.len() > LISTED { self.by_stage() } else { self.by_instance() };
        if !rows.is_empty() {
            out::note(format_args!("\n{}", grid(&["stage", "state", "time"], &rows)));
        }
        if !end.outputs.is_empty() {
            let outputs = end.outputs.iter().map(|(name, output)| {
                let place = output.path.as_ref().map_or_else(
                    || format!("sprint-flow artifacts get {} --out DIR", output.digest.short()),
                    |path| path.display().to_string(),
                );
                vec![name.clone(), output.digest.short(), place]
            });
            out::note(format_args!("\n{}", grid(&["output", "digest", "where"], &outputs.collect::<Vec<_>>())));
        }
        let c = end.stages;
        let mut parts = vec![format!("{} ran", c.ran), format!("{} cached", c.hit)];
        parts.extend(
            [(c.failed, "failed"), (c.blocked, "not run")].iter().filter(|(n, _)| *n > 0).map(|(n, w)| format!("{n} {w}")),
        );
        out::note(format_args!("\nrun {} {word} in {}: {}", end.run, seconds(end.seconds), parts.join(", ")));
    }

    fn by_instance(&self) -> Vec<Vec<String>> {
        let row = |id: &InstanceId| {
            let end = self.ends[id];
            vec![id.to_string(), end.word.to_owned(), end.seconds.map(seconds).unwrap_or_default()]
        };
        self.order.iter().map(row).collect()
    }

    fn by_stage(&self) -> Vec<Vec<String>> {
        let mut stages: Vec<&str> = Vec::new();
        for id in &self.order {
            if !stages.contains(&id.stage()) {
                stages.push(id.stage());
            }
        }
        let row = |stage: &&str| {
            let ends: Vec<&End> = self.order.iter().filter(|id| id.stage() == *stage).map(|id| &self.ends[id]).collect();
            let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
            for end in &ends {
                *counts.entry(end.word).or_default() += 1;
            }
            let states = counts.iter().map(|(word, n)| format!("{n} {word}")).collect::<Vec<_>>().join(", ");
            let times: Vec<f64> = ends.iter().filter_map(|e| e.seconds).collect();
            let time = if times.is_empty() { String::new() } else { seconds(times.iter().sum()) };
            vec![format!("{stage} ×{}", ends.len()), states, time]
        };
        stages.iter().map(row).collect()
    }
}
