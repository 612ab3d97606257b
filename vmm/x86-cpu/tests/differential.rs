//! The host's processor as oracle for user-mode instructions.
//!
//! Every instruction form that CPUID advertises runs natively and in the interpreter from the same random states;
//! registers, defined flags, memory and faults must agree. A form is one `Code` of the decoder. A form that is neither
//! compared nor excluded with a reason fails the test, so that none is forgotten.
//!
//! By default it takes less than a minute of one processor; ten times `DIFFERENTIAL_CASES` and another `DIFFERENTIAL_SEED` make
//! a longer run.
//!
//! Environment: `DIFFERENTIAL_CASES` states a form (150), `DIFFERENTIAL_SEQUENCES`, `DIFFERENTIAL_SEED`, and to repeat one thing
//! `DIFFERENTIAL_FORM` (a `Code` name, or the start of one and `*`) and `DIFFERENTIAL_CASE`; `DIFFERENTIAL_INPUT` names an
//! input of the fuzzer (`ci/checks/fuzz`) to repeat.

use iced_x86::Code;
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;
use x86_cpu_oracle::compare::Undefined;
use x86_cpu_oracle::input::Inputs;
use x86_cpu_oracle::lab::Lab;
use x86_cpu_oracle::report::{self, Coverage};
use x86_cpu_oracle::rng::Rng;
use x86_cpu_oracle::state::Width;
use x86_cpu_oracle::{corner, forms, generate, prefix, sequence, vendor};

const DEFAULT_CASES: u64 = 150;
/// One case with more prefixes for so many plain ones.
const PREFIX_SHARE: u64 = 10;
const DEFAULT_SEQUENCES: u64 = 30_000;
const DEFAULT_SEED: u64 = 1;

fn number(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")),
        Err(_) => default,
    }
}

