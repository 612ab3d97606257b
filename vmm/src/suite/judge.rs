//! Whether a run has come to what its scenario expects.

use super::bounces;
use super::expectation::{Expectation, StepExpectation};
use super::findings;
use super::kernel_log;
use super::matrix::Cell;
use super::outcome::{self, OutcomeRule};
use super::pattern::Pattern;
use super::results::Check;
use super::scenario::Step;
use super::steps::{self, Section, Told};
use crate::findings::STATUS_FINDINGS;
use crate::session::Outcome;
use toml::Spanned;

/// What a run has left.
#[derive(Debug)]
pub struct Evidence {
    pub outcome: Outcome,
    /// Exit status that `staleline run` has for it.
    pub status: u8,
    pub console: Vec<u8>,
    /// What came over the channel.
    pub output: Vec<u8>,
    /// Console or output have more than is kept: nothing can be said about them.
    pub overflowed: bool,
}

/// What may come of a case.
#[derive(Debug, Clone, Copy)]
pub(super) struct Outcomes<'a> {
    /// None if its scenario names none.
    pub rules: &'a [Spanned<OutcomeRule>],
    pub cell: &'a Cell,
}

/// Judges the run as a whole, then each step; and says what it has come to.
pub(super) fn judge(
    run: &Expectation,
    steps: &[(&Step, StepExpectation)],
    outcomes: Outcomes<'_>,
    evidence: &Evidence,
) -> (Vec<Check>, Option<String>) {
    let console = String::from_utf8_lossy(&evidence.console);
    let told = steps::told(&String::from_utf8_lossy(&evidence.output));
    let mut whole = judge_run(run, steps, evidence, &console, &told);
    let names: Vec<&str> = steps.iter().map(|(step, _)| step.name()).collect();
    let Outcomes { rules, cell } = outcomes;
    let outcome = outcome::outcome(rules, cell, &names, &told, &evidence.outcome.findings.reports);
    let named = !rules.is_empty();
    whole.problems.extend(judge_outcome(run, named, outcome.as_deref()));
    let mut checks = vec![whole];
    let ends = exits(run);
    // Where outcomes have names a step may end in several ways.
    let usual = if named { None } else { Some(0) };
    for (at, (step, expectation)) in steps.iter().enumerate() {
        let problems = match told.steps.get(at) {
            Some(section) => judge_step(expectation, section, ends, usual),
            None => vec!["it never began".into()],
        };
        checks.push(Check { name: step.name().to_owned(), problems });
    }
    (checks, outcome)
}

fn judge_outcome(expected: &Expectation, named: bool, outcome: Option<&str>) -> Option<String> {
    let wanted = expected.outcome.as_ref().map(|wanted| wanted.get_ref().0.as_str());
    match (outcome, wanted) {
        (None, _) if named => Some("it has come to none of the scenario's outcomes".into()),
        (Some(outcome), Some(wanted)) if outcome != wanted => {
            Some(format!("it has come to {outcome:?}, not {wanted:?}"))
        }
        _ => None,
    }
}

