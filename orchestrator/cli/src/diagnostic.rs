//! Failures as people read them: with the lines of the file they point into.

use std::fmt;
use std::io::{IsTerminal, Write};

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use sprint_orchestrator::{Diagnostic, Diagnostics};

use crate::context;
use crate::failure::Failure;

/// Prints a failure on standard error.
pub(crate) fn print(failure: &Failure) {
    let text = match failure {
        Failure::Closed => return,
        Failure::Workflow(diagnostics) => workflow(diagnostics, context::colour() && std::io::stderr().is_terminal()),
        Failure::Plain { message, help, .. } => {
            let help = help.as_ref().map(|h| format!("\n  help: {h}")).unwrap_or_default();
            format!("error: {message}{help}\n")
        }
    };
    // Nowhere else to tell it.
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Every mistake with the line it is on, then their number.
pub(crate) fn workflow(diagnostics: &Diagnostics, colour: bool) -> String {
    let theme = if colour { GraphicalTheme::unicode() } else { GraphicalTheme::unicode_nocolor() };
    let handler = GraphicalReportHandler::new_themed(theme).with_context_lines(1).with_width(120);
    let mut text = String::new();
    for diagnostic in diagnostics.iter() {
        let source = NamedSource::new(diagnostic.file.clone(), diagnostics.source_of(diagnostic).text().to_string());
        let report = Report { diagnostic, source };
        if handler.render_report(&mut text, &report).is_err() {
            text.push_str(&diagnostic.message);
        }
        text.push('\n');
    }
    let n = diagnostics.len();
    text.push_str(&format!("{n} mistake{}; nothing was run\n", if n == 1 { "" } else { "s" }));
    text
}

struct Report<'a> {
    diagnostic: &'a Diagnostic,
    source: NamedSource<String>,
}

impl fmt::Debug for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.diagnostic.message)
    }
}

impl std::error::Error for Report<'_> {}

impl miette::Diagnostic for Report<'_> {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.diagnostic.code))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.diagnostic.help.as_ref().map(|h| Box::new(h) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(&self.source)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = &self.diagnostic.span;
        Some(Box::new(std::iter::once(LabeledSpan::new(None, span.start, (span.end - span.start).max(1)))))
    }
}