/// Prints even when the test passes: the coverage is part of the result.
fn show(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Whether form `name` is the one asked for: by its name, or by the start of it and an asterisk.
fn chosen(name: &str, only: &str) -> bool {
    only.strip_suffix('*').map_or(name == only, |start| name.starts_with(start))
}

/// Compares all forms of code of `width`.
fn compare_forms(width: Width) {
    let seed = number("DIFFERENTIAL_SEED", DEFAULT_SEED);
    let cases = number("DIFFERENTIAL_CASES", DEFAULT_CASES);
    let only_form = std::env::var("DIFFERENTIAL_FORM").ok();
    let only_case = std::env::var("DIFFERENTIAL_CASE").ok().map(|_| number("DIFFERENTIAL_CASE", 0));
    let mut lab = Lab::new().expect("the native side starts");
    let start = Instant::now();
    let mut coverage = Coverage::default();
    let mut failures = Vec::new();
    let mut total = 0;
    for code in forms::advertised(width) {
        let name = format!("{code:?}");
        if only_form.as_ref().is_some_and(|only| !chosen(&name, only)) {
            continue;
        }
        let extension = forms::extension(code);
        if let Some(reason) = forms::exclusion(code, width) {
            coverage.excluded(extension, name, reason);
            continue;
        }
        let range = only_case.map_or(0..cases, |case| case..case + 1);
        let (mut compared, mut completed, mut wrong) = (0, 0, 0);
        for case_number in range {
            let rng = Rng::for_case(seed, &name, case_number);
            let Some(case) = generate::single(&rng, width, code) else {
                continue;
            };
            let last = case.instructions.last().expect("an instance has an instruction");
            let undefined = Undefined::after(last, &case.state);
            let verdict = lab.compare(&case, &undefined).unwrap_or_else(|error| panic!("{name}: {error}"));
            compared += 1;
            completed += u64::from(verdict.completed);
            if !verdict.differences.is_empty() {
                wrong += 1;
                if wrong == 1 {
                    failures.push((
                        report::mismatch(&name, case_number, &case, &verdict.differences),
                        name.clone(),
                        0,
                    ));
                }
            }
        }
        total += compared;
        if let Some(failure) = failures.last_mut().filter(|failure| failure.1 == name) {
            failure.2 = wrong * 100 / compared;
        }
        let only_faults = forms::only_faults(code);
        if compared == 0 || completed == 0 && !only_faults && only_case.is_none() {
            coverage.uncovered(extension);
            let what = if compared == 0 { "could not be encoded" } else { "never completed on the host" };
            failures.push((format!("\n{name} {what}\n"), name, 100));
        } else {
            coverage.covered(extension, completed == 0);
        }
    }
    show(&vendor::summary());
    show(&coverage.table(&format!("{}-bit forms", width.bits()), total, start.elapsed().as_secs_f64()));
    for (text, _, _) in failures.iter().take(report::SHOWN) {
        show(text);
    }
    let names: Vec<String> =
        failures.iter().map(|(_, name, percent)| format!("{name} ({percent} %)")).collect();
    assert!(failures.is_empty(), "{} forms differ or are not covered: {}", names.len(), names.join(", "));
}

/// Compares sequences of instructions for code of `width`.
fn compare_sequences(width: Width) {
    let seed = number("DIFFERENTIAL_SEED", DEFAULT_SEED);
    let cases = number("DIFFERENTIAL_SEQUENCES", DEFAULT_SEQUENCES);
    let only_case = std::env::var("DIFFERENTIAL_CASE").ok().map(|_| number("DIFFERENTIAL_CASE", 0));
    let (pool, branches) = (sequence::pool(width), sequence::branches(width));
    let mut lab = Lab::new().expect("the native side starts");
    let start = Instant::now();
    let (mut completed, mut wrong, mut instructions) = (0, 0, 0);
    let range = only_case.map_or(0..cases, |case| case..case + 1);
    let total = range.end - range.start;
    let name = format!("sequence{}", width.bits());
    for case_number in range {
        let rng = Rng::for_case(seed, &name, case_number);
        let (case, undefined) = sequence::generate(rng, width, &pool, &branches);
        instructions += case.instructions.len();
        let verdict =
            lab.compare(&case, &undefined).unwrap_or_else(|error| panic!("{name} {case_number}: {error}"));
        completed += u64::from(verdict.completed);
        if !verdict.differences.is_empty() {
            wrong += 1;
            if wrong <= report::SHOWN {
                show(&report::mismatch(&name, case_number, &case, &verdict.differences));
            }
        }
    }
    show(&format!(
        "{}-bit sequences of {} forms: {total} with {instructions} instructions, {completed} without a fault, in {:.1} s\n",
        width.bits(),
        pool.len(),
        start.elapsed().as_secs_f64()
    ));
    assert!(wrong == 0, "{wrong} sequences differ");
    assert!(
        only_case.is_some() || completed > total / 2,
        "most sequences fault: {completed} of {total} completed"
    );
}

/// Compares forms of code of `width` with prefixes that do not belong to them.
fn compare_prefixes(width: Width) {
    let seed = number("DIFFERENTIAL_SEED", DEFAULT_SEED);
    let cases = number("DIFFERENTIAL_CASES", DEFAULT_CASES).div_ceil(PREFIX_SHARE);
    let only_case = std::env::var("DIFFERENTIAL_CASE").ok().map(|_| number("DIFFERENTIAL_CASE", 0));
    let only_form = std::env::var("DIFFERENTIAL_FORM").ok();
    let mut lab = Lab::new().expect("the native side starts");
    let start = Instant::now();
    let (mut total, mut completed) = (0, 0);
    let mut wrong = Vec::new();
    let included = |code: &Code| !forms::only_faults(*code) && forms::exclusion(*code, width).is_none();
    for code in forms::advertised(width).filter(included) {
        let name = format!("prefix+{code:?}");
        if only_form.as_ref().is_some_and(|only| !chosen(&name, only)) {
            continue;
        }
        for case_number in only_case.map_or(0..cases, |case| case..case + 1) {
            let rng = Rng::for_case(seed, &name, case_number);
            let Some((case, undefined)) = prefix::generate(&rng, width, code) else {
                continue;
            };
            let verdict = lab.compare(&case, &undefined).unwrap_or_else(|error| panic!("{name}: {error}"));
            total += 1;
            completed += u64::from(verdict.completed);
            if !verdict.differences.is_empty() {
                if wrong.len() < report::SHOWN {
                    show(&report::mismatch(&name, case_number, &case, &verdict.differences));
                }
                wrong.push(format!("{name} {case_number}"));
            }
        }
    }
    show(&format!(
        "{}-bit forms with more prefixes: {total} cases, {completed} without a fault, in {:.1} s\n",
        width.bits(),
        start.elapsed().as_secs_f64()
    ));
    assert!(wrong.is_empty(), "{} cases differ: {}", wrong.len(), wrong.join(", "));
}

/// Compares the directed cases for code of `width`.
fn compare_corners(width: Width) {
    let only_form = std::env::var("DIFFERENTIAL_FORM").ok();
    let only_case = std::env::var("DIFFERENTIAL_CASE").ok().map(|_| number("DIFFERENTIAL_CASE", 0));
    let mut lab = Lab::new().expect("the native side starts");
    let mut wrong = Vec::new();
    for (subject, visit) in corner::SUBJECTS {
        let start = Instant::now();
        let (mut total, mut completed) = (0_u64, 0_u64);
        let mut numbers: HashMap<String, u64> = HashMap::new();
        visit(width, &mut |form, case, undefined| {
            let name = format!("corner+{form}");
            let case_number = *numbers.entry(name.clone()).and_modify(|number| *number += 1).or_default();
            let left_out = only_form.as_ref().is_some_and(|only| !chosen(&name, only))
                || only_case.is_some_and(|only| only != case_number);
            if left_out {
                return;
            }
            let verdict = lab.compare(case, undefined).unwrap_or_else(|error| panic!("{name}: {error}"));
            total += 1;
            completed += u64::from(verdict.completed);
            if !verdict.differences.is_empty() {
                if wrong.len() < report::SHOWN {
                    show(&report::mismatch(&name, case_number, case, &verdict.differences));
                }
                wrong.push(format!("{name} {case_number}"));
            }
        });
        if total > 0 {
            show(&format!(
                "{}-bit corners, {subject}: {total} cases of {} forms, {completed} without a fault, in {:.1} s\n",
                width.bits(),
                numbers.len(),
                start.elapsed().as_secs_f64()
            ));
        }
    }
    wrong.truncate(100);
    assert!(wrong.is_empty(), "cases differ, up to 100 of them: {}", wrong.join(", "));
}

/// The form tests look at one form only; the sequences have none to choose.
fn form_is_chosen() -> bool {
    std::env::var_os("DIFFERENTIAL_FORM").is_some_and(|form| !form.to_string_lossy().starts_with("sequence"))
}

/// What the fuzzer found once, and the input named by the environment.
#[test]
fn inputs_of_the_fuzzer() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds");
    let entries = std::fs::read_dir(&seeds).expect("the seeds can be listed");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a seed").path()).collect();
    files.sort();
    files.extend(std::env::var_os("DIFFERENTIAL_INPUT").map(PathBuf::from));
    let inputs = Inputs::default();
    let mut lab = Lab::new().expect("the native side starts");
    let mut wrong = Vec::new();
    for file in &files {
        let data = std::fs::read(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let Some((case, undefined)) = inputs.case(&data) else {
            show(&format!("{} stands for nothing that can be compared\n", file.display()));
            continue;
        };
        let verdict =
            lab.compare(&case, &undefined).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        if !verdict.differences.is_empty() {
            let name = file.display().to_string();
            show(&report::describe(&format!("{name} differs"), &case, &verdict.differences));
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{} of {} inputs differ: {}", wrong.len(), files.len(), wrong.join(", "));
}

#[test]
fn forms_in_64_bit_mode() {
    compare_forms(Width::Bits64);
}

#[test]
fn forms_in_32_bit_mode() {
    compare_forms(Width::Bits32);
}

#[test]
fn prefixes_in_64_bit_mode() {
    compare_prefixes(Width::Bits64);
}

#[test]
fn prefixes_in_32_bit_mode() {
    compare_prefixes(Width::Bits32);
}

#[test]
fn corners_in_64_bit_mode() {
    compare_corners(Width::Bits64);
}

#[test]
fn corners_in_32_bit_mode() {
    compare_corners(Width::Bits32);
}

#[test]
fn sequences_in_64_bit_mode() {
    if !form_is_chosen() {
        compare_sequences(Width::Bits64);
    }
}

#[test]
fn sequences_in_32_bit_mode() {
    if !form_is_chosen() {
        compare_sequences(Width::Bits32);
    }
}
