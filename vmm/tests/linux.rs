//! Stock kernels: they boot to a shell, run commands, bind the mlx5 driver, and do it all alike every time.
//!
//! Images: debian-cloud-6.1 and debian-cloud-6.12, built at first use.

mod common;

use common::{new_file, path, run, staleline, status_member};
use std::io::Write;
use std::process::Stdio;

/// Host seconds that a run may take on a slow, busy machine.
const PATIENCE: &str = "600";

fn boots_to_a_shell(image: &str) {
    let mut child = staleline(&["run", "--kernel", image, "--timeout", PATIENCE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // Typed ahead: it enters once the shell has opened its terminal.
    stdin.write_all(b"echo answer $((6 * 7)); uname -r; poweroff -f\n").unwrap();
    let ran: common::Ran = child.wait_with_output().unwrap().into();
    drop(stdin);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.stdout.contains("Linux version 6."), "{ran:?}");
    assert!(ran.stdout.contains("answer 42"), "{ran:?}");
    assert!(ran.stdout.contains("cloud-amd64\r\n"), "{ran:?}");
    assert!(!ran.stdout.contains("BUG:") && !ran.stdout.contains("WARNING:"), "{ran:?}");
}

#[test]
fn stock_6_1_boots_to_a_shell() {
    boots_to_a_shell("debian-cloud-6.1");
}

#[test]
fn stock_6_12_boots_to_a_shell() {
    boots_to_a_shell("debian-cloud-6.12");
}

/// Two runs from the same inputs give the same console bytes, to the last time stamp, and the same instruction count.
#[test]
fn two_boots_are_alike() {
    let boot = |seed: &str| {
        let (_folders, (console, status)) = {
            let (first, console) = new_file();
            let (second, status) = new_file();
            ((first, second), (console, status))
        };
        let ran = run(&[
            "run",
            "--kernel",
            "debian-cloud-6.1",
            "--device",
            "mlx5",
            "--seed",
            seed,
            "--timeout",
            PATIENCE,
            "--console",
            path(&console),
            "--status",
            path(&status),
            "--",
            "sh",
            "-c",
            "sleep 5; head -c 16 /dev/urandom | od -x; date; cat /proc/uptime; regtwice",
        ]);
        assert_eq!(ran.status, 0, "{ran:?}");
        let instructions = status_member(&status, "instructions").as_u64().unwrap();
        let time = status_member(&status, "virtual_nanos").as_u64().unwrap();
        assert!(time - instructions > 4_000_000_000, "the sleep was skipped, not executed");
        (std::fs::read(console).unwrap(), ran.stdout, instructions, time)
    };
    let first = boot("1");
    assert!(first == boot("1"), "two runs differ");
    assert!(first.1 != boot("2").1, "another seed gives other random bytes");
}

#[test]
fn commands_have_their_output_and_status() {
    let ran = run(&[
        "run",
        "--timeout",
        PATIENCE,
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; dmesg -n 8; echo noise > /dev/kmsg; exit 7",
    ]);
    assert_eq!((ran.status, ran.stdout.as_str()), (7, "out\n"), "{ran:?}");
    assert!(ran.stderr.contains("err\n"), "{ran:?}");
}

#[test]
fn commands_that_cannot_run_or_are_killed_have_the_shell_s_status() {
    assert_eq!(run(&["run", "--timeout", PATIENCE, "--", "/nonexistent"]).status, 127);
    assert_eq!(run(&["run", "--timeout", PATIENCE, "--", "sh", "-c", "kill -9 $$"]).status, 137);
}

#[test]
fn a_panic_is_255_with_its_cause() {
    let (_folder, status) = new_file();
    let ran = run(&[
        "run",
        "--timeout",
        PATIENCE,
        "--status",
        path(&status),
        "--",
        "sh",
        "-c",
        "echo c > /proc/sysrq-trigger",
    ]);
    assert_eq!(ran.status, 255, "{ran:?}");
    assert_eq!(status_member(&status, "cause"), "panic");
    assert!(ran.stderr.contains("Kernel panic - not syncing: sysrq triggered crash"), "{ran:?}");
}

/// The stock driver of the stock kernel binds, the port is up, and both registrations succeed: there is no dma-debug.
#[test]
fn the_stock_driver_binds_to_mlx5() {
    let ran = run(&[
        "run",
        "--kernel",
        "debian-cloud-6.12",
        "--device",
        "mlx5",
        "--timeout",
        PATIENCE,
        "--",
        "sh",
        "-c",
        "ibv_devinfo && regtwice",
    ]);
    assert_eq!(ran.status, 0, "{ran:?}");
    for text in ["PORT_ACTIVE", "port_lid:\t\t1", "page+0 length 0x1000: ok", "page+1 length 0xfff: ok"] {
        assert!(ran.stdout.contains(text), "no {text:?} in {ran:?}");
    }
}
