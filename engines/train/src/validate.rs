//! Everything that is wrong with a run, found before anything is spent.

use std::fmt;

use sprint_dp::budget::{BudgetError, ClipNorm, Delta, Epsilon};
use sprint_dp::calibrate::{rate_for, steps_for, strategy_for};
use sprint_model::{Example, Label, ModelSpec};
use thiserror::Error;

use crate::config::{PrivacyConfig, Sampling, TrainConfig};
use crate::layout::Layout;
use crate::optim::OptimiserConfig;
use crate::schedule::Decay;

/// One thing wrong with a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The field, with dots (`privacy.delta`), or `examples`.
    pub field: String,
    /// What is wrong and what to give instead.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// A run that cannot be started: every problem.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("the run cannot start: {}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct ConfigError {
    /// At least one.
    pub problems: Vec<Problem>,
}

#[derive(Default)]
struct Checks(Vec<Problem>);

impl Checks {
    fn push(&mut self, field: &str, message: impl fmt::Display) {
        self.0.push(Problem { field: field.to_owned(), message: message.to_string() });
    }

    fn check(&mut self, holds: bool, field: &str, message: impl fmt::Display) {
        if !holds {
            self.push(field, message);
        }
    }

    fn budget<T>(&mut self, field: &str, value: Result<T, BudgetError>) {
        if let Err(error) = value {
            self.push(field, format_args!("{} given; {}", error.value, error.fix));
        }
    }
}

impl TrainConfig {
    /// Checks this configuration against the base model, the data and the number of outputs (1 is regression): the trained model's spec and
    /// what is trained in it, or every problem.
    pub fn validate(&self, base: &ModelSpec, examples: &[Example], outputs: usize) -> Result<(ModelSpec, Layout), ConfigError> {
        let mut checks = Checks::default();
        self.check_optimisation(&mut checks, examples.len());
        self.check_privacy(&mut checks, examples.len());
        let model = self.check_model(&mut checks, base, outputs);
        check_examples(&mut checks, base, examples, outputs);
        match model {
            Some(model) if checks.0.is_empty() => Ok(model),
            _ => Err(ConfigError { problems: checks.0 }),
        }
    }

    /// Checks the public texts that the head is to start from, if there are any.
    pub(crate) fn validate_described(&self, base: &ModelSpec, texts: &[Example], outputs: usize) -> Result<(), ConfigError> {
        let mut c = Checks::default();
        if let Some(width) = self.tuning.public_basis() {
            c.check(width > 0, "tuning.public_basis", "0 given; give at least 1, or null to train all of B");
            c.check(!texts.is_empty(), "tuning.public_basis", "given without public texts to find the directions by");
        }
        if texts.is_empty() {
            return if c.0.is_empty() { Ok(()) } else { Err(ConfigError { problems: c.0 }) };
        }
        let margin = self.head.margin;
        c.check(margin.is_finite() && margin > 0.0, "head.margin", format_args!("{margin} given; give a number above 0"));
        c.check(!self.head.dense, "head.dense", "true given, but a head that starts from texts has one layer; give false");
        c.check(outputs > 1, "described", "the task is a regression; texts describe the classes of a classification");
        for class in 0..outputs as u32 {
            let known = texts.iter().any(|text| text.label == Some(Label::Class(class)));
            c.check(known, "described", format_args!("no text describes class {class}; give at least one for each class"));
        }
        for (row, text) in texts.iter().enumerate() {
            if let Some(message) = label_problem(text, outputs).or_else(|| token_problem(text, base)) {
                c.push("described", format_args!("text {row} {message}"));
            }
        }
        if c.0.is_empty() { Ok(()) } else { Err(ConfigError { problems: c.0 }) }
    }

    fn check_model(&self, c: &mut Checks, base: &ModelSpec, outputs: usize) -> Option<(ModelSpec, Layout)> {
        c.check(outputs > 0, "outputs", "0 given; give the number of classes, or 1 for regression");
        let spec = match self.spec(base, outputs) {
            Ok(spec) => spec,
            Err(problem) => {
                c.0.push(problem);
                return None;
            }
        };
        if let Err(error) = spec.validate() {
            for problem in error.problems {
                c.push(problem.field, format_args!("{} given; must be {}", problem.found, problem.rule));
            }
            return None;
        }
        match Layout::new(&spec, self.tuning(), &self.modules_to_save) {
            Ok(layout) => Some((spec, layout)),
            Err(name) => {
                let example = "classifier, pooler, LayerNorm, layer.0.output";
                c.push(
                    "modules_to_save",
                    format_args!("{name:?} matches no parameter; names are parts of paths, such as {example}"),
                );
                None
            }
        }
    }

