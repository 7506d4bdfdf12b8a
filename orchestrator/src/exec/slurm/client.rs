//! Slurm's own commands, as any user has them; no accounting database and no special right is needed.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::state::JobState;

/// How long a command may take. A controller under load answers within its own timeout of a minute at most.
const LONGEST: Duration = Duration::from_secs(90);
/// What begins the names of jobs that are attempts.
const PREFIX: &str = "sf-";

/// Variables that would change what the commands select or do.
const FOREIGN: &[&str] = &[
    "SBATCH_ARRAY_INX",
    "SBATCH_CLUSTERS",
    "SBATCH_GET_USER_ENV",
    "SBATCH_WAIT",
    "SBATCH_WAIT_ALL_NODES",
    "SCANCEL_ACCOUNT",
    "SCANCEL_BATCH",
    "SCANCEL_FULL",
    "SCANCEL_INTERACTIVE",
    "SCANCEL_NAME",
    "SCANCEL_PARTITION",
    "SCANCEL_QOS",
    "SCANCEL_STATE",
    "SCANCEL_USER",
    "SCANCEL_WCKEY",
    "SLURM_CLUSTERS",
    "SQUEUE_ACCOUNT",
    "SQUEUE_CLUSTERS",
    "SQUEUE_FORMAT2",
    "SQUEUE_LICENSES",
    "SQUEUE_NAMES",
    "SQUEUE_PARTITION",
    "SQUEUE_QOS",
    "SQUEUE_SORT",
    "SQUEUE_STATES",
    "SQUEUE_USERS",
];

/// Why a command did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommandError {
    #[error("cannot start {command}")]
    Start {
        command: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("{command} did not answer within {} s", LONGEST.as_secs())]
    Hung { command: &'static str },
    #[error("{command}: {message}")]
    Failed { command: &'static str, message: String },
}

impl CommandError {
    /// Whether the command may have had its effect all the same.
    pub(super) fn is_unclear(&self) -> bool {
        let words =
            ["timed out", "timeout", "contact", "connect", "communication", "socket", "send/recv", "temporar", "protocol"];
        match self {
            Self::Start { .. } => false,
            Self::Hung { .. } => true,
            Self::Failed { message, .. } => words.iter().any(|w| message.to_ascii_lowercase().contains(w)),
        }
    }
}

/// A job as the queue has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Listed {
    pub(super) job: u64,
    pub(super) state: JobState,
    /// The state and its reason, for people.
    pub(super) shown: String,
    pub(super) name: String,
}

impl Listed {
    /// Reads `number|STATE|reason|name`.
    fn read(line: &str) -> Option<Self> {
        let mut fields = line.splitn(4, '|');
        let (job, state, reason, name) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let shown = if matches!(reason, "" | "None") { state.to_owned() } else { format!("{state}, {reason}") };
        Some(Self { job: job.trim().parse().ok()?, state: JobState::read(state), shown, name: name.trim_end().to_owned() })
    }

    /// Whether it waits until somebody releases it: held by its user or an administrator, or by Slurm after a node could not launch it.
    pub(super) fn is_held(&self) -> bool {
        // States `REQUEUE_HOLD` and `RESV_DEL_HOLD`, and reasons such as `JobHeldUser`.
        let shown = self.shown.to_ascii_lowercase();
        self.state == JobState::Waiting && (shown.contains("held") || shown.contains("_hold"))
    }
}

#[derive(Debug, Clone)]
pub(super) struct Commands {
    folder: Option<PathBuf>,
}

impl Commands {
    pub(super) fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    /// Submits a script; the number of the job.
    pub(super) async fn submit(&self, args: Vec<OsString>, script: Vec<u8>) -> Result<u64, CommandError> {
        let out = self.run("sbatch", args, script).await?;
        // `number` or `number;cluster`; site plugins may print lines before it.
        let last = out.lines().rev().find_map(|l| l.split(';').next()?.trim().parse().ok());
        last.ok_or_else(|| CommandError::Failed { command: "sbatch", message: format!("the socket gave no number but {out:?}") })
    }

    /// The user's jobs that are attempts, ended ones for as long as the controller remembers them.
    async fn list(&self) -> Result<Vec<Listed>, CommandError> {
        let args = ["--me", "--states=all", "--noheader", "--format=%A|%T|%r|%j"].map(OsString::from);
        let out = self.run("squeue", args.into(), Vec::new()).await?;
        Ok(out.lines().filter_map(Listed::read).filter(|l| l.name.starts_with(PREFIX)).collect())
    }

    /// How a job ended that the controller does not remember; none without an accounting database.
    pub(super) async fn account(&self, job: u64) -> Option<JobState> {
        let job = format!("--jobs={job}");
        let args = ["--allocations", "--noheader", "--parsable2", "--format=State", &job].map(OsString::from);
        let out = self.run("sacct", args.into(), Vec::new()).await.ok()?;
        out.lines().last().map(JobState::read)
    }