fn judge_run(
    expected: &Expectation,
    steps: &[(&Step, StepExpectation)],
    evidence: &Evidence,
    console: &str,
    told: &Told,
) -> Check {
    let mut problems = Vec::new();
    let cause = &evidence.outcome.cause;
    let said = || match cause.detail() {
        Some(detail) => format!("{} ({detail})", cause.name()),
        None => cause.name().to_owned(),
    };
    let wanted = expected.cause.as_ref().map(|cause| cause.get_ref().0.as_str());
    if let Some(wanted) = wanted.filter(|wanted| *wanted != cause.name()) {
        problems.push(format!("the run ended by {}, not by {wanted}", said()));
    }
    let raised = evidence.status == STATUS_FINDINGS;
    // What findings there may be is said by themselves.
    let usual = exits(expected) && !steps.is_empty() && !(raised && expected.findings.is_some());
    let wanted = stated(expected.status.as_ref()).or(usual.then_some(0));
    if let Some(wanted) = wanted.filter(|wanted| *wanted != evidence.status) {
        problems.push(format!("exit status {} ({}), not {wanted}", evidence.status, said()));
    }
    let found = &evidence.outcome.findings;
    if let Some(wanted) = expected.findings.as_deref().or(raised.then_some(&[])) {
        problems.extend(findings::problems(wanted, &found.reports, found.counts));
    }
    if let Some(wanted) = &expected.bounced {
        problems.extend(bounces::problems(wanted, evidence.outcome.ledger.as_ref()));
    }
    if evidence.overflowed {
        problems.push("console or output are longer than what is kept of them".into());
    }
    look(console, "the console", &expected.console, &expected.not_console, &mut problems);
    let wants_log = expected.wants_log();
    match &told.log {
        Some(log) if wants_log => {
            if !told.done {
                problems.push("the kernel's log did not come whole".into());
            }
            look(log, "the kernel's log", &expected.log, &expected.not_log, &mut problems);
            if let Some(allowed) = &expected.log_warnings {
                let is_allowed = |line: &&str| allowed.iter().any(|pattern| pattern.is_in(line));
                let unexpected = kernel_log::warnings(log).filter(|line| !is_allowed(line));
                problems.extend(unexpected.map(|line| format!("the kernel's log warns: {line}")));
            }
            if let Some(wanted) = &expected.dma_debug {
                let messages = kernel_log::dma_debug_messages(log);
                let wanted: Vec<&str> = wanted.get_ref().iter().map(|text| text.0.as_str()).collect();
                let same = messages.len() == wanted.len()
                    && messages.iter().zip(&wanted).all(|(message, wanted)| message.starts_with(wanted));
                if !same {
                    problems.push(format!("dma-debug warned of {messages:?}, not of {wanted:?}"));
                }
            }
        }
        None if wants_log => problems.push("the kernel's log was never had".into()),
        _ => {}
    }
    if let Some(wanted) = stated(expected.error_count.as_ref()) {
        compare_count(told.error_count, wanted, "dma-debug's error_count", &mut problems);
    }
    for (at, contents) in expected.memory.iter().enumerate() {
        match evidence.outcome.memory.get(at) {
            Some(kept) => problems.extend(contents.get_ref().problem(kept)),
            None => problems.push("memory was not kept".into()),
        }
    }
    if told.steps.len() > steps.len() {
        problems.push("more steps have begun than there are".into());
    }
    Check { name: "run".into(), problems }
}

/// Whether the guest's command is to come to its end.
fn exits(expected: &Expectation) -> bool {
    expected.cause.as_ref().is_none_or(|cause| cause.get_ref().0 == "exited")
}

fn stated<T: Copy>(value: Option<&Spanned<T>>) -> Option<T> {
    value.map(|value| *value.get_ref())
}

/// `usual` is the status of a step of which nothing is said.
fn judge_step(expected: &StepExpectation, section: &Section, ends: bool, usual: Option<u8>) -> Vec<String> {
    let mut problems = Vec::new();
    match section.status {
        Some(status) => {
            let wanted = stated(expected.status.as_ref()).or(usual);
            if let Some(wanted) = wanted.filter(|wanted| *wanted != status) {
                problems.push(format!("exit status {status}, not {wanted}"));
            }
        }
        None if ends || expected.status.is_some() => problems.push("it never ended".into()),
        None => {}
    }
    look(&section.output, "its output", &expected.output, &expected.not_output, &mut problems);
    if let Some(wanted) = stated(expected.error_count.as_ref()) {
        let growth = section.errors_after.zip(section.errors_before);
        let growth = growth.map(|(after, before)| after.saturating_sub(before));
        compare_count(growth, wanted, "the growth of dma-debug's error_count", &mut problems);
    }
    problems
}

fn compare_count(count: Option<u64>, wanted: u64, what: &str, problems: &mut Vec<String>) {
    match count {
        Some(count) if count == wanted => {}
        Some(count) => problems.push(format!("{what} is {count}, not {wanted}")),
        None => problems.push(format!("{what} was never had: has the kernel no dma-debug?")),
    }
}

