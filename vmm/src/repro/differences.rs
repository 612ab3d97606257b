//! How a run differs from the report that made the bug known.

use super::catalogue::Reproduction;
use super::check::Findings;

/// The report's facts that are otherwise here, in the report's words. Facts that the run does not show are left out.
pub(super) fn differences(reproduction: &Reproduction, kernel: &str, findings: &Findings) -> Vec<String> {
    let report = &reproduction.report;
    let mut found = Vec::new();
    let mut compare = |label: &str, theirs: &str, ours: Option<&str>, shown: &str| {
        if ours.is_some_and(|ours| ours != theirs) {
            found.push(format!("{label}{shown}"));
        }
    };
    let warning = findings.warning.as_ref();
    let file = report.location.rsplit('/').next().unwrap_or(&report.location);
    let link = findings.machine.function.and_then(|function| function.link());
    let location = warning.and_then(|one| one.site.location.as_deref());
    let comm = warning.and_then(|one| one.comm.as_deref());
    compare("kernel ", &report.kernel, Some(kernel).filter(|kernel| !kernel.is_empty()), &report.kernel);
    compare("", &report.location, location, file);
    compare("Comm ", &report.comm, comm, &report.comm);
    compare("", &report.link, link.as_deref(), &report.link);
    compare("driver ", &report.driver, warning.map(|one| one.driver.as_str()), &report.driver);
    compare("device ", &report.device, warning.map(|one| one.device.as_str()), &report.device);
    if let Some(warning) = warning {
        let missing = |name: &&String| !warning.trace.iter().any(|frame| frame.function == **name);
        found.extend(report.frames.iter().filter(missing).map(|name| format!("frame {name}")));
    }
    found
}
