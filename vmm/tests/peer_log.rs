//! What the remote peer says on standard error of the memory that it reads. What it does to memory is in `ci/suites/peer`.
//!
//! Image: linux-6.12-debug, built at first use.

mod common;

use common::{Ran, run};

const IMAGE: &str = "linux-6.12-debug";
/// Host seconds that a run may take on a slow, busy machine.
const PATIENCE: &str = "600";
/// The bounced case: every mapping of user memory is a copy.
const BOUNCED: &[&str] = &["--cmdline", "console=ttyS0 loglevel=8 panic=-1 swiotlb=force"];

/// Runs a script in a guest with `device`. The image is built before, so that nothing is told of that.
fn guest(device: &str, options: &[&str], script: &str) -> Ran {
    let store = guest_images::Store::open(None).expect("an image cache");
    store.ensure(IMAGE, guest_images::progress::for_stderr().as_ref()).expect("the image");
    let arguments = ["run", "--kernel", IMAGE, "--device", device, "--timeout", PATIENCE];
    run(&[&arguments[..], options, &["--", "sh", "-c", script]].concat())
}

/// The peer's check is what the device reads: a pattern that is there passes, and without one the log has the bytes.
#[test]
fn the_peer_tells_what_it_reads() {
    let there = guest("mlx5,peer=check@50ms", &[], "peer-walk --fill --timeout 0.06");
    assert_eq!((there.status, there.stderr.as_str()), (0, ""), "{there:?}");
    let absent = guest("mlx5,peer=check@1ms", &[], "peer-walk --watch --timeout 0.01");
    assert_eq!(absent.status, 1, "{absent:?}");
    assert!(absent.stderr.contains("not the pattern at offset 0x0: expected ["), "{absent:?}");
    // What was filled in after the memory was mapped has not reached the copy that the device reads.
    let script = "peer-walk --fill --timeout 0.06";
    let bounced = guest("mlx5,peer=check@50ms", BOUNCED, script);
    assert_eq!(bounced.status, 0, "{bounced:?}");
    assert!(bounced.stderr.contains("found [00, 00, 00, 00, 00, 00, 00, 00]"), "{bounced:?}");
}
