//! Linux in a terminal and by commands: what is typed, what comes back, and how a run ends. What guests do beyond that is in
//! `ci/suites`.
//!
//! Images: debian-cloud-6.1 and debian-cloud-6.12, and for what needs no stock kernel linux-6.12-debug, which boots in a
//! second. They are built at first use.

mod common;

use common::{new_file, path, run, staleline, status_member};
use std::io::Write;
use std::process::Stdio;

/// Host seconds that a run may take on a slow, busy machine.
const PATIENCE: &str = "600";

fn image(name: &str) -> guest_images::Image {
    let store = guest_images::Store::open(None).unwrap();
    store.ensure(name, guest_images::progress::for_stderr().as_ref()).unwrap()
}

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

#[test]
fn commands_have_their_output_and_status() {
    image("linux-6.12-debug");
    let ran = run(&[
        "run",
        "--kernel",
        "linux-6.12-debug",
        "--timeout",
        PATIENCE,
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; echo noise > /dev/kmsg; exit 7",
    ]);
    assert_eq!((ran.status, ran.stdout.as_str()), (7, "out\n"), "{ran:?}");
    assert_eq!(ran.stderr, "err\n");
}

/// More than the guest's terminal holds at once, and bytes that a terminal would act on.
#[test]
fn a_long_command_arrives_whole() {
    let text = format!("{}\r\n\x03\x04\x11\x13\x7f\u{e9}\u{a7}", "0123456789".repeat(6000));
    let arguments = ["run", "--kernel", "linux-6.12-debug", "--timeout", PATIENCE];
    let ran = run(&[&arguments[..], &["--", "printf", "%s|", &text, "", "end"]].concat());
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    assert!(ran.stdout == format!("{text}||end|"), "{} bytes of output", ran.stdout.len());
}

#[test]
fn a_command_that_is_too_long_is_refused() {
    let (_folder, status) = new_file();
    let half = "x".repeat(70_000);
    let arguments = ["run", "--kernel", "linux-6.12-debug", "--timeout", PATIENCE, "--status", path(&status)];
    let ran = run(&[&arguments[..], &["--", "echo", &half, &half]].concat());
    assert_eq!(ran.status, 125, "{ran:?}");
    assert_eq!(status_member(&status, "cause"), "command-failed");
    assert!(ran.stderr.contains("the command is too long"), "{ran:?}");
}

#[test]
fn commands_that_cannot_run_or_are_killed_have_the_shell_s_status() {
    let status = |command: &[&str]| {
        let mut arguments = vec!["run", "--kernel", "linux-6.12-debug", "--timeout", PATIENCE, "--"];
        arguments.extend_from_slice(command);
        run(&arguments).status
    };
    assert_eq!(status(&["/nonexistent"]), 127);
    assert_eq!(status(&["sh", "-c", "kill -9 $$"]), 137);
    assert_eq!(status(&["poweroff", "-f"]), 255, "the command never ended");
}

#[test]
fn a_panic_is_255_with_its_cause() {
    let (_folder, status) = new_file();
    let kernel = image("linux-6.12-debug").kernel;
    // No file system to start from.
    let ran = run(&["run", "--kernel", path(&kernel), "--timeout", PATIENCE, "--status", path(&status)]);
    assert_eq!(ran.status, 255, "{ran:?}");
    assert_eq!(status_member(&status, "cause"), "panic");
    assert!(ran.stderr.contains("Kernel panic - not syncing"), "{ran:?}");
}

/// A bzImage whose payload cannot be unpacked by the VMM (here: none is declared) unpacks itself.
#[test]
fn a_kernel_that_unpacks_itself_boots() {
    let image = image("linux-6.12-debug");
    let mut kernel = std::fs::read(image.bzimage.unwrap()).unwrap();
    let payload_length = 0x24c;
    kernel[payload_length..payload_length + 4].fill(0);
    let kernel = common::file(&kernel);
    let ran = run(&[
        "run",
        "--kernel",
        path(kernel.path()),
        "--initrd",
        path(&image.initrd),
        "--timeout",
        PATIENCE,
        "--",
        "uname",
        "-r",
    ]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.stdout.starts_with("6.12"), "{ran:?}");
}
