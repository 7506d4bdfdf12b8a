//! Hosts reached by OpenSSH: their own pinned key, files copied by digest, everything removed afterwards.
//!
//! Roles are children of `ssh`: when the inference ends in whatever way, their standard input ends and with it they do. What they print on
//! standard error comes back on this side's.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use sprint_stage_api::{ErrorClass, StageError};

use super::Place;

/// How long a machine that has just started may take to let anybody in.
const BOOT: Duration = Duration::from_secs(300);
/// Wait between two tries.
const AGAIN: Duration = Duration::from_secs(3);

/// A host, and the options that every connection to it is made with.
#[derive(Debug)]
pub(crate) struct SshHost {
    args: Vec<String>,
    name: String,
    folder: String,
}

impl SshHost {
    /// A host that is known by its own key only; `scratch` is for its known-hosts file. `run` tells the folders of two runs apart.
    pub(crate) fn new(place: &Place, role: &str, run: &str, scratch: &Path) -> Result<Option<Self>, StageError> {
        let Place::Ssh { host, port, user, host_key, identity, folder, .. } = place else { return Ok(None) };
        for text in [host, user] {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-' | '_' | '@');
            if text.is_empty() || text.starts_with('-') || !text.chars().all(is_plain) {
                return Err(StageError::permanent(format!("{role}: {text:?} is no name of a host or a user")));
            }
        }
        let known = scratch.join(format!("known-hosts-{role}"));
        std::fs::write(&known, format!("[{host}]:{port} {host_key}\n{host} {host_key}\n"))
            .map_err(|e| StageError::permanent(format!("{}: {e}", known.display())))?;
        let known = known.to_string_lossy().into_owned();
        let mut args: Vec<String> = ["-F", "none", "-T"].map(str::to_owned).into();
        for option in [
            "BatchMode=yes".to_owned(),
            "StrictHostKeyChecking=yes".to_owned(),
            format!("UserKnownHostsFile={known}"),
            "GlobalKnownHostsFile=/dev/null".to_owned(),
            "UpdateHostKeys=no".to_owned(),
            "ConnectTimeout=15".to_owned(),
            "ServerAliveInterval=15".to_owned(),
            "ServerAliveCountMax=4".to_owned(),
        ] {
            args.extend(["-o".to_owned(), option]);
        }
        if let Some(identity) = identity {
            args.extend(["-o", "IdentitiesOnly=yes", "-i"].map(str::to_owned));
            args.push(identity.to_string_lossy().into_owned());
        }
        args.extend(["-p".to_owned(), port.to_string(), "-l".to_owned(), user.clone(), host.clone()]);
        let folder = format!("{}/{run}-{role}", folder.trim_end_matches('/'));
        if !is_path(&folder) {
            return Err(StageError::permanent(format!("{role}: {folder:?} is no plain absolute path")));
        }
        Ok(Some(Self { args, name: format!("{role} ({user}@{host}:{port})"), folder }))
    }

    /// A file in the run's folder there.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("{}/{name}", self.folder))
    }

    /// The role and the host, for people.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Waits until the host lets us in, and makes the folder, which holds a share: it and the folder above it must not be another user's.
    pub(crate) fn open(&self) -> Result<(), StageError> {
        let deadline = Instant::now() + BOOT;
        loop {
            let (own, above) = (&self.folder, self.folder.rsplit_once('/').map_or("/", |(above, _)| above));
            let made = self.run(
                &format!(
                    "umask 077 && mkdir -p '{own}' && {{ [ -O '{own}' ] && [ ! -L '{own}' ] && [ ! -L '{above}' ] \
                     && {{ [ -O '{above}' ] || [ \"$(stat -c %u '{above}')\" = 0 ]; }} \
                     || {{ echo '{above} belongs to somebody else: give another folder' >&2; exit 1; }}; }} && chmod 700 '{own}'"
                ),
                None,
            )?;
            if made.status.success() {
                return Ok(());
            }
            let words = words(&made);
            // 255 is OpenSSH's own failure. Another host key or a refused login will not change by waiting.
            let booting = made.status.code() == Some(255)
                && ["refused", "timed out", "No route", "Connection closed", "Connection reset"]
                    .iter()
                    .any(|w| words.contains(w));
            if !booting || Instant::now() >= deadline {
                return Err(self.failure("cannot be used", &words));
            }
            std::thread::sleep(AGAIN);
        }
    }

    /// Copies bytes to a file there, unless it has these very bytes.
    pub(crate) fn put(&self, name: &str, bytes: &[u8], mode: &str) -> Result<(), StageError> {
        let sum = hex(&Sha256::digest(bytes));
        let file = format!("{}/{name}", self.folder);
        let have = self.run(&format!("echo '{sum}  {file}' | sha256sum -c --status 2>/dev/null"), None)?;
        if have.status.success() {
            return Ok(());
        }
        let command = format!(
            "umask 077 && cat > '{file}.part' && echo '{sum}  {file}.part' | sha256sum -c --status && chmod {mode} '{file}.part' && mv '{file}.part' '{file}'"
        );
        let put = self.run(&command, Some(bytes))?;
        if put.status.success() { Ok(()) } else { Err(self.failure(&format!("does not take {name}"), &words(&put))) }
    }

    /// The command that runs the program there; the role's name follows.
    pub(crate) fn command(&self, program: &str, args: &[String]) -> Vec<String> {
        let mut all = self.args.clone();
        all.push(format!("exec '{}/{program}' {}", self.folder, args.join(" ")));
        all
    }

    /// Removes everything of the run.
    pub(crate) fn clean(&self) -> Result<(), StageError> {
        let removed = self.run(&format!("rm -rf '{}'", self.folder), None)?;
        if removed.status.success() { Ok(()) } else { Err(self.failure("cannot be cleaned up", &words(&removed))) }
    }

    fn run(&self, command: &str, input: Option<&[u8]>) -> Result<Output, StageError> {
        let failed = |e: std::io::Error| StageError::permanent(format!("ssh: {e}")).help("install OpenSSH's client");
        let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
        let mut ssh = Command::new("ssh");
        ssh.args(&self.args).arg(command).stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = ssh.spawn().map_err(failed)?;
        if let (Some(mut pipe), Some(bytes)) = (child.stdin.take(), input) {
            // A host that goes away while it is written to shows in the exit status.
            let _ = pipe.write_all(bytes);
        }
        child.wait_with_output().map_err(failed)
    }

    fn failure(&self, what: &str, words: &str) -> StageError {
        let error = StageError::new(ErrorClass::Transient, format!("{} {what}: {words}", self.name));
        if words.contains("Host key verification failed") || words.contains("IDENTIFICATION HAS CHANGED") {
            let message = format!("{} shows another host key than the one that is pinned", self.name);
            return StageError::permanent(message)
                .help("somebody else answers, or the host was installed anew: check before changing host_key");
        }
        if words.contains("Permission denied") {
            return StageError::permanent(error.message).help("the host does not accept the login key");
        }
        error
    }
}

/// What `ssh` and the host said, on one line.
fn words(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.lines().map(str::trim).filter(|l| !l.is_empty()).collect::<Vec<_>>().join("; ")
}

fn is_path(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_');
    text.starts_with('/') && text.chars().all(plain) && !text.split('/').any(|step| step == "..")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, b| {
        text.push_str(&format!("{b:02x}"));
        text
    })
}
