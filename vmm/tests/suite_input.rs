//! `staleline suite` on input that cannot be used: an error of that scenario alone, named, with file and line where there is one;
//! the others run. Image: linux-6.12-debug, built at first use, where a test says so.

mod common;

use common::suite::{HOLDS, Suite, named, verdicts};
use common::{path, run};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

/// Runs a suite of one scenario that cannot be used and one that holds; returns the reason.
fn reason(suite: &Suite) -> String {
    let ran = suite.run(&["--format", "json"]);
    assert_eq!(ran.status, 125, "{ran:?}");
    let all = verdicts(&ran);
    assert!(all.contains(&("holds/seed-1".into(), "passed".into())), "{all:?}");
    let [(what, verdict)] = all.iter().filter(|(id, _)| id != "holds/seed-1").collect::<Vec<_>>()[..] else {
        panic!("one error: {all:?}");
    };
    if what == "error" {
        return verdict.clone();
    }
    assert_eq!((&**what, &**verdict), ("bad/seed-1", "error"));
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    report["scenarios"][0]["cases"][0]["reason"].as_str().unwrap().to_owned()
}

fn refused(text: &str, expected: &str) {
    let suite = Suite::new(&[("bad", text), ("holds", HOLDS)]);
    let reason = reason(&suite);
    let place = suite.folder.path().join("bad.toml");
    // The scenarios begin with two lines of head.
    let expected = expected.replace("FILE", path(&place)).replace("DIR", path(suite.folder.path()));
    assert!(reason.starts_with(&expected), "{text}\n{reason}\nnot {expected}");
}

#[test]
fn keys_and_values() {
    refused("bogus = 1", "FILE:3:1: unknown field `bogus`");
    refused("[guest\n", "FILE:3:7: ");
    refused(&format!("seeds = '1..9223372036854775807'\n{HOLDS}"), "FILE:3:9: more than 100000 seeds");
    refused(&format!("seeds = [1, -1]\n{HOLDS}"), "FILE:3:13: invalid value");
    refused("[guest]\ndma = 'lying'\n[[expect]]\nstatus = 0", "--dma lying: not yet");
    refused("[[step]]\nrun = ['a', \"b\\u0000\"]", "FILE:4:7: run: no argument");
    refused("[guest]\ncmdline = \"a\\u0000\"\n[[expect]]\nstatus = 0", "FILE:4:11: ");
    // As deep as that a reader that calls itself would not come.
    refused(&format!("bogus = {}", "[".repeat(100_000)), "FILE:3:");
    let long = format!("# {}\n{HOLDS}", "x".repeat(4 << 20));
    refused(&long, "FILE: longer than the 4194304 bytes");
}

#[test]
fn impossible_matrices() {
    refused(&format!("[matrix]\ncpus = []\n{HOLDS}"), "FILE:4:8: axis 'cpus' has no values");
    refused(&format!("[matrix]\ncpus = [1,\n1]\n{HOLDS}"), "FILE:5:1: axis 'cpus' has the value '1' twice");
    let axis = |name: &str, values: usize| {
        let values: String = (0..values).map(|value| format!("v{value} = {{}}, ")).collect();
        format!("{name} = {{ {} }}\n", values.trim_end_matches(", "))
    };
    let many = format!("[matrix]\n{}{}{HOLDS}", axis("a", 1000), axis("b", 1000));
    refused(&many, "FILE:4:5: the matrix has 1000 × 1000 = 1000000 cells, more than 10000");
    let seeds = format!("seeds = '1..1000'\n[matrix]\n{}{HOLDS}", axis("a", 1000));
    refused(&seeds, "FILE:3:9: 1000 cells with 1000 seeds each are 1000000 cases, more than 100000");
    let suite = Suite::new(&[("bad", &format!("[matrix]\n{}{HOLDS}", axis("a", 1000)))]);
    let ran = suite.run(&["--seeds", "1..1000"]);
    assert!(ran.status == 125 && ran.stdout.contains("1000 cells with 1000 seeds each"), "{ran:?}");
}

