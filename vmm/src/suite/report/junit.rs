//! JUnit XML.

use crate::suite::results::{CaseResult, ScenarioResult, Verdict};
use anyhow::Result;
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};

pub(super) fn render(results: &[ScenarioResult]) -> Result<String> {
    let mut report = Report::new("staleline");
    for scenario in results {
        let mut suite = TestSuite::new(&*scenario.name);
        suite.add_property(("file", &*scenario.file.to_string_lossy()));
        if scenario.error.is_none() {
            suite.add_property(("bug", &*scenario.bug));
            suite.add_property(("source", &*scenario.source));
        }
        if let Some(error) = &scenario.error {
            let mut case =
                TestCase::new("scenario", non_success(NonSuccessKind::Error, "scenario", error, error));
            case.set_classname(&*scenario.name);
            suite.add_test_case(case);
        }
        suite.add_test_cases(scenario.cases.iter().map(|case| test_case(scenario, case)));
        report.add_test_suite(suite);
    }
    Ok(report.to_string()?)
}

fn test_case(scenario: &ScenarioResult, case: &CaseResult) -> TestCase {
    let problems = case.problems();
    let first = problems.first().map_or("", String::as_str);
    let all = problems.join("\n");
    let status = match case.verdict {
        Verdict::Passed => TestCaseStatus::success(),
        Verdict::Failed => non_success(NonSuccessKind::Failure, "failed", first, &all),
        Verdict::TimedOut => non_success(NonSuccessKind::Failure, "timed-out", first, &all),
        Verdict::Error => non_success(NonSuccessKind::Error, "error", first, &all),
        Verdict::Unavailable | Verdict::NotRun => {
            let mut status = TestCaseStatus::skipped();
            status.set_message(first);
            status
        }
    };
    let mut test = TestCase::new(&*case.id, status);
    test.set_classname(&*scenario.name);
    // The guest's time: a report does not depend on the host.
    test.set_time(case.virtual_time());
    test.set_assertions(case.checks.len());
    // Not every schema allows a test case to have properties.
    let command = case.command.as_ref().map(|command| format!("again: {command}\n"));
    let folder = case.artefacts.as_ref().map(|folder| format!("artefacts: {}\n", folder.display()));
    let text: String = command.into_iter().chain(folder).collect();
    if !text.is_empty() {
        test.set_system_out(text);
    }
    test
}

fn non_success(kind: NonSuccessKind, name: &str, message: &str, text: &str) -> TestCaseStatus {
    let mut status = TestCaseStatus::non_success(kind);
    status.set_type(name).set_message(message).set_description(text);
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::report::samples;
    use roxmltree::{Document, Node};

    fn child<'a>(node: Node<'a, 'a>, name: &str) -> Option<Node<'a, 'a>> {
        node.children().find(|child| child.has_tag_name(name))
    }

    #[test]
    fn a_reader_of_xml_finds_every_case() {
        let text = render(&samples::results()).unwrap();
        let document = Document::parse(&text).unwrap();
        let root = document.root_element();
        assert!(root.has_tag_name("testsuites"));
        let counts = ["tests", "failures", "errors"].map(|name| root.attribute(name).unwrap());
        assert_eq!(counts, ["7", "2", "2"]);
        let suites: Vec<_> = root.children().filter(|node| node.has_tag_name("testsuite")).collect();
        assert_eq!(suites.len(), 2);
        let cases: Vec<_> = suites[0].children().filter(|node| node.has_tag_name("testcase")).collect();
        let what = |case: &Node<'_, '_>| {
            let kind = case
                .children()
                .find(|node| ["failure", "error", "skipped"].iter().any(|name| node.has_tag_name(*name)));
            kind.map_or("ok".to_owned(), |node| node.tag_name().name().to_owned())
        };
        let kinds: Vec<_> = cases.iter().map(what).collect();
        assert_eq!(kinds, ["ok", "failure", "failure", "error", "skipped", "skipped"]);
        let failed = cases[1];
        assert_eq!(failed.attribute("name"), Some("one/a=2/seed-1"));
        assert_eq!(failed.attribute("classname"), Some("one"));
        assert_eq!(failed.attribute("time"), Some("1.500"));
        let failure = child(failed, "failure").unwrap();
        // Control characters cannot be in XML; everything else comes through.
        assert!(failure.text().unwrap().contains("<&>\"'"), "{text}");
        let output = child(failed, "system-out").unwrap();
        assert_eq!(output.text(), Some("again: staleline run 'a b'\n"));
    }
}
