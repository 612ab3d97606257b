//! KTAP version 1 (Documentation/dev-tools/ktap.rst of Linux), nested: scenarios, cases, checks.

use crate::suite::results::{CaseResult, Check, ScenarioResult, Verdict};
use std::fmt::Write;

const VERSION: &str = "KTAP version 1";

pub(super) fn render(results: &[ScenarioResult]) -> String {
    let mut report = Lines::default();
    report.line(0, VERSION);
    report.line(0, &format!("1..{}", results.len()));
    for (number, scenario) in (1..).zip(results) {
        if let Some(error) = &scenario.error {
            report.diagnose(0, error);
            report.result(0, false, number, &scenario.name, "ERROR");
            continue;
        }
        report.line(1, VERSION);
        report.line(1, &format!("# Subtest: {}", plain(&scenario.name)));
        report.diagnose(1, &format!("bug: {}", scenario.bug));
        report.diagnose(1, &format!("source: {}", scenario.source));
        report.line(1, &format!("1..{}", scenario.cases.len()));
        for (number, case) in (1..).zip(&scenario.cases) {
            report.case(number, case);
        }
        let directive = if scenario.is_skipped() { "SKIP" } else { "" };
        report.result(0, !scenario.fails(), number, &scenario.name, directive);
    }
    report.0
}

#[derive(Default)]
struct Lines(String);

impl Lines {
    /// A line at a depth of nesting, two blanks each.
    fn line(&mut self, depth: usize, text: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "{:1$}{text}", "", 2 * depth);
    }

    /// Diagnostics: whatever `text` is, it stays in comments.
    fn diagnose(&mut self, depth: usize, text: &str) {
        for line in text.lines() {
            self.line(depth, &format!("# {}", printable(line)));
        }
    }

    fn result(&mut self, depth: usize, ok: bool, number: usize, name: &str, directive: &str) {
        let ok = if ok { "ok" } else { "not ok" };
        let directive = if directive.is_empty() { String::new() } else { format!(" # {directive}") };
        self.line(depth, &format!("{ok} {number} {}{directive}", plain(name)));
    }

    fn case(&mut self, number: usize, case: &CaseResult) {
        if !case.checks.is_empty() && case.verdict != Verdict::NotRun {
            self.line(2, VERSION);
            self.line(2, &format!("# Subtest: {}", plain(&case.id)));
            self.line(2, &format!("1..{}", case.checks.len()));
            for (number, Check { name, problems }) in (1..).zip(&case.checks) {
                problems.iter().for_each(|problem| self.diagnose(2, problem));
                self.result(2, problems.is_empty(), number, name, "");
            }
        }
        if let Some(outcome) = &case.outcome {
            self.diagnose(1, &format!("outcome: {outcome}"));
        }
        let reason = case.reason.as_deref().unwrap_or_default();
        if case.verdict != Verdict::Passed {
            self.diagnose(1, reason);
            if let Some(command) = &case.command {
                self.diagnose(1, &format!("again: {command}"));
            }
            if let Some(folder) = &case.artefacts {
                self.diagnose(1, &format!("artefacts: {}", folder.display()));
            }
        }
        let short = plain(reason.lines().next().unwrap_or_default());
        let (ok, directive) = match case.verdict {
            Verdict::Passed => (true, String::new()),
            Verdict::Failed => (false, String::new()),
            Verdict::TimedOut => (false, "TIMEOUT".to_owned()),
            Verdict::Error => (false, "ERROR".to_owned()),
            Verdict::Unavailable | Verdict::NotRun => (true, format!("SKIP {short}")),
        };
        self.result(1, ok, number, &case.id, directive.trim_end());
    }
}

fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

