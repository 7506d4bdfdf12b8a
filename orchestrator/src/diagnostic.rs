//! What is wrong with a workflow, and where: every problem at once, each with file, line, column and a way out.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde::Serialize;

/// A text that diagnostics point into: the workflow file, a fragment it uses, or one `--set` argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    name: String,
    text: Arc<str>,
}

impl Source {
    /// The file name as the user wrote it, or `--set`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole text.
    pub fn text(&self) -> &Arc<str> {
        &self.text
    }
}

/// Which [`Source`] a [`Span`] is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SourceId(u32);

/// A half-open range of bytes of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Span {
    /// The source.
    pub(crate) source: SourceId,
    /// First byte.
    pub(crate) start: usize,
    /// One past the last byte.
    pub(crate) end: usize,
}

impl Span {
    pub(crate) fn new(source: SourceId, range: Range<usize>) -> Self {
        Self { source, start: range.start, end: range.end.max(range.start) }
    }
}

/// The texts read so far, in the order they were read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    all: Vec<Source>,
}

impl Sources {
    /// Keeps a text and gives it an id.
    pub(crate) fn add(&mut self, name: impl Into<String>, text: impl Into<Arc<str>>) -> SourceId {
        self.all.push(Source { name: name.into(), text: text.into() });
        SourceId(u32::try_from(self.all.len() - 1).expect("fewer than 2^32 sources"))
    }

    /// The source of an id.
    pub(crate) fn get(&self, id: SourceId) -> &Source {
        &self.all[id.0 as usize]
    }

    /// Line and column (both from 1, columns in characters) of a byte offset.
    pub(crate) fn position(&self, id: SourceId, offset: usize) -> (usize, usize) {
        let text = self.get(id).text();
        let before = &text.as_bytes()[..offset.min(text.len())];
        let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let line = before.split(|b| *b == b'\n').count();
        let column = String::from_utf8_lossy(&before[line_start..]).chars().count() + 1;
        (line, column)
    }
}

/// One problem, with its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// A stable name of the kind of problem (`workflow::unknown_key`).
    pub code: &'static str,
    #[serde(skip)]
    source: SourceId,
    /// The file as the user named it, or `--set`.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The bytes concerned.
    pub span: Range<usize>,
    /// What is wrong.
    pub message: String,
    /// The fix.
    pub help: Option<String>,
}

/// Every problem found, with the texts they point into. Never empty when it is an error.
#[derive(Debug, Clone, Default)]
pub struct Diagnostics {
    sources: Sources,
    items: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Puts problems in reading order: by source, then by place.
    pub(crate) fn new(sources: Sources, problems: Vec<Problem>) -> Self {
        let mut problems = problems;
        problems.sort_by(|a, b| (a.span, &a.message).cmp(&(b.span, &b.message)));
        problems.dedup_by(|a, b| a.span == b.span && a.message == b.message);
        let items = problems
            .into_iter()
            .map(|p| {
                let (line, column) = sources.position(p.span.source, p.span.start);
                Diagnostic {
                    code: p.code,
                    source: p.span.source,
                    file: sources.get(p.span.source).name().to_owned(),
                    line,
                    column,
                    span: p.span.start..p.span.end,
                    message: p.message,
                    help: p.help,
                }
            })
            .collect();
        Self { sources, items }
    }

    /// The problems in reading order.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.items.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The text that `diagnostic.span` is in.
    pub fn source_of(&self, diagnostic: &Diagnostic) -> &Source {
        self.sources.get(diagnostic.source)
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for d in &self.items {
            writeln!(f, "{}:{}:{}: {} [{}]", d.file, d.line, d.column, d.message, d.code)?;
            if let Some(help) = &d.help {
                writeln!(f, "  help: {help}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// A problem before its line and column are worked out.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    pub(crate) code: &'static str,
    pub(crate) span: Span,
    pub(crate) message: String,
    pub(crate) help: Option<String>,
}

impl Problem {
    pub(crate) fn new(code: &'static str, span: Span, message: impl Into<String>) -> Self {
        Self { code, span, message: message.into(), help: None }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    pub(crate) fn maybe_help(mut self, help: Option<String>) -> Self {
        self.help = help.or(self.help);
        self
    }
}

/// `did you mean …` when one of `known` is close to `given`, else the list of what is known.
pub(crate) fn suggest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    if let Some(best) = closest(given, &known) {
        return Some(format!("did you mean `{best}`?"));
    }
    match known.len() {
        0 => None,
        1..=12 => Some(format!("known: {}", known.join(", "))),
        more => Some(format!("known: {}, … ({more} in all)", known[..12].join(", "))),
    }
}

/// The nearest of `known` by edits (insert, delete, replace, swap neighbours), if it is near enough to be a slip.
pub(crate) fn closest<'a>(given: &str, known: &[&'a str]) -> Option<&'a str> {
    let limit = given.chars().count().max(3) / 3;
    let scored = known.iter().map(|k| (edits(&given.to_lowercase(), &k.to_lowercase()), *k));
    scored.filter(|(d, _)| *d <= limit).min().map(|(_, k)| k)
}

/// Optimal string alignment distance.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        assert_eq!(closest("epslion", &["epsilon", "delta"]), Some("epsilon"));
        assert_eq!(closest("dataest", &["dataset", "dev"]), Some("dataset"));
        assert_eq!(closest("zebra", &["epsilon", "delta"]), None);
        assert_eq!(edits("abcd", "abdc"), 1);
    }

    #[test]
    fn columns_count_characters_not_bytes() {
        let mut sources = Sources::default();
        let id = sources.add("f", "a: 1\né: ü x\n");
        let offset = "a: 1\né: ü ".len();
        assert_eq!(sources.position(id, offset), (2, 6));
    }
}
