//! YAML text to a tree of nodes with spans. The only file that knows the parser.
//!
//! `saphyr-parser`'s events are used because the deserialisers at hand either lose the place of a value after parsing or take
//! duplicate keys silently. Here duplicate keys, tags and second documents are errors, an alias is a bounded copy, and depth and
//! size are limited, so that no text can exhaust memory or the stack.

use std::borrow::Cow;
use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span as ParserSpan};
use serde_json::Number;

use crate::diagnostic::{Problem, SourceId, Span};

/// Deepest nesting of lists and mappings.
const MAX_DEPTH: usize = 48;
/// Most nodes in one text, copies by alias included.
const MAX_NODES: usize = 200_000;
/// Longest text.
const MAX_BYTES: usize = 4 << 20;

/// A value with its place.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) span: Span,
    pub(crate) value: Value,
}

/// A YAML 1.2 core-schema value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    /// Any finite number that JSON can hold; `0x`/`0o` integers are resolved.
    Number(Number),
    String(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a mapping, in the order written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_span: Span,
    pub(crate) value: Node,
}

impl Node {
    /// What a reader would call this value.
    pub(crate) fn type_name(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(n) if n.is_f64() => "a decimal number",
            Value::Number(_) => "a whole number",
            Value::String(_) => "a string",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
        }
    }

    pub(crate) fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|e| e.key == key),
            _ => None,
        }
    }

    pub(crate) fn entry_mut(&mut self, key: &str) -> Option<&mut Entry> {
        match &mut self.value {
            Value::Map(entries) => entries.iter_mut().find(|e| e.key == key),
            _ => None,
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|e| &e.value)
    }

    /// The node at `path`, or the deepest one on the way to it.
    pub(crate) fn nearest(&self, path: &[String]) -> &Node {
        let mut node = self;
        for step in path {
            let next = match &node.value {
                Value::List(items) => step.parse::<usize>().ok().and_then(|i| items.get(i)),
                _ => node.get(step),
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        node
    }

    fn shift(&mut self, by: usize) {
        self.span = Span::new(self.span.source, self.span.start + by..self.span.end + by);
        match &mut self.value {
            Value::List(items) => items.iter_mut().for_each(|n| n.shift(by)),
            Value::Map(entries) => {
                for e in entries {
                    e.key_span = Span::new(e.key_span.source, e.key_span.start + by..e.key_span.end + by);
                    e.value.shift(by);
                }
            }
            _ => {}
        }
    }

    /// The same value for writing it out as YAML, keys in the order written.
    pub(crate) fn to_yaml(&self) -> serde_yaml::Value {
        match &self.value {
            Value::Null => serde_yaml::Value::Null,
            Value::Bool(b) => (*b).into(),
            Value::Number(n) => match (n.as_u64(), n.as_i64(), n.as_f64()) {
                (Some(n), _, _) => n.into(),
                (_, Some(n), _) => n.into(),
                (_, _, n) => n.unwrap_or_default().into(),
            },
            Value::String(s) => s.as_str().into(),
            Value::List(items) => serde_yaml::Value::Sequence(items.iter().map(Self::to_yaml).collect()),
            Value::Map(entries) => {
                serde_yaml::Value::Mapping(entries.iter().map(|e| (e.key.as_str().into(), e.value.to_yaml())).collect())
            }
        }
    }

    /// The same value as JSON, keys in the order written.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Bool(b) => (*b).into(),
            Value::Number(n) => serde_json::Value::Number(n.clone()),
            Value::String(s) => s.clone().into(),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(entries) => {
                serde_json::Value::Object(entries.iter().map(|e| (e.key.clone(), e.value.to_json())).collect())
            }
        }
    }
}

/// Parses one document. Duplicate keys and the like go to `problems` and the rest is read on; `None` is a text that cannot be read
/// at all, with the reason in `problems`.
pub(crate) fn parse(source: SourceId, text: &str, problems: &mut Vec<Problem>) -> Option<Node> {
    if text.len() > MAX_BYTES {
        let message = format!("the text has {} bytes; at most {MAX_BYTES} are read", text.len());
        problems.push(Problem::new("yaml::too_large", Span::new(source, 0..0), message));
        return None;
    }
    let mut builder = Builder::new(source, text);
    let read = builder.read(text);
    problems.append(&mut builder.problems);
    match read {
        Ok(()) => Some(builder.root.unwrap_or(Node { span: Span::new(source, 0..0), value: Value::Null })),
        Err(stop) => {
            problems.push(stop);
            None
        }
    }
}

