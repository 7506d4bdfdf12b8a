//! moto's server, which imitates AWS: `SPRINT_FLOW_MOTO` names its program, else `moto_server` on PATH.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// A running server; ended when dropped.
pub(crate) struct Moto {
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Moto {
    /// Starts it; `None`, and a line that says so, where there is none.
    pub(crate) fn start() -> Option<Self> {
        let Some(program) = program() else {
            eprintln!(
                "SKIPPED: no moto_server: `pip install 'moto[server]==5.2.5'` and put it on PATH or name it in SPRINT_FLOW_MOTO"
            );
            return None;
        };
        // It takes a port from the system and says which: a port chosen here could be another's by the time it binds.
        let mut command = Command::new(program);
        command.args(["-H", "127.0.0.1", "-p", "0"]).stdout(Stdio::null()).stderr(Stdio::piped());
        command.env("AWS_ACCESS_KEY_ID", "test").env("AWS_SECRET_ACCESS_KEY", "test").env("MOTO_EC2_LOAD_DEFAULT_AMIS", "true");
        let mut child = command.spawn().expect("moto starts");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let mut seen = Vec::new();
        let addr = lines.by_ref().inspect(|line| seen.push(line.clone())).find_map(|line| {
            let (_, url) = line.split_once("Running on http://")?;
            url.trim().parse().ok()
        });
        let Some(addr) = addr else {
            let _ = child.kill();
            let status = child.wait();
            panic!("moto ended ({status:?}) without naming its address: {seen:#?}");
        };
        // What it logs from here on is read, so that it never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        let moto = Self { child, addr };
        Some(moto)
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn program() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("SPRINT_FLOW_MOTO") {
        return Some(named.into());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join("moto_server")).find(|p| p.is_file())
}