#[test]
fn files_that_are_not_there() {
    let file = "No such file or directory (os error 2)";
    let rest = "[[step]]\nrun = ['true']";
    refused(
        "[guest]\nkernel = './nothing'\n[[expect]]\nstatus = 0",
        &format!("FILE:4:10: kernel: DIR/nothing: {file}"),
    );
    for key in ["initrd", "restore", "kernel-source"] {
        let place = format!("FILE:4:{}", key.len() + 4);
        refused(&format!("[guest]\n{key} = 'i'\n{rest}"), &format!("{place}: {key}: DIR/i: {file}"));
    }
    let files = format!("[guest]\nfiles = ['exits', 'i:/x']\n{rest}");
    refused(&files, &format!("FILE:4:19: files: DIR/i: {file}"));
    refused(&format!("[guest]\nmodules = ['m']\n{rest}"), &format!("FILE:4:12: modules: DIR/m: {file}"));
    let device = format!("[guest]\ndevices = [\n'mlx5',\n'blk,path=d']\n{rest}");
    refused(&device, &format!("FILE:6:1: devices: DIR/d: {file}"));
    let pages = format!("[guest]\ncache = 'dma,pages=p'\n{rest}");
    refused(&pages, "--cache pages=DIR/p: no such file (`staleline run` writes it)");
    let axis = format!("[guest]\n[matrix]\nx = {{ y = {{ devices = ['console,in=d'] }} }}\n{rest}");
    let suite = Suite::new(&[("bad", &axis)]);
    assert!(suite.run(&[]).stdout.contains("bad.toml:5:24: devices: "));
    refused(&format!("[guest]\nkernel = 'no-such-image'\n{rest}"), "FILE:4:10: kernel: no image is called");
}

#[test]
fn trees_that_are_none() {
    let suite =
        Suite::new(&[("bad", "[guest]\nkernel-source = '.'\n[[step]]\nrun = ['true']"), ("holds", HOLDS)]);
    let reason = reason(&suite);
    assert!(reason.contains("bad.toml:4:17: kernel-source: "), "{reason}");
    assert!(reason.contains("not a Linux source tree"), "{reason}");
}

#[test]
fn guests_that_never_come_to_their_ready_mark() {
    let steps = "[[step]]\nrun = ['true']";
    refused(
        &format!("[guest]\nkernel = './exits'\n{steps}"),
        "the guest did not come to its ready mark: debug-exit",
    );
    let spins = format!("deadline = 0.01\n[guest]\nkernel = './spins'\n{steps}");
    let suite = Suite::new(&[("bad", &spins), ("holds", HOLDS)]);
    let expected = [("bad/seed-1", "timed-out"), ("holds/seed-1", "passed")];
    assert_eq!(suite.verdicts(&[]), (1, named(expected)));
    let problems = fs::read_to_string(suite.artefacts().join("bad/seed-1/problems")).unwrap();
    assert!(problems.contains("before the guest's ready mark"), "{problems}");
}

#[test]
fn files_that_are_no_scenarios() {
    let suite = Suite::new(&[("holds", HOLDS)]);
    let add = |name: &str, bytes: &[u8]| fs::write(suite.folder.path().join(name), bytes).unwrap();
    add("a-bytes.toml", b"bug = '\xff'\n");
    add("b-empty.toml", b"");
    std::os::unix::fs::symlink("/nonexistent", suite.folder.path().join("c-link.toml")).unwrap();
    // Opening a pipe to which nobody writes would wait for ever.
    let pipe = std::process::Command::new("mkfifo").arg(suite.folder.path().join("d-pipe.toml")).status();
    assert!(pipe.unwrap().success());
    let twice = |file: &str| add(file, format!("name = 'e'\nbug = 'b'\nsource = 's'\n{HOLDS}").as_bytes());
    twice("e-one.toml");
    twice("f-two.toml");
    let odd = suite.folder.path().join(OsStr::from_bytes(b"g-\xff.toml"));
    fs::copy(suite.folder.path().join("holds.toml"), odd).unwrap();
    let (status, verdicts) = suite.verdicts(&[]);
    assert_eq!(status, 125);
    let folder = format!("{}/", suite.folder.path().display());
    let said: Vec<_> =
        verdicts.iter().map(|(id, verdict)| format!("{id} {}", verdict.replace(&folder, ""))).collect();
    let expected = [
        "error a-bytes.toml: not a text in UTF-8: the byte at offset 7 is none",
        "error b-empty.toml:1:1: missing field `bug`",
        "error c-link.toml: No such file or directory (os error 2)",
        "error d-pipe.toml: not a file",
        "e/seed-1 passed",
        "error f-two.toml: the name 'e' is taken by e-one.toml",
        "g-_/seed-1 passed",
        "holds/seed-1 passed",
    ];
    assert_eq!(said, expected);
    for (paths, reason) in [("/nonexistent", "No such file"), (path(&suite.artefacts()), "no scenarios")] {
        fs::create_dir_all(suite.artefacts()).unwrap();
        let ran = run(&["suite", paths]);
        assert!(ran.status == 125 && ran.stderr.contains(reason), "{ran:?}");
    }
}

