//! The folder of one attempt, all that a job and the orchestrators that know of it share.
//!
//! ```text
//! ticket.json         the action's key and the job's number; there before sbatch is called
//! request.json        what the job is to do, mode 0600
//! said.<n>.jsonl      what the n-th start of the job says
//! end.json            how the attempt ended; a job that finds it has nothing to do
//! slurm.out           what Slurm itself prints
//! ```

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sprint_artifacts::ActionKey;
use sprint_stage_api::StageError;

use crate::exec::attempt::io_error;
use crate::exec::executor::Outcome;
use crate::exec::protocol::{MAX_LINE, Request, Say, line};

/// The most restarts of one job that are looked for.
const MAX_STARTS: u32 = 10_000;

/// What is known about an attempt beside its request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ticket {
    pub(super) key: ActionKey,
    /// The job, once Slurm has answered.
    pub(super) job: Option<u64>,
}

#[derive(Debug, Clone)]
pub(super) struct JobFolder {
    path: PathBuf,
}

impl JobFolder {
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn slurm_output(&self) -> PathBuf {
        self.path.join("slurm.out")
    }

    /// Makes the folder, empty, and writes what the job is to do.
    pub(super) fn prepare(&self, request: &Request) -> Result<(), StageError> {
        self.remove();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.path).map_err(|e| io_error("create", &self.path, &e))?;
        self.write("request.json", &line(request))?;
        self.set_ticket(&Ticket { key: request.key, job: None })
    }

    pub(super) fn set_ticket(&self, ticket: &Ticket) -> Result<(), StageError> {
        self.write("ticket.json", &line(ticket))
    }

    pub(super) fn ticket(&self) -> Option<Ticket> {
        serde_json::from_slice(&fs::read(self.path.join("ticket.json")).ok()?).ok()
    }

    /// Whether an attempt at the action was handed in here and did not fail.
    pub(super) fn is_open_for(&self, key: &ActionKey) -> bool {
        self.ticket().is_some_and(|t| t.key == *key) && !matches!(self.end(), Some(Outcome::Failed(_)))
    }

    pub(super) fn request(&self) -> io::Result<Vec<u8>> {
        fs::read(self.path.join("request.json"))
    }

    /// How the attempt ended, once that is decided.
    pub(super) fn end(&self) -> Option<Outcome> {
        match serde_json::from_slice(&fs::read(self.path.join("end.json")).ok()?).ok()? {
            Say::Done { outputs } => Some(Outcome::Done(outputs)),
            Say::Failed { error } => Some(Outcome::Failed(error)),
            Say::Began { .. } | Say::Event { .. } => None,
        }
    }

    pub(super) fn set_end(&self, outcome: &Outcome) -> Result<(), StageError> {
        let say = match outcome {
            Outcome::Done(outputs) => Say::Done { outputs: outputs.clone() },
            Outcome::Failed(error) => Say::Failed { error: error.clone() },
        };
        // It may hold a token, and nothing reads it any more.
        let _ = fs::remove_file(self.path.join("request.json"));
        self.write("end.json", &line(&say))
    }

    pub(super) fn said(&self, start: u32) -> PathBuf {
        self.path.join(format!("said.{start}.jsonl"))
    }

    /// Removes the folder; a job that comes too late finds nothing to do.
    pub(super) fn remove(&self) {
        let _ = fs::remove_dir_all(&self.path);
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StageError> {
        let (path, new) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || {
            let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|e| io_error("write", &path, &e))
    }
}

/// Reads what a job says, start after start, as it is written.
#[derive(Debug, Default)]
pub(super) struct Ear {
    start: u32,
    offset: u64,
    /// A line whose end is not there yet.
    rest: Vec<u8>,
}

impl Ear {
    /// The lines said since the last time, with the start that said them.
    pub(super) fn listen(&mut self, folder: &JobFolder) -> Vec<(u32, Vec<u8>)> {
        let mut lines = Vec::new();
        loop {
            self.read(folder, &mut lines);
            // A start may have come to nothing before it could say anything.
            let next = (self.start + 1..=self.start.saturating_add(16).min(MAX_STARTS)).find(|n| folder.said(*n).exists());
            match next {
                Some(next) => *self = Self { start: next, ..Self::default() },
                None => return lines,
            }
        }
    }

    fn read(&mut self, folder: &JobFolder, lines: &mut Vec<(u32, Vec<u8>)>) {
        let Ok(mut file) = File::open(folder.said(self.start)) else { return };
        let mut new = Vec::new();
        if file.seek(SeekFrom::Start(self.offset)).and_then(|_| file.read_to_end(&mut new)).is_err() {
            return;
        }
        self.offset += new.len() as u64;
        for byte in new {
            if byte == b'\n' {
                lines.push((self.start, std::mem::take(&mut self.rest)));
            } else if self.rest.len() < MAX_LINE {
                self.rest.push(byte);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ear_hears_whole_lines_once_and_goes_on_to_the_next_start() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = JobFolder::at(dir.path().to_owned());
        let mut ear = Ear::default();
        assert!(ear.listen(&folder).is_empty(), "nothing was said");
        fs::write(folder.said(0), "one\ntw").expect("writes");
        assert_eq!(ear.listen(&folder), [(0, b"one".to_vec())]);
        fs::write(folder.said(0), "one\ntwo\ntorn").expect("writes");
        fs::write(folder.said(2), "again\n").expect("writes");
        assert_eq!(
            ear.listen(&folder),
            [(0, b"two".to_vec()), (2, b"again".to_vec())],
            "the torn line of a dead node is dropped"
        );
        assert!(ear.listen(&folder).is_empty());
    }
}
