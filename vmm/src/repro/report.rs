//! The report of a reproduction, as a maintainer would paste it into a mail.

use super::catalogue::{ExpectedRegistration, Note, Reproduction};
use super::check::{Check, Findings, NO_WARNING, Outcome, Verdict};
use super::console::{lines, message};
use super::differences::differences;
use super::evidence::{Evidence, Origin};
use super::trace::Frame;
use super::warning::Warning;

/// Columns; lines that are put together here are wrapped to them, quoted ones are not.
const WIDTH: usize = 76;
/// How much of an image's hash is enough to know it again.
const HASH_DIGITS: usize = 12;
/// Console lines shown when the bug did not show.
const LAST_LINES: usize = 12;
/// Frames shown of a trace that is not as expected.
const UNKNOWN_FRAMES: usize = 16;

/// Writes the report of a run and its verdict; ends with a newline.
#[must_use]
pub fn render(reproduction: &Reproduction, evidence: &Evidence, verdict: &Verdict) -> String {
    let findings = &verdict.findings;
    let kernel = if evidence.kernel_release.is_empty() {
        findings.machine.kernel_release.as_deref().unwrap_or_default()
    } else {
        evidence.kernel_release.as_str()
    };
    let mut report = vec![heading(reproduction, evidence, verdict, kernel)];
    if let Outcome::CannotTell(reason) = &verdict.outcome {
        report.extend(wrap("because: ", reason.split(' '), " "));
    }
    report.extend(registrations(reproduction, findings));
    if let Some(warning) = &findings.warning {
        report.push(format!("DMA-API: {} {}: {}", warning.driver, warning.device, warning.message));
        report.push(warning.site.line.clone());
        report.extend(trace(warning, &findings.places));
    }
    report.extend(checks(verdict));
    if verdict.outcome == Outcome::Present {
        let differences = differences(reproduction, kernel, findings);
        let list = if differences.is_empty() { vec!["nothing".to_owned()] } else { differences };
        report.extend(wrap("differs from report: ", list.iter().map(String::as_str), ", "));
        report.extend(wrap("report: ", reproduction.report.source.split(' '), " "));
    } else {
        if verdict.outcome == Outcome::Absent {
            let notes = reproduction.note.iter().filter(|note| holds(note, kernel));
            report.extend(notes.flat_map(|note| wrap("note: ", note.text.split(' '), " ")));
            let source = evidence.cannot_raise.iter();
            report.extend(source.flat_map(|reason| wrap("by its source: ", reason.split(' '), " ")));
        }
        report.extend(tail("last lines of the program:", &evidence.stdout));
        report.extend(tail("last lines of the console:", &evidence.console));
    }
    let mut again = format!("again: staleline repro {} --seed {}", reproduction.name, evidence.seed);
    for option in &evidence.options {
        again.push(' ');
        again.push_str(option);
    }
    report.push(again);
    let mut text = report.join("\n");
    text.push('\n');
    text
}

/// `REPRODUCED mlx5-eexist  Linux 6.12.117 image ab12.. soft seed 1, swiotlb off`
fn heading(reproduction: &Reproduction, evidence: &Evidence, verdict: &Verdict, kernel: &str) -> String {
    let word = match verdict.outcome {
        Outcome::Present => "REPRODUCED",
        Outcome::Absent => "NOT REPRODUCED",
        Outcome::CannotTell(_) => "CANNOT TELL",
    };
    let kernel = if kernel.is_empty() { "unknown" } else { kernel };
    let short = |kind: &str, hash: &str| match hash.get(..HASH_DIGITS) {
        Some(start) => format!("{kind} {start}.. "),
        None => format!("{kind} {hash} "),
    };
    let origin = match &evidence.origin {
        Origin::Image(hash) => short("image", hash),
        Origin::Commit(hash) => short("commit", hash),
        Origin::Tree(path) => format!("tree {path} "),
        Origin::File => String::new(),
    };
    format!(
        "{word} {}  Linux {kernel} {origin}{} seed {}, swiotlb {}",
        reproduction.name, evidence.engine, evidence.seed, verdict.findings.machine.swiotlb
    )
}

/// A line for each expected registration: the driver's, or at least the program's.
fn registrations(reproduction: &Reproduction, findings: &Findings) -> Vec<String> {
    let expect = &reproduction.expect;
    let line = |(index, expected): (usize, &ExpectedRegistration)| {
        let attempt = findings.program.attempt(expected);
        let result = match attempt.map(|attempt| &attempt.result) {
            None => "not attempted",
            Some(Ok(())) => "ok",
            Some(Err(reason)) => reason,
        };
        match findings.logged.get(index) {
            Some(logged) => format!(
                "{}: start {:#x} length {:<6} access_flags {:#x} -> {result}",
                expect.registration_log,
                logged.start,
                format!("{:#x}", logged.length),
                logged.access_flags
            ),
            None => format!(
                "reg_mr: page+{} length {:<6} -> {result}",
                expected.offset,
                format!("{:#x}", expected.length)
            ),
        }
    };
    expect.registration.iter().enumerate().map(line).collect()
}

