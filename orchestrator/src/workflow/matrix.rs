//! Axes, and what `${…}` stands for at one place of the matrix.

use std::collections::BTreeSet;

use serde_json::Value as Json;

use super::reader::Spanned;
use super::schema::AxisDecl;
use super::template::{Part, Reference, Template};
use super::yaml::{Node, Value};
use crate::diagnostic::{Problem, Span, suggest};

/// An axis with its values, in the order written.
#[derive(Debug, Clone)]
pub struct Axis {
    pub(crate) name: Spanned<String>,
    pub(crate) values: Vec<AxisValue>,
}

/// One value of an axis.
#[derive(Debug, Clone)]
pub(crate) struct AxisValue {
    pub(crate) text: String,
    pub(crate) json: Json,
    pub(crate) span: Span,
}

impl Axis {
    /// The axis' name.
    pub fn name(&self) -> &str {
        &self.name.value
    }

    /// Its values as they appear in instance names.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        self.values.iter().map(|v| v.text.as_str())
    }
}

/// Reads the values of every axis. A broken axis stays, without values, so that it is not also called unknown.
pub(crate) fn axes(declared: &[AxisDecl], params: Option<&Node>, problems: &mut Vec<Problem>) -> Vec<Axis> {
    declared.iter().map(|a| Axis { name: a.name.clone(), values: axis_values(a, params, problems) }).collect()
}

fn axis_values(axis: &AxisDecl, params: Option<&Node>, problems: &mut Vec<Problem>) -> Vec<AxisValue> {
    let name = &axis.name.value;
    let mut node = &axis.values;
    if let Value::String(text) = &node.value {
        match Template::parse(text).map(|t| t.whole().cloned()) {
            Ok(Some(Reference::Param(path))) => match param(params, &path, node.span) {
                Ok(found) => node = found,
                Err(problem) => {
                    problems.push(problem);
                    return Vec::new();
                }
            },
            Err(message) => {
                problems.push(Problem::new("workflow::reference", node.span, message));
                return Vec::new();
            }
            Ok(_) => {}
        }
    }
    let Value::List(items) = &node.value else {
        let message = format!("axis `{name}` must be a list of values, not {}", node.type_name());
        problems.push(Problem::new("matrix::axis", node.span, message).help("write `[a, b]`, or `${params.NAME}` of a list"));
        return Vec::new();
    };
    if items.is_empty() {
        problems.push(Problem::new("matrix::axis", node.span, format!("axis `{name}` has no values")));
    }
    let mut seen = BTreeSet::new();
    let mut values = Vec::new();
    for item in items {
        match axis_value(item) {
            Ok(value) if !seen.insert(value.text.clone()) => {
                problems.push(Problem::new("matrix::axis", item.span, format!("axis `{name}` has `{}` twice", value.text)));
            }
            Ok(value) => values.push(value),
            Err((message, help)) => {
                problems.push(Problem::new("matrix::axis", item.span, format!("axis `{name}`: {message}")).help(help));
            }
        }
    }
    values
}

fn axis_value(node: &Node) -> Result<AxisValue, (String, &'static str)> {
    let text = match &node.value {
        Value::String(s) => s.clone(),
        Value::Number(n) if !n.is_f64() => n.to_string(),
        Value::Number(n) => return Err((format!("{n} is not exact"), "quote it, so that the key is exact: \"0.5\"")),
        _ => return Err((format!("a value cannot be {}", node.type_name()), "values are strings or whole numbers")),
    };
    let forbidden = |c: char| c.is_control() || c.is_whitespace() || ['[', ']', ',', '='].contains(&c);
    if text.is_empty() || text.contains(forbidden) || super::template::mentions_reference(&text) {
        return Err((format!("`{text}` cannot be a value"), "values name instances: no space, `[`, `]`, `,`, `=` or `${…}`"));
    }
    Ok(AxisValue { text, json: node.to_json(), span: node.span })
}

/// The parameter at `path`.
pub(crate) fn param<'n>(params: Option<&'n Node>, path: &[String], at: Span) -> Result<&'n Node, Problem> {
    let mut node = params;
    for (depth, step) in path.iter().enumerate() {
        let next = node.and_then(|n| n.get(step));
        if next.is_none() {
            let keys = match node.map(|n| &n.value) {
                Some(Value::Map(entries)) => entries.iter().map(|e| e.key.as_str()).collect(),
                _ => Vec::new(),
            };
            let message = format!("there is no parameter `{}`", path[..=depth].join("."));
            return Err(Problem::new("workflow::unknown_param", at, message).maybe_help(suggest(step, keys)));
        }
        node = next;
    }
    node.ok_or_else(|| Problem::new("workflow::unknown_param", at, "a parameter needs a name"))
}

