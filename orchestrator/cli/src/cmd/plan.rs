//! `plan`.

use sprint_artifacts::{Store, StoreError, StoreOptions};
use sprint_orchestrator::{ExitCode, Plan, PlanError, PlanState};

use super::artifacts::store_failure;
use super::remote;
use super::run::selectors;
use super::workflow::load;
use crate::args::PlanArgs;
use crate::failure::{Code, Failure};
use crate::registry::registry;
use crate::ui::{bytes, grid, out, seconds};

pub(super) fn run(args: &PlanArgs) -> Result<Code, Failure> {
    let workflow = load(&args.workflow, &registry())?;
    let only = selectors(&args.only)?;
    // Nothing is created for a look.
    let store = match Store::open(&args.store.store, StoreOptions::read_only()) {
        Ok(store) => Some(store),
        Err(StoreError::NoStore { .. }) => None,
        Err(e) => return Err(store_failure(&e)),
    };
    let remote = remote::open(workflow.remote(), &args.remote)?;
    let remote = remote.as_ref().map(|r| &*r.remote);
    let plan = Plan::with_remote(&workflow, store.as_ref(), remote, &only, "").map_err(|e| match e {
        PlanError::Nothing(nothing) => Failure::from_error(Code::USAGE, &nothing),
        PlanError::Remote(e) if e.is_unavailable() => {
            Failure::from_error(Code::new(ExitCode::RemoteUnavailable.code()), &e).help("try again when it is reachable")
        }
        other => Failure::from_error(Code::FAILED, &other),
    })?;
    if args.workflow.json {
        out::line(serde_json::to_string(&plan).expect("a plan is names, texts and numbers"))?;
    } else {
        show(&plan)?;
    }
    Ok(if args.detailed_exitcode && !plan.is_done() { Code::PLAN_FOUND_WORK } else { Code::DONE })
}

fn show(plan: &Plan) -> Result<(), Failure> {
    let rows = plan.stages.iter().map(|stage| {
        let word = match stage.state {
            PlanState::Hit => "cached",
            PlanState::HitRemote => "pull",
            PlanState::Miss => "run",
            PlanState::Blocked => "unknown",
        };
        vec![word.to_owned(), stage.id.to_string(), stage.why.join("; ")]
    });
    out::line(grid(&["", "stage", "why"], &rows.collect::<Vec<_>>()))?;
    let [run, unknown, cached] = [PlanState::Miss, PlanState::Blocked, PlanState::Hit].map(|s| plan.count(s));
    let pulled = match plan.count(PlanState::HitRemote) {
        0 => String::new(),
        n => format!(", {n} to pull from the remote"),
    };
    out::line(format_args!("\n{run} to run, {unknown} that may have to run, {cached} cached{pulled}"))?;
    for stage in &plan.stages {
        if let (Some(cost), false) = (&stage.cost, stage.state == PlanState::Hit) {
            out::line(format_args!("foreseen for {}: {}", stage.id, foreseen(cost)))?;
        }
    }
    let spends: Vec<_> = plan
        .stages
        .iter()
        .filter(|s| s.spends_privacy && !matches!(s.state, PlanState::Hit | PlanState::HitRemote))
        .map(|s| s.id.to_string())
        .collect();
    if !spends.is_empty() {
        out::line(format_args!("spends privacy budget: {}", spends.join(", ")))?;
    }
    Ok(())
}

/// A cost in a line: what every stage that foresees one says of it.
fn foreseen(cost: &serde_json::Value) -> String {
    let number = |value: &serde_json::Value| value.as_u64().unwrap_or(0);
    let (sent, dealt) = (&cost["online_bytes_sent"], &cost["dealer_bytes"]);
    format!(
        "{} inferences of up to {} rounds, {} sent by each party, {} and {} from the dealer, {} on the link",
        number(&cost["inferences"]),
        number(&cost["rounds"]),
        bytes(number(&sent[0])),
        bytes(number(&dealt[0])),
        bytes(number(&dealt[1])),
        seconds(cost["link_s"].as_f64().unwrap_or(0.0))
    )
}
