//! The remote peer, end to end: `peer-walk` walks memory that the peer changes while no CPU of the guest takes part.
//!
//! Images: linux-6.12-debug and linux-7.2-debug, built at first use.

mod common;

use common::{Ran, new_file, path, run, status_member};

/// Host seconds that a run may take on a slow, busy machine.
const PATIENCE: &str = "600";
/// The bounced case: every mapping of user memory is a copy.
const BOUNCED: &[&str] = &["--cmdline", "console=ttyS0 loglevel=8 panic=-1 swiotlb=force"];

/// Runs a script in a guest with `device`. The image is built before, so that nothing is told of that.
fn guest(image: &str, device: &str, options: &[&str], script: &str) -> Ran {
    let store = guest_images::Store::open(None).expect("an image cache");
    store.ensure(image, guest_images::progress::for_stderr().as_ref()).expect("the image");
    let mut arguments = vec!["run", "--kernel", image, "--device", device, "--timeout", PATIENCE];
    arguments.extend(options);
    arguments.extend(["--", "sh", "-c", script]);
    run(&arguments)
}

fn every_change_arrives(image: &str) {
    let script = "peer-walk --dereg && peer-walk --nodes 16 --size 4096 --op write,add --count 5 --delay 2000000 --qpn 0x13f &&
        peer-walk --size 65536 --op read --count 3 && cat /sys/kernel/debug/dma-api/error_count";
    let ran = guest(image, "mlx5", &[], script);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert_eq!(ran.stdout.matches("result: ok\n").count(), 3, "{ran:?}");
    assert!(ran.stdout.contains("after dereg_mr: the peer's data is there\n"), "{ran:?}");
    assert!(ran.stdout.ends_with("\n0\n"), "dma-debug has counted errors: {ran:?}");
    // The walker looks often enough to see nearly all of the writes, and all of what the peer has read is right.
    let nodes: Vec<_> = ran.stdout.lines().filter(|line| line.contains(" of 50 writes seen")).collect();
    assert_eq!(nodes.len(), 4, "{ran:?}");
    for node in nodes {
        let seen: u32 = node.split(' ').nth(2).and_then(|count| count.parse().ok()).expect("a count");
        assert!(seen > 25 && node.ends_with(" 50 reads right"), "{node}");
    }
}

#[test]
fn every_change_arrives_on_6_12() {
    every_change_arrives("linux-6.12-debug");
}

#[test]
fn every_change_arrives_on_7_2() {
    every_change_arrives("linux-7.2-debug");
}

#[test]
fn two_walks_are_alike() {
    let record = || {
        let ((_first, console), (_second, status)) = (new_file(), new_file());
        let options = ["--console", path(&console), "--status", path(&status)];
        let ran = guest("linux-6.12-debug", "mlx5", &options, "peer-walk");
        assert_eq!(ran.status, 0, "{ran:?}");
        let instructions = status_member(&status, "instructions").as_u64();
        assert!(instructions.is_some());
        (ran.stdout, std::fs::read(console).expect("the console was written"), instructions)
    };
    assert!(record() == record(), "two runs differ");
}

/// The peer writes by itself: what the application sees of it is a matter of the mapping alone.
#[test]
fn the_peers_own_writes_are_seen_where_nothing_is_bounced() {
    for image in ["linux-6.12-debug", "linux-7.2-debug"] {
        let ran = guest(image, "mlx5,peer=write@1ms*3", &[], "peer-walk --watch --count 3 --size 8192");
        assert_eq!(ran.status, 0, "{ran:?}");
        assert!(ran.stdout.contains("the peer's data is there: 8192 bytes\n"), "{ran:?}");
    }
}

/// 6.12 bounces registered memory: the application sees nothing before unmapping copies it back.
#[test]
fn bounced_memory_shows_the_peers_writes_only_after_deregistration() {
    let script = "peer-walk --watch --count 3 --timeout 0.1 --dereg";
    let ran = guest("linux-6.12-debug", "mlx5,peer=write@1ms*3", BOUNCED, script);
    assert_eq!(ran.status, 1, "{ran:?}");
    let lines: Vec<_> = ran.stdout.lines().collect();
    let [_, never, bytes, after, result] = lines.as_slice() else { panic!("{ran:?}") };
    assert_eq!(*never, "peer-walk: never saw the peer's data");
    assert!(bytes.contains("found 00 00 00 00 00 00 00 00"), "{ran:?}");
    assert_eq!((*after, *result), ("after dereg_mr: the peer's data is there", "result: failed"));
}

/// Its queues are bounced as well, so no order ever leaves them.
#[test]
fn bounced_memory_gives_no_orders() {
    let ran = guest("linux-6.12-debug", "mlx5", BOUNCED, "peer-walk --timeout 0.1 --dereg");
    assert_eq!(ran.status, 1, "{ran:?}");
    for text in [
        "16 orders not answered",
        "never saw the peer's data",
        "after dereg_mr: the peer's data is not there",
    ] {
        assert!(ran.stdout.contains(text), "no {text:?} in {ran:?}");
    }
}

/// 7.2 asks for coherent mappings, and refuses to bounce.
#[test]
fn memory_that_would_be_bounced_is_not_registered_on_7_2() {
    let ran = guest("linux-7.2-debug", "mlx5", BOUNCED, "peer-walk");
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.stdout.contains("peer-walk: reg_mr: errno 5 (Input/output error)\n"), "{ran:?}");
}

/// The peer's check is what the device reads: a pattern that is there passes, and without one the log has the bytes.
#[test]
fn the_peer_tells_what_it_reads() {
    let there = guest("linux-6.12-debug", "mlx5,peer=check@50ms", &[], "peer-walk --fill --timeout 0.06");
    assert_eq!((there.status, there.stderr.as_str()), (0, ""), "{there:?}");
    let absent = guest("linux-6.12-debug", "mlx5,peer=check@1ms", &[], "peer-walk --watch --timeout 0.01");
    assert_eq!(absent.status, 1, "{absent:?}");
    assert!(absent.stderr.contains("not the pattern at offset 0x0: expected ["), "{absent:?}");
    // What was filled in after the memory was mapped has not reached the copy that the device reads.
    let script = "peer-walk --fill --timeout 0.06";
    let bounced = guest("linux-6.12-debug", "mlx5,peer=check@50ms", BOUNCED, script);
    assert_eq!(bounced.status, 0, "{bounced:?}");
    assert!(bounced.stderr.contains("found [00, 00, 00, 00, 00, 00, 00, 00]"), "{bounced:?}");
}

#[test]
fn wrong_arguments_are_refused() {
    let script = "for wrong in --size=7 --nodes=65 --count=0 --op=swim --qpn=0x140 '--watch --fill' extra; do
        peer-walk $wrong 2>/dev/null; echo $?; done; peer-walk --help | head -n 1";
    let ran = guest("linux-6.12-debug", "mlx5", &[], script);
    assert_eq!(ran.stdout, format!("{}usage: peer-walk [OPTION]…\n", "2\n".repeat(7)), "{ran:?}");
}
