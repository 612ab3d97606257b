//! Scenario files: what they may say, and reading them. The format is described at [`crate::suite`].

use super::expectation::{Expectation, StepExpectation};
use super::keys::{Keys, Number};
use super::matrix::{self, Axis, Cell};
use super::outcome::OutcomeRule;
use super::seeds::Seeds;
use super::source::{ScenarioError, Source, Wrong};
use super::text::{Text, text};
use crate::quantity::parse_seconds;
use crate::session::MemoryRange;
use serde::{Deserialize, Deserializer, de};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use toml::Spanned;

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
    #[serde(default, rename = "step", deserialize_with = "steps")]
    pub steps: Vec<Step>,
    /// What every step has to come to; they are given it when the file is read.
    #[serde(default)]
    each_step: Vec<Spanned<StepExpectation>>,
    #[serde(default, rename = "expect")]
    expectations: Vec<Spanned<Expectation>>,
    /// What its cases may come to, the first that applies.
    #[serde(default, rename = "outcome")]
    pub(super) outcomes: Vec<Spanned<OutcomeRule>>,
    /// The file.
    #[serde(skip)]
    origin: Source,
}

/// Something that runs in the guest.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Step {
    name: Option<Text>,
    /// Program and arguments.
    pub run: Option<Spanned<Vec<String>>>,
    /// A shell script instead.
    pub script: Option<Spanned<String>>,
    /// Guest seconds after which it is killed.
    #[serde(default)]
    pub timeout: Option<Deadline>,
    #[serde(default, rename = "expect")]
    expectations: Vec<StepExpectation>,
}

/// Steps, each with exactly one thing to run, which names it.
fn steps<'de, D: Deserializer<'de>>(input: D) -> Result<Vec<Step>, D::Error> {
    #[derive(Deserialize)]
    struct Checked(#[serde(deserialize_with = "step")] Step);
    fn step<'de, D: Deserializer<'de>>(input: D) -> Result<Step, D::Error> {
        let step = Step::deserialize(input)?;
        if step.run.is_none() && step.script.is_none() {
            return Err(de::Error::custom("a step has 'run' or 'script'"));
        }
        Ok(step)
    }
    Ok(Vec::<Checked>::deserialize(input)?.into_iter().map(|checked| checked.0).collect())
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
        false => Err(de::Error::custom(format!("the name '{name}': {}", matrix::NAMES))),
    }
}

/// Bytes of a file beyond which it is taken for something else.
const MOST: u64 = 4 << 20;
/// Cases of a scenario beyond which its cells or seeds are a mistake.
const MOST_CASES: usize = 100_000;

