//! Stock kernels: they boot to a shell, run commands, bind the mlx5 driver, and do it all alike every time.
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

/// All `cpus` processors come up, one goes and comes back, and the kernel has nothing to warn of.
fn uses_every_vcpu(name: &str, cpus: u32) {
    // Standard error is looked at: building is not to be told of there.
    image(name);
    let script = "nproc; cd /sys/devices/system/cpu/cpu1; echo 0 > online; nproc; echo 1 > online; nproc
        dmesg -r | grep -c '^<6>'; dmesg -r | grep '^<[0-4]>'; true";
    let arguments = [
        "run",
        "--kernel",
        name,
        "--cpus",
        &cpus.to_string(),
        "--timeout",
        PATIENCE,
        "--",
        "sh",
        "-c",
        script,
    ];
    let ran = run(&arguments);
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""), "{ran:?}");
    let mut lines = ran.stdout.lines();
    for online in [cpus, cpus - 1, cpus] {
        assert_eq!(lines.next(), Some(online.to_string().as_str()), "{ran:?}");
    }
    let messages: u32 = lines.next().and_then(|count| count.parse().ok()).unwrap();
    assert!(messages > 100, "{ran:?}");
    assert_eq!(lines.next(), None, "warnings: {ran:?}");
}

#[test]
fn stock_6_1_uses_two_and_four_vcpus() {
    uses_every_vcpu("debian-cloud-6.1", 2);
    uses_every_vcpu("debian-cloud-6.1", 4);
}

#[test]
fn stock_6_12_uses_eight_vcpus() {
    uses_every_vcpu("debian-cloud-6.12", 8);
}

/// Console bytes, the command's output, instructions retired and virtual time of a run.
fn record(image: &str, seed: &str, cpus: &str) -> (Vec<u8>, String, u64, u64) {
    let ((_first, console), (_second, status)) = (new_file(), new_file());
    let script = "sleep 5; head -c 16 /dev/urandom | od -x; date; cat /proc/uptime; regtwice";
    let mut arguments =
        vec!["run", "--kernel", image, "--device", "mlx5", "--seed", seed, "--timeout", PATIENCE];
    arguments.extend(["--cpus", cpus]);
    arguments.extend(["--console", path(&console), "--status", path(&status), "--", "sh", "-c", script]);
    let ran = run(&arguments);
    assert_eq!(ran.status, 0, "{ran:?}");
    let instructions = status_member(&status, "instructions").as_u64().unwrap();
    let time = status_member(&status, "virtual_nanos").as_u64().unwrap();
    assert!(time - instructions > 4_000_000_000, "the sleep was skipped, not executed");
    (std::fs::read(console).unwrap(), ran.stdout, instructions, time)
}

/// Two runs from the same inputs give the same console bytes, to the last time stamp, and the same instruction count.
#[test]
fn two_boots_are_alike() {
    let first = record("debian-cloud-6.1", "1", "1");
    assert!(first == record("debian-cloud-6.1", "1", "1"), "two runs differ");
}

#[test]
fn two_boots_with_three_vcpus_are_alike() {
    let first = record("debian-cloud-6.1", "1", "3");
    assert!(first == record("debian-cloud-6.1", "1", "3"), "two runs differ");
}

#[test]
fn the_seed_decides_random_numbers() {
    let first = record("linux-6.12-debug", "1", "1");
    assert!(first == record("linux-6.12-debug", "1", "1"), "two runs differ");
    assert!(first.1 != record("linux-6.12-debug", "2", "1").1, "another seed gives other random bytes");
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

#[test]
fn ram_above_4_gib_is_found() {
    let ran = run(&[
        "run",
        "--kernel",
        "linux-6.12-debug",
        "--memory",
        "6G",
        "--timeout",
        PATIENCE,
        "--",
        "grep",
        "MemTotal",
        "/proc/meminfo",
    ]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let kib: u64 = ran.stdout.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!((5_800_000..6 << 20).contains(&kib), "{ran:?}");
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

/// As an Ethernet port without RoCE the function has no network interface, so its port stays down; memory can be registered.
#[test]
fn an_ethernet_port_binds_as_well() {
    let script = "ibv_devinfo && regtwice";
    let device = "mlx5,port=eth,slot=3";
    let kernel = "linux-6.12-debug";
    let (_folder, console) = new_file();
    let arguments =
        ["run", "--kernel", kernel, "--device", device, "--timeout", PATIENCE, "--console", path(&console)];
    let ran = run(&[&arguments[..], &["--", "sh", "-c", script]].concat());
    assert_eq!(ran.status, 0, "{ran:?}");
    for text in ["PORT_DOWN", "link_layer:\t\tEthernet", "page+1 length 0xfff: ok", "error_count: 0 -> 1"] {
        assert!(ran.stdout.contains(text), "no {text:?} in {ran:?}");
    }
    let console = std::fs::read_to_string(console).unwrap();
    assert!(console.contains("DMA-API: mlx5_core 0000:03:00.0: cacheline tracking EEXIST"), "{console}");
}
