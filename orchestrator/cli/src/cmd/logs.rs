//! `logs`.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use serde_json::json;
use sprint_artifacts::Store;
use sprint_orchestrator::{InstanceId, QueryError, log_file, status};

use super::artifacts::open;
use super::run::run_id;
use super::status::query_failure;
use crate::args::LogsArgs;
use crate::failure::{Code, Failure};
use crate::ui::out;

/// How often a growing log is looked at.
const POLL: Duration = Duration::from_millis(250);
/// How much of a log is in memory at once.
const CHUNK: usize = 64 << 10;

pub(super) fn run(args: &LogsArgs) -> Result<Code, Failure> {
    let stage: InstanceId = args.stage.parse().map_err(|e| Failure::usage(format!("stage {e}")))?;
    let id = args.run.as_deref().map(run_id).transpose()?;
    let store = open(&args.store.store)?;
    let path = log_file(&store, id.as_ref(), &stage, args.attempt).map_err(|e| match &e {
        QueryError::NoLog { known, .. } if !known.is_empty() => {
            query_failure(&e).help(format!("there are logs of {}", known.join(", ")))
        }
        _ => query_failure(&e),
    })?;
    if args.json {
        return as_json(&stage, &path);
    }
    let mut file = File::open(&path).map_err(|e| unreadable(&path, &e))?;
    loop {
        // Asked before reading, so that nothing written before the end is missed.
        let over = !args.follow || !is_running(&store, args);
        copy(&mut file, &path)?;
        if over {
            return Ok(Code::DONE);
        }
        std::thread::sleep(POLL);
    }
}

fn is_running(store: &Store, args: &LogsArgs) -> bool {
    let id = args.run.as_deref().and_then(|text| text.parse().ok());
    status(store, id.as_ref()).is_ok_and(|view| view.owner.is_some())
}

fn copy(file: &mut File, path: &Path) -> Result<(), Failure> {
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer).map_err(|e| unreadable(path, &e))? {
            0 => return Ok(()),
            n => out::bytes(&buffer[..n])?,
        }
    }
}

fn as_json(stage: &InstanceId, path: &Path) -> Result<Code, Failure> {
    let text = std::fs::read(path).map_err(|e| unreadable(path, &e))?;
    let lines: Vec<_> = text.split(|b| *b == b'\n').map(String::from_utf8_lossy).collect();
    let lines = lines.strip_suffix(&["".into()]).unwrap_or(&lines);
    out::line(json!({"stage": stage, "path": path, "lines": lines}))?;
    Ok(Code::DONE)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Code::FAILED, format!("cannot read {}: {error}", path.display()))
}
