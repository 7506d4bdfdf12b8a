//! A folder with a workflow and a store, and ways to run it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use sprint_artifacts::{Store, StoreOptions};
use sprint_orchestrator::{
    Engine, Executor, Host, InProcessExecutor, Interrupt, Plan, PlanState, RunError, RunEvent, RunOptions, RunRemote, RunReport,
    Workflow,
};
use sprint_stage_api::Registry;
use tokio::sync::mpsc;

use crate::toy;

/// Names the folder of a process that a test started as an orchestrator.
const ORCHESTRATOR: &str = "ENGINE_TEST_ORCHESTRATOR";

pub(crate) struct World {
    dir: PathBuf,
    owned: Option<tempfile::TempDir>,
    pub(crate) registry: Registry,
    pub(crate) sets: Vec<String>,
    pub(crate) options: RunOptions,
    pub(crate) store_options: StoreOptions,
    pub(crate) remote: Option<RunRemote>,
}

pub(crate) struct Ran {
    pub(crate) report: RunReport,
    pub(crate) events: Vec<RunEvent>,
}

impl World {
    pub(crate) fn new(workflow: &str) -> Self {
        let owned = tempfile::tempdir().expect("a temporary folder");
        let world = Self { owned: Some(owned), ..Self::at(PathBuf::new()) };
        let dir = world.owned.as_ref().expect("just made").path().to_owned();
        let world = Self { dir, ..world };
        world.rewrite(workflow);
        world
    }

    /// In memory where the system offers that: for many instances, whose waits for the disk would be all that is measured.
    pub(crate) fn in_memory(workflow: &str) -> Self {
        let memory = Path::new("/dev/shm");
        let Ok(owned) = tempfile::tempdir_in(memory) else { return Self::new(workflow) };
        let world = Self { dir: owned.path().to_owned(), owned: Some(owned), ..Self::at(PathBuf::new()) };
        world.rewrite(workflow);
        world
    }

    /// This program in another process, as an orchestrator of this folder: `test` calls [`World::orchestrate`].
    pub(crate) fn orchestrator(&self, test: &str) -> Child {
        Command::new(std::env::current_exe().expect("this program's path"))
            .args([test, "--exact", "--nocapture", "--test-threads=1"])
            .env(ORCHESTRATOR, self.path(""))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("this program starts")
    }

    /// Runs the workflow of the folder that [`World::orchestrator`] named, and ends the process; elsewhere it does nothing.
    pub(crate) fn orchestrate(executor: impl Fn(&Self) -> Arc<dyn Executor>) {
        let Some(dir) = std::env::var_os(ORCHESTRATOR) else { return };
        let world = Self::at(dir.into());
        let ran = world.run_on(executor(&world), |_, _| {});
        std::process::exit(ran.map_or(99, |r| i32::from(r.report.exit.code())));
    }

    /// A folder that another process made.
    pub(crate) fn at(dir: PathBuf) -> Self {
        Self {
            dir,
            owned: None,
            registry: toy::registry(),
            sets: Vec::new(),
            options: RunOptions { grace: std::time::Duration::from_millis(300), ..RunOptions::default() },
            store_options: StoreOptions::read_write(),
            remote: None,
        }
    }

    pub(crate) fn rewrite(&self, workflow: &str) {
        fs::write(self.path("w.yaml"), workflow).expect("writable");
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub(crate) fn workflow(&self) -> Arc<Workflow> {
        match Workflow::load(&self.path("w.yaml"), &self.sets, &self.registry) {
            Ok(workflow) => Arc::new(workflow),
            Err(error) => panic!("{error}"),
        }
    }

    pub(crate) fn problems(&self) -> String {
        match Workflow::load(&self.path("w.yaml"), &self.sets, &self.registry) {
            Ok(_) => String::new(),
            Err(error) => error.to_string().replace(&format!("{}/", self.dir.display()), ""),
        }
    }

    pub(crate) fn store(&self) -> Arc<Store> {
        Arc::new(Store::open(self.path("store"), self.store_options.clone()).expect("the store opens"))
    }

    pub(crate) fn plan(&self) -> Plan {
        Plan::of(&self.workflow(), Some(&self.store()), &self.options.only, &self.options.salt).expect("a plan")
    }

    /// `hit`, `miss` or `blocked` by instance.
    pub(crate) fn states(&self) -> BTreeMap<String, PlanState> {
        self.plan().stages.into_iter().map(|s| (s.id.to_string(), s.state)).collect()
    }

    pub(crate) fn engine(&self, executor: Arc<dyn Executor>) -> Engine {
        Engine::new(self.store(), executor, host()).with_remote(self.remote.clone())
    }

    pub(crate) fn in_process(&self) -> Arc<dyn Executor> {
        Arc::new(InProcessExecutor::new(self.registry.clone()))
    }

    pub(crate) fn run(&self) -> Ran {
        self.try_run().expect("the run comes to an end")
    }

    pub(crate) fn try_run(&self) -> Result<Ran, RunError> {
        self.run_on(self.in_process(), |_, _| {})
    }

    /// Runs and calls `on_event` for each event, with a way to interrupt.
    pub(crate) fn run_on(
        &self,
        executor: Arc<dyn Executor>,
        mut on_event: impl FnMut(&RunEvent, &mpsc::UnboundedSender<Interrupt>) + Send,
    ) -> Result<Ran, RunError> {
        let engine = self.engine(executor);
        let workflow = self.workflow();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let (interrupt, interrupts) = mpsc::unbounded_channel();
        runtime.block_on(async {
            let mut events = Vec::new();
            let run = engine.run(workflow, &self.options, sender, interrupts);
            let listen = async {
                while let Some(event) = receiver.recv().await {
                    on_event(&event, &interrupt);
                    events.push(event);
                }
            };
            let (report, ()) = tokio::join!(run, listen);
            Ok(Ran { report: report?, events })
        })
    }

    /// Lines of a file in the folder, sorted.
    pub(crate) fn lines(&self, name: &str) -> Vec<String> {
        let text = fs::read_to_string(self.path(name)).unwrap_or_default();
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// What stages ran since the last call, sorted.
    pub(crate) fn ran(&self) -> Vec<String> {
        let lines = self.lines("ran.log");
        let _ = fs::remove_file(self.path("ran.log"));
        lines
    }

    /// The text of an output of the last report.
    pub(crate) fn text(ran: &Ran, output: &str) -> String {
        let reference =
            ran.report.finished.outputs.get(output).unwrap_or_else(|| panic!("{output} in {:?}", ran.report.finished));
        fs::read_to_string(reference.path.as_ref().expect("a public artifact of one file")).expect("it is there")
    }
}

pub(crate) fn host() -> Host {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    Host {
        now_unix_ms: Arc::new(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64)),
        random: std::process::id().wrapping_mul(1000) + COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
        name: "test".to_owned(),
        pid: std::process::id(),
        cpus: 2,
        env: Arc::default(),
    }
}

/// Every plain file below `dir`.
pub(crate) fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { all.extend(files_below(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}
