//! Names of the layers that get a low-rank update, as users write them.

use crate::TargetModules;

const MODULES: [&str; 6] = [
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
            let exact = MODULES.contains(&name);
            let hits = MODULES.map(|module| if exact { module == name } else { name == ALL || contains(module, name) });
            if !hits.contains(&true) {
                return Err(TargetError::NoMatch { name: name.to_owned(), modules: &MODULES });
            }
            for (on, hit) in on.iter_mut().zip(hits) {
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

    /// The selected modules' paths within a layer.
    pub fn names(self) -> Vec<&'static str> {
        let on = [self.query, self.key, self.value, self.attention_output, self.intermediate, self.output];
        MODULES.into_iter().zip(on).filter_map(|(name, on)| on.then_some(name)).collect()
    }

    /// Whether nothing is selected.
    pub fn is_empty(self) -> bool {
        self.from_layer(0) == Self::NONE
    }
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

    fn select(names: &[&str]) -> Vec<&'static str> {
        TargetModules::from_names(names).expect("names match").names()
    }

    #[test]
    fn names_select_the_modules_that_users_mean() {
        assert_eq!(select(&["query", "value"]), ["attention.self.query", "attention.self.value"]);
        assert_eq!(select(&["dense"]), ["attention.output.dense", "intermediate.dense", "output.dense"]);
        assert_eq!(select(&["attention.output.dense"]), ["attention.output.dense"]);
        assert_eq!(select(&["output.dense"]), ["output.dense"]);
        assert_eq!(select(&["query", "key", "value", "dense"]), MODULES);
        assert_eq!(select(&["all-linear"]), MODULES);
        assert_eq!(select(&["self.key"]), ["attention.self.key"]);
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
