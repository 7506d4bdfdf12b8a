//! Names of the layers that get a low-rank update, as users write them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::TargetModules;

/// The dense layers of an encoder layer, by their paths within it.
pub(crate) const MODULES: [&str; 6] = [
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
];

/// Every layer, as PEFT calls it.
const ALL: &str = "all-linear";

/// A list of target modules that selects nothing, wholly or in part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TargetError {
    /// A name that matches no module.
    #[error("target module {name:?} matches nothing; there are {}, their parts (\"query\", \"dense\"), and {ALL:?}", .modules.join(", "))]
    NoMatch {
        /// As written.
        name: String,
        /// Every module of an encoder layer.
        modules: &'static [&'static str],
    },
    /// A name all of whose modules have no update.
    #[error("{name:?} names no target module; the targets are {}", .targets.join(", "))]
    NoTarget {
        /// As written.
        name: String,
        /// The modules that have an update.
        targets: Vec<&'static str>,
    },
    /// A module that two names give a value.
    #[error("{name:?} gives {module} a second value; name it once")]
    Twice {
        /// The later of the two names.
        name: String,
        /// The module.
        module: &'static str,
    },
    /// No names at all.
    #[error("no target modules are named; write {ALL:?} for all of {}", .modules.join(", "))]
    Empty {
        /// Every module of an encoder layer.
        modules: &'static [&'static str],
    },
}

impl TargetModules {
    /// No module.
    pub const NONE: Self = Self {
        query: false,
        key: false,
        value: false,
        attention_output: false,
        intermediate: false,
        output: false,
        first_layer: 0,
    };

    /// The modules that `names` select, together.
    ///
    /// A name that is exactly a module's path within its layer selects that module (`output.dense` is the feed-forward output alone).
    /// Any other name selects every module in whose path its components occur in sequence: `query`; `dense`, which is three modules;
    /// `attention`, which is four. `all-linear` selects all six.
    ///
    /// Source: PEFT's `target_modules` (suffixes) and SPRINT's (substrings) select the same modules for the names in use, but a name
    /// that matches nothing is an error here, not a silent no-op.
    pub fn from_names<S: AsRef<str>>(names: &[S]) -> Result<Self, TargetError> {
        if names.is_empty() {
            return Err(TargetError::Empty { modules: &MODULES });
        }
        let mut on = [false; MODULES.len()];
        for name in names.iter().map(AsRef::as_ref) {
            for (on, hit) in on.iter_mut().zip(select(name)?) {
                *on |= hit;
            }
        }
        let [query, key, value, attention_output, intermediate, output] = on;
        Ok(Self { query, key, value, attention_output, intermediate, output, first_layer: 0 })
    }

    /// The same modules from encoder layer `first` up.
    #[must_use]
    pub fn from_layer(self, first: usize) -> Self {
        Self { first_layer: first, ..self }
    }

    /// Whether each module of [`MODULES`] is selected.
    pub(crate) fn by_module(self) -> [bool; MODULES.len()] {
        [self.query, self.key, self.value, self.attention_output, self.intermediate, self.output]
    }

    /// The selected modules' paths within a layer.
    pub fn names(self) -> Vec<&'static str> {
        MODULES.into_iter().zip(self.by_module()).filter_map(|(name, on)| on.then_some(name)).collect()
    }

    /// Whether nothing is selected.
    pub fn is_empty(self) -> bool {
        self.from_layer(0) == Self::NONE
    }
}

/// Values of single modules in every encoder layer, where they differ from the rule for all (PEFT's `rank_pattern` and
/// `alpha_pattern`, which take regular expressions; here names mean what they mean in [`TargetModules::from_names`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pattern<T> {
    /// Of `attention.self.query`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<T>,
    /// Of `attention.self.key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<T>,
    /// Of `attention.self.value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<T>,
    /// Of `attention.output.dense`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention_output: Option<T>,
    /// Of `intermediate.dense`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub intermediate: Option<T>,
    /// Of `output.dense`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<T>,
}

impl<T> Default for Pattern<T> {
    fn default() -> Self {
        Self { query: None, key: None, value: None, attention_output: None, intermediate: None, output: None }
    }
}

impl<T: Copy> Pattern<T> {
    /// The values that `names` give, where each name means what it means in [`TargetModules::from_names`]; modules without an update have
    /// no value.
    pub fn from_names(names: &BTreeMap<String, T>, targets: TargetModules) -> Result<Self, TargetError> {
        let mut values = [None; MODULES.len()];
        for (name, value) in names {
            let hits = select(name)?;
            let mut named = false;
            for (module, hit) in hits.into_iter().enumerate() {
                if !hit || !targets.by_module()[module] {
                    continue;
                }
                named = true;
                if values[module].replace(*value).is_some() {
                    return Err(TargetError::Twice { name: name.clone(), module: MODULES[module] });
                }
            }
            if !named {
                return Err(TargetError::NoTarget { name: name.clone(), targets: targets.names() });
            }
        }
        Ok(values.into())
    }

