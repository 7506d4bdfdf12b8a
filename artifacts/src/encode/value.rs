//! The data model of canonical encodings.

use std::collections::BTreeMap;

use super::{Decimal, DecodeError};
use crate::digest::Digest;

/// A value with exactly one encoding: JSON's data model without floats, plus byte strings and exact decimals.
///
/// `Int(1)` and `Decimal(1)` are different values: a parameter's type is part of what it means.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    /// Nothing.
    Null,
    /// A truth value.
    Bool(bool),
    /// An integer; outside 64 bits it is written as a CBOR bignum (tags 2 and 3).
    Int(i128),
    /// An exact decimal (tag 4).
    Decimal(Decimal),
    /// Unicode text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// A sequence.
    Array(Vec<Value>),
    /// A map from text; the order of insertion does not exist.
    Map(BTreeMap<String, Value>),
}

impl Value {
    /// The canonical bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        super::write::write(self, &mut out);
        out
    }

    /// The value with these canonical bytes; anything else than the image of [`Value::to_bytes`] is refused.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        super::read::read(bytes)
    }

    /// A map of these entries; of two equal keys the later stands.
    pub fn map<K: Into<String>>(entries: impl IntoIterator<Item = (K, Value)>) -> Self {
        Self::Map(entries.into_iter().map(|(k, v)| (k.into(), v)).collect())
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The integer, if it is one.
    pub const fn as_int(&self) -> Option<i128> {
        match self {
            Self::Int(n) => Some(*n),
            _ => None,
        }
    }

    /// The truth value, if it is one.
    pub const fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The map, if it is one.
    pub const fn as_map(&self) -> Option<&BTreeMap<String, Value>> {
        match self {
            Self::Map(map) => Some(map),
            _ => None,
        }
    }

    /// The sequence, if it is one.
    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(items) => Some(items),
            _ => None,
        }
    }

    /// The digest, if it is 32 bytes.
    pub fn as_digest(&self) -> Option<Digest> {
        match self {
            Self::Bytes(bytes) => bytes.as_slice().try_into().ok().map(Digest::from_bytes),
            _ => None,
        }
    }

    /// The entry of a map.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.as_map()?.get(key)
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<Digest> for Value {
    fn from(digest: Digest) -> Self {
        Self::Bytes(digest.as_bytes().to_vec())
    }
}

impl From<Decimal> for Value {
    fn from(decimal: Decimal) -> Self {
        Self::Decimal(decimal)
    }
}

macro_rules! from_integer {
    ($($int:ty),*) => {
        $(impl From<$int> for Value {
            fn from(n: $int) -> Self {
                Self::Int(i128::from(n))
            }
        })*
    };
}
from_integer!(u8, u16, u32, u64, i8, i16, i32, i64, i128);
