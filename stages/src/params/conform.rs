//! Holds a JSON value against a JSON Schema: the subset that `schemars` makes of parameter types.
//!
//! Beyond yes or no it reads numbers and truth values written as text (matrix coordinates are texts) and reports every
//! problem with its path.

use serde_json::{Map, Number, Value};
use sprint_stage_api::ParamProblem;

use super::nearest;

/// The value, with numbers written as text read; problems are added to `problems`.
pub(super) fn conform(schema: &Value, value: &Value, path: &mut Vec<String>, problems: &mut Vec<ParamProblem>) -> Value {
    if let Some(words) = constants(schema) {
        return word(&words, value, path, problems);
    }
    if let Some(branches) = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Value::as_array) {
        return one_of(branches, value, path, problems);
    }
    let Some(value) = read_as(schema, value) else {
        problems.push(problem(path, format!("{} was expected, not {}", expected(schema), found(value))));
        return value.clone();
    };
    match value {
        Value::Object(map) => Value::Object(object(schema, &map, path, problems)),
        Value::Array(items) => {
            let any = Value::Bool(true);
            let of = schema.get("items").unwrap_or(&any);
            let each =
                items.iter().enumerate().map(|(i, item)| at(path, &i.to_string(), |path| conform(of, item, path, problems)));
            Value::Array(each.collect())
        }
        Value::Number(n) => {
            range(schema, &n, path, problems);
            Value::Number(n)
        }
        other => other,
    }
}

fn problem(path: &[String], message: String) -> ParamProblem {
    ParamProblem { path: path.to_vec(), message, help: None }
}

fn at<T>(path: &mut Vec<String>, key: &str, f: impl FnOnce(&mut Vec<String>) -> T) -> T {
    path.push(key.to_owned());
    let result = f(path);
    path.pop();
    result
}

/// The words of an enumeration without data, if that is all the schema allows.
fn constants(schema: &Value) -> Option<Vec<&str>> {
    if let Some(one) = schema.get("const").and_then(Value::as_str) {
        return Some(vec![one]);
    }
    if let Some(all) = schema.get("enum").and_then(Value::as_array) {
        return all.iter().map(Value::as_str).collect();
    }
    let branches = schema.get("oneOf").and_then(Value::as_array)?;
    let words: Vec<Vec<&str>> = branches.iter().map(constants).collect::<Option<_>>()?;
    Some(words.concat())
}

fn word(words: &[&str], value: &Value, path: &[String], problems: &mut Vec<ParamProblem>) -> Value {
    let written = value.as_str();
    if !written.is_some_and(|w| words.contains(&w)) {
        let mut p = problem(path, format!("{} is not one of {}", found(value), listed(words)));
        p.help = written.and_then(|w| nearest(w, words.iter().copied())).map(|w| format!("did you mean \"{w}\"?"));
        problems.push(p);
    }
    value.clone()
}

fn listed(words: &[&str]) -> String {
    words.iter().map(|w| format!("\"{w}\"")).collect::<Vec<_>>().join(", ")
}

fn one_of(branches: &[Value], value: &Value, path: &mut Vec<String>, problems: &mut Vec<ParamProblem>) -> Value {
    let mut attempts = Vec::new();
    for branch in branches {
        let mut own = Vec::new();
        let read = conform(branch, value, path, &mut own);
        if own.is_empty() {
            return read;
        }
        attempts.push((branch, own));
    }
    // Where only one branch is of the written type, its complaints are the useful ones.
    let typed = |b: &Value| read_as(b, value).is_some() && constants(b).is_none();
    let mut serious = attempts.iter().filter(|(b, _)| typed(b));
    if let (Some((_, own)), None) = (serious.next(), serious.next()) {
        problems.extend(own.iter().cloned());
    } else {
        let choices: Vec<_> = branches.iter().filter(|b| b.get("type") != Some(&"null".into())).map(expected).collect();
        let mut p = problem(path, format!("{} was expected, not {}", choices.join(" or "), found(value)));
        if choices.len() == 1 {
            p.help = attempts.iter().find_map(|(_, own)| own.iter().find_map(|q| q.help.clone()));
        }
        problems.push(p);
    }
    value.clone()
}

fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

