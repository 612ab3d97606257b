//! A scenario file's text, for saying where in it something is wrong.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

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
#[derive(Debug, Clone, Default)]
pub(super) struct Source {
    pub file: PathBuf,
    pub text: String,
}

impl Source {
    pub fn error(&self, wrong: Wrong) -> ScenarioError {
        let line = wrong.span.map(|span| {
            let before = self.text.get(..span.start).unwrap_or(&self.text);
            let start = before.rfind('\n').map_or(0, |at| at + 1);
            let column = before.get(start..).unwrap_or_default().chars().count() + 1;
            (before.matches('\n').count() + 1, column)
        });
        ScenarioError { file: self.file.clone(), line, reason: wrong.reason }
    }

    /// Where the file as a whole sets `key`.
    pub fn place(&self, key: &str) -> Option<Range<usize>> {
        Some(DeTable::parse(&self.text).ok()?.get_ref().get(key)?.span())
    }

    /// Where the guest or the matrix has `value` for `key`, by itself or in a list; without a value, where the key is set first.
    pub fn find(&self, key: &str, value: Option<&str>) -> Option<Range<usize>> {
        let table = DeTable::parse(&self.text).ok()?;
        let parts = ["guest", "matrix"].into_iter().filter_map(|part| table.get_ref().get(part));
        let mut found = Vec::new();
        parts.for_each(|part| find(part, key, value, false, &mut found));
        found.into_iter().min_by_key(|span| span.start)
    }
}

/// Adds the places in `node` to `found`; `is_of_key` says that `node` is what the key is set to.
fn find(
    node: &Spanned<DeValue<'_>>,
    key: &str,
    value: Option<&str>,
    is_of_key: bool,
    found: &mut Vec<Range<usize>>,
) {
    let is_value = value.is_none_or(|value| node.get_ref().as_str() == Some(value));
    if is_of_key && is_value {
        found.push(node.span());
    }
    match node.get_ref() {
        DeValue::Array(list) => list.iter().for_each(|one| find(one, key, value, is_of_key, found)),
        DeValue::Table(table) => {
            table.iter().for_each(|(name, one)| find(one, key, value, name.get_ref() == key, found));
        }
        _ => {}
    }
}
