//! Stock RDMA programs and `verbs-verify` move data through the mlx5 function in loopback, with stock kernels and drivers.
//!
//! Images (built at first use): linux-6.12-debug and linux-7.2-debug, where also dma-debug must have nothing to report after
//! each program, debian-cloud-6.12 and debian-cloud-7.2. An image that the mirror cannot serve makes its tests "ignored,
//! unavailable: …", never "ok". The programs of a list share a boot; each is a test of its own.

#[path = "../common/mod.rs"]
mod common;

mod determinism;
mod guest;
mod programs;
mod rebinding;
mod verify;

use guest::Boot;
use libtest_mimic::{Arguments, Trial};
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let few = || [programs::few(), verify::few()].concat();
    let boots = [
        Boot::new("linux-6.12-debug", "programs", programs::all(), &[]),
        Boot::new("linux-7.2-debug", "programs", programs::all(), &[]),
        Boot::new("debian-cloud-6.12", "programs", few(), verify::PROVOKED),
        Boot::new("debian-cloud-7.2", "programs", few(), verify::PROVOKED),
        Boot::new("linux-6.12-debug", "verify", verify::all(), verify::PROVOKED),
        Boot::new("linux-7.2-debug", "verify", verify::all(), verify::PROVOKED),
    ]
    .map(Arc::new);
    // The first test of each boot comes first, so that boots run side by side.
    let mut trials: Vec<Trial> = boots.iter().map(Boot::trial).collect();
    trials.push(rebinding::trial());
    trials.push(determinism::trial());
    trials.push(verify::trial_of_a_guest_that_cannot());
    trials.push(Trial::test("the_judges", || {
        guest::cuts_a_log_into_sections();
        programs::judges_tell_good_from_bad();
        verify::the_judge_tells_good_from_bad();
        Ok(())
    }));
    trials.extend(boots.iter().flat_map(Boot::program_trials));
    libtest_mimic::run(&arguments, trials).exit_code()
}
