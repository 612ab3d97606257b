//! The verdict: what was expected against what a run has left.

use super::catalogue::Reproduction;
use super::console::{Machine, lines, message};
use super::evidence::{Ended, Evidence};
use super::registration::{ErrorCount, Logged, Program, logged, matching};
use super::trace::locate;
use super::warning::{Warning, warnings};
use std::str::FromStr;

/// What a check finds that needs a warning where there is none.
pub(super) const NO_WARNING: &str = "no dma-debug warning";

/// What a user of `staleline repro` wants to find (`--expect`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expect {
    #[default]
    Present,
    Absent,
}

/// Neither `present` nor `absent`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither present nor absent")]
pub struct UnknownExpect(String);

impl FromStr for Expect {
    type Err = UnknownExpect;

    fn from_str(text: &str) -> Result<Self, UnknownExpect> {
        match text {
            "present" => Ok(Self::Present),
            "absent" => Ok(Self::Absent),
            _ => Err(UnknownExpect(text.to_owned())),
        }
    }
}

/// Whether the bug showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything expected was there.
    Present,
    /// The program ran to its end in a kernel that would have warned, and no warning came.
    Absent,
    /// Neither can be said, and why.
    CannotTell(String),
}

/// One thing that is expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub name: &'static str,
    pub expected: String,
    /// What there was, for people.
    pub found: String,
    pub ok: bool,
}

/// What [`check`] finds.
#[derive(Clone, Debug)]
pub struct Verdict {
    pub outcome: Outcome,
    /// In the order in which reports show them.
    pub checks: Vec<Check>,
    pub(super) findings: Findings,
}

/// What was read out of the evidence, for the report.
#[derive(Clone, Debug)]
pub(super) struct Findings {
    pub machine: Machine,
    pub program: Program,
    /// The driver's messages of the expected registrations, from the first on, as far as they are there.
    pub logged: Vec<Logged>,
    /// The warning that comes nearest to the expected one.
    pub warning: Option<Warning>,
    /// For each expected frame its place in the warning's trace.
    pub places: Vec<Option<usize>>,
}

impl Verdict {
    /// Exit status of `staleline repro`: 0 as expected, 1 the opposite, 125 if it cannot be told.
    #[must_use]
    pub fn exit_status(&self, expect: Expect) -> u8 {
        match (&self.outcome, expect) {
            (Outcome::Present, Expect::Present) | (Outcome::Absent, Expect::Absent) => 0,
            (Outcome::Present, Expect::Absent) | (Outcome::Absent, Expect::Present) => 1,
            (Outcome::CannotTell(_), _) => 125,
        }
    }
}

/// Judges a finished run.
#[must_use]
pub fn check(reproduction: &Reproduction, evidence: &Evidence) -> Verdict {
    let console: Vec<String> = lines(&evidence.console).collect();
    let stdout: Vec<String> = lines(&evidence.stdout).collect();
    let expect = &reproduction.expect;
    let all = warnings(&console);
    // dma-debug prints one error a boot, so any other warning matters too: it may have used that one up.
    let warning = [
        all.iter().find(|one| one.message == expect.message && one.device == expect.device),
        all.iter().find(|one| one.message == expect.message),
        all.first(),
    ]
    .into_iter()
    .flatten()
    .next()
    .cloned();
    let messages = logged(&console, &expect.registration_log);
    let trace = warning.as_ref().map_or(&[][..], |warning| &warning.trace);
    let findings = Findings {
        machine: Machine::read(&console, &expect.device),
        program: Program::read(&stdout),
        logged: matching(&expect.registration, &messages).to_vec(),
        places: locate(&expect.frames, trace),
        warning,
    };
    let mut checks = warning_checks(reproduction, &findings);
    checks.push(error_count_check(expect.error_count_delta, findings.program.error_count));
    checks.push(registrations_check(reproduction, &findings, !messages.is_empty()));
    checks.push(exit_check(&evidence.ended));
    let outcome = if checks.iter().all(|check| check.ok) {
        Outcome::Present
    } else {
        uncertainty(reproduction, evidence, &console, &findings, &checks)
            .map_or(Outcome::Absent, Outcome::CannotTell)
    };
    Verdict { outcome, checks, findings }
}

fn warning_checks(reproduction: &Reproduction, findings: &Findings) -> Vec<Check> {
    let expect = &reproduction.expect;
    let warning = findings.warning.as_ref();
    let shown = |found: Option<String>| found.unwrap_or_else(|| NO_WARNING.to_owned());
    let compare = |name, expected: String, found: Option<String>| Check {
        name,
        ok: found.as_ref() == Some(&expected),
        found: shown(found),
        expected,
    };
    let message = compare("message", expect.message.clone(), warning.map(|one| one.message.clone()));
    let device = compare(
        "device",
        format!("{} {}", expect.driver, expect.device),
        warning.map(|one| format!("{} {}", one.driver, one.device)),
    );
    let place = compare("place", expect.warns_in.clone(), warning.map(|one| one.site.function.clone()));
    let total = expect.frames.len();
    let there = findings.places.iter().flatten().count();
    let lacking: Vec<&str> = expect
        .frames
        .iter()
        .zip(&findings.places)
        .filter(|(_, place)| place.is_none())
        .map(|(frame, _)| frame.as_str())
        .collect();
    let found = warning.map(|_| match lacking.as_slice() {
        [] => format!("{there}/{total}"),
        names => format!("{there}/{total}, missing or out of order: {}", names.join(", ")),
    });
    let frames = Check {
        name: "frames",
        expected: format!("{total}/{total} in order"),
        ok: warning.is_some() && lacking.is_empty(),
        found: shown(found),
    };
    vec![message, device, place, frames]
}

