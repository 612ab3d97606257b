//! `verbs-verify`: every byte, completion and error, on both sides.

use crate::common::{images, rdma};
use crate::guest::{OPTIONS, Program, Section};
use libtest_mimic::{Failed, Trial};

/// What the kernel says of completion queues that overflow and of more queue pairs than there are.
pub const PROVOKED: &[&str] = &[
    "CQ error on CQN",
    "CREATE_QP(0x500) op_mod(0x0) failed, status limits exceeded",
    "Create QP type 2 failed",
];

/// Everything, also with the large completion queue entries and without what the provider library does by default.
pub fn all() -> Vec<Program> {
    vec![
        verify("", "--transport rc"),
        verify("", "--transport uc"),
        verify("", "--transport ud"),
        verify("", "--transport xrc"),
        verify("", "--errors"),
        verify("", "check. event. object. window. multicast"),
        verify("", "--seed 2 rc.mixed uc.mixed ud.mixed xrc.mixed"),
        verify("MLX5_CQE_SIZE=128", "--polling rc. ud.mixed fault."),
        verify("MLX5_SCATTER_TO_CQE=0", "--polling rc.mixed ud.mixed xrc.mixed"),
        verify("MLX5_SHUT_UP_BF=1", "--polling rc.mixed ud.mixed"),
    ]
}

/// What fits a slow boot.
pub fn few() -> Vec<Program> {
    vec![
        verify("", "--polling --size 1 --size 4097 --size 1048576 rc. uc. ud. xrc."),
        verify("", "--events rc.mixed ud.mixed"),
        verify("", "--errors"),
        verify("", "check. event. object.query object.busy object.destroy object.reg window. multicast"),
    ]
}

fn verify(environment: &str, arguments: &str) -> Program {
    let command = format!("{environment} verbs-verify {arguments}").trim().to_owned();
    Program { name: command.clone(), script: command, judge }
}

/// The last line counts the tests; some must have run, and all of them passed.
fn judge(section: &Section) -> Result<(), Failed> {
    let output = section.output.trim_end();
    let last = output.lines().last().unwrap_or_default();
    let counts = last.strip_prefix("verbs-verify: ").and_then(|rest| rest.split_once(" tests passed, "));
    match counts.map(|(passed, failed)| (passed.parse::<u32>(), failed)) {
        Some((Ok(1..), "0 failed")) if !output.contains("FAILED") => Ok(()),
        _ => Err(output.into()),
    }
}

/// Where user space's queues are bounced nothing moves, and the program says so: it does not pass whatever happens.
pub fn trial_of_a_guest_that_cannot() -> Trial {
    images::trial(
        "verbs-verify_fails_where_queues_are_bounced".into(),
        "linux-6.12-debug",
        |_| {},
        |image| {
            let script = "verbs-verify --timeout 50 --size 100 rc.send ud.send-imm";
            let outcome = rdma::in_guest(image, "swiotlb=force", &OPTIONS, script)?;
            let lines = outcome.output.lines().filter(|line| line.contains("no completion within 50 ms"));
            // rc.send, -imm, -inline and -srq and ud.send-imm, by polling and by events.
            if outcome.status != 1 || lines.count() != 5 {
                return Err(outcome.to_string().into());
            }
            Ok(())
        },
    )
}

pub fn the_judge_tells_good_from_bad() {
    let judge = |output: &str| judge(&Section { output: output.into(), status: 0, dma_errors: None });
    assert!(judge("ok rc.send\nverbs-verify: 12 tests passed, 0 failed\n").is_ok());
    assert!(judge("ok rc.send\nverbs-verify: 0 tests passed, 0 failed\n").is_err());
    assert!(judge("FAILED rc.send\nverbs-verify: 12 tests passed, 0 failed\n").is_err());
    assert!(judge("FAILED rc.send\nverbs-verify: 1 tests passed, 10 failed\n").is_err());
    assert!(judge("ok rc.send\n").is_err());
}
