//! Scenario files: what they may say, and reading them. The format is described at [`crate::suite`].

use super::keys::{Keys, Number, text};
use super::matrix::{self, Axis, Cell};
use super::pattern::Pattern;
use super::seeds::Seeds;
use crate::quantity::parse_seconds;
use serde::{Deserialize, Deserializer};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;

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

/// Values of axes that something is limited to, by the axis' name.
pub(super) type Condition = BTreeMap<String, Choice>;

/// One value, or a list of which each will do.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "a value's name, or a list of such names")]
pub(super) enum Choice {
    One(String),
    Any(Vec<String>),
}

impl Choice {
    pub(super) fn values(&self) -> &[String] {
        match self {
            Self::One(value) => std::slice::from_ref(value),
            Self::Any(values) => values,
        }
    }
}

/// A scenario.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Scenario {
    /// The file's name without `.toml` unless the file says otherwise.
    #[serde(default, deserialize_with = "some_name")]
    pub name: String,
    /// The bug that it stands for.
    #[serde(deserialize_with = "text")]
    pub bug: String,
    /// Where that is known from: a commit, a report, a paragraph of a manual.
    #[serde(deserialize_with = "text")]
    pub source: String,
    #[serde(default)]
    pub guest: Keys,
    #[serde(default)]
    pub seeds: Seeds,
    /// Virtual seconds.
    #[serde(default)]
    pub deadline: Deadline,
    #[serde(default)]
    pub(super) matrix: BTreeMap<String, Spanned<Axis>>,
    /// Cells that there are not.
    #[serde(default)]
    pub(super) exclude: Vec<Spanned<Condition>>,
    #[serde(default, rename = "step")]
    pub steps: Vec<Step>,
    /// What every step has to come to; they are given it when the file is read.
    #[serde(default)]
    each_step: Vec<StepExpectation>,
    #[serde(default, rename = "expect")]
    pub expectations: Vec<Expectation>,
    /// The folder that relative paths start from.
    #[serde(skip)]
    pub folder: PathBuf,
    /// The file.
    #[serde(skip)]
    pub file: PathBuf,
}

/// Something that runs in the guest.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Step {
    /// The program, or the script's first line, unless said otherwise.
    #[serde(default)]
    pub name: String,
    /// Program and arguments.
    pub run: Option<Spanned<Vec<String>>>,
    /// A shell script instead.
    pub script: Option<Spanned<String>>,
    /// Guest seconds after which it is killed.
    #[serde(default)]
    pub timeout: Option<Deadline>,
    #[serde(default, rename = "expect")]
    pub expectations: Vec<StepExpectation>,
}

/// What a step has to come to.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct StepExpectation {
    pub(super) when: Option<Spanned<Condition>>,
    pub status: Option<u8>,
    #[serde(default)]
    pub output: Vec<Pattern>,
    #[serde(default)]
    pub not_output: Vec<Pattern>,
    /// Growth of dma-debug's `error_count`.
    pub error_count: Option<u64>,
}

/// What a run as a whole has to come to.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Expectation {
    pub(super) when: Option<Spanned<Condition>>,
    /// Exit status of `staleline run`.
    pub status: Option<u8>,
    /// The cause as `--status` names it.
    #[serde(default, deserialize_with = "cause")]
    pub cause: Option<String>,
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
    pub dma_debug: Option<Vec<String>>,
    /// dma-debug's `error_count` at the end.
    pub error_count: Option<u64>,
    findings: Option<Spanned<BTreeMap<String, u64>>>,
    verdict: Option<Spanned<String>>,
    culprit: Option<Spanned<String>>,
    memory: Option<Spanned<Vec<MemoryContents>>>,
}

/// Bytes in the guest's RAM at the end.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the key is checked, and refused for now")]
struct MemoryContents {
    address: u64,
    /// Hexadecimal.
    bytes: String,
}

/// A time in seconds, fractions allowed.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(try_from = "Number")]
pub struct Deadline(pub f64);

impl Default for Deadline {
    fn default() -> Self {
        Self(60.0)
    }
}

impl TryFrom<Number> for Deadline {
    type Error = String;

    fn try_from(number: Number) -> Result<Self, String> {
        let seconds = parse_seconds(&number.0.to_string())?;
        Ok(Self(seconds.as_secs_f64()))
    }
}

fn some_name<'de, D: Deserializer<'de>>(input: D) -> Result<String, D::Error> {
    let name = text(input)?;
    match matrix::is_name(&name) {
        true => Ok(name),
        false => Err(serde::de::Error::custom(format!("the name '{name}': {}", matrix::NAMES))),
    }
}

fn cause<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    let name = String::deserialize(input)?;
    if crate::session::CAUSES.contains(&&*name) {
        return Ok(Some(name));
    }
    let known = crate::session::CAUSES.join(", ");
    Err(serde::de::Error::custom(format!("no run ends by '{name}' (causes: {known})")))
}