/// Parses the part of `text` from byte `from` on; spans count from the start of `text`.
pub(crate) fn parse_from(source: SourceId, text: &str, from: usize, problems: &mut Vec<Problem>) -> Option<Node> {
    let mut found = Vec::new();
    let node = parse(source, &text[from..], &mut found);
    problems.extend(found.into_iter().map(|mut p| {
        p.span = Span::new(source, p.span.start + from..p.span.end + from);
        p
    }));
    node.map(|mut node| {
        node.shift(from);
        node
    })
}

/// From the parser's character indices to byte offsets.
struct ByteOffsets {
    /// `None` for ASCII, where the two agree.
    table: Option<Vec<usize>>,
    len: usize,
}

impl ByteOffsets {
    fn new(text: &str) -> Self {
        let table = (!text.is_ascii()).then(|| text.char_indices().map(|(at, _)| at).collect());
        Self { table, len: text.len() }
    }

    fn of(&self, index: usize) -> usize {
        match &self.table {
            None => index.min(self.len),
            Some(table) => table.get(index).copied().unwrap_or(self.len),
        }
    }
}

/// A list or mapping that is not closed yet.
enum Open {
    List { start: usize, anchor: usize, items: Vec<Node> },
    Map { start: usize, anchor: usize, entries: Vec<Entry>, key: Option<(String, Span)> },
}

struct Builder<'t> {
    source: SourceId,
    text: &'t str,
    bytes: ByteOffsets,
    stack: Vec<Open>,
    /// Finished anchored nodes with their number of nodes.
    anchors: BTreeMap<usize, (Node, usize)>,
    nodes: usize,
    root: Option<Node>,
    documents: usize,
    problems: Vec<Problem>,
}

impl<'t> Builder<'t> {
    fn new(source: SourceId, text: &'t str) -> Self {
        let bytes = ByteOffsets::new(text);
        let (stack, anchors) = (Vec::new(), BTreeMap::new());
        Self { source, text, bytes, stack, anchors, nodes: 0, root: None, documents: 0, problems: Vec::new() }
    }

    /// Takes events until the end, or until there is no going on.
    fn read(&mut self, text: &str) -> Result<(), Problem> {
        for event in Parser::new_from_str(text) {
            match event {
                Ok((event, span)) => self.take(event, span)?,
                Err(error) => {
                    let at = self.bytes.of(error.marker().index());
                    let end = text[at..].chars().next().map_or(at, |c| at + c.len_utf8());
                    return Err(Problem::new("yaml::syntax", Span::new(self.source, at..end), error.info()));
                }
            }
        }
        Ok(())
    }

    fn span(&self, span: ParserSpan) -> Span {
        let (start, end) = (self.bytes.of(span.start.index()), self.bytes.of(span.end.index()));
        let end = start + self.text[start..end.max(start)].trim_end().len();
        Span::new(self.source, start..end)
    }

