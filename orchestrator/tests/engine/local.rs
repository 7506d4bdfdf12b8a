//! Stages in processes of their own, and how they die.
//!
//! The worker is this test program itself: `--exact local::worker_process --nocapture` with `ENGINE_TEST_WORKER` set.

use std::ffi::OsString;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sprint_orchestrator::{Executor, ExitCode, Interrupt, LocalExecutor, RunEvent};

use crate::toy;
use crate::world::World;

const ARGS: [&str; 4] = ["local::worker_process", "--exact", "--nocapture", "--test-threads=1"];

/// The worker, when this program is started as one; otherwise nothing.
#[test]
fn worker_process() {
    if std::env::var_os("ENGINE_TEST_WORKER").is_some() {
        // The test harness has begun a line.
        println!();
        std::process::exit(sprint_orchestrator::worker_main(
            &toy::registry(),
            &crate::remote::connect,
            std::io::stdin(),
            std::io::stdout(),
        ));
    }
}

/// A script that starts the worker: an executor passes no environment of its own.
pub(crate) fn executor(world: &World) -> Arc<dyn Executor> {
    let script = world.path("worker.sh");
    let program = std::env::current_exe().unwrap();
    fs::write(&script, format!("ENGINE_TEST_WORKER=1 exec {} \"$@\"\n", program.display())).unwrap();
    let args = std::iter::once(script.into_os_string()).chain(ARGS.map(OsString::from)).collect();
    Arc::new(LocalExecutor::new("/bin/sh".into(), args))
}

/// Processes other than this one that work on the world's store.
fn workers(world: &World) -> Vec<u32> {
    let needle = world.path("store").to_string_lossy().into_owned();
    let pids = fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let of_world = |pid: &u32| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        *pid != std::process::id() && String::from_utf8_lossy(&environment).contains(&needle)
    };
    pids.filter(of_world).collect()
}

fn gone(world: &World) -> bool {
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        if workers(world).is_empty() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

#[test]
fn stages_run_in_processes_and_print_into_their_logs() {
    let world = World::new(
        "sprint-flow: 1\nstages:\n  a: {kind: flaky@1, params: {times: 1, how: garbage}}\n  b: {kind: upper@1, inputs: {in: a.out}}\n",
    );
    let ran = world.run_on(executor(&world), |_, _| {}).unwrap();
    assert_eq!(ran.report.exit, ExitCode::Done, "{:?}", ran.report.failures);
    assert_eq!(World::text(&ran, "b.out"), "PRINTED");
    let printed =
        ran.events.iter().any(|e| matches!(e, RunEvent::StageLog { line, .. } if line.contains("a library that prints")));
    assert!(printed, "foreign output is a log line, not a fault");
    let log = sprint_orchestrator::log_file(&world.store(), None, &"a".parse().unwrap(), None).unwrap();
    assert!(log.ends_with("logs/a/1.log"));
}

#[test]
fn a_killed_worker_is_a_failed_attempt_that_is_tried_again() {
    let workflow = |times: u32| {
        format!(
            "sprint-flow: 1\nstages: {{f: {{kind: flaky@1, params: {{times: {times}, how: kill}}, retry: {{backoff: 10ms}}}}}}\n"
        )
    };
    let world = World::new(&workflow(2));
    let ran = world.run_on(executor(&world), |_, _| {}).unwrap();
    assert_eq!(ran.report.exit, ExitCode::Done);
    assert_eq!(world.ran().len(), 3);
    let world = World::new(&workflow(3));
    let ran = world.run_on(executor(&world), |_, _| {}).unwrap();
    assert_eq!(ran.report.exit, ExitCode::StageFailed);
    assert_eq!(ran.report.failures[0].failure.error.message, "the stage process was killed by signal 9");
}

#[test]
fn a_worker_that_exits_without_a_result_fails_the_stage() {
    let world = World::new("sprint-flow: 1\nstages: {f: {kind: flaky@1, params: {times: 1, how: exit}}}\n");
    let ran = world.run_on(executor(&world), |_, _| {}).unwrap();
    assert_eq!(ran.report.failures[0].failure.error.message, "the stage process ended with status 3 and no result");
}

#[test]
fn a_stage_that_does_not_listen_is_killed_with_its_process() {
    let world = World::new("sprint-flow: 1\nstages: {s: {kind: slow@1, params: {ms: 60000, deaf: 1}}}\n");
    let begin = Instant::now();
    let ran = world.run_on(executor(&world), |event, interrupt| {
        if matches!(event, RunEvent::StageStarted { .. }) {
            let _ = interrupt.send(Interrupt::Terminate);
        }
    });
    assert_eq!(ran.unwrap().report.exit, ExitCode::Terminated);
    assert!(begin.elapsed() < Duration::from_secs(50), "the stage was waited for");
    assert!(gone(&world), "no worker is left: {:?}", workers(&world));
}

#[test]
fn an_interrupted_process_keeps_its_checkpoint() {
    let world = World::new("sprint-flow: 1\nstages: {s: {kind: steps@1, params: {n: 30, ms: 20}, checkpoint: {keep: 3}}}\n");
    let first = world.run_on(executor(&world), |event, interrupt| {
        if matches!(event, RunEvent::StageProgress { done: 4.., .. }) {
            let _ = interrupt.send(Interrupt::Interrupt);
        }
    });
    assert_eq!(first.unwrap().report.exit, ExitCode::Interrupted);
    let actions = std::fs::read_dir(world.path("store/private/secret/checkpoints")).unwrap().flatten();
    let kept: Vec<_> = actions.map(|action| std::fs::read_dir(action.path()).unwrap().count()).collect();
    assert_eq!(kept, [3], "as many as the workflow says");
    let second = world.run_on(executor(&world), |_, _| {}).unwrap();
    assert_eq!(second.report.exit, ExitCode::Done);
    assert_eq!(world.lines("steps.log").len(), 30);
}

/// This program as an orchestrator, to be killed.
#[test]
fn orchestrator_process() {
    World::orchestrate(executor);
}

#[test]
fn killing_the_orchestrator_leaves_no_process_and_the_same_command_finishes() {
    let world = World::new(
        "sprint-flow: 1\nlimits: {cpu: 2}\nstages:\n  s: {kind: steps@1, params: {n: 40, ms: 25}}\n  t: {kind: slow@1, params: {ms: 800, deaf: 1}}\n  u: {kind: upper@1, inputs: {in: s.out}}\n",
    );
    for kill_after in [150, 400, 500] {
        let mut child = world.orchestrator("local::orchestrator_process");
        std::thread::sleep(Duration::from_millis(kill_after));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(gone(&world), "orphans: {:?}", workers(&world));
    }
    let before = world.lines("steps.log").len();
    assert!(before > 0);
    let status = world.orchestrator("local::orchestrator_process").wait().unwrap();
    assert_eq!(status.code(), Some(0));
    let steps = world.lines("steps.log").len();
    assert!((40..=43).contains(&steps), "at most the step under way at each kill was done again: {steps}");
    assert!(sprint_orchestrator::status(&world.store(), None).unwrap().state == "succeeded");
    assert_eq!(world.store().runs().unwrap().len(), 1, "one run, continued");
}
