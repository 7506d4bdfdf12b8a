//! Reads single values from nodes: every mismatch is remembered with its place, none ends the reading.

use std::time::Duration;

use super::fields::Field;
use super::template::mentions_reference;
use super::units;
use super::yaml::{Entry, Node, Value};
use crate::diagnostic::{Problem, Span, suggest};

/// A value with the place it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Spanned<T> {
    pub(crate) value: T,
    pub(crate) span: Span,
}

/// Reads nodes and remembers what was wrong.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) problems: Vec<Problem>,
}

impl Reader {
    pub(crate) fn problem(&mut self, code: &'static str, span: Span, message: impl Into<String>) -> &mut Problem {
        self.problems.push(Problem::new(code, span, message));
        self.problems.last_mut().expect("just pushed")
    }

    pub(super) fn mismatch(&mut self, node: &Node, what: &str, wanted: &str) {
        let message = format!("{what} must be {wanted}, not {}", node.type_name());
        let problem = self.problem("workflow::type", node.span, message);
        if let Value::String(text) = &node.value
            && mentions_reference(text)
        {
            problem.help = Some("`${…}` is allowed in scalar params, mutex names and as a matrix axis only".to_owned());
        }
    }

    pub(super) fn map<'n>(&mut self, node: &'n Node, what: &str) -> &'n [Entry] {
        match &node.value {
            Value::Map(entries) => entries,
            Value::Null => &[],
            _ => {
                self.mismatch(node, what, "a mapping");
                &[]
            }
        }
    }

    /// A mapping with known keys only.
    pub(super) fn record<'n>(&mut self, node: &'n Node, what: &str, known: &[Field]) -> &'n [Entry] {
        let entries = self.map(node, what);
        for e in entries {
            if !known.iter().any(|f| f.name == e.key) {
                let help = suggest(&e.key, known.iter().map(|f| f.name));
                self.problem("workflow::unknown_key", e.key_span, format!("{what} has no key `{}`", e.key)).help = help;
            }
        }
        entries
    }

    pub(super) fn string<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        match &node.value {
            Value::String(s) if mentions_reference(s) => {
                self.problem("workflow::reference", node.span, format!("`${{…}}` is not allowed in {what}")).help =
                    Some("it is allowed in scalar params, mutex names and as a matrix axis only".to_owned());
                None
            }
            Value::String(s) => Some(s),
            _ => {
                self.mismatch(node, what, "a string");
                None
            }
        }
    }

    pub(super) fn name(&mut self, node: &Node, what: &str) -> Option<Spanned<String>> {
        let text = self.string(node, what)?;
        Some(Spanned { value: text.to_owned(), span: node.span })
    }

    pub(super) fn key_name(&mut self, e: &Entry, what: &str) -> Spanned<String> {
        if !units::is_name(&e.key) {
            self.problem("workflow::name", e.key_span, format!("`{}` cannot name {what}", e.key)).help =
                Some("a letter, then letters, digits, `_` or `-`; at most 64 in all".to_owned());
        }
        Spanned { value: e.key.clone(), span: e.key_span }
    }

    /// A list of names; one name alone is a list of one.
    pub(super) fn names(&mut self, node: &Node, what: &str) -> Vec<Spanned<String>> {
        match &node.value {
            Value::List(items) => items.iter().filter_map(|n| self.name(n, what)).collect(),
            Value::Null => Vec::new(),
            Value::String(_) => self.name(node, what).into_iter().collect(),
            _ => {
                self.mismatch(node, what, "a list of names");
                Vec::new()
            }
        }
    }

    pub(super) fn whole(&mut self, node: &Node, what: &str, min: u64) -> Option<u32> {
        let number = match &node.value {
            Value::Number(n) => n.as_u64().filter(|n| *n >= min).and_then(|n| u32::try_from(n).ok()),
            _ => None,
        };
        if number.is_none() {
            match &node.value {
                Value::Number(n) => {
                    self.problem("workflow::range", node.span, format!("{what} must be a whole number from {min} on, not {n}"));
                }
                _ => self.mismatch(node, what, "a whole number"),
            }
        }
        number
    }

    pub(super) fn dollars(&mut self, node: &Node, what: &str) -> Option<f64> {
        match &node.value {
            Value::Number(n) if n.as_f64().is_some_and(|n| n >= 0.0) => n.as_f64(),
            Value::Number(n) => {
                self.problem("workflow::range", node.span, format!("{what} must not be negative, but is {n}"));
                None
            }
            _ => {
                self.mismatch(node, what, "a number of dollars");
                None
            }
        }
    }

    pub(super) fn notation<T>(&mut self, node: &Node, what: &str, wanted: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = match &node.value {
            Value::String(s) => s.clone(),
            Value::Number(n) => n.to_string(),
            _ => {
                self.mismatch(node, what, wanted);
                return None;
            }
        };
        let value = read(&text);
        if value.is_none() {
            self.problem("workflow::notation", node.span, format!("{what}: `{text}` is not {wanted}"));
        }
        value
    }

    pub(super) fn duration(&mut self, node: &Node, what: &str) -> Option<Duration> {
        self.notation(node, what, "a duration such as `90s`, `10m` or `72h`", units::duration)
    }

    pub(super) fn size(&mut self, node: &Node, what: &str) -> Option<u64> {
        self.notation(node, what, "a size such as `512MiB` or `16GiB`", units::size)
    }

    pub(super) fn choice<T: Copy>(&mut self, node: &Node, what: &str, choices: &[(&str, T)]) -> Option<T> {
        let text = self.string(node, what)?;
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, v)| *v);
        if found.is_none() {
            let help = suggest(text, choices.iter().map(|(n, _)| *n));
            self.problem("workflow::choice", node.span, format!("{what} cannot be `{text}`")).help = help;
        }
        found
    }
}