    /// Takes an event; `Err` ends the reading.
    fn take(&mut self, event: Event<'_>, at: ParserSpan) -> Result<(), Problem> {
        let span = self.span(at);
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(Problem::new("yaml::second_document", span, "only one YAML document is read"));
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.is_some(), span);
                self.count(1, span)?;
                let value = self.scalar(&text, style, span);
                self.finish(Node { span, value }, anchor, 1, Some(text))?;
            }
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor).cloned() else {
                    return Err(Problem::new("yaml::alias", span, "an alias to a value that is not finished yet"));
                };
                self.count(size, span)?;
                self.finish(node, 0, size, None)?;
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse_tag(tag.is_some(), span);
                self.open(Open::List { start: span.start, anchor, items: Vec::new() }, span)?;
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse_tag(tag.is_some(), span);
                self.open(Open::Map { start: span.start, anchor, entries: Vec::new(), key: None }, span)?;
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span)?,
            _ => {}
        }
        Ok(())
    }

    fn refuse_tag(&mut self, tagged: bool, span: Span) {
        if tagged {
            self.problems.push(Problem::new("yaml::tag", span, "YAML tags have no meaning here").help("quote the value instead"));
        }
    }

    fn count(&mut self, nodes: usize, span: Span) -> Result<(), Problem> {
        self.nodes += nodes;
        if self.nodes > MAX_NODES {
            let message = format!("more than {MAX_NODES} values after expanding aliases");
            return Err(Problem::new("yaml::too_large", span, message));
        }
        Ok(())
    }

    fn open(&mut self, open: Open, span: Span) -> Result<(), Problem> {
        self.count(1, span)?;
        if self.stack.len() >= MAX_DEPTH {
            return Err(Problem::new("yaml::too_deep", span, format!("more than {MAX_DEPTH} levels of nesting")));
        }
        if let Some(Open::Map { key: None, .. }) = self.stack.last() {
            return Err(Problem::new("yaml::key", span, "a key must be a plain value, not a list or mapping"));
        }
        self.stack.push(open);
        Ok(())
    }

    fn close(&mut self, end: Span) -> Result<(), Problem> {
        let Some(open) = self.stack.pop() else { return Ok(()) };
        let (start, anchor, value) = match open {
            Open::List { start, anchor, items } => (start, anchor, Value::List(items)),
            Open::Map { start, anchor, entries, .. } => (start, anchor, Value::Map(entries)),
        };
        let stop = start + self.text[start..end.end.max(start)].trim_end().len();
        let node = Node { span: Span::new(self.source, start..stop), value };
        let size = if anchor == 0 { 0 } else { size_of(&node) };
        self.finish(node, anchor, size, None)
    }

    /// Puts a finished node where it belongs. `key` is its text if it may be a key.
    fn finish(&mut self, node: Node, anchor: usize, size: usize, key: Option<Cow<'_, str>>) -> Result<(), Problem> {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), size));
        }
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, key: pending, .. }) => match pending.take() {
                Some((name, key_span)) => {
                    if entries.iter().any(|e| e.key == name) {
                        let message = format!("`{name}` is given twice in this mapping");
                        self.problems.push(Problem::new("yaml::duplicate_key", key_span, message).help("keep one of the two"));
                    } else {
                        entries.push(Entry { key: name, key_span, value: node });
                    }
                }
                None => match key {
                    Some(text) => *pending = Some((text.into_owned(), node.span)),
                    None => return Err(Problem::new("yaml::key", node.span, "a key must be written out, not aliased")),
                },
            },
        }
        Ok(())
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, span: Span) -> Value {
        if style != ScalarStyle::Plain {
            return Value::String(text.to_owned());
        }
        match resolve_plain(text) {
            Ok(value) => value,
            Err(message) => {
                self.problems.push(Problem::new("yaml::number", span, message).help("quote it to keep it as text"));
                Value::Null
            }
        }
    }
}

fn size_of(node: &Node) -> usize {
    1 + match &node.value {
        Value::List(items) => items.iter().map(size_of).sum(),
        Value::Map(entries) => entries.iter().map(|e| size_of(&e.value)).sum(),
        _ => 0,
    }
}

/// The YAML 1.2 core schema; numbers that JSON cannot hold exactly enough are refused rather than changed.
fn resolve_plain(text: &str) -> Result<Value, String> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Ok(Value::Null),
        "true" | "True" | "TRUE" => return Ok(Value::Bool(true)),
        "false" | "False" | "FALSE" => return Ok(Value::Bool(false)),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "-.inf" | ".nan" | ".NaN" | ".NAN" => {
            return Err(format!("{text} is not a number a parameter can hold"));
        }
        _ => {}
    }
    let radix = text.strip_prefix("0x").map(|d| (d, 16)).or_else(|| text.strip_prefix("0o").map(|d| (d, 8)));
    if let Some((digits, radix)) = radix {
        return Ok(
            u64::from_str_radix(digits, radix).map_or_else(|_| Value::String(text.to_owned()), |n| Value::Number(n.into()))
        );
    }
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if !unsigned.is_empty() && unsigned.bytes().all(|b| b.is_ascii_digit()) {
        let signed = text.strip_prefix('+').unwrap_or(text);
        return match (signed.parse::<u64>(), signed.parse::<i64>()) {
            (Ok(n), _) => Ok(Value::Number(n.into())),
            (_, Ok(n)) => Ok(Value::Number(n.into())),
            _ => Err(format!("{text} does not fit in 64 bits")),
        };
    }
    if is_decimal(unsigned) {
        let parsed = text.parse::<f64>().ok().and_then(Number::from_f64);
        return parsed.map(Value::Number).ok_or_else(|| format!("{text} does not fit in a 64-bit float"));
    }
    Ok(Value::String(text.to_owned()))
}

