//! Whether a spec describes a model at all.

use std::fmt;

use crate::{ModelSpec, Softmax};

/// One thing wrong with a spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The field, with dots (`lora.rank`).
    pub field: &'static str,
    /// Its value as found.
    pub found: String,
    /// What it must be.
    pub rule: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}, but must be {}", self.field, self.found, self.rule)
    }
}

/// A spec that describes no model: every problem, in the order of the fields.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a model: {}", .problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct SpecError {
    /// At least one.
    pub problems: Vec<Problem>,
}

#[derive(Default)]
struct Checks(Vec<Problem>);

impl Checks {
    fn size(&mut self, field: &'static str, value: usize, most: usize) {
        self.check(field, value, (1..=most).contains(&value), || format!("from 1 to {most}"));
    }

    fn positive(&mut self, field: &'static str, value: f64) {
        self.check(field, value, value.is_finite() && value > 0.0, || "a finite number above 0".to_owned());
    }

    fn probability(&mut self, field: &'static str, value: f64) {
        self.check(field, value, (0.0..1.0).contains(&value), || "at least 0 and below 1".to_owned());
    }

    fn check(&mut self, field: &'static str, found: impl fmt::Display, holds: bool, rule: impl Fn() -> String) {
        if !holds {
            self.0.push(Problem { field, found: found.to_string(), rule: rule() });
        }
    }
}

impl ModelSpec {
    /// Checks every field. Upper limits bound what an untrusted configuration can make a program allocate; each is at least eight times
    /// the largest published BERT or RoBERTa.
    pub fn validate(&self) -> Result<(), SpecError> {
        let mut checks = Checks::default();
        self.check_shape(&mut checks);
        self.check_functions(&mut checks);
        self.check_tuning(&mut checks);
        let problems = checks.0;
        if problems.is_empty() { Ok(()) } else { Err(SpecError { problems }) }
    }

    fn check_shape(&self, c: &mut Checks) {
        c.size("layers", self.layers, 512);
        c.size("hidden", self.hidden, 16_384);
        c.size("heads", self.heads, 1_024);
        let divides = self.heads > 0 && self.hidden.is_multiple_of(self.heads);
        c.check("heads", self.heads, divides, || format!("a divisor of hidden ({})", self.hidden));
        c.size("intermediate", self.intermediate, 65_536);
        c.size("vocab", self.vocab, 4_000_000);
        c.size("positions", self.positions, 65_536);
        c.size("token_types", self.token_types, 256);
        let offset = self.embedding().position_offset;
        c.check("positions", self.positions, self.positions > offset, || format!("above the first position's row ({offset})"));
        c.check("pad_token", self.pad_token, (self.pad_token as usize) < self.vocab, || format!("below vocab ({})", self.vocab));
        c.positive("layer_norm_eps", self.layer_norm_eps);
    }

    fn check_functions(&self, c: &mut Checks) {
        match self.softmax {
            Softmax::Exact | Softmax::ReluOverLength | Softmax::ScoresOverLength => {}
            Softmax::Shifted { shift } => {
                c.check("softmax.shift", shift, shift.is_finite(), || "a finite number".to_owned());
            }
            Softmax::Scaled { temperature } => c.positive("softmax.temperature", temperature),
            Softmax::TwoRelu { eps } => c.positive("softmax.eps", eps),
            Softmax::TwoQuad { c: shift } => c.check("softmax.c", shift, shift.is_finite(), || "a finite number".to_owned()),
        }
        let caps =
            [("caps.embedding", self.caps.embedding), ("caps.attention", self.caps.attention), ("caps.logits", self.caps.logits)];
        for (field, cap) in caps {
            if let Some(cap) = cap {
                c.positive(field, cap);
            }
        }
        c.probability("hidden_dropout", self.hidden_dropout);
    }

    fn check_tuning(&self, c: &mut Checks) {
        if let Some(lora) = &self.lora {
            let most = self.hidden.min(self.intermediate).max(1);
            c.size("lora.rank", lora.rank, most);
            c.positive("lora.alpha", lora.alpha);
            lora.rank_pattern.by_module().into_iter().flatten().for_each(|rank| c.size("lora.rank_pattern", rank, most));
            lora.alpha_pattern.by_module().into_iter().flatten().for_each(|alpha| c.positive("lora.alpha_pattern", alpha));
            c.probability("lora.dropout", lora.dropout);
            c.check("lora.targets", "empty", !lora.targets.is_empty(), || "at least one module".to_owned());
            let (first, below) = (lora.targets.first_layer, self.layers);
            c.check("lora.targets.first_layer", first, first < below, || format!("below the {below} layers"));
        }
        if let Some(head) = &self.head {
            c.size("head.outputs", head.outputs, 65_536);
            c.probability("head.dropout", head.dropout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HeadSpec, LoraSpec, Pattern, Pooling, TargetModules};

    #[test]
    fn published_shapes_are_models() {
        for name in ModelSpec::NAMES {
            ModelSpec::named(name).expect("known").validate().expect("a published shape is valid");
        }
    }

    #[test]
    fn every_problem_is_listed_with_its_field() {
        let mut spec = ModelSpec::bert_tiny();
        spec.heads = 3;
        spec.layer_norm_eps = f64::NAN;
        spec.softmax = Softmax::Scaled { temperature: 0.0 };
        spec.caps.attention = Some(-1.0);
        spec.hidden_dropout = 1.0;
        let none = TargetModules { first_layer: 99, ..TargetModules::NONE };
        spec.lora = Some(LoraSpec {
            dropout: -0.1,
            rank_pattern: Pattern { key: Some(999), ..Pattern::default() },
            alpha_pattern: Pattern { output: Some(-1.0), ..Pattern::default() },
            ..LoraSpec::new(0, f64::INFINITY, none)
        });
        spec.head = Some(HeadSpec { outputs: 0, pooling: Pooling::Mean, dense: false, dropout: 2.0 });
        let error = spec.validate().expect_err("fourteen things are wrong");
        let fields: Vec<_> = error.problems.iter().map(|p| p.field).collect();
        let expected = [
            "heads",
            "layer_norm_eps",
            "softmax.temperature",
            "caps.attention",
            "hidden_dropout",
            "lora.rank",
            "lora.alpha",
            "lora.rank_pattern",
            "lora.alpha_pattern",
            "lora.dropout",
            "lora.targets",
            "lora.targets.first_layer",
            "head.outputs",
            "head.dropout",
        ];
        assert_eq!(fields, expected);
        assert!(error.to_string().contains("heads is 3, but must be a divisor of hidden (128)"), "{error}");
    }

    #[test]
    fn roberta_positions_must_reach_past_the_padding_row() {
        let mut spec = ModelSpec::roberta_base();
        spec.positions = 2;
        assert_eq!(spec.validate().expect_err("no token fits").problems[0].field, "positions");
    }
}
