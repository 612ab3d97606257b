//! Hostile programs at the emulated ConnectX function, as libFuzzer writes them.
//!
//! `ci/checks/fuzz` builds and runs it. An input is a list of actions (see `devices/driver-model/src/mlx5_verbs/fuzz.rs`); an assertion
//! that fails or a panic of the device is a finding. `devices/tests/mlx5_fuzz.rs` plays some inputs in every test run.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    driver_model::mlx5_verbs::fuzz::run(data);
});