/// `digits [. digits] [e±digits]` with at least one digit before the exponent.
fn is_decimal(text: &str) -> bool {
    let (mantissa, exponent) = text.split_once(['e', 'E']).map_or((text, None), |(m, e)| (m, Some(e)));
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let exponent_ok = exponent.is_none_or(|e| {
        let e = e.strip_prefix(['+', '-']).unwrap_or(e);
        !e.is_empty() && digits(e)
    });
    (!whole.is_empty() || !part.is_empty()) && digits(whole) && digits(part) && exponent_ok
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostic::Sources;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Node, Vec<Problem>> {
        let mut sources = Sources::default();
        let id = sources.add("test", text);
        let mut problems = Vec::new();
        let node = parse(id, text, &mut problems);
        if problems.is_empty() { Ok(node.expect("no problem, so a node")) } else { Err(problems) }
    }

    fn codes(text: &str) -> Vec<&'static str> {
        read(text).expect_err("must be refused").iter().map(|p| p.code).collect()
    }

    #[test]
    fn scalars_follow_the_core_schema() {
        let node = read("{a: 1, b: 1.5, c: yes, d: true, e: ~, f: '1', g: 0x10, h: -3, i: 1e-5, j: v1.2, k: 12:30}").unwrap();
        let json = serde_json::json!({"a": 1, "b": 1.5, "c": "yes", "d": true, "e": null, "f": "1", "g": 16, "h": -3,
            "i": 1e-5, "j": "v1.2", "k": "12:30"});
        assert_eq!(node.to_json(), json);
    }

    #[test]
    fn spans_are_bytes_even_after_wide_characters() {
        let text = "ä: ö\nkey: [one, two]\n";
        let node = read(text).unwrap();
        let list = node.get("key").unwrap();
        assert_eq!(&text[list.span.start..list.span.end], "[one, two]");
        let Value::List(items) = &list.value else { panic!("a list") };
        assert_eq!(&text[items[1].span.start..items[1].span.end], "two");
        assert_eq!(&text[node.entry("key").unwrap().key_span.start..][..3], "key");
    }

    #[test]
    fn every_duplicate_key_is_reported() {
        assert_eq!(codes("a: 1\na: 2\nb: {c: 1, c: 2}\n"), ["yaml::duplicate_key"; 2]);
    }

    #[test]
    fn alias_bombs_deep_nesting_tags_and_second_documents_are_refused() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]");
        for i in 1..9 {
            let copies = format!("*a{}, ", i - 1).repeat(10);
            bomb += "\n";
            bomb += &["a", &i.to_string(), ": &a", &i.to_string(), " [", &copies, "]"].concat();
        }
        assert_eq!(codes(&bomb), ["yaml::too_large"]);
        assert_eq!(codes(&"[".repeat(60)), ["yaml::too_deep"]);
        assert_eq!(codes("a: !secret x\n"), ["yaml::tag"]);
        assert_eq!(codes("a: 1\n---\nb: 2\n"), ["yaml::second_document"]);
        assert_eq!(codes("? [1]\n: 2\n"), ["yaml::key"]);
        assert_eq!(codes("a: 99999999999999999999\nb: .nan\n"), ["yaml::number"; 2]);
    }

    #[test]
    fn aliases_are_copies() {
        let node = read("a: &x {p: 1}\nb: *x\n").unwrap();
        assert_eq!(node.get("b").unwrap().to_json(), serde_json::json!({"p": 1}));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "[\\PC\\n\\t:\\-\\[\\]{}&*!|>'\"#%@` ]{0,200}") {
            let _ = read(&text);
        }

        #[test]
        fn json_is_read_as_written(value in json_value()) {
            let text = serde_json::to_string(&value).unwrap();
            prop_assert_eq!(read(&text).unwrap().to_json(), value);
        }
    }

    fn json_value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            "[a-z0-9 :#,-]{0,12}".prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(serde_json::Value::from),
                prop::collection::btree_map("[a-z]{1,6}", inner, 0..5)
                    .prop_map(|m| serde_json::Value::Object(m.into_iter().collect())),
            ]
        })
    }
}
