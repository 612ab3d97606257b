//! Runs the bare-metal kernels on this host's KVM: the files that pass on the software engine pass there too.
//!
//! `data/kvm_kernels.toml` says which must pass on every KVM, and which stop on a KVM without VMX or SVM, and how. Without
//! a usable KVM every trial is ignored, and the summary says why.

mod common;

use common::{path, run};
use guest_images::bare_metal::BareMetalKernel;
use libtest_mimic::{Arguments, Failed, Trial};
use serde::Deserialize;
use staleline::doctor::kvm_probe::{self, Kvm};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

/// `isa-debug-exit` with the value 0.
const ALL_PASSED: i32 = 1;

#[derive(Debug, Deserialize)]
struct Table {
    passes: Vec<String>,
    stops: Vec<Stop>,
}

/// A kernel that a KVM without VMX or SVM cannot run.
#[derive(Debug, Deserialize)]
struct Stop {
    kernel: String,
    says: String,
    why: String,
}

/// What is expected of a kernel here.
#[derive(Debug, Clone)]
enum Expected {
    Pass,
    Stop {
        says: String,
        why: String,
    },
    /// Nothing is known: it is run and reported.
    Nothing,
}

/// Lines for the summary, in the order of the kernels' ends.
type Report = Arc<Mutex<Vec<String>>>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let table: Table = toml::from_str(include_str!("data/kvm_kernels.toml")).expect("the table is right");
    let kernels = match BareMetalKernel::all() {
        Ok(kernels) => kernels,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let names = table.passes.iter().chain(table.stops.iter().map(|stop| &stop.kernel));
    if let Some(name) = names.into_iter().find(|name| !kernels.iter().any(|kernel| kernel.name == **name)) {
        eprintln!("data/kvm_kernels.toml names a kernel that is not there: {name}");
        return ExitCode::FAILURE;
    }
    let kvm = kvm_probe::probe(Path::new(kvm_probe::DEVICE));
    let usable = matches!(kvm, Kvm::RunsKernels | Kvm::NoKernel { .. });
    let report = Report::default();
    let trials = kernels.into_iter().map(|kernel| {
        let expected = expected(&table, &kernel.name, &kvm);
        let report = Arc::clone(&report);
        let name = kernel.name.clone();
        let trial = Trial::test(name, move || check(&kernel, &expected, &report));
        trial.with_kind("kvm").with_ignored_flag(!usable)
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if !arguments.list {
        println!("KVM here: {kvm}");
        for line in report.lock().expect("no trial panics with the report").iter() {
            println!("  {line}");
        }
        if conclusion.num_ignored != 0 {
            println!("  {} kernels NOT RUN: no usable KVM", conclusion.num_ignored);
        }
    }
    conclusion.exit_code()
}

fn expected(table: &Table, kernel: &str, kvm: &Kvm) -> Expected {
    if table.passes.iter().any(|name| name == kernel) {
        return Expected::Pass;
    }
    match table.stops.iter().find(|stop| stop.kernel == kernel) {
        Some(stop) if !kvm.runs_kernels() => {
            Expected::Stop { says: stop.says.clone(), why: stop.why.clone() }
        }
        _ => Expected::Nothing,
    }
}

fn check(kernel: &BareMetalKernel, expected: &Expected, report: &Report) -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let file = kernel.build(folder.path())?;
    let mut arguments = vec!["run", "--engine", "kvm", "--kernel", path(&file), "--timeout", "120"];
    // Others ask for what only the software engine has.
    arguments.extend(kernel.runs[0].iter().map(String::as_str));
    let ran = run(&arguments);
    let all = format!("{}{}", ran.stdout, ran.stderr);
    let starting = |start: &str| ran.stdout.lines().filter(|line| line.starts_with(start)).count();
    let (passed, failed) = (starting("PASS: "), starting("FAIL: "));
    let sum = format!("{passed} checks, 0 failed");
    let passes = ran.status == ALL_PASSED && passed != 0 && ran.stdout.lines().last() == Some(&sum);
    let line = match expected {
        Expected::Pass if passes => format!("{}: passed, {passed} checks", kernel.name),
        Expected::Pass => return Err(format!("status {}, {failed} checks failed:\n{all}", ran.status).into()),
        Expected::Stop { .. } if passes => {
            return Err("it passes: take it out of the list of those that cannot run".into());
        }
        Expected::Stop { says, why } if all.contains(says) => {
            format!("{}: CANNOT RUN HERE: {why}", kernel.name)
        }
        Expected::Stop { says, .. } => return Err(format!("it does not stop by \"{says}\":\n{all}").into()),
        Expected::Nothing => {
            let result = if passes { "all passed" } else { ran.stderr.lines().next().unwrap_or("it ended") };
            let (name, status) = (&kernel.name, ran.status);
            format!("{name}: NOT JUDGED: status {status}, {passed} checks passed, {failed} failed: {result}")
        }
    };
    report.lock().expect("no trial panics with the report").push(line);
    Ok(())
}
