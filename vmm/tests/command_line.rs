//! Bad input gets a clear error and exit status 125; the small subcommands work.

mod common;

use common::{bare_kernel, file, path, run, staleline};
use std::io::Write;
use std::process::Stdio;

/// Runs and expects status 125 with all of `words` on standard error and nothing on standard output.
fn refused(arguments: &[&str], words: &[&str]) {
    let ran = run(arguments);
    assert_eq!(ran.status, 125, "{arguments:?}: {ran:?}");
    assert_eq!(ran.stdout, "", "{arguments:?}");
    for word in words {
        assert!(ran.stderr.contains(word), "{arguments:?}: no {word:?} in {}", ran.stderr);
    }
}

#[test]
fn usage_errors_are_125() {
    refused(&[], &["Usage"]);
    refused(&["bogus"], &["bogus"]);
    refused(&["run", "--bogus"], &["--bogus"]);
    refused(&["run", "--memory", "512"], &["unit"]);
    refused(&["run", "--timeout", "0"], &["--timeout"]);
    refused(&["run", "--seed", "x"], &["--seed"]);
    refused(&["run", "--ready-seed", "7"], &["--ready-seed", "no ready mark"]);
    for option in
        ["--kernel=b", "--memory=1G", "--cpus=2", "--device=rng", "--seed=2", "--file=b", "--save=b"]
    {
        let (name, _) = option.split_once('=').unwrap();
        refused(&["run", "--restore", "a", option, "--", "true"], &["--restore", name]);
    }
    refused(&["run", "--restore", "a"], &["--restore", "command"]);
    refused(&["run", "--engine", "kvm", "--restore", "a", "--", "true"], &["--restore", "KVM"]);
    refused(&["run", "--engine", "kvm", "--save", "a"], &["--save", "KVM"]);
    refused(&["repro", "--expect", "absent"], &["NAME"]);
    refused(&["images", "bogus"], &["bogus"]);
}

#[test]
fn help_and_version_are_not_errors() {
    for arguments in [&["--help"][..], &["run", "--help"], &["--version"]] {
        let ran = run(arguments);
        assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{arguments:?}");
        assert!(ran.stdout.contains("staleline"));
    }
}

#[test]
fn options_of_later_versions_say_not_yet() {
    for option in [&["--arch", "riscv64"][..], &["--dma", "noncoherent"]] {
        let mut arguments = vec!["run"];
        arguments.extend_from_slice(option);
        refused(&arguments, &["not yet", option[0]]);
    }
}

#[test]
fn iommus_and_what_they_need_are_checked() {
    refused(&["run", "--iommu", "on"], &["'on'", "off, bounce or window=BASE+SIZE"]);
    refused(&["run", "--iommu", "window=1G"], &["window=1G", "BASE+SIZE"]);
    refused(&["run", "--iommu", "window=0+0"], &["no such addresses"]);
    refused(&["run", "--iommu", "bounce", "--ledger", "off"], &["--iommu bounce", "--ledger off"]);
    refused(
        &["run", "--kernel", "/dev/null", "--iommu", "bounce", "--cmdline", "swiotlb=noforce"],
        &["--iommu bounce", "swiotlb=noforce"],
    );
}

#[test]
fn devices_are_checked() {
    refused(&["run", "--device", "e1000"], &["e1000", "mlx5"]);
    refused(&["run", "--device", "mlx5,speed=9"], &["speed", "port"]);
    refused(&["run", "--device", "mlx5,port=fc"], &["fc", "eth"]);
    refused(&["run", "--device", "mlx5,slot=0"], &["'0'", "slot"]);
    refused(&["run", "--device", "mlx5", "--device", "mlx5"], &["slot 8", "twice"]);
    refused(&["run", "--cpus", "0"], &["--cpus 0", "1 to 8"]);
    refused(&["run", "--cpus", "9"], &["--cpus 9", "1 to 8"]);
}

