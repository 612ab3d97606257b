//! Two runs from the same inputs are the same: console bytes to the last time stamp, output, instructions and virtual time.
//!
//! Images: debian-cloud-6.1 and linux-6.12-debug, built at first use.

mod common;

use common::{new_file, path, run, status_member};

/// Host seconds that a run may take on a slow, busy machine.
const PATIENCE: &str = "600";
/// Time that is skipped, random numbers, clocks, and a driver's work.
const MIXED: &str = "sleep 5; head -c 16 /dev/urandom | od -x; date; cat /proc/uptime; regtwice";
/// Processes whose turns interrupts decide, times that a program measures, and a remote node that acts by itself.
const TRAFFIC: &str = "set -e
    pair ibv_rc_pingpong -c -e -n 200
    verbs-verify rc.mixed rc.shared-counter fault.no-receive event.
    peer-walk";

#[derive(Debug, PartialEq, Eq)]
struct Record {
    console: Vec<u8>,
    output: String,
    instructions: u64,
    virtual_nanos: u64,
}

/// What a run of `script` leaves.
fn record(image: &str, options: &[&str], script: &str) -> Record {
    let ((_first, console), (_second, status)) = (new_file(), new_file());
    let arguments = ["run", "--kernel", image, "--device", "mlx5", "--timeout", PATIENCE];
    let files = ["--console", path(&console), "--status", path(&status)];
    let ran = run(&[&arguments[..], options, &files, &["--", "sh", "-c", script]].concat());
    assert_eq!(ran.status, 0, "{ran:?}");
    let number = |name: &str| status_member(&status, name).as_u64().unwrap();
    let console = std::fs::read(console).unwrap();
    assert!(!console.is_empty() && !ran.stdout.is_empty(), "nothing to compare: {ran:?}");
    Record {
        console,
        output: ran.stdout,
        instructions: number("instructions"),
        virtual_nanos: number("virtual_nanos"),
    }
}

fn two_runs_are_alike(image: &str, options: &[&str], script: &str) -> Record {
    let first = record(image, options, script);
    assert!(first == record(image, options, script), "two runs differ: {}", first.output);
    first
}

#[test]
fn of_a_stock_kernel() {
    let ran = two_runs_are_alike("debian-cloud-6.1", &[], MIXED);
    assert!(ran.virtual_nanos - ran.instructions > 4_000_000_000, "the sleep was skipped, not executed");
}

#[test]
fn of_a_stock_kernel_with_three_vcpus() {
    two_runs_are_alike("debian-cloud-6.1", &["--cpus", "3"], MIXED);
}

#[test]
fn of_programs_that_wait_for_the_device_and_each_other() {
    let pair = concat!(env!("CARGO_MANIFEST_DIR"), "/../ci/suites/rdma/pair:/bin/pair");
    let ran = two_runs_are_alike("linux-6.12-debug", &["--cpus", "2", "--file", pair], TRAFFIC);
    for text in ["iters in", " tests passed, 0 failed", "result: ok"] {
        assert!(ran.output.contains(text), "no {text:?} in {}", ran.output);
    }
}

#[test]
fn the_seed_decides_random_numbers() {
    let first = two_runs_are_alike("linux-6.12-debug", &["--seed", "1"], MIXED);
    let other = record("linux-6.12-debug", &["--seed", "2"], MIXED);
    assert!(first.output != other.output, "another seed gives the same random bytes");
}
