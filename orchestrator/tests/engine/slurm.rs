//! Stages as jobs of a cluster, with a Slurm of shell scripts: who submits what, and what survives whom.
//!
//! `tests/slurm.sh` holds the same against the real one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sprint_orchestrator::{
    Executor, ExitCode, InProcessExecutor, Interrupt, Job, PlacedExecutor, RunEvent, SlurmExecutor, SlurmSettings, job_main,
};

use crate::toy;
use crate::world::World;

/// A token that must be seen nowhere but in the request.
const CANARY: &str = "hf_canary_3141592653";

/// The job, when this program is started as one; otherwise nothing.
#[test]
fn job_process() {
    let Some(folder) = std::env::var_os("ENGINE_TEST_JOB") else { return };
    let cancelled = Arc::new(AtomicBool::new(false));
    let hears = cancelled.clone();
    let (ready, waits) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
            ready.send(()).unwrap();
            while term.recv().await.is_some() {
                hears.store(true, Ordering::Relaxed);
            }
        });
    });
    waits.recv().unwrap();
    let number = std::env::var("ENGINE_TEST_JOB_NUMBER").unwrap();
    let now = (crate::world::host().now_unix_ms)();
    let job = Job { folder: folder.into(), number, host: "node-1".to_owned(), now_unix_ms: now };
    std::process::exit(job_main(&toy::registry(), &crate::remote::connect, &job, &cancelled));
}

/// The folder of the cluster's commands.
fn cluster(world: &World) -> std::path::PathBuf {
    let folder = world.path("slurm");
    if !folder.exists() {
        fs::create_dir(&folder).unwrap();
        let script = folder.join("fake");
        fs::write(&script, include_str!("fake_slurm.sh")).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["sbatch", "squeue", "scancel", "sacct", "fake-node-failure"] {
            symlink("fake", folder.join(name)).unwrap();
        }
    }
    folder
}

fn executor(world: &World) -> Arc<dyn Executor> {
    let commands = cluster(world);
    // A name that a shell would take apart.
    let script = world.path("a job's $(script).sh");
    let program = std::env::current_exe().unwrap();
    fs::write(
        &script,
        format!(
            "ENGINE_TEST_JOB=$1 ENGINE_TEST_JOB_NUMBER=$2 exec {} slurm::job_process --exact --nocapture --test-threads=1\n",
            program.display()
        ),
    )
    .unwrap();
    let settings = SlurmSettings {
        program: vec!["/bin/sh".into(), script.into()],
        env: BTreeMap::from([("LANG".to_owned(), "C".into())]),
        commands: Some(commands),
        poll: Duration::from_millis(100),
    };
    let slurm = SlurmExecutor::new(world.path("store"), settings);
    let local = InProcessExecutor::new(world.registry.clone());
    Arc::new(PlacedExecutor::new(Arc::new(local)).with("slurm", Arc::new(slurm)))
}

fn submitted(world: &World) -> Vec<String> {
    world.lines("slurm/submitted.log")
}