#[test]
fn caches_and_what_needs_them_are_checked() {
    refused(&["run", "--cache", "size=1K,ways=3"], &["size=1024", "whole number of sets"]);
    refused(&["run", "--cache", "l3"], &["'l3'", "l1, "]);
    refused(&["run", "--cache", "l1", "--engine", "kvm"], &["--cache", "--engine soft"]);
    refused(&["run", "--ledger", "on", "--engine", "kvm"], &["--ledger", "--engine soft"]);
    refused(&["run", "--symbols", "x"], &["--symbols", "--ledger on"]);
    refused(
        &["run", "--ledger", "on", "--symbols", "/nowhere/System.map"],
        &["--symbols", "/nowhere/System.map"],
    );
    refused(&["run", "--record", "x"], &["--record", "--cache"]);
}

#[test]
fn files_of_symbols_are_checked() {
    let none = file(b"");
    let text = file(b"not a map\n");
    let map = file(b"ffffffff81000000 T _text\n");
    let broken = file(b"\x7fELF\x02\x01\x01 and no more");
    let program = bare_kernel(&[0xf4]);
    for (symbols, reason) in [
        (&none, "it has no symbols"),
        (&text, "line 1 is not an address, a letter and a name"),
        (&map, "it has no entry_SYSCALL_64"),
        (&broken, "an uncompressed vmlinux with its symbol table is wanted, or its System.map"),
        (&program, "it has no symbols"),
    ] {
        let symbols = path(symbols.path());
        refused(&["run", "--ledger", "on", "--symbols", symbols], &["--symbols", symbols, reason]);
    }
    refused(&["run", "--ledger", "on", "--symbols", "/"], &["--symbols", "/: ", "directory"]);
}

#[test]
fn kernels_are_checked() {
    refused(&["run", "--kernel", "/nonexistent/vmlinuz"], &["/nonexistent/vmlinuz", "No such file"]);
    refused(&["run", "--kernel", "unknown-image"], &["unknown-image", "linux-6.12-debug"]);
    refused(&["run", "--kernel", "/"], &["kernel /", "directory"]);
    let garbage = file(&[0x5a; 10_000]);
    refused(&["run", "--kernel", path(garbage.path())], &[path(garbage.path()), "neither"]);
    let empty = file(&[]);
    refused(&["run", "--kernel", path(empty.path())], &[path(empty.path())]);
    let mut arm = vec![0; 4096];
    arm[0x38..0x3c].copy_from_slice(b"ARM\x64");
    let arm = file(&arm);
    refused(&["run", "--kernel", path(arm.path())], &["AArch64", "x86-64"]);
    let whole = std::fs::read(bare_kernel(&[0xf4; 100]).path()).unwrap();
    let cut = file(&whole[..whole.len() - 50]);
    refused(&["run", "--kernel", path(cut.path())], &["cut off"]);
}

#[test]
fn memory_and_initrd_are_checked() {
    let kernel = bare_kernel(&[0xf4]);
    let kernel = path(kernel.path());
    refused(&["run", "--kernel", kernel, "--memory", "1M"], &["too little"]);
    refused(&["run", "--kernel", kernel, "--memory", "16M"], &["too little memory", kernel]);
    refused(&["run", "--kernel", kernel, "--memory", "999999G"], &["more than"]);
    refused(
        &["run", "--kernel", kernel, "--initrd", "/nonexistent"],
        &["initrd /nonexistent", "No such file"],
    );
    let large = tempfile::NamedTempFile::new().unwrap();
    large.as_file().set_len(40 << 20).unwrap();
    let large = path(large.path());
    refused(&["run", "--kernel", kernel, "--memory", "32M", "--initrd", large], &[large, "fit"]);
    let long = "x".repeat(5000);
    refused(&["run", "--kernel", kernel, "--cmdline", &long], &["command line", "5000"]);
}

#[test]
fn an_error_is_in_the_status_file() {
    let (_folder, status) = common::new_file();
    let ran = run(&["run", "--kernel", "/nonexistent", "--status", path(&status)]);
    assert_eq!(ran.status, 125);
    assert_eq!(common::status_member(&status, "cause"), "error");
    assert!(common::status_member(&status, "detail").as_str().unwrap().contains("/nonexistent"));
}

