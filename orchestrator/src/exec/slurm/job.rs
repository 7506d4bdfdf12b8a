//! One attempt while its job is in the queue: handed in or taken up, listened to, stopped, and judged when it is gone.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sprint_stage_api::{ErrorClass, StageError, StageEvent, with_causes};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::SlurmSettings;
use super::client::{CommandError, Listed, Look, Queue};
use super::folder::{Ear, JobFolder, Ticket};
use super::script::{arguments, script};
use super::state::{End, JobState};
use crate::exec::executor::{Intent, IntentId, Outcome, Report, ReportSender, Stop};
use crate::exec::protocol::{Request, Say};

/// How often what the job says is read, at most.
const LISTEN: Duration = Duration::from_secs(1);
/// How long the end of a stopped job is waited for while the controller does not answer.
const UNCONFIRMED: Duration = Duration::from_secs(60);
/// How often a job that is to stop is told.
const TELL_AGAIN: Duration = Duration::from_secs(5);
/// Waits before the queue is looked at again for a submission whose answer was lost.
const LOST_ANSWER: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(9)];

pub(super) struct Attempt {
    settings: Arc<SlurmSettings>,
    queue: Arc<Queue>,
    folder: JobFolder,
    name: String,
    /// The names of the attempts before this one.
    earlier: Vec<String>,
    reports: ReportSender,
    orders: mpsc::UnboundedReceiver<Stop>,
    id: Option<IntentId>,
    job: Option<u64>,
    ear: Ear,
    /// What the newest start came to.
    said: Option<Outcome>,
    stop: Option<Stopping>,
    shown: String,
    /// Looks at the queue without a job that could still run.
    missed: u32,
    looked: u64,
}

struct Stopping {
    how: Stop,
    since: Instant,
    /// When the job was told last.
    told: Option<Instant>,
}

impl Stopping {
    /// A job that has only just begun may not hear, so it is told again.
    fn is_due(&self) -> bool {
        self.told.is_none_or(|at| at.elapsed() > TELL_AGAIN)
    }
}

impl Attempt {
    pub(super) fn new(
        settings: &Arc<SlurmSettings>,
        queue: Arc<Queue>,
        folder: JobFolder,
        name: String,
        earlier: Vec<String>,
        reports: ReportSender,
        orders: mpsc::UnboundedReceiver<Stop>,
    ) -> Self {
        Self {
            settings: settings.clone(),
            queue,
            folder,
            name,
            earlier,
            reports,
            orders,
            id: None,
            job: None,
            ear: Ear::default(),
            said: None,
            stop: None,
            shown: String::new(),
            missed: 0,
            looked: 0,
        }
    }

    pub(super) async fn run(mut self, intent: Intent) -> Outcome {
        self.id = Some(intent.id.clone());
        let outcome = match self.hand_in(&intent).await {
            Ok(()) => self.follow().await,
            Err(error) => Outcome::Failed(error),
        };
        append(&self.folder.slurm_output(), &intent.log);
        if let Err(error) = self.folder.set_end(&outcome) {
            tracing::warn!(job = self.name, error = error.message, "the end of an attempt could not be noted");
        }
        outcome
    }

    fn report(&self, report: Report) {
        if let Some(id) = &self.id {
            let _ = self.reports.send((id.clone(), report));
        }
    }

    fn say(&self, line: String) {
        self.report(Report::Event(StageEvent::Log { line }));
    }

    /// Sees to it that there is a job of the name, and one only.
    async fn hand_in(&mut self, intent: &Intent) -> Result<(), StageError> {
        if let Some(parent) = intent.log.parent() {
            std::fs::create_dir_all(parent).map_err(|e| crate::exec::attempt::io_error("create", parent, &e))?;
        }
        if !self.folder.is_open_for(&intent.key) {
            self.folder.prepare(&Request::of(intent))?;
            self.end_earlier().await;
            return self.submit(intent).await;
        }
        self.job = self.folder.ticket().and_then(|t| t.job);
        if self.folder.end().is_some() || self.folder.said(0).exists() {
            return Ok(());
        }
        // The submission may have arrived although nobody noted its answer.
        let found = self.look_patiently().await?;
        match (found.jobs.iter().map(|l| l.job).min(), self.job) {
            (Some(job), _) => {
                self.say(format!("Slurm job {job} of an earlier process goes on: it is taken up, not submitted again"));
                self.note(job);
            }
            (None, Some(_)) => {}
            (None, None) => return self.submit(intent).await,
        }
        Ok(())
    }

