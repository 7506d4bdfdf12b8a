//! `calibrate@1`: measures, in the clear, the public ranges that mode `calibrated` relies on.
//!
//! **What ranges tell.** They are published with the shared model, so what they were measured on matters. Without a data set they are
//! measured on random tokens: a function of the model alone, and as private as the model is. Texts must be declared: `public`, or `private`,
//! whose extremes are then published without any privacy guarantee, so that everything made from them is stamped as not private.

mod ranges;
mod sample;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sprint_artifacts::Secrecy;
use sprint_model::{Example, TextEncoder};
use sprint_stage_api::{
    CachePolicy, Effect, InputPort, OutputPort, ParamProblem, Stage, StageContext, StageError, StageOutputs, StageSpec,
};

use crate::dataset::{self, Split};
use crate::errors::stamped;
use crate::model::{self, TOKENIZER};
use crate::params::{self, Params};
pub(crate) use ranges::FILE;
pub use ranges::{CalibratedOn, ModelRanges, model_name};
pub use sample::random_texts;

/// Parameters of `calibrate@1`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct CalibrateParams {
    /// How many texts are measured.
    #[serde(default = "default_examples")]
    #[schemars(range(min = 1, max = 100000))]
    examples: usize,
    /// The most tokens of a text, in deployment too; longer ones are left out.
    #[serde(default = "default_tokens")]
    #[schemars(range(min = 8, max = 512))]
    tokens: usize,
    /// How much wider than what was seen every range is made on either side, as a fraction of its width.
    #[serde(default = "default_margin")]
    #[schemars(range(min = 0.0, max = 2.0))]
    margin: f64,
    /// Which random tokens, without a data set.
    #[serde(default)]
    seed: u64,
    /// Whose the texts of the data set are; required with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    data: Option<Data>,
    /// Which part of the data set.
    #[serde(default)]
    split: Part,
}

/// Whose the texts of a data set are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Data {
    /// Anybody may know them.
    Public,
    /// Somebody's: their extremes are released.
    Private,
}

/// A part of the data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Part {
    /// What the model learnt from.
    Train,
    /// What it is measured on.
    #[default]
    Validation,
}

const fn default_examples() -> usize {
    64
}

const fn default_tokens() -> usize {
    128
}

const fn default_margin() -> f64 {
    0.2
}

impl Params for CalibrateParams {}

/// The stage.
pub(crate) struct Calibrate {
    spec: StageSpec,
}

impl Calibrate {
    pub(crate) fn new() -> Self {
        let input = |name, artifact, optional| InputPort { name, artifact, optional, gather: false };
        let spec = StageSpec {
            kind: "calibrate",
            version: 1,
            about: "Measures the public ranges of a model's inner values that mode `calibrated` relies on.",
            inputs: vec![input("model", "model", false), input("dataset", "dataset", true)],
            outputs: vec![OutputPort { name: "ranges", artifact: "calibration", secrecy: Secrecy::Public }],
            effect: Effect::Pure,
            cache: CachePolicy::Always,
            code_digest: crate::code::CALIBRATE,
            params_schema: params::schema::<CalibrateParams>(),
        };
        Self { spec }
    }
}

impl Stage for Calibrate {
    fn spec(&self) -> &StageSpec {
        &self.spec
    }

    fn normalise(&self, params: &Value) -> Result<Value, Vec<ParamProblem>> {
        params::normalise::<CalibrateParams>(params)
    }

    fn run(&self, ctx: &StageContext<'_>) -> Result<StageOutputs, StageError> {
        let params: CalibrateParams = ctx.params_as()?;
        let (_, checkpoint) = model::load(ctx.store(), &ctx.input("model")?.id)?;
        let tokens = params.tokens.min(checkpoint.spec().max_tokens());
        let (on, texts) = match ctx.optional_input("dataset") {
            Some(dataset) => declared(ctx, &params, &dataset.id, tokens)?,
            None => (CalibratedOn::RandomTokens { seed: params.seed }, random(ctx, &params, &checkpoint, tokens)?),
        };
        ctx.log(format!("ranges over {} texts of up to {tokens} tokens: {on}", texts.len()));
        let ranges = ModelRanges::measure(&checkpoint, on, &texts, tokens, params.margin)?;
        let builder = stamped(ranges.artifact(), params.data != Some(Data::Private));
        Ok(StageOutputs::new().with("ranges", ctx.put(builder)?))
    }
}