fn read_text(file: &Path) -> Result<String, String> {
    let mut bytes = Vec::new();
    // Opening a pipe would wait for somebody who writes to it.
    match std::fs::metadata(file) {
        Ok(metadata) if metadata.is_file() => {}
        Ok(_) => return Err("not a file".into()),
        Err(error) => return Err(error.to_string()),
    }
    let opened = File::open(file).map_err(|error| error.to_string())?;
    opened.take(MOST + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MOST {
        return Err(format!("longer than the {MOST} bytes that a scenario may have"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!("not a text in UTF-8: the byte at offset {at} is none")
    })
}

impl Scenario {
    /// Reads a scenario file.
    ///
    /// # Errors
    /// [`ScenarioError`] with the place.
    pub fn read(file: &Path) -> Result<Self, ScenarioError> {
        let whole = |reason: String| ScenarioError { file: file.to_owned(), line: None, reason };
        let text = read_text(file).map_err(whole)?;
        Self::parse(Source { file: file.to_owned(), text })
    }

    fn parse(origin: Source) -> Result<Self, ScenarioError> {
        let mut scenario: Self = toml::from_str(&origin.text).map_err(|error| {
            origin.error(Wrong { span: error.span(), reason: error.message().trim_end().to_owned() })
        })?;
        if scenario.name.is_empty() {
            let stem = origin.file.file_stem().unwrap_or_default().to_string_lossy();
            scenario.name = matrix::plain(&stem);
        }
        for step in &mut scenario.steps {
            step.expectations.extend(scenario.each_step.iter().map(|one| one.get_ref().clone()));
        }
        scenario.origin = origin;
        scenario.check().map_err(|wrong| scenario.origin.error(wrong))?;
        Ok(scenario)
    }

    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.origin.file
    }

    /// The folder that relative paths start from.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.file().parent().unwrap_or(Path::new(""))
    }

    /// An error about the `value` of the guest's `key`, where the file has it.
    #[must_use]
    pub fn error_at(&self, key: &str, value: &str, reason: &str) -> ScenarioError {
        let reason = format!("{key}: {reason}");
        self.origin.error(Wrong { span: self.origin.find(key, Some(value)), reason })
    }

    /// Every cell can be had, and something is expected in each of them, but not two things at once.
    fn check(&self) -> Result<(), Wrong> {
        self.steps.iter().try_for_each(Step::check)?;
        if let Some(each) = self.each_step.first().filter(|_| self.steps.is_empty()) {
            return Err(Wrong::at(each.span(), "each-step: there is no step"));
        }
        let axes = matrix::axes(&self.matrix)?;
        let conditions = self.expectations.iter().filter_map(|one| one.get_ref().when.as_ref());
        let of_steps =
            self.steps.iter().flat_map(|step| step.expectations.iter().filter_map(|one| one.when.as_ref()));
        let of_outcomes = self.outcomes.iter().filter_map(|rule| rule.get_ref().when.as_ref());
        for condition in conditions.chain(of_steps).chain(of_outcomes).chain(&self.exclude) {
            matrix::check_condition(&axes, condition.get_ref())
                .map_err(|reason| Wrong::at(condition.span(), reason))?;
        }
        self.check_outcomes()?;
        let cells = self.cells()?;
        self.check_count(&cells, &self.seeds)?;
        for cell in &cells {
            self.check_cell(cell).map_err(|wrong| match cell.name.as_str() {
                "" => wrong,
                name => wrong.of(name),
            })?;
        }
        Ok(())
    }

    /// Each outcome is known by something, in a step that there is.
    fn check_outcomes(&self) -> Result<(), Wrong> {
        for rule in &self.outcomes {
            let wrong = |reason: String| Err(Wrong::at(rule.span(), reason));
            if !rule.get_ref().looks_at_something() {
                return wrong("outcome: nothing says by what it is known".into());
            }
            match &rule.get_ref().step {
                Some(step) if !self.steps.iter().any(|one| one.name() == step.0) => {
                    return wrong(format!("outcome: no step is called '{}'", step.0));
                }
                None if self.steps.is_empty() => return wrong("outcome: there is no step to look at".into()),
                _ => {}
            }
        }
        let expected = self.expectations.iter().find(|one| one.get_ref().outcome.is_some());
        match expected {
            Some(one) if self.outcomes.is_empty() => {
                Err(Wrong::at(one.span(), "outcome: nothing says what outcomes there are ([[outcome]])"))
            }
            _ => Ok(()),
        }
    }

    fn check_count(&self, cells: &[Cell], seeds: &Seeds) -> Result<(), Wrong> {
        let (cells, seeds) = (cells.len(), seeds.0.len());
        match cells.saturating_mul(seeds) {
            count if count > MOST_CASES => Err(Wrong {
                span: self.origin.place("seeds").or_else(|| self.origin.place("matrix")),
                reason: format!(
                    "{cells} cells with {seeds} seeds each are {count} cases, more than {MOST_CASES}"
                ),
            }),
            _ => Ok(()),
        }
    }

    /// The same with other seeds.
    ///
    /// # Errors
    /// [`ScenarioError`] if that makes too many cases.
    pub fn with_seeds(self, seeds: Seeds) -> Result<Self, ScenarioError> {
        let cells = self.cells().map_err(|wrong| self.origin.error(wrong))?;
        self.check_count(&cells, &seeds).map_err(|wrong| self.origin.error(wrong))?;
        Ok(Self { seeds, ..self })
    }

    fn check_cell(&self, cell: &Cell) -> Result<(), Wrong> {
        if cell.guest.restore.is_some() {
            self.check_restored(cell)?;
        }
        let run = self.expectation(cell)?;
        if self.steps.is_empty() && !run.says_something() {
            return Err(Wrong::somewhere(
                "nothing runs in the guest and nothing is expected: this could not fail",
            ));
        }
        for step in &self.steps {
            step.expectation(cell).map_err(|wrong| wrong.of(format_args!("step {}", step.name())))?;
        }
        Ok(())
    }

    fn check_restored(&self, cell: &Cell) -> Result<(), Wrong> {
        if let Some(key) = cell.guest.fixed_by_restore() {
            let reason = format!("{key}: a machine that is restored is what it was when it was saved");
            return Err(Wrong { span: self.origin.find(key, None), reason });
        }
        if self.steps.is_empty() {
            let reason = "restore: a saved machine waits to be told what to run: there is no step".into();
            return Err(Wrong { span: self.origin.find("restore", None), reason });
        }
        Ok(())
    }

    /// The cells of the matrix, one if there is none.
    ///
    /// # Errors
    /// The place in the file and the reason.
    pub(super) fn cells(&self) -> Result<Vec<Cell>, Wrong> {
        matrix::cells(&self.guest, &self.matrix, &self.exclude)
    }

    /// What the run of `cell` has to come to.
    ///
    /// # Errors
    /// If two expectations contradict each other, or one needs a step where there is none.
    pub(super) fn expectation(&self, cell: &Cell) -> Result<Expectation, Wrong> {
        let mut all = Expectation::default();
        for one in self.expectations.iter().filter(|one| cell.is_in(one.get_ref().when.as_ref())) {
            if self.steps.is_empty() && one.get_ref().asks_the_guest() {
                return Err(Wrong::at(
                    one.span(),
                    "log, log-warnings, dma-debug and error-count need a step: without one nothing asks the guest",
                ));
            }
            all.add(one.get_ref())?;
        }
        Ok(all)
    }

    /// Whether the run of `cell` needs the kernel's log.
    #[must_use]
    pub fn wants_log(&self, cell: &Cell) -> bool {
        self.expectation(cell).is_ok_and(|expected| expected.wants_log())
            || self.outcomes.iter().any(|rule| rule.get_ref().wants_log())
    }

    /// The memory that is compared at the end of the run of `cell`.
    #[must_use]
    pub fn memory(&self, cell: &Cell) -> Vec<MemoryRange> {
        let expected = self.expectation(cell).unwrap_or_default();
        expected.memory.iter().map(|contents| contents.get_ref().range()).collect()
    }
}

