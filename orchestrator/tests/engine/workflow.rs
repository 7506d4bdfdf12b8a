//! What the reader of a workflow file accepts, and how it says no.

use crate::world::World;

const SIX: &str = r#"sprint-flow: 1
name: six
params: {text: hello, rounds: many}
matrix: {task: [sst2, rte]}
stages:
  fetch:
    kind: sorce@1
    params: {text: "${params.text}"}
  load:
    kind: source@1
    over: [tusk]
    params: {txt: "x"}
  shout:
    kind: upper@1
    inputs: {in: laod.out}
    timeout: 10 minutes
  count:
    kind: steps@1
    over: [task]
    params: {n: "${params.rounds}"}
  tidy:
    kind: copy@1
    over: [task]
    inputs: {in: count.out}
    cach: never
"#;

#[test]
fn six_mistakes_are_reported_at_once_each_with_its_place() {
    insta::assert_snapshot!(World::new(SIX).problems());
}

#[test]
fn edges_are_checked_for_axes_ports_gathers_and_cycles() {
    let world = World::new(
        r#"sprint-flow: 1
matrix: {task: [a, b], net: [lan]}
stages:
  load: {kind: source@1, over: [task], params: {text: "${matrix.net}"}}
  one: {kind: copy@1, inputs: {in: load.out}}
  two: {kind: copy@1, over: [task], inputs: {in: load.output, extar: load.out}}
  three: {kind: copy@1, inputs: {in: {gather: load.out}}}
  four: {kind: copy@1}
  five: {kind: copy@1, inputs: {in: six.out}, needs: [none]}
  six: {kind: copy@1, inputs: {in: five.out}}
  seven: {kind: share@1, over: [task], inputs: {in: load.out}, cache: always, lease: {ttl: 1h}}
  eight: {kind: copy@9, over: [task, task], inputs: {in: load.out}}
  nine: {kind: slow@1, mutex: ["parties-${matrix.net}"], over: "${params.x}"}
"#,
    );
    insta::assert_snapshot!(world.problems());
}

#[test]
fn values_out_of_range_and_misplaced_references_are_reported() {
    let world = World::new(
        r#"sprint-flow: 2
name: "${params.x}"
params: {x: "${params.y}", y: .inf}
matrix: {epsilon: [0.5, 1, "1"], empty: [], bad: ["a b"], ref: "${params.z}"}
limits: {cpu: 0, mem: 16Gb, max_usd: -1}
stages:
  a: {kind: slow@1, resources: {cpu: 1.5, mem: [1]}, retry: {max: -1, backoff: 10m..30s, on: [transiant]}}
  b: {kind: slow@one, checkpoint: {every: 10, keep: 0}}
  c: {params: {use: missing.yaml, ms: "${params.y.z}"}, kind: slow@1}
  d: [1, 2]
  e f: {kind: slow@1}
"#,
    );
    insta::assert_snapshot!(world.problems());
}

#[test]
fn a_set_value_is_blamed_on_the_command_line() {
    let mut world =
        World::new("sprint-flow: 1\nparams: {n: 3}\nstages: {count: {kind: steps@1, params: {n: \"${params.n}\"}}}\n");
    world.sets = vec!["n=many".to_owned(), "m=4".to_owned()];
    insta::assert_snapshot!(world.problems());
}

#[test]
fn a_problem_in_a_fragment_points_into_the_fragment() {
    let world = World::new("sprint-flow: 1\nstages: {count: {kind: steps@1, params: {use: train.yaml, ms: 1}}}\n");
    std::fs::write(world.path("train.yaml"), "# training\nn: lots\nms: soon\n").unwrap();
    insta::assert_snapshot!(world.problems());
}

#[test]
fn the_example_of_the_design_has_the_instances_it_says() {
    let mut world = World::new(
        r#"sprint-flow: 1
params: {tasks: [sst2, mnli], text: x}
matrix:
  task: "${params.tasks}"
  epsilon: ["1", "8"]
  net: [lan, wan]
stages:
  fetch: {kind: source@1, over: [task], params: {text: "glue/${matrix.task}"}}
  tune: {kind: copy@1, over: [epsilon, task], inputs: {in: fetch.out}, params: {suffix: "${matrix.epsilon}"}}
  infer: {kind: copy@1, over: [task, epsilon, net], inputs: {in: tune.out}, mutex: ["parties-${matrix.net}"]}
  metrics: {kind: join@1, inputs: {rows: {gather: infer.out}}}
"#,
    );
    let workflow = world.workflow();
    assert_eq!(workflow.instances().len(), 2 + 4 + 8 + 1);
    let tune = workflow.instances().iter().find(|i| i.id().stage() == "tune").unwrap();
    assert_eq!(tune.id().to_string(), "tune[task=sst2,epsilon=1]", "axes stand in matrix order");
    assert_eq!(workflow.instances().last().unwrap().inputs()["rows"].len(), 8);
    world.sets = vec!["tasks=[rte]".to_owned(), "epsilon=[\"8\"]".to_owned()];
    let narrowed: Vec<String> = world.workflow().instances().iter().map(|i| i.id().to_string()).collect();
    assert_eq!(
        narrowed,
        [
            "fetch[task=rte]",
            "tune[task=rte,epsilon=8]",
            "infer[task=rte,epsilon=8,net=lan]",
            "infer[task=rte,epsilon=8,net=wan]",
            "metrics"
        ]
    );
}

#[test]
fn the_schema_names_every_kind_and_every_key() {
    let schema = sprint_orchestrator::workflow_schema(&crate::toy::registry());
    let stage = &schema["$defs"]["stage"];
    for key in [
        "kind",
        "over",
        "inputs",
        "params",
        "needs",
        "cache",
        "resources",
        "retry",
        "timeout",
        "mutex",
        "checkpoint",
        "lease",
        "executor",
    ] {
        assert!(stage["properties"][key].is_object(), "{key}");
    }
    let kinds = stage["properties"]["kind"].to_string();
    assert!(kinds.contains("steps@1") && kinds.contains("\"steps\""));
}

#[test]
fn leases_that_could_cost_more_than_the_limit_are_refused_before_anything_runs() {
    let workflow = |limit: &str, cap: &str| {
        let text = format!(
            "sprint-flow: 1\nlimits: {{max_usd: {limit}}}\nmatrix:\n  net: [lan, wan]\nstages:\n  parties: {{kind: lease, over: [net], lease: {{{cap}}}}}\n"
        );
        World::new(&text).problems()
    };
    assert_eq!(workflow("20", "max_usd: 10"), "");
    let problems = workflow("19", "max_usd: 10");
    assert!(problems.contains("20 USD together, but limits.max_usd is 19"), "{problems}");
    let problems = workflow("19", "ttl: 3h");
    assert!(problems.contains("stage `parties` may cost anything"), "{problems}");
}

#[test]
fn executors_are_checked_before_anything_is_submitted() {
    let world = World::new(
        r#"sprint-flow: 1
executor: {slurm: {partition: "long queue", time: 30s}}
stages:
  a: {kind: slow@1, executor: slrum}
  b: {kind: slow@1, executor: {slurm: {partion: x, options: ["--export=ALL", "-p long", "--gres=gpu:1"]}}}
  c: {kind: lease@1, executor: slurm}
  d: {kind: slow@1, executor: {batch: {}}}
  e: {kind: slow@1, executor: [slurm]}
  f: {kind: slow@1, executor: {slurm: {options: ["--job-n=x"]}}}
"#,
    );
    insta::assert_snapshot!(world.problems());
}
