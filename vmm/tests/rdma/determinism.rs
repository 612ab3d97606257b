//! Two runs of the same programs with the same seed are the same.

use crate::common::{images, new_file, path, run};
use crate::guest::OPTIONS;
use libtest_mimic::{Failed, Trial};

const IMAGE: &str = "linux-6.12-debug";
/// Two processes whose turns interrupts decide, and times that a program measures.
const SCRIPT: &str = "ip link set lo up
    ibv_rc_pingpong -c -e -n 200 & ibv_rc_pingpong -c -e -n 200 127.0.0.1; wait
    verbs-verify rc.mixed rc.shared-counter fault.no-receive event.";

pub fn trial() -> Trial {
    images::trial(
        "two_runs_are_alike".into(),
        IMAGE,
        |_| {},
        |_| {
            let (first, second) = (record()?, record()?);
            if first.0.is_empty() || !first.1.contains("iters in") {
                return Err(format!("nothing to compare\n{}", first.1).into());
            }
            if first != second {
                return Err(format!("two runs differ\n{}\n---\n{}", first.1, second.1).into());
            }
            Ok(())
        },
    )
}

/// What a run writes to the console and to its output.
fn record() -> Result<(Vec<u8>, String), Failed> {
    let (_folder, console) = new_file();
    let ran = run(&[
        &["run", "--kernel", IMAGE, "--timeout", "600", "--console", path(&console)],
        &OPTIONS[..],
        &["--", "sh", "-c", SCRIPT],
    ]
    .concat());
    if ran.status != 0 {
        return Err(format!("{ran:?}").into());
    }
    Ok((std::fs::read(console)?, ran.stdout))
}
