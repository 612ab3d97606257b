//! The suites in `ci/suites` hold: one test a case, run by `staleline suite`.
//!
//! Images (built at first use): those that the scenarios name. One that the mirror cannot serve makes its cases "ignored,
//! unavailable: …".

mod common;

use common::{path, run};
use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::process::ExitCode;
use tempfile::TempDir;

const SUITES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../ci/suites");

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let listed = run(&["suite", SUITES, "--list"]);
    let mut trials = vec![Trial::test("all_scenarios_can_be_read", {
        let (status, stderr) = (listed.status, listed.stderr.clone());
        move || if status == 0 { Ok(()) } else { Err(stderr.into()) }
    })];
    trials.extend(listed.stdout.lines().map(|case| {
        let case = case.to_owned();
        Trial::ignorable_test(case.clone(), move || holds(&case))
    }));
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Runs one case.
fn holds(case: &str) -> Result<Completion, Failed> {
    let folder = TempDir::new()?;
    let filter = format!("^{}$", case.replace('.', "\\.").replace('+', "\\+"));
    let ran =
        run(&["suite", SUITES, "--filter", &filter, "--format", "json", "--artefacts", path(folder.path())]);
    let report: serde_json::Value =
        serde_json::from_str(&ran.stdout).map_err(|error| format!("{error}: {ran:?}"))?;
    let result = &report["scenarios"][0]["cases"][0];
    match result["verdict"].as_str() {
        Some("passed") if ran.status == 0 && result["id"] == case => Ok(Completion::Completed),
        Some("unavailable") => {
            Ok(Completion::ignored_with(result["reason"].as_str().unwrap_or_default().to_owned()))
        }
        _ => {
            let console =
                result["artefacts"].as_str().map(|at| std::fs::read_to_string(format!("{at}/console")));
            Err(format!("{}\n{}", ran.stderr, console.and_then(Result::ok).unwrap_or_default()).into())
        }
    }
}
