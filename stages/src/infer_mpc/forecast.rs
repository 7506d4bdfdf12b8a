//! What a private inference will cost, from the shapes of its model and its messages alone.

use serde_json::{Value, json};
use sprint_artifacts::Store;
use sprint_mpc::{Digest, GateSetup};
use sprint_stage_api::{Forecast, Foreseen, ForeseenInputs};

use super::{InferMpcParams, InferencePlan};
use crate::dataset::{self, Split};
use crate::share::{self, SharedFacts};

/// The cost of all inferences, or none if the model's shape or the messages are not known.
pub(super) fn forecast(store: &Store, params: &Value, inputs: &ForeseenInputs) -> Option<Forecast> {
    let params: InferMpcParams = serde_json::from_value(params.clone()).ok()?;
    let SharedFacts { spec, policy, mode, calibration } = share::facts(store, inputs.get("public")?)?;
    let Foreseen::Artifact(dataset) = inputs.get("dataset")? else { return None };
    let (_, examples) = dataset::load(store, dataset, Split::Validation).ok()?;
    let plan = InferencePlan::new(&examples, params.samples, params.batch, params.length_multiple, spec.max_tokens());
    let setup = GateSetup { spec, policy, mode, calibration, sizes: plan.sizes.clone(), model: Digest::new([0; 32]) };
    let each = setup.predict_all(params.link()).ok()?;

    let count = |program: usize| plan.jobs.iter().filter(|j| j.program as usize == program).count() as u64;
    let shapes: Vec<_> = each.iter().zip(&plan.sizes).enumerate().map(|(i, (p, size))| (count(i), p, size)).collect();
    let sum = |of: &dyn Fn(&sprint_mpc::Prediction) -> u64| shapes.iter().map(|(n, p, _)| n * of(p)).sum::<u64>();
    let each_party = |of: &dyn Fn(&sprint_mpc::Prediction) -> &[u64]| -> Vec<u64> {
        let parties = each.first().map_or(0, |p| of(p).len());
        (0..parties).map(|party| sum(&|p| of(p)[party])).collect()
    };
    let by_length = shapes.iter().map(|(n, p, size)| {
        json!({"tokens": size.tokens, "batch": size.batch, "inferences": n, "rounds": p.rounds,
            "online_bytes_sent": p.online_bytes_sent, "dealer_bytes": p.dealer_bytes, "link_s": p.link_s})
    });
    let cost = json!({
        "mode": mode,
        "messages": plan.rows.len(),
        "inferences": plan.jobs.len(),
        "rounds": shapes.iter().map(|(_, p, _)| p.rounds).max(),
        "online_bytes_sent": each_party(&|p| &p.online_bytes_sent),
        "dealer_bytes": each_party(&|p| &p.dealer_bytes),
        "link_s": shapes.iter().map(|(n, p, _)| *n as f64 * p.link_s).sum::<f64>(),
        "link": params.link(),
        "by_length": by_length.collect::<Vec<_>>(),
    });
    Some(Forecast { cost: Some(cost), ..Forecast::default() })
}