fn random(
    ctx: &StageContext<'_>,
    params: &CalibrateParams,
    checkpoint: &sprint_model::Checkpoint,
    tokens: usize,
) -> Result<Vec<Example>, StageError> {
    let manifest = ctx.store().read_artifact(&ctx.input("model")?.id).map_err(crate::errors::store_error)?;
    let json = manifest.file(TOKENIZER).map(|_| ctx.store().read_file(&manifest, TOKENIZER)).transpose();
    let json = json.map_err(crate::errors::store_error)?;
    let encoder = json.map(|json| TextEncoder::from_bytes(&json, checkpoint.spec(), tokens)).transpose();
    let encoder = encoder.map_err(|e| StageError::permanent(format!("inputs.model: {e}")))?;
    Ok(random_texts(checkpoint.spec(), encoder.as_ref(), tokens, params.examples, params.seed))
}

/// Texts of a data set whose owner was named.
fn declared(
    ctx: &StageContext<'_>,
    params: &CalibrateParams,
    dataset: &sprint_artifacts::ArtifactId,
    tokens: usize,
) -> Result<(CalibratedOn, Vec<Example>), StageError> {
    let on = match params.data {
        Some(Data::Public) => CalibratedOn::PublicTexts,
        Some(Data::Private) => CalibratedOn::PrivateTexts,
        None => {
            let message = "params.data: ranges are published, so it must be said whose the texts of inputs.dataset are: `public`, or \
                           `private` to release their extremes without a privacy guarantee";
            return Err(StageError::permanent(message).help("without inputs.dataset, random tokens are measured"));
        }
    };
    let split = match params.split {
        Part::Train => Split::Train,
        Part::Validation => Split::Validation,
    };
    let (_, mut examples) = dataset::load(ctx.store(), dataset, split)?;
    examples.retain(|e| e.ids.len() <= tokens);
    let count = params.examples.min(examples.len());
    if count == 0 {
        return Err(StageError::permanent(format!("inputs.dataset has no {} text of at most {tokens} tokens", split.name())));
    }
    Ok((on, (0..count).map(|i| examples[i * examples.len() / count].clone()).collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sprint_artifacts::encode::Value as Meta;
    use sprint_stage_api::PRIVATE;

    use super::*;
    use crate::finetune::Finetune;
    use crate::finetune::tests::{bench, recipe};
    use crate::testing::Bench;

    fn trained() -> Bench {
        let mut bench = bench();
        let trained = bench.run(&Finetune::new(), &recipe()).expect("trains");
        bench.inputs.remove("model");
        bench.connect("model", &[], *trained.get("model").expect("an output"));
        bench
    }

    fn read(bench: &Bench, outputs: &StageOutputs) -> (bool, ModelRanges) {
        let (manifest, files) = bench.output(outputs, "ranges");
        assert_eq!(manifest.secrecy(), Secrecy::Public);
        let ranges = ModelRanges::from_json(&files["calibration.json"]).expect("reads");
        (manifest.meta().get(PRIVATE) != Some(&Meta::Bool(false)), ranges)
    }

    #[test]
    fn ranges_of_random_tokens_need_no_data_and_ranges_of_texts_need_their_owner() {
        let mut bench = trained();
        let refused = bench.run(&Calibrate::new(), &json!({})).expect_err("nobody said whose the texts are");
        assert!(refused.message.contains("params.data"), "{refused}");
        let on =
            |data: &str| read(&bench, &bench.run(&Calibrate::new(), &json!({"data": data, "tokens": 16})).expect("measures"));
        let ((public, of_public), (private, of_private)) = (on("public"), on("private"));
        assert_eq!((public, of_public.on()), (true, CalibratedOn::PublicTexts));
        assert_eq!(
            (private, of_private.on()),
            (false, CalibratedOn::PrivateTexts),
            "a release of private texts is no private result"
        );
        bench.inputs.remove("dataset");
        let random = || read(&bench, &bench.run(&Calibrate::new(), &json!({"tokens": 16, "examples": 8})).expect("measures"));
        let ((claimed, first), (_, second)) = (random(), random());
        assert_eq!((claimed, first.on()), (true, CalibratedOn::RandomTokens { seed: 0 }));
        assert_eq!(first, second, "the same seed gives the same ranges");
        assert_ne!(first.calibration(), of_public.calibration());
    }

    #[test]
    fn ranges_belong_to_one_model() {
        let bench = trained();
        let (_, ranges) =
            read(&bench, &bench.run(&Calibrate::new(), &json!({"data": "public", "tokens": 16})).expect("measures"));
        let (_, own) = model::load(bench.store(), &bench.inputs["model"][0].id).expect("reads");
        ranges.check(&own).expect("its own");
        let (spec, mut params) = own.into_parts();
        let first = params.values_mut().next().expect("a parameter");
        let mut values = first.data().to_vec();
        values[0] += 1.0;
        *first = sprint_model::TensorData::new(first.shape().to_vec(), values).expect("the same shape");
        let other = sprint_model::Checkpoint::from_params("other", spec, params).expect("a model");
        let refused = ranges.check(&other).expect_err("another model");
        assert!(refused.message.contains("another model"), "{refused}");
    }
}
