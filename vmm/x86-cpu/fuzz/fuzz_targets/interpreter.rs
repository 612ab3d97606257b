//! The host's processor against the interpreter, on cases that libFuzzer chooses.
//!
//! `ci/checks/fuzz` builds and runs it. An input stands for one case (see `x86_cpu_oracle::input`); where both sides
//! differ, the case is printed and libFuzzer keeps the input.

#![no_main]

use libfuzzer_sys::fuzz_target;
use std::cell::RefCell;
use x86_cpu_oracle::input::Inputs;
use x86_cpu_oracle::lab::Lab;
use x86_cpu_oracle::report::describe;

fn start_lab() -> Lab {
    Lab::new().expect("the native side starts")
}

thread_local! {
    static LAB: RefCell<Lab> = RefCell::new(start_lab());
    static INPUTS: Inputs = Inputs::default();
}

fuzz_target!(|data: &[u8]| -> libfuzzer_sys::Corpus {
    let Some((case, undefined)) = INPUTS.with(|inputs| inputs.case(data)) else {
        return libfuzzer_sys::Corpus::Reject;
    };
    let verdict = LAB.with_borrow_mut(|lab| lab.compare(&case, &undefined)).expect("the native side runs");
    if !verdict.differences.is_empty() {
        // Nothing that an earlier input left in the child may count.
        let again = start_lab().compare(&case, &undefined).expect("the native side runs");
        assert!(
            again.differences.is_empty(),
            "{}",
            describe("host and interpreter differ", &case, &again.differences)
        );
    }
    libfuzzer_sys::Corpus::Keep
});