impl Step {
    /// Whether what it runs is something.
    fn check(&self) -> Result<(), Wrong> {
        match (&self.run, &self.script) {
            (Some(run), Some(_)) => {
                Err(Wrong::at(run.span(), "a step has either 'run' or 'script', not both"))
            }
            (Some(run), None) if run.get_ref().first().is_none_or(String::is_empty) => {
                Err(Wrong::at(run.span(), "run: no program is named"))
            }
            (Some(run), None) if run.get_ref().iter().any(|word| word.contains('\0')) => {
                Err(Wrong::at(run.span(), "run: no argument can have a NUL in it"))
            }
            (None, Some(script)) if script.get_ref().contains('\0') => {
                Err(Wrong::at(script.span(), "a script cannot have a NUL in it"))
            }
            (None, Some(script)) if script.get_ref().trim().is_empty() => {
                Err(Wrong::at(script.span(), "the script is empty"))
            }
            _ => Ok(()),
        }
    }

    /// Its name: the program, or the script's first line, unless it has one of its own.
    #[must_use]
    pub fn name(&self) -> &str {
        let script = self.script.iter().flat_map(|script| script.get_ref().lines());
        let program = self.run.iter().filter_map(|run| run.get_ref().first().map(String::as_str));
        let own = self.name.iter().map(|name| name.0.as_str());
        own.chain(program).chain(script).map(str::trim).find(|name| !name.is_empty()).unwrap_or_default()
    }

