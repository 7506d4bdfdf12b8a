//! Signals: a run stops gracefully, says so in its exit code, leaves nothing behind and can be resumed.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::binary::{finish, sprint_flow, start};

const BODY: &[u8] = b"five\n";
const PATIENCE: Duration = Duration::from_secs(60);

/// A web server that keeps its clients waiting until it is let go.
struct Slow {
    port: u16,
    asked: Arc<AtomicUsize>,
    let_go: Arc<AtomicBool>,
}

impl Slow {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (asked, let_go) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (counter, go) = (asked.clone(), let_go.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (counter, go) = (counter.clone(), go.clone());
                std::thread::spawn(move || answer(stream, &counter, &go));
            }
        });
        Self { port, asked, let_go }
    }
}

/// Answers every request on a connection, as soon as it may.
fn answer(mut stream: TcpStream, asked: &AtomicUsize, go: &AtomicBool) {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer).is_ok_and(|n| n > 0) {
        asked.fetch_add(1, Ordering::SeqCst);
        while !go.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nETag: \"1\"\r\n\r\n", BODY.len());
        if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(BODY)).is_err() {
            return;
        }
    }
}

struct World {
    folder: TempDir,
    server: Slow,
}

impl World {
    fn new() -> Self {
        let (folder, server) = (tempfile::tempdir().expect("a folder"), Slow::start());
        let text = format!(
            "sprint-flow: 1\nstages:\n  slow: {{kind: download, params: {{source: \"http://127.0.0.1:{}/five.txt\"}}}}\n",
            server.port
        );
        std::fs::write(folder.path().join("slow.yaml"), text).expect("written");
        Self { folder, server }
    }

    fn args(&self, command: &str) -> Vec<String> {
        let mut args = vec![command.to_owned()];
        args.extend((command == "run").then(|| self.folder.path().join("slow.yaml").display().to_string()));
        args.extend(["--store".to_owned(), self.store(), "--json".to_owned()]);
        args
    }

    fn store(&self) -> String {
        self.folder.path().join("store").display().to_string()
    }

    /// A run whose stage waits for the server.
    fn waiting(&self) -> Child {
        let child = start(&self.args("run"));
        wait_until("the server is asked", || self.server.asked.load(Ordering::SeqCst) > 0);
        child
    }

    /// The processes that work on this store, except the orchestrator.
    fn workers(&self, orchestrator: u32) -> Vec<u32> {
        let store = self.store();
        let named = |pid: u32| {
            let environ = std::fs::read(Path::new("/proc").join(pid.to_string()).join("environ")).unwrap_or_default();
            String::from_utf8_lossy(&environ).contains(&store)
        };
        let entries = std::fs::read_dir("/proc").expect("proc").flatten();
        let pids = entries.filter_map(|e| e.file_name().to_str().and_then(|n| n.parse().ok()));
        pids.filter(|pid| *pid != orchestrator && named(*pid)).collect()
    }
}

fn wait_until(what: &str, done: impl Fn() -> bool) {
    let begin = Instant::now();
    while !done() {
        assert!(begin.elapsed() < PATIENCE, "timed out before {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn signal(pid: u32, name: &str) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().expect("kill runs").success());
}

#[test]
fn an_interrupted_run_exits_130_or_143_and_is_resumed() {
    for (name, code) in [("-INT", 130), ("-TERM", 143)] {
        let world = World::new();
        let child = world.waiting();
        signal(child.id(), name);
        let ended = finish(child).expect(code);
        let end = ended.json_lines().pop().expect("an event");
        assert_eq!((&end["event"], &end["status"]), (&"run_finished".into(), &"interrupted".into()));
        assert_eq!(world.workers(0), Vec::<u32>::new(), "a worker is left");
        let status = sprint_flow(&world.args("status")).expect(0).json();
        assert_eq!(status["state"], "interrupted");
        world.server.let_go.store(true, Ordering::SeqCst);
        let resumed = sprint_flow(&world.args("resume")).expect(0).json_lines().pop().expect("an event");
        assert_eq!((&resumed["status"], &resumed["run"]), (&"succeeded".into(), &end["run"]));
        sprint_flow(&world.args("resume")).expect(2);
    }
}

#[test]
fn a_killed_run_leaves_no_process_and_the_next_one_goes_on() {
    let world = World::new();
    let child = world.waiting();
    let pid = child.id();
    assert_eq!(world.workers(pid).len(), 1, "one stage is under way");
    signal(pid, "-KILL");
    assert_eq!(finish(child).code, None);
    wait_until("the worker is gone", || world.workers(pid).is_empty());
    assert_eq!(sprint_flow(&world.args("status")).expect(0).json()["state"], "crashed");
    world.server.let_go.store(true, Ordering::SeqCst);
    let events = sprint_flow(&world.args("run")).expect(0).json_lines();
    assert_eq!(events[0]["resumed"], true);
    assert_eq!(events.last().expect("an event")["status"], "succeeded");
}

#[test]
fn a_second_process_on_the_same_run_exits_5_and_names_the_first() {
    let world = World::new();
    let child = world.waiting();
    let refused = sprint_flow(&world.args("run")).expect(5);
    assert!(refused.stderr.contains(&child.id().to_string()), "{}", refused.stderr);
    let running = sprint_flow(&world.args("status")).expect(0).json();
    assert_eq!((&running["state"], &running["owner"]["pid"]), (&"running".into(), &child.id().into()));
    world.server.let_go.store(true, Ordering::SeqCst);
    finish(child).expect(0);
}