#[test]
fn unwritable_outputs_are_errors() {
    let kernel = bare_kernel(&[0xf4]);
    let kernel = path(kernel.path());
    refused(&["run", "--kernel", kernel, "--console", "/nonexistent/c"], &["--console /nonexistent/c"]);
    refused(&["run", "--kernel", kernel, "--status", "/nonexistent/s"], &["--status /nonexistent/s"]);
}

#[test]
fn replay_judges_traces() {
    let config = "config line=64 sets=4 ways=2 policy=lru write=back alloc=yes writeback=line mem=8192\n";
    let good = file(format!("{config}store 0 0x100 01020304\nexpect cpu 0x100 01020304\n").as_bytes());
    let ran = run(&["replay", path(good.path())]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(report["failed"], serde_json::json!([]));
    let bad = file(format!("{config}store 0 0x100 01\nexpect ram 0x100 01\n").as_bytes());
    let ran = run(&["replay", path(bad.path())]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.stdout.contains("\"line_no\": 3"), "{}", ran.stdout);
    refused(&["replay", "/nonexistent"], &["trace /nonexistent"]);
    let broken = file(b"nonsense\n");
    refused(&["replay", path(broken.path())], &[&format!("{}:1: unknown operation", path(broken.path()))]);
    let late = file(format!("# a comment\n{config}load 0 8190 4\n").as_bytes());
    let place = format!("{}:3: 4 bytes at 0x1ffe are outside memory", path(late.path()));
    refused(&["replay", path(late.path())], &[&place]);
}

#[test]
fn replay_reads_standard_input() {
    let config = "config sets=4 ways=2 mem=8192\r\n";
    for (trace, status) in [("expect cpu 0 00", 0), ("expect cpu 0 01\n", 1), ("expect cpu 0 0\n", 125)] {
        let mut child = staleline(&["replay", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(format!("{config}{trace}").as_bytes()).unwrap();
        let ran: common::Ran = child.wait_with_output().unwrap().into();
        assert_eq!(ran.status, status, "{ran:?}");
        assert_eq!(
            ran.stderr.contains("<stdin>:2: data is not pairs of hex digits"),
            status == 125,
            "{ran:?}"
        );
    }
}

#[test]
fn the_coherence_vectors_hold() {
    let vectors = concat!(env!("CARGO_MANIFEST_DIR"), "/../cache-model/tests/data/coherence-vectors.txt");
    let ran = run(&["replay", vectors]);
    assert_eq!(ran.status, 0, "{ran:?}");
}

#[test]
fn repro_without_a_name_lists() {
    let ran = run(&["repro"]);
    assert_eq!(ran.status, 0);
    assert!(ran.stdout.contains("mlx5-eexist"));
    refused(&["repro", "nothing"], &["nothing", "mlx5-eexist"]);
}

#[test]
fn images_are_listed_and_hashed() {
    let folder = tempfile::tempdir().unwrap();
    let images = |arguments: &[&str]| -> common::Ran {
        staleline(arguments).env("XDG_CACHE_HOME", folder.path()).output().unwrap().into()
    };
    let list = images(&["images", "list"]);
    assert_eq!(list.status, 0, "{list:?}");
    assert!(list.stdout.lines().all(|line| line.contains("not built")), "{}", list.stdout);
    let hash = images(&["images", "hash", "linux-6.12-debug"]);
    assert!(hash.stdout.trim().len() >= 16 && hash.stdout.trim().bytes().all(|b| b.is_ascii_hexdigit()));
    let path = images(&["images", "path", "linux-6.12-debug"]);
    assert_eq!((path.status, path.stdout.as_str()), (125, ""));
    assert!(path.stderr.contains("images build linux-6.12-debug"));
    assert_eq!(images(&["images", "path", "nothing"]).status, 125);
}

#[test]
fn doctor_reports_on_engines_tools_and_cache() {
    let ran = run(&["doctor", "--offline"]);
    for word in ["soft", "kvm", "make", "image cache"] {
        assert!(ran.stdout.contains(word), "{word}: {}", ran.stdout);
    }
}
