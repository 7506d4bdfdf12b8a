//! Names of stage instances and selections of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A stage at one place of the matrix, written `finetune[task=sst2,epsilon=8]`; axes stand in the order of `matrix`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId {
    stage: String,
    axes: Vec<(String, String)>,
}

/// A text that is no instance or selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not of the form `stage` or `stage[axis=value,…]`")]
pub struct ParseIdError {
    text: String,
}

impl InstanceId {
    pub(crate) fn new(stage: &str, axes: Vec<(String, String)>) -> Self {
        Self { stage: stage.to_owned(), axes }
    }

    /// The stage's name.
    pub fn stage(&self) -> &str {
        &self.stage
    }

    /// The coordinates in matrix order.
    pub fn axes(&self) -> &[(String, String)] {
        &self.axes
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.stage)?;
        for (i, (axis, value)) in self.axes.iter().enumerate() {
            write!(f, "{}{axis}={value}", if i == 0 { '[' } else { ',' })?;
        }
        if self.axes.is_empty() { Ok(()) } else { f.write_str("]") }
    }
}

impl FromStr for InstanceId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        let refuse = || ParseIdError { text: text.to_owned() };
        let (stage, axes) = match text.split_once('[') {
            None => (text, ""),
            Some((stage, rest)) => (stage, rest.strip_suffix(']').ok_or_else(refuse)?),
        };
        if stage.is_empty() || stage.contains([']', ',', '=']) {
            return Err(refuse());
        }
        let pairs = axes.split(',').filter(|p| !p.trim().is_empty()).map(|pair| {
            let (axis, value) = pair.split_once('=').ok_or_else(refuse)?;
            Ok((axis.trim().to_owned(), value.trim().to_owned()))
        });
        Ok(Self { stage: stage.trim().to_owned(), axes: pairs.collect::<Result<_, _>>()? })
    }
}

impl Serialize for InstanceId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for InstanceId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Some instances of one stage: those whose coordinates agree with every one given, in any order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector(InstanceId);

impl Selector {
    /// The stage's name.
    pub fn stage(&self) -> &str {
        self.0.stage()
    }

    /// Whether `id` is meant.
    pub fn matches(&self, id: &InstanceId) -> bool {
        id.stage == self.0.stage && self.0.axes.iter().all(|pair| id.axes.contains(pair))
    }
}

impl FromStr for Selector {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_as_written() {
        for text in ["fetch", "finetune[task=sst2,epsilon=8]"] {
            assert_eq!(text.parse::<InstanceId>().unwrap().to_string(), text);
        }
        for bad in ["", "a[", "a[b]", "[x=1]", "a]"] {
            assert!(bad.parse::<InstanceId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_selector_takes_any_subset_of_axes() {
        let id: InstanceId = "finetune[task=sst2,epsilon=8]".parse().unwrap();
        for yes in ["finetune", "finetune[epsilon=8]", "finetune[epsilon=8, task=sst2]"] {
            assert!(yes.parse::<Selector>().unwrap().matches(&id), "{yes}");
        }
        for no in ["infer", "finetune[epsilon=4]", "finetune[net=lan]"] {
            assert!(!no.parse::<Selector>().unwrap().matches(&id), "{no}");
        }
    }
}