    fn check_optimisation(&self, c: &mut Checks, n: usize) {
        let b = self.batch_size;
        c.check(b > 0, "batch_size", "0 given; give the expected number of examples in a step, at least 1");
        if n > 0 {
            c.check(b <= n, "batch_size", format_args!("{b} given, but there are {n} examples; give at most {n}"));
        }
        c.check(self.microbatch > 0, "microbatch", "0 given; give the most examples that fit in memory at once, at least 1");
        c.check(
            self.epochs.is_finite() && self.epochs > 0.0,
            "epochs",
            format_args!("{} given; give a number above 0", self.epochs),
        );
        let lr = self.learning_rate;
        c.check(lr.is_finite() && lr > 0.0, "learning_rate", format_args!("{lr} given; give a number above 0, for example 2e-3"));
        let rate = self.head_rate;
        c.check(rate.is_finite() && rate > 0.0, "head_rate", format_args!("{rate} given; give a factor above 0, for example 1"));
        let warm_up = self.schedule.warm_up;
        c.check(
            (0.0..1.0).contains(&warm_up),
            "schedule.warm_up",
            format_args!("{warm_up} given; give a fraction from 0 to below 1"),
        );
        let average = self.average;
        c.check((0.0..=1.0).contains(&average), "average", format_args!("{average} given; give a fraction from 0 to 1"));
        if let Decay::Exponential { gamma } = self.schedule.decay {
            c.check(
                gamma > 0.0 && gamma <= 1.0,
                "schedule.decay.gamma",
                format_args!("{gamma} given; give a factor above 0 and at most 1"),
            );
        }
        let mut unit = |field: &str, value: f64| {
            c.check((0.0..1.0).contains(&value), field, format_args!("{value} given; give a number from 0 to below 1"));
        };
        let (weight_decay, positive) = match self.optimiser {
            OptimiserConfig::Sgd { momentum, weight_decay } => {
                unit("optimiser.momentum", momentum);
                (weight_decay, None)
            }
            OptimiserConfig::Adamw { beta1, beta2, eps, weight_decay } => {
                unit("optimiser.beta1", beta1);
                unit("optimiser.beta2", beta2);
                (weight_decay, Some(("optimiser.eps", eps)))
            }
            OptimiserConfig::DpAdambc { beta1, beta2, floor, weight_decay } => {
                unit("optimiser.beta1", beta1);
                unit("optimiser.beta2", beta2);
                (weight_decay, Some(("optimiser.floor", floor)))
            }
        };
        if let Some((field, value)) = positive {
            c.check(value.is_finite() && value > 0.0, field, format_args!("{value} given; give a number above 0"));
        }
        let sane =
            weight_decay.is_finite() && weight_decay >= 0.0 && !(lr.is_finite() && weight_decay * lr * rate.max(1.0) >= 1.0);
        c.check(
            sane,
            "optimiser.weight_decay",
            format_args!("{weight_decay} given; give a number of at least 0, below 1/learning_rate"),
        );
    }

    fn check_privacy(&self, c: &mut Checks, n: usize) {
        let Some(PrivacyConfig { epsilon, delta, clip, max_epsilon, bands }) = self.privacy else { return };
        c.budget("privacy.epsilon", Epsilon::new(epsilon));
        c.budget("privacy.delta", Delta::new(delta));
        c.budget("privacy.clip", ClipNorm::new(clip));
        if n > 0 && delta < 1.0 {
            let most = 1.0 / n as f64;
            c.check(delta < most, "privacy.delta", format_args!("{delta} given, but with {n} examples a delta of {most:.1e} already allows publishing one of them; give far less"));
        }
        if let Some(max) = max_epsilon {
            c.budget("privacy.max_epsilon", Epsilon::new(max));
            let holds = max.is_nan() || max >= epsilon;
            c.check(
                holds,
                "privacy.max_epsilon",
                format_args!("{max} given, below privacy.epsilon = {epsilon}; the run could not finish"),
            );
        }
        self.check_bands(c, n, bands);
        let poisson = self.sampling == Sampling::Poisson;
        c.check(poisson, "sampling", "shuffled batches have no accounted guarantee; give poisson, or privacy: null");
    }
}