    /// Asks the program of a running job to end, as the cluster would before its time limit.
    pub(super) async fn ask_to_end(&self, job: u64) -> Result<(), CommandError> {
        let args = ["--signal=TERM".to_owned(), "--batch".to_owned(), job.to_string()].map(OsString::from);
        self.run("scancel", args.into(), Vec::new()).await.map(drop)
    }

    /// Ends a job; a running one at once.
    pub(super) async fn end(&self, job: u64, running: bool) -> Result<(), CommandError> {
        if running {
            let args = ["--signal=KILL".to_owned(), "--full".to_owned(), job.to_string()].map(OsString::from);
            // It may just have ended by itself; what follows says whether it is gone.
            let _ = self.run("scancel", args.into(), Vec::new()).await;
        }
        self.run("scancel", vec![job.to_string().into()], Vec::new()).await.map(drop)
    }

    async fn run(&self, name: &'static str, args: Vec<OsString>, input: Vec<u8>) -> Result<String, CommandError> {
        let program = self.folder.as_ref().map_or_else(|| PathBuf::from(name), |f| f.join(name));
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        // A Ctrl-C at the terminal is for the orchestrator to act upon, not for a submission half done.
        command.process_group(0);
        for variable in FOREIGN {
            command.env_remove(variable);
        }
        let start = |source| CommandError::Start { command: name, source };
        let mut child = command.spawn().map_err(start)?;
        let stdin = child.stdin.take();
        let feed = async move {
            if let Some(mut stdin) = stdin {
                // A command that does not read its input says why.
                let _ = stdin.write_all(&input).await;
            }
        };
        let both = async { tokio::join!(feed, child.wait_with_output()).1 };
        let output =
            tokio::time::timeout(LONGEST, both).await.map_err(|_| CommandError::Hung { command: name })?.map_err(start)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let lines: Vec<&str> = said.lines().map(str::trim).filter(|l| !l.is_empty()).take(4).collect();
        let message = if lines.is_empty() { format!("ended with {}", output.status) } else { lines.join("; ") };
        Err(CommandError::Failed { command: name, message })
    }
}

/// The queue as it was a moment ago: one question to the controller serves all attempts.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) commands: Commands,
    pub(super) poll: Duration,
    last: Mutex<Option<Snapshot>>,
}

#[derive(Debug)]
struct Snapshot {
    taken: Instant,
    number: u64,
    jobs: Vec<Listed>,
}

/// The jobs of a name, and which look at the queue showed them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) number: u64,
    pub(super) jobs: Vec<Listed>,
}

impl Queue {
    pub(super) fn new(commands: Commands, poll: Duration) -> Self {
        Self { commands, poll, last: Mutex::new(None) }
    }

    /// The jobs of a name, as they were at most `age` ago.
    pub(super) async fn look(&self, name: &str, age: Duration) -> Result<Look, CommandError> {
        let mut last = self.last.lock().await;
        if last.as_ref().is_none_or(|s| s.taken.elapsed() >= age) {
            let number = last.as_ref().map_or(1, |s| s.number + 1);
            let taken = Instant::now();
            *last = Some(Snapshot { taken, number, jobs: self.commands.list().await? });
        }
        let snapshot = last.as_ref().expect("just taken");
        let jobs = snapshot.jobs.iter().filter(|l| l.name == name).cloned().collect();
        Ok(Look { number: snapshot.number, jobs })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_queue_reads_whatever_the_name_holds() {
        let one = Listed::read("17|PENDING|Resources|sf-1-a-1").expect("a job");
        assert_eq!((one.job, one.state, one.shown.as_str()), (17, JobState::Waiting, "PENDING, Resources"));
        assert!(!one.is_held());
        for reason in ["JobHeldUser", "JobHeldAdmin", "launch failed requeued held"] {
            assert!(Listed::read(&format!("17|PENDING|{reason}|sf-1-a-1")).expect("a job").is_held(), "{reason}");
        }
        assert!(Listed::read("17|REQUEUE_HOLD|None|sf-1-a-1").expect("a job").is_held());
        assert_eq!(Listed::read("18|RUNNING|None|a|b").expect("a job").name, "a|b");
        assert_eq!(Listed::read("slurm_load_jobs error"), None);
    }

    #[test]
    fn only_errors_of_the_way_there_leave_the_effect_unclear() {
        let failed = |message: &str| CommandError::Failed { command: "sbatch", message: message.to_owned() };
        assert!(failed("Batch job submission failed: Socket timed out on send/recv operation").is_unclear());
        assert!(failed("Unable to contact slurm controller (connect failure)").is_unclear());
        assert!(!failed("Batch job submission failed: Invalid partition name specified").is_unclear());
    }
}