fn look(text: &str, what: &str, wanted: &[Pattern], unwanted: &[Pattern], problems: &mut Vec<String>) {
    for pattern in wanted.iter().filter(|pattern| !pattern.is_in(text)) {
        problems.push(format!("{what} has no {pattern}"));
    }
    for pattern in unwanted.iter().filter(|pattern| pattern.is_in(text)) {
        problems.push(format!("{what} has {pattern}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::{Counts, Raised, samples};
    use crate::session::Cause;

    const SAID: &str = "\n@@staleline begin 0\nhello\n\n@@staleline end 1 2\n\n@@staleline log 2\n\
        <4>[ 1.0] DMA-API: mlx5_core 0000:08:00.0: cacheline tracking EEXIST, x\n\n@@staleline done\n";

    fn evidence(cause: Cause, output: &str) -> Evidence {
        let status = cause.exit_status(true);
        let memory = vec![Ok(vec![0, 0xff])];
        let outcome = Outcome {
            cause,
            instructions: Some(1),
            virtual_nanos: 1,
            ready: true,
            inputs: Vec::new(),
            memory,
            ledger: None,
            cache: None,
            iommu: None,
            confidential: None,
            findings: Raised::default(),
        };
        Evidence {
            outcome,
            status,
            console: b"[ 0.1] booting\r\n".to_vec(),
            output: output.as_bytes().to_vec(),
            overflowed: false,
        }
    }

    /// The problems of the run and of its only step.
    fn problems(run: &str, step: &str, evidence: &Evidence) -> (Vec<String>, Vec<String>) {
        let run: Expectation = toml::from_str(run).unwrap();
        let expected: StepExpectation = toml::from_str(step).unwrap();
        let program: Step = toml::from_str("run = ['x']").unwrap();
        let outcomes = Outcomes { rules: &[], cell: &Cell::default() };
        let mut checks = judge(&run, &[(&program, expected)], outcomes, evidence).0.into_iter();
        (checks.next().unwrap().problems, checks.next().unwrap().problems)
    }

    #[test]
    fn findings_are_judged_if_expected_or_if_the_run_fails_by_them() {
        let mut evidence = evidence(Cause::Exited(0), SAID);
        assert!(problems("findings = []", "error-count = 1", &evidence).0.is_empty());
        let missing = problems("findings = [{ verdict = 'latent' }]", "error-count = 1", &evidence).0;
        assert_eq!(missing, ["no finding is as expected: verdict latent"]);
        let counts = Counts { manifest: 1, ..Counts::default() };
        evidence.outcome.findings = Raised { reports: vec![samples::stale_cpu_read()], counts };
        evidence.status = STATUS_FINDINGS;
        assert!(problems("findings = [{ victim = 'onesided' }]", "error-count = 1", &evidence).0.is_empty());
        let stated = "status = 0\nfindings = [{}]";
        assert_eq!(problems(stated, "error-count = 1", &evidence).0, ["exit status 123 (exited), not 0"]);
        let unexpected = problems("", "error-count = 1", &evidence).0;
        assert!(unexpected[0].starts_with("exit status 123") && unexpected[1].starts_with("unexpected: "));
    }

    #[test]
    fn what_is_as_expected_has_no_problems() {
        let run = "status = 0\ncause = 'exited'\nconsole = ['booting']\nnot-console = ['BUG']\nerror-count = 2\n\
                   dma-debug = ['cacheline tracking EEXIST']\nlog = ['EEXIST']\nnot-log = ['Oops']\n\
                   log-warnings = ['EEXIST']\nmemory = [{ address = 0x1000, bytes = '00 ff' }]";
        let step = "status = 1\noutput = [{ regex = '^hello$' }]\nnot-output = ['bye']\nerror-count = 2";
        let none = (Vec::new(), Vec::new());
        assert_eq!(problems(run, step, &evidence(Cause::Exited(0), SAID)), none);
    }

    #[test]
    fn each_difference_is_a_problem() {
        let good = evidence(Cause::Exited(0), SAID);
        for run in [
            "status = 1",
            "cause = 'panic'",
            "console = ['absent']",
            "not-console = ['booting']",
            "log = ['absent']",
            "not-log = ['EEXIST']",
            "log-warnings = []",
            "log-warnings = ['exceeded']",
            "dma-debug = []",
            "dma-debug = ['exceeded']",
            "error-count = 1",
            "memory = [{ address = 0, bytes = '00 fe' }]",
            "memory = [{ address = 0, bytes = '00 ff' }, { address = 2, bytes = '00' }]",
        ] {
            assert_eq!(problems(run, "status = 1", &good).0.len(), 1, "{run}");
        }
        for step in ["", "status = 0", "status = 1\noutput = ['x']", "status = 1\nnot-output = ['hello']"] {
            assert_eq!(problems("", step, &good).1.len(), 1, "{step}");
        }
        assert_eq!(problems("", "status = 1\nerror-count = 0", &good).1.len(), 1);
    }

    #[test]
    fn steps_that_do_not_end_fail_unless_the_run_is_to_end_otherwise() {
        let cut = evidence(Cause::Panic("Kernel panic".into()), "\n@@staleline begin\nhel");
        assert_eq!(problems("status = 0", "", &cut).1, ["it never ended"]);
        assert_eq!(problems("cause = 'panic'", "output = ['hel']", &cut), (vec![], vec![]));
        assert_eq!(problems("status = 255\nerror-count = 0", "", &cut).0.len(), 1, "no count");
        let silent = evidence(Cause::Deadline, "");
        assert_eq!(
            problems("", "", &silent).0,
            ["exit status 124 (deadline), not 0"],
            "0 unless told otherwise"
        );
        assert_eq!(problems("", "", &silent).1, ["it never began"]);
        let run = "cause = 'deadline'\nlog = ['x']";
        assert_eq!(problems(run, "", &silent).0, ["the kernel's log was never had"]);
    }
}
