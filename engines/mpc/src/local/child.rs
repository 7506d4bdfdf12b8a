//! One role's process.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use zeroize::Zeroizing;

use crate::Role;
use crate::net::Identity;
use crate::roles::{Event, Settings};

/// A role takes and drops megabytes thousands of times an inference. Left to itself, glibc's allocator returns them to the system and
/// fetches them again, and page faults become a third of all work; told to keep them, it fetches each page once. Other allocators ignore this.
const ALLOCATOR: (&str, &str) =
    ("GLIBC_TUNABLES", "glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=4294967296");

/// What a child's standard output gives.
#[derive(Debug)]
pub(super) enum Heard {
    Event(Event),
    /// Not an event: a program other than ours, or a bug.
    Noise(String),
    Closed,
}

/// A child; killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    role: Role,
    child: Child,
    /// Held open: its end tells the child to go.
    stdin: Option<ChildStdin>,
}

impl Process {
    /// Starts `binary args… role` with pipes.
    pub(super) fn spawn(binary: &Path, args: &[String], role: Role, heard: Sender<(Role, Heard)>) -> std::io::Result<Self> {
        let mut child = Command::new(binary)
            .args(args)
            .arg(role.name())
            .env(ALLOCATOR.0, ALLOCATOR.1)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take();
        let process = Self { role, child, stdin };
        let listen = move || {
            for line in stdout.into_iter().flat_map(|s| BufReader::new(s).lines()).map_while(Result::ok) {
                let said = serde_json::from_str(&line).map_or_else(|_| Heard::Noise(line), Heard::Event);
                if heard.send((role, said)).is_err() {
                    return;
                }
            }
            let _ = heard.send((role, Heard::Closed));
        };
        thread::Builder::new().name(format!("hear {}", role.name())).spawn(listen)?;
        Ok(process)
    }

    /// Sends the configuration line.
    pub(super) fn configure(&mut self, settings: &Settings, identity: &Identity) -> std::io::Result<()> {
        let settings = serde_json::to_string(settings)?;
        let certificate = serde_json::to_string(&identity.certificate_pem())?;
        // Allocated once: a buffer that grows would leave pieces of the key behind.
        let mut line = Zeroizing::new(Vec::with_capacity(settings.len() + certificate.len() + 4096));
        line.extend_from_slice(
            format!("{{\"settings\":{settings},\"identity\":{{\"certificate\":{certificate},\"key\":").as_bytes(),
        );
        serde_json::to_writer(&mut *line, identity.key_pem().as_str())?;
        line.extend_from_slice(b"}}\n");
        let stdin = self.stdin.as_mut().ok_or(std::io::ErrorKind::BrokenPipe)?;
        stdin.write_all(&line)?;
        stdin.flush()
    }

    pub(super) fn role(&self) -> Role {
        self.role
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits up to `limit` for its end.
    pub(super) fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Some(status),
                Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(2)),
                _ => return None,
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
