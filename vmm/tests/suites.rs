//! The scenarios in `ci`: all of them can be read and name nothing that is not there, and the quick one holds, comes to
//! the same every time, and is reported so that readers of each format find the same in it. The others are run by
//! `staleline suite ci/suites`, as CI does.
//!
//! Images (built at first use): those of the debug kernels in `ci/suites/require-coherent`. One that the mirror cannot serve has its cases skipped.

mod common;

use common::{path, run};
use staleline::suite::case::{Case, cases};
use staleline::suite::{Scenario, files};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

const ALL: [&str; 2] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/../ci/suites"),
    concat!(env!("CARGO_MANIFEST_DIR"), "/../ci/soaks"),
];
/// The cells of the matrix that need neither an IOMMU nor a cache, nor encryption.
const QUICK: [&str; 3] = [
    concat!(env!("CARGO_MANIFEST_DIR"), "/../ci/suites/require-coherent"),
    "--filter",
    "^(two-registrations|nine-registrations|peer-write|kverbs)/.*,platform=(coherent|bounced)/",
];

/// Every scenario's cases, with no name twice.
fn all_cases() -> Vec<Case> {
    let mut names = BTreeSet::new();
    let mut all = Vec::new();
    for file in files(&ALL.map(Into::into)).unwrap() {
        let scenario = Scenario::read(&file).unwrap_or_else(|error| panic!("{error}"));
        assert!(names.insert(scenario.name.clone()), "{} is there twice", scenario.name);
        all.extend(cases(&Arc::new(scenario)));
    }
    all
}

#[test]
fn scenarios_name_only_images_and_files_that_there_are() {
    let store = guest_images::Store::open(None).unwrap();
    let images: BTreeSet<&str> = store.recipes().iter().map(|recipe| recipe.name.as_str()).collect();
    let cases = all_cases();
    assert!(cases.len() > 50, "{}", cases.len());
    for case in cases {
        if let Some(image) = case.image() {
            assert!(images.contains(image), "{}: no image {image}", case.id);
        }
        let guest = &case.cell.guest;
        let files = guest.files.iter().map(|file| file.split_once(':').map_or(file.as_str(), |pair| pair.0));
        for file in files.chain(guest.modules.iter().map(String::as_str)) {
            assert!(case.path(file).exists(), "{}: no {file}", case.id);
        }
    }
}

/// Verdicts by case.
type Verdicts = BTreeMap<String, String>;

fn of_json(text: &str) -> Verdicts {
    let report: serde_json::Value = serde_json::from_str(text).unwrap();
    let scenarios = report["scenarios"].as_array().unwrap().iter();
    let cases = scenarios.flat_map(|scenario| scenario["cases"].as_array().unwrap());
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    cases.map(|case| (text(&case["id"]), text(&case["verdict"]))).collect()
}

fn of_junit(text: &str) -> Verdicts {
    let document = roxmltree::Document::parse(text).unwrap();
    let cases = document.descendants().filter(|node| node.has_tag_name("testcase"));
    let verdict = |case: &roxmltree::Node<'_, '_>| {
        let has = |name: &str| case.children().any(|child| child.has_tag_name(name));
        match (has("failure") || has("error"), has("skipped")) {
            (false, false) => "passed",
            (false, true) => "unavailable",
            _ => "failed",
        }
    };
    cases.map(|case| (case.attribute("name").unwrap().to_owned(), verdict(&case).to_owned())).collect()
}

/// The tests of the second level: cases.
fn of_ktap(text: &str) -> Verdicts {
    assert!(text.starts_with("KTAP version 1\n1.."), "{text}");
    let case = |line: &str| {
        let line = line.strip_prefix("  ")?;
        let (ok, rest) = match line.strip_prefix("not ok ") {
            Some(rest) => (false, rest),
            None => (true, line.strip_prefix("ok ")?),
        };
        let (id, directive) =
            rest.split_once(' ')?.1.split_once(" # ").unwrap_or((rest.split_once(' ')?.1, ""));
        let verdict = match (ok, directive.starts_with("SKIP")) {
            (true, false) => "passed",
            (true, true) => "unavailable",
            (false, _) => "failed",
        };
        Some((id.to_owned(), verdict.to_owned()))
    };
    text.lines().filter_map(case).collect()
}

/// Runs the quick suite; returns its verdicts as each format has them, and keeps what the runs leave in `artefacts`.
fn quick(artefacts: &Path, more: &[&str]) -> Verdicts {
    let folder = TempDir::new().unwrap();
    let file = |format: &str| path(folder.path()).to_owned() + "/" + format;
    let reports = ["junit", "json"].map(|format| format!("{format}={}", file(format)));
    let arguments = ["--allow-unavailable", "--keep", "--artefacts", path(artefacts)];
    let reports = ["--report", &reports[0], "--report", &reports[1]];
    let ran = run(&[&["suite"], &QUICK[..], &arguments, &reports, more].concat());
    assert_eq!(ran.status, 0, "{ran:?}");
    let read = |format: &str| fs::read_to_string(file(format)).unwrap();
    let verdicts = of_json(&read("json"));
    assert_eq!(of_junit(&read("junit")), verdicts);
    assert_eq!(of_ktap(&ran.stdout), verdicts);
    verdicts
}

#[test]
fn the_quick_suite_holds_and_leaves_the_same_every_time() {
    let folders = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let (first, second) = (folders[0].path(), folders[1].path());
    let verdicts = quick(first, &["--jobs", "1"]);
    assert_eq!(quick(second, &["--jobs", "3"]), verdicts);
    let listed = run(&[&["suite"], &QUICK[..], &["--list"]].concat());
    assert!(listed.stdout.lines().eq(verdicts.keys()), "{listed:?}");
    let passed = verdicts.iter().filter(|(_, verdict)| *verdict == "passed");
    for (case, _) in passed {
        for file in ["console", "output", "status.json"] {
            let read = |folder: &Path| fs::read(folder.join(case).join(file)).unwrap();
            assert!(!read(first).is_empty(), "{case}: {file} is empty");
            assert!(read(first) == read(second), "{case}: {file} differs");
        }
    }
}
