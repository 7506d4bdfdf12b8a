//! What a run looks like while it runs: events as lines of JSON, moving bars on a terminal, or plain lines.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use sprint_orchestrator::{InstanceId, RunEvent};

use super::{out, seconds, style};

/// Shows events as they come.
pub(crate) enum Screen {
    /// For machines, on standard output; `false` once nobody reads it any more.
    Json(bool),
    /// For people at a terminal, on standard error.
    Bars(Box<Bars>),
    /// For people who read a log.
    Lines,
}

impl Screen {
    /// The screen that suits the options and what standard error is.
    pub(crate) fn new(json: bool) -> Self {
        if json {
            Self::Json(true)
        } else if std::io::stderr().is_terminal() {
            Self::Bars(Box::new(Bars::new()))
        } else {
            Self::Lines
        }
    }

    /// Shows an event.
    pub(crate) fn see(&mut self, event: &RunEvent) {
        if let RunEvent::StageLog { stage, line } = event {
            tracing::info!(%stage, "{line}");
        }
        match self {
            Self::Json(open) => {
                let text = serde_json::to_string(event).expect("events are names, texts and numbers");
                // The run goes on without its reader.
                *open = *open && out::line(text).is_ok();
            }
            Self::Bars(bars) => bars.see(event),
            Self::Lines => told(event).into_iter().for_each(out::note),
        }
    }
}

/// An event worth a line that stays.
fn told(event: &RunEvent) -> Option<String> {
    Some(match event {
        RunEvent::RunStarted { run, workflow, total, resumed } => {
            let verb = if *resumed { "continues" } else { "begins" };
            format!("run {run} of {workflow} {verb}: {total} stages")
        }
        RunEvent::StageHit { stage, .. } => format!("cached   {stage}"),
        RunEvent::StageStarted { stage, attempt: 1, .. } => format!("started  {stage}"),
        RunEvent::StageStarted { stage, attempt, .. } => format!("started  {stage}, attempt {attempt}"),
        RunEvent::StageCommitted { stage, seconds: s, .. } => format!("done     {stage}  {}", seconds(*s)),
        RunEvent::StagePushed { stage, bytes, .. } => format!("pushed   {stage}, {bytes} bytes"),
        RunEvent::StageNotPushed { stage, error } => format!("NOT pushed {stage}: {}", error.message),
        RunEvent::StageRetrying { stage, attempt, failure, wait_s } => {
            format!("retrying {stage} in {}: attempt {attempt} failed: {}", seconds(*wait_s), failure.error.message)
        }
        RunEvent::StageFailed { stage, failure, .. } => format!("failed   {stage}: {}", failure.error.message),
        RunEvent::StageInterrupted { stage, .. } => format!("stopped  {stage}; a later run continues it"),
        RunEvent::StageBlocked { stage, by } if by.is_empty() => format!("not run  {stage}: the run stopped before its turn"),
        RunEvent::StageBlocked { stage, by } => {
            format!("blocked  {stage} by {}", by.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
        }
        RunEvent::LeaseReleasing { stage } => format!("releases what {stage} holds"),
        RunEvent::LeaseKept { stage, error } => format!("KEPT     {stage} still holds something: {}", error.message),
        RunEvent::RunStopping { grace_s } => {
            format!("stopping; stages have {} to save their progress (once more: stop at once)", seconds(*grace_s))
        }
        _ => return None,
    })
}

/// A line for the run and one for each stage under way.
pub(crate) struct Bars {
    all: MultiProgress,
    run: ProgressBar,
    stages: BTreeMap<InstanceId, ProgressBar>,
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::new();
        let run = all.add(ProgressBar::new(0));
        run.set_style(template("{bar:24.cyan/blue} {pos}/{len} stages  {elapsed}{msg}"));
        Self { all, run, stages: BTreeMap::new() }
    }

    fn see(&mut self, event: &RunEvent) {
        if let Some(text) = told(event).filter(|_| !matches!(event, RunEvent::StageStarted { .. })) {
            // A terminal that is gone is noticed elsewhere.
            let _ = self.all.println(text);
        }
        match event {
            RunEvent::RunStarted { total, .. } => {
                self.run.set_length(*total as u64);
                self.run.enable_steady_tick(Duration::from_millis(250));
            }
            RunEvent::StageStarted { stage, .. } => self.start(stage),
            RunEvent::StageProgress { stage, done, total, unit, note } => {
                if let Some(bar) = self.stages.get(stage) {
                    bar.set_message(progress(*done, *total, unit, note.as_deref()));
                    bar.tick();
                }
            }
            RunEvent::StageRetrying { stage, .. } | RunEvent::StageInterrupted { stage, .. } => self.end(stage),
            RunEvent::StageHit { stage, .. }
            | RunEvent::StageCommitted { stage, .. }
            | RunEvent::StageFailed { stage, .. }
            | RunEvent::StageBlocked { stage, .. } => {
                self.end(stage);
                self.run.inc(1);
            }
            RunEvent::RunStopping { .. } => self.run.set_message("  stopping"),
            RunEvent::RunFinished(_) => self.clear(),
            _ => {}
        }
    }

    fn start(&mut self, stage: &InstanceId) {
        let bar = self.all.add(ProgressBar::new_spinner());
        bar.set_style(template("  {spinner} {prefix}  {elapsed}  {msg}"));
        bar.set_prefix(stage.to_string());
        bar.enable_steady_tick(Duration::from_millis(250));
        self.stages.insert(stage.clone(), bar);
    }

    fn end(&mut self, stage: &InstanceId) {
        if let Some(bar) = self.stages.remove(stage) {
            bar.finish_and_clear();
        }
    }

    fn clear(&mut self) {
        for bar in std::mem::take(&mut self.stages).into_values() {
            bar.finish_and_clear();
        }
        self.run.finish_and_clear();
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.clear();
    }
}

fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).expect("the templates here are well formed")
}

/// `12/320 steps  epoch 2/5`; bytes as people read them.
fn progress(done: u64, total: Option<u64>, unit: &str, note: Option<&str>) -> String {
    let amount = |n: u64| if unit == "bytes" { style::bytes(n) } else { n.to_string() };
    let of = total.map(|t| format!("/{}", amount(t))).unwrap_or_default();
    let unit = if unit == "bytes" { String::new() } else { format!(" {unit}") };
    format!("{}{of}{unit}{}", amount(done), note.map(|n| format!("  {n}")).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_says_units_and_notes() {
        assert_eq!(progress(12, Some(320), "steps", Some("epoch 2/5")), "12/320 steps  epoch 2/5");
        assert_eq!(progress(1024, Some(4_718_592), "bytes", None), "1.0 KiB/4.5 MiB");
        assert_eq!(progress(7, None, "rows", None), "7 rows");
    }
}
