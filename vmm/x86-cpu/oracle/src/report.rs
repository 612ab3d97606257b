//! What is shown: mismatches with all that is needed to repeat them, and the coverage by extension.

use crate::generate::Case;
use crate::state::{State, Width};
use iced_x86::Formatter;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Forms shown in full when they differ.
pub const SHOWN: usize = 10;

/// Describes a case that differed, named so that the differential test can repeat it.
pub fn mismatch(name: &str, number: u64, case: &Case, differences: &[String]) -> String {
    let title = format!("{name} differs (DIFFERENTIAL_FORM={name} DIFFERENTIAL_CASE={number})");
    describe(&title, case, differences)
}

/// Describes a case that differed, under `title`.
pub fn describe(title: &str, case: &Case, differences: &[String]) -> String {
    let mut text = format!("\n{title}\n");
    let mut formatter = iced_x86::IntelFormatter::new();
    for instruction in &case.instructions {
        let mut line = String::new();
        formatter.format(instruction, &mut line);
        let _ = writeln!(text, "  {line}");
    }
    let bytes: Vec<String> = case.bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let _ = writeln!(text, "  bytes {} at {:#x}", bytes.join(" "), case.state.rip);
    state(&mut text, case.width, &case.state);
    for (address, data) in &case.edits {
        if *address != case.state.rip {
            let bytes: Vec<String> = data.iter().take(32).map(|byte| format!("{byte:02x}")).collect();
            let _ = writeln!(text, "  [{address:#x}] = {}", bytes.join(" "));
        }
    }
    for line in differences {
        let _ = writeln!(text, "  => {line}");
    }
    text
}

fn state(text: &mut String, width: Width, state: &State) {
    const NAMES: [&str; 16] = [
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8 ", "r9 ", "r10", "r11", "r12", "r13",
        "r14", "r15",
    ];
    let registers = if width == Width::Bits64 { 16 } else { 8 };
    for (i, (name, value)) in NAMES.iter().zip(state.gpr).take(registers).enumerate() {
        let end = if i % 4 == 3 { "\n" } else { "" };
        let _ = write!(text, "  {name} {value:016x}{end}");
    }
    let _ = writeln!(
        text,
        "  rflags {:x} fs {:x} gs {:x} mxcsr {:x} fcw {:x} fsw {:x} ftw {:x}",
        state.rflags,
        state.fs_base,
        state.gs_base,
        state.mxcsr,
        state.fpu.control,
        state.fpu.status,
        state.fpu.tags
    );
    for (i, value) in state.fpu.st.iter().enumerate() {
        let end = if i % 4 == 3 { "\n" } else { "" };
        let _ = write!(text, "  st{i} {value:020x}{end}");
    }
    for (i, (low, high)) in state.xmm.iter().zip(state.ymm_high).take(registers).enumerate() {
        let _ = writeln!(text, "  ymm{i:<2} {high:032x} {low:032x}");
    }
}

/// Forms of one extension.
#[derive(Debug, Default)]
struct Group {
    covered: usize,
    only_faults: usize,
    total: usize,
}

/// Which forms were compared.
#[derive(Debug, Default)]
pub struct Coverage {
    groups: BTreeMap<String, Group>,
    excluded: BTreeMap<&'static str, Vec<String>>,
}

impl Coverage {
    pub fn covered(&mut self, extension: String, only_faults: bool) {
        let group = self.groups.entry(extension).or_default();
        group.covered += 1;
        group.only_faults += usize::from(only_faults);
        group.total += 1;
    }
    pub fn excluded(&mut self, extension: String, form: String, reason: &'static str) {
        self.groups.entry(extension).or_default().total += 1;
        self.excluded.entry(reason).or_default().push(form);
    }
    pub fn uncovered(&mut self, extension: String) {
        self.groups.entry(extension).or_default().total += 1;
    }
    /// The table by extension, and the forms not compared with their reasons.
    pub fn table(&self, title: &str, cases: u64, seconds: f64) -> String {
        let mut text = format!("{title}: {cases} cases in {seconds:.1} s\n");
        let _ = writeln!(text, "  {:<28} {:>9}  {:>17}", "extension", "compared", "of which faults");
        let mut sum = Group::default();
        for (name, group) in &self.groups {
            let compared = format!("{}/{}", group.covered, group.total);
            let _ = writeln!(text, "  {name:<28} {compared:>9}  {:>17}", group.only_faults);
            sum.covered += group.covered;
            sum.only_faults += group.only_faults;
            sum.total += group.total;
        }
        let compared = format!("{}/{}", sum.covered, sum.total);
        let _ = writeln!(text, "  {:<28} {compared:>9}  {:>17}", "all", sum.only_faults);
        for (reason, forms) in &self.excluded {
            let _ = writeln!(text, "  not compared ({reason}): {}", forms.join(", "));
        }
        text
    }
}