fn fake(world: &World, command: &str, args: &[&str]) {
    let status = Command::new(cluster(world).join(command)).args(args).status().unwrap();
    assert!(status.success(), "{command} {args:?}");
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(240);
    while !holds() {
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn steps(n: u32, ms: u32, more: &str) -> String {
    format!(
        "sprint-flow: 1\nexecutor: slurm\nstages:\n  s: {{kind: steps@1, params: {{n: {n}, ms: {ms}}}{more}}}\n  u: {{kind: upper@1, inputs: {{in: s.out}}, executor: local}}\n"
    )
}

#[test]
fn a_stage_runs_as_a_job_and_its_node_is_in_its_record() {
    let world = World::new(&steps(
        3,
        1,
        ", resources: {cpu: 64, mem: 100MiB}, timeout: 10m, executor: {slurm: {partition: long, options: [\"--gres=gpu:1\"]}}",
    ));
    let ran = world.run_on(executor(&world), |_, _| {}).unwrap();
    assert_eq!(ran.report.exit, ExitCode::Done, "{:?}", ran.report.failures);
    assert_eq!(World::text(&ran, "u.out"), "3");
    let args = world.lines("slurm/args.log");
    for wanted in [
        "--cpus-per-task=64",
        "--mem=100M",
        "--time=15",
        "--partition=long",
        "--gres=gpu:1",
        "--requeue",
        "--dependency=singleton",
    ] {
        assert!(args.iter().any(|a| a == wanted), "{wanted} in {args:?}");
    }
    assert_eq!(submitted(&world).len(), 1, "the other stage runs here");
    let key = ran.events.iter().find_map(|e| match e {
        RunEvent::StageCommitted { stage, key, .. } if stage.stage() == "s" => Some(*key),
        _ => None,
    });
    let found = world.store().find_results(&key.unwrap()).unwrap();
    assert_eq!(found.newest().unwrap().record.host, "node-1");
    assert_eq!(fs::read_dir(world.path("store/private/jobs")).unwrap().count(), 0, "nothing is left of a finished attempt");
}

/// This program as an orchestrator, to be killed.
#[test]
fn orchestrator_process() {
    World::orchestrate(executor);
}

#[test]
fn a_killed_orchestrator_s_job_goes_on_and_is_taken_up_by_its_name() {
    let world = World::new(&steps(60, 50, ""));
    cluster(&world);
    let mut first = world.orchestrator("slurm::orchestrator_process");
    wait_until("the job counts", || world.lines("steps.log").len() >= 5);
    first.kill().unwrap();
    first.wait().unwrap();
    let before = world.lines("steps.log").len();
    wait_until("the job goes on alone", || world.lines("steps.log").len() > before + 5);
    let ran = world.run_on(executor(&world), |_, _| {}).unwrap();
    assert_eq!(ran.report.exit, ExitCode::Done, "{:?}", ran.report.failures);
    assert_eq!(submitted(&world).len(), 1, "one job for one attempt");
    assert_eq!(world.lines("steps.log").len(), 60, "no step was done twice");
    let attempts: Vec<u32> = ran
        .events
        .iter()
        .filter_map(|e| {
            if let RunEvent::StageStarted { stage, attempt, .. } = e { (stage.stage() == "s").then_some(*attempt) } else { None }
        })
        .collect();
    assert_eq!(attempts, [1], "it is the same attempt");
}

#[test]
fn what_a_job_finished_while_nobody_looked_is_a_result() {
    let world = World::new(&steps(10, 30, ""));
    cluster(&world);
    let mut first = world.orchestrator("slurm::orchestrator_process");
    wait_until("the job counts", || world.lines("steps.log").len() >= 2);
    first.kill().unwrap();
    first.wait().unwrap();
    wait_until("the job is over", || {
        fs::read_dir(world.path("slurm/state")).unwrap().flatten().all(|job| job.path().join("over").exists())
    });
    let ran = world.run_on(executor(&world), |_, _| {}).unwrap();
    assert_eq!(ran.report.exit, ExitCode::Done, "{:?}", ran.report.failures);
    assert_eq!((submitted(&world).len(), world.lines("steps.log").len()), (1, 10));
}

#[test]
fn a_submission_whose_answer_was_lost_is_found_by_its_name() {
    let world = World::new(&steps(3, 1, ""));
    fs::write(cluster(&world).join("lose-answer"), "").unwrap();
    let ran = world.run_on(executor(&world), |_, _| {}).unwrap();
    assert_eq!(ran.report.exit, ExitCode::Done, "{:?}", ran.report.failures);
    assert_eq!(submitted(&world).len(), 1);
    let told = ran.events.iter().any(|e| matches!(e, RunEvent::StageLog { line, .. } if line.contains("although sbatch failed")));
    assert!(told);
}

#[test]
fn a_job_submitted_twice_works_once() {
    let world = World::new(&steps(30, 30, ""));
    let folder = cluster(&world);
    let mut doubled = false;
    let ran = world
        .run_on(executor(&world), |event, _| {
            if matches!(event, RunEvent::StageProgress { .. }) && !doubled {
                doubled = true;
                // As a submission does that arrives late.
                let name = fs::read_to_string(folder.join("state/1/name")).unwrap();
                let script = fs::File::open(folder.join("state/1/script")).unwrap();
                let again = Command::new(folder.join("sbatch"))
                    .args(["--export=NIL", &format!("--job-name={}", name.trim())])
                    .stdin(script)
                    .stdout(Stdio::null())
                    .status();
                assert!(again.unwrap().success());
            }
        })
        .unwrap();
    assert_eq!(ran.report.exit, ExitCode::Done, "{:?}", ran.report.failures);
    assert_eq!((submitted(&world).len(), world.lines("steps.log").len()), (2, 30));
    wait_until("no job is left", || !fs::read_to_string(folder.join("state/2/over")).unwrap_or_default().is_empty());
    // One that comes when all is over finds nothing to do.
    let late = Command::new("/bin/sh").arg(folder.join("state/1/script")).status().unwrap();
    assert!(late.success());
    assert_eq!(world.lines("steps.log").len(), 30);
}

#[test]
fn a_job_that_lost_its_node_begins_again_from_its_checkpoint() {
    let world = World::new(&steps(40, 30, ""));
    let mut failed = false;
    let ran = world
        .run_on(executor(&world), |_, _| {
            if !failed && world.lines("steps.log").len() >= 5 {
                failed = true;
                fake(&world, "fake-node-failure", &["1"]);
            }
        })
        .unwrap();
    assert!(failed);
    assert_eq!(ran.report.exit, ExitCode::Done, "{:?}", ran.report.failures);
    let counted = world.lines("steps.log").len();
    assert!((40..=41).contains(&counted), "at most the step under way was done again: {counted}");
    assert_eq!(submitted(&world).len(), 1, "Slurm itself began it again");
    let again =
        ran.events.iter().any(|e| matches!(e, RunEvent::StageLog { line, .. } if line.starts_with("runs again on node-1")));
    assert!(again);
}

#[test]
fn stopping_the_run_lets_a_job_save_its_progress_and_cancels_one_that_waits() {
    let mut world = World::new("sprint-flow: 1\nexecutor: slurm\nstages:\n  s: {kind: steps@1, params: {n: 60, ms: 30}}\n");
    world.options.grace = Duration::from_secs(60);
    let stop_when = |world: &World, now: &(dyn Fn(&RunEvent) -> bool + Sync)| {
        let mut stopped = false;
        let ran = world.run_on(executor(world), |event, interrupt| {
            if !stopped && now(event) {
                stopped = true;
                let _ = interrupt.send(Interrupt::Interrupt);
            }
        });
        ran.unwrap().report.exit
    };
    assert_eq!(stop_when(&world, &|_| world.lines("steps.log").len() >= 4), ExitCode::Interrupted);
    assert!(world.lines("slurm/scancel.log").iter().all(|l| l == "TERM 1"), "it was asked, and nothing more was needed");
    // The next attempt waits in the queue when the run is stopped.
    let hold = cluster(&world).join("hold");
    fs::write(&hold, "").unwrap();
    let waits = |event: &RunEvent| matches!(event, RunEvent::StageLog { line, .. } if line.contains("waits (PENDING"));
    assert_eq!(stop_when(&world, &waits), ExitCode::Interrupted);
    assert_eq!(fs::read_to_string(cluster(&world).join("state/2/over")).unwrap().trim(), "CANCELLED");
    fs::remove_file(hold).unwrap();
    assert_eq!(world.run_on(executor(&world), |_, _| {}).unwrap().report.exit, ExitCode::Done);
    assert_eq!((submitted(&world).len(), world.lines("steps.log").len()), (3, 60), "no step was lost");
}

#[test]
fn a_refused_job_fails_its_stage_with_slurm_s_own_words() {
    let world = World::new(&steps(3, 1, ""));
    fs::write(cluster(&world).join("refuse"), "").unwrap();
    let ran = world.run_on(executor(&world), |_, _| {}).unwrap();
    assert_eq!(ran.report.exit, ExitCode::StageFailed);
    let message = &ran.report.failures[0].failure.error.message;
    assert!(message.contains("Slurm refuses the job") && message.contains("Invalid partition name"), "{message}");
}

#[test]
fn a_time_limit_is_counted_from_the_start_of_the_job_not_of_the_wait() {
    let world = World::new(
        "sprint-flow: 1\nexecutor: slurm\nstages:\n  s: {kind: slow@1, params: {ms: 60000}, timeout: 1s, retry: {max: 0}}\n",
    );
    let hold = cluster(&world).join("hold");
    fs::write(&hold, "").unwrap();
    let mut waited = None;
    let ran = world
        .run_on(executor(&world), |event, _| {
            if waited.is_none() && matches!(event, RunEvent::StageLog { line, .. } if line.contains("waits (PENDING")) {
                waited = Some(());
                let hold = hold.clone();
                std::thread::spawn(move || {
                    std::thread::sleep(Duration::from_millis(2500));
                    fs::remove_file(hold).unwrap();
                });
            }
        })
        .unwrap();
    assert_eq!(ran.report.exit, ExitCode::StageFailed);
    assert!(world.lines("slow.log").contains(&"begin".to_owned()), "it waited longer than its limit and yet began");
    assert!(ran.report.failures[0].failure.timed_out, "{:?}", ran.report.failures);
}

#[test]
fn no_secret_is_where_slurm_would_show_it() {
    let world = World::new(&steps(20, 30, ""));
    let mut host = crate::world::host();
    host.env = Arc::new(BTreeMap::from([("HF_TOKEN".to_owned(), CANARY.to_owned())]));
    let engine = sprint_orchestrator::Engine::new(world.store(), executor(&world), host);
    let (sender, mut receiver) = tokio::sync::mpsc::unbounded_channel();
    let (_keep, interrupts) = tokio::sync::mpsc::unbounded_channel();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut requests = 0;
    let report = runtime.block_on(async {
        let run = engine.run(world.workflow(), &world.options, sender, interrupts);
        let listen = async {
            while receiver.recv().await.is_some() {
                for file in crate::world::files_below(&world.path("store/private/jobs")) {
                    let holds = fs::read_to_string(&file).is_ok_and(|t| t.contains(CANARY));
                    let request = file.file_name().is_some_and(|n| n.to_string_lossy().starts_with("request.json"));
                    assert!(!holds || request, "{} holds the token", file.display());
                    if let (true, Ok(meta)) = (request, fs::metadata(&file)) {
                        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
                        requests += 1;
                    }
                }
            }
        };
        tokio::join!(run, listen).0
    });
    assert_eq!(report.unwrap().exit, ExitCode::Done);
    assert!(requests > 0, "the request was looked at");
    for file in crate::world::files_below(&world.path("slurm")) {
        assert!(!fs::read_to_string(&file).unwrap_or_default().contains(CANARY), "{}", file.display());
    }
    for file in crate::world::files_below(&world.path("store")) {
        let bytes = fs::read(&file).unwrap_or_default();
        assert!(!bytes.windows(CANARY.len()).any(|w| w == CANARY.as_bytes()), "{} still holds the token", file.display());
    }
}