impl TrainConfig {
    fn check_bands(&self, c: &mut Checks, n: usize, bands: u32) {
        let (records, batch) = (n as u64, self.batch_size as u64);
        // What is wrong without bands is another field's problem.
        let Ok(steps) = steps_for(records, batch, self.epochs) else { return };
        c.budget("privacy.bands", strategy_for(bands, steps).and_then(|_| rate_for(records, batch, bands)));
    }
}

/// At most this many examples are named in one problem list.
const NAMED: usize = 5;

fn check_examples(c: &mut Checks, spec: &ModelSpec, examples: &[Example], outputs: usize) {
    c.check(!examples.is_empty(), "examples", "the training split is empty; check the split's name and the row filter");
    let mut wrong = 0;
    for (row, example) in examples.iter().enumerate() {
        let problem = label_problem(example, outputs).or_else(|| token_problem(example, spec));
        let Some(message) = problem else { continue };
        wrong += 1;
        if wrong <= NAMED {
            c.push("examples", format_args!("row {row} {message}"));
        }
    }
    c.check(wrong <= NAMED, "examples", format_args!("{wrong} rows are unusable in all; the first {NAMED} are named"));
}

fn label_problem(example: &Example, outputs: usize) -> Option<String> {
    match (example.label, outputs) {
        (None, _) => Some("has no label".to_owned()),
        (Some(Label::Class(_)), 1) => Some("has a class label, but a head of one output regresses a score".to_owned()),
        (Some(Label::Score(_)), 2..) => Some("has a score, but the head classifies; give classes, or outputs: 1".to_owned()),
        (Some(Label::Class(class)), _) if class as usize >= outputs => {
            Some(format!("has the label {class}, outside the head's {outputs} classes (0 to {})", outputs.saturating_sub(1)))
        }
        (Some(Label::Score(score)), _) if !score.is_finite() => Some(format!("has the score {score}; give a finite number")),
        _ => None,
    }
}

fn token_problem(example: &Example, spec: &ModelSpec) -> Option<String> {
    let (ids, types) = (&example.ids, &example.type_ids);
    if ids.is_empty() {
        return Some("has no tokens".to_owned());
    }
    if ids.len() > spec.max_tokens() {
        return Some(format!("has {} tokens, more than the model's {}", ids.len(), spec.max_tokens()));
    }
    if ids.len() != types.len() {
        return Some(format!("has {} token ids but {} token types", ids.len(), types.len()));
    }
    if let Some(id) = ids.iter().find(|id| **id as usize >= spec.vocab) {
        return Some(format!("has token id {id}, outside the vocabulary of {}", spec.vocab));
    }
    let kind = types.iter().find(|kind| **kind as usize >= spec.token_types)?;
    Some(format!("has token type {kind}, but the model has {}", spec.token_types))
}

#[cfg(test)]
mod tests {
    use crate::config::{HeadConfig, LoraConfig, PrivacyConfig, Sampling, TrainConfig, TuningConfig};
    use crate::optim::OptimiserConfig;
    use sprint_model::{Example, Label, ModelSpec};

    fn examples(n: usize) -> Vec<Example> {
        (0..n).map(|i| Example { ids: vec![2, 5, 3], type_ids: vec![0; 3], label: Some(Label::Class(i as u32 % 2)) }).collect()
    }

    fn fields(config: &TrainConfig, examples: &[Example], outputs: usize) -> Vec<String> {
        match config.validate(&ModelSpec::bert_tiny_5k(), examples, outputs) {
            Ok(_) => vec![],
            Err(error) => error.problems.into_iter().map(|p| p.field).collect(),
        }
    }

    #[test]
    fn defaults_are_valid() {
        assert_eq!(fields(&TrainConfig::default(), &examples(1000), 2), Vec::<String>::new());
    }