    /// Whether no module has a value of its own.
    pub fn is_empty(&self) -> bool {
        self.by_module().iter().all(Option::is_none)
    }

    /// The value of each module of an encoder layer: query, key, value, attention output, intermediate, output.
    pub fn by_module(self) -> [Option<T>; MODULES.len()] {
        [self.query, self.key, self.value, self.attention_output, self.intermediate, self.output]
    }
}

impl<T> From<[Option<T>; MODULES.len()]> for Pattern<T> {
    fn from([query, key, value, attention_output, intermediate, output]: [Option<T>; MODULES.len()]) -> Self {
        Self { query, key, value, attention_output, intermediate, output }
    }
}

/// Which of [`MODULES`] a name selects; at least one.
fn select(name: &str) -> Result<[bool; MODULES.len()], TargetError> {
    let exact = MODULES.contains(&name);
    let hits = MODULES.map(|module| if exact { module == name } else { name == ALL || contains(module, name) });
    if hits.contains(&true) { Ok(hits) } else { Err(TargetError::NoMatch { name: name.to_owned(), modules: &MODULES }) }
}

/// Whether the dotted components of `name` occur in sequence in `module`.
fn contains(module: &str, name: &str) -> bool {
    let module: Vec<_> = module.split('.').collect();
    let name: Vec<_> = name.split('.').collect();
    module.windows(name.len()).any(|window| window == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(names: &[&str]) -> Vec<&'static str> {
        TargetModules::from_names(names).expect("names match").names()
    }

    fn pattern(names: &[(&str, f64)], targets: &[&str]) -> Result<Pattern<f64>, TargetError> {
        let names = names.iter().map(|(name, value)| ((*name).to_owned(), *value)).collect();
        Pattern::from_names(&names, TargetModules::from_names(targets).expect("names match"))
    }

    #[test]
    fn a_pattern_gives_targets_their_own_values() {
        let some = pattern(&[("value", 64.0), ("output.dense", 4.0), ("intermediate", 2.0)], &["all-linear"]).expect("a pattern");
        assert_eq!(some.by_module(), [None, None, Some(64.0), None, Some(2.0), Some(4.0)]);
        let narrow = pattern(&[("self", 3.0)], &["query", "dense"]).expect("a pattern");
        assert_eq!(narrow, Pattern { query: Some(3.0), ..Pattern::default() });
        let text = serde_json::to_string(&narrow).expect("JSON");
        assert_eq!(text, r#"{"query":3.0}"#);
        assert_eq!(serde_json::from_str::<Pattern<f64>>(&text).expect("JSON"), narrow);

        let error = |names: &[_]| pattern(names, &["query", "dense"]).expect_err("wrong").to_string();
        assert!(error(&[("valu", 1.0)]).contains("matches nothing"));
        let untargeted = error(&[("value", 1.0)]);
        assert!(
            untargeted.contains("\"value\" names no target module") && untargeted.contains("intermediate.dense"),
            "{untargeted}"
        );
        let twice = error(&[("dense", 1.0), ("output.dense", 2.0)]);
        assert!(twice.contains("\"output.dense\" gives output.dense a second value"), "{twice}");
    }

    #[test]
    fn names_select_the_modules_that_users_mean() {
        assert_eq!(selected(&["query", "value"]), ["attention.self.query", "attention.self.value"]);
        assert_eq!(selected(&["dense"]), ["attention.output.dense", "intermediate.dense", "output.dense"]);
        assert_eq!(selected(&["attention.output.dense"]), ["attention.output.dense"]);
        assert_eq!(selected(&["output.dense"]), ["output.dense"]);
        assert_eq!(selected(&["query", "key", "value", "dense"]), MODULES);
        assert_eq!(selected(&["all-linear"]), MODULES);
        assert_eq!(selected(&["self.key"]), ["attention.self.key"]);
    }

    #[test]
    fn a_name_that_matches_nothing_lists_what_exists() {
        for name in ["layernorm", "", "quer", "dense.query", "encoder.layer.0.attention.self.query.weight.of.nothing"] {
            let error = TargetModules::from_names(&["query", name]).expect_err("matches nothing");
            let text = error.to_string();
            assert!(text.contains(&format!("{name:?}")) && text.contains("attention.output.dense"), "{text}");
        }
        let error = TargetModules::from_names::<&str>(&[]).expect_err("nothing is named");
        assert!(error.to_string().contains("all-linear"));
    }
}
