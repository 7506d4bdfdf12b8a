//! `${params.x}` and `${matrix.x}` in scalars; `$${` stands for a literal `${`.

use crate::diagnostic::Span;

/// A scalar cut at its references.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    pub(crate) parts: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Text(String),
    Reference(Reference),
}

/// What a `${…}` names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reference {
    /// `${params.a.b}`
    Param(Vec<String>),
    /// `${matrix.axis}`
    Axis(String),
}

impl Template {
    /// Cuts `text`; the error is for the reader of the workflow.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                plain.push_str(&rest[..at - 1]);
                plain.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            plain.push_str(&rest[..at]);
            let Some(end) = rest[at..].find('}') else {
                return Err("`${` is never closed by `}`".to_owned());
            };
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Reference(Reference::parse(rest[at + 2..at + end].trim())?));
            rest = &rest[at + end + 1..];
        }
        plain.push_str(rest);
        if !plain.is_empty() || parts.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self { parts })
    }

    /// The reference, if the scalar is nothing else: then the value keeps its type.
    pub(crate) fn whole(&self) -> Option<&Reference> {
        match self.parts.as_slice() {
            [Part::Reference(r)] => Some(r),
            _ => None,
        }
    }

    pub(crate) fn references(&self) -> impl Iterator<Item = &Reference> {
        self.parts.iter().filter_map(|p| match p {
            Part::Reference(r) => Some(r),
            Part::Text(_) => None,
        })
    }
}

impl Reference {
    fn parse(text: &str) -> Result<Self, String> {
        let mut steps = text.split('.').map(str::to_owned);
        let root = steps.next().unwrap_or_default();
        let path: Vec<String> = steps.collect();
        if path.is_empty() || path.iter().any(String::is_empty) {
            return Err(format!("`${{{text}}}` must be `${{params.NAME}}` or `${{matrix.AXIS}}`"));
        }
        match root.as_str() {
            "params" => Ok(Self::Param(path)),
            "matrix" if path.len() == 1 => Ok(Self::Axis(path.into_iter().next().expect("one step"))),
            _ => Err(format!("`${{{text}}}` must be `${{params.NAME}}` or `${{matrix.AXIS}}`")),
        }
    }
}

/// Whether a string has a reference in it, wherever it stands.
pub(crate) fn mentions_reference(text: &str) -> bool {
    let mut from = 0;
    while let Some(at) = text[from..].find("${") {
        if !text[..from + at].ends_with('$') {
            return true;
        }
        from += at + 2;
    }
    false
}

/// A template with the place it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SpannedTemplate {
    pub(crate) template: Template,
    pub(crate) span: Span,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_cut_out_and_escapes_kept() {
        let t = Template::parse("glue/${matrix.task}/${params.a.b}$${x}").unwrap();
        assert_eq!(
            t.parts,
            [
                Part::Text("glue/".into()),
                Part::Reference(Reference::Axis("task".into())),
                Part::Text("/".into()),
                Part::Reference(Reference::Param(vec!["a".into(), "b".into()])),
                Part::Text("${x}".into()),
            ]
        );
        assert!(Template::parse("${params.x}").unwrap().whole().is_some());
        assert_eq!(Template::parse("").unwrap().parts, [Part::Text(String::new())]);
        for bad in ["${", "${env.HOME}", "${params}", "${matrix.a.b}", "${params.}"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
        assert!(!mentions_reference("$${x}") && mentions_reference("a${params.x}"));
    }
}
