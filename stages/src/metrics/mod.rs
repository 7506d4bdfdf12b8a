//! `metrics@1`: gathers predictions, privacy reports and costs into one table, for machines, for people, and as a picture.

mod markdown;
mod plot;
mod table;

#[cfg(test)]
mod tests;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sprint_artifacts::{ArtifactId, Manifest, Secrecy, Store};
use sprint_stage_api::{
    CachePolicy, Effect, InputArtifact, InputPort, OutputPort, ParamProblem, Stage, StageContext, StageError, StageOutputs,
    StageSpec,
};

use crate::cost::MpcCost;
use crate::params::{self, Params};
use crate::predictions::Predictions;
use crate::privacy::PrivacyDocument;
use table::{Gathered, Table};

/// Parameters of `metrics@1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MetricsParams {
    /// The matrix axis that the picture's horizontal axis is.
    #[serde(default = "epsilon")]
    plot_by: String,
    /// What the picture's vertical axis is.
    #[serde(default)]
    plot: Plotted,
    /// The picture's title.
    #[serde(default = "title")]
    title: String,
}

/// What a picture shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Plotted {
    /// The task's metric, in the clear and under MPC.
    #[default]
    Accuracy,
    /// Seconds of private inference a message, on a logarithmic axis.
    Seconds,
}

fn epsilon() -> String {
    "epsilon".to_owned()
}

fn title() -> String {
    "Accuracy by privacy budget".to_owned()
}

impl Params for MetricsParams {}

/// The stage.
pub(crate) struct Metrics {
    spec: StageSpec,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let input = |name, artifact, optional| InputPort { name, artifact, optional, gather: true };
        let spec = StageSpec {
            kind: "metrics",
            version: 1,
            about: "Gathers predictions, privacy reports and costs into one table.",
            inputs: vec![
                input("clear", "predictions", false),
                input("mpc", "predictions", true),
                input("reports", "privacy-report", true),
                input("costs", "mpc-cost", true),
            ],
            outputs: vec![OutputPort { name: "table", artifact: "metrics-table", secrecy: Secrecy::Public }],
            effect: Effect::Pure,
            cache: CachePolicy::Always,
            code_digest: crate::code::METRICS,
            params_schema: params::schema::<MetricsParams>(),
        };
        Self { spec }
    }
}

impl Stage for Metrics {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn normalise(&self, params: &Value) -> Result<Value, Vec<ParamProblem>> {
        params::normalise::<MetricsParams>(params)
    }

    fn run(&self, ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
        let params: MetricsParams = ctx.params_as()?;
        let table = Table::join(
            gather(ctx, "clear", Predictions::load)?,
            gather(ctx, "mpc", Predictions::load)?,
            gather(ctx, "reports", PrivacyDocument::load)?,
            gather(ctx, "costs", MpcCost::load)?,
            ctx.ancestors(),
        )?;
        let markdown = markdown::render(&table);
        markdown.lines().for_each(|line| ctx.log(line));
        let json = serde_json::to_vec_pretty(&table.to_json()).map_err(|e| StageError::permanent(e.to_string()))?;
        let mut builder =
            Manifest::builder("metrics-table@1", Secrecy::Public).bytes("table.json", json).bytes("table.md", markdown);
        let (picture, file) = match params.plot {
            Plotted::Accuracy => (plot::accuracy(&table, &params.plot_by, &params.title), "accuracy.svg"),
            Plotted::Seconds => (plot::seconds(&table, &params.plot_by, &params.title), "seconds.svg"),
        };
        match picture {
            Ok(Some(svg)) => builder = builder.bytes(file, svg),
            Ok(None) => ctx.log(format!("no picture: {} is not a numeric axis of these results", params.plot_by)),
            Err(e) => return Err(StageError::permanent(format!("drawing the picture: {e}"))),
        }
        Ok(StageOutputs::new().with("table", ctx.put(builder)?))
    }
}

fn gather<T>(
    ctx: &StageContext<'_>,
    port: &str,
    load: fn(&Store, &ArtifactId) -> Result<T, StageError>,
) -> Result<Vec<Gathered<T>>, StageError> {
    let one = |input: &InputArtifact| {
        let value = load(ctx.store(), &input.id).map_err(|e| StageError::new(e.class, format!("inputs.{port}: {e}")))?;
        Ok(Gathered { axes: input.axes.clone(), value })
    };
    ctx.gathered(port).iter().map(one).collect()
}
