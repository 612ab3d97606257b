//! Debian's kernels as they are published: they boot to user space with nothing in their logs that the rules do not allow,
//! take modules built for them, and their user space computes right. A table of the boots is printed at the end.
//!
//! Images (built at first use): debian-cloud-6.1, -6.12 and -7.2, debian-6.1 and -6.12, debian-soak-6.12, and for modules
//! the linux-*-debug ones. An image that the mirror cannot serve makes its tests "ignored, unavailable: …", never "ok".
//!
//! `cargo test --test stock_kernels` runs what fits continuous integration; with `-- --ignored` the long soak: python's
//! slower numeric tests, about an hour on one core.

#[path = "../common/mod.rs"]
mod common;

mod boots;
mod modules;
mod soak;

use common::kernel_log;
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;

/// Host seconds that a run may take on a slow, busy machine.
const PATIENCE: &str = "1500";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let mut trials = vec![Trial::test("the_judge_of_logs", || {
        kernel_log::finds_trouble_and_warnings_and_nothing_else();
        Ok(())
    })];
    trials.extend(boots::trials());
    trials.extend(modules::trials());
    trials.extend(soak::trials());
    let conclusion = libtest_mimic::run(&arguments, trials);
    boots::print_table();
    conclusion.exit_code()
}

/// A test that needs an image, which is built first.
fn with_image(
    name: String,
    image: &'static str,
    test: impl FnOnce(&guest_images::Image) -> Result<(), Failed> + Send + 'static,
) -> Trial {
    common::images::trial(name, image, boots::unavailable, test)
}

/// Runs a shell script in a guest and returns what it printed; fails unless it ends with 0.
fn in_guest(options: &[&str], script: &str) -> Result<String, Failed> {
    let arguments = [&["run", "--timeout", PATIENCE], options, &["--", "sh", "-c", script]].concat();
    let ran = common::run(&arguments);
    if ran.status != 0 {
        return Err(format!("exit status {}\n{}\n{}", ran.status, ran.stdout, ran.stderr).into());
    }
    Ok(ran.stdout)
}