    /// The jobs of the name now, however long the controller takes to answer.
    async fn look_patiently(&mut self) -> Result<Look, StageError> {
        loop {
            match self.queue.look(&self.name, Duration::ZERO).await {
                Ok(look) => return Ok(look),
                Err(error @ CommandError::Start { .. }) => return Err(unusable(&error)),
                Err(error) => self.show(format!("Slurm does not answer: {}", with_causes(&error))),
            }
            tokio::select! {
                _ = self.orders.recv() => return Err(StageError::new(ErrorClass::Cancelled, "stopped while Slurm did not answer")),
                () = tokio::time::sleep(self.queue.poll) => {}
            }
        }
    }

    /// Jobs of attempts that were given up do no harm, since they hold no lock of this one, but they cost.
    async fn end_earlier(&self) {
        for name in &self.earlier {
            let Ok(look) = self.queue.look(name, self.queue.poll).await else { return };
            for listed in look.jobs.iter().filter(|l| !matches!(l.state, JobState::Over(_))) {
                let _ = self.queue.commands.end(listed.job, listed.state == JobState::Running).await;
            }
        }
    }

    async fn submit(&mut self, intent: &Intent) -> Result<(), StageError> {
        let args = arguments(intent, &self.name, &self.folder)?;
        let error = match self.queue.commands.submit(args, script(intent, &self.settings, &self.folder)).await {
            Ok(job) => {
                self.say(format!("submitted to Slurm as job {job}"));
                self.note(job);
                return Ok(());
            }
            Err(error @ CommandError::Start { .. }) => return Err(unusable(&error)),
            Err(error) => error,
        };
        let looks = if error.is_unclear() { &LOST_ANSWER[..] } else { &[] };
        for wait in looks {
            tokio::time::sleep(*wait).await;
            let found = self.queue.look(&self.name, Duration::ZERO).await.ok();
            if let Some(job) = found.and_then(|l| l.jobs.iter().map(|l| l.job).min()) {
                self.say(format!("the submission arrived as Slurm job {job} although sbatch failed"));
                self.note(job);
                return Ok(());
            }
        }
        let message = with_causes(&error);
        Err(if error.is_unclear() {
            StageError::transient(format!("the job could not be submitted: {message}"))
        } else {
            StageError::permanent(format!("Slurm refuses the job: {message}")).help(
                "see the stage's resources and executor.slurm; `sinfo` shows the partitions, `sacctmgr show assoc` the accounts",
            )
        })
    }

    fn note(&mut self, job: u64) {
        if self.job == Some(job) {
            return;
        }
        self.job = Some(job);
        if let Some(ticket) = self.folder.ticket() {
            // Without the number the job is found by its name.
            let _ = self.folder.set_ticket(&Ticket { job: Some(job), ..ticket });
        }
    }

    async fn follow(&mut self) -> Outcome {
        if let Some(end) = self.folder.end() {
            return end;
        }
        loop {
            if let Some(outcome) = self.listen() {
                return outcome;
            }
            if let Some(outcome) = self.watch().await {
                // What it said last may have come meanwhile.
                return self.listen().unwrap_or(outcome);
            }
            tokio::select! {
                Some(how) = self.orders.recv() => {
                    let since = self.stop.as_ref().map_or_else(Instant::now, |s| s.since);
                    self.stop = Some(Stopping { how, since, told: None });
                }
                () = tokio::time::sleep(LISTEN.min(self.queue.poll)) => {}
            }
        }
    }

    /// Passes on what the job said since the last time; its outcome, once it is certain.
    fn listen(&mut self) -> Option<Outcome> {
        for (start, line) in self.ear.listen(&self.folder) {
            match serde_json::from_slice(&line) {
                Ok(Say::Began { unix_ms, host, job }) => {
                    let again = if start > 0 { "again " } else { "" };
                    self.say(format!("runs {again}on {host} as Slurm job {job}"));
                    self.report(Report::Began { unix_ms, host });
                    self.said = None;
                }
                Ok(Say::Event { report }) => self.report(Report::Event(report)),
                Ok(Say::Done { outputs }) => self.said = Some(Outcome::Done(outputs)),
                Ok(Say::Failed { error }) => self.said = Some(Outcome::Failed(error)),
                Err(_) => self.say(String::from_utf8_lossy(&line).into_owned()),
            }
        }
        match &self.said {
            // Not of its own accord: whether it begins again, the queue knows.
            Some(Outcome::Failed(error)) if error.class == ErrorClass::Cancelled && self.stop.is_none() => None,
            said => said.clone(),
        }
    }