/// A file's text, for saying where something is.
struct Source<'a> {
    file: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn error(&self, span: Option<Range<usize>>, reason: impl Into<String>) -> ScenarioError {
        let line = span.map(|span| {
            let before = self.text.get(..span.start).unwrap_or(self.text);
            let start = before.rfind('\n').map_or(0, |at| at + 1);
            let column = before.get(start..).unwrap_or_default().chars().count() + 1;
            (before.matches('\n').count() + 1, column)
        });
        ScenarioError { file: self.file.to_owned(), line, reason: reason.into() }
    }
}

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// [`ScenarioError`] with the place.
    pub fn read(file: &Path) -> Result<Self, ScenarioError> {
        let whole = |reason: String| ScenarioError { file: file.to_owned(), line: None, reason };
        let text = std::fs::read_to_string(file).map_err(|error| whole(error.to_string()))?;
        Self::parse(file, &text)
    }

    fn parse(file: &Path, text: &str) -> Result<Self, ScenarioError> {
        let source = Source { file, text };
        let mut scenario: Self =
            toml::from_str(text).map_err(|error| source.error(error.span(), error.message().trim_end()))?;
        if scenario.name.is_empty() {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy();
            scenario.name = matrix::plain(&stem);
        }
        scenario.file = file.to_owned();
        scenario.folder = file.parent().map_or_else(PathBuf::new, Path::to_owned);
        for step in &mut scenario.steps {
            step.check(&source)?;
            step.expectations.extend_from_slice(&scenario.each_step);
        }
        if scenario.steps.is_empty() && !scenario.each_step.is_empty() {
            return Err(source.error(None, "each-step: there is no step"));
        }
        scenario.expectations.iter().try_for_each(|one| one.refuse_later(&source))?;
        scenario.check_cells(&source)?;
        Ok(scenario)
    }

    /// Every cell can be had, and something is expected in each of them, but not two things at once.
    fn check_cells(&self, source: &Source<'_>) -> Result<(), ScenarioError> {
        let axes = matrix::axes(&self.matrix).map_err(|(span, reason)| source.error(Some(span), reason))?;
        let conditions = self.expectations.iter().filter_map(|one| one.when.as_ref());
        let of_steps =
            self.steps.iter().flat_map(|step| step.expectations.iter().filter_map(|one| one.when.as_ref()));
        for condition in conditions.chain(of_steps).chain(&self.exclude) {
            matrix::check_condition(&axes, condition.get_ref())
                .map_err(|reason| source.error(Some(condition.span()), reason))?;
        }
        let cells = self.cells().map_err(|(span, reason)| source.error(span, reason))?;
        for cell in &cells {
            let of = |reason: String| match cell.name.as_str() {
                "" => source.error(None, reason),
                name => source.error(None, format!("{name}: {reason}")),
            };
            let run = self.expectation(cell).map_err(of)?;
            if self.steps.is_empty() && !run.says_something() {
                return Err(of(
                    "nothing runs in the guest and nothing is expected: this could not fail".into()
                ));
            }
            for step in &self.steps {
                step.expectation(cell).map_err(|reason| of(format!("step {}: {reason}", step.name)))?;
            }
        }
        Ok(())
    }

    /// The cells of the matrix, one if there is none.
    ///
    /// # Errors
    /// The place in the file and the reason.
    pub(super) fn cells(&self) -> Result<Vec<Cell>, (Option<Range<usize>>, String)> {
        matrix::cells(&self.guest, &self.matrix, &self.exclude)
    }

    /// What the run of `cell` has to come to.
    ///
    /// # Errors
    /// If two expectations contradict each other.
    pub(super) fn expectation(&self, cell: &Cell) -> Result<Expectation, String> {
        let mut all = Expectation::default();
        for one in self.expectations.iter().filter(|one| cell.is_in(one.when.as_ref())) {
            merge(&mut all.status, one.status.as_ref(), "status")?;
            merge(&mut all.cause, one.cause.as_ref(), "cause")?;
            merge(&mut all.dma_debug, one.dma_debug.as_ref(), "dma-debug")?;
            merge(&mut all.error_count, one.error_count.as_ref(), "error-count")?;
            all.console.extend_from_slice(&one.console);
            all.not_console.extend_from_slice(&one.not_console);
            all.log.extend_from_slice(&one.log);
            all.not_log.extend_from_slice(&one.not_log);
            if let Some(warnings) = &one.log_warnings {
                all.log_warnings.get_or_insert_default().extend_from_slice(warnings);
            }
        }
        if self.steps.is_empty() {
            if all.wants_log() || all.error_count.is_some() {
                return Err(
                    "log, log-warnings, dma-debug and error-count need a step: without one nothing asks the guest".into()
                );
            }
        } else if all.cause.as_deref().is_none_or(|cause| cause == "exited") {
            all.status.get_or_insert(0);
        }
        Ok(all)
    }
}

