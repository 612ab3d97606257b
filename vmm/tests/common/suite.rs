//! Suites of tiny guests.

use super::{Ran, bare_kernel, out, path, run};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// The port of the debug exit, and a value: exit status 7.
pub const DEBUG_EXIT: (u16, u8) = (0xf4, 3);
/// `1: jmp 1b`
pub const SPIN: [u8; 2] = [0xeb, 0xfe];

/// A folder of scenarios, with two kernels: one ends with status 7 after it has said "hi", one never ends.
pub struct Suite {
    pub folder: TempDir,
}

impl Suite {
    pub fn new(scenarios: &[(&str, &str)]) -> Self {
        let folder = TempDir::new().unwrap();
        let said = b"hi\n".iter().flat_map(|&byte| out(0x3f8, byte));
        let code: Vec<u8> = said.chain(out(DEBUG_EXIT.0, DEBUG_EXIT.1)).chain(SPIN).collect();
        fs::copy(bare_kernel(&code).path(), folder.path().join("exits")).unwrap();
        fs::copy(bare_kernel(&SPIN).path(), folder.path().join("spins")).unwrap();
        for (name, text) in scenarios {
            let head = "bug = 'none'\nsource = 'this test'\n";
            fs::write(folder.path().join(format!("{name}.toml")), format!("{head}{text}")).unwrap();
        }
        Self { folder }
    }

    pub fn artefacts(&self) -> PathBuf {
        self.folder.path().join("artefacts")
    }

    pub fn arguments<'a>(&'a self, artefacts: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
        let mut arguments = vec!["suite", path(self.folder.path()), "--artefacts", path(artefacts)];
        arguments.extend(more);
        arguments
    }

    pub fn run(&self, more: &[&str]) -> Ran {
        run(&self.arguments(&self.artefacts(), more))
    }

    /// Exit status, verdicts by case, and scenarios that cannot be used.
    pub fn verdicts(&self, more: &[&str]) -> (i32, Vec<(String, String)>) {
        let ran = self.run(&[&["--format", "json"], more].concat());
        (ran.status, verdicts(&ran))
    }
}

/// Verdicts by case in a report as JSON, and scenarios that cannot be used.
pub fn verdicts(ran: &Ran) -> Vec<(String, String)> {
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"));
    let mut all = Vec::new();
    for scenario in report["scenarios"].as_array().unwrap() {
        if let Some(error) = scenario["error"].as_str() {
            all.push(("error".to_owned(), error.to_owned()));
        }
        for case in scenario["cases"].as_array().unwrap() {
            all.push((case["id"].as_str().unwrap().to_owned(), case["verdict"].as_str().unwrap().to_owned()));
        }
    }
    all
}

/// As [`verdicts`] has them.
pub fn named<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs.map(|(id, verdict)| (id.to_owned(), verdict.to_owned())).into()
}

/// A guest and what comes of it.
pub const HOLDS: &str =
    "[guest]\nkernel = './exits'\n[[expect]]\nstatus = 7\ncause = 'debug-exit'\nconsole = ['hi']";
