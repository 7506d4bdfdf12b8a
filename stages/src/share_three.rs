//! `share-three@1`: splits a fine-tuned model into what everybody may see and one secret share for each of three servers, who need no dealer.
//!
//! **Fresh randomness.** Two executions give different shares, so a result is named by the action, not by its bytes.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sprint_artifacts::{Secrecy, Store};
use sprint_stage_api::{
    CachePolicy, Effect, Forecast, ForeseenInputs, InputPort, OutputPort, ParamProblem, Stage, StageContext, StageError,
    StageOutputs, StageSpec,
};

use crate::params::{self, Params};
use crate::share::{self, Weights};

/// Parameters of `share-three@1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ShareThreeParams {
    /// Which weights the servers must not see.
    #[serde(default)]
    weights: Weights,
}

impl Params for ShareThreeParams {}

/// The stage.
pub(crate) struct ShareThree {
    spec: StageSpec,
}

impl ShareThree {
    pub(crate) fn new() -> Self {
        let output = |name, artifact, secrecy| OutputPort { name, artifact, secrecy };
        let spec = StageSpec {
            kind: "share-three",
            version: 1,
            about: "Splits a fine-tuned model into a public part and one secret share for each of three servers without a dealer.",
            inputs: vec![InputPort { name: "model", artifact: "model", optional: false, gather: false }],
            outputs: vec![
                output("public", "shared-model", Secrecy::Public),
                output("share0", "share-0", Secrecy::Party(0)),
                output("share1", "share-1", Secrecy::Party(1)),
                output("share2", "share-2", Secrecy::Party(2)),
            ],
            effect: Effect::FreshRandomness,
            cache: CachePolicy::Never,
            code_digest: crate::code::SHARE_THREE,
            params_schema: params::schema::<ShareThreeParams>(),
        };
        Self { spec }
    }
}

impl Stage for ShareThree {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn normalise(&self, params: &Value) -> Result<Value, Vec<ParamProblem>> {
        params::normalise::<ShareThreeParams>(params)
    }

    fn forecast(&self, store: &Store, params: &Value, inputs: &ForeseenInputs) -> Forecast {
        let params: Option<ShareThreeParams> = serde_json::from_value(params.clone()).ok();
        let facts = params.and_then(|p| share::foresee_three(store, p.weights, inputs));
        Forecast { outputs: facts.map(|facts| ("public".to_owned(), json!(facts))).into_iter().collect(), cost: None }
    }

    fn run(&self, ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
        let params: ShareThreeParams = ctx.params_as()?;
        share::share_in_three(ctx, params.weights)
    }
}
