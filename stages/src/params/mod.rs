//! Parameters: from what the user wrote to a typed, complete value, with every problem reported at once.
//!
//! A stage's parameter type derives its JSON Schema; [`normalise`] first holds the written value against that schema, which
//! finds all unknown keys, wrong types and values out of range with their paths, then reads it as the type (filling in
//! defaults), asks the type itself ([`Params::check`]) and writes it out again. The result is what the action key sees, so
//! `8`, `"8"` and `8.0` are one parameter.

mod conform;
mod suggest;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sprint_stage_api::ParamProblem;

pub(crate) use suggest::nearest;

/// A stage's typed parameters.
pub(crate) trait Params: Serialize + DeserializeOwned + JsonSchema {
    /// Adds what the schema cannot say: relations between fields, texts with a syntax.
    fn check(&self, problems: &mut Vec<ParamProblem>) {
        let _ = problems;
    }
}

/// The JSON Schema of `P`, self-contained (no references).
pub(crate) fn schema<P: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.inline_subschemas = true;
    settings.into_generator().into_root_schema_for::<P>().to_value()
}

/// What was written, complete and in canonical form; or every problem with it.
pub(crate) fn normalise<P: Params>(written: &Value) -> Result<Value, Vec<ParamProblem>> {
    let written = if written.is_null() { &Value::Object(serde_json::Map::new()) } else { written };
    let mut problems = Vec::new();
    let coerced = conform::conform(&schema::<P>(), written, &mut Vec::new(), &mut problems);
    // Even with problems: what can be read is checked further, so that one more run does not bring one more problem.
    let typed: P = match serde_json::from_value(coerced) {
        Ok(typed) => typed,
        Err(e) if problems.is_empty() => return Err(vec![ParamProblem::new(&[], e.to_string())]),
        Err(_) => return Err(problems),
    };
    let mut further = Vec::new();
    typed.check(&mut further);
    further.retain(|p| problems.iter().all(|known| known.path != p.path));
    problems.append(&mut further);
    if !problems.is_empty() {
        return Err(problems);
    }
    serde_json::to_value(&typed).map_err(|e| vec![ParamProblem::new(&[], e.to_string())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;
    use serde_json::json;

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Example {
        source: String,
        #[serde(default = "three")]
        #[schemars(range(min = 1, max = 10))]
        epochs: u32,
        #[serde(default)]
        mode: Mode,
        #[serde(default)]
        nested: Option<Nested>,
        #[serde(default)]
        names: Vec<String>,
    }

    fn three() -> u32 {
        3
    }

    #[derive(Default, Serialize, Deserialize, JsonSchema)]
    #[serde(rename_all = "kebab-case")]
    enum Mode {
        /// The first.
        #[default]
        Lora,
        /// The second.
        FaLora,
    }

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Nested {
        /// A rate.
        #[schemars(extend("exclusiveMinimum" = 0))]
        rate: f64,
    }

    impl Params for Example {}

    fn problems(value: &Value) -> Vec<(Vec<String>, String, Option<String>)> {
        let all = normalise::<Example>(value).expect_err("has problems");
        all.into_iter().map(|p| (p.path, p.message, p.help)).collect()
    }

    #[test]
    fn spelling_does_not_change_the_normal_form() {
        let a = normalise::<Example>(&json!({"source": "x", "epochs": 3, "nested": {"rate": 0.5}})).expect("valid");
        let b = normalise::<Example>(&json!({"nested": {"rate": "0.5"}, "epochs": "3", "source": "x", "mode": "lora"}));
        assert_eq!(a, b.expect("valid"));
        assert_eq!(a["epochs"], 3);
        assert_eq!(normalise::<Example>(&a).expect("a normal form is normal"), a);
    }

    #[test]
    fn every_problem_is_reported_with_its_path() {
        let found =
            problems(&json!({"sorce": 1, "epochs": 11, "mode": "fa_lora", "nested": {"rate": 0, "x": 1}, "names": ["a", {}]}));
        let paths: Vec<_> = found.iter().map(|(p, ..)| p.join(".")).collect();
        assert_eq!(paths, ["source", "epochs", "mode", "names.1", "nested.rate", "nested.x", "sorce"], "{found:#?}");
        assert_eq!(found[6].2.as_deref(), Some("did you mean \"source\"?"));
        assert_eq!(found[2].2.as_deref(), Some("did you mean \"fa-lora\"?"));
        assert!(found[1].1.contains("at most 10"), "{}", found[1].1);
    }

    #[test]
    fn wrong_types_are_told_apart() {
        let found = problems(&json!({"source": ["x"], "epochs": 2.5, "nested": "no"}));
        assert_eq!(found.len(), 3, "{found:#?}");
        assert!(found.iter().any(|(p, m, _)| p == &["epochs"] && m.contains("whole number")), "{found:#?}");
        assert_eq!(problems(&json!([])).len(), 1);
    }
}
