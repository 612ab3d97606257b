//! What a run, and each of its steps, has to come to.

use super::bounces::BouncePattern;
use super::findings::FindingPattern;
use super::memory::Contents;
use super::pattern::Pattern;
use super::scenario::Condition;
use super::source::Wrong;
use super::text::{Text, text};
use serde::{Deserialize, Deserializer, de};
use toml::Spanned;

/// What a step has to come to.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StepExpectation {
    pub(super) when: Option<Spanned<Condition>>,
    pub status: Option<Spanned<u8>>,
    #[serde(default)]
    pub output: Vec<Pattern>,
    #[serde(default)]
    pub not_output: Vec<Pattern>,
    /// Growth of dma-debug's `error_count`.
    pub error_count: Option<Spanned<u64>>,
}

impl StepExpectation {
    /// Adds what `more` says.
    ///
    /// # Errors
    /// If both state the same.
    pub(super) fn add(&mut self, more: &Self) -> Result<(), Wrong> {
        state(&mut self.status, more.status.as_ref(), "status")?;
        state(&mut self.error_count, more.error_count.as_ref(), "error-count")?;
        self.output.extend_from_slice(&more.output);
        self.not_output.extend_from_slice(&more.not_output);
        Ok(())
    }
}

/// What a run as a whole has to come to.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Expectation {
    pub(super) when: Option<Spanned<Condition>>,
    /// Exit status of `staleline run`.
    pub status: Option<Spanned<u8>>,
    /// The cause as `--status` names it.
    pub cause: Option<Spanned<CauseName>>,
    #[serde(default)]
    pub console: Vec<Pattern>,
    #[serde(default)]
    pub not_console: Vec<Pattern>,
    #[serde(default)]
    pub log: Vec<Pattern>,
    #[serde(default)]
    pub not_log: Vec<Pattern>,
    /// What is in the lines of the kernel's log that warn, one of these in each.
    pub log_warnings: Option<Vec<Pattern>>,
    /// The messages that dma-debug logs, in order and all of them: how each begins.
    pub dma_debug: Option<Spanned<Vec<Text>>>,
    /// dma-debug's `error_count` at the end.
    pub error_count: Option<Spanned<u64>>,
    #[serde(default)]
    pub memory: Vec<Spanned<Contents>>,
    /// What it comes to, of the scenario's outcomes.
    pub outcome: Option<Spanned<Text>>,
    /// Why that is to be expected.
    pub why: Option<Spanned<Text>>,
    /// All that the cache model and the ledger raise, each like one of these, and one at least like each of these.
    pub findings: Option<Vec<FindingPattern>>,
    /// What has gone through bounce buffers.
    pub bounced: Option<Vec<BouncePattern>>,
}

impl Expectation {
    /// Adds what `more` says.
    ///
    /// # Errors
    /// If both state the same, or different bytes of memory.
    pub(super) fn add(&mut self, more: &Self) -> Result<(), Wrong> {
        state(&mut self.status, more.status.as_ref(), "status")?;
        state(&mut self.cause, more.cause.as_ref(), "cause")?;
        state(&mut self.dma_debug, more.dma_debug.as_ref(), "dma-debug")?;
        state(&mut self.error_count, more.error_count.as_ref(), "error-count")?;
        state(&mut self.outcome, more.outcome.as_ref(), "outcome")?;
        state(&mut self.why, more.why.as_ref(), "why")?;
        self.console.extend_from_slice(&more.console);
        self.not_console.extend_from_slice(&more.not_console);
        self.log.extend_from_slice(&more.log);
        self.not_log.extend_from_slice(&more.not_log);
        if let Some(warnings) = &more.log_warnings {
            self.log_warnings.get_or_insert_default().extend_from_slice(warnings);
        }
        if let Some(findings) = &more.findings {
            self.findings.get_or_insert_default().extend_from_slice(findings);
        }
        if let Some(bounced) = &more.bounced {
            self.bounced.get_or_insert_default().extend_from_slice(bounced);
        }
        for contents in &more.memory {
            let other = self.memory.iter().find_map(|one| one.get_ref().contradicts(contents.get_ref()));
            if let Some(address) = other {
                return Err(Wrong::at(
                    contents.span(),
                    format!("two expectations state different bytes at {address:#x}"),
                ));
            }
            self.memory.push(contents.clone());
        }
        Ok(())
    }

    /// Whether it needs the kernel's log, or what comes with it.
    pub(super) fn asks_the_guest(&self) -> bool {
        self.wants_log() || self.error_count.is_some()
    }

    pub(super) fn wants_log(&self) -> bool {
        self.dma_debug.is_some()
            || self.log_warnings.is_some()
            || !(self.log.is_empty() && self.not_log.is_empty())
    }

    /// Whether a run without steps could fail by it.
    pub(super) fn says_something(&self) -> bool {
        self.status.is_some()
            || self.cause.is_some()
            || self.findings.is_some()
            || self.bounced.is_some()
            || !(self.console.is_empty() && self.not_console.is_empty() && self.memory.is_empty())
    }
}

/// Takes over what is stated once.
fn state<T: Clone>(to: &mut Option<Spanned<T>>, from: Option<&Spanned<T>>, key: &str) -> Result<(), Wrong> {
    match from {
        Some(again) if to.is_some() => {
            Err(Wrong::at(again.span(), format!("two expectations state '{key}'")))
        }
        Some(value) => {
            *to = Some(value.clone());
            Ok(())
        }
        None => Ok(()),
    }
}

/// A cause as `--status` names it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct CauseName(#[serde(deserialize_with = "cause")] pub String);

fn cause<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    let name = text(input)?;
    if crate::session::CAUSES.contains(&&*name) {
        return Ok(name);
    }
    let known = crate::session::CAUSES.join(", ");
    Err(de::Error::custom(format!("no run ends by '{name}' (causes: {known})")))
}