    #[test]
    fn every_problem_is_listed_with_its_field() {
        let config = TrainConfig {
            batch_size: 2000,
            epochs: 0.0,
            learning_rate: f64::NAN,
            microbatch: 0,
            optimiser: OptimiserConfig::Adamw { beta1: 1.0, beta2: 0.9, eps: 0.0, weight_decay: 0.0 },
            privacy: Some(PrivacyConfig { epsilon: 0.0, delta: 1.0, clip: -1.0, max_epsilon: None, bands: 1 }),
            sampling: Sampling::Shuffled,
            modules_to_save: vec!["layernorm".to_owned()],
            ..TrainConfig::default()
        };
        let expected = [
            "batch_size",
            "microbatch",
            "epochs",
            "learning_rate",
            "optimiser.beta1",
            "optimiser.eps",
            "privacy.epsilon",
            "privacy.delta",
            "privacy.clip",
            "sampling",
            "modules_to_save",
        ];
        assert_eq!(fields(&config, &examples(1000), 2), expected);
    }

    #[test]
    fn a_target_that_matches_nothing_and_labels_outside_the_head_are_problems() {
        let lora = LoraConfig { targets: vec!["falora".to_owned()], ..LoraConfig::default() };
        let config = TrainConfig { tuning: TuningConfig::Lora(lora), ..TrainConfig::default() };
        assert_eq!(fields(&config, &examples(1000), 2), ["tuning.targets"]);
        let mut data = examples(1000);
        data[3].label = Some(Label::Class(2));
        data[5].label = Some(Label::Score(0.5));
        data[7].ids[1] = 5_500;
        data[8].label = None;
        let error = TrainConfig::default().validate(&ModelSpec::bert_tiny_5k(), &data, 2).expect_err("four rows are wrong");
        let text = error.to_string();
        for part in [
            "row 3 has the label 2, outside the head's 2 classes (0 to 1)",
            "row 5",
            "row 7 has token id 5500",
            "row 8 has no label",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert_eq!(fields(&TrainConfig::default(), &[], 2), ["examples"]);
    }

    #[test]
    fn texts_that_describe_no_class_or_not_every_class_are_problems() {
        let config = TrainConfig::default();
        let fields = |config: &TrainConfig, texts: &[Example], outputs| match config.validate_described(
            &ModelSpec::bert_tiny_5k(),
            texts,
            outputs,
        ) {
            Ok(()) => vec![],
            Err(error) => error.problems.into_iter().map(|p| p.field).collect(),
        };
        assert_eq!(fields(&config, &examples(4), 2), Vec::<String>::new());
        assert_eq!(fields(&config, &[], 1), Vec::<String>::new(), "no text, no start");
        assert_eq!(fields(&config, &examples(4), 3), ["described"], "nothing describes class 2");
        let unlabelled = Example { label: None, ..examples(1).remove(0) };
        assert_eq!(fields(&config, &[examples(4), vec![unlabelled]].concat(), 2), ["described"]);
        let head = HeadConfig { dense: true, margin: 0.0, ..config.head };
        assert_eq!(fields(&TrainConfig { head, ..config }, &examples(4), 2), ["head.margin", "head.dense"]);
    }

    #[test]
    fn a_delta_of_one_over_n_is_refused() {
        let privacy = Some(PrivacyConfig { delta: 1e-3, ..PrivacyConfig::default() });
        assert_eq!(fields(&TrainConfig { privacy, ..TrainConfig::default() }, &examples(1000), 2), ["privacy.delta"]);
    }

    #[test]
    fn more_bands_than_batches_or_steps_are_refused() {
        let with = |bands, batch_size, epochs| {
            let privacy = Some(PrivacyConfig { bands, ..PrivacyConfig::default() });
            fields(&TrainConfig { privacy, batch_size, epochs, ..TrainConfig::default() }, &examples(1000), 2)
        };
        for (bands, batch, epochs) in [(10, 100, 3.0), (17, 58, 0.95)] {
            assert_eq!(with(bands, batch, epochs), Vec::<String>::new(), "{bands} {batch} {epochs}");
        }
        for (bands, batch, epochs) in [(0, 100, 3.0), (257, 3, 3.0), (11, 100, 3.0), (10, 100, 0.5), (17, 58, 0.9)] {
            assert_eq!(with(bands, batch, epochs), ["privacy.bands"], "{bands} {batch} {epochs}");
        }
    }

    #[test]
    fn unknown_fields_are_refused() {
        assert!(serde_json::from_str::<TrainConfig>(r#"{"batch_size": 8, "lr": 1}"#).is_err());
        let text = serde_json::to_string(&TrainConfig::default()).expect("serialises");
        assert_eq!(serde_json::from_str::<TrainConfig>(&text).expect("round trip"), TrainConfig::default());
    }
}
