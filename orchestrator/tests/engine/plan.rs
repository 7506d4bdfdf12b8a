//! Keys, hits and reasons.

use std::time::Instant;

use proptest::prelude::*;
use sprint_orchestrator::PlanState::{Blocked, Hit, Miss};

use crate::toy;
use crate::world::World;

const CHAIN: &str = "sprint-flow: 1
params: {text: hello}
stages:
  load: {kind: source@1, params: {text: \"${params.text}\"}}
  shout: {kind: upper@1, inputs: {in: load.out}}
  end: {kind: copy@1, inputs: {in: shout.out}, params: {suffix: x, seed: 1}}
";

#[test]
fn a_plan_says_what_is_unknown_until_what_ran() {
    let world = World::new(CHAIN);
    let plan = world.plan();
    let states: Vec<_> = plan.stages.iter().map(|s| s.state).collect();
    assert_eq!(states, [Miss, Blocked, Blocked]);
    assert_eq!(plan.stages[0].why, ["never ran before"]);
    assert_eq!(plan.stages[2].why, ["unknown until shout ran"]);
    world.run();
    assert!(world.plan().is_done());
    assert!(sprint_orchestrator::Plan::of(&world.workflow(), None, &[], "").unwrap().stages[0].key.is_some());
}

#[test]
fn the_reason_for_a_rerun_names_exactly_the_changed_field() {
    let world = World::new(CHAIN);
    world.run();
    world.rewrite(&CHAIN.replace("suffix: x", "suffix: y"));
    let plan = world.plan();
    assert_eq!(plan.stages[2].why, ["params.suffix x→y"]);
    world.rewrite(&CHAIN.replace("seed: 1", "seed: 2"));
    assert_eq!(world.plan().stages[2].why, ["seed 1→2"]);
}

#[test]
fn a_changed_input_byte_reruns_exactly_what_depends_on_it() {
    let workflow = "sprint-flow: 1
stages:
  a: {kind: source@1, params: {file: a.txt}}
  b: {kind: source@1, params: {file: b.txt}}
  both: {kind: copy@1, inputs: {in: a.out, extra: b.out}}
  shout: {kind: upper@1, inputs: {in: a.out}}
  other: {kind: upper@1, inputs: {in: b.out}}
";
    let world = World::new(workflow);
    std::fs::write(world.path("a.txt"), "one").unwrap();
    std::fs::write(world.path("b.txt"), "two").unwrap();
    world.run();
    world.ran();
    std::fs::write(world.path("b.txt"), "twO").unwrap();
    assert_eq!(world.states()["a"], Hit);
    let ran = world.run();
    // `other` gives the same upper-case bytes, which is early cutoff for whatever would follow it.
    assert_eq!(world.ran(), ["copy[]", "source[]", "upper[]"]);
    assert_eq!(ran.report.finished.stages.hit, 2);
}

#[test]
fn a_new_version_of_a_kind_reruns_its_stages_and_says_so() {
    let mut world = World::new(&CHAIN.replace("copy@1", "copy"));
    world.run();
    world.ran();
    world.registry = toy::registry_with(2);
    let plan = world.plan();
    assert_eq!(plan.stages[2].why, ["kind_version 1→2"]);
    assert_eq!(plan.stages.iter().filter(|s| s.state == Hit).count(), 2);
    world.run();
    assert_eq!(world.ran(), ["copy[]"]);
}

#[test]
fn names_order_limits_and_retries_are_not_in_the_key() {
    let world = World::new(CHAIN);
    world.run();
    world.rewrite(
        "sprint-flow: 1
name: other
stages:
  last:
    retry: {max: 7}
    resources: {cpu: 2, mem: 1GiB}
    timeout: 3h
    params: {seed: 1, suffix: x}
    inputs: {in: loud.out}
    kind: copy
  loud: {inputs: {in: first.out}, kind: upper, mutex: [m]}
  first: {params: {text: hello}, kind: source}
limits: {cpu: 2}
",
    );
    assert!(world.plan().is_done(), "{:#?}", world.plan());
}

#[test]
fn the_resolved_workflow_stands_for_the_same_actions() {
    let mut world = World::new(&CHAIN.replace("suffix: x, seed: 1", "use: end.yaml, seed: 1"));
    std::fs::write(world.path("end.yaml"), "suffix: \"0x10\"\nseed: 9\n").unwrap();
    world.sets = vec!["text='~: #'".to_owned()];
    world.run();
    let resolved = world.workflow().resolved().to_owned();
    let run = world.store().runs().unwrap().remove(0);
    assert_eq!(std::fs::read_to_string(world.path("store/runs").join(run.as_str()).join("resolved.yaml")).unwrap(), resolved);
    world.sets.clear();
    world.rewrite(&resolved);
    assert!(world.plan().is_done(), "{resolved}");
}

fn matrix(n: usize) -> String {
    let values: Vec<String> = (0..n).map(|i| format!("v{i}")).collect();
    format!(
        "sprint-flow: 1
matrix: {{a: [{}], b: [x, y]}}
stages:
  load: {{kind: source@1, over: [a], params: {{text: \"${{matrix.a}}\"}}}}
  one: {{kind: copy@1, over: [a, b], inputs: {{in: load.out}}, params: {{suffix: \"${{matrix.b}}\"}}}}
  all: {{kind: join@1, inputs: {{rows: {{gather: one.out}}}}}}
",
        values.join(", ")
    )
}

#[test]
fn two_thousand_instances_are_planned() {
    let world = World::new(&matrix(667));
    let begin = Instant::now();
    let plan = world.plan();
    let took = begin.elapsed();
    assert_eq!(plan.stages.len(), 667 * 3 + 1);
    eprintln!("planned {} instances in {took:?}", plan.stages.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Mutates one of several fields and asks why.
    #[test]
    fn explain_names_exactly_the_mutated_field(which in 0usize..4, value in "[a-z]{3,9}") {
        let world = World::new(CHAIN);
        world.run();
        let (text, stage, path) = match which {
            0 => (CHAIN.replace("suffix: x", &format!("suffix: {value}")), 2, "params.suffix"),
            1 => (CHAIN.replace("seed: 1", &format!("seed: {}", value.len() + 1)), 2, "seed"),
            2 => (CHAIN.replace("text: hello", &format!("text: q{value}")), 0, "params.text"),
            _ => (CHAIN.replace("in: shout.out}, params", "in: load.out}, params"), 2, "inputs.in"),
        };
        world.rewrite(&text);
        let changes = world.plan().stages.remove(stage).changes;
        prop_assert_eq!(changes.iter().map(|c| c.path.as_str()).collect::<Vec<_>>(), vec![path]);
    }
}
