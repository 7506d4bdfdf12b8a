//! What differs between two values: the answer to "why does this stage run again?".

use super::Value;

/// One place at which two values differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The place, such as `params.epsilon` or `inputs.dataset[2]`.
    pub path: String,
    /// What the left value has there, if anything.
    pub left: Option<Value>,
    /// What the right value has there, if anything.
    pub right: Option<Value>,
}

/// Every place at which `left` and `right` differ, smallest subtrees first named; empty exactly when they are equal.
pub fn differences(left: &Value, right: &Value) -> Vec<Difference> {
    let mut out = Vec::new();
    compare(String::new(), Some(left), Some(right), &mut out);
    out
}

fn compare(path: String, left: Option<&Value>, right: Option<&Value>, out: &mut Vec<Difference>) {
    match (left, right) {
        (Some(Value::Map(a)), Some(Value::Map(b))) => {
            for key in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                let inner = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                compare(inner, a.get(key), b.get(key), out);
            }
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            for i in 0..a.len().max(b.len()) {
                compare(format!("{path}[{i}]"), a.get(i), b.get(i), out);
            }
        }
        (a, b) if a == b => {}
        (a, b) => out.push(Difference { path, left: a.cloned(), right: b.cloned() }),
    }
}
