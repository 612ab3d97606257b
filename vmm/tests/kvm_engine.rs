//! Guests of a few instructions on the KVM engine: how runs end, and how the host's side reaches them.
//!
//! Without a usable KVM every trial is ignored, and the last line says why.

mod common;

use common::{bare_kernel, new_file, out, path, run, staleline, status_member};
use libtest_mimic::{Arguments, Failed, Trial};
use staleline::doctor::kvm_probe::{self, Kvm};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{ExitCode, Stdio};

const HLT: u8 = 0xf4;
/// jmp to itself
const SPIN: [u8; 2] = [0xeb, 0xfe];
/// How long a run that should end by itself may take, in seconds.
const LONG: &str = "60";

/// Code, options, and the exit status, cause and console that it must come to.
struct Case {
    name: &'static str,
    code: Vec<u8>,
    options: &'static [&'static str],
    status: i32,
    cause: &'static str,
    console: &'static str,
}

fn case(name: &'static str, code: &[&[u8]], status: i32, cause: &'static str) -> Case {
    Case { name, code: code.concat(), options: &["--timeout", LONG], status, cause, console: "" }
}

fn cases() -> Vec<Case> {
    // mov dx, 0x604; mov ax, 0x3400; out dx, ax
    let power_off = [0x66, 0xba, 0x04, 0x06, 0x66, 0xb8, 0x00, 0x34, 0x66, 0xef];
    let hello = [out(0x3f8, b'h'), out(0x3f8, b'i'), out(0xf4, 21)].concat();
    vec![
        Case { console: "hi", ..case("debug exit", &[&hello, &SPIN], 43, "debug-exit") },
        case("power-off", &[&power_off, &SPIN], 0, "power-off"),
        case("reset", &[&out(0xcf9, 6), &SPIN], 0, "reset"),
        case("nothing after the exit", &[&out(0xf4, 0), &out(0x3f8, b'x'), &SPIN], 1, "debug-exit"),
        case("halted for ever", &[&[HLT], &SPIN], 255, "halted"),
        // ud2 without a descriptor table.
        case("triple fault", &[&[0x0f, 0x0b]], 255, "triple-fault"),
        Case { options: &["--deadline", "0.2"], ..case("deadline, spinning", &[&SPIN], 124, "deadline") },
        Case {
            options: &["--deadline", "0.2"],
            // sti; hlt; jmp back
            ..case("deadline, halted", &[&[0xfb, HLT, 0xeb, 0xfd]], 124, "deadline")
        },
        Case { options: &["--timeout", "1"], ..case("timeout", &[&SPIN], 124, "timeout") },
    ]
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let kvm = kvm_probe::probe(Path::new(kvm_probe::DEVICE));
    let usable = matches!(kvm, Kvm::RunsKernels | Kvm::NoKernel { .. });
    let interprets = matches!(kvm, Kvm::NoKernel { .. });
    let mut trials: Vec<_> =
        cases().into_iter().map(|case| Trial::test(case.name, move || check(&case))).collect();
    trials.push(Trial::test("console input", console_input));
    trials.push(Trial::test("too many vCPUs", too_many_vcpus));
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(!usable));
    let missing = Trial::test("an instruction that the emulator lacks", missing_instruction);
    let trials = trials.chain([missing.with_ignored_flag(!interprets)]).collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if conclusion.num_ignored != 0 {
        println!("{} trials NOT RUN: KVM here: {kvm}", conclusion.num_ignored);
    }
    conclusion.exit_code()
}

fn check(case: &Case) -> Result<(), Failed> {
    let kernel = bare_kernel(&case.code);
    let (_folder, status) = new_file();
    let mut arguments = vec!["run", "--engine", "kvm", "--kernel", path(kernel.path()), "--memory", "64M"];
    arguments.extend_from_slice(case.options);
    arguments.extend(["--status", path(&status)]);
    let ran = run(&arguments);
    let cause = status_member(&status, "cause");
    if (ran.status, &cause, ran.stdout.as_str()) != (case.status, &case.cause.into(), case.console) {
        return Err(format!("expected {} ({}), got {cause}: {ran:?}", case.status, case.cause).into());
    }
    Ok(())
}

/// A guest that opens its serial port (RTS), echoes one byte, and ends.
fn console_input() -> Result<(), Failed> {
    let mut code = out(0x3fc, 0x0b);
    // poll: mov dx, 0x3fd; in al, dx; test al, 1; jz poll; mov dx, 0x3f8; in al, dx; out dx, al
    code.extend([0x66, 0xba, 0xfd, 0x03, 0xec, 0xa8, 0x01, 0x74, 0xf7, 0x66, 0xba, 0xf8, 0x03, 0xec, 0xee]);
    code.extend(out(0xf4, 3));
    let kernel = bare_kernel(&code);
    let arguments = ["run", "--engine", "kvm", "--kernel", path(kernel.path()), "--timeout", LONG];
    let mut child = staleline(&arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().ok_or("no pipe")?.write_all(b"e")?;
    let mut echo = String::new();
    child.stdout.take().ok_or("no pipe")?.read_to_string(&mut echo)?;
    let status = child.wait()?.code();
    if (echo.as_str(), status) == ("e", Some(7)) {
        Ok(())
    } else {
        Err(format!("{echo:?}, {status:?}").into())
    }
}

fn too_many_vcpus() -> Result<(), Failed> {
    let kernel = bare_kernel(&SPIN);
    let ran = run(&["run", "--engine", "kvm", "--kernel", path(kernel.path()), "--cpus", "100000"]);
    if ran.status == 125 && ran.stderr.contains("100000") { Ok(()) } else { Err(format!("{ran:?}").into()) }
}

/// The error names the vCPU, the address and the bytes.
fn missing_instruction() -> Result<(), Failed> {
    // int3
    let kernel = bare_kernel(&[0xcc]);
    let ran = run(&["run", "--engine", "kvm", "--kernel", path(kernel.path()), "--timeout", LONG]);
    let told = ["vCPU 0 at 0x1000000", "instruction cc", "--engine soft"];
    if ran.status == 125 && told.iter().all(|words| ran.stderr.contains(words)) {
        Ok(())
    } else {
        Err(format!("{ran:?}").into())
    }
}
