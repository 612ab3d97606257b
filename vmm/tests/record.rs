//! `--record`: what a machine did to its memory, replayed by the cache model alone. The last test boots the image
//! debian-cloud-6.1.

mod common;

use common::{bare_kernel, out, path, run};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use tempfile::NamedTempFile;

/// What the comments at the end of a trace say: digests of both views of memory, and counters.
fn said(trace: &NamedTempFile) -> (String, String, Value) {
    let lines = BufReader::new(File::open(trace).unwrap()).lines().map(Result::unwrap);
    let comments: Vec<_> = lines.filter_map(|line| line.strip_prefix("# ").map(str::to_owned)).collect();
    let of = |name: &str| {
        let found = comments.iter().find_map(|comment| comment.strip_prefix(name)?.strip_prefix(' '));
        found.unwrap_or_else(|| panic!("no {name} in {comments:?}")).to_owned()
    };
    (of("cpu"), of("ram"), serde_json::from_str(&of("stats")).unwrap())
}

/// What the status of a run that ends with `status` says of the cache.
fn statistics(arguments: &[&str], status: i32) -> Value {
    let file = NamedTempFile::new().unwrap();
    let ran = run(&[&["run", "--status", path(file.path())], arguments].concat());
    assert_eq!(ran.status, status, "{}", ran.stderr);
    let said: Value = serde_json::from_reader(File::open(&file).unwrap()).unwrap();
    said["cache"].clone()
}

/// Records a run that ends with `status` and replays it. Unrecorded, where not every access is shown to the model, it comes to
/// the same counters.
fn record_and_replay(arguments: &[&str], status: i32) -> Value {
    let trace = NamedTempFile::new().unwrap();
    let recorded = statistics(&[&["--record", path(trace.path())], arguments].concat(), status);
    assert_eq!(recorded["agents"][0]["agent"], "vCPU 0");
    assert_eq!(recorded, statistics(arguments, status));
    let replayed = run(&["replay", path(trace.path())]);
    assert_eq!(replayed.status, 0, "{}", replayed.stderr);
    let report: Value = serde_json::from_str(&replayed.stdout).unwrap();
    let (cpu, ram, stats) = said(&trace);
    assert_eq!((report["cpu"].as_str(), report["ram"].as_str()), (Some(&*cpu), Some(&*ram)));
    assert_eq!(report["stats"], stats);
    for (name, count) in stats.as_object().unwrap() {
        assert_eq!(recorded[name], *count, "{name}");
    }
    assert_eq!(report["findings"], Value::Array(Vec::new()));
    report
}

/// mov rdi, 0x2000000; mov ecx, 2000; again: mov [rdi], rcx; mov rax, [rdi + 0x40]; clflush [rdi]; add rdi, 24; dec ecx;
/// jnz again
const STORES: [u8; 30] = [
    0x48, 0xc7, 0xc7, 0x00, 0x00, 0x00, 0x02, 0xb9, 0xd0, 0x07, 0x00, 0x00, 0x48, 0x89, 0x0f, 0x48, 0x8b,
    0x47, 0x40, 0x0f, 0xae, 0x3f, 0x48, 0x83, 0xc7, 0x18, 0xff, 0xc9, 0x75, 0xee,
];

#[test]
fn a_recording_replays_to_the_same_memory_and_counters() {
    let kernel = bare_kernel(&[&STORES[..], &out(0xf4, 1)].concat());
    for cache in ["tiny", "short-lines", "l2", "size=2K,ways=4,policy=fifo,write=through,alloc=no", "worst"] {
        let kernel = path(kernel.path());
        let report = record_and_replay(&["--memory", "64M", "--cache", cache, "--kernel", kernel], 3);
        let stores = report["stats"]["store_hits"].as_u64().unwrap();
        let missed = report["stats"]["store_misses"].as_u64().unwrap();
        assert!(stores + missed >= 2000 && missed > 0, "{cache}: {}", report["stats"]);
    }
}

#[test]
fn what_cannot_be_recorded_is_refused() {
    let kernel = bare_kernel(&out(0xf4, 1));
    let kernel = path(kernel.path());
    let nowhere = ["run", "--kernel", kernel, "--cache", "l1", "--record", "/nonexistent/trace"];
    for (arguments, reason) in [
        (&["run", "--kernel", kernel, "--record", "/dev/null"][..], "--cache l1"),
        (&["run", "--kernel", kernel, "--record", "/dev/null", "--cache", "dma"], "scope=all"),
        (&["run", "--kernel", kernel, "--record", "/dev/full", "--cache", "l1"], "No space left"),
        (&nowhere, "No such file"),
    ] {
        let ran = run(arguments);
        assert_eq!(ran.status, 125, "{arguments:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(reason), "{}", ran.stderr);
    }
}

#[test]
fn a_boot_of_linux_replays() {
    let console = NamedTempFile::new().unwrap();
    record_and_replay(
        &["--memory", "256M", "--cache", "l1", "--deadline", "0.003", "--console", path(console.path())],
        124,
    );
}
