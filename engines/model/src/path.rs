//! Names of parameters and who may see them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A parameter's name, in Hugging Face's layout without the `bert.`/`roberta.` prefix, such as
/// `encoder.layer.0.attention.self.query.weight`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ParamPath(String);

impl ParamPath {
    /// The parameter or module called `name`.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into())
    }

    /// The child called `name`.
    #[must_use]
    pub fn join(&self, name: &str) -> Self {
        if self.0.is_empty() { Self(name.to_owned()) } else { Self(format!("{}.{name}", self.0)) }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ParamPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a parameter is known to everybody or additively shared between the two parties.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Visibility {
    /// Known to client, dealer and both parties.
    Public,
    /// Known to its owner only; the parties hold shares.
    Private,
}
