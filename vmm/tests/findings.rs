//! Findings end to end: the same run finds the same, byte for byte, and what is saved of a finding shows it again.
//!
//! Needs the image linux-6.12-debug.

mod common;

use common::{Ran, path, run, status_member};
use std::path::Path;

const FINDINGS: &str = "findings.jsonl";
const STATUS: &str = "status.json";

/// Runs a program whose payload is not snooped, with this cache: something is found. Findings and status are left in `folder`.
fn run_unsnooped(folder: &Path, cache: &str, seed: &str, program: &[&str]) -> Ran {
    let (findings, status) = (folder.join(FINDINGS), folder.join(STATUS));
    let options = [
        ["--kernel", "linux-6.12-debug"],
        ["--device", "mlx5,no-snoop=payload,umr=off"],
        ["--cache", cache],
        ["--ready-seed", seed],
        ["--findings", path(&findings)],
        ["--status", path(&status)],
    ];
    let ran = run(&[&["run"], options.as_flattened(), &["--"], program].concat());
    assert_eq!(ran.status, 123, "{ran:?}");
    ran
}

/// What an adversary brings about; returns the findings' file, the report and the traces.
fn find(folder: &Path, seed: &str) -> (String, String, Vec<(String, String)>) {
    let ran = run_unsnooped(folder, "random", seed, &["verbs-verify", "--polling", "uc.send"]);
    assert_eq!(status_member(&folder.join(STATUS), "guest_exit"), 1, "{ran:?}");
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
    (std::fs::read_to_string(folder.join(FINDINGS)).unwrap(), report, traces)
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

/// What a run with this cache finds, but how the line came to be as it is, and how many reads it has not judged.
fn judge(cache: &str) -> (Vec<Vec<serde_json::Value>>, u64) {
    let folder = tempfile::tempdir().unwrap();
    let pingpong = "(ibv_rc_pingpong -c -n 2 & sleep 1; ibv_rc_pingpong -c -n 2 127.0.0.1)";
    run_unsnooped(folder.path(), cache, "7", &["sh", "-c", pingpong]);
    let findings = std::fs::read_to_string(folder.path().join(FINDINGS)).unwrap();
    let findings = findings.lines().map(|line| {
        let finding: serde_json::Value = serde_json::from_str(line).unwrap();
        let keys =
            ["kind", "verdict", "addr", "len", "expected", "found", "blame", "count", "culprit", "victim"];
        keys.map(|key| finding[key].clone()).to_vec()
    });
    let unjudged = status_member(&folder.path().join(STATUS), "cache")["unjudged"].as_u64().unwrap();
    (findings.collect(), unjudged)
}

/// Buffers that are written before they are registered, and not after: what was written is of lines of unknown past.
#[test]
fn with_the_pages_of_the_run_before_only_those_of_devices_find_what_all_find() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("pages");
    let cache = format!("dma,pages={}", path(&list));
    let first = judge(&cache);
    let pages = std::fs::read_to_string(&list).unwrap();
    assert!(pages.lines().filter(|line| line.starts_with("0x")).count() > 10, "{pages}");
    let (second, all) = (judge(&cache), judge("l1"));
    assert_eq!(std::fs::read_to_string(&list).unwrap(), pages, "the next run only reads it");
    assert!(first.1 > 0 && first.0.len() < second.0.len(), "{first:?} {second:?}");
    assert_eq!(second, all);
    assert_eq!(all.1, 0);

    std::fs::write(&list, "0x1000\n0x1001\n").unwrap();
    let wrong = format!("--cache pages=: {}:2: 0x1001 is not the address of a page", path(&list));
    let nowhere = format!("pages={}", path(&folder.path().join("none/list")));
    let no_folder = format!("--cache {nowhere}: there is no such folder");
    for (cache, reason) in [(&cache, wrong), (&format!("dma,{nowhere}"), no_folder)] {
        let refused = run(&["run", "--kernel", "linux-6.12-debug", "--cache", cache]);
        assert!(refused.status == 125 && refused.stderr.contains(&reason), "{refused:?}");
    }
}