fn merge<T: Clone>(to: &mut Option<T>, from: Option<&T>, key: &str) -> Result<(), String> {
    match from {
        Some(_) if to.is_some() => Err(format!("two expectations state '{key}'")),
        Some(value) => {
            *to = Some(value.clone());
            Ok(())
        }
        None => Ok(()),
    }
}

impl Expectation {
    fn says_something(&self) -> bool {
        self.status.is_some()
            || self.cause.is_some()
            || !(self.console.is_empty() && self.not_console.is_empty())
    }

    /// Whether the kernel's log is needed to judge it.
    pub(super) fn wants_log(&self) -> bool {
        self.dma_debug.is_some()
            || self.log_warnings.is_some()
            || !(self.log.is_empty() && self.not_log.is_empty())
    }

    /// Refuses what this version cannot judge.
    fn refuse_later(&self, source: &Source<'_>) -> Result<(), ScenarioError> {
        let asked = [
            ("findings", self.findings.as_ref().map(Spanned::span)),
            ("verdict", self.verdict.as_ref().map(Spanned::span)),
            ("culprit", self.culprit.as_ref().map(Spanned::span)),
            ("memory", self.memory.as_ref().map(Spanned::span)),
        ];
        match asked.into_iter().find(|(_, span)| span.is_some()) {
            Some((key, span)) => {
                Err(source.error(span, format!("{key}: not yet: this version of staleline cannot judge it")))
            }
            None => Ok(()),
        }
    }
}

impl Step {
    /// Exactly one thing to run, which gives a name.
    fn check(&mut self, source: &Source<'_>) -> Result<(), ScenarioError> {
        let name = match (&self.run, &self.script) {
            (Some(run), None) => match run.get_ref().first() {
                Some(program) if !program.is_empty() => program.clone(),
                _ => return Err(source.error(Some(run.span()), "run: no program is named")),
            },
            (None, Some(script)) => {
                let line = script.get_ref().lines().map(str::trim).find(|line| !line.is_empty());
                let line = line.ok_or_else(|| source.error(Some(script.span()), "the script is empty"))?;
                line.to_owned()
            }
            (Some(run), Some(_)) => {
                return Err(source.error(Some(run.span()), "a step has either 'run' or 'script', not both"));
            }
            (None, None) => {
                return Err(
                    source.error(None, format!("step '{}' has neither 'run' nor 'script'", self.name))
                );
            }
        };
        if self.name.is_empty() {
            self.name = name;
        }
        Ok(())
    }

