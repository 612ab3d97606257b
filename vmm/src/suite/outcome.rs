//! What a case has come to, in a word, where its scenario names what it may come to.
//!
//! The names are looked for in what the run has left, never in what is expected of it: a case can come to something that nobody has
//! expected, and one that is like none of the names fails.

use super::findings::FindingPattern;
use super::matrix::Cell;
use super::pattern::{self, Pattern};
use super::scenario::Condition;
use super::steps::Told;
use super::text::{Text, text};
use crate::findings::Report;
use regex::Regex;
use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

/// Something that a case may come to, and by what it is known: all of what is said here.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct OutcomeRule {
    pub(super) when: Option<Spanned<Condition>>,
    /// Its name, in which `$name` stands for what `by` has found there.
    #[serde(deserialize_with = "text")]
    is: String,
    /// Found in the step's output.
    #[serde(default, deserialize_with = "expression")]
    by: Option<Regex>,
    /// The step that is looked at, by its name; the last by default.
    pub(super) step: Option<Text>,
    status: Option<u8>,
    #[serde(default)]
    output: Vec<Pattern>,
    #[serde(default)]
    not_output: Vec<Pattern>,
    /// Growth of dma-debug's `error_count` in the step.
    error_count: Option<u64>,
    #[serde(default)]
    log: Vec<Pattern>,
    #[serde(default)]
    not_log: Vec<Pattern>,
    /// There is a finding like each of these.
    #[serde(default)]
    findings: Vec<FindingPattern>,
}

fn expression<'de, D: Deserializer<'de>>(input: D) -> Result<Option<Regex>, D::Error> {
    pattern::regex(&String::deserialize(input)?).map(Some).map_err(de::Error::custom)
}

impl OutcomeRule {
    /// Whether it looks at anything: a rule that does not would be every outcome's.
    pub(super) fn looks_at_something(&self) -> bool {
        self.by.is_some()
            || self.status.is_some()
            || self.error_count.is_some()
            || !(self.output.is_empty() && self.not_output.is_empty())
            || !(self.log.is_empty() && self.not_log.is_empty())
            || !self.findings.is_empty()
    }

    /// Whether it needs the kernel's log.
    pub(super) fn wants_log(&self) -> bool {
        !(self.log.is_empty() && self.not_log.is_empty())
    }

    /// The outcome's name, if this is it.
    fn name(&self, steps: &[&str], told: &Told, findings: &[Report]) -> Option<String> {
        let at = match &self.step {
            Some(step) => steps.iter().position(|name| *name == step.0)?,
            None => steps.len().checked_sub(1)?,
        };
        let section = told.steps.get(at)?;
        let ended_so = self.status.is_none_or(|status| section.status == Some(status));
        let growth = section.errors_after.zip(section.errors_before);
        let growth = growth.map(|(after, before)| after.saturating_sub(before));
        let counted = self.error_count.is_none_or(|count| growth == Some(count));
        let says = |text: &str, wanted: &[Pattern], unwanted: &[Pattern]| {
            wanted.iter().all(|pattern| pattern.is_in(text))
                && !unwanted.iter().any(|pattern| pattern.is_in(text))
        };
        let logged = !self.wants_log()
            || told.log.as_ref().is_some_and(|log| told.done && says(log, &self.log, &self.not_log));
        let found = self.findings.iter().all(|wanted| findings.iter().any(|report| wanted.is_like(report)));
        if !(ended_so && counted && logged && found && says(&section.output, &self.output, &self.not_output))
        {
            return None;
        }
        let Some(by) = &self.by else { return Some(self.is.clone()) };
        let mut name = String::new();
        by.captures(&section.output)?.expand(&self.is, &mut name);
        Some(name)
    }
}

/// What the case of `cell` has come to: the first of the rules that applies. Nothing has come of a run whose steps did not all
/// end.
pub(super) fn outcome(
    rules: &[Spanned<OutcomeRule>],
    cell: &Cell,
    steps: &[&str],
    told: &Told,
    findings: &[Report],
) -> Option<String> {
    let rules = rules.iter().map(Spanned::get_ref).filter(|rule| cell.is_in(rule.when.as_ref()));
    let ended = told.steps.len() == steps.len() && told.steps.iter().all(|section| section.status.is_some());
    rules.filter(|_| ended).find_map(|rule| rule.name(steps, told, findings))
}