/// One place of the matrix as a stage sees it: an axis and the index of its value, for every axis it is over.
pub(crate) struct Place<'a> {
    pub(crate) params: Option<&'a Node>,
    pub(crate) axes: &'a [Axis],
    /// (axis, value) indices, in matrix order.
    pub(crate) at: &'a [(usize, usize)],
}

impl<'a> Place<'a> {
    pub(crate) fn axis(&self, name: &str) -> Option<&'a AxisValue> {
        self.at.iter().find(|(a, _)| self.axes[*a].name() == name).map(|(a, v)| &self.axes[*a].values[*v])
    }

    fn lookup(&self, reference: &Reference, at: Span) -> Result<(Json, Span), Problem> {
        match reference {
            Reference::Param(path) => param(self.params, path, at).map(|n| (n.to_json(), n.span)),
            Reference::Axis(name) => match self.axis(name) {
                Some(v) => Ok((v.json.clone(), v.span)),
                None => Err(self.unknown_axis(name, at)),
            },
        }
    }

    fn unknown_axis(&self, name: &str, at: Span) -> Problem {
        if self.axes.iter().any(|a| a.name() == name) {
            let message = format!("`${{matrix.{name}}}` is used, but this stage is not over `{name}`");
            return Problem::new("workflow::axis", at, message).help(format!("add `{name}` to its `over`"));
        }
        Problem::new("workflow::axis", at, format!("there is no axis `{name}`"))
            .maybe_help(suggest(name, self.axes.iter().map(Axis::name)))
    }

    /// The scalar with its references filled in; a reference alone keeps its type.
    pub(crate) fn fill(&self, template: &Template, at: Span) -> Result<Json, Problem> {
        if let Some(reference) = template.whole() {
            return self.lookup(reference, at).map(|(json, _)| json);
        }
        let mut text = String::new();
        for part in &template.parts {
            match part {
                Part::Text(t) => text.push_str(t),
                Part::Reference(r) => match self.lookup(r, at)?.0 {
                    Json::String(s) => text.push_str(&s),
                    Json::Number(n) => text.push_str(&n.to_string()),
                    Json::Bool(b) => text.push_str(if b { "true" } else { "false" }),
                    _ => {
                        let message = "a list, mapping or nothing cannot stand inside a text";
                        return Err(Problem::new("workflow::reference", at, message));
                    }
                },
            }
        }
        Ok(Json::String(text))
    }

    /// A whole params tree with every reference filled in.
    pub(crate) fn resolve(&self, node: &Node, problems: &mut Vec<Problem>) -> Json {
        match &node.value {
            Value::String(text) => {
                let filled = Template::parse(text).map_err(|m| Problem::new("workflow::reference", node.span, m));
                match filled.and_then(|t| self.fill(&t, node.span)) {
                    Ok(json) => json,
                    Err(problem) => {
                        problems.push(problem);
                        Json::Null
                    }
                }
            }
            Value::List(items) => items.iter().map(|n| self.resolve(n, problems)).collect(),
            Value::Map(entries) => {
                let pairs = entries.iter().map(|e| (e.key.clone(), self.resolve(&e.value, problems)));
                Json::Object(pairs.collect())
            }
            _ => node.to_json(),
        }
    }

    /// Where the value at `path` of a stage's params was written: behind a reference, where the parameter is.
    pub(crate) fn locate(&self, root: &Node, path: &[String]) -> Span {
        let mut node = root;
        let mut span = root.span;
        for (depth, step) in path.iter().enumerate() {
            let next = match &node.value {
                Value::List(items) => step.parse::<usize>().ok().and_then(|i| items.get(i)).map(|n| (n, n.span)),
                _ => node.entry(step).map(|e| (&e.value, with_key(e.key_span, e.value.span))),
            };
            let Some((next, at)) = next else { break };
            (node, span) = (next, at);
            if let Value::String(text) = &node.value
                && let Ok(template) = Template::parse(text)
                && let Some(reference) = template.whole()
            {
                match reference {
                    Reference::Param(to) => {
                        if let Ok(found) = param(self.params, to, node.span) {
                            return found.nearest(&path[depth + 1..]).span;
                        }
                    }
                    Reference::Axis(name) => return self.axis(name).map_or(span, |v| v.span),
                }
            }
        }
        span
    }
}

fn with_key(key: Span, value: Span) -> Span {
    if key.source == value.source && key.start <= value.start { Span::new(key.source, key.start..value.end) } else { value }
}

/// Every combination of the values of `over` (axis indices in matrix order), first axis slowest.
pub(crate) fn combinations(axes: &[Axis], over: &[usize]) -> Vec<Vec<(usize, usize)>> {
    let mut all: Vec<Vec<(usize, usize)>> = vec![Vec::new()];
    for axis in over {
        let longer = all.iter().flat_map(|head| {
            (0..axes[*axis].values.len()).map(move |v| {
                let mut place = head.clone();
                place.push((*axis, v));
                place
            })
        });
        all = longer.collect();
    }
    all
}
