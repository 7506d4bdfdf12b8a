//! Running: parallelism, failures, retries, timeouts, stopping, damage, leases.

use std::fs;
use std::time::{Duration, Instant};

use sprint_orchestrator::{ExitCode, Interrupt, RunEvent, RunStatus, Workflow};

use crate::world::{World, files_below};

const CHAIN: &str = "sprint-flow: 1
params: {text: hello}
stages:
  load: {kind: source@1, params: {text: \"${params.text}\"}}
  shout: {kind: upper@1, inputs: {in: load.out}}
  end: {kind: copy@1, inputs: {in: shout.out}, params: {suffix: \"!\"}}
";

#[test]
fn a_run_ends_with_the_event_the_command_line_promises() {
    let world = World::new(CHAIN);
    let ran = world.run();
    let last = serde_json::to_value(ran.events.last().unwrap()).unwrap();
    assert_eq!(last["event"], "run_finished");
    assert_eq!(last["status"], "succeeded");
    assert_eq!(last["stages"], serde_json::json!({"total": 3, "hit": 0, "ran": 3, "failed": 0, "blocked": 0}));
    assert!(last["outputs"]["end.out"]["digest"].as_str().unwrap().starts_with("b3:"));
    assert_eq!(World::text(&ran, "end.out"), "\"HELLO\"!");
    assert_eq!(ran.report.exit, ExitCode::Done);
}

#[test]
fn the_second_run_runs_nothing() {
    let world = World::new(CHAIN);
    let first = world.run();
    world.ran();
    let second = world.run();
    assert!(world.ran().is_empty());
    assert_eq!(second.report.finished.stages.hit, 3);
    assert_eq!(second.report.finished.outputs, first.report.finished.outputs);
    assert_ne!(second.report.finished.run, first.report.finished.run, "a finished run is not continued");
}

#[test]
fn equal_output_of_a_rerun_producer_stops_there() {
    let world = World::new(CHAIN);
    world.run();
    world.ran();
    world.rewrite(&CHAIN.replace("text: hello", "text: HeLLo"));
    let ran = world.run();
    assert_eq!(world.ran(), ["source[]", "upper[]"], "the upper-case text is as before, so `end` is a hit");
    assert_eq!(ran.report.finished.stages.hit, 1);
}

#[test]
fn independent_stages_run_together_within_the_limits() {
    // As many as may run together wait for each other; more would show in the log.
    let overlap = |limits: &str, extra: &str, expected: i32, jobs: Option<usize>| {
        let one = |n: u32| format!("  s{n}: {{kind: slow@1, params: {{ms: 30, meet: {expected}, tag: t{n}}}{extra}}}\n");
        let mut world = World::new(&format!("sprint-flow: 1\n{limits}stages:\n{}{}{}{}", one(1), one(2), one(3), one(4)));
        world.options.jobs = jobs;
        let begin = Instant::now();
        world.run();
        assert!(begin.elapsed() < Duration::from_secs(120), "{expected} could not run together: {limits}{extra}");
        let text = fs::read_to_string(world.path("slow.log")).unwrap();
        let (mut now, mut most) = (0i32, 0i32);
        for line in text.lines() {
            now += if line == "begin" { 1 } else { -1 };
            most = most.max(now);
        }
        assert_eq!(most, expected, "{limits}{extra}");
    };
    overlap("limits: {cpu: 4}\n", "", 4, None);
    overlap("limits: {cpu: 2}\n", "", 2, None);
    overlap("limits: {cpu: 4}\n", ", resources: {cpu: 2}", 2, None);
    overlap("limits: {cpu: 4, mem: 3GiB}\n", ", resources: {mem: 1GiB}", 3, None);
    overlap("limits: {cpu: 4}\n", ", mutex: [gpu]", 1, None);
    overlap("limits: {cpu: 4}\n", "", 1, Some(1));
}

#[test]
fn equal_actions_at_once_are_one_execution() {
    let world = World::new(
        "sprint-flow: 1\nstages:\n  a: {kind: slow@1, params: {ms: 100}}\n  b: {kind: slow@1, params: {ms: 100}}\n  c: {kind: upper@1, inputs: {in: b.out}}\n",
    );
    let ran = world.run();
    assert_eq!(world.ran(), ["slow[]", "upper[]"]);
    assert_eq!((ran.report.finished.stages.ran, ran.report.finished.stages.hit), (2, 1));
}

#[test]
fn transient_failures_are_tried_again_and_permanent_ones_are_not() {
    let flaky = |times: u32, how: &str| {
        format!(
            "sprint-flow: 1\nstages:\n  f: {{kind: flaky@1, params: {{times: {times}, how: {how}}}, retry: {{max: 2, backoff: 10ms..20ms}}}}\n  g: {{kind: upper@1, inputs: {{in: f.out}}}}\n"
        )
    };
    let world = World::new(&flaky(2, "transient"));
    let ran = world.run();
    assert_eq!(ran.report.exit, ExitCode::Done);
    let retries = ran.events.iter().filter(|e| matches!(e, RunEvent::StageRetrying { .. })).count();
    assert_eq!(retries, 2);

    let ran = World::new(&flaky(3, "transient")).run();
    assert_eq!((ran.report.exit, ran.report.finished.status), (ExitCode::StageFailed, RunStatus::Failed));
    assert_eq!((ran.report.finished.stages.failed, ran.report.finished.stages.blocked), (1, 1));

    let world = World::new(&flaky(1, "permanent"));
    let ran = world.run();
    assert_eq!(world.ran().len(), 1);
    assert_eq!(ran.report.failures[0].failure.error.message, "row 7 has no label");
    // The failure is past; the same command goes on in the same run.
    let again = world.run();
    assert_eq!(again.report.finished.run, ran.report.finished.run);
    assert_eq!(again.report.exit, ExitCode::Done);
}

#[test]
fn failures_map_to_their_exit_codes() {
    for (how, exit, message) in [
        ("refused", ExitCode::Refused, "the budget is spent"),
        ("panic", ExitCode::StageFailed, "the stage panicked: index out of bounds"),
        ("wrong_label", ExitCode::StageFailed, "output `out` is labelled secret, but is declared as public"),
        ("no_output", ExitCode::StageFailed, "kind flaky did not return its output `out`"),
    ] {
        let world = World::new(&format!("sprint-flow: 1\nstages: {{f: {{kind: flaky@1, params: {{times: 1, how: {how}}}}}}}\n"));
        let ran = world.run();
        assert_eq!(ran.report.exit, exit, "{how}");
        assert_eq!(ran.report.failures[0].failure.error.message, message);
    }
}

#[test]
fn keep_going_finishes_what_does_not_depend_on_the_failure() {
    let workflow = "sprint-flow: 1
limits: {cpu: 1}
stages:
  bad: {kind: flaky@1, params: {times: 9, how: permanent}}
  after: {kind: upper@1, inputs: {in: bad.out}}
  good: {kind: source@1, params: {text: x}}
  fine: {kind: upper@1, inputs: {in: good.out}}
";
    let world = World::new(workflow);
    let ran = world.run();
    assert_eq!(ran.report.exit, ExitCode::StageFailed);
    let mut world = World::new(workflow);
    world.options.keep_going = true;
    let ran = world.run();
    assert_eq!((ran.report.exit, ran.report.finished.status), (ExitCode::Partial, RunStatus::Partial));
    let counts = ran.report.finished.stages;
    assert_eq!((counts.ran, counts.failed, counts.blocked, counts.total), (2, 1, 1, 4));
    let blocked = ran.events.iter().find_map(|e| match e {
        RunEvent::StageBlocked { stage, by } => Some((stage.to_string(), by[0].to_string())),
        _ => None,
    });
    assert_eq!(blocked, Some(("after".to_owned(), "bad".to_owned())));
}

#[test]
fn a_timeout_ends_the_attempt_even_of_a_stage_that_does_not_listen() {
    for deaf in [0, 1] {
        let world = World::new(&format!(
            "sprint-flow: 1\nstages: {{s: {{kind: slow@1, params: {{ms: 60000, deaf: {deaf}}}, timeout: 100ms}}}}\n"
        ));
        let begin = Instant::now();
        let ran = world.run();
        assert!(begin.elapsed() < Duration::from_secs(50), "the stage was waited for");
        assert!(ran.report.failures[0].failure.timed_out);
        assert!(ran.report.failures[0].failure.error.message.contains("timeout"));
    }
}

#[test]
fn an_interrupt_saves_progress_and_the_same_command_goes_on() {
    let world = World::new(
        "sprint-flow: 1\nstages:\n  s: {kind: steps@1, params: {n: 20, ms: 10}}\n  t: {kind: upper@1, inputs: {in: s.out}}\n",
    );
    let first = world
        .run_on(world.in_process(), |event, interrupt| {
            if matches!(event, RunEvent::StageProgress { done: 5, .. }) {
                let _ = interrupt.send(Interrupt::Interrupt);
            }
        })
        .unwrap();
    assert_eq!((first.report.exit, first.report.finished.status), (ExitCode::Interrupted, RunStatus::Interrupted));
    assert_eq!(ExitCode::Interrupted.code(), 130);
    let before = world.lines("steps.log").len();
    assert!((5..20).contains(&before));
    let second = world.run();
    assert_eq!(second.report.finished.run, first.report.finished.run);
    assert_eq!(second.report.exit, ExitCode::Done);
    assert_eq!(world.lines("steps.log").len(), 20, "no step was done twice");
    let attempt = second.events.iter().find_map(|e| match e {
        RunEvent::StageStarted { stage, attempt, .. } if stage.stage() == "s" => Some(*attempt),
        _ => None,
    });
    assert_eq!(attempt, Some(2), "the attempt counts on");
}

#[test]
fn gathered_inputs_are_a_table_with_axes() {
    let world = World::new(
        "sprint-flow: 1
matrix: {task: [b, a], epsilon: [\"8\", \"1\"]}
stages:
  load: {kind: source@1, over: [task, epsilon], params: {text: \"${matrix.task}${matrix.epsilon}\"}}
  all: {kind: join@1, over: [epsilon], inputs: {rows: {gather: load.out}}}
  top: {kind: join@1, inputs: {rows: {gather: all.out}}}
",
    );
    let ran = world.run();
    let text = World::text(&ran, "top.out");
    let rows: Vec<&str> = text.lines().collect();
    assert_eq!(rows.len(), 4);
    assert_eq!(rows[0], r#"{"epsilon": "1"} {"epsilon": "1", "task": "a"} "a1""#);
}

#[test]
fn only_selects_instances_and_what_they_need() {
    let mut world = World::new(
        "sprint-flow: 1
matrix: {task: [a, b]}
stages:
  load: {kind: source@1, over: [task], params: {text: \"${matrix.task}\"}}
  shout: {kind: upper@1, over: [task], inputs: {in: load.out}}
  end: {kind: join@1, inputs: {rows: {gather: shout.out}}}
",
    );
    world.options.only = vec!["shout[task=b]".parse().unwrap()];
    let ran = world.run();
    assert_eq!(ran.report.finished.stages.total, 2);
    assert_eq!(world.ran(), ["source[task=b]", "upper[task=b]"]);
    assert_eq!(World::text(&ran, "shout[task=b].out"), "\"B\"");
    world.options.only = vec!["shuot".parse().unwrap()];
    let error = world.try_run().err().unwrap();
    assert_eq!(error.exit(), ExitCode::Usage);
    assert!(error.to_string().contains("did you mean `shout`"), "{error}");
}

const SHARED: &str = "sprint-flow: 1
params: {suffix: x}
stages:
  load: {kind: source@1, params: {text: m}}
  hosts: {kind: lease@1}
  shares: {kind: share@1, inputs: {in: load.out}, needs: [hosts]}
  infer: {kind: copy@1, inputs: {in: shares.out, extra: hosts.out}, params: {suffix: \"${params.suffix}\"}}
";

#[test]
fn fresh_randomness_and_leases_run_only_when_a_consumer_does() {
    let mut world = World::new(SHARED);
    let ran = world.run();
    assert_eq!(ran.report.finished.stages.ran, 4);
    assert_eq!(world.ran().len(), 4);
    assert!(!world.path("lease").exists(), "the lease was given back");
    let again = world.run();
    assert!(world.ran().is_empty());
    assert_eq!(again.report.finished.stages.hit, 4, "they count as hits");
    assert!(world.plan().is_done());
    world.sets = vec!["suffix=y".to_owned()];
    world.run();
    assert_eq!(world.ran(), ["copy[]", "lease[]", "share[]"], "fresh shares for the new inference, the model as it was");
    assert_eq!(world.lines("released.log").len(), 2);
}

#[test]
fn a_lease_that_cannot_be_given_back_is_exit_8() {
    let world = World::new("sprint-flow: 1\nstages: {hosts: {kind: lease@1, params: {stuck: 1}}}\n");
    let ran = world.run();
    assert_eq!(ran.report.exit, ExitCode::CloudResources);
    assert_eq!(ran.report.kept_leases[0].stage.to_string(), "hosts");
    assert_eq!(ran.report.finished.status, RunStatus::Succeeded);
}

#[test]
fn a_measurement_is_reused_by_its_own_run_only() {
    let world = World::new(
        "sprint-flow: 1\nstages:\n  m: {kind: source@1, params: {text: m}, cache: measure}\n  f: {kind: flaky@1, params: {times: 1, how: permanent}, needs: [m]}\n",
    );
    world.run();
    world.ran();
    world.run();
    assert_eq!(world.ran(), ["flaky[]"], "the same run goes on: the measurement stands");
    world.run();
    assert_eq!(world.ran(), ["source[]"], "a new run measures again");
}

#[test]
fn any_damaged_or_missing_blob_is_made_again_with_what_it_needs() {
    let world = World::new(CHAIN);
    let first = world.run();
    world.ran();
    let blobs = files_below(&world.path("store").join("blobs"));
    assert!(blobs.len() >= 6);
    for (nth, blob) in blobs.iter().enumerate() {
        let whole = fs::read(blob).unwrap();
        fs::remove_file(blob).unwrap();
        if nth % 2 == 0 {
            let mut flipped = whole.clone();
            flipped[whole.len() / 2] ^= 1;
            fs::write(blob, flipped).unwrap();
        }
        let ran = world.run();
        assert_eq!(ran.report.exit, ExitCode::Done, "{}", blob.display());
        assert_eq!(ran.report.finished.outputs, first.report.finished.outputs);
        let rerun = world.ran();
        assert_eq!(rerun.len(), 1, "{}: {rerun:?}", blob.display());
        assert_eq!(fs::read(blob).unwrap(), whole);
        let why = ran.events.iter().find_map(|e| match e {
            RunEvent::StageMissed { why, .. } => Some(why.join(" ")),
            _ => None,
        });
        let why = why.expect("it was a miss");
        assert!(why.contains("damaged") || why.contains("missing"), "{why}");
    }
    // Everything at once: what a rerun needs is made again first.
    for blob in files_below(&world.path("store").join("blobs")) {
        fs::remove_file(blob).unwrap();
    }
    assert_eq!(world.run().report.finished.stages.ran, 3);
}

#[test]
fn damaged_result_records_are_misses() {
    let world = World::new(CHAIN);
    world.run();
    world.ran();
    for record in files_below(&world.path("store").join("results")) {
        let mut bytes = fs::read(&record).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        fs::remove_file(&record).unwrap();
        fs::write(&record, bytes).unwrap();
    }
    let ran = world.run();
    assert_eq!(ran.report.finished.stages.ran, 3);
}

#[test]
fn two_engines_on_one_run_are_told_apart() {
    let world = World::new("sprint-flow: 1\nstages: {s: {kind: slow@1, params: {ms: 600}}}\n");
    std::thread::scope(|scope| {
        let first = scope.spawn(|| world.run());
        std::thread::sleep(Duration::from_millis(250));
        let error = world.try_run().err().expect("the run is taken");
        assert_eq!(error.exit(), ExitCode::Locked);
        assert!(error.to_string().contains(&std::process::id().to_string()), "{error}");
        first.join().unwrap();
    });
}

#[test]
fn two_runs_on_one_store_share_an_action() {
    let one = "sprint-flow: 1\nname: one\nstages: {s: {kind: slow@1, params: {ms: 500}}}\n";
    let world = World::new(one);
    let second = World::new("sprint-flow: 1\nname: two\nstages: {t: {kind: slow@1, params: {ms: 500}}}\n");
    std::os::unix::fs::symlink(world.path("store"), second.path("store")).unwrap();
    let results = std::thread::scope(|scope| {
        let first = scope.spawn(|| world.run());
        std::thread::sleep(Duration::from_millis(200));
        let second = scope.spawn(|| second.run());
        [first.join().unwrap(), second.join().unwrap()]
    });
    assert_eq!(results[0].report.finished.stages.ran, 1);
    assert_eq!(results[1].report.finished.stages.hit, 1, "it waited and took the other's result");
    assert!(second.ran().is_empty());
}

#[test]
fn two_thousand_cached_instances_are_a_short_run() {
    let values: Vec<String> = (0..500).map(|i| format!("v{i}")).collect();
    let world = World::in_memory(&format!(
        "sprint-flow: 1
matrix: {{a: [{}]}}
stages:
  load: {{kind: source@1, over: [a], params: {{text: \"${{matrix.a}}\"}}}}
  one: {{kind: upper@1, over: [a], inputs: {{in: load.out}}}}
  two: {{kind: copy@1, over: [a], inputs: {{in: one.out}}}}
  three: {{kind: copy@1, over: [a], inputs: {{in: two.out}}, params: {{suffix: x}}}}
  all: {{kind: join@1, inputs: {{rows: {{gather: three.out}}}}}}
",
        values.join(", ")
    ));
    let begin = Instant::now();
    let first = world.run();
    assert_eq!(first.report.finished.stages.ran, 2001, "{:?}", first.report.failures);
    let first = begin.elapsed();
    let begin = Instant::now();
    assert_eq!(world.run().report.finished.stages.hit, 2001);
    let second = begin.elapsed();
    eprintln!("2001 instances: {first:?} to run, {second:?} to find again");
}

#[test]
fn resume_goes_on_with_the_workflow_the_run_began_with() {
    let workflow = "sprint-flow: 1\nparams: {n: 3}\nstages:\n  s: {kind: steps@1, params: {use: s.yaml, n: \"${params.n}\"}}\n  f: {kind: flaky@1, params: {times: 1, how: permanent}, needs: [s]}\n";
    let mut world = World::new(workflow);
    fs::write(world.path("s.yaml"), "ms: 1").unwrap();
    world.sets = vec!["n=5".to_owned()];
    let first = world.run();
    assert_eq!(first.report.finished.status, RunStatus::Failed);
    world.rewrite("not: [a, workflow");
    fs::remove_file(world.path("s.yaml")).unwrap();
    let engine = world.engine(world.in_process());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let store = world.store();
    let (run, request) = sprint_orchestrator::resumable(&store, None).unwrap();
    let workflow = Workflow::from_inputs(request.workflow, &world.registry).unwrap();
    let (events, _) = tokio::sync::mpsc::unbounded_channel();
    let (_, interrupts) = tokio::sync::mpsc::unbounded_channel();
    let resume = engine.resume(run.id(), workflow.into(), &world.options, events, interrupts);
    let report = runtime.block_on(resume).unwrap();
    assert_eq!((report.exit, &report.finished.run), (ExitCode::Done, &first.report.finished.run));
    assert_eq!(world.lines("steps.log").len(), 5);
    assert_eq!(sprint_orchestrator::resumable(&store, None).unwrap_err().to_string(), "no run is unfinished");
}

#[test]
fn a_lease_is_kept_for_a_look_after_a_failure_until_its_time_is_over_or_the_run_is_stopped() {
    let workflow = |keep: &str| {
        format!(
            "sprint-flow: 1
stages:
  hosts: {{kind: lease, lease: {{keep_on_failure: {keep}}}}}
  use: {{kind: flaky, inputs: {{hosts: hosts.out}}, params: {{times: 9, how: permanent}}, retry: {{max: 0}}}}
"
        )
    };
    let kept = |event: &RunEvent| matches!(event, RunEvent::StageLog { line, .. } if line.starts_with("kept for a look"));
    let world = World::new(&workflow("50ms"));
    let ran = world.run();
    assert!(ran.events.iter().any(kept));
    assert_eq!((ran.report.exit, world.lines("released.log").len()), (ExitCode::StageFailed, 1));

    let world = World::new(&workflow("10d"));
    let ran = world.run_on(world.in_process(), |event, interrupt| {
        if kept(event) {
            assert!(world.path("lease").exists());
            let _ = interrupt.send(Interrupt::Interrupt);
        }
    });
    assert!(ran.is_ok() && !world.path("lease").exists());
}