/// A description without what would begin a directive.
fn plain(text: &str) -> String {
    printable(text).replace('#', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::report::samples;

    /// A test as a strict reader of KTAP finds it.
    #[derive(Debug, PartialEq, Eq)]
    struct Test {
        ok: bool,
        name: String,
        directive: String,
        subtests: Vec<Test>,
    }

    /// Reads a whole report at the nesting `depth`: version, plan, as many results as planned, in order.
    fn read(lines: &mut std::iter::Peekable<std::str::Lines<'_>>, depth: usize) -> Vec<Test> {
        let indent = "  ".repeat(depth);
        let deeper = format!("{indent}  ");
        let own =
            |line: &str| line.strip_prefix(&*indent).filter(|rest| !rest.starts_with(' ')).map(str::to_owned);
        let mut next = |lines: &mut std::iter::Peekable<std::str::Lines<'_>>| {
            let line = lines.next().expect("the report goes on");
            own(line).unwrap_or_else(|| panic!("not at depth {depth}: {line}"))
        };
        assert_eq!(next(lines), VERSION);
        let mut line = next(lines);
        while line.starts_with("# ") {
            line = next(lines);
        }
        let planned: usize = line.strip_prefix("1..").expect("a plan").parse().expect("a number");
        let mut tests = Vec::new();
        while tests.len() < planned {
            if lines.peek().is_some_and(|line| **line == format!("{deeper}{VERSION}")) {
                let subtests = read(lines, depth + 1);
                let mut test = result(lines, &mut next, tests.len() + 1);
                test.subtests = subtests;
                tests.push(test);
            } else {
                tests.push(result(lines, &mut next, tests.len() + 1));
            }
        }
        tests
    }

    type Next<'a> = &'a mut dyn FnMut(&mut std::iter::Peekable<std::str::Lines<'_>>) -> String;

    /// A result line after any number of diagnostics.
    fn result(lines: &mut std::iter::Peekable<std::str::Lines<'_>>, next: Next<'_>, number: usize) -> Test {
        let mut line = next(lines);
        while line.starts_with("# ") {
            line = next(lines);
        }
        let (ok, rest) = match (line.strip_prefix("ok "), line.strip_prefix("not ok ")) {
            (Some(rest), _) => (true, rest),
            (_, Some(rest)) => (false, rest),
            _ => panic!("no result: {line}"),
        };
        let rest = rest.strip_prefix(&format!("{number} ")).unwrap_or_else(|| panic!("not {number}: {line}"));
        let (name, directive) = rest.split_once(" # ").unwrap_or((rest, ""));
        Test { ok, name: name.into(), directive: directive.into(), subtests: Vec::new() }
    }

    #[test]
    fn a_strict_reader_finds_every_test() {
        let text = render(&samples::results());
        let mut lines = text.lines().peekable();
        let tests = read(&mut lines, 0);
        assert_eq!(lines.next(), None, "{text}");
        let shape = |tests: &[Test]| {
            tests.iter().map(|test| (test.ok, test.name.clone(), test.directive.clone())).collect::<Vec<_>>()
        };
        let of = |ok, name: &str, directive: &str| (ok, name.to_owned(), directive.to_owned());
        assert_eq!(shape(&tests), [of(false, "one", ""), of(false, "b", "ERROR")]);
        assert_eq!(
            shape(&tests[0].subtests),
            [
                of(true, "one/a=1/seed-1", ""),
                of(false, "one/a=2/seed-1", ""),
                of(false, "one/a=3/seed-1", "TIMEOUT"),
                of(false, "one/a=4/seed-1", "ERROR"),
                of(true, "one/a=5/seed-1", "SKIP no such package"),
                of(true, "one/a=6/seed-1", "SKIP interrupted"),
            ]
        );
        let checks = &tests[0].subtests[1].subtests;
        assert_eq!(shape(checks), [of(true, "run", ""), of(false, "sh -c 'echo _ not ok 1'", "")]);
        // A guest's text cannot be taken for a result.
        assert!(text.lines().all(|line| !line.trim_start().starts_with("ok 99")), "{text}");
    }
}
