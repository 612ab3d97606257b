//! Findings end to end: the same run finds the same, byte for byte, and what is saved of a finding shows it again.
//!
//! Needs the image linux-6.12-debug.

mod common;

use common::{path, run};
use std::path::Path;

/// A program whose payload is not snooped, under an adversary; returns the findings' file, the report and the traces.
fn find(folder: &Path, seed: &str) -> (String, String, Vec<(String, String)>) {
    let (findings, status) = (folder.join("findings.jsonl"), folder.join("status.json"));
    let ran = run(&[
        "run",
        "--kernel",
        "linux-6.12-debug",
        "--device",
        "mlx5,no-snoop=payload,umr=off",
        "--cache",
        "random",
        "--ready-seed",
        seed,
        "--findings",
        path(&findings),
        "--status",
        path(&status),
        "--",
        "verbs-verify",
        "--polling",
        "uc.send",
    ]);
    let status = std::fs::read_to_string(status).unwrap();
    assert!(status.contains(r#""guest_exit": 1"#), "{status}\n{ran:?}");
    assert_eq!(ran.status, 123, "{ran:?}");
    let traces = std::fs::read_dir(folder.join("traces")).unwrap();
    let mut traces: Vec<_> = traces
        .map(|entry| {
            let entry = entry.unwrap();
            let text = std::fs::read_to_string(entry.path()).unwrap();
            (entry.file_name().into_string().unwrap(), text)
        })
        .collect();
    traces.sort();
    let report = ran.stderr.replace(path(folder), "");
    (std::fs::read_to_string(findings).unwrap(), report, traces)
}

#[test]
fn a_seed_finds_the_same_each_time_and_its_traces_show_it() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let first = find(folders[0].path(), "7");
    assert!(!first.0.is_empty() && first.1.contains("BUG: staleline: "), "{}", first.1);
    assert!(first == find(folders[1].path(), "7"), "the same seed finds something else");
    assert!(first.0 != find(folders[2].path(), "8").0, "another seed changes nothing");

    assert!(!first.2.is_empty());
    for (name, _) in &first.2 {
        let trace = folders[0].path().join("traces").join(name);
        let replayed = run(&["replay", path(&trace)]);
        assert_eq!(replayed.status, 0, "{replayed:?}");
        let report: serde_json::Value = serde_json::from_str(&replayed.stdout).unwrap();
        let replayed = report["findings"].as_array().unwrap();
        let line = first.0.lines().find(|line| line.contains(name.as_str())).unwrap();
        let told: serde_json::Value = serde_json::from_str(line).unwrap();
        let same = |found: &serde_json::Value| {
            ["kind", "verdict", "addr", "expected", "found"].iter().all(|key| found[key] == told[key])
        };
        assert!(replayed.iter().any(same), "{name}: {replayed:?} is not {told}");
    }
}
