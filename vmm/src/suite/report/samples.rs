//! Results of every kind, for the tests of reports.

use crate::suite::results::{CaseResult, Check, Ended, ScenarioResult, Verdict};

/// What a hostile guest may have printed.
pub(super) const PROBLEM: &str = "its output has \"<&>\"'\u{1b}[0m\nok 99 forged\"";

pub(super) fn results() -> Vec<ScenarioResult> {
    let case = |at: u32, verdict, reason: Option<&str>, problems: Vec<String>| CaseResult {
        id: format!("one/a={at}/seed-1"),
        seed: 1,
        cell: [("a".to_owned(), at.to_string())].into(),
        verdict,
        reason: reason.map(str::to_owned),
        checks: match verdict {
            Verdict::Error | Verdict::Unavailable | Verdict::NotRun => Vec::new(),
            _ => vec![
                Check { name: "run".into(), problems: Vec::new() },
                Check { name: "sh -c 'echo # not ok 1'".into(), problems },
            ],
        },
        outcome: None,
        expected_outcome: None,
        why: None,
        ended: Some(Ended {
            cause: "exited".into(),
            status: 0,
            instructions: Some(1),
            virtual_nanos: 1_500_000_000,
        }),
        command: Some("staleline run 'a b'".into()),
        artefacts: None,
    };
    let cases = vec![
        case(1, Verdict::Passed, None, vec![]),
        case(2, Verdict::Failed, None, vec![PROBLEM.into()]),
        case(3, Verdict::TimedOut, Some("too long"), vec!["it never ended".into()]),
        case(4, Verdict::Error, Some("two\nlines"), vec![]),
        case(5, Verdict::Unavailable, Some("no such package"), vec![]),
        case(6, Verdict::NotRun, Some("interrupted"), vec![]),
    ];
    let scenario = |name: &str, error: Option<&str>, cases| ScenarioResult {
        name: name.into(),
        file: format!("{name}.toml").into(),
        bug: "a bug # with a mark".into(),
        source: "a source".into(),
        error: error.map(str::to_owned),
        cases,
    };
    vec![scenario("one", None, cases), scenario("b", Some("b.toml:1:2: bad"), vec![])]
}
