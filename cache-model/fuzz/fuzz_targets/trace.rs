//! Traces as libFuzzer writes them: the parser, and the cache model behind it.
//!
//! `ci/checks/fuzz` builds and runs it. The seeds are repeated by `cargo test -p cache-model-fuzz`.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    cache_model_fuzz::run(data);
});
