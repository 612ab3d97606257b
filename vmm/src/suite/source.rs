//! A scenario file's text, for saying where in it something is wrong.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// A scenario file that cannot be used: `FILE:LINE:COLUMN: reason`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{}: {reason}", .file.display(), place(*.line))]
pub struct ScenarioError {
    pub file: PathBuf,
    /// Line and column, from 1; none if the file as a whole is meant.
    pub line: Option<(usize, usize)>,
    pub reason: String,
}

fn place(line: Option<(usize, usize)>) -> String {
    line.map_or_else(String::new, |(line, column)| format!(":{line}:{column}"))
}

/// What is wrong in a scenario file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrong {
    /// Bytes of the file; none if the file as a whole is meant.
    pub span: Option<Range<usize>>,
    pub reason: String,
}

impl Wrong {
    pub(super) fn at(span: Range<usize>, reason: impl Into<String>) -> Self {
        Self { span: Some(span), reason: reason.into() }
    }

    pub(super) fn somewhere(reason: impl Into<String>) -> Self {
        Self { span: None, reason: reason.into() }
    }

    /// The same with `what` before its reason.
    pub(super) fn of(self, what: impl fmt::Display) -> Self {
        Self { reason: format!("{what}: {}", self.reason), ..self }
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

/// A file and its text.
pub(super) struct Source<'a> {
    pub file: &'a Path,
    pub text: &'a str,
}

impl Source<'_> {
    pub fn error(&self, wrong: Wrong) -> ScenarioError {
        let line = wrong.span.map(|span| {
            let before = self.text.get(..span.start).unwrap_or(self.text);
            let start = before.rfind('\n').map_or(0, |at| at + 1);
            let column = before.get(start..).unwrap_or_default().chars().count() + 1;
            (before.matches('\n').count() + 1, column)
        });
        ScenarioError { file: self.file.to_owned(), line, reason: wrong.reason }
    }
}
