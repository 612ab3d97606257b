//! Reproductions that are a matrix: scenarios on several platforms and kernels, told as one table.

use super::CatalogueError;
use crate::suite::results::{CaseResult, ScenarioResult, Verdict};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write;

/// The axes of the scenarios that make columns, and groups of rows.
const COLUMN_AXIS: &str = "kernel";
const GROUP_AXIS: &str = "platform";

/// A matrix and its scenarios: names and texts of files.
#[derive(Debug, Clone)]
pub struct Matrix {
    pub spec: Spec,
    pub scenarios: &'static [(&'static str, &'static str)],
}

/// What its table is like.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    pub name: String,
    /// One line for lists.
    pub summary: String,
    /// What it takes with all images built, minutes, rounded up.
    pub minutes: u32,
    pub column: Vec<Column>,
    group: Vec<Group>,
    row: Vec<Row>,
    /// Cells that its scenarios do not have.
    #[serde(default)]
    missing: Vec<Missing>,
}

/// A column of the table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    pub title: String,
    /// Values of the axis that are in it, and the image of each.
    pub kernels: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    platform: String,
    title: String,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    scenario: String,
    title: String,
}

/// Cells that cannot be had.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Missing {
    platform: String,
    /// Title of the column.
    column: String,
    scenarios: Vec<String>,
    why: String,
}

macro_rules! scenarios {
    ($folder:literal: $($name:literal),* $(,)?) => {
        &[$((concat!($name, ".toml"), include_str!(concat!("catalogue/", $folder, "/", $name, ".toml")))),*]
    };
}

/// Every matrix: its table, its scenarios.
const MATRICES: &[(&str, &[(&str, &str)])] = &[(
    include_str!("catalogue/require-coherent.toml"),
    scenarios!("require-coherent":
        "dmalab-clflush",
        "dmalab-sync",
        "kverbs",
        "nine-maps",
        "nine-maps-ignored",
        "nine-maps-require-coherent",
        "nine-registrations",
        "peer-atomic",
        "peer-read",
        "peer-write",
        "two-registrations",
        "virtio-input",
    ),
)];

/// All matrices.
///
/// # Errors
/// [`CatalogueError::Malformed`] if a file built into staleline cannot be read.
pub fn matrices() -> Result<Vec<Matrix>, CatalogueError> {
    let parse = |&(text, scenarios): &(&str, _)| match toml::from_str(text) {
        Ok(spec) => Ok(Matrix { spec, scenarios }),
        Err(error) => Err(CatalogueError::Malformed { file: "a matrix".into(), reason: error.to_string() }),
    };
    MATRICES.iter().map(parse).collect()
}

/// What became of a cell's cases.
enum Tally<'a> {
    /// Some were to be run.
    Cases(Vec<&'a CaseResult>),
    /// It cannot be had, for this reason.
    Missing(&'a str),
    /// The matrix has no such cell.
    Absent,
}

/// How a matrix has come out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Count {
    pub expected: usize,
    pub unexpected: usize,
    pub not_run: usize,
    /// Cells that cannot be had, as the matrix itself says.
    pub missing: usize,
}

impl Count {
    fn add(&mut self, cases: &[&CaseResult]) {
        let all = |verdict| cases.iter().all(|case| case.verdict == verdict);
        let ran = |case: &&&CaseResult| {
            !matches!(case.verdict, Verdict::Passed | Verdict::NotRun | Verdict::Unavailable | Verdict::Error)
        };
        if all(Verdict::Passed) {
            self.expected += 1;
        } else if cases.iter().any(|case| ran(&case)) {
            self.unexpected += 1;
        } else {
            self.not_run += 1;
        }
    }
}

/// The table, and how many of its cells are as expected. `kernels` has the version of each column.
#[must_use]
pub fn render_matrix(matrix: &Spec, results: &[ScenarioResult], kernels: &[String]) -> (String, Count) {
    let mut count = Count::default();
    let mut notes: Vec<String> = Vec::new();
    let mut lines: Vec<Vec<String>> = Vec::new();
    let heads = matrix.column.iter().zip(kernels).map(|(column, version)| match version.as_str() {
        "" => column.title.clone(),
        version => version.to_owned(),
    });
    lines.push([String::new(), String::new()].into_iter().chain(heads).collect());
    for group in &matrix.group {
        let mut title = group.title.clone();
        for row in &matrix.row {
            let cells: Vec<_> =
                matrix.column.iter().map(|column| tally(matrix, results, group, row, column)).collect();
            if cells.iter().all(|cell| matches!(cell, Tally::Absent)) {
                continue;
            }
            let mut line = vec![std::mem::take(&mut title), row.title.clone()];
            for cell in &cells {
                line.push(match cell {
                    Tally::Absent => "-".into(),
                    Tally::Missing(why) => {
                        count.missing += 1;
                        format!("not-run {}", noted((*why).to_owned(), &mut notes))
                    }
                    Tally::Cases(cases) => {
                        count.add(cases);
                        told(cases, &mut notes)
                    }
                });
            }
            lines.push(line);
        }
    }
    let mut text = columns(&lines);
    text.push('\n');
    for (number, note) in notes.iter().enumerate() {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:>4} {note}", format!("[{}]", mark(number)));
    }
    let Count { expected, unexpected, not_run, missing } = count;
    let not_run = not_run + missing;
    let _ = writeln!(text, "\n{expected} cells as expected, {unexpected} not, {not_run} not run");
    (text, count)
}

