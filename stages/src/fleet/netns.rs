//! Network namespaces of this machine, one for each role, joined by a bridge: real interfaces and a real stack between the roles.
//!
//! Needs root and `ip` of iproute2. The delay and rate of the links are the engine's, in user space: many kernels have no `netem`.

use std::process::Command;

use sprint_artifacts::Digest;
use sprint_stage_api::StageError;

use super::{Host, Place, ROLES};

/// The namespaces of one lease, by names that follow from the lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Namespaces {
    tag: String,
    network: [u8; 2],
}

impl Namespaces {
    /// Those of a stage instance of a run.
    pub(crate) fn of(run: &str, stage: &str) -> Self {
        let digest = Digest::derived("sprint-flow netns v1", format!("{run}\n{stage}").as_bytes()).to_hex();
        let byte = |at: usize| u8::from_str_radix(&digest[at..at + 2], 16).expect("a digest in hexadecimal");
        // An interface's name has at most 15 characters.
        Self { tag: format!("sf{}", &digest[4..12]), network: [64 + byte(0) % 64, byte(2)] }
    }

    fn namespace(&self, role: usize) -> String {
        format!("{}-{role}", self.tag)
    }

    fn address(&self, host: usize) -> String {
        format!("100.{}.{}.{host}", self.network[0], self.network[1])
    }

    /// Makes them. What an earlier call left is taken down first.
    pub(crate) fn up(&self) -> Result<Vec<Host>, StageError> {
        self.down()?;
        let made = self.make();
        if made.is_err() {
            let _ = self.down();
        }
        made
    }

    fn make(&self) -> Result<Vec<Host>, StageError> {
        let bridge = &self.tag;
        ip(&["link", "add", bridge, "type", "bridge"])?;
        ip(&["addr", "add", &format!("{}/24", self.address(254)), "dev", bridge])?;
        ip(&["link", "set", bridge, "up"])?;
        let mut hosts = Vec::new();
        for (n, role) in ROLES.into_iter().enumerate() {
            let (name, outer, address) = (self.namespace(n), format!("{}v{n}", self.tag), self.address(n + 1));
            ip(&["netns", "add", &name])?;
            ip(&["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
            ip(&["link", "set", &outer, "master", bridge, "up"])?;
            ip(&["-n", &name, "addr", "add", &format!("{address}/24"), "dev", "eth0"])?;
            ip(&["-n", &name, "link", "set", "eth0", "up"])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
            hosts.push(Host { role: role.to_owned(), address, place: Place::Netns { name } });
        }
        Ok(hosts)
    }

    /// Takes them down; idempotent.
    pub(crate) fn down(&self) -> Result<(), StageError> {
        let namespaces = run(&["netns", "list"])?;
        for n in 0..ROLES.len() {
            let name = self.namespace(n);
            if namespaces.lines().any(|l| l.split_whitespace().next() == Some(&name)) {
                ip(&["netns", "del", &name])?;
            }
        }
        let links = run(&["-o", "link", "show"])?;
        if links.contains(&format!(" {}:", self.tag)) {
            ip(&["link", "del", &self.tag])?;
        }
        Ok(())
    }
}

fn ip(args: &[&str]) -> Result<(), StageError> {
    run(args).map(drop)
}

fn run(args: &[&str]) -> Result<String, StageError> {
    let output = Command::new("ip").args(args).output();
    let output = output.map_err(|e| StageError::permanent(format!("ip: {e}")).help("install iproute2"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let error = StageError::permanent(format!("ip {}: {words}", args.join(" ")));
    Err(if words.contains("not permitted") { error.help("network namespaces need root") } else { error })
}
