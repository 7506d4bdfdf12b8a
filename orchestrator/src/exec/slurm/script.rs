//! What `sbatch` is given: arguments, which no shell reads, and a script, in which every word is quoted.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::time::Duration;

use sprint_stage_api::StageError;

use super::SlurmSettings;
use super::folder::JobFolder;
use crate::exec::executor::Intent;
use crate::workflow::{Placement, SlurmOptions};

/// Longer than the stage's own timeout, which the orchestrator sees to: the cluster's limit is for when there is no orchestrator.
const SLACK: Duration = Duration::from_secs(300);
/// How long before the job's time limit it is told, so that it can save its progress.
const NOTICE_S: u32 = 60;

/// The arguments of `sbatch`; the script follows on its standard input.
pub(super) fn arguments(intent: &Intent, name: &str, folder: &JobFolder) -> Result<Vec<OsString>, StageError> {
    let default = SlurmOptions::default();
    let options = match &intent.placement {
        Placement::Slurm(options) => options,
        Placement::Local => &default,
    };
    let mut args: Vec<OsString> = [
        "--parsable".to_owned(),
        format!("--job-name={name}"),
        format!("--comment={}", intent.id),
        // The user's environment may hold secrets; Slurm would keep it with the job.
        "--export=NIL".to_owned(),
        // At most one job of a name at a time, should a submission have been made twice.
        "--dependency=singleton".to_owned(),
        "--requeue".to_owned(),
        "--open-mode=append".to_owned(),
        "--nodes=1".to_owned(),
        "--ntasks=1".to_owned(),
        format!("--cpus-per-task={}", intent.cpus.max(1)),
        format!("--signal=B:TERM@{NOTICE_S}"),
    ]
    .into_iter()
    .map(OsString::from)
    .collect();
    args.push(joined("--output=", &file_pattern(&folder.slurm_output())?));
    args.push(joined("--chdir=", intent.base.as_os_str()));
    if intent.resources.mem > 0 {
        args.push(format!("--mem={}M", intent.resources.mem.div_ceil(1 << 20)).into());
    }
    if let Some(limit) = options.time.or_else(|| intent.timeout.map(|t| t + SLACK)) {
        args.push(format!("--time={}", limit.as_secs().div_ceil(60)).into());
    }
    for (name, value) in [
        ("partition", &options.partition),
        ("account", &options.account),
        ("qos", &options.qos),
        ("constraint", &options.constraint),
    ] {
        if let Some(value) = value {
            args.push(format!("--{name}={value}").into());
        }
    }
    args.extend(options.options.iter().map(OsString::from));
    Ok(args)
}

/// The script of a job. What the stage prints goes to its log, whoever else writes there; what Slurm itself says, to a file of the folder.
pub(super) fn script(intent: &Intent, settings: &SlurmSettings, folder: &JobFolder) -> Vec<u8> {
    let mut text = b"#!/bin/sh\numask 077\n".to_vec();
    for (name, value) in &settings.env {
        text.extend(format!("export {name}=").into_bytes());
        text.extend(quoted(value));
        text.push(b'\n');
    }
    text.extend(b"exec 2>>");
    text.extend(quoted(intent.log.as_os_str()));
    // `exec`, so that the signal before the time limit reaches the program itself.
    text.extend(b" 1>&2\nexec");
    for word in settings.program.iter().map(OsString::as_os_str).chain([folder.path().as_os_str()]) {
        text.push(b' ');
        text.extend(quoted(word));
    }
    text.extend(b" \"${SLURM_JOB_ID:-0}\"\n");
    text
}

/// A word that any POSIX shell reads back as these bytes.
fn quoted(word: &OsStr) -> Vec<u8> {
    let mut text = vec![b'\''];
    for byte in word.as_bytes() {
        match byte {
            b'\'' => text.extend(b"'\\''"),
            other => text.push(*other),
        }
    }
    text.push(b'\'');
    text
}

fn joined(option: &str, value: &OsStr) -> OsString {
    let mut whole = OsString::from(option);
    whole.push(value);
    whole
}

/// A path in which Slurm replaces nothing.
fn file_pattern(path: &Path) -> Result<OsString, StageError> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.contains(&b'\\') {
        let message = format!("the store's path has a backslash, which Slurm reads in a way of its own: {}", path.display());
        return Err(StageError::permanent(message).help("move the store"));
    }
    let doubled = bytes.iter().flat_map(|b| std::iter::repeat_n(*b, if *b == b'%' { 2 } else { 1 }));
    Ok(OsString::from_vec(doubled.collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_shell_reads_back_every_word_as_it_was() {
        for word in ["plain", "two words", "it's", "$(rm -rf ~)", "`x`; & | > \"q\" \\ %j *", "new\nline", "'", ""] {
            let mut text = b"printf %s ".to_vec();
            text.extend(quoted(OsStr::new(word)));
            let out = Command::new("/bin/sh").arg("-c").arg(OsStr::from_bytes(&text)).output().expect("a shell");
            assert_eq!(out.stdout, word.as_bytes(), "{word:?}");
        }
    }

    #[test]
    fn slurm_s_patterns_in_a_path_stand_for_themselves() {
        assert_eq!(file_pattern(Path::new("/a%2Fb/%j")).expect("usable"), "/a%%2Fb/%%j");
        assert!(file_pattern(Path::new("/a\\b")).is_err());
    }
}