    /// Looks at the queue; an outcome if no job of the name can run any more.
    async fn watch(&mut self) -> Option<Outcome> {
        let age = if self.stop.as_ref().is_some_and(Stopping::is_due) { Duration::ZERO } else { self.queue.poll };
        let look = match self.queue.look(&self.name, age).await {
            Ok(look) => look,
            Err(error) => {
                self.show(format!("Slurm does not answer: {}; the job is none the worse for it", with_causes(&error)));
                let given_up = self.stop.as_ref().is_some_and(|s| s.since.elapsed() > UNCONFIRMED);
                let message = format!("Slurm does not say whether the job is gone; `scancel --me --name={}` ends it", self.name);
                return given_up.then(|| Outcome::Failed(StageError::new(ErrorClass::Cancelled, message)));
            }
        };
        let live: Vec<&Listed> = look.jobs.iter().filter(|l| !matches!(l.state, JobState::Over(_))).collect();
        // Of several the first one to run is the attempt; `singleton` keeps the others waiting.
        let chosen = live.iter().min_by_key(|l| (l.state == JobState::Waiting, l.job)).map(|l| (*l).clone());
        let Some(chosen) = chosen else { return self.gone(&look).await };
        self.missed = 0;
        for other in live.iter().filter(|l| l.job != chosen.job) {
            self.say(format!("Slurm job {} is a second one of the same attempt; it is cancelled", other.job));
            let _ = self.queue.commands.end(other.job, other.state == JobState::Running).await;
        }
        self.note(chosen.job);
        if chosen.state == JobState::Waiting {
            let fix = if chosen.is_held() { format!("; `scontrol release {}` lets it start", chosen.job) } else { String::new() };
            self.show(format!("Slurm job {} waits ({}){fix}", chosen.job, chosen.shown));
        }
        self.push_stop(&chosen).await;
        None
    }

    /// Tells people once.
    fn show(&mut self, line: String) {
        if self.shown != line {
            self.say(line.clone());
            self.shown = line;
        }
    }

    async fn push_stop(&mut self, job: &Listed) {
        let Some(stop) = self.stop.as_mut().filter(|s| s.is_due()) else { return };
        let running = job.state == JobState::Running;
        let sent = match stop.how {
            Stop::Gracefully if running => self.queue.commands.ask_to_end(job.job).await,
            Stop::Gracefully | Stop::Now => self.queue.commands.end(job.job, running).await,
        };
        match sent {
            Ok(()) => stop.told = Some(Instant::now()),
            Err(error) => tracing::warn!(job = job.job, error = with_causes(&error), "a job could not be stopped; tried again"),
        }
    }

    /// No job of the name can run: after a second look, so that what it said last is here, that is the attempt's end.
    async fn gone(&mut self, look: &Look) -> Option<Outcome> {
        if look.number != self.looked {
            self.looked = look.number;
            self.missed += 1;
        }
        if self.missed < 2 {
            return None;
        }
        if self.stop.is_some() {
            return Some(Outcome::Failed(StageError::new(ErrorClass::Cancelled, "stopped")));
        }
        let job = self.job.unwrap_or_default();
        let last = look.jobs.iter().max_by_key(|l| l.job).map(|l| l.state);
        let state = match last {
            Some(state) => Some(state),
            None => self.queue.commands.account(job).await,
        };
        let end = match state {
            Some(JobState::Over(end)) => end,
            _ => End::Exited,
        };
        let asked_to_end = matches!(self.said, Some(Outcome::Failed(_)));
        let end = if end == End::Exited && asked_to_end { End::MachineLost } else { end };
        Some(Outcome::Failed(end.failure(job)))
    }
}

fn unusable(error: &CommandError) -> StageError {
    StageError::permanent(with_causes(error)).help("`executor: slurm` needs Slurm's commands in the search path of this machine")
}

/// Adds what Slurm printed to the attempt's log.
fn append(from: &Path, log: &Path) {
    let Ok(text) = std::fs::read(from) else { return };
    let written = File::options().create(true).append(true).open(log).and_then(|mut file| file.write_all(&text));
    if let Err(error) = written {
        tracing::warn!(log = %log.display(), %error, "what Slurm printed could not be added to the log");
    }
}