/// With linux-6.12-debug.
#[test]
fn modules_that_do_not_compile() {
    let bad = "[guest]\nkernel = 'linux-6.12-debug'\nmodules = ['driver']\n[[step]]\nrun = ['true']";
    let suite = Suite::new(&[("bad", bad), ("holds", HOLDS)]);
    let folder = suite.folder.path().join("driver");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("Makefile"), "obj-m := driver.o\n").unwrap();
    fs::write(folder.join("driver.c"), "this is no C;\n").unwrap();
    let reason = reason(&suite);
    assert!(reason.contains("bad.toml:5:12: modules: ") && reason.contains("this is no C"), "{reason}");
}

/// With linux-6.12-debug.
#[test]
fn machines_that_cannot_be_restored() {
    let restore = |file: &str| format!("[guest]\nrestore = '{file}'\n[[step]]\nrun = ['true']");
    let of = |name: &str| restore(&format!("{name}.saved"));
    let names = ["altered", "empty", "foreign", "truncated", "whole"];
    let scenarios: Vec<_> = names.iter().map(|name| (*name, of(name))).collect();
    let scenarios: Vec<_> = scenarios.iter().map(|(name, text)| (*name, text.as_str())).collect();
    let suite = Suite::new(&scenarios);
    let file = |name: &str| suite.folder.path().join(format!("{name}.saved"));
    let saved =
        run(&["run", "--kernel", "linux-6.12-debug", "--memory", "128M", "--save", path(&file("whole"))]);
    assert_eq!(saved.status, 0, "{saved:?}");
    let whole = fs::read(file("whole")).unwrap();
    let middle = whole.len() / 2;
    let mut altered = whole.clone();
    altered[middle] ^= 1;
    fs::write(file("altered"), altered).unwrap();
    fs::write(file("empty"), "").unwrap();
    fs::copy(suite.folder.path().join("exits"), file("foreign")).unwrap();
    fs::write(file("truncated"), &whole[..middle]).unwrap();

    let ran = suite.run(&["--format", "json"]);
    assert_eq!(ran.status, 125, "{ran:?}");
    let expected = [
        ("altered/seed-1", "error"),
        ("empty/seed-1", "error"),
        ("foreign/seed-1", "error"),
        ("truncated/seed-1", "error"),
        ("whole/seed-1", "passed"),
    ];
    assert_eq!(verdicts(&ran), named(expected));
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    for (at, name) in names.iter().enumerate().take(4) {
        let reason = report["scenarios"][at]["cases"][0]["reason"].as_str().unwrap();
        assert!(reason.contains(&format!("{name}.saved: ")), "{reason}");
    }
}

/// With linux-6.12-debug.
#[test]
fn paths_start_from_the_scenarios_folder() {
    let text = "[guest]\nkernel = 'linux-6.12-debug'\ndevices = ['blk,path=data/disk,readonly=on']\n\
                files = ['data/greeting:/greeting']\n[[step]]\nrun = ['head', '-c', '5', '/dev/vda']\n\
                [[step.expect]]\noutput = [{ whole = 'disk!' }]\n[[step]]\nrun = ['cat', '/greeting']\n\
                [[step.expect]]\noutput = [{ whole = 'hello' }]";
    let suite = Suite::new(&[("paths", text)]);
    fs::create_dir(suite.folder.path().join("data")).unwrap();
    let mut disk = b"disk!".to_vec();
    disk.resize(4096, 0);
    fs::write(suite.folder.path().join("data/disk"), disk).unwrap();
    fs::write(suite.folder.path().join("data/greeting"), "hello").unwrap();
    let verdicts = suite.verdicts(&[]);
    assert_eq!(verdicts, (0, named([("paths/seed-1", "passed")])), "{:?}", suite.run(&[]));
}