    /// What the step has to come to in `cell`.
    ///
    /// # Errors
    /// If two expectations contradict each other.
    pub(super) fn expectation(&self, cell: &Cell) -> Result<StepExpectation, String> {
        let mut all = StepExpectation::default();
        for one in self.expectations.iter().filter(|one| cell.is_in(one.when.as_ref())) {
            merge(&mut all.status, one.status.as_ref(), "status")?;
            merge(&mut all.error_count, one.error_count.as_ref(), "error-count")?;
            all.output.extend_from_slice(&one.output);
            all.not_output.extend_from_slice(&one.not_output);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "bug = 'b'\nsource = 's'\n";

    fn parse(text: &str) -> Result<Scenario, String> {
        Scenario::parse(Path::new("dir/x.toml"), &format!("{HEAD}{text}")).map_err(|error| error.to_string())
    }

    #[test]
    fn a_scenario_is_named_by_its_file_or_itself() {
        let scenario = parse("[[step]]\nrun = ['true']").unwrap();
        assert_eq!((&*scenario.name, &*scenario.steps[0].name), ("x", "true"));
        assert_eq!(scenario.folder, Path::new("dir"));
        assert_eq!(parse("name = 'y'\n[[step]]\nscript = \"\\n true\"").unwrap().name, "y");
    }

    #[test]
    fn errors_name_file_and_line() {
        let error = |text: &str| parse(text).unwrap_err();
        for (text, expected) in [
            ("bogus = 1", "dir/x.toml:3:1: unknown field `bogus`"),
            ("name = 'a b'", "dir/x.toml:3:8: the name 'a b'"),
            ("[guest]\nmemory = '512'", "dir/x.toml:4:10: memory: a size needs a unit"),
            ("[guest]\ncpus = 9", "dir/x.toml:4:8: "),
            ("[guest]\ndevices = ['mlx5', 'e1000']", "dir/x.toml:4:11: unknown device 'e1000'"),
            ("seeds = '5..1'", "dir/x.toml:3:9: "),
            ("deadline = 0", "dir/x.toml:3:12: not a positive number of seconds"),
            ("[[step]]\nrun = []", "dir/x.toml:4:7: run: no program"),
            ("[[step]]\nrun = ['a']\nscript = 'b'", "dir/x.toml:4:7: a step has either"),
            ("[[step]]\nname = 'n'", "dir/x.toml: step 'n' has neither"),
            ("[[step]]\nrun = ['a']\n[[step.expect]]\noutput = [{ regex = '(' }]", "dir/x.toml:6:"),
            ("[[expect]]\ncause = 'boredom'", "dir/x.toml:4:9: no run ends by 'boredom' (causes: exited"),
            ("[[expect]]\nfindings = { stale = 1 }", "dir/x.toml:4:12: findings: not yet"),
            ("[[expect]]\nwhen = { a = 'b' }\nstatus = 1", "dir/x.toml:4:8: no axis is called 'a'"),
            (
                "[[expect]]\nwhen = { a = 1 }\nstatus = 1",
                "dir/x.toml:4:14: a value's name, or a list of such names",
            ),
            (
                "[matrix]\ncpus = [1]\n[[expect]]\nwhen = { cpus = ['1', '9'] }",
                "dir/x.toml:6:8: axis 'cpus' has no value '9'",
            ),
            (
                "[matrix]\ncpus = [1]\n[[expect]]\nwhen = { cpus = [] }",
                "dir/x.toml:6:8: axis 'cpus': none of its values",
            ),
            ("[[expect]]\nstatus = 1\n[[expect]]\nstatus = 2", "dir/x.toml: two expectations state 'status'"),
            ("[guest]\ncpus = 1", "dir/x.toml: nothing runs in the guest and nothing is expected"),
            ("[[expect]]\nstatus = 1\nerror-count = 1", "need a step"),
            ("[[each-step]]\nstatus = 1", "each-step: there is no step"),
            (
                "[[step]]\nrun = ['a']\n[[step.expect]]\nstatus = 1\n[[each-step]]\nstatus = 1",
                "two expectations state 'status'",
            ),
            ("[matrix]\ncpus = []", "dir/x.toml:4:8: axis 'cpus' has no values"),
            ("[matrix]\ncolour = ['red']", "dir/x.toml:4:10: axis 'colour'"),
            ("[matrix]\na = { b = { memory = '1X' } }", "dir/x.toml:4:22: memory: "),
        ] {
            assert!(error(text).contains(expected), "{text}: {}", error(text));
        }
        let unnamed = Scenario::parse(Path::new("x"), "bug = ' '\nsource = 's'").unwrap_err().to_string();
        assert_eq!(unnamed, "x:1:7: must not be empty");
        assert!(Scenario::parse(Path::new("x"), "source = 's'").unwrap_err().to_string().contains("bug"));
        assert!(
            Scenario::read(Path::new("/nonexistent"))
                .unwrap_err()
                .to_string()
                .starts_with("/nonexistent: No")
        );
    }

    #[test]
    fn expectations_of_a_cell_are_those_whose_condition_holds() {
        let text = "[matrix]\ncpus = [1, 2]\n[[step]]\nrun = ['a']\n[[step.expect]]\noutput = ['always']\n\
                    [[step.expect]]\nwhen = { cpus = '2' }\nstatus = 3\noutput = ['two']\n";
        let scenario = parse(text).unwrap();
        let cells = scenario.cells().unwrap();
        let of = |at: usize| scenario.steps[0].expectation(&cells[at]).unwrap();
        assert_eq!((of(0).status, of(0).output.len()), (None, 1));
        assert_eq!((of(1).status, of(1).output.len()), (Some(3), 2));
        assert_eq!(scenario.expectation(&cells[0]).unwrap().status, Some(0));
    }

    #[test]
    fn what_holds_for_each_step_and_what_logs_may_warn_of_adds_up() {
        let text = "[matrix]\ncpus = [1, 2]\n[[step]]\nrun = ['a']\n[[step]]\nrun = ['b']\n[[step.expect]]\nstatus = 3\n\
                    [[each-step]]\nerror-count = 0\n[[expect]]\nlog-warnings = []\n\
                    [[expect]]\nwhen = { cpus = ['2', '1'] }\nlog-warnings = ['x']\n";
        let scenario = parse(text).unwrap();
        let cells = scenario.cells().unwrap();
        let of = |at: usize| scenario.steps[at].expectation(&cells[0]).unwrap();
        assert_eq!((of(0).status, of(0).error_count), (None, Some(0)));
        assert_eq!((of(1).status, of(1).error_count), (Some(3), Some(0)));
        let allowed =
            |at: usize| scenario.expectation(&cells[at]).unwrap().log_warnings.map(|list| list.len());
        assert_eq!((allowed(0), allowed(1)), (Some(1), Some(1)));
    }
}
