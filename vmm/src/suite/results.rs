//! What a suite has come to.

use super::source::ScenarioError;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// One thing that was checked: the run as a whole, or a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: String,
    /// What is not as expected; none if all is.
    pub problems: Vec<String>,
}

/// How a case ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    Passed,
    Failed,
    /// The limit on virtual or host time has come first.
    TimedOut,
    /// It could not be run.
    Error,
    /// The mirror does not have what it needs.
    Unavailable,
    /// The suite was interrupted before or while it ran.
    NotRun,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ended {
    pub cause: String,
    pub status: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instructions: Option<u64>,
    pub virtual_nanos: u64,
}

/// What a case has come to.
#[derive(Debug, Clone, Serialize)]
pub struct CaseResult {
    /// `SCENARIO[/CELL]/seed-N`.
    pub id: String,
    pub seed: u64,
    /// Axes and values.
    pub cell: BTreeMap<String, String>,
    pub verdict: Verdict,
    /// Why there is no verdict on what was expected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub checks: Vec<Check>,
    /// What it has come to, where its scenario names what it may come to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// What it was to come to, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected_outcome: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
    /// The command line that does the same again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command: Option<String>,
    /// What is kept of it.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "some_path")]
    pub artefacts: Option<PathBuf>,
}

impl CaseResult {
    /// Everything that is not as it should be, in lines.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let of_checks = self
            .checks
            .iter()
            .flat_map(|check| check.problems.iter().map(|problem| format!("{}: {problem}", check.name)));
        self.reason.iter().cloned().chain(of_checks).collect()
    }

    /// The virtual time that it took, in seconds.
    #[must_use]
    pub fn virtual_time(&self) -> std::time::Duration {
        std::time::Duration::from_nanos(self.ended.as_ref().map_or(0, |ended| ended.virtual_nanos))
    }
}

/// As a text, whatever bytes are in it.
fn path<S: Serializer>(path: &Path, output: S) -> Result<S::Ok, S::Error> {
    output.collect_str(&path.display())
}

fn some_path<S: Serializer>(path: &Option<PathBuf>, output: S) -> Result<S::Ok, S::Error> {
    output.collect_str(&path.as_deref().unwrap_or(Path::new("")).display())
}

/// What a scenario has come to.
#[derive(Debug, Clone, Serialize)]
pub struct ScenarioResult {
    pub name: String,
    #[serde(serialize_with = "path")]
    pub file: PathBuf,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub bug: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Why it cannot be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub cases: Vec<CaseResult>,
}

impl ScenarioResult {
    /// A scenario whose file cannot be used.
    #[must_use]
    pub fn broken(error: &ScenarioError) -> Self {
        Self {
            name: error.file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
            file: error.file.clone(),
            bug: String::new(),
            source: String::new(),
            error: Some(error.to_string()),
            cases: Vec::new(),
        }
    }

    /// Whether something in it does not hold or could not be run.
    #[must_use]
    pub fn fails(&self) -> bool {
        let fails =
            |case: &CaseResult| matches!(case.verdict, Verdict::Failed | Verdict::TimedOut | Verdict::Error);
        self.error.is_some() || self.cases.iter().any(fails)
    }

    /// Whether nothing in it has come to a verdict.
    #[must_use]
    pub fn is_skipped(&self) -> bool {
        let skipped = |case: &CaseResult| matches!(case.verdict, Verdict::Unavailable | Verdict::NotRun);
        self.error.is_none() && self.cases.iter().all(skipped)
    }
}

/// Counts of cases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Summary {
    pub passed: usize,
    /// Time limits among them.
    pub failed: usize,
    /// Cases that could not be run, and scenarios that cannot be used.
    pub errors: usize,
    pub unavailable: usize,
    pub not_run: usize,
}

impl Summary {
    /// Counts the cases of `results`.
    #[must_use]
    pub fn of(results: &[ScenarioResult]) -> Self {
        let mut summary =
            Self { errors: results.iter().filter(|one| one.error.is_some()).count(), ..Self::default() };
        for case in results.iter().flat_map(|one| &one.cases) {
            *summary.count(case.verdict) += 1;
        }
        summary
    }

    /// The number that `verdict` is counted in.
    pub(super) fn count(&mut self, verdict: Verdict) -> &mut usize {
        match verdict {
            Verdict::Passed => &mut self.passed,
            Verdict::Failed | Verdict::TimedOut => &mut self.failed,
            Verdict::Error => &mut self.errors,
            Verdict::Unavailable => &mut self.unavailable,
            Verdict::NotRun => &mut self.not_run,
        }
    }

    /// 0 if all hold, 1 if something does not, 125 if nothing failed but something could not be tested; cases whose image is
    /// unavailable do not count among these if they are `allowed`, as long as others have passed.
    #[must_use]
    pub fn exit_status(&self, allowed: bool) -> u8 {
        let unavailable = if allowed { 0 } else { self.unavailable };
        if self.failed > 0 {
            1
        } else if self.errors + unavailable + self.not_run > 0 || self.passed == 0 {
            crate::session::STATUS_ERROR
        } else {
            0
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        let rest = [(self.errors, "errors"), (self.unavailable, "unavailable"), (self.not_run, "not run")];
        rest.into_iter()
            .filter(|(count, _)| *count > 0)
            .try_for_each(|(count, what)| write!(f, ", {count} {what}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_not_be_tested_is_no_failure_and_no_success() {
        let status = |passed, failed, errors, unavailable, not_run| {
            let summary = Summary { passed, failed, errors, unavailable, not_run };
            (summary.exit_status(false), summary.exit_status(true))
        };
        assert_eq!(status(1, 0, 0, 0, 0), (0, 0));
        assert_eq!(status(1, 1, 1, 1, 1), (1, 1));
        assert_eq!(status(1, 0, 1, 0, 0), (125, 125));
        assert_eq!(status(1, 0, 0, 0, 1), (125, 125));
        assert_eq!(status(1, 0, 0, 1, 0), (125, 0));
        assert_eq!(status(0, 0, 0, 1, 0), (125, 125), "nothing was tested");
    }
}
