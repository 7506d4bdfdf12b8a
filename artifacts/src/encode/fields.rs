//! Typed access to the fields of a decoded map; every field must be taken, so unknown ones are refused.

use std::collections::BTreeMap;

use super::Value;
use crate::digest::Digest;

/// Why a decoded map is not the structure it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FieldError {
    /// The value is not a map at all.
    #[error("a map was expected")]
    NotAMap,
    /// A field is absent.
    #[error("field {name:?} is missing")]
    Missing {
        /// The field.
        name: &'static str,
    },
    /// A field has another type, or a value out of its range.
    #[error("field {name:?} is not {expected}")]
    Type {
        /// The field.
        name: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// A field that this version does not know.
    #[error("field {name:?} is unknown")]
    Unknown {
        /// The field.
        name: String,
    },
}

/// The fields of a map that have not been taken yet.
pub(crate) struct Fields(BTreeMap<String, Value>);

impl Fields {
    pub(crate) fn of(value: Value) -> Result<Self, FieldError> {
        match value {
            Value::Map(map) => Ok(Self(map)),
            _ => Err(FieldError::NotAMap),
        }
    }

    pub(crate) fn take(&mut self, name: &'static str) -> Result<Value, FieldError> {
        self.0.remove(name).ok_or(FieldError::Missing { name })
    }

    pub(crate) fn text(&mut self, name: &'static str) -> Result<String, FieldError> {
        match self.take(name)? {
            Value::Text(text) => Ok(text),
            _ => Err(FieldError::Type { name, expected: "a text" }),
        }
    }

    pub(crate) fn parsed<T: std::str::FromStr>(&mut self, name: &'static str, expected: &'static str) -> Result<T, FieldError> {
        self.text(name)?.parse().map_err(|_| FieldError::Type { name, expected })
    }

    pub(crate) fn int<T: TryFrom<i128>>(&mut self, name: &'static str) -> Result<T, FieldError> {
        let error = FieldError::Type { name, expected: "an integer in range" };
        match self.take(name)? {
            Value::Int(n) => T::try_from(n).map_err(|_| error),
            _ => Err(error),
        }
    }

    pub(crate) fn boolean(&mut self, name: &'static str) -> Result<bool, FieldError> {
        self.take(name)?.as_bool().ok_or(FieldError::Type { name, expected: "a truth value" })
    }

    pub(crate) fn digest(&mut self, name: &'static str) -> Result<Digest, FieldError> {
        self.take(name)?.as_digest().ok_or(FieldError::Type { name, expected: "a digest" })
    }

    pub(crate) fn array(&mut self, name: &'static str) -> Result<Vec<Value>, FieldError> {
        match self.take(name)? {
            Value::Array(items) => Ok(items),
            _ => Err(FieldError::Type { name, expected: "an array" }),
        }
    }

    pub(crate) fn map(&mut self, name: &'static str) -> Result<BTreeMap<String, Value>, FieldError> {
        match self.take(name)? {
            Value::Map(map) => Ok(map),
            _ => Err(FieldError::Type { name, expected: "a map" }),
        }
    }

    /// Succeeds when every field has been taken.
    pub(crate) fn finish(self) -> Result<(), FieldError> {
        match self.0.into_keys().next() {
            Some(name) => Err(FieldError::Unknown { name }),
            None => Ok(()),
        }
    }
}
