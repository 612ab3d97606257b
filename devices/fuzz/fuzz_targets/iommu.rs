//! Guests that share memory and take it back under the hands of their devices, as libFuzzer writes them.
//!
//! `ci/checks/fuzz` builds and runs it. An input is a list of actions (see `devices/driver-model/src/iommu_model.rs`); a request that the
//! IOMMU judges otherwise than the model of brute force is a finding. `devices/tests/iommu.rs` plays random ones in every test run.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    driver_model::iommu_model::run(data);
});
