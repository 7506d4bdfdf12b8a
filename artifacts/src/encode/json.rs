//! The bridge to JSON: into canonical values exactly, out of them for people.

use super::{Decimal, DecimalError, Value};

impl Value {
    /// The value of a JSON document: integers stay integers, a number with a fraction or exponent becomes the exact decimal
    /// with the fewest digits that reads back as the same f64.
    pub fn from_json(json: &serde_json::Value) -> Result<Self, DecimalError> {
        Ok(match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(b) => Self::Bool(*b),
            serde_json::Value::Number(n) => {
                if let Some(n) = n.as_u64() {
                    Self::from(n)
                } else if let Some(n) = n.as_i64() {
                    Self::from(n)
                } else {
                    let x = n.as_f64().ok_or_else(|| DecimalError::Range(n.to_string()))?;
                    Self::Decimal(Decimal::from_f64(x)?)
                }
            }
            serde_json::Value::String(text) => Self::Text(text.clone()),
            serde_json::Value::Array(items) => Self::Array(items.iter().map(Self::from_json).collect::<Result<_, _>>()?),
            serde_json::Value::Object(map) => {
                Self::Map(map.iter().map(|(k, v)| Ok((k.clone(), Self::from_json(v)?))).collect::<Result<_, DecimalError>>()?)
            }
        })
    }

    /// JSON for display: 32 bytes print as a digest, other bytes as `hex:…`, and numbers that JSON readers would round
    /// print as text. It is not an encoding; nothing is ever read back from it.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(b) => (*b).into(),
            Self::Int(n) => i64::try_from(*n).map_or_else(|_| n.to_string().into(), Into::into),
            Self::Decimal(d) => {
                let x = d.to_f64();
                let exact = Decimal::from_f64(x).is_ok_and(|back| back == *d);
                if exact { x.into() } else { d.to_string().into() }
            }
            Self::Text(text) => text.clone().into(),
            Self::Bytes(bytes) => {
                self.as_digest().map_or_else(|| format!("hex:{}", hex::encode(bytes)), |digest| digest.to_string()).into()
            }
            Self::Array(items) => items.iter().map(Self::to_json).collect(),
            Self::Map(map) => serde_json::Value::Object(map.iter().map(|(k, v)| (k.clone(), v.to_json())).collect()),
        }
    }
}

impl serde::Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_json().serialize(serializer)
    }
}