fn error_count_check(delta: i64, count: ErrorCount) -> Check {
    let (found, ok) = match count {
        ErrorCount::Unknown => ("not printed".to_owned(), false),
        ErrorCount::NotInKernel => ("not in this kernel".to_owned(), false),
        ErrorCount::Read { before, after } => {
            (format!("{before}->{after}"), after.checked_sub(before) == Some(delta))
        }
    };
    Check { name: "error_count", expected: format!("{delta:+}"), found, ok }
}

/// The program has to say that each succeeded, and the driver's messages, if the kernel prints them, must agree.
fn registrations_check(reproduction: &Reproduction, findings: &Findings, driver_logs: bool) -> Check {
    let expected = &reproduction.expect.registration;
    let attempts: Vec<_> = expected.iter().map(|one| findings.program.attempt(one)).collect();
    let done = attempts.iter().flatten().filter(|one| one.result.is_ok()).count();
    let mut found = format!("{done}/{}", expected.len());
    for (attempt, expected) in attempts.iter().zip(expected) {
        let what = match attempt {
            None => "not attempted",
            Some(attempt) => match &attempt.result {
                Ok(()) => continue,
                Err(reason) => reason,
            },
        };
        found = format!("{found}; page+{} length {:#x}: {what}", expected.offset, expected.length);
    }
    let mut ok = done == expected.len();
    if ok && driver_logs {
        let task = findings.logged.first().map(|one| one.pid);
        let warned = findings.warning.as_ref().and_then(|warning| warning.pid);
        if findings.logged.len() < expected.len() {
            ok = false;
            found.push_str(", but the driver logged others");
        } else if warned.is_some() && warned != task {
            ok = false;
            found.push_str(", but by another task than the warning's");
        }
    }
    Check { name: "registrations", expected: format!("{0}/{0}", expected.len()), found, ok }
}

fn exit_check(ended: &Ended) -> Check {
    let found = match ended {
        Ended::Exited(status) => format!("{status}"),
        Ended::Signalled(signal) => format!("signal {signal}"),
        Ended::NotStarted(reason) => format!("not started: {reason}"),
        Ended::Panicked => "nothing: the guest panicked".to_owned(),
        Ended::TimedOut(limit) => format!("nothing: time is up ({limit})"),
        Ended::Stopped(how) => format!("nothing: {how}"),
    };
    Check { name: "exit", expected: "0".to_owned(), ok: *ended == Ended::Exited(0), found }
}

/// Why an absence cannot be told from these checks; none if it can.
fn uncertainty(
    reproduction: &Reproduction,
    evidence: &Evidence,
    console: &[String],
    findings: &Findings,
    checks: &[Check],
) -> Option<String> {
    if let Some(reason) = cut_short(reproduction, evidence, findings) {
        return Some(reason);
    }
    let warned = findings.warning.as_ref().is_some_and(|warning| {
        // Of somebody else's warning an unchanged count says that it was not raised while the program ran.
        let counted =
            !matches!(findings.program.error_count, ErrorCount::Read { before, after } if before == after);
        let expected = &reproduction.expect;
        counted || (warning.message == expected.message && warning.device == expected.device)
    });
    if warned {
        let failed: Vec<_> = checks
            .iter()
            .filter(|check| !check.ok)
            .map(|check| format!("{} {}", check.name, check.found))
            .collect();
        return Some(format!("dma-debug warned, but not as expected ({})", failed.join("; ")));
    }
    if let Some(mute) = reproduction
        .mute
        .iter()
        .find(|mute| console.iter().any(|line| message(line).starts_with(mute.message.as_str())))
    {
        return Some(mute.reason.clone());
    }
    match findings.program.error_count {
        ErrorCount::NotInKernel => Some("this kernel has no dma-debug, so it cannot warn".to_owned()),
        ErrorCount::Unknown => Some("the program did not tell dma-debug's error count".to_owned()),
        ErrorCount::Read { before, after } if before != after => {
            Some(format!("dma-debug counted an error ({before}->{after}) but no warning is on the console"))
        }
        ErrorCount::Read { .. } => None,
    }
}

/// Why the program did not come to its end.
fn cut_short(reproduction: &Reproduction, evidence: &Evidence, findings: &Findings) -> Option<String> {
    let program = reproduction.guest.command.first().map_or("the program", String::as_str);
    match &evidence.ended {
        Ended::Panicked => Some(match &findings.machine.panic {
            Some(line) => format!("the guest panicked: {line}"),
            None => "the guest panicked".to_owned(),
        }),
        Ended::TimedOut(limit) => Some(format!("time was up before {program} ended ({limit})")),
        Ended::Stopped(how) => Some(format!("the machine stopped before {program} ended: {how}")),
        Ended::NotStarted(reason) => Some(format!("{program} could not be started: {reason}")),
        Ended::Signalled(signal) => Some(format!("{program} was killed by signal {signal}")),
        Ended::Exited(status) => {
            let obstacle = findings.program.obstacle.as_ref();
            if !findings.program.attempts.is_empty() {
                return None;
            }
            Some(match obstacle {
                Some(line) => format!("the device did not come up: {program} said \"{line}\""),
                None => format!("{program} exited with {status} without having registered anything"),
            })
        }
    }
}