/// The value as one of the schema's types, reading numbers and truth values out of text.
fn read_as(schema: &Value, value: &Value) -> Option<Value> {
    let types = types(schema);
    if types.is_empty() {
        return Some(value.clone());
    }
    let has = |t: &str| types.contains(&t);
    let fits = match value {
        Value::Null => has("null"),
        Value::Bool(_) => has("boolean"),
        Value::Number(n) => {
            return match whole(n) {
                Some(n) if has("integer") || has("number") => Some(Value::Number(n)),
                None if has("number") => Some(value.clone()),
                _ => None,
            };
        }
        Value::String(_) => has("string"),
        Value::Array(_) => has("array"),
        Value::Object(_) => has("object"),
    };
    if fits {
        return Some(value.clone());
    }
    let text = value.as_str()?.trim();
    if has("boolean") && (text == "true" || text == "false") {
        return Some(Value::Bool(text == "true"));
    }
    if has("integer") || has("number") {
        let number: Number = text.parse::<i64>().map(Number::from).ok().or_else(|| Number::from_f64(text.parse().ok()?))?;
        return read_as(schema, &Value::Number(number));
    }
    None
}

/// The number as an integer if it is one: `3.0` is 3.
fn whole(n: &Number) -> Option<Number> {
    if n.is_i64() || n.is_u64() {
        return Some(n.clone());
    }
    let x = n.as_f64()?;
    (x.fract() == 0.0 && x.abs() < 9.0e15).then(|| Number::from(x as i64))
}

fn range(schema: &Value, n: &Number, path: &[String], problems: &mut Vec<ParamProblem>) {
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
    let x = n.as_f64().unwrap_or(f64::NAN);
    let wrong = [
        bound("minimum").filter(|b| x < *b).map(|b| format!("at least {b}")),
        bound("exclusiveMinimum").filter(|b| x <= *b).map(|b| format!("more than {b}")),
        bound("maximum").filter(|b| x > *b).map(|b| format!("at most {b}")),
        bound("exclusiveMaximum").filter(|b| x >= *b).map(|b| format!("less than {b}")),
    ];
    for limit in wrong.into_iter().flatten() {
        problems.push(problem(path, format!("{n} is out of range: it must be {limit}")));
    }
}

fn object(
    schema: &Value,
    map: &Map<String, Value>,
    path: &mut Vec<String>,
    problems: &mut Vec<ParamProblem>,
) -> Map<String, Value> {
    let none = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&none);
    let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
    for name in required.filter(|name| !map.contains_key(*name)) {
        problems.push(at(path, name, |path| problem(path, format!("\"{name}\" is missing"))));
    }
    let others = schema.get("additionalProperties");
    let mut out = Map::new();
    for (key, value) in map {
        let of = match (properties.get(key), others) {
            (Some(schema), _) => schema,
            // Left out of the result, so that the other fields can still be read and checked.
            (None, Some(Value::Bool(false))) => {
                problems.push(at(path, key, |path| unknown(key, properties, path)));
                continue;
            }
            (None, Some(schema)) => schema,
            (None, None) => &Value::Bool(true),
        };
        out.insert(key.clone(), at(path, key, |path| conform(of, value, path, problems)));
    }
    out
}

fn unknown(key: &str, properties: &Map<String, Value>, path: &[String]) -> ParamProblem {
    let names: Vec<&str> = properties.keys().map(String::as_str).collect();
    let help = match nearest(key, names.iter().copied()) {
        Some(name) => format!("did you mean \"{name}\"?"),
        None => format!("there are {}", listed(&names)),
    };
    problem(path, format!("\"{key}\" is not a parameter here")).help(help)
}

fn expected(schema: &Value) -> String {
    if let Some(words) = constants(schema) {
        return if words.len() == 1 { listed(&words) } else { format!("one of {}", listed(&words)) };
    }
    let named = types(schema).into_iter().filter(|t| *t != "null").map(|t| match t {
        "integer" => "a whole number",
        "number" => "a number",
        "string" => "a text",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a map",
        other => other,
    });
    named.collect::<Vec<_>>().join(" or ")
}

fn found(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Number(n) => n.to_string(),
        Value::String(text) => format!("{text:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "a map".to_owned(),
    }
}