    /// What the step has to come to in `cell`.
    ///
    /// # Errors
    /// If two expectations contradict each other.
    pub(super) fn expectation(&self, cell: &Cell) -> Result<StepExpectation, Wrong> {
        let mut all = StepExpectation::default();
        for one in self.expectations.iter().filter(|one| cell.is_in(one.when.as_ref())) {
            all.add(one)?;
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "bug = 'b'\nsource = 's'\n";

    fn parse(text: &str) -> Result<Scenario, String> {
        parse_all("dir/x.toml", &format!("{HEAD}{text}"))
    }

    fn parse_all(file: &str, text: &str) -> Result<Scenario, String> {
        let origin = Source { file: file.into(), text: text.into() };
        Scenario::parse(origin).map_err(|error| error.to_string())
    }

    #[test]
    fn a_scenario_is_named_by_its_file_or_itself() {
        let scenario = parse("[[step]]\nrun = ['true']").unwrap();
        assert_eq!((&*scenario.name, scenario.steps[0].name()), ("x", "true"));
        assert_eq!(scenario.folder(), Path::new("dir"));
        assert_eq!(parse("name = 'y'\n[[step]]\nscript = \"\\n true\"").unwrap().name, "y");
    }

    #[test]
    fn the_documented_scenario_can_be_read() {
        let documentation = include_str!("../../../ci/suites/README.md");
        let text = documentation.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let scenario = parse_all("x.toml", text).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((scenario.cells().unwrap().len(), scenario.steps.len()), (3, 1));
    }

    #[test]
    fn errors_name_file_and_line() {
        let error = |text: &str| parse(text).unwrap_err();
        for (text, expected) in [
            ("bogus = 1", "dir/x.toml:3:1: unknown field `bogus`"),
            ("name = 'a b'", "dir/x.toml:3:8: the name 'a b'"),
            ("[guest]\nmemory = '512'", "dir/x.toml:4:10: memory: a size needs a unit"),
            ("[guest]\ncpus = 9", "dir/x.toml:4:8: "),
            ("[guest]\ndevices = [\n'mlx5',\n  'e1000']", "dir/x.toml:6:3: unknown device 'e1000'"),
            ("[guest]\nfiles = ['a',\n'']", "dir/x.toml:5:1: '': name the guest's path"),
            ("[guest]\nmodules = ['a',\n5]", "dir/x.toml:5:1: invalid type: integer"),
            (
                "[guest]\nrestore = 'f'\nmemory = '1G'\n[[step]]\nrun = ['a']",
                "dir/x.toml:5:10: memory: a machine that is restored",
            ),
            (
                "[guest]\nrestore = 'f'\n[matrix]\na = { b = { files = ['f'] } }\n[[step]]\nrun = ['a']",
                "dir/x.toml:6:21: a=b: files: a machine that is restored",
            ),
            (
                "[guest]\nrestore = 'f'\n[[expect]]\nstatus = 0",
                "dir/x.toml:4:11: restore: a saved machine waits",
            ),
            ("[guest]\nfiles = ['a',\n'b:c']", "dir/x.toml:5:1: 'b:c': the guest's path begins with /"),
            ("seeds = '5..1'", "dir/x.toml:3:9: "),
            ("deadline = 0", "dir/x.toml:3:12: not a positive number of seconds"),
            ("[[step]]\nrun = []", "dir/x.toml:4:7: run: no program"),
            ("[[step]]\nrun = ['a']\nscript = 'b'", "dir/x.toml:4:7: a step has either"),
            ("[[step]]\nrun = ['a']\n[[step]]\nname = 'n'", "dir/x.toml:5:1: a step has 'run' or 'script'"),
            ("[[step]]\nrun = ['a',\n 5]", "dir/x.toml:5:2: invalid type: integer"),
            ("[[step]]\nscript = ' '", "dir/x.toml:4:10: the script is empty"),
            (
                "[[step]]\nrun = ['a']\n[[step.expect]]\nstatus = 1\n[[step.expect]]\nstatus = 1",
                "dir/x.toml:8:10: step a: two expectations state 'status'",
            ),
            ("[[step]]\nrun = ['a']\n[[step.expect]]\noutput = ['x',\n'']", "dir/x.toml:7:1: an empty text"),
            (
                "[[step]]\nrun = ['a']\n[[expect]]\ndma-debug = ['x',\n'']",
                "dir/x.toml:7:1: must not be empty",
            ),
            ("[[step]]\nrun = ['a']\n[[step.expect]]\noutput = [{ regex = '(' }]", "dir/x.toml:6:"),
            ("[[expect]]\ncause = 'boredom'", "dir/x.toml:4:9: no run ends by 'boredom' (causes: exited"),
            ("[[expect]]\nfindings = [{ kind = 'stale' }]", "dir/x.toml:4:"),
            (
                "[[expect]]\nmemory = [{ address = 0, bytes = '00' },\n{ address = 1, bytes = '0' }]",
                "dir/x.toml:5:24: not bytes in hexadecimal",
            ),
            (
                "[[expect]]\nmemory = [{ address = 0, bytes = '0011' },\n{ address = 1, bytes = '12' }]",
                "dir/x.toml:5:1: two expectations state different bytes at 0x1",
            ),
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
            ("[[each-step]]\nstatus = 1", "dir/x.toml:3:1: each-step: there is no step"),
            (
                "[[step]]\nrun = ['a']\n[[step.expect]]\nstatus = 1\n[[each-step]]\nstatus = 1",
                "dir/x.toml:8:10: step a: two expectations state 'status'",
            ),
            (
                "[[expect]]\nstatus = 1\n[[expect]]\nstatus = 2",
                "dir/x.toml:6:10: two expectations state 'status'",
            ),
            ("[guest]\ncpus = 1", "dir/x.toml: nothing runs in the guest and nothing is expected"),
            (
                "[[expect]]\nstatus = 1\nerror-count = 1",
                "dir/x.toml:3:1: log, log-warnings, dma-debug and error-count need a step",
            ),
            ("[matrix]\ncpus = []", "dir/x.toml:4:8: axis 'cpus' has no values"),
            ("[matrix]\ncolour = ['red']", "dir/x.toml:4:11: axis 'colour'"),
            ("[matrix]\ncpus = [1,\n 2,\n 1]", "dir/x.toml:6:2: axis 'cpus' has the value '1' twice"),
            (
                "[matrix]\ncpus = [1]\nx = { y = { cpus = 2 } }",
                "dir/x.toml:5:5: axes 'cpus' and 'x' both set 'cpus'",
            ),
            ("[matrix]\na = { b = { memory = '1X' } }", "dir/x.toml:4:22: memory: "),
        ] {
            assert!(error(text).contains(expected), "{text}: {}", error(text));
        }
        let unnamed = parse_all("x", "bug = ' '\nsource = 's'").unwrap_err();
        assert_eq!(unnamed, "x:1:7: must not be empty");
        assert!(parse_all("x", "source = 's'").unwrap_err().contains("bug"));
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
        let status = |at: usize| of(at).status.map(Spanned::into_inner);
        assert_eq!((status(0), of(0).output.len()), (None, 1));
        assert_eq!((status(1), of(1).output.len()), (Some(3), 2));
    }

    #[test]
    fn what_holds_for_each_step_and_what_logs_may_warn_of_adds_up() {
        let text = "[matrix]\ncpus = [1, 2]\n[[step]]\nrun = ['a']\n[[step]]\nrun = ['b']\n[[step.expect]]\nstatus = 3\n\
                    [[each-step]]\nerror-count = 0\n[[expect]]\nlog-warnings = []\n\
                    [[expect]]\nwhen = { cpus = ['2', '1'] }\nlog-warnings = ['x']\n";
        let scenario = parse(text).unwrap();
        let cells = scenario.cells().unwrap();
        let of = |at: usize| {
            let all = scenario.steps[at].expectation(&cells[0]).unwrap();
            (all.status.map(Spanned::into_inner), all.error_count.map(Spanned::into_inner))
        };
        assert_eq!((of(0), of(1)), ((None, Some(0)), (Some(3), Some(0))));
        let allowed =
            |at: usize| scenario.expectation(&cells[at]).unwrap().log_warnings.map(|list| list.len());
        assert_eq!((allowed(0), allowed(1)), (Some(1), Some(1)));
    }
}
