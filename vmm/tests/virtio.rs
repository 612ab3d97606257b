//! virtio devices under the stock kernel's own drivers.
//!
//! Image: debian-cloud-6.12, built at first use. The file system that the guest has written is also checked by the host's
//! e2fsck.

mod common;

use common::{Ran, file, new_file, path, run, staleline};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

const KERNEL: &str = "debian-cloud-6.12";
/// Host seconds that a run may take on a slow, busy machine.
const PATIENCE: &str = "1200";
const MIB: u64 = 1 << 20;

/// Runs `script` in a guest with `devices`; returns what came of it and what the console says.
fn guest(devices: &[&str], more: &[&str], script: &str) -> (Ran, String) {
    let (_folder, console) = new_file();
    let mut arguments = vec!["run", "--kernel", KERNEL, "--timeout", PATIENCE, "--console", path(&console)];
    for device in devices {
        arguments.extend(["--device", device]);
    }
    arguments.extend(more);
    arguments.extend(["--", "sh", "-c", script]);
    let ran = run(&arguments);
    (ran, std::fs::read_to_string(&console).unwrap_or_default())
}

fn assert_clean(console: &str) {
    for trouble in ["BUG:", "WARNING:", "I/O error", "EXT4-fs error", "EXT4-fs warning", "virtio: "] {
        assert!(!console.contains(trouble), "{trouble:?} in {console}");
    }
}

/// A sparse file of `size` bytes.
fn disk(size: u64) -> (tempfile::TempDir, std::path::PathBuf) {
    let (folder, path) = new_file();
    std::fs::File::create(&path).unwrap().set_len(size).unwrap();
    (folder, path)
}

/// Bytes that the file takes up on the host.
fn allocated(path: &Path) -> u64 {
    std::fs::metadata(path).unwrap().blocks() * 512
}

/// One GiB of patterns through ext4, three quarters past the page cache and one through it, read back after everything was
/// dropped from memory; then again by another machine, which cannot write; and the file system is clean for both.
#[test]
fn a_gibibyte_of_patterns_survives_ext4() {
    let (_folder, image) = disk(1200 * MIB);
    let device = format!("blk,path={}", path(&image));
    let script = "set -e
        /sbin/mke2fs -q -t ext4 /dev/vda
        mkdir /mnt
        mount -t ext4 /dev/vda /mnt
        patterns write /mnt/direct 768
        patterns write /mnt/buffered 256 buffered
        sync
        echo 3 > /proc/sys/vm/drop_caches
        patterns verify /mnt/direct 768
        patterns verify /mnt/buffered 256 buffered
        umount /mnt
        /sbin/e2fsck -f -n /dev/vda";
    let (ran, console) = guest(&[&device], &[], script);
    assert_eq!(ran.status, 0, "{ran:?}\n{console}");
    for line in ["768 MiB written", "256 MiB written", "768 MiB verified", "256 MiB verified", "Pass 5"] {
        assert!(ran.stdout.contains(line), "no {line:?} in {ran:?}");
    }
    assert_clean(&console);
    let fsck = Command::new("/sbin/e2fsck").args(["-f", "-n", path(&image)]).output().unwrap();
    assert!(fsck.status.success(), "{fsck:?}");

    let script = "set -e
        mkdir /mnt
        mount -t ext4 -o ro /dev/vda /mnt
        patterns verify /mnt/buffered 256";
    let (ran, console) = guest(&[&format!("{device},readonly=on")], &[], script);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "256 MiB verified\n"), "{ran:?}\n{console}");
}

