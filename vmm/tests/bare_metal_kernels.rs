//! Runs every kernel in `guest-images/bare-metal/kernels` through the program, on the software engine: as it asks to be, and with
//! a cache before RAM, which a guest without DMA must not notice.

mod common;

use common::{path, run};
use guest_images::bare_metal::BareMetalKernel;
use libtest_mimic::{Arguments, Failed, Trial};
use std::process::ExitCode;

/// `isa-debug-exit` with the value 0.
const ALL_PASSED: i32 = 1;

/// A cache in which little stays, and what does moves by chance. Nothing is to be found.
const CACHED: [&str; 4] = ["--cache", "tiny,schedule=random", "--fail-on", "latent"];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let kernels = match BareMetalKernel::all() {
        Ok(kernels) => kernels,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let mut trials = Vec::new();
    for kernel in kernels {
        let mut runs = kernel.runs.clone();
        if !runs.iter().flatten().any(|option| option == "--cache" || option == "--confidential") {
            let cached = CACHED.map(str::to_owned).to_vec();
            runs.extend(kernel.runs.iter().map(|options| [options.clone(), cached.clone()].concat()));
        }
        for options in runs {
            let (kernel, name) = (kernel.clone(), format!("{} {}", kernel.name, options.join(" ")));
            trials.push(Trial::test(name.trim_end(), move || check(&kernel, &options)));
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// The kernel ends by itself, says how many checks it has made, and that none has failed.
fn check(kernel: &BareMetalKernel, options: &[String]) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = kernel.build(folder.path())?;
    let mut arguments =
        vec!["run", "--engine", "soft", "--kernel", path(&file), "--deadline", "60", "--timeout", "600"];
    arguments.extend(options.iter().map(String::as_str));
    let ran = run(&arguments);
    let all = format!("{}{}", ran.stdout, ran.stderr);
    let starting = |start: &str| ran.stdout.lines().filter(|line| line.starts_with(start)).count();
    let (passed, failed) = (starting("PASS: "), starting("FAIL: "));
    if ran.status != ALL_PASSED || failed != 0 {
        return Err(format!("status {}, {failed} checks failed:\n{all}", ran.status).into());
    }
    if passed == 0 || ran.stdout.lines().last() != Some(&format!("{passed} checks, 0 failed")) {
        return Err(format!("the checks do not add up:\n{all}").into());
    }
    Ok(())
}