/// `a < b < .. < c`, from the innermost frame to the last expected one; what nobody asked for between them is `..`.
fn trace(warning: &Warning, places: &[Option<usize>]) -> Vec<String> {
    let expected: Vec<usize> = places.iter().flatten().copied().collect();
    let name = |frame: &Frame| frame.function.clone();
    let names: Vec<String> = if expected.len() < places.len() {
        let more = (warning.trace.len() > UNKNOWN_FRAMES).then(|| "..".to_owned());
        warning.trace.iter().take(UNKNOWN_FRAMES).map(name).chain(more).collect()
    } else {
        let mut names = Vec::new();
        let mut next = 0;
        for place in expected {
            if place > next {
                names.push("..".to_owned());
            }
            names.extend(warning.trace.get(place).map(name));
            next = place.saturating_add(1);
        }
        names
    };
    wrap("  ", names.iter().map(String::as_str), " < ")
}

/// `checks: message, device, frames 7/7`, and a line for each that failed; for those that lack a warning, one.
fn checks(verdict: &Verdict) -> Vec<String> {
    let (passed, failed): (Vec<_>, Vec<_>) = verdict.checks.iter().partition(|check| check.ok);
    let (silent, failed): (Vec<_>, Vec<_>) = failed.into_iter().partition(|check| check.found == NO_WARNING);
    let mut report = Vec::new();
    if !passed.is_empty() {
        let passed: Vec<String> = passed.into_iter().map(shown).collect();
        report.extend(wrap("checks: ", passed.iter().map(String::as_str), ", "));
    }
    if !silent.is_empty() {
        let names: Vec<&str> = silent.iter().map(|check| check.name).collect();
        report.push(format!("FAILED: {}: {NO_WARNING}", names.join(", ")));
    }
    report.extend(
        failed.into_iter().map(|check| {
            format!("FAILED: {}: expected {}; found {}", check.name, check.expected, check.found)
        }),
    );
    report
}

/// A check that is passed: with what it found, unless the report quotes that anyway.
fn shown(check: &Check) -> String {
    match check.name {
        "frames" | "error_count" | "registrations" | "exit" => format!("{} {}", check.name, check.found),
        name => name.to_owned(),
    }
}

/// The last lines that are not blank, quoted.
fn tail(title: &str, bytes: &[u8]) -> Vec<String> {
    let all: Vec<String> = lines(bytes).filter(|line| !message(line).is_empty()).collect();
    let shown = all.get(all.len().saturating_sub(LAST_LINES)..).unwrap_or_default();
    if shown.is_empty() {
        return vec![format!("{title} none")];
    }
    std::iter::once(title.to_owned())
        .chain(shown.iter().map(|line| format!("  | {}", line.trim_end())))
        .collect()
}

/// Whether a note's kernel range includes `kernel`.
fn holds(note: &Note, kernel: &str) -> bool {
    version(kernel).zip(version(&note.from_kernel)).is_some_and(|(kernel, from)| kernel >= from)
}

/// Major and minor number of a kernel release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// `title`, then `items` joined by `separator`, broken before a separator's mark (or after its comma) at [`WIDTH`];
/// further lines are indented.
fn wrap<'a>(title: &str, items: impl Iterator<Item = &'a str>, separator: &str) -> Vec<String> {
    // A comma stays on the line that it ends; another mark begins the next.
    let (before, after) = if separator.starts_with(',') { (",", "") } else { ("", separator.trim_start()) };
    let mut all = Vec::new();
    let mut line = title.to_owned();
    let mut fresh = true;
    for item in items {
        if fresh {
            line.push_str(item);
            fresh = false;
        } else if line.chars().count() + separator.chars().count() + item.chars().count() > WIDTH {
            line.push_str(before);
            all.push(std::mem::replace(&mut line, format!("  {after}{item}")));
        } else {
            line.push_str(separator);
            line.push_str(item);
        }
    }
    all.push(line);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped_at_separators() {
        let long = ["x".repeat(40), "y".repeat(40), "z".repeat(10)];
        let items = || long.iter().map(String::as_str);
        let list = wrap("t: ", items(), ", ");
        assert_eq!(list, [format!("t: {},", long[0]), format!("  {}, {}", long[1], long[2])]);
        let trace = wrap("  ", items(), " < ");
        assert_eq!(trace, [format!("  {}", long[0]), format!("  < {} < {}", long[1], long[2])]);
        assert_eq!(wrap("t: ", std::iter::empty(), ", "), ["t: "]);
    }

    #[test]
    fn kernel_versions_compare_by_number() {
        let note = Note { from_kernel: "7.0".into(), text: String::new() };
        assert!(holds(&note, "7.2.13") && holds(&note, "10.0-rc1") && holds(&note, "7.0"));
        assert!(!holds(&note, "6.19.0+") && !holds(&note, "") && !holds(&note, "7"));
    }
}