/// Two disks, one of several queues and one read-only; discard gives space back; a write to the read-only one is refused.
#[test]
fn disks_have_their_features() {
    let ((_first, image), (_second, fixed)) = (disk(64 * MIB), disk(MIB));
    std::fs::write(&fixed, [0x5a; MIB as usize]).unwrap();
    let devices = [
        format!("blk,path={},queues=4,serial=first", path(&image)),
        format!("blk,path={},readonly=on,access-platform=off", path(&fixed)),
    ];
    let script = "
        cat /sys/block/vda/size /sys/block/vda/queue/physical_block_size /sys/block/vda/serial && echo
        cat /sys/block/vda/ro /sys/block/vdb/ro
        ls -d /sys/block/vda/mq/* | wc -l
        cut -c 34 /sys/class/block/vda/device/features /sys/class/block/vdb/device/features
        dd if=/dev/urandom of=/dev/vda bs=1M count=32 oflag=direct 2>/dev/null && sync
        blkdiscard -o 8388608 -l 16777216 /dev/vda
        dd if=/dev/vda bs=1M skip=8 count=16 2>/dev/null | tr -d '\\0' | wc -c
        dd if=/dev/vdb bs=1M 2>/dev/null | tr -d Z | wc -c
        dd if=/dev/zero of=/dev/vdb bs=512 count=1 2>/dev/null || echo refused
        mount -t ext4 /dev/vdb /mnt 2>/dev/null || echo no file system";
    // As many queues are used as there are vCPUs.
    let (ran, console) = guest(&[&devices[0], &devices[1]], &["--cpus", "4"], script);
    let expected =
        ["131072", "4096", "first", "0", "1", "4", "1", "0", "0", "0", "refused", "no file system"];
    assert_eq!(ran.stdout.lines().collect::<Vec<_>>(), expected, "{ran:?}\n{console}");
    let size = allocated(&image);
    assert!((14 * MIB..20 * MIB).contains(&size), "{size} bytes of 64 MiB are allocated");
    assert_eq!(std::fs::read(&fixed).unwrap(), vec![0x5a; MIB as usize]);
}

#[test]
fn the_pin_interrupts_where_messages_are_off() {
    let (_folder, image) = disk(8 * MIB);
    let script = "
        dd if=/dev/urandom of=/dev/vda bs=64k count=16 oflag=direct 2>/dev/null && echo written
        head -c 64 /dev/hwrng | wc -c
        grep -c -E 'IO-APIC +[0-9]+-fasteoi +virtio' /proc/interrupts
        grep -c MSI /proc/interrupts";
    // Slots 1 and 5 share an interrupt.
    let blk = format!("blk,path={},slot=1", path(&image));
    let more = ["--cmdline", "console=ttyS0 panic=-1 pci=nomsi"];
    let (ran, console) = guest(&[&blk, "rng,slot=5"], &more, script);
    assert_eq!(ran.stdout, "written\n64\n1\n0\n", "{ran:?}\n{console}");
    assert_clean(&console);
}

#[test]
fn the_seed_decides_what_hwrng_gives() {
    let bytes = |seed: &str, devices: &[&str]| {
        let script = "cat /sys/class/misc/hw_random/rng_current; head -c 64 /dev/hwrng | od -v -t x1";
        let (ran, console) = guest(devices, &["--seed", seed], script);
        assert_eq!(ran.status, 0, "{ran:?}\n{console}");
        assert!(ran.stdout.starts_with("virtio_rng.0\n"), "{ran:?}");
        ran.stdout
    };
    let first = bytes("1", &["rng"]);
    assert_eq!(first, bytes("1", &["rng"]));
    assert_ne!(first, bytes("2", &["rng"]));
    assert_ne!(first, bytes("1", &["rng,slot=2"]), "two sources differ");
}

#[test]
fn the_console_speaks_and_listens() {
    let (_folder, out) = new_file();
    let input = file(b"typed line\n");
    let device = format!("console,out={},in={}", path(&out), path(input.path()));
    let script = "read line < /dev/hvc0; echo got $line; echo said by the guest > /dev/hvc0";
    let (ran, console) = guest(&[&device], &[], script);
    assert_eq!((ran.status, ran.stdout.as_str()), (0, "got typed line\n"), "{ran:?}\n{console}");
    let said = std::fs::read_to_string(&out).unwrap();
    assert!(said.ends_with("said by the guest\r\n"), "{said:?}");
}

/// Without a file of its own its output is where the console's is: here a kernel that knows no other console.
#[test]
fn a_kernel_can_have_it_as_its_only_console() {
    let (ran, console) =
        guest(&["console"], &["--cmdline", "console=hvc0 panic=-1"], "echo to the kernel > /dev/kmsg");
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(console.contains("Run /staleline/init") && console.contains("to the kernel\r\n"), "{console}");
}

#[test]
fn input_events_reach_evdev() {
    let events = file(b"# a tablet\n4s abs X 1000\n4s abs Y 32767\n4s key BTN_LEFT\n");
    let tablet = format!("input,type=tablet,events={}", path(events.path()));
    let script = "
        cat /sys/class/input/event0/device/name /sys/class/input/event1/device/name
        cat /sys/class/input/event1/device/capabilities/abs
        dd if=/dev/input/event0 bs=24 count=4 2>/dev/null | od -v -A n -t d2 -w24 | cut -c 57-
        dd if=/dev/input/event1 bs=24 count=8 2>/dev/null | od -v -A n -t d2 -w24 | cut -c 57-";
    let (ran, console) = guest(&["input,key=A@3s", &tablet], &[], script);
    let lines: Vec<Vec<&str>> = ran.stdout.lines().map(|line| line.split_whitespace().collect()).collect();
    let expected = [
        vec!["Staleline", "keyboard"],
        vec!["Staleline", "tablet"],
        vec!["3"],
        vec!["1", "30", "1", "0"],
        vec!["0", "0", "0", "0"],
        vec!["1", "30", "0", "0"],
        vec!["0", "0", "0", "0"],
        vec!["3", "0", "1000", "0"],
        vec!["0", "0", "0", "0"],
        vec!["3", "1", "32767", "0"],
        vec!["0", "0", "0", "0"],
        vec!["1", "272", "1", "0"],
        vec!["0", "0", "0", "0"],
        vec!["1", "272", "0", "0"],
        vec!["0", "0", "0", "0"],
    ];
    assert_eq!(lines, expected, "{ran:?}\n{console}");
}

#[test]
fn mistakes_end_before_the_guest_starts() {
    let refused = |device: &str, text: &str| {
        let ran: Ran = staleline(&["run", "--kernel", KERNEL, "--device", device]).output().unwrap().into();
        assert!(ran.status != 0 && ran.stderr.contains(text), "{device}: {ran:?}");
    };
    refused("blk", "path=… is missing");
    refused("blk,path=/nowhere/disk", "device blk: /nowhere/disk: No such file");
    refused("blk,path=/", "device blk: /: ");
    refused("console,out=/nowhere/out", "device console: /nowhere/out: No such file");
    let script = file(b"1s key A\n1s key NONE\n");
    refused(&format!("input,events={}", path(script.path())), "line 2: no key has the name 'NONE'");
}
