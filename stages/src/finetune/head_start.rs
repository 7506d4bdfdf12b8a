//! Public words for each class, which the head starts from.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sprint_model::{Example, Label, ModelSpec, TextEncoder};
use sprint_stage_api::{ParamProblem, StageError};

/// Longer texts describe no class; also bounds what a recipe can make the stage compute.
const MAX_TOKENS: usize = 64;
const MAX_TEXTS: usize = 4096;
/// Where a word goes in a template.
const BLANK: &str = "{}";

/// What describes each class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct HeadStart {
    /// For each class, by its name, words or whole texts that describe it. Public: the author's own, not taken from the training data.
    words: BTreeMap<String, Vec<String>>,
    /// Texts around a word, which stands for `{}`; the words alone if absent.
    #[serde(default = "words_alone")]
    templates: Vec<String>,
    /// By how many logits the texts are given to their class rather than another, on average.
    #[serde(default = "one")]
    #[schemars(extend("exclusiveMinimum" = 0))]
    margin: f64,
}

fn words_alone() -> Vec<String> {
    vec![BLANK.to_owned()]
}

const fn one() -> f64 {
    1.0
}

impl HeadStart {
    pub(super) fn margin(&self) -> f64 {
        self.margin
    }

    /// Adds what the schema cannot say.
    pub(super) fn check(&self, problems: &mut Vec<ParamProblem>) {
        let mut problem = |path: &[&str], message: String| problems.push(ParamProblem::new(path, message));
        if self.templates.is_empty() {
            problem(&["head_start", "templates"], "is empty; give `{}` for the words alone".to_owned());
        }
        for template in self.templates.iter().filter(|t| t.matches(BLANK).count() != 1) {
            problem(&["head_start", "templates"], format!("{template:?} must have `{{}}` once, where the word goes"));
        }
        if self.words.len() < 2 {
            problem(&["head_start", "words"], "names fewer than two classes".to_owned());
        }
        for (class, _) in self.words.iter().filter(|(_, words)| words.is_empty()) {
            problem(&["head_start", "words", class], "has no word".to_owned());
        }
        let texts = self.words.values().map(Vec::len).sum::<usize>() * self.templates.len();
        if texts > MAX_TEXTS {
            problem(&["head_start"], format!("makes {texts} texts; at most {MAX_TEXTS} are encoded"));
        }
    }

    /// Every word of every class in every template, tokenised, with its class among `classes`.
    pub(super) fn texts(&self, classes: &[String], tokenizer: &[u8], spec: &ModelSpec) -> Result<Vec<Example>, StageError> {
        let known: Vec<&String> = self.words.keys().collect();
        if known.len() != classes.len() || !classes.iter().all(|class| self.words.contains_key(class)) {
            let message = format!("params.head_start.words describes {known:?}, the data set's classes are {classes:?}");
            return Err(StageError::permanent(message).help("give words for each class of the data set, by its name"));
        }
        let failed = |e: &dyn std::error::Error| StageError::permanent(format!("params.head_start: {e}"));
        let encoder = TextEncoder::from_bytes(tokenizer, spec, MAX_TOKENS.min(spec.max_tokens())).map_err(|e| failed(&e))?;
        let mut texts = Vec::new();
        for (at, class) in classes.iter().enumerate() {
            for word in &self.words[class] {
                for template in &self.templates {
                    let encoded = encoder.encode(&template.replacen(BLANK, word, 1), None).map_err(|e| failed(&e))?;
                    texts.push(encoded.into_example(Some(Label::Class(at as u32))));
                }
            }
        }
        Ok(texts)
    }
}