fn tally<'a>(
    matrix: &'a Spec,
    results: &'a [ScenarioResult],
    group: &Group,
    row: &Row,
    column: &Column,
) -> Tally<'a> {
    let of_row = results.iter().filter(|result| result.name == row.scenario);
    let is_at = |case: &&CaseResult| {
        case.cell.get(GROUP_AXIS) == Some(&group.platform)
            && case.cell.get(COLUMN_AXIS).is_some_and(|kernel| column.kernels.contains_key(kernel))
    };
    let cases: Vec<_> = of_row.flat_map(|result| &result.cases).filter(is_at).collect();
    let is_here = |missing: &&Missing| {
        missing.platform == group.platform
            && missing.column == column.title
            && missing.scenarios.contains(&row.scenario)
    };
    match matrix.missing.iter().find(is_here) {
        _ if !cases.is_empty() => Tally::Cases(cases),
        Some(missing) => Tally::Missing(&missing.why),
        None => Tally::Absent,
    }
}

/// What cases have come to, by how many seeds, and the mark of the note that says why that is expected, or what is.
fn told(cases: &[&CaseResult], notes: &mut Vec<String>) -> String {
    let mut names: BTreeMap<&str, usize> = BTreeMap::new();
    for case in cases {
        let name = match (case.verdict, case.outcome.as_deref()) {
            (Verdict::NotRun | Verdict::Unavailable | Verdict::Error, _) => "not-run",
            (_, Some(outcome)) => outcome,
            (_, None) => "unlike any outcome",
        };
        *names.entry(name).or_default() += 1;
    }
    let all = cases.len();
    let counted = names.iter().map(|(name, count)| match all {
        1 => (*name).to_owned(),
        _ => format!("{name} {count}/{all}"),
    });
    let mut text = counted.collect::<Vec<_>>().join(", ");
    let why = cases.iter().find_map(|case| case.why.clone());
    let wrong = cases.iter().find(|case| case.verdict != Verdict::Passed);
    let note = match wrong {
        None => why,
        Some(case) => {
            text.push_str(" !");
            let problems = case.problems().join("; ");
            Some(format!("NOT as expected: {}: {problems}", case.id))
        }
    };
    if let Some(note) = note {
        let _ = write!(text, " {}", noted(note, notes));
    }
    text
}

/// The mark of a note: of the same one if it has been made before.
fn noted(note: String, notes: &mut Vec<String>) -> String {
    let at = notes.iter().position(|known| *known == note).unwrap_or_else(|| {
        notes.push(note);
        notes.len() - 1
    });
    format!("[{}]", mark(at))
}

/// a to z, then numbers.
fn mark(number: usize) -> String {
    let letter = u8::try_from(number).ok().filter(|number| *number < 26);
    letter.map_or_else(|| (number + 1).to_string(), |number| char::from(b'a' + number).to_string())
}

/// Lines of cells, each column as wide as its widest.
fn columns(lines: &[Vec<String>]) -> String {
    let width = |at: usize| {
        lines.iter().filter_map(|line| line.get(at)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..lines.iter().map(Vec::len).max().unwrap_or(0)).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        let _ = writeln!(text, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn case(scenario: &str, kernel: &str, verdict: Verdict, outcome: Option<&str>, seed: u64) -> CaseResult {
        CaseResult {
            id: format!("{scenario}/kernel={kernel},platform=coherent/seed-{seed}"),
            seed,
            cell: [("kernel".into(), kernel.into()), ("platform".into(), "coherent".into())].into(),
            verdict,
            reason: None,
            checks: Vec::new(),
            outcome: outcome.map(str::to_owned),
            expected_outcome: Some("ok".into()),
            why: Some("it snoops".into()),
            ended: None,
            command: None,
            artefacts: None,
        }
    }

    #[test]
    fn the_table_says_what_came_of_each_cell_and_why() {
        let matrix = matrices().unwrap().remove(0).spec;
        let scenario = |name: &str, cases| ScenarioResult {
            name: name.into(),
            file: "x".into(),
            bug: String::new(),
            source: String::new(),
            error: None,
            cases,
        };
        let results = [
            scenario(
                "peer-write",
                vec![
                    case("peer-write", "6.12", Verdict::Passed, Some("ok"), 1),
                    case("peer-write", "7.2", Verdict::Failed, Some("LOST"), 1),
                    case("peer-write", "7.2", Verdict::Passed, Some("ok"), 2),
                ],
            ),
            scenario("kverbs", vec![case("kverbs", "6.12", Verdict::Unavailable, None, 1)]),
        ];
        let (text, count) = render_matrix(&matrix, &results, &["6.12.1".into(), String::new()]);
        assert_eq!(count, Count { expected: 1, unexpected: 1, not_run: 1, missing: 4 });
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert!(lines[0].contains("6.12.1") && lines[0].contains("Linux 7.2"), "{text}");
        assert!(lines[1].starts_with("coherent  peer WRITE") && lines[1].contains("ok [a]"), "{text}");
        assert!(lines[1].ends_with("LOST 1/2, ok 1/2 ! [b]"), "{text}");
        assert!(
            lines[2].contains("kverbs") && lines[2].contains("not-run ! [c]") && lines[2].ends_with('-'),
            "{text}"
        );
        assert!(
            text.contains("[a] it snoops") && text.contains("1 cells as expected, 1 not, 5 not run"),
            "{text}"
        );
    }

    #[test]
    fn every_scenario_has_a_row_and_every_row_a_scenario() {
        for Matrix { spec, scenarios } in matrices().unwrap() {
            let mut names: Vec<_> =
                scenarios.iter().map(|(file, _)| file.trim_end_matches(".toml")).collect();
            let mut rows: Vec<_> = spec.row.iter().map(|row| row.scenario.as_str()).collect();
            names.sort_unstable();
            rows.sort_unstable();
            assert_eq!(names, rows);
        }
    }
}
